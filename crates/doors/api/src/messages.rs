//! What goes out: z4's own values as messages.

use std::fmt::Write as _;

use bytes::Bytes;
use z4_host::{Delivery, QueueCounts, QueueSetup};
use z4_proto::convert::{etag_text, field_path, pb_effective, pb_retry, pb_settings, timestamp};
use z4_proto::v1;
use z4_tasks::command::OnFailure;
use z4_tasks::{End, QueueStats, TaskInfo, TaskState};
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
        key: body.key.unwrap_or_default(),
        group: body.group.unwrap_or_default(),
    }
}

/// Returns a task as it stands at shard time `now`, which decides between scheduled and due.
pub(crate) fn task(info: TaskInfo, now: Millis) -> v1::Task {
    let (mut ended_at, mut blocked_by) = (None, 0);
    let (state, lease_until, consumer, token) = match info.state {
        TaskState::Waiting { deliver_at } if deliver_at > now => {
            (v1::TaskState::Scheduled, None, String::new(), 0)
        }
        TaskState::Waiting { .. } => (v1::TaskState::Due, None, String::new(), 0),
        TaskState::Leased { until, token, consumer } => {
            (v1::TaskState::Leased, Some(timestamp(until)), consumer, token.0)
        }
        TaskState::Blocked { blockers } => {
            blocked_by = blockers;
            (v1::TaskState::Blocked, None, String::new(), 0)
        }
        TaskState::Dead { .. } => (v1::TaskState::Dead, None, String::new(), 0),
        TaskState::Finished { end, at } => {
            ended_at = Some(timestamp(at));
            let state = match end {
                End::Done => v1::TaskState::Done,
                End::Cancelled => v1::TaskState::Cancelled,
                End::Expired => v1::TaskState::Expired,
            };
            (state, None, String::new(), 0)
        }
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
        etag: etag_text(info.revision.into()),
        key: info.key.unwrap_or_default(),
        progress: info.progress.unwrap_or_default(),
        ended_at,
        // A row of its own, which only the call for one task reads.
        result: Bytes::new(),
        result_bytes: info.result_bytes.unwrap_or(0),
        on_failure: match info.on_failure {
            _ if info.after.is_empty() => v1::OnFailure::Unspecified,
            OnFailure::Cancel => v1::OnFailure::Cancel,
            OnFailure::Run => v1::OnFailure::Run,
        }
        .into(),
        after: info.after.into_iter().map(id_text).collect(),
        blockers: blocked_by,
        group: info.group.unwrap_or_default(),
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
        finished: stats.finished,
        oldest_due_at: oldest_due_at.map(timestamp),
    }
}

/// Returns what was set of a queue.
pub(crate) fn queue_config(name: &str, setup: &QueueSetup) -> v1::QueueConfig {
    let QueueSetup { config, sources, .. } = setup;
    let source = |pattern: &Option<String>| pattern.clone().unwrap_or_else(|| "queue".to_owned());
    v1::QueueConfig {
        queue: name.to_owned(),
        settings: Some(pb_settings(&config.settings)),
        effective: Some(pb_effective(&config.effective)),
        sources: sources.iter().map(|(field, of)| (field_path(*field).to_owned(), source(of))).collect(),
        etag: etag_text(config.etag),
        pause: config.paused.as_ref().map(|paused| v1::Pause {
            note: paused.note.clone(),
            author: paused.author.clone(),
            at: Some(timestamp(paused.since)),
            until: paused.until.map(timestamp),
        }),
    }
}

/// Returns what a queue counts.
pub(crate) fn queue_stats(counts: &QueueCounts) -> v1::QueueStats {
    let QueueCounts { stats, due, rates } = counts;
    v1::QueueStats {
        waiting: stats.waiting,
        due: due.due,
        leased: stats.leased,
        dead: stats.dead,
        finished: stats.finished,
        oldest_due_at: due.oldest_due.map(timestamp),
        due_in_1m: due.in_1_minute,
        due_in_5m: due.in_5_minutes,
        due_in_60m: due.in_60_minutes,
        created_total: stats.pushed,
        deliveries_total: stats.deliveries,
        acked_total: stats.acked,
        failed_total: stats.failed,
        lease_expired_total: stats.lease_expired,
        expired_total: stats.expired,
        cancelled_total: stats.cancelled,
        created_per_second: rates.created,
        delivered_per_second: rates.delivered,
        acked_per_second: rates.acked,
        redelivered_total: stats.redelivered,
        blocked: stats.blocked,
    }
}
