//! The machine of one shard: what it keeps in memory, and what callers may ask of it.
//!
//! Everything that matters is in rows. The machine holds the meta row, the queue records and settings (a few words per queue)
//! and the policies as values while an entry is applied; meta and records that changed are written once at the entry's end.
//! Beyond them it holds only [heads](crate::head) and an order of evictions, which are caches.
//!
//! # Invariants
//! - Between entries, memory equals the rows: see [`Machine::check`], run by the simulator after applies.
//! - Opening costs a read per queue, not per task, but for queues whose record is still of version 1.
//! # Caveats
//! - After a [`Fault`] memory and rows may disagree: drop the machine, the replica must stop.
//! - A shard takes at most `QUEUES_PER_SHARD_MAX` queues.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use z4_types::limits::REQUEST_WINDOW_MS;
use z4_types::{Duration, Millis, QueueName, ShardId, Token};

use crate::dedup::EVICTION_SLACK;
use crate::events::Streams;
use crate::fair::Gate;
use crate::head::{First, Head, Point};
use crate::queue::{Paused, Queue};
use crate::rows::{Meta, QueueRecord, key};
use crate::settings::{Effective, Policies};
use crate::slots::Slots;
use crate::stats::QueueStats;
use crate::{Fault, Read, Store};

/// The task state machine of one shard. See the module essay.
#[derive(Debug)]
pub struct Machine {
    pub(crate) shard: ShardId,
    pub(crate) meta: Meta,
    /// By queue number; None: the number is free. Invariant: `queues.len() == meta.next_queue`.
    pub(crate) queues: Vec<Option<Queue>>,
    /// Invariant: the numbers that no queue has.
    pub(crate) free: BTreeSet<u32>,
    /// Invariant: names every queue, once.
    pub(crate) names: BTreeMap<Box<str>, u32>,
    /// Invariant: equals the policies row.
    pub(crate) policies: Policies,
    /// What holds where nothing is set: shared by most queues.
    pub(crate) standard: Arc<Effective>,
    /// Each queue that keeps finished tasks, by a time not after its next eviction.
    pub(crate) evictions: RefCell<BTreeSet<(Millis, u32)>>,
    /// Tasks the current entry ended and kept: pays for evictions at its end.
    pub(crate) ended: u32,
    /// Queues that have groups. Invariant: those whose `groups` is not None.
    pub(crate) grouped: BTreeSet<u32>,
    /// Groups of all queues. Invariant: the sum of their `groups_counted`, which between entries are their lengths.
    pub(crate) groups_open: usize,
    /// Numbers of the queues that are dirty, each once. Empty between entries.
    pub(crate) dirty: Vec<u32>,
    /// Numbers of the queues that are touched, each once.
    pub(crate) touched: Vec<u32>,
    /// Heads of the lease, TTL and eviction rows.
    pub(crate) leases: Cell<Head>,
    pub(crate) ttls: Cell<Head>,
    pub(crate) requests: Cell<Head>,
    /// Where the events of queues are.
    pub(crate) streams: Streams,
    /// Whether tasks have ended whose edges are not worked off; None: not known.
    pub(crate) endings: Cell<Option<bool>>,
    /// Head of the rows of keys' ends.
    pub(crate) key_ends: Cell<Head>,
    /// What is kept in memory of schedules.
    pub(crate) slots: Slots,
    /// Requests remembered by the current entry: pays for evictions at its end.
    pub(crate) remembered: u32,
    /// Rows are built here: one allocation, reused.
    pub(crate) buffer: Vec<u8>,
    /// Shard time when this machine was opened: requests remembered before are "lost".
    #[cfg(feature = "bug-dedup-lost-at-restart")]
    pub(crate) opened_at: Millis,
}

