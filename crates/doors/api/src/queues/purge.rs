//! End the tasks of a queue, batch by batch.
//!
//! Which tasks is settled when the first call comes: those whose ids are not later than shard time then. Each batch is an
//! entry of its own and others go between them. When the call's time is up the answer says so, and its token
//! carries the first call's time on.
//!
//! # Caveats
//! - A later call walks from the beginning over what is left: rows of newer tasks are looked at again.

use tokio::time::{Instant, sleep};
use z4_proto::convert::{purge_states, queue_name};
use z4_proto::status::Failure;
use z4_proto::v1;
use z4_tasks::command::{Purge, PurgeStates};
use z4_types::{Millis, QueueName, ShardId, TaskId};

use super::accepted;
use crate::batches::{is_time_for_another, may_go_on};
use crate::call::Call;
use crate::tasks::{bad_token, hex, unhex};

/// Tasks of one batch, about a millisecond of work for the shard: whoever pushes meanwhile waits for it.
const BATCH: u32 = 128;
/// A purge is in no hurry: after a batch it rests so many times what that took.
const REST: u32 = 2;

pub(super) async fn purge(
    call: Call<'_>,
    request: v1::PurgeQueueRequest,
) -> Result<v1::PurgeQueueResponse, Failure> {
    let queue = queue_name(&request.queue, "queue")?;
    let states = purge_states(&request.states)?;
    let before = token(&request.page_token)?;
    let shard = call.handle().shard_of(&queue);
    call.serve(shard, request, |_| here(call, queue, states, before)).await
}

async fn here(
    call: Call<'_>,
    queue: QueueName,
    states: PurgeStates,
    before: Option<TaskId>,
) -> Result<v1::PurgeQueueResponse, Failure> {
    let before = match before {
        Some(before) => before,
        None => first_later(call.read(call.handle().queue_setup(queue.clone())).await?.0),
    };
    let mut purged = 0;
    let mut after = None;
    loop {
        let began = Instant::now();
        let batch = Purge { queue: queue.clone(), states, before, limit: BATCH, after };
        let answer = call.write(call.handle().purge(batch)).await.and_then(accepted);
        let done = match answer {
            Ok(done) => done,
            // What was purged is told, and the next call meets what was in the way.
            Err(failure) if purged > 0 && may_go_on(&failure) => return Ok(part(purged, before)),
            Err(failure) => return Err(failure),
        };
        purged += u64::from(done.count);
        let Some(next) = done.next else {
            return Ok(v1::PurgeQueueResponse { purged, ..Default::default() });
        };
        if !is_time_for_another(call, began) {
            return Ok(part(purged, before));
        }
        sleep(began.elapsed() * REST).await;
        after = Some(next);
    }
}

/// Returns an id behind those of all tasks that were created up to `now`.
fn first_later(now: Millis) -> TaskId {
    TaskId::new(Millis(now.0 + 1), ShardId(0), 0)
}

fn part(purged: u64, before: TaskId) -> v1::PurgeQueueResponse {
    let next_page_token = hex(&before.0.to_be_bytes());
    v1::PurgeQueueResponse { purged, next_page_token, ..Default::default() }
}

fn token(text: &str) -> Result<Option<TaskId>, Failure> {
    if text.is_empty() {
        return Ok(None);
    }
    let bytes = unhex(text).and_then(|bytes| bytes.try_into().ok()).ok_or_else(bad_token)?;
    Ok(Some(TaskId(u128::from_be_bytes(bytes))))
}
