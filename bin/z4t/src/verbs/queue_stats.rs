//! `queue stats QUEUE`: what a queue counts.

use serde_json::{Map, Value, json};
use z4_client::{Client, QueueStats};

use crate::failure::Failure;
use crate::output;
use crate::time::format_time;

pub(super) async fn run(client: &Client, name: &str, json: bool) -> Result<(), Failure> {
    let fields = fields(&client.queue_stats(name).await?);
    if json {
        let mut all = Map::from_iter([("queue".to_owned(), json!(name))]);
        all.extend(fields.into_iter().map(|(name, value)| (name.to_owned(), value)));
        return output::json(&all);
    }
    let text = |value: Value| match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text,
        value => value.to_string(),
    };
    let pairs = fields.into_iter().map(|(name, value)| (name, text(value)));
    output::fields(&[("queue", name.to_owned())].into_iter().chain(pairs).collect::<Vec<_>>())
}

fn fields(stats: &QueueStats) -> Vec<(&'static str, Value)> {
    let oldest = stats.oldest_due_at.and_then(|at| z4_proto::convert::millis(at, "oldest_due_at").ok());
    // Three digits are more than a minute's count can tell.
    let rate = |rate: f64| json!((rate * 1_000.0).round() / 1_000.0);
    vec![
        ("waiting", json!(stats.waiting)),
        ("due", json!(stats.due)),
        ("oldest_due_at", json!(oldest.map(format_time))),
        ("due_in_1m", json!(stats.due_in_1m)),
        ("due_in_5m", json!(stats.due_in_5m)),
        ("due_in_60m", json!(stats.due_in_60m)),
        ("blocked", json!(stats.blocked)),
        ("leased", json!(stats.leased)),
        ("dead", json!(stats.dead)),
        ("finished", json!(stats.finished)),
        ("created_per_second", rate(stats.created_per_second)),
        ("delivered_per_second", rate(stats.delivered_per_second)),
        ("acked_per_second", rate(stats.acked_per_second)),
        ("created_total", json!(stats.created_total)),
        ("deliveries_total", json!(stats.deliveries_total)),
        ("redelivered_total", json!(stats.redelivered_total)),
        ("acked_total", json!(stats.acked_total)),
        ("failed_total", json!(stats.failed_total)),
        ("lease_expired_total", json!(stats.lease_expired_total)),
        ("expired_total", json!(stats.expired_total)),
        ("cancelled_total", json!(stats.cancelled_total)),
    ]
}
