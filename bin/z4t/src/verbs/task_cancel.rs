//! `task cancel ID…`: ends tasks, each on its own. Prints the ids that ended; the others are told on stderr, and the
//! exit code is that of the worst.

use serde_json::json;
use z4_client::{Client, TaskId};

use crate::failure::{Failure, code_of};
use crate::output;

/// Ids of one call; the limit of the API is above what a command line holds, but a script may build a long one.
const BATCH: usize = 1_000;

pub(super) async fn run(client: &Client, ids: &[TaskId], json: bool) -> Result<(), Failure> {
    let mut worst = 0;
    for batch in ids.chunks(BATCH) {
        for (id, result) in batch.iter().zip(client.cancel(batch).await?) {
            match result {
                Ok(()) if json => output::json(&json!({ "id": id.to_string(), "cancelled": true }))?,
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
