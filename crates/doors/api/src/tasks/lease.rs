//! Lease tasks by one call: a consumer that lives as long as the call.
//!
//! The call returns with the first delivery and what came with it. What arrives after that, or for a caller that went
//! away, is released.
//!
//! # Caveats
//! - A call that does not wait looks whether anything is due, and if so gives the delivery a moment. When others
//!   are faster it returns nothing, as it would have done a moment later.

use std::sync::Arc;
use std::time::Duration;

use z4_proto::convert::{consumer_name, duration, lease_wish, queue_name};
use z4_proto::reason;
use z4_proto::status::Failure;
use z4_proto::v1;
use z4_types::QueueName;
use z4_types::limits::LEASE_TASKS_MAX;

use crate::arrivals::{Arrivals, MESSAGE_BYTES_TARGET, Unused, arrivals};
use crate::call::Call;
use crate::{messages, status};

/// Longest wait for the first task.
pub(super) const WAIT_MAX: Duration = Duration::from_secs(60);
/// How long a call that does not wait gives a delivery that is under way: some commits.
const NO_WAIT: Duration = Duration::from_millis(250);
/// Bytes of an answer when the caller does not say: with one task more it is below the 4 MiB that gRPC clients
/// accept unless they say otherwise.
const BYTES_DEFAULT: u64 = MESSAGE_BYTES_TARGET as u64;
/// And at most.
const BYTES_MAX: u64 = 16 << 20;

pub(super) async fn lease(
    call: Call<'_>,
    request: v1::LeaseTasksRequest,
) -> Result<v1::LeaseTasksResponse, Failure> {
    let queue = queue_name(&request.queue, "queue")?;
    let shard = call.handle().shard_of(&queue);
    call.serve(shard, request, |request| here(call, queue, request)).await
}

async fn here(
    call: Call<'_>,
    queue: QueueName,
    request: v1::LeaseTasksRequest,
) -> Result<v1::LeaseTasksResponse, Failure> {
    let door = call.door;
    consumer_name(&request.consumer, "consumer")?;
    let lease = lease_wish(request.lease_duration, "lease_duration")?;
    let wait = request.wait.map(|span| duration(span, "wait")).transpose()?;
    let wait = wait.map_or(Duration::ZERO, |span| Duration::from_millis(span.0).min(WAIT_MAX));
    if request.max_tasks > LEASE_TASKS_MAX {
        let what = format_args!("{} is over the limit of {LEASE_TASKS_MAX}", request.max_tasks);
        return Err(Failure::invalid("max_tasks", reason::FIELD_INVALID, what));
    }
    let bytes = if request.max_bytes == 0 { BYTES_DEFAULT } else { request.max_bytes.min(BYTES_MAX) };
    if door.is_stopping() {
        return Err(status::draining());
    }

    let (sink, mut arrived) = arrivals(door.handle().clone(), Arc::new(Unused::default()));
    let name = door.consumer_name(request.consumer);
    let consumer = door
        .handle()
        .consume(queue.clone(), name, lease, Box::new(sink))
        .map_err(|error| door.failure(&error))?;
    consumer.credit(request.max_tasks.max(1), bytes);
    if !wait.is_zero() {
        first(call, &mut arrived, wait).await?;
    } else if call.read(door.handle().has_due(queue)).await? {
        first(call, &mut arrived, NO_WAIT).await?;
    }
    // Credit counts payloads, this also metadata: what does not fit goes back.
    let tasks = arrived.take(usize::try_from(bytes).unwrap_or(usize::MAX));
    // Before the arrivals end, so that nothing new is leased for them.
    drop(consumer);
    Ok(v1::LeaseTasksResponse {
        tasks: tasks.into_iter().map(messages::leased_task).collect(),
        forwarded_to: String::new(),
    })
}

/// Waits for the first delivery, at most so long.
async fn first(call: Call<'_>, arrived: &mut Arrivals, wait: Duration) -> Result<(), Failure> {
    tokio::select! {
        biased;
        some = arrived.some() => some.unwrap_or(Ok(())).map_err(|why| call.door.failure(&why)),
        () = call.door.stopping() => Ok(()),
        () = tokio::time::sleep_until(call.deadline.within(wait)) => Ok(()),
    }
}
