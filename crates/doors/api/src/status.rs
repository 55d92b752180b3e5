//! Which failure a caller sees: the one place where the host's errors become those of the API.
//!
//! Every RESOURCE_EXHAUSTED carries how long to wait, and so does every UNAVAILABLE: a client that is told only "no"
//! comes back at once.

use std::time::Duration;

use z4_host::{Error, Route};
use z4_proto::convert::{etag_text, schedule_out_of_limits, timestamp};
use z4_proto::reason;
use z4_proto::status::Failure;
use z4_tasks::outcome::Refusal;
use z4_types::{Kind, ShardId};

/// An election on a healthy cluster takes about so long.
pub(crate) const ELECTION_WAIT: Duration = Duration::from_millis(200);
/// A restart takes at least so long; with several hosts the client goes to another meanwhile.
const RESTART_WAIT: Duration = Duration::from_secs(1);
/// Queues are kept: only people change how many there are.
const TOO_MANY_QUEUES_WAIT: Duration = Duration::from_secs(60);
/// When to try a queue with a full backlog again: its consumers are at it.
const QUEUE_FULL_WAIT: Duration = Duration::from_secs(1);
/// Replicas on the move arrive within seconds, unless they are large.
const MEMBERS_WAIT: Duration = Duration::from_secs(1);
/// Space is freed by checkpoints and people; neither is done in less.
const DISK_WAIT: Duration = Duration::from_secs(5);

/// Returns the failure that `error` is to a caller.
pub(crate) fn failure(error: &Error) -> Failure {
    let named = |reason| Failure::new(error.kind(), reason, error.to_string());
    match error {
        // Doors that know the leader name it: see `not_leader`.
        Error::NotLeader(shard) => not_leader(*shard, &Route::Nowhere),
        Error::NoReplica(_) | Error::Behind { .. } => {
            named(reason::NO_REPLICA).with_retry_after(ELECTION_WAIT)
        }
        Error::NoSuchShard(_) => named(reason::SHARD_NOT_FOUND),
        Error::Overloaded(wait) => named(reason::OVERLOADED).with_retry_after(Duration::from_millis(wait.0)),
        Error::DiskFull => named(reason::DISK_FULL).with_retry_after(DISK_WAIT),
        Error::Stopping => draining(),
        Error::Unknown => named(reason::OUTCOME_UNKNOWN),
        Error::TaskNotFound(_) | Error::KeyNotFound { .. } => named(reason::TASK_NOT_FOUND),
        Error::QueueNotFound(_) => named(reason::QUEUE_NOT_FOUND),
        Error::ScheduleNotFound(..) => named(reason::SCHEDULE_NOT_FOUND),
        // Both are parts of a schedule, wherever one is named.
        Error::Cron(why) if why.place().is_some() => {
            Failure::invalid("schedule.cron", reason::CRON_INVALID, why)
        }
        Error::Cron(why) => Failure::invalid("schedule.time_zone", reason::ZONE_UNKNOWN, why),
        Error::Invalid(invalid) => schedule_out_of_limits(invalid),
        Error::NotJoined | Error::Removed => named(reason::NOT_JOINED).with_retry_after(RESTART_WAIT),
        Error::NoPeerPort => named(reason::UNSUPPORTED),
        Error::Registry(refusal) => {
            // Only the registry's own words are for programs.
            let why = match refusal.reason() {
                "INVALID" => reason::FIELD_INVALID,
                name => name,
            };
            let failure = named(why);
            if error.kind() == Kind::Unavailable { failure.with_retry_after(MEMBERS_WAIT) } else { failure }
        }
        Error::Peer(Kind::Unavailable, _) => named(reason::PEER_FAILED).with_retry_after(MEMBERS_WAIT),
        Error::Peer(..) => named(reason::PEER_FAILED),
        // The base was reopened under the read, twice.
        Error::Storage(Kind::Unavailable, _) => named(reason::INTERNAL).with_retry_after(ELECTION_WAIT),
        Error::Storage(..) => named(reason::INTERNAL),
        // The host's errors may grow; their kind is right even when this table is behind.
        _ => named(reason::INTERNAL),
    }
}

