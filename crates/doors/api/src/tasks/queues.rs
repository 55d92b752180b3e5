//! Queues and what they count.

use z4_host::ListRequest;
use z4_proto::convert::queue_name;
use z4_proto::status::Failure;
use z4_proto::v1;
use z4_types::QueueName;

use super::list::{bad_token, due_at, hex, page_size, unhex};
use crate::deadline::Deadline;
use crate::door::Door;
use crate::messages;

pub(super) async fn list(
    door: &Door,
    request: v1::ListQueuesRequest,
    deadline: Deadline,
) -> Result<v1::ListQueuesResponse, Failure> {
    let after = after(&request.page_token)?;
    let limit = page_size(request.page_size) as usize;
    // One more than shown tells whether there is a next page.
    let mut page = deadline.read(door.handle().queues(after, limit + 1)).await?;
    let registry = door.handle().registry();
    let more = page.len() > limit;
    page.truncate(limit);
    Ok(v1::ListQueuesResponse {
        queues: page
            .iter()
            .map(|(name, stats)| messages::queue(name.as_str(), registry.shard_of(name), stats, None))
            .collect(),
        next_page_token: page
            .last()
            .filter(|_| more)
            .map(|(name, _)| hex(name.as_str().as_bytes()))
            .unwrap_or_default(),
        forwarded_to: String::new(),
    })
}

pub(super) async fn get(
    door: &Door,
    request: v1::GetQueueRequest,
    deadline: Deadline,
) -> Result<v1::GetQueueResponse, Failure> {
    let queue = queue_name(&request.queue, "queue")?;
    let (now, info) = deadline.read(door.handle().queue(queue.clone())).await?;
    let oldest = ListRequest { queue: queue.clone(), filter: due_at(now), after: None, limit: 1 };
    let (_, page) = deadline.read(door.handle().list(oldest)).await?;
    let oldest_due_at = page.tasks.first().map(|task| task.deliver_at);
    let shard = door.handle().registry().shard_of(&queue);
    Ok(v1::GetQueueResponse {
        queue: Some(messages::queue(queue.as_str(), shard, &info.stats, oldest_due_at)),
        forwarded_to: String::new(),
    })
}

fn after(token: &str) -> Result<Option<QueueName>, Failure> {
    if token.is_empty() {
        return Ok(None);
    }
    let name = unhex(token).and_then(|bytes| String::from_utf8(bytes).ok()).ok_or_else(bad_token)?;
    QueueName::new(&name).map(Some).map_err(|_| bad_token())
}
