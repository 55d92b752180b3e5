//! Listing a queue's tasks, a page at a time: open ones by due time, finished ones by their end.
//!
//! The tasks of one queue lie in several places, each in order of due time: one line per priority, the waiting tasks of all
//! groups, those that wait for others, the dead, and the leases (in order of their end). A page is the first `limit` of their merge. Each place is read only until it cannot
//! add to the page any more, so a page costs what it shows, per place. Finished tasks lie in order of their end, and are
//! listed so, on their own.
//!
//! # Invariants
//! - Order is `deliver_at` (finished: the end), then id; a page token names the last task shown, so tasks that come or go between
//!   pages shift nothing.

use std::collections::BTreeMap;

use z4_types::limits::LIST_PAGE_MAX;
use z4_types::{Millis, QueueName, TaskId};

use super::{Phase, TaskInfo, TaskState, describe, queue_number};
use crate::codec::{Malformed, Reader};
use crate::command::Invalid;
use crate::retention::Finished;
use crate::rows::{QueueRecord, Scheduled, State, key};
use crate::{Fault, Read};

/// Bytes of payloads and texts after which a page ends early; it has at least one task. The other fields of
/// `LIST_PAGE_MAX` tasks are less than 1 MiB more, so a page stays below the 4 MiB that gRPC clients accept unless they
/// say otherwise.
const PAGE_BYTES_MAX: usize = 2 << 20;

/// Which tasks of a queue to list.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ListFilter {
    /// Only tasks that stand so; None: all that have not finished.
    pub state: Option<Phase>,
    /// Only tasks due, or finished, at this time or later.
    pub from: Option<Millis>,
    /// Only tasks due, or finished, before this time.
    pub to: Option<Millis>,
}

/// Where a page ended: the next one goes on behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageToken {
    /// Finished tasks: the end.
    deliver_at: Millis,
    id: TaskId,
}

/// One page of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The tasks, by `deliver_at`, then id.
    pub tasks: Vec<TaskInfo>,
    /// Where to go on; None: that was all.
    pub next: Option<PageToken>,
}

impl PageToken {
    const VERSION: u8 = 1;

    /// Returns where a page ends of which this is the last task.
    #[must_use]
    pub fn after(task: &TaskInfo) -> Self {
        let deliver_at = match task.state {
            TaskState::Finished { at, .. } => at,
            _ => task.deliver_at,
        };
        Self { deliver_at, id: task.id }
    }

    /// Returns the token as bytes, for a caller to keep.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 25] {
        let mut bytes = [0; 25];
        bytes[0] = Self::VERSION;
        bytes[1..9].copy_from_slice(&self.deliver_at.0.to_le_bytes());
        bytes[9..].copy_from_slice(&self.id.0.to_le_bytes());
        bytes
    }

    /// Returns the token that `bytes` are.
    ///
    /// # Errors
    /// `Invalid` if no list returned these bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Invalid> {
        let read = || {
            let mut reader = Reader::new(bytes);
            if reader.u8("")? != Self::VERSION {
                return Err(Malformed(""));
            }
            let token = Self { deliver_at: Millis(reader.u64("")?), id: TaskId(reader.u128("")?) };
            reader.end("").map(|()| token)
        };
        read().map_err(|_| Invalid {
            field: "page_token",
            problem: "is not one that a list returned; start again without it".into(),
        })
    }
}

/// The first `limit` tasks by due time, out of many offered.
struct Top {
    limit: usize,
    kept: BTreeMap<(Millis, TaskId), Option<u32>>,
}

impl Top {
    /// Offers a task, with its payload's length if known; false if neither it nor any later one is wanted.
    fn offer(&mut self, at: (Millis, TaskId), payload_bytes: Option<u32>) -> bool {
        if self.kept.len() == self.limit {
            if self.kept.last_key_value().is_none_or(|(last, _)| at > *last) {
                return false;
            }
            self.kept.pop_last();
        }
        self.kept.insert(at, payload_bytes);
        true
    }
}