impl Machine {
    /// Opens the machine of `shard` over its rows; an empty store is a new shard.
    ///
    /// # Errors
    /// If storage fails, or the rows were written by a newer version or contradict each other.
    pub fn open(shard: ShardId, store: &dyn Read) -> Result<Self, Fault> {
        let meta = match store.get(&key::META)? {
            Some(value) => Meta::read(&value)?,
            None => Meta::NEW,
        };
        let mut machine = Self {
            shard,
            meta,
            queues: Vec::new(),
            free: BTreeSet::new(),
            names: BTreeMap::new(),
            policies: Policies::default(),
            standard: Arc::new(Effective::from(crate::settings::Settings::default())),
            evictions: RefCell::default(),
            ended: 0,
            grouped: BTreeSet::new(),
            groups_open: 0,
            dirty: Vec::new(),
            touched: Vec::new(),
            leases: Cell::new(Head::UNKNOWN),
            ttls: Cell::new(Head::UNKNOWN),
            requests: Cell::new(Head::UNKNOWN),
            streams: Streams::default(),
            endings: Cell::new(None),
            key_ends: Cell::new(Head::UNKNOWN),
            slots: Slots::open(store)?,
            remembered: 0,
            buffer: Vec::new(),
            #[cfg(feature = "bug-dedup-lost-at-restart")]
            opened_at: meta.now,
        };
        machine.read_queues(store)?;
        machine.read_settings(store)?;
        machine.read_groups(store)?;
        machine.read_streams(store)?;
        Ok(machine)
    }

    /// Reads the queue records.
    fn read_queues(&mut self, store: &dyn Read) -> Result<(), Fault> {
        let (mut records, mut malformed) = (Vec::new(), None);
        let [from, to] = key::QUEUES;
        store.scan(from, to, &mut |key, value| {
            match key::read_queue(key).and_then(|number| Ok((number, QueueRecord::read(value)?))) {
                Ok(record) => records.push(record),
                Err(error) => malformed = Some(error),
            }
            malformed.is_none()
        })?;
        if let Some(error) = malformed {
            return Err(error.into());
        }
        if records.last().is_some_and(|(number, _)| *number >= self.meta.next_queue) {
            return Err(Fault::corrupt("a queue record has a number that the meta row has not given out"));
        }
        self.queues.resize_with(self.meta.next_queue as usize, || None);
        for (number, record) in records {
            self.names.insert(record.name.as_str().into(), number);
            let (uncounted, kept) = (record.counted.is_none(), record.stats.finished > 0);
            let mut queue = Queue::from_record(record, Arc::clone(&self.standard));
            if uncounted {
                count_steps(store, number, &mut queue)?;
            }
            if kept {
                queue.evict_at.set(Some(Millis(0)));
                self.evictions.get_mut().insert((Millis(0), number));
            }
            self.queues[number as usize] = Some(queue);
        }
        self.free =
            (0..).zip(&self.queues).filter(|(_, queue)| queue.is_none()).map(|(number, _)| number).collect();
        Ok(())
    }

    /// Returns shard time: the largest `now` of any entry applied.
    #[must_use]
    pub fn now(&self) -> Millis {
        self.meta.now
    }

    /// Returns the counters of a queue; None if it does not exist. No storage is read.
    #[must_use]
    pub fn stats(&self, queue: &QueueName) -> Option<QueueStats> {
        self.named(queue.as_str()).map(|(_, queue)| queue.stats)
    }

    /// Returns the sum of all queues' counters.
    #[must_use]
    pub fn totals(&self) -> QueueStats {
        self.queues.iter().flatten().fold(QueueStats::default(), |sum, queue| sum.plus(&queue.stats))
    }

    /// Returns all queues with their counters, in order of name.
    pub fn queues(&self) -> impl ExactSizeIterator<Item = (&QueueName, QueueStats)> {
        self.names.values().map(|&number| {
            let queue = self.queues[number as usize].as_ref().expect("a named queue is there");
            (&queue.name, queue.stats)
        })
    }

    /// Returns the `limit` queues with the largest backlogs, in no order. Copies no others.
    #[must_use]
    pub fn largest(&self, limit: usize) -> Vec<(QueueName, QueueStats)> {
        let mut backlogs: Vec<(u64, &Queue)> =
            self.queues.iter().flatten().map(|queue| (queue.stats.backlog(), queue)).collect();
        if backlogs.len() > limit {
            backlogs.select_nth_unstable_by_key(limit, |backlog| std::cmp::Reverse(backlog.0));
            backlogs.truncate(limit);
        }
        backlogs.into_iter().map(|(_, queue)| (queue.name.clone(), queue.stats)).collect()
    }

