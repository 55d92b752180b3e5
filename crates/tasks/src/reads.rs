//! Reads: what a task is, which tasks a queue holds, which queues there are.
//!
//! Over any [`Read`]: the live rows right after an apply, or a frozen view while writes go on. None of them needs the
//! [`Machine`](crate::Machine), so they run on any thread.
//!
//! # Caveats
//! - Whether a waiting task is due, or a lease over, is for the reader to judge by its clock.
//! - Leases have no index by queue and time, to keep delivery cheap: a page that may hold leased tasks passes over
//!   all leases of the shard, which consumers' credit bounds.

mod events;
mod explain;
mod explain_queue;
mod groups;
mod list;
mod schedules;

pub use events::{EventFilter, EventPage, Events, Position, ResumeToken, Start, events};
pub use explain::{AHEAD_MAX, Why, explain};
pub use explain_queue::{GROUPS_COUNTED_MAX, HeldGroups, Hold, explain_queue};
pub use groups::{GroupCursor, GroupInfo, GroupPage};
pub use list::{ListFilter, Page, PageToken, list};
pub use schedules::{schedule, schedule_history, schedules};

use std::collections::BTreeMap;

use bytes::Bytes;
use z4_types::limits::MAX_ATTEMPTS_DEFAULT;
use z4_types::{Millis, Priority, QueueName, TaskId, Token};

use crate::command::{OnFailure, Retry};
use crate::keys::holder;
use crate::outcome::Pick;
use crate::retention::read_result;
use crate::rows::{self, QueueRecord, State, Texts, key, read_body};
use crate::stats::QueueStats;
use crate::{Fault, Read};

/// What a consumer gets beside the [`Pick`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Body {
    /// What the creator wants done.
    pub payload: Bytes,
    /// Labels, sorted by key.
    pub metadata: Vec<(String, String)>,
    /// Order among due tasks.
    pub priority: Priority,
    /// Shard time of the create.
    pub created_at: Millis,
    /// Failures until it is dead.
    pub max_attempts: u32,
    /// When its TTL ends it.
    pub expires_at: Option<Millis>,
    /// Its group.
    pub group: Option<String>,
    /// Its key.
    pub key: Option<String>,
}

/// Where a task stands, without details: what a list filters by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Scheduled or due.
    Waiting,
    /// Held by a consumer.
    Leased,
    /// Out of attempts, kept.
    Dead,
    /// Waits for others to end.
    Blocked,
    /// Ended, and kept by the queue's retention; None: however it ended.
    Finished(Option<End>),
}

/// How a task ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// A consumer acked it.
    Done,
    /// It was cancelled.
    Cancelled,
    /// Its TTL ended it.
    Expired,
}

impl End {
    fn phase(self) -> rows::Phase {
        match self {
            Self::Done => rows::Phase::Done,
            Self::Cancelled => rows::Phase::Cancelled,
            Self::Expired => rows::Phase::Expired,
        }
    }
}

/// Where a task stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TaskState {
    /// Scheduled, or due if `deliver_at` has come.
    Waiting {
        /// When it may be delivered.
        deliver_at: Millis,
    },
    /// Held by a consumer; over once shard time reaches `until`.
    Leased {
        /// End of the lease.
        until: Millis,
        /// The lease.
        token: Token,
        /// Who holds it.
        consumer: String,
    },
    /// Waits for others to end.
    Blocked {
        /// How many it waits for.
        blockers: u32,
    },
    /// Out of attempts, kept until cancelled.
    Dead {
        /// Shard time of the last failure.
        since: Millis,
        /// The last failure's reason.
        reason: String,
    },
    /// Ended, kept by the queue's retention.
    Finished {
        /// How.
        end: End,
        /// Shard time of the end.
        at: Millis,
    },
}

