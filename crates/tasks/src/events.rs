//! Events: what happened to the tasks of a queue, in order, for those who follow them.
//!
//! A queue whose settings keep events has a *stream*: each step in a task's life appends one row, numbered without gaps.
//! Readers go along the rows at their own pace ([`events`](crate::events)) and hold a position, not a place in memory. At most so
//! many are kept as the settings say; older ones go as new ones come. Turning events off, or deleting the queue, closes the
//! stream: what it left is removed a part at a time, and a position in it is worth nothing any more.
//!
//! ```text
//!        first      oldest                    next
//!   ───────┼──────────┼─────────────────────────┼───▶ sequence
//!    gone  │ surplus: │  may be read: at most   │
//!          │ being    │  as many as are kept    │
//!          │ removed  │                         │
//! ```
//! A stream is named by a number drawn like a lease's token, so that a queue made again under the same name, or one whose
//! events were off for a while, is told from what it was: nobody goes on over a gap. Row keys start with that number and
//! not with the queue's, which is used again: so they are fresh, and events that live shortly never reach the base.
//!
//! # Invariants
//! - Sequences of a stream follow each other without gaps, and those of a queue never go back while it lives.
//! - An entry removes at most `REMOVED_PER_ENTRY` rows and two for each event it wrote; an Advance up to its limit besides.
//!   So neither a burst nor a closed stream makes a long entry, and surplus goes faster than it comes.
//! - Which rows are removed follows from rows and entry alone.
//! # Not here
//! - Reading: `reads/events.rs`. Who waits for events: `z4-host`.
//! # Caveats
//! - Extending a lease is no event, nor is forgetting a task that had ended.

use std::collections::BTreeSet;

use z4_types::{Duration, Millis, Priority, TaskId, Token};

use crate::codec::{Malformed, cut};
use crate::machine::Machine;
use crate::queue::Queue;
use crate::rows::{Phase, Remains, State, StreamRow, key, write_event};
use crate::{Fault, Read, Store};

/// Rows an entry removes at its end, beside two for each event that it wrote.
const REMOVED_PER_ENTRY: u32 = 64;

/// A failure's reason in an event is cut to this many bytes: the task itself keeps all of it.
const EVENT_REASON_BYTES: usize = 256;

/// How long after the last entry an Advance comes for what is still to be removed.
const REMOVE_AGAIN: Duration = Duration(100);

/// What happened to a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EventKind {
    /// It was accepted.
    Created = 1,
    /// A consumer got it.
    Leased = 2,
    /// A consumer is done with it; it has ended.
    Acked = 3,
    /// A delivery failed, and the task is due again later.
    Failed = 4,
    /// A delivery failed for the last time; the task is kept until somebody looks.
    Dead = 5,
    /// It was cancelled or purged; it has ended.
    Cancelled = 6,
    /// Its TTL was over; it has ended.
    Expired = 7,
    /// Somebody changed when it is due, its priority or what it says; or it waits for no other task any more.
    Updated = 8,
    /// It was dead, and has all its attempts again.
    Redriven = 9,
    /// A consumer gave it back; no failure.
    Released = 10,
}

impl EventKind {
    /// Every kind, in the order of its number.
    pub const ALL: [Self; 10] = [
        Self::Created,
        Self::Leased,
        Self::Acked,
        Self::Failed,
        Self::Dead,
        Self::Cancelled,
        Self::Expired,
        Self::Updated,
        Self::Redriven,
        Self::Released,
    ];

    pub(crate) fn from_byte(byte: u8) -> Result<Self, Malformed> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == byte).ok_or(Malformed("unknown event kind"))
    }
}

/// One event, as read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its place among the events of the queue.
    pub sequence: u64,
    /// Shard time.
    pub at: Millis,
    /// Whose.
    pub task: TaskId,
    /// What happened.
    pub kind: EventKind,
    /// When the task is due from now on: created, failed, released, updated, redriven.
    pub deliver_at: Option<Millis>,
    /// Its priority: created, updated.
    pub priority: Option<Priority>,
    /// Its group, if it has one: created.
    pub group: Option<String>,
    /// Its key, if it has one: created.
    pub key: Option<String>,
    /// Who got it: leased.
    pub consumer: Option<String>,
    /// The lease: leased, and what ended it.
    pub token: Option<Token>,
    /// Deliveries so far: leased.
    pub deliveries: Option<u32>,
    /// Failures so far: failed, dead.
    pub failures: Option<u32>,
    /// End of the lease: leased.
    pub until: Option<Millis>,
    /// Why: failed, dead. Cut to 256 bytes; absent if none was given.
    pub reason: Option<String>,
}