    /// Returns when a Lease of `queue` is next worth proposing: it may be in the past, then one picks a task at once. None if
    /// nothing waits, or only an event helps: the queue is paused or at a limit, then it counts as touched when that changes.
    /// Costs no read while the heads are known, which they are after every Lease.
    ///
    /// # Errors
    /// If storage fails.
    pub fn next_due(&self, store: &dyn Read, queue: &QueueName) -> Result<Option<Millis>, Fault> {
        match self.named(queue.as_str()) {
            Some((number, queue)) => {
                let now = self.meta.now;
                let resumed = match queue.paused(now) {
                    Some(Paused { until: None, .. }) => return Ok(None),
                    Some(Paused { until: Some(until), .. }) => *until,
                    None if queue.is_half_open(now) && queue.served.probe != Token(0) => return Ok(None),
                    None => Millis(0),
                };
                let free = match queue.limits.gate(queue.stats.leased, queue.served.bucket, now) {
                    Gate::Full { .. } => return Ok(None),
                    Gate::Token { at } => at,
                    Gate::Open => Millis(0),
                };
                let in_groups = queue.groups.as_ref().and_then(|groups| groups.next_time(now));
                let first = sooner(self.earliest_ungrouped(store, number)?, in_groups);
                Ok(first.map(|at| at.max(free).max(resumed)))
            }
            None => Ok(None),
        }
    }

    /// Returns the earliest `deliver_at` of a waiting task, whatever holds it back.
    pub(crate) fn earliest(&self, store: &dyn Read, number: u32) -> Result<Option<Millis>, Fault> {
        Ok(sooner(self.earliest_ungrouped(store, number)?, self.first_grouped(store, number)?))
    }

    /// Returns the earliest `deliver_at` of a task that waits without a group.
    pub(crate) fn earliest_ungrouped(&self, store: &dyn Read, number: u32) -> Result<Option<Millis>, Fault> {
        let mut earliest = None;
        for line in self.queue(number)?.lines.iter().filter(|line| line.waiting > 0) {
            let first = locate(
                store,
                &line.head,
                |(at, id)| key::schedule(number, line.priority, Millis(at), z4_types::TaskId(id)),
                &key::schedule_end(number, line.priority),
                |key| key::read_schedule(key).map(|(at, id)| (at.0, id.0)),
            )?;
            earliest = sooner(earliest, first);
        }
        Ok(earliest)
    }

    /// Returns the queues into whose lines tasks were put since the last call, each once, be they new, given back, failed
    /// or lapsed: a task may be due there sooner than was known. In no other queue is one.
    pub fn take_touched(&mut self) -> impl Iterator<Item = &QueueName> {
        let touched = std::mem::take(&mut self.touched);
        for &number in &touched {
            if let Some(queue) = &mut self.queues[number as usize] {
                queue.touched = false;
            }
        }
        touched.into_iter().filter_map(|number| Some(&self.queues[number as usize].as_ref()?.name))
    }

    /// Returns when an Advance is next worth proposing: the earliest lease end, TTL or eviction. It may be in the past.
    /// Evictions, of requests, keys and finished tasks, alone are not urgent, other entries do them on their way: they count a minute late.
    ///
    /// # Errors
    /// If storage fails.
    pub fn next_deadline(&self, store: &dyn Read) -> Result<Option<Millis>, Fault> {
        let evict = self.first_request(store)?.map(|at| at + Duration(REQUEST_WINDOW_MS) + EVICTION_SLACK);
        let finished = self.first_eviction(store)?.map(|(at, _)| at + EVICTION_SLACK);
        let groups = sooner(self.next_groups(), self.next_removal());
        let late = sooner(sooner(evict, finished), sooner(self.key_deadline(store)?, groups));
        let urgent = sooner(self.first_lease(store)?, self.first_ttl(store)?);
        let followed = self.has_endings(store)?.then_some(self.meta.now);
        Ok(sooner(sooner(followed, urgent), late))
    }