/// All there is to know of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskInfo {
    /// The task.
    pub id: TaskId,
    /// Its queue.
    pub queue: QueueName,
    /// Where it stands.
    pub state: TaskState,
    /// Its group.
    pub group: Option<String>,
    /// Order among due tasks.
    pub priority: Priority,
    /// When it is or was due: as created, or since its last retry.
    pub deliver_at: Millis,
    /// Shard time of the create.
    pub created_at: Millis,
    /// Deliveries so far.
    pub deliveries: u32,
    /// Failures so far.
    pub failures: u32,
    /// Failures until it is dead.
    pub max_attempts: u32,
    /// How failures are retried.
    pub retry: Retry,
    /// When its TTL ends it; a dead or finished task has none.
    pub expires_at: Option<Millis>,
    /// Why the last failure was one; None before the first, and after one without a reason.
    pub last_error: Option<String>,
    /// What a consumer said last of how far it is.
    pub progress: Option<String>,
    /// Length of what its ack left behind, see [`result`]; None: nothing.
    pub result_bytes: Option<u32>,
    /// Counts changes of its state, from 0 at its creation: its etag.
    pub revision: u32,
    /// Its key, which no other open task of its queue has.
    pub key: Option<String>,
    /// The tasks it comes after, as created, ended or not.
    pub after: Vec<TaskId>,
    /// What becomes of it if one of these fails.
    pub on_failure: OnFailure,
    /// Labels, sorted by key.
    pub metadata: Vec<(String, String)>,
    /// What the creator wants done.
    pub payload: Bytes,
}

/// A queue as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueInfo {
    /// Its name.
    pub name: QueueName,
    /// Its counters.
    pub stats: QueueStats,
    /// Waiting tasks by priority, most urgent first; only priorities that have any.
    pub waiting: Vec<(Priority, u64)>,
}

/// Returns the bodies of `picks`, in their order. None: the task has ended since it was picked, do not deliver it. One that
/// is kept has its body still: its settlement will be refused.
///
/// # Errors
/// If storage fails.
pub fn hydrate(store: &dyn Read, picks: &[Pick]) -> Result<Vec<Option<Body>>, Fault> {
    let mut order: Vec<usize> = (0..picks.len()).collect();
    order.sort_unstable_by_key(|&pick| picks[pick].id);
    let keys: Vec<[u8; 17]> = order.iter().map(|&pick| key::body(picks[pick].id)).collect();
    let keys: Vec<&[u8]> = keys.iter().map(<[u8; 17]>::as_slice).collect();
    let mut bodies = vec![None; picks.len()];
    let mut malformed = None;
    store.get_many(&keys, &mut |position, value| {
        let pick = order[position];
        match read_body(value) {
            Ok((_, item)) => {
                let created_at = picks[pick].id.created_at();
                bodies[pick] = Some(Body {
                    payload: Bytes::copy_from_slice(item.payload),
                    metadata: item.metadata(),
                    priority: item.priority.unwrap_or_default(),
                    created_at,
                    max_attempts: item.max_attempts.unwrap_or(MAX_ATTEMPTS_DEFAULT),
                    expires_at: some_time(item.ttl_at(created_at)),
                    group: item.group.map(str::to_owned),
                    key: item.key.map(|key| key.name.to_owned()),
                });
            }
            Err(error) => malformed = Some(error),
        }
    })?;
    malformed.map_or(Ok(bodies), |error| Err(error.into()))
}

/// Returns the full description of a task; None if it does not exist.
///
/// # Errors
/// If storage fails.
pub fn get(store: &dyn Read, id: TaskId) -> Result<Option<TaskInfo>, Fault> {
    let Some(body) = store.get(&key::body(id))? else {
        return Ok(None);
    };
    let (number, _) = read_body(&body)?;
    let record = store
        .get(&key::queue(number))?
        .ok_or_else(|| Fault::corrupt(format!("task {id} names queue {number}, which is gone")))?;
    let name = QueueRecord::read(&record)?.name;
    let state = store.get(&key::state(id))?;
    describe(id, &name, &body, state.as_deref()).map(Some)
}

/// Returns the full description of the task that has a key: the open one, or one that has ended and keeps it, as long as it is
/// kept itself. None if there is none.
///
/// # Errors
/// If storage fails.
pub fn by_key(store: &dyn Read, queue: &QueueName, key: &str) -> Result<Option<TaskInfo>, Fault> {
    let Some(number) = queue_number(store, queue)? else {
        return Ok(None);
    };
    match holder(store, number, key)? {
        Some(holder) => get(store, holder.id),
        None => Ok(None),
    }
}

/// Returns what the ack of a task left behind; None if it left nothing, or the task is not kept.
///
/// # Errors
/// If storage fails.
pub fn result(store: &dyn Read, id: TaskId) -> Result<Option<Bytes>, Fault> {
    let Some(value) = store.get(&key::result(id))? else {
        return Ok(None);
    };
    Ok(Some(Bytes::copy_from_slice(read_result(&value)?)))
}

