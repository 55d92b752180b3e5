//! `task get ID`, or `-q QUEUE task get --key KEY`: one task, whatever its state.

use z4_client::{Client, Freshness, Millis, StoredTask, TaskId};

use crate::failure::Failure;
use crate::output::{self, TaskJson};
use crate::time::format_time;

pub(super) async fn run(client: &Client, id: TaskId, stale: bool, json: bool) -> Result<(), Failure> {
    let (task, freshness) = if stale { client.get_stale(id).await? } else { (client.get(id).await?, None) };
    show(&task, freshness.as_ref(), stale, json)
}

pub(super) async fn by_key(client: &Client, queue: &str, key: &str, json: bool) -> Result<(), Failure> {
    show(&client.get_by_key(queue, key).await?, None, false, json)
}

fn show(task: &StoredTask, freshness: Option<&Freshness>, stale: bool, json: bool) -> Result<(), Failure> {
    if json {
        return output::json(&TaskJson::new(task, freshness));
    }
    if stale {
        output::talk_of_freshness(freshness);
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
        ("key", task.key.clone()),
        ("expires at", time(task.expire_at)),
        ("lease until", time(task.lease_until)),
        ("consumer", task.consumer.clone()),
        ("token", task.token.map(|token| token.to_string())),
        ("group", task.group.clone()),
        ("last error", task.last_error.clone()),
        ("progress", task.progress.clone()),
        ("ended at", time(task.ended_at)),
        ("result", task.result.as_ref().map(|result| output::preview(result))),
    ];
    pairs.extend(optional.into_iter().filter_map(|(name, value)| Some((name, value?))));
    pairs.extend(task.after.iter().map(|id| ("after", id.to_string())));
    if task.blockers > 0 {
        pairs.push(("waits for", format!("{} of these", task.blockers)));
    }
    pairs.push(("etag", task.etag.clone()));
    pairs.extend(task.metadata.iter().map(|(key, value)| ("metadata", format!("{key}={value}"))));
    pairs.push(("payload", format!("{} ({} bytes)", output::preview(&task.payload), task.payload.len())));
    output::fields(&pairs)
}