/// The facts of an event to be written; see [`Event`].
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Facts<'a> {
    pub(crate) deliver_at: Option<Millis>,
    pub(crate) priority: Option<Priority>,
    pub(crate) group: Option<&'a str>,
    pub(crate) key: Option<&'a str>,
    pub(crate) consumer: Option<&'a str>,
    pub(crate) token: Option<Token>,
    pub(crate) deliveries: Option<u32>,
    pub(crate) failures: Option<u32>,
    pub(crate) until: Option<Millis>,
    pub(crate) reason: Option<&'a str>,
}

impl<'a> Facts<'a> {
    /// Of a task that waits from now on, being due at `deliver_at`.
    pub(crate) fn due(deliver_at: Millis) -> Self {
        Self { deliver_at: Some(deliver_at), ..Self::default() }
    }

    /// Of a task whose place in its line is new.
    pub(crate) fn placed(state: &State, group: Option<&'a str>) -> Self {
        Self { priority: Some(Priority(state.priority)), group, ..Self::due(state.deliver_at) }
    }

    /// Of a delivery.
    pub(crate) fn delivered(state: &State, consumer: &'a str) -> Self {
        Self {
            consumer: Some(consumer),
            deliveries: Some(state.deliveries),
            until: Some(state.at),
            ..Self::of_lease(state)
        }
    }

    /// Of the end of a lease.
    pub(crate) fn of_lease(state: &State) -> Self {
        Self { token: Some(state.token), ..Self::default() }
    }

    /// Of the end of a task that was in `state`, leased or not.
    pub(crate) fn ended(state: &State) -> Self {
        if state.phase == Phase::Leased { Self::of_lease(state) } else { Self::default() }
    }

    /// Of a delivery that failed; `due`: when the task is tried again.
    pub(crate) fn failed(state: &State, reason: &'a str, due: Option<Millis>) -> Self {
        Self {
            deliver_at: due,
            failures: Some(state.failures),
            reason: Some(cut(reason, EVENT_REASON_BYTES)),
            ..Self::of_lease(state)
        }
    }
}

/// A queue's stream in memory.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) row: StreamRow,
    /// The row in storage is older. Invariant: false between entries.
    pub(crate) changed: bool,
    /// There is a row in storage.
    has_row: bool,
    /// Events came since somebody asked which queues that happened to.
    told: bool,
}

impl Stream {
    fn new(row: StreamRow, has_row: bool) -> Box<Self> {
        Box::new(Self { row, changed: false, has_row, told: false })
    }
}

/// What the machine knows of all its streams.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    /// Numbers of the queues whose streams have surplus rows. Invariant: those, between entries.
    pub(crate) surplus: BTreeSet<u32>,
    /// Closed streams whose rows are still there. Invariant: equals their rows between entries.
    pub(crate) remains: std::collections::BTreeMap<u64, Remains>,
    /// Those that have no row yet. Empty between entries.
    closed: Vec<u64>,
    /// Numbers of the queues that had events since somebody asked, each once.
    told: Vec<u32>,
    /// Events the current entry wrote: pays for removals at its end.
    written: u32,
}

