//! `task get ID`: one task, whatever its state.

use z4_client::{Client, Millis, TaskId};

use crate::failure::Failure;
use crate::output::{self, TaskJson};
use crate::time::format_time;

pub(super) async fn run(client: &Client, id: TaskId, json: bool) -> Result<(), Failure> {
    let task = client.get(id).await?;
    if json {
        return output::json(&TaskJson::new(&task));
    }
    let time = |at: Option<Millis>| at.map(format_time);
    let mut pairs = vec![
        ("id", task.id.to_string()),
        ("queue", task.queue.clone()),
        ("state", task.state.as_str().to_owned()),
        ("priority", task.priority.to_string()),
        ("deliver at", format_time(task.deliver_at)),
        ("created at", format_time(task.created_at)),
        ("deliveries", task.deliveries.to_string()),
        ("failures", format!("{} of {}", task.failures, task.max_attempts)),
    ];
    let optional = [
        ("expires at", time(task.expire_at)),
        ("lease until", time(task.lease_until)),
        ("consumer", task.consumer.clone()),
        ("token", task.token.map(|token| token.to_string())),
        ("last error", task.last_error.clone()),
        ("progress", task.progress.clone()),
        ("ended at", time(task.ended_at)),
        ("result", task.result.as_ref().map(|result| output::preview(result))),
    ];
    pairs.extend(optional.into_iter().filter_map(|(name, value)| Some((name, value?))));
    pairs.push(("etag", task.etag.clone()));
    pairs.extend(task.metadata.iter().map(|(key, value)| ("metadata", format!("{key}={value}"))));
    pairs.push(("payload", format!("{} ({} bytes)", output::preview(&task.payload), task.payload.len())));
    output::fields(&pairs)
}
