//! `queue delete QUEUE`: removes a queue that holds no task.

use serde_json::json;
use z4_client::Client;

use crate::failure::Failure;
use crate::output;

pub(super) async fn run(client: &Client, name: &str, etag: Option<&str>, json: bool) -> Result<(), Failure> {
    client.delete_queue(name, etag).await?;
    if json {
        output::json(&json!({ "queue": name, "deleted": true }))
    } else {
        output::line("queue deleted")
    }
}
