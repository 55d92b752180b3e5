//! `schedule delete QUEUE NAME`: forgets a schedule and its history.

use serde_json::json;
use z4_client::Client;

use crate::args::Named;
use crate::failure::Failure;
use crate::output;

pub(super) async fn run(
    client: &Client,
    named: &Named,
    etag: Option<&str>,
    json: bool,
) -> Result<(), Failure> {
    client.delete_schedule(&named.of, &named.name, etag).await?;
    if json {
        output::json(&json!({ "queue": named.of, "name": named.name, "deleted": true }))
    } else {
        output::line("schedule deleted")
    }
}