    /// Returns when the earliest lease ends.
    pub(crate) fn first_lease(&self, store: &dyn Read) -> Result<Option<Millis>, Fault> {
        let from = |(until, token): Point| key::lease(Millis(until), Token(token as u64));
        locate(store, &self.leases, from, key::LEASES[1], |key| {
            key::read_lease(key).map(|(until, token)| (until.0, token.0.into()))
        })
    }

    /// Returns when the earliest TTL ends.
    pub(crate) fn first_ttl(&self, store: &dyn Read) -> Result<Option<Millis>, Fault> {
        let from = |(at, id): Point| key::ttl(Millis(at), z4_types::TaskId(id));
        locate(store, &self.ttls, from, key::TTLS_END, |key| key::read_ttl(key).map(|(at, id)| (at.0, id.0)))
    }

    /// Returns when the oldest remembered request was made.
    pub(crate) fn first_request(&self, store: &dyn Read) -> Result<Option<Millis>, Fault> {
        let from =
            |(at, request): Point| key::eviction(Millis(at), z4_types::RequestId(request), key::Scope::Batch);
        locate(store, &self.requests, from, key::EVICTIONS_END, |key| {
            key::read_eviction(key).map(|(at, request, _)| (at.0, request.0))
        })
    }

    /// Returns the queue called `name`, with its number.
    pub(crate) fn named(&self, name: &str) -> Option<(u32, &Queue)> {
        let number = *self.names.get(name)?;
        self.queues[number as usize].as_ref().map(|queue| (number, queue))
    }

    /// Returns the number of the queue called `name`, which it makes on first use.
    pub(crate) fn intern(&mut self, store: &mut dyn Store, name: &str) -> u32 {
        if let Some(&number) = self.names.get(name) {
            return number;
        }
        let number = self.free.pop_first().unwrap_or_else(|| {
            self.queues.push(None);
            self.meta.next_queue += 1;
            self.meta.next_queue - 1
        });
        // Put: name and number may have been another queue's.
        store.put(&key::name(name), &number.to_le_bytes());
        let effective = self.resolve(name, None);
        let mut queue =
            Queue::new(QueueName::new(name).expect("validated when the entry was read"), effective);
        // Its record is written at the entry's end, with its counters.
        queue.dirty = true;
        self.dirty.push(number);
        self.queues[number as usize] = Some(queue);
        self.names.insert(name.into(), number);
        number
    }

    /// Forgets a queue that holds no task. Its number is free for another one.
    pub(crate) fn forget_queue(&mut self, store: &mut dyn Store, number: u32) -> Result<(), Fault> {
        self.forget_groups(store, number)?;
        self.forget_stream(store, number)?;
        let Some(queue) = self.queues[number as usize].take() else { return Ok(()) };
        let name = queue.name.as_str();
        store.delete(&key::name(name));
        store.delete(&key::queue(number));
        if queue.config.is_some() {
            store.delete(&key::config(number));
        }
        self.names.remove(name);
        self.free.insert(number);
        self.dirty.retain(|dirty| *dirty != number);
        self.touched.retain(|touched| *touched != number);
        Ok(())
    }

    /// Returns a queue.
    ///
    /// # Errors
    /// If a row names a queue that has no record.
    #[inline]
    pub(crate) fn queue(&self, number: u32) -> Result<&Queue, Fault> {
        let queue = self.queues.get(number as usize).and_then(Option::as_ref);
        queue.ok_or_else(|| Fault::corrupt(format!("a row names queue {number}, which has no record")))
    }

    /// Returns a queue to change; its record is written at the entry's end.
    ///
    /// # Errors
    /// If a row names a queue that has no record.
    pub(crate) fn queue_mut(&mut self, number: u32) -> Result<&mut Queue, Fault> {
        let Some(queue) = self.queues.get_mut(number as usize).and_then(Option::as_mut) else {
            return Err(Fault::corrupt(format!("a row names queue {number}, which has no record")));
        };
        if !queue.dirty {
            queue.dirty = true;
            self.dirty.push(number);
        }
        Ok(queue)
    }

