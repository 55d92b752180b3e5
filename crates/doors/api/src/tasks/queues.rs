//! Queues and what they count.

use z4_host::{Error, ListRequest};
use z4_proto::convert::queue_name;
use z4_proto::reason;
use z4_proto::status::Failure;
use z4_proto::v1;
use z4_types::{QueueName, ShardId};

use super::list::{bad_token, due_at, hex, page_size, unhex};
use crate::call::Call;
use crate::{messages, status};

/// Lists queues by name. Each shard is asked at its leader for a whole page, and the first of all are the page.
pub(super) async fn list(
    call: Call<'_>,
    request: v1::ListQueuesRequest,
) -> Result<v1::ListQueuesResponse, Failure> {
    after(&request.page_token)?;
    let limit = page_size(request.page_size);
    let mut page: Vec<v1::Queue> = Vec::new();
    let mut more = false;
    for shard in shards(call, &request.shards)? {
        let ask = v1::ListQueuesRequest {
            page_size: limit,
            page_token: request.page_token.clone(),
            shards: vec![shard.0],
        };
        let reply = call.serve(shard, ask, |ask| here(call, shard, ask)).await?;
        more |= !reply.next_page_token.is_empty();
        page.extend(reply.queues);
        // After each shard, so that never more than two pages are held.
        page.sort_by(|a, b| a.name.cmp(&b.name));
        more |= page.len() > limit as usize;
        page.truncate(limit as usize);
    }
    let next_page_token = page.last().filter(|_| more).map(|queue| hex(queue.name.as_bytes()));
    Ok(v1::ListQueuesResponse {
        next_page_token: next_page_token.unwrap_or_default(),
        queues: page,
        forwarded_to: String::new(),
    })
}

/// Lists the queues of one shard that is led here.
async fn here(
    call: Call<'_>,
    shard: ShardId,
    request: v1::ListQueuesRequest,
) -> Result<v1::ListQueuesResponse, Failure> {
    let after = after(&request.page_token)?;
    let limit = page_size(request.page_size) as usize;
    // One more than shown tells whether there is a next page.
    let mut page = call.read(call.handle().queues_of(shard, after, limit + 1)).await?;
    let more = page.len() > limit;
    page.truncate(limit);
    let last = page.last().filter(|_| more);
    Ok(v1::ListQueuesResponse {
        next_page_token: last.map(|(name, _)| hex(name.as_str().as_bytes())).unwrap_or_default(),
        queues: page.iter().map(|(name, stats)| messages::queue(name.as_str(), shard, stats, None)).collect(),
        forwarded_to: String::new(),
    })
}

/// Returns the shards that are asked for: those that hold tasks, if none is named.
fn shards(call: Call<'_>, named: &[u32]) -> Result<Vec<ShardId>, Failure> {
    let registry = call.handle().registry();
    if !call.door.is_joined() {
        return Err(status::failure(&Error::NotJoined));
    }
    if named.is_empty() {
        return Ok(registry.shards.iter().map(|shard| shard.id).filter(|id| id.0 > 0).collect());
    }
    let mut shards: Vec<ShardId> = named.iter().copied().map(ShardId).collect();
    shards.sort();
    shards.dedup();
    match shards.iter().find(|shard| !registry.has_task_shard(**shard)) {
        Some(unknown) => {
            let what = format_args!("{unknown} is no shard that holds tasks; ListShards names them");
            Err(Failure::invalid("shards", reason::FIELD_INVALID, what))
        }
        None => Ok(shards),
    }
}

pub(super) async fn get(
    call: Call<'_>,
    request: v1::GetQueueRequest,
) -> Result<v1::GetQueueResponse, Failure> {
    let queue = queue_name(&request.queue, "queue")?;
    let shard = call.handle().shard_of(&queue);
    let local = |_| async move {
        let (now, info) = call.read(call.handle().queue(queue.clone())).await?;
        let oldest =
            ListRequest { queue: queue.clone(), filter: due_at(now), after: None, limit: 1, test: None };
        let (_, page) = call.read(call.handle().list(oldest)).await?;
        let oldest_due_at = page.tasks.first().map(|task| task.deliver_at);
        Ok(v1::GetQueueResponse {
            queue: Some(messages::queue(queue.as_str(), shard, &info.stats, oldest_due_at)),
            forwarded_to: String::new(),
        })
    };
    call.serve(shard, request, local).await
}

fn after(token: &str) -> Result<Option<QueueName>, Failure> {
    if token.is_empty() {
        return Ok(None);
    }
    let name = unhex(token).and_then(|bytes| String::from_utf8(bytes).ok()).ok_or_else(bad_token)?;
    QueueName::new(&name).map(Some).map_err(|_| bad_token())
}
