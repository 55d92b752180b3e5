//! `queue pause QUEUE` and `queue resume QUEUE`: stop deliveries, and deliver again.

use serde_json::json;
use z4_client::Client;

use crate::failure::Failure;
use crate::output;

pub(super) async fn pause(
    client: &Client,
    name: &str,
    note: &str,
    author: Option<String>,
    json: bool,
) -> Result<(), Failure> {
    let author = author.or_else(|| std::env::var("USER").ok()).unwrap_or_default();
    client.pause_queue(name, note, &author).await?;
    said(name, true, json)
}

pub(super) async fn resume(client: &Client, name: &str, json: bool) -> Result<(), Failure> {
    client.resume_queue(name).await?;
    said(name, false, json)
}

fn said(name: &str, paused: bool, json: bool) -> Result<(), Failure> {
    match (json, paused) {
        (true, _) => output::json(&json!({ "queue": name, "paused": paused })),
        (false, true) => output::line("queue paused"),
        (false, false) => output::line("queue resumed"),
    }
}