    /// Writes the meta row and the records of the queues that changed.
    ///
    /// # Errors
    /// If storage fails, or the counts by due time contradict each other.
    pub(crate) fn write_records(&mut self, store: &mut dyn Store) -> Result<(), Fault> {
        for number in std::mem::take(&mut self.dirty) {
            let Some(queue) = &mut self.queues[number as usize] else { continue };
            queue.dirty = false;
            queue.steps.write(store, number, self.meta.now)?;
            self.write_groups(store, number)?;
            self.write_stream(store, number);
            let Some(queue) = &mut self.queues[number as usize] else { continue };
            self.buffer.clear();
            queue.write(&mut self.buffer);
            store.put(&key::queue(number), &self.buffer);
        }
        self.buffer.clear();
        self.meta.write(&mut self.buffer);
        store.put(&key::META, &self.buffer);
        Ok(())
    }
}

/// Counts the waiting tasks of a queue by due time, which its record, of version 1, does not.
fn count_steps(store: &dyn Read, number: u32, queue: &mut Queue) -> Result<(), Fault> {
    let mut counted = Ok(());
    let priorities: Vec<u8> = queue.lines.iter().map(|line| line.priority).collect();
    for priority in priorities {
        let from = key::schedule(number, priority, Millis(0), z4_types::TaskId(0));
        store.scan(&from, &key::schedule_end(number, priority), &mut |key, _| {
            counted =
                key::read_schedule(key).map_err(Fault::from).and_then(|(at, _)| queue.steps.count(at, 1));
            counted.is_ok()
        })?;
        if counted.is_err() {
            break;
        }
    }
    counted
}

fn sooner(a: Option<Millis>, b: Option<Millis>) -> Option<Millis> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// Returns the time of the first row of an index, reading storage only if the head does not know.
pub(crate) fn locate<K: AsRef<[u8]>>(
    store: &dyn Read,
    head: &Cell<Head>,
    from: impl FnOnce(Point) -> K,
    to: &[u8],
    read: impl Fn(&[u8]) -> Result<Point, crate::codec::Malformed>,
) -> Result<Option<Millis>, Fault> {
    let low = match head.get().first() {
        First::Nothing => return Ok(None),
        First::At(point) => return Ok(Some(Millis(point.0))),
        First::From(low) => low,
    };
    let mut first = None;
    store.scan(from(low).as_ref(), to, &mut |key, _| {
        first = Some(read(key));
        false
    })?;
    let first = first.transpose()?;
    head.set(first.map_or(Head::EMPTY, Head::at));
    Ok(first.map(|point| Millis(point.0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::NewTask;
    use crate::{EntryBuilder, MemoryStore, encode_create};

    fn create(queue: &str, count: usize) -> bytes::Bytes {
        let mut entry = EntryBuilder::new(Millis(1));
        let queue = QueueName::new(queue).expect("valid");
        entry.push_encoded(&encode_create(&queue, None, &vec![NewTask::default(); count]));
        entry.finish()
    }

    #[test]
    fn queues_are_touched_once_and_the_largest_are_those_with_most_to_do() {
        let mut store = MemoryStore::new();
        let mut machine = Machine::open(ShardId(1), &store).expect("an empty store");
        for (queue, count) in [("a", 2), ("b", 1), ("c", 3), ("a", 2)] {
            machine.apply(&mut store, &create(queue, count)).expect("applies");
        }
        let touched = |machine: &mut Machine| {
            machine.take_touched().map(|queue| queue.as_str().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(touched(&mut machine), ["a", "b", "c"]);
        assert!(touched(&mut machine).is_empty());
        let mut largest: Vec<_> = machine.largest(2).into_iter().map(|(_, stats)| stats.waiting).collect();
        largest.sort_unstable();
        assert_eq!(largest, [3, 4]);
        assert_eq!(machine.largest(9).len(), 3);
    }
}
