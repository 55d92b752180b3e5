//! What goes out: z4's own values as messages.

use std::fmt::Write as _;

use z4_host::Delivery;
use z4_proto::convert::{pb_retry, timestamp};
use z4_proto::v1;
use z4_tasks::{QueueStats, TaskInfo, TaskState};
use z4_types::{Millis, ShardId, TaskId};

/// Characters of a task id.
const ID_CHARS: usize = 26;

/// Returns an id as text: one allocation of the right size, for the fast path makes many.
pub(crate) fn id_text(id: TaskId) -> String {
    let mut text = String::with_capacity(ID_CHARS);
    write!(text, "{id}").expect("a String takes everything");
    text
}

pub(crate) fn leased_task(delivery: Delivery) -> v1::LeasedTask {
    // What the delivery held of the host's memory is given back here: HTTP/2 has its own limits.
    let Delivery { pick, until, body, .. } = delivery;
    v1::LeasedTask {
        id: id_text(pick.id),
        token: pick.token.0,
        payload: body.payload,
        metadata: body.metadata.into_iter().collect(),
        priority: body.priority.0.into(),
        deliver_at: Some(timestamp(pick.due)),
        created_at: Some(timestamp(body.created_at)),
        lease_until: Some(timestamp(until)),
        deliveries: pick.deliveries,
        failures: pick.failures,
    }
}

/// Returns a task as it stands at shard time `now`, which decides between scheduled and due.
pub(crate) fn task(info: TaskInfo, now: Millis) -> v1::Task {
    let (state, lease_until, consumer, token) = match info.state {
        TaskState::Waiting { deliver_at } if deliver_at > now => {
            (v1::TaskState::Scheduled, None, String::new(), 0)
        }
        TaskState::Waiting { .. } => (v1::TaskState::Due, None, String::new(), 0),
        TaskState::Leased { until, token, consumer } => {
            (v1::TaskState::Leased, Some(timestamp(until)), consumer, token.0)
        }
        TaskState::Dead { .. } => (v1::TaskState::Dead, None, String::new(), 0),
        // The messages have no finished states yet, and nothing this door offers makes a queue keep any.
        TaskState::Finished { .. } => (v1::TaskState::Unspecified, None, String::new(), 0),
    };
    v1::Task {
        id: id_text(info.id),
        queue: info.queue.as_str().to_owned(),
        state: state.into(),
        payload: info.payload,
        metadata: info.metadata.into_iter().collect(),
        priority: info.priority.0.into(),
        deliver_at: Some(timestamp(info.deliver_at)),
        created_at: Some(timestamp(info.created_at)),
        expire_at: info.expires_at.map(timestamp),
        deliveries: info.deliveries,
        failures: info.failures,
        max_attempts: info.max_attempts,
        retry: Some(pb_retry(info.retry)),
        lease_until,
        consumer,
        token,
        last_error: info.last_error.unwrap_or_default(),
    }
}

pub(crate) fn queue(
    name: &str,
    shard: ShardId,
    stats: &QueueStats,
    oldest_due_at: Option<Millis>,
) -> v1::Queue {
    v1::Queue {
        name: name.to_owned(),
        shard: shard.0,
        waiting: stats.waiting,
        leased: stats.leased,
        dead: stats.dead,
        oldest_due_at: oldest_due_at.map(timestamp),
    }
}
