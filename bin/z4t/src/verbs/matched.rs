//! What verbs share that do something to many tasks: batches of ids, and calls by filter until all tasks were met.

use std::future::Future;

use serde_json::json;
use z4_client::{Error, Matched, Selection, TaskId};

use crate::failure::{Failure, code_of};
use crate::output;

/// Ids of one call; the limit of the API is above what a command line holds, but a script may build a long one.
const BATCH: usize = 1_000;

/// Does something to tasks by id, `word` being what became of them. Prints the ids of those it was done to; the others are told on
/// stderr, and the exit code is that of the worst.
pub(super) async fn each<'a, Answer>(
    ids: &'a [TaskId],
    etag: Option<&'a str>,
    word: &str,
    json: bool,
    call: impl Fn(Vec<(TaskId, Option<&'a str>)>) -> Answer,
) -> Result<(), Failure>
where
    Answer: Future<Output = Result<Vec<Result<(), Error>>, Error>>,
{
    let mut worst = 0;
    for batch in ids.chunks(BATCH) {
        let targets = batch.iter().map(|id| (*id, etag)).collect();
        for (id, result) in batch.iter().zip(call(targets).await?) {
            match result {
                Ok(()) if json => output::json(&json!({ "id": id.to_string(), word: true }))?,
                Ok(()) => output::line(id)?,
                Err(error) => {
                    worst = worst.max(code_of(&error));
                    output::talk(format_args!("error: {id}: {error}"));
                }
            }
        }
    }
    if worst == 0 { Ok(()) } else { Err(Failure::Partly(worst)) }
}

/// Does something to the tasks of a selection, call by call, and prints how many.
pub(super) async fn all<Answer>(
    mut selection: Selection,
    word: &str,
    json: bool,
    call: impl Fn(Selection) -> Answer,
) -> Result<(), Failure>
where
    Answer: Future<Output = Result<Matched, Error>>,
{
    let (mut changed, mut skipped) = (0, 0);
    loop {
        let matched = call(selection.clone()).await.inspect_err(|_| {
            if changed > 0 {
                output::talk(format_args!("{changed} tasks were {word} before it failed"));
            }
        })?;
        changed += matched.changed;
        skipped += matched.skipped;
        let Some(next) = matched.next else { break };
        selection.page_token = next;
        output::talk(format_args!("{changed} so far"));
    }
    let (queue, dry_run) = (&selection.queue, selection.dry_run);
    if json {
        return output::json(
            &json!({ "queue": queue, word: changed, "skipped": skipped, "dry_run": dry_run }),
        );
    }
    let would = if dry_run { "would be " } else { "" };
    let rest =
        if skipped > 0 { format!(", skipped {skipped} that changed meanwhile") } else { String::new() };
    output::line(format_args!("{would}{word} {changed}{rest}"))
}
