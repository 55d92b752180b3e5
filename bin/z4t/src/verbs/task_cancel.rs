//! `task cancel ID…`, `task cancel -q QUEUE --key KEY` and `--filter FILTER`: ends tasks.

use serde_json::json;
use z4_client::Client;

use super::{Chosen, matched};
use crate::failure::{Failure, code_of};
use crate::output;

/// Keys of one call.
const BATCH: usize = 1_000;

pub(super) async fn run(client: &Client, chosen: Chosen, json: bool) -> Result<(), Failure> {
    match chosen {
        Chosen::Ids(ids, etag) => {
            let call = |targets: Vec<_>| async move { client.cancel_if(&targets).await };
            matched::each(&ids, etag.as_deref(), "cancelled", json, call).await
        }
        Chosen::All(selection) => {
            let call = |selection| async move { client.cancel_all(&selection).await };
            matched::all(selection, "cancelled", json, call).await
        }
    }
}

/// Ends the open tasks of a queue that have these keys; prints the keys.
pub(super) async fn by_key(client: &Client, queue: &str, keys: &[String], json: bool) -> Result<(), Failure> {
    let mut worst = 0;
    for batch in keys.chunks(BATCH) {
        for (key, result) in batch.iter().zip(client.cancel_by_key(queue, batch).await?) {
            match result {
                Ok(()) if json => output::json(&json!({ "key": key, "cancelled": true }))?,
                Ok(()) => output::line(key)?,
                Err(error) => {
                    worst = worst.max(code_of(&error));
                    output::talk(format_args!("error: {error}"));
                }
            }
        }
    }
    if worst == 0 { Ok(()) } else { Err(Failure::Partly(worst)) }
}
