//! `queue get QUEUE`: one queue with its counts and what was set of it; with --effective, what holds for it and why.

use serde::Serialize;
use serde_json::{Map, Value, json};
use z4_client::Client;

use super::queue_list::QueueJson;
use crate::failure::Failure;
use crate::output;
use crate::settings::{fields, paused, paused_json, text};
use crate::time::format_time;

#[derive(Serialize)]
struct Json<'a> {
    #[serde(flatten)]
    counts: QueueJson<'a>,
    paused: Value,
    etag: &'a str,
    settings: Map<String, Value>,
}

pub(super) async fn run(client: &Client, name: &str, json: bool) -> Result<(), Failure> {
    let queue = client.get_queue(name).await?;
    let config = client.queue_config(name).await?;
    let settings = config.settings.as_ref().map(fields).unwrap_or_default();
    if json {
        let counts = QueueJson::new(&queue);
        return output::json(&Json { counts, paused: paused_json(&config), etag: &config.etag, settings });
    }
    let mut pairs = vec![
        ("queue", queue.name),
        ("shard", queue.shard.to_string()),
        ("waiting", queue.waiting.to_string()),
        ("leased", queue.leased.to_string()),
        ("dead", queue.dead.to_string()),
        ("finished", queue.finished.to_string()),
        ("oldest due", queue.oldest_due_at.map_or_else(|| "-".to_owned(), format_time)),
        ("paused", paused(&config).unwrap_or_else(|| "no".to_owned())),
        ("etag", config.etag.clone()),
    ];
    pairs.extend(settings.iter().map(|(field, value)| (field.as_str(), text(value))));
    output::fields(&pairs)
}

/// Shows every setting that holds, and where it comes from.
pub(super) async fn effective(client: &Client, name: &str, json: bool) -> Result<(), Failure> {
    let config = client.queue_config(name).await?;
    let settings = config.effective.as_ref().map(fields).unwrap_or_default();
    if json {
        let (paused, etag, sources) = (paused_json(&config), &config.etag, &config.sources);
        return output::json(&json!({
            "queue": config.queue, "paused": paused, "etag": etag, "effective": settings, "sources": sources,
        }));
    }
    let source = |field: &str| config.sources.get(field).map_or("default", String::as_str).to_owned();
    let rows: Vec<[String; 3]> =
        settings.iter().map(|(field, value)| [field.clone(), text(value), source(field)]).collect();
    output::table(["SETTING", "VALUE", "SOURCE"], &rows)
}
