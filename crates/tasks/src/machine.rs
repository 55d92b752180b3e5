//! The machine of one shard: what it keeps in memory, and what callers may ask of it.
//!
//! Everything that matters is in rows. The machine holds the meta row and the queue records (a few words per queue) as
//! values while an entry is applied, and writes those that changed once at the entry's end. Beyond them it holds only
//! [heads](crate::head), which are caches.
//!
//! # Invariants
//! - Between entries, memory equals the rows: see [`Machine::check`], run by the simulator after applies.
//! - Opening costs a read per queue, not per task.
//! # Caveats
//! - After a [`Fault`] memory and rows may disagree: drop the machine, the replica must stop.
//! - Queues are never removed; a shard takes at most `QUEUES_PER_SHARD_MAX`.

use std::cell::Cell;
use std::collections::BTreeMap;

use z4_types::limits::REQUEST_WINDOW_MS;
use z4_types::{Duration, Millis, QueueName, ShardId, Token};

use crate::dedup::EVICTION_SLACK;
use crate::head::{First, Head, Point};
use crate::queue::Queue;
use crate::rows::{Meta, QueueRecord, key};
use crate::stats::QueueStats;
use crate::{Fault, Read, Store};

/// The task state machine of one shard. See the module essay.
#[derive(Debug)]
pub struct Machine {
    pub(crate) shard: ShardId,
    pub(crate) meta: Meta,
    /// By queue number. Invariant: `queues.len() == meta.next_queue`.
    pub(crate) queues: Vec<Queue>,
    /// Invariant: names every queue, once.
    pub(crate) names: BTreeMap<Box<str>, u32>,
    /// Numbers of the queues that are dirty, each once. Empty between entries.
    pub(crate) dirty: Vec<u32>,
    /// Numbers of the queues that are touched, each once.
    pub(crate) touched: Vec<u32>,
    /// Heads of the lease, TTL and eviction rows.
    pub(crate) leases: Cell<Head>,
    pub(crate) ttls: Cell<Head>,
    pub(crate) requests: Cell<Head>,
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
        let mut queues = Vec::new();
        let mut failed = None;
        let [from, to] = key::QUEUES;
        store.scan(from, to, &mut |key, value| match QueueRecord::read(value) {
            Ok(record) if key == key::queue(queues.len() as u32) => {
                queues.push(Queue::from_record(record));
                true
            }
            Ok(record) => {
                failed =
                    Some(Fault::corrupt(format!("queue {} is not number {}", record.name, queues.len())));
                false
            }
            Err(malformed) => {
                failed = Some(malformed.into());
                false
            }
        })?;
        if let Some(fault) = failed {
            return Err(fault);
        }
        if queues.len() != meta.next_queue as usize {
            return Err(Fault::corrupt(format!(
                "{} queue records, the meta row counts {}",
                queues.len(),
                meta.next_queue
            )));
        }
        let names = (0..).zip(&queues).map(|(number, queue)| (queue.name.as_str().into(), number)).collect();
        Ok(Self {
            shard,
            meta,
            queues,
            names,
            dirty: Vec::new(),
            touched: Vec::new(),
            leases: Cell::new(Head::UNKNOWN),
            ttls: Cell::new(Head::UNKNOWN),
            requests: Cell::new(Head::UNKNOWN),
            remembered: 0,
            buffer: Vec::new(),
            #[cfg(feature = "bug-dedup-lost-at-restart")]
            opened_at: meta.now,
        })
    }

    /// Returns shard time: the largest `now` of any entry applied.
    #[must_use]
    pub fn now(&self) -> Millis {
        self.meta.now
    }

    /// Returns the counters of a queue; None if it does not exist. No storage is read.
    #[must_use]
    pub fn stats(&self, queue: &QueueName) -> Option<QueueStats> {
        let number = *self.names.get(queue.as_str())?;
        Some(self.queues[number as usize].stats)
    }

    /// Returns the sum of all queues' counters.
    #[must_use]
    pub fn totals(&self) -> QueueStats {
        self.queues.iter().fold(QueueStats::default(), |sum, queue| sum.plus(&queue.stats))
    }

    /// Returns all queues with their counters, in order of name.
    pub fn queues(&self) -> impl ExactSizeIterator<Item = (&QueueName, QueueStats)> {
        self.names.values().map(|&number| {
            let queue = &self.queues[number as usize];
            (&queue.name, queue.stats)
        })
    }

    /// Returns the `limit` queues with the largest backlogs, in no order. Copies no others.
    #[must_use]
    pub fn largest(&self, limit: usize) -> Vec<(QueueName, QueueStats)> {
        let mut backlogs: Vec<(u64, u32)> =
            (0..).zip(&self.queues).map(|(number, queue)| (queue.stats.backlog(), number)).collect();
        if backlogs.len() > limit {
            backlogs.select_nth_unstable_by_key(limit, |backlog| std::cmp::Reverse(*backlog));
            backlogs.truncate(limit);
        }
        let copy = |(_, number): (u64, u32)| {
            let queue = &self.queues[number as usize];
            (queue.name.clone(), queue.stats)
        };
        backlogs.into_iter().map(copy).collect()
    }

    /// Returns the earliest `deliver_at` of a waiting task of `queue`; it may be in the past, then a Lease picks it at
    /// once. None if nothing waits. Costs no read while the heads are known, which they are after every Lease.
    ///
    /// # Errors
    /// If storage fails.
    pub fn next_due(&self, store: &dyn Read, queue: &QueueName) -> Result<Option<Millis>, Fault> {
        let Some(&number) = self.names.get(queue.as_str()) else {
            return Ok(None);
        };
        let mut earliest = None;
        for line in self.queues[number as usize].lines.iter().filter(|line| line.waiting > 0) {
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
            self.queues[number as usize].touched = false;
        }
        touched.into_iter().map(|number| &self.queues[number as usize].name)
    }

    /// Returns when an Advance is next worth proposing: the earliest lease end, TTL or eviction. It may be in the past.
    /// Evictions alone are not urgent, other entries do them on their way: they count a minute late.
    ///
    /// # Errors
    /// If storage fails.
    pub fn next_deadline(&self, store: &dyn Read) -> Result<Option<Millis>, Fault> {
        let evict = self.first_request(store)?.map(|at| at + Duration(REQUEST_WINDOW_MS) + EVICTION_SLACK);
        Ok(sooner(sooner(self.first_lease(store)?, self.first_ttl(store)?), evict))
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

    /// Returns the number of the queue called `name`, which it makes on first use.
    pub(crate) fn intern(&mut self, store: &mut dyn Store, name: &str) -> u32 {
        if let Some(&number) = self.names.get(name) {
            return number;
        }
        let number = self.meta.next_queue;
        self.meta.next_queue += 1;
        store.insert(&key::name(name), &number.to_le_bytes());
        let mut queue = Queue::new(QueueName::new(name).expect("validated when the entry was read"));
        self.buffer.clear();
        queue.write(&mut self.buffer);
        store.insert(&key::queue(number), &self.buffer);
        // Written again at the entry's end, with its counters.
        queue.dirty = true;
        self.dirty.push(number);
        self.queues.push(queue);
        self.names.insert(name.into(), number);
        number
    }

    /// Returns a queue to change; its record is written at the entry's end.
    ///
    /// # Errors
    /// If a row names a queue that has no record.
    pub(crate) fn queue_mut(&mut self, number: u32) -> Result<&mut Queue, Fault> {
        let Some(queue) = self.queues.get_mut(number as usize) else {
            return Err(Fault::corrupt(format!("a row names queue {number}, which has no record")));
        };
        if !queue.dirty {
            queue.dirty = true;
            self.dirty.push(number);
        }
        Ok(queue)
    }

    /// Writes the meta row and the records of the queues that changed.
    pub(crate) fn write_records(&mut self, store: &mut dyn Store) {
        for number in std::mem::take(&mut self.dirty) {
            let queue = &mut self.queues[number as usize];
            queue.dirty = false;
            self.buffer.clear();
            queue.write(&mut self.buffer);
            store.put(&key::queue(number), &self.buffer);
        }
        self.buffer.clear();
        self.meta.write(&mut self.buffer);
        store.put(&key::META, &self.buffer);
    }
}

fn sooner(a: Option<Millis>, b: Option<Millis>) -> Option<Millis> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// Returns the time of the first row of an index, reading storage only if the head does not know.
fn locate<K: AsRef<[u8]>>(
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
    use crate::command::Due;
    use crate::{EntryBuilder, MemoryStore, encode_create};
    use z4_types::Priority;

    fn create(queue: &str, count: usize) -> bytes::Bytes {
        let task = crate::command::NewTask {
            payload: bytes::Bytes::new(),
            metadata: Vec::new(),
            due: Due::Now,
            priority: Priority::default(),
            max_attempts: None,
            retry: None,
            ttl: None,
            request: None,
        };
        let mut entry = EntryBuilder::new(Millis(1));
        let queue = QueueName::new(queue).expect("valid");
        entry.push_encoded(&encode_create(&queue, None, &vec![task; count]));
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
