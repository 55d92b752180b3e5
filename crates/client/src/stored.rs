//! What there is, as reads show it: tasks, how fresh an answer is, queues with their counts.

use std::collections::BTreeMap;

use bytes::Bytes;
use z4_proto::convert;
use z4_proto::v1;
use z4_types::{Millis, TaskId, Token};

use crate::Error;

/// What a task is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TaskState {
    /// Its time has not come.
    Scheduled,
    /// Its time has come; the next consumer gets it.
    Due,
    /// A consumer holds it.
    Leased,
    /// It failed for the last time and is kept.
    Dead,
    /// A consumer acked it, and its queue keeps finished tasks for a while.
    Done,
    /// It was cancelled, and is kept likewise.
    Cancelled,
    /// Its TTL ended it, and it is kept likewise.
    Expired,
    /// It waits for other tasks to end.
    Blocked,
    /// A state this client does not know.
    Unknown,
}

impl TaskState {
    /// Returns the state in one lower-case word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Due => "due",
            Self::Leased => "leased",
            Self::Dead => "dead",
            Self::Done => "done",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
            Self::Blocked => "blocked",
            Self::Unknown => "unknown",
        }
    }

    pub(crate) fn to_pb(self) -> v1::TaskState {
        match self {
            Self::Scheduled => v1::TaskState::Scheduled,
            Self::Due => v1::TaskState::Due,
            Self::Leased => v1::TaskState::Leased,
            Self::Dead => v1::TaskState::Dead,
            Self::Done => v1::TaskState::Done,
            Self::Cancelled => v1::TaskState::Cancelled,
            Self::Expired => v1::TaskState::Expired,
            Self::Blocked => v1::TaskState::Blocked,
            Self::Unknown => v1::TaskState::Unspecified,
        }
    }

    fn from_pb(state: v1::TaskState) -> Self {
        match state {
            v1::TaskState::Scheduled => Self::Scheduled,
            v1::TaskState::Due => Self::Due,
            v1::TaskState::Leased => Self::Leased,
            v1::TaskState::Dead => Self::Dead,
            v1::TaskState::Done => Self::Done,
            v1::TaskState::Cancelled => Self::Cancelled,
            v1::TaskState::Expired => Self::Expired,
            v1::TaskState::Blocked => Self::Blocked,
            v1::TaskState::Unspecified => Self::Unknown,
        }
    }
}

/// A task as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredTask {
    /// Its id.
    pub id: TaskId,
    /// Its queue.
    pub queue: String,
    /// What it is doing.
    pub state: TaskState,
    /// As created.
    pub payload: Bytes,
    /// As created.
    pub metadata: BTreeMap<String, String>,
    /// Lower goes first.
    pub priority: u8,
    /// When it is, or was, due; a retry moves it.
    pub deliver_at: Millis,
    /// When it was created.
    pub created_at: Millis,
    /// When it expires, if it does.
    pub expire_at: Option<Millis>,
    /// Deliveries so far.
    pub deliveries: u32,
    /// Failures so far.
    pub failures: u32,
    /// Failures until it is dead.
    pub max_attempts: u32,
    /// While leased: when the lease ends.
    pub lease_until: Option<Millis>,
    /// While leased: who holds it.
    pub consumer: Option<String>,
    /// While leased: the lease.
    pub token: Option<Token>,
    /// Why it failed last, if it did.
    pub last_error: Option<String>,
    /// Changes with the task. Opaque.
    pub etag: String,
    /// Its key, which no other open task of its queue has.
    pub key: Option<String>,
    /// The tasks it comes after, ended or not.
    pub after: Vec<TaskId>,
    /// While blocked: how many of these have not ended.
    pub blockers: u32,
    /// What a consumer said last of how far it is.
    pub progress: Option<String>,
    /// When it ended, if it is done, cancelled or expired.
    pub ended_at: Option<Millis>,
    /// Its group, if it has one.
    pub group: Option<String>,
    /// What its ack left behind; only in the answer to [`Client::get`](crate::Client::get).
    pub result: Option<Bytes>,
}

impl StoredTask {
    pub(crate) fn from_pb(task: v1::Task) -> Result<Self, Error> {
        let state = TaskState::from_pb(task.state());
        let optional = |at: Option<_>, field| at.map(|at| convert::millis(at, field)).transpose();
        Ok(Self {
            id: convert::task_id(&task.id, "task.id")?,
            state,
            priority: u8::try_from(task.priority).unwrap_or(u8::MAX),
            deliver_at: time(task.deliver_at, "task.deliver_at")?,
            created_at: time(task.created_at, "task.created_at")?,
            expire_at: optional(task.expire_at, "task.expire_at")?,
            deliveries: task.deliveries,
            failures: task.failures,
            max_attempts: task.max_attempts,
            lease_until: optional(task.lease_until, "task.lease_until")?,
            consumer: Some(task.consumer).filter(|name| !name.is_empty()),
            token: Some(Token(task.token)).filter(|token| token.0 != 0),
            last_error: Some(task.last_error).filter(|text| !text.is_empty()),
            etag: task.etag,
            key: Some(task.key).filter(|key| !key.is_empty()),
            after: task
                .after
                .iter()
                .map(|id| convert::task_id(id, "task.after"))
                .collect::<Result<_, _>>()?,
            blockers: task.blockers,
            progress: Some(task.progress).filter(|text| !text.is_empty()),
            ended_at: optional(task.ended_at, "task.ended_at")?,
            group: Some(task.group).filter(|group| !group.is_empty()),
            result: Some(task.result).filter(|result| !result.is_empty()),
            queue: task.queue,
            payload: task.payload,
            metadata: task.metadata,
        })
    }
}

/// Which state of its shard a stale answer shows. Of two about one shard, the one with the larger index is newer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Freshness {
    /// The host that has answered, from its own replica.
    pub host: String,
    /// Index of the last entry of the shard's log that the answer has.
    pub applied: u64,
    /// When the shard's last command up to there was logged, by the shard's clock; None before the first.
    pub time: Option<Millis>,
}

impl Freshness {
    pub(crate) fn from_pb(freshness: v1::Freshness) -> Result<Self, Error> {
        let time = freshness.time.map(|at| convert::millis(at, "freshness.time")).transpose()?;
        Ok(Self { host: freshness.host, applied: freshness.applied, time })
    }
}

/// A queue with its counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queue {
    /// Its name.
    pub name: String,
    /// The shard that holds it.
    pub shard: u32,
    /// Tasks nobody holds: scheduled or due.
    pub waiting: u64,
    /// Tasks consumers hold.
    pub leased: u64,
    /// Tasks that failed for the last time.
    pub dead: u64,
    /// Tasks that have ended and are kept.
    pub finished: u64,
    /// When the oldest due task was due; only in the answer to [`Client::get_queue`](crate::Client::get_queue).
    pub oldest_due_at: Option<Millis>,
}

impl Queue {
    pub(crate) fn from_pb(queue: v1::Queue) -> Result<Self, Error> {
        Ok(Self {
            oldest_due_at: queue
                .oldest_due_at
                .map(|at| convert::millis(at, "queue.oldest_due_at"))
                .transpose()?,
            name: queue.name,
            shard: queue.shard,
            waiting: queue.waiting,
            leased: queue.leased,
            dead: queue.dead,
            finished: queue.finished,
        })
    }
}

pub(crate) fn time(at: Option<z4_proto::Timestamp>, field: &str) -> Result<Millis, Error> {
    Ok(at.map_or(Ok(Millis(0)), |at| convert::millis(at, field))?)
}