impl Machine {
    /// Appends an event to the queue's stream, if it has one.
    #[inline]
    pub(crate) fn emit<'f>(
        &mut self,
        store: &mut dyn Store,
        queue: u32,
        task: TaskId,
        kind: EventKind,
        facts: impl FnOnce() -> Facts<'f>,
    ) -> Result<(), Fault> {
        if self.queue(queue)?.effective.events == 0 {
            return Ok(());
        }
        self.append_event(store, queue, task, kind, &facts())
    }

    /// The event of a task's end.
    pub(crate) fn emit_end(
        &mut self,
        store: &mut dyn Store,
        id: TaskId,
        state: &State,
        phase: Phase,
    ) -> Result<(), Fault> {
        let kind = match phase {
            Phase::Done => EventKind::Acked,
            Phase::Cancelled => EventKind::Cancelled,
            Phase::Expired => EventKind::Expired,
            Phase::Waiting | Phase::Blocked | Phase::Leased | Phase::Dead => {
                unreachable!("a task ends in one of three ways")
            }
        };
        self.emit(store, state.queue, id, kind, || Facts::ended(state))
    }

    fn append_event(
        &mut self,
        store: &mut dyn Store,
        number: u32,
        task: TaskId,
        kind: EventKind,
        facts: &Facts<'_>,
    ) -> Result<(), Fault> {
        // The stream of a queue whose settings are older than streams are.
        self.tune_events(number)?;
        let mut value = std::mem::take(&mut self.buffer);
        value.clear();
        write_event(kind, task, self.meta.now, facts, &mut value);
        let stream = self.queue_mut(number)?.stream.as_mut().expect("tuned above");
        store.insert(&key::event(stream.row.stream, stream.row.next), &value);
        stream.row.next += 1;
        stream.changed = true;
        let (is_news, has_surplus) = (!std::mem::replace(&mut stream.told, true), stream.row.surplus() > 0);
        self.buffer = value;
        self.streams.written += 1;
        if is_news {
            self.streams.told.push(number);
        }
        if has_surplus {
            self.streams.surplus.insert(number);
        }
        Ok(())
    }

    /// Makes the stream of a queue what its settings say: there, gone, or as long.
    pub(crate) fn tune_events(&mut self, number: u32) -> Result<(), Fault> {
        let queue = self.queue(number)?;
        let kept = queue.effective.events;
        if queue.stream.as_ref().map_or(0, |stream| stream.row.kept) == kept {
            return Ok(());
        }
        if kept == 0 {
            self.close_stream(number)?;
        }
        let opens =
            kept > 0 && self.queue(number)?.stream.as_ref().is_none_or(|stream| stream.row.stream == 0);
        let fresh = if opens { self.next_token().0 } else { 0 };
        let stream = self.queue_mut(number)?.stream.get_or_insert_with(|| Stream::new(StreamRow::NEW, false));
        if opens {
            stream.row.stream = fresh;
        }
        stream.row.kept = kept;
        stream.changed = true;
        // Whoever waits for events is to look again.
        let is_news = !std::mem::replace(&mut stream.told, true);
        let has_surplus = stream.row.surplus() > 0;
        if is_news {
            self.streams.told.push(number);
        }
        if has_surplus {
            self.streams.surplus.insert(number);
        } else {
            self.streams.surplus.remove(&number);
        }
        Ok(())
    }

    /// Leaves the events of a queue to be removed. The next ones are another stream's.
    fn close_stream(&mut self, number: u32) -> Result<(), Fault> {
        let Some(stream) = &mut self.queue_mut(number)?.stream else { return Ok(()) };
        let row = &mut stream.row;
        let (closed, remains) = (row.stream, Remains { first: row.first, end: row.next });
        (row.stream, row.first) = (0, row.next);
        stream.changed = true;
        self.streams.surplus.remove(&number);
        if remains.first < remains.end {
            self.streams.remains.insert(closed, remains);
            self.streams.closed.push(closed);
        }
        Ok(())
    }

    /// The queue is being deleted: its stream goes, row by row, after it.
    pub(crate) fn forget_stream(&mut self, store: &mut dyn Store, number: u32) -> Result<(), Fault> {
        self.close_stream(number)?;
        let stream = self.queue_mut(number)?.stream.take();
        self.streams.told.retain(|told| *told != number);
        if stream.is_some_and(|stream| stream.has_row) {
            store.delete(&key::stream(number));
        }
        Ok(())
    }

    /// Writes the stream row of a queue, if it changed.
    pub(crate) fn write_stream(&mut self, store: &mut dyn Store, number: u32) {
        let Some(Queue { stream: Some(stream), .. }) = &mut self.queues[number as usize] else { return };
        if std::mem::take(&mut stream.changed) {
            stream.has_row = true;
            store.put(&key::stream(number), &stream.row.write());
        }
    }

    /// Removes what the current entry owes, and notes the streams it closed.
    pub(crate) fn remove_some_events(&mut self, store: &mut dyn Store) -> Result<(), Fault> {
        let limit = REMOVED_PER_ENTRY.saturating_add(2 * std::mem::take(&mut self.streams.written));
        self.remove_events(store, limit)?;
        for closed in std::mem::take(&mut self.streams.closed) {
            if let Some(remains) = self.streams.remains.get(&closed) {
                store.put(&key::remains(closed), &remains.write());
            }
        }
        Ok(())
    }

    /// Removes up to `limit` events that are not kept any more.
    pub(crate) fn remove_events(&mut self, store: &mut dyn Store, limit: u32) -> Result<(), Fault> {
        let mut left = u64::from(limit);
        while left > 0
            && let Some(&number) = self.streams.surplus.first()
        {
            let stream = self.queue_mut(number)?.stream.as_mut();
            let stream = stream.ok_or_else(|| Fault::corrupt("surplus events of a queue without any"))?;
            let row = &mut stream.row;
            let end = row.first + row.surplus().min(left);
            left -= end - row.first;
            (row.first..end).for_each(|sequence| store.delete(&key::event(row.stream, sequence)));
            row.first = end;
            stream.changed = true;
            if row.surplus() == 0 {
                self.streams.surplus.remove(&number);
            }
        }
        while left > 0
            && let Some(mut of) = self.streams.remains.first_entry()
        {
            let (closed, remains) = (*of.key(), of.get_mut());
            let end = remains.end.min(remains.first + left);
            left -= end - remains.first;
            (remains.first..end).for_each(|sequence| store.delete(&key::event(closed, sequence)));
            remains.first = end;
            let has_row = !self.streams.closed.contains(&closed);
            if remains.first < remains.end {
                if has_row {
                    store.put(&key::remains(closed), &remains.write());
                }
            } else {
                if has_row {
                    store.delete(&key::remains(closed));
                }
                of.remove();
            }
        }
        Ok(())
    }

    /// Returns when an Advance is worth it for events that are to be removed. Entries remove some on their way.
    pub(crate) fn next_removal(&self) -> Option<Millis> {
        let owes = !self.streams.surplus.is_empty() || !self.streams.remains.is_empty();
        owes.then(|| self.meta.now + REMOVE_AGAIN)
    }

    /// Returns the queues that had events since the last call, each once.
    pub fn take_eventful(&mut self) -> impl Iterator<Item = &z4_types::QueueName> {
        let told = std::mem::take(&mut self.streams.told);
        for &number in &told {
            if let Some(Queue { stream: Some(stream), .. }) = &mut self.queues[number as usize] {
                stream.told = false;
            }
        }
        told.into_iter().filter_map(|number| Some(&self.queues[number as usize].as_ref()?.name))
    }

    /// Reads the streams, after the queues.
    pub(crate) fn read_streams(&mut self, store: &dyn Read) -> Result<(), Fault> {
        let (mut rows, mut malformed) = (Vec::new(), None);
        let [from, to] = key::STREAMS;
        store.scan(from, to, &mut |key, value| {
            match key::read_stream(key).and_then(|number| Ok((number, StreamRow::read(value)?))) {
                Ok(row) => rows.push(row),
                Err(error) => malformed = Some(error),
            }
            malformed.is_none()
        })?;
        let [from, to] = key::REMAINS;
        store.scan(from, to, &mut |key, value| {
            match key::read_remains(key).and_then(|stream| Ok((stream, Remains::read(value)?))) {
                Ok((stream, remains)) => {
                    self.streams.remains.insert(stream, remains);
                }
                Err(error) => malformed = Some(error),
            }
            malformed.is_none()
        })?;
        if let Some(error) = malformed {
            return Err(error.into());
        }
        for (number, row) in rows {
            let queue = self.queues.get_mut(number as usize).and_then(Option::as_mut);
            let queue =
                queue.ok_or_else(|| Fault::corrupt(format!("a stream row names no queue: {number}")))?;
            queue.stream = Some(Stream::new(row, true));
            if row.surplus() > 0 {
                self.streams.surplus.insert(number);
            }
        }
        Ok(())
    }
}
