//! `task update ID` and `task update -q QUEUE --filter FILTER`: changes tasks that wait.

use serde_json::json;
use z4_client::{Client, TaskPatch};

use super::task_push::payload;
use super::{Chosen, matched};
use crate::args::Update;
use crate::failure::{Failure, code_of};
use crate::output;
use crate::time::{Time, format_time};

pub(super) async fn run(client: &Client, chosen: Chosen, update: Update, json: bool) -> Result<(), Failure> {
    let patch = patch(update)?;
    let (ids, etag) = match chosen {
        Chosen::Ids(ids, etag) => (ids, etag),
        Chosen::All(selection) => {
            let call = |selection| {
                let patch = patch.clone();
                async move { client.update_all(&selection, patch).await }
            };
            return matched::all(selection, "updated", json, call).await;
        }
    };
    let mut worst = 0;
    for id in ids {
        let patch = etag.iter().fold(patch.clone(), TaskPatch::if_etag);
        match client.update(id, patch).await {
            Ok(updated) if json => output::json(&json!({
                "id": id.to_string(), "etag": updated.etag, "deliver_at": format_time(updated.deliver_at),
            }))?,
            Ok(_) => output::line(id)?,
            Err(error) => {
                worst = worst.max(code_of(&error));
                output::talk(format_args!("error: {id}: {error}"));
            }
        }
    }
    if worst == 0 { Ok(()) } else { Err(Failure::Partly(worst)) }
}

fn patch(update: Update) -> Result<TaskPatch, Failure> {
    let Update { deliver_at, delay, priority, payload: text, metadata, .. } = update;
    let mut patch = TaskPatch::new();
    match deliver_at {
        Some(Time::At(time)) => patch = patch.deliver_at(time),
        // By the server's clock, which is the one that counts.
        Some(Time::In(span)) => patch = patch.delay(span),
        None => {}
    }
    patch = delay.into_iter().fold(patch, TaskPatch::delay);
    patch = priority.into_iter().fold(patch, TaskPatch::priority);
    if let Some(text) = text {
        patch = patch.payload(payload(&text)?);
    }
    patch = metadata.into_iter().fold(patch, |patch, (key, value)| patch.metadata(key, value));
    if patch.is_empty() {
        let what = "give what to change: --deliver-at, --delay, --priority, --payload or --metadata";
        return Err(Failure::Usage(what.to_owned()));
    }
    Ok(patch)
}