/// Lists tasks of a queue: the first `limit` (at most `LIST_PAGE_MAX`) that pass `filter`, behind `after`. A page may
/// be shorter, when payloads or metadata are large. An unknown queue has no tasks.
///
/// # Errors
/// If storage fails.
pub fn list(
    store: &dyn Read,
    queue: &QueueName,
    filter: ListFilter,
    after: Option<&PageToken>,
    limit: u32,
) -> Result<Page, Fault> {
    let limit = limit.clamp(1, LIST_PAGE_MAX) as usize;
    let Some(number) = queue_number(store, queue)? else {
        return Ok(Page { tasks: Vec::new(), next: None });
    };
    let mut start = (filter.from.unwrap_or(Millis(0)), TaskId(0));
    if let Some(&PageToken { deliver_at, id }) = after {
        start = start.max((deliver_at, TaskId(id.0.saturating_add(1))));
    }
    let end = filter.to.unwrap_or(Millis::NEVER);
    // One more than shown tells whether there is a next page.
    let mut top = Top { limit: limit + 1, kept: BTreeMap::new() };
    if start.0 < end {
        gather(store, number, filter.state, start, end, &mut top)?;
    }
    fill(store, queue, top, limit)
}

/// Offers every task of the queue from `start` to before `end` that may make the page.
fn gather(
    store: &dyn Read,
    queue: u32,
    phase: Option<Phase>,
    start: (Millis, TaskId),
    end: Millis,
    top: &mut Top,
) -> Result<(), Fault> {
    let wants = |wanted| phase.is_none_or(|phase| phase == wanted);
    let mut malformed = None;
    let mut offer = |top: &mut Top, at: Result<((Millis, TaskId), Option<u32>), Malformed>| match at {
        Ok((at, payload_bytes)) => top.offer(at, payload_bytes),
        Err(error) => {
            malformed = Some(error);
            false
        }
    };
    if wants(Phase::Waiting) {
        let record = store
            .get(&key::queue(queue))?
            .ok_or_else(|| Fault::corrupt(format!("queue {queue} has no record")))?;
        let record = QueueRecord::read(&record)?;
        for (priority, _) in record.lines {
            let from = key::schedule(queue, priority, start.0, start.1);
            let to = key::schedule(queue, priority, end, TaskId(0));
            store.scan(&from, &to, &mut |key, value| {
                let row = Scheduled::read(value).map(|row| Some(row.payload_bytes));
                offer(top, key::read_schedule(key).and_then(|at| Ok((at, row?))))
            })?;
        }
    }
    if wants(Phase::Waiting) {
        let (from, to) = (key::timed(queue, start.0, start.1), key::timed(queue, end, TaskId(0)));
        store.scan(&from, &to, &mut |key, value| {
            let bytes = Reader::new(value).u32("payload length").map(Some);
            offer(top, key::read_timed(key).and_then(|at| Ok((at, bytes?))))
        })?;
    }
    if wants(Phase::Blocked) {
        let (from, to) = (key::blocked(queue, start.0, start.1), key::blocked(queue, end, TaskId(0)));
        store.scan(&from, &to, &mut |key, value| {
            let bytes = Reader::new(value).u32("payload length").map(Some);
            offer(top, key::read_blocked(key).and_then(|at| Ok((at, bytes?))))
        })?;
    }
    if wants(Phase::Dead) {
        let (from, to) = (key::dead(queue, start.0, start.1), key::dead(queue, end, TaskId(0)));
        store.scan(&from, &to, &mut |key, _| offer(top, key::read_dead(key).map(|at| (at, None))))?;
    }
    if wants(Phase::Leased) {
        let [from, to] = key::LEASES;
        store.scan(from, to, &mut |_, value| match read_lease(value) {
            Ok((number, at)) => {
                if number == queue && at >= start && at.0 < end {
                    // Not in order of due time: go on whatever the answer.
                    offer(top, Ok((at, None)));
                }
                true
            }
            Err(error) => offer(top, Err(error)),
        })?;
    }
    if let Some(Phase::Finished(how)) = phase {
        let (from, to) = (key::finished(queue, start.0, start.1), key::finished(queue, end, TaskId(0)));
        store.scan(&from, &to, &mut |key, value| match Finished::read(value) {
            Ok(row) if how.is_some_and(|how| row.phase != how.phase()) => true,
            Ok(_) => offer(top, key::read_finished(key).map(|at| (at, None))),
            Err(error) => offer(top, Err(error)),
        })?;
    }
    malformed.map_or(Ok(()), |error| Err(error.into()))
}

