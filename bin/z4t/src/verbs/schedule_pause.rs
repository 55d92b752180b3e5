//! `schedule pause QUEUE NAME` and `schedule resume QUEUE NAME`.

use serde_json::json;
use z4_client::Client;

use crate::args::Named;
use crate::failure::Failure;
use crate::output;

pub(super) async fn pause(
    client: &Client,
    named: &Named,
    note: &str,
    author: Option<String>,
    json: bool,
) -> Result<(), Failure> {
    let author = author.or_else(|| std::env::var("USER").ok()).unwrap_or_default();
    let etag = client.pause_schedule(&named.of, &named.name, note, &author).await?;
    said(named, &etag, true, json)
}

pub(super) async fn resume(client: &Client, named: &Named, json: bool) -> Result<(), Failure> {
    let etag = client.resume_schedule(&named.of, &named.name).await?;
    said(named, &etag, false, json)
}

fn said(named: &Named, etag: &str, paused: bool, json: bool) -> Result<(), Failure> {
    match (json, paused) {
        (true, _) => {
            output::json(&json!({ "queue": named.of, "name": named.name, "etag": etag, "paused": paused }))
        }
        (false, true) => output::line("schedule paused"),
        (false, false) => output::line("schedule resumed"),
    }
}