/// Returns the failure of a call for `shard`, which is led at `route` and not here.
pub(crate) fn not_leader(shard: ShardId, route: &Route) -> Failure {
    let unavailable =
        |reason, what| Failure::new(Kind::Unavailable, reason, what).with_retry_after(ELECTION_WAIT);
    match route {
        Route::There { host, service } if !service.is_empty() => {
            let what = format!("shard {shard} is led by host {host}: ask it, at {service}");
            unavailable(reason::NOT_LEADER, what).with_leader(host.0.clone(), service.clone())
        }
        Route::There { .. } | Route::Nowhere => {
            let what =
                format!("shard {shard} has no leader that this host knows; retry: an election is short");
            unavailable(reason::NO_LEADER, what)
        }
        Route::Here => {
            let what = format!("this host has only begun to lead shard {shard}, or just ended; retry");
            unavailable(reason::NOT_LEADER, what)
        }
    }
}

/// Returns the failure that a refused item is to a caller.
pub(crate) fn refusal(why: &Refusal) -> Failure {
    match why {
        Refusal::NotFound(_) => Failure::new(Kind::NotFound, reason::TASK_NOT_FOUND, why.to_string()),
        Refusal::TooManyQueues(_) => Failure::new(Kind::Overloaded, reason::TOO_MANY_QUEUES, why.to_string())
            .with_retry_after(TOO_MANY_QUEUES_WAIT),
        Refusal::TooManyGroups(_) => Failure::new(Kind::Overloaded, reason::TOO_MANY_GROUPS, why.to_string())
            .with_retry_after(QUEUE_FULL_WAIT),
        Refusal::TooManyGroupsSet { .. } => {
            Failure::new(Kind::Overloaded, reason::TOO_MANY_GROUPS, why.to_string())
        }
        Refusal::RequestReused { .. } => Failure::invalid("request_id", reason::REQUEST_ID_REUSED, why),
        Refusal::BacklogFull { .. } => Failure::new(Kind::Overloaded, reason::QUEUE_FULL, why.to_string())
            .with_retry_after(QUEUE_FULL_WAIT),
        Refusal::QueueNotFound(_) => Failure::new(Kind::NotFound, reason::QUEUE_NOT_FOUND, why.to_string()),
        Refusal::QueueExists(_) => Failure::new(Kind::AlreadyExists, reason::QUEUE_EXISTS, why.to_string()),
        Refusal::QueueChanged { queue, etag, given } => {
            let (etag, given) = (etag_text(*etag), etag_text(*given));
            let what = format!(
                "queue {queue} has etag {etag}, not {given}: it was changed since; read it again and redo the change"
            );
            Failure::new(Kind::Conflict, reason::ETAG_MISMATCH, what)
        }
        Refusal::QueueNotEmpty { .. } => {
            Failure::new(Kind::Conflict, reason::QUEUE_NOT_EMPTY, why.to_string())
        }
        Refusal::KeyTaken { id, .. } | Refusal::KeyLeased { id, .. } | Refusal::KeyUsed { id, .. } => {
            Failure::new(Kind::AlreadyExists, reason::KEY_TAKEN, why.to_string()).with_task(*id)
        }
        Refusal::KeyNotFound { .. } => Failure::new(Kind::NotFound, reason::TASK_NOT_FOUND, why.to_string()),
        Refusal::KeysNotEmpty(_) => Failure::new(Kind::Conflict, reason::QUEUE_NOT_EMPTY, why.to_string()),
        Refusal::TaskChanged { id, etag, given } => {
            let (etag, given) = (etag_text(*etag), etag_text(*given));
            let what = format!(
                "task {id} has etag {etag}, not {given}: it was changed since; read it again and redo the change"
            );
            Failure::new(Kind::Conflict, reason::TASK_CHANGED, what)
        }
        Refusal::TaskLeased { id, until } => {
            let until = timestamp(*until);
            let what =
                format!("task {id} is leased until {until}; change it when it was given back, or cancel it");
            Failure::new(Kind::Conflict, reason::TASK_LEASED, what)
        }
        Refusal::QueueHasSchedules { .. } => {
            Failure::new(Kind::Conflict, reason::QUEUE_HAS_SCHEDULES, why.to_string())
        }
        Refusal::ScheduleNotFound { .. } => {
            Failure::new(Kind::NotFound, reason::SCHEDULE_NOT_FOUND, why.to_string())
        }
        Refusal::ScheduleExists { .. } => {
            Failure::new(Kind::AlreadyExists, reason::SCHEDULE_EXISTS, why.to_string())
        }
        Refusal::ScheduleChanged { queue, schedule, etag, given } => {
            let (etag, given) = (etag_text(*etag), etag_text(*given));
            let what = format!(
                "schedule {schedule:?} of queue {queue} has etag {etag}, not {given}: it was changed since; read it again and redo the change"
            );
            Failure::new(Kind::Conflict, reason::ETAG_MISMATCH, what)
        }
        Refusal::ScheduleMoved { .. } => {
            Failure::new(Kind::Conflict, reason::SCHEDULE_MOVED, why.to_string())
        }
        Refusal::ScheduleOverlaps { .. } => {
            Failure::new(Kind::Conflict, reason::SCHEDULE_OVERLAPS, why.to_string())
        }
        Refusal::TooManySchedules(_) => {
            Failure::new(Kind::Overloaded, reason::TOO_MANY_SCHEDULES, why.to_string())
                .with_retry_after(TOO_MANY_QUEUES_WAIT)
        }
        Refusal::TaskDead(_) | Refusal::TaskNotDead(_) => {
            Failure::new(Kind::Conflict, reason::TASK_STATE, why.to_string())
        }
        Refusal::TaskBlocked { first, .. } => {
            Failure::new(Kind::Conflict, reason::TASK_BLOCKED, why.to_string()).with_task(*first)
        }
        Refusal::AfterUnknown(id) | Refusal::AfterFuture(id) | Refusal::AfterElsewhere { id, .. } => {
            Failure::new(Kind::Conflict, reason::AFTER_UNKNOWN, why.to_string()).with_task(*id)
        }
        Refusal::AfterFailed(id) => {
            Failure::new(Kind::Conflict, reason::AFTER_FAILED, why.to_string()).with_task(*id)
        }
        Refusal::QueueAwaited(_) => Failure::new(Kind::Conflict, reason::QUEUE_NOT_EMPTY, why.to_string()),
        Refusal::LeaseLost { .. } => Failure::new(Kind::Conflict, reason::LEASE_LOST, why.to_string()),
    }
}

/// The host is going away and took nothing of this call.
pub(crate) fn draining() -> Failure {
    Failure::new(Kind::Unavailable, reason::DRAINING, Error::Stopping.to_string())
        .with_retry_after(RESTART_WAIT)
}

/// A write's time was up while it was under way.
pub(crate) fn write_expired() -> Failure {
    Failure::new(
        Kind::OutcomeUnknown,
        reason::OUTCOME_UNKNOWN,
        "the deadline passed while the call was under way: the outcome is unknown; a retry with the same request id \
         is safe",
    )
}

/// A read's time was up. Nothing was changed by it.
pub(crate) fn read_expired() -> Failure {
    Failure::new(
        Kind::OutcomeUnknown,
        reason::DEADLINE_EXCEEDED,
        "the deadline passed before the shard answered; retry, with a longer deadline if this happens again",
    )
}

/// The stream was used against its protocol.
pub(crate) fn protocol(what: &str) -> Failure {
    Failure::new(Kind::Invalid, reason::STREAM_PROTOCOL, what)
}

/// A defect: a task of this process ended without an answer.
pub(crate) fn defect(what: &str) -> Failure {
    Failure::new(Kind::Internal, reason::INTERNAL, format!("a defect in z4, please report it: {what}"))
}