/// Reads a lease row's value: the task's queue, and its place in the list.
fn read_lease(value: &[u8]) -> Result<(u32, (Millis, TaskId)), Malformed> {
    let mut reader = Reader::new(value);
    let id = TaskId(reader.u128("lease id")?);
    let queue = reader.u32("lease queue")?;
    Ok((queue, (Millis(reader.u64("lease deliver_at")?), id)))
}

/// Describes the tasks of a page, as many as its bytes allow.
fn fill(store: &dyn Read, queue: &QueueName, top: Top, limit: usize) -> Result<Page, Fault> {
    let all: Vec<((Millis, TaskId), Option<u32>)> = top.kept.into_iter().collect();
    let shown = &all[..all.len().min(limit)];
    let states = read_sorted(store, shown.iter().map(|((_, id), _)| *id), key::state)?;

    // By what the indexes know, so that bodies beyond the page are not read; metadata is in the bodies only.
    let mut payloads = 0;
    let mut candidates = 0;
    for ((_, id), payload_bytes) in shown {
        payloads += match (payload_bytes, states.get(id)) {
            (Some(payload_bytes), _) => *payload_bytes,
            (None, Some(value)) => State::read(value)?.0.payload_bytes,
            (None, None) => {
                return Err(Fault::corrupt(format!("an index names task {id}, which has no state row")));
            }
        } as usize;
        if candidates > 0 && payloads > PAGE_BYTES_MAX {
            break;
        }
        candidates += 1;
    }
    let shown = &shown[..candidates];
    let bodies = read_sorted(store, shown.iter().map(|((_, id), _)| *id), key::body)?;
    let mut tasks = Vec::with_capacity(candidates);
    let mut bytes = 0;
    for ((_, id), _) in shown {
        let body = bodies
            .get(id)
            .ok_or_else(|| Fault::corrupt(format!("an index names task {id}, which has no body row")))?;
        let task = describe(*id, queue, body, states.get(id).map(Vec::as_slice))?;
        bytes += task.weight();
        if !tasks.is_empty() && bytes > PAGE_BYTES_MAX {
            break;
        }
        tasks.push(task);
    }
    let shown = &shown[..tasks.len()];
    let last = shown.last().map(|((deliver_at, id), _)| PageToken { deliver_at: *deliver_at, id: *id });
    Ok(Page { next: last.filter(|_| tasks.len() < all.len()), tasks })
}

impl TaskInfo {
    /// Returns the bytes of what of a task can be large: payload, metadata, texts.
    #[must_use]
    pub fn weight(&self) -> usize {
        let task = self;
        let pairs: usize = task.metadata.iter().map(|(key, value)| key.len() + value.len()).sum();
        let texts = match &task.state {
            TaskState::Waiting { .. } | TaskState::Blocked { .. } | TaskState::Finished { .. } => 0,
            TaskState::Leased { consumer, .. } => consumer.len(),
            TaskState::Dead { reason, .. } => reason.len(),
        };
        let kept = [&task.last_error, &task.progress];
        let kept: usize = kept.into_iter().flatten().map(String::len).sum();
        task.payload.len() + pairs + texts + kept
    }
}

/// Reads one row of each task, in one pass over storage.
fn read_sorted(
    store: &dyn Read,
    ids: impl Iterator<Item = TaskId>,
    key: impl Fn(TaskId) -> [u8; 17],
) -> Result<BTreeMap<TaskId, Vec<u8>>, Fault> {
    let mut ids: Vec<TaskId> = ids.collect();
    ids.sort_unstable();
    let keys: Vec<[u8; 17]> = ids.iter().map(|id| key(*id)).collect();
    let keys: Vec<&[u8]> = keys.iter().map(<[u8; 17]>::as_slice).collect();
    let mut rows = BTreeMap::new();
    store.get_many(&keys, &mut |position, value| {
        rows.insert(ids[position], value.to_vec());
    })?;
    Ok(rows)
}