/// Returns a queue's record; None if it does not exist. Does not create it.
///
/// # Errors
/// If storage fails.
pub fn queue(store: &dyn Read, name: &QueueName) -> Result<Option<QueueInfo>, Fault> {
    let Some(number) = queue_number(store, name)? else {
        return Ok(None);
    };
    queue_record(store, number).map(Some)
}

/// Returns up to `limit` queues by name, those after `after`.
///
/// # Errors
/// If storage fails.
pub fn queues(store: &dyn Read, after: Option<&QueueName>, limit: usize) -> Result<Vec<QueueInfo>, Fault> {
    let mut from = key::name(after.map_or("", QueueName::as_str));
    if after.is_some() {
        // The first key behind that name.
        from.push(0);
    }
    let mut numbers = Vec::new();
    store.scan(&from, key::NAMES[1], &mut |_, value| {
        if numbers.len() < limit {
            numbers.push(rows::read_queue_id(value));
        }
        numbers.len() < limit
    })?;
    numbers.into_iter().map(|number| queue_record(store, number?)).collect()
}

fn queue_number(store: &dyn Read, name: &QueueName) -> Result<Option<u32>, Fault> {
    let value = store.get(&key::name(name.as_str()))?;
    Ok(value.map(|value| rows::read_queue_id(&value)).transpose()?)
}

fn queue_record(store: &dyn Read, number: u32) -> Result<QueueInfo, Fault> {
    let value = store
        .get(&key::queue(number))?
        .ok_or_else(|| Fault::corrupt(format!("queue {number} has no record")))?;
    let QueueRecord { name, stats, lines, grouped, .. } = QueueRecord::read(&value)?;
    let mut waiting: BTreeMap<Priority, u64> = BTreeMap::new();
    for (priority, tasks) in lines.into_iter().chain(grouped) {
        *waiting.entry(Priority(priority)).or_default() += tasks;
    }
    Ok(QueueInfo { name, stats, waiting: waiting.into_iter().collect() })
}

/// Puts a task's rows together.
fn describe(id: TaskId, queue: &QueueName, body: &[u8], state: Option<&[u8]>) -> Result<TaskInfo, Fault> {
    let (number, item) = read_body(body)?;
    let (state, texts) = match state {
        Some(value) => State::read(value)?,
        None => (State::pristine(id, number, &item), Texts::default()),
    };
    let some_text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    Ok(TaskInfo {
        id,
        queue: queue.clone(),
        state: match state.phase {
            rows::Phase::Waiting => TaskState::Waiting { deliver_at: state.deliver_at },
            rows::Phase::Leased => {
                TaskState::Leased { until: state.at, token: state.token, consumer: texts.consumer.to_owned() }
            }
            rows::Phase::Blocked => TaskState::Blocked { blockers: state.blockers },
            rows::Phase::Dead => TaskState::Dead { since: state.at, reason: texts.last_error.to_owned() },
            rows::Phase::Done => TaskState::Finished { end: End::Done, at: state.at },
            rows::Phase::Cancelled => TaskState::Finished { end: End::Cancelled, at: state.at },
            rows::Phase::Expired => TaskState::Finished { end: End::Expired, at: state.at },
        },
        group: item.group.map(str::to_owned),
        priority: Priority(state.priority),
        deliver_at: state.deliver_at,
        created_at: id.created_at(),
        deliveries: state.deliveries,
        failures: state.failures,
        max_attempts: item.max_attempts.unwrap_or(MAX_ATTEMPTS_DEFAULT),
        retry: item.retry.unwrap_or_default(),
        expires_at: some_time(state.ttl_at),
        last_error: some_text(texts.last_error),
        progress: some_text(texts.progress),
        result_bytes: state.result_bytes,
        revision: state.revision,
        key: item.key.map(|key| key.name.to_owned()),
        after: item.after.iter().flat_map(|after| after.ids()).collect(),
        on_failure: item.after.map_or_else(OnFailure::default, |after| after.on_failure),
        metadata: item.metadata(),
        payload: Bytes::copy_from_slice(item.payload),
    })
}

fn some_time(at: Millis) -> Option<Millis> {
    (at != Millis::NEVER).then_some(at)
}
