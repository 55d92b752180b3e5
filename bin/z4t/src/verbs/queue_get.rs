//! `queue get QUEUE`: one queue with its counts.

use z4_client::Client;

use super::queue_list::QueueJson;
use crate::failure::Failure;
use crate::output;
use crate::time::format_time;

pub(super) async fn run(client: &Client, name: &str, json: bool) -> Result<(), Failure> {
    let queue = client.get_queue(name).await?;
    if json {
        return output::json(&QueueJson::new(&queue));
    }
    output::fields(&[
        ("queue", queue.name),
        ("shard", queue.shard.to_string()),
        ("waiting", queue.waiting.to_string()),
        ("leased", queue.leased.to_string()),
        ("dead", queue.dead.to_string()),
        ("oldest due", queue.oldest_due_at.map_or_else(|| "-".to_owned(), format_time)),
    ])
}
