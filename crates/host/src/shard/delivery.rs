//! Who waits for tasks, how much they can take, and which Lease commands to propose for them.
//!
//! The consumers of a queue form a line. Those that can take a task stand in a ring: each Lease goes to the next one, so
//! work spreads evenly. Credit is taken when a Lease is proposed and given back for what it did not pick. Nothing here is
//! replicated: a new leader starts with the consumers that connect to it.
//!
//! # Invariants
//! - A consumer is in the ring of its line, once, if and only if it is hungry: it has credit, and room in the outbox as
//!   far as was last seen. The ring may name consumers that are closed.
//! - `Line::asked` and `Line::coming` are sums over what is proposed and not applied: tasks asked for by Leases, tasks
//!   made due by creates. A line that is new since may lack some: that costs a round trip, never a task.
//! - A line for which a Lease may be worth it is on the agenda: whatever makes a hungry consumer or a due task marks it.
//! # Not here
//! - Which task is next: the state machine decides, the same on every replica.
//! - What fits into the outbox: `room.rs`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use z4_tasks::command::Command;
use z4_types::limits::LEASE_TASKS_MAX;
use z4_types::{Duration, Millis, QueueName};

use super::agenda::{Agenda, LineId};
use super::call::{Delivery, Waiters};
use super::room::{Room, Weights, room};
use crate::budget::{Budget, Permit};
use crate::error::Error;

/// Most tasks asked for in one entry, all queues together: bounds what one apply does.
const LEASED_PER_ENTRY_MAX: u64 = 4_096;
/// A share smaller than this is not worth splitting further when a backlog is waiting.
const SHARE_MIN: u64 = 16;
/// How long leasing waits when too much is on its way to consumers: nobody tells when the sockets have taken something.
const OUTBOX_RETRY: Duration = Duration(10);
/// So many consumers that do not read are looked at on every occasion; more of them less often, by a millisecond each
/// time they are so many.
const SATED_CHEAP: usize = 64;
/// Ids of closed consumers that a ring may name besides as many as are hungry.
const RING_SLACK: usize = 16;

/// Names a consumer on one host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConsumerId(pub u64);

/// Takes a consumer's tasks. Called on the driver's thread: must not block.
pub trait Deliver: Send {
    /// Takes tasks; returns false if the consumer is gone, then they are released at once.
    fn deliver(&mut self, tasks: Vec<Delivery>) -> bool;
    /// Says that no more tasks come, and why.
    fn closed(&mut self, why: Error);
}

pub(crate) struct Waiting {
    line: LineId,
    name: String,
    lease: Duration,
    tasks: u32,
    /// Below zero: the last Lease picked a task larger than its share, and the rest is owed.
    bytes: i64,
    /// It has not taken what is on its way to it, as far as was last seen.
    sated: bool,
    /// Stands in the ring.
    hungry: bool,
    /// Its part of the outbox: what is on its way to it, or reserved for a Lease.
    pub(crate) outbox: Arc<Budget>,
    pub(crate) sink: Box<dyn Deliver>,
}

struct Line {
    queue: QueueName,
    /// Its consumers, hungry or not.
    members: usize,
    ring: VecDeque<ConsumerId>,
    /// Its hungry consumers.
    hungry: u64,
    asked: u64,
    /// Tasks that are due at once, in creates that are proposed and not applied.
    coming: u64,
    weights: Weights,
}

/// A Lease that was proposed.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) consumer: ConsumerId,
    line: LineId,
    pub(crate) tasks: u32,
    pub(crate) bytes: u64,
    /// What its tasks may take of the outbox, in the consumer's part.
    pub(crate) reserved: Permit,
}

/// What a queue has, for a look at its line.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Backlog {
    /// When the earliest task is due; None if none waits.
    pub(crate) next_due: Option<Millis>,
    /// Tasks that wait, due or not.
    pub(crate) waiting: u64,
}

/// All consumers of one shard on this host.
pub(crate) struct Consumers {
    by_id: BTreeMap<ConsumerId, Waiting>,
    lines: BTreeMap<LineId, Line>,
    names: BTreeMap<QueueName, LineId>,
    agenda: Agenda,
    next_line: u64,
    /// Consumers that have credit and have not taken what is on its way to them.
    sated: BTreeSet<ConsumerId>,
    /// When they are looked at again.
    sated_until: Millis,
    /// The outbox was full: when it is looked at again.
    full_until: Option<Millis>,
    /// Bounds the bytes on their way to consumers, all shards of the host together.
    outbox: Arc<Budget>,
}

impl Consumers {
    pub(crate) fn new(outbox: Arc<Budget>) -> Self {
        Self {
            by_id: BTreeMap::new(),
            lines: BTreeMap::new(),
            names: BTreeMap::new(),
            agenda: Agenda::default(),
            next_line: 0,
            sated: BTreeSet::new(),
            sated_until: Millis(0),
            full_until: None,
            outbox,
        }
    }

    pub(crate) fn open(
        &mut self,
        id: ConsumerId,
        queue: QueueName,
        name: String,
        lease: Duration,
        sink: Box<dyn Deliver>,
    ) {
        let line = *self.names.entry(queue).or_insert_with_key(|queue| {
            let line = LineId(self.next_line);
            self.next_line += 1;
            self.lines.insert(line, Line::new(queue.clone()));
            line
        });
        self.lines.get_mut(&line).expect("a name leads to a line").members += 1;
        let outbox = self.outbox.part();
        let consumer =
            Waiting { line, name, lease, tasks: 0, bytes: 0, sated: false, hungry: false, outbox, sink };
        self.by_id.insert(id, consumer);
    }

    pub(crate) fn close(&mut self, id: ConsumerId) -> Option<Waiting> {
        let consumer = self.by_id.remove(&id)?;
        self.sated.remove(&id);
        let line = self.lines.get_mut(&consumer.line).expect("a consumer stands in a line");
        line.members -= 1;
        line.hungry -= u64::from(consumer.hungry);
        if line.members == 0 {
            self.names.remove(&line.queue);
            self.lines.remove(&consumer.line);
            self.agenda.forget(consumer.line);
        } else if line.ring.len() > 2 * line.hungry as usize + RING_SLACK {
            line.ring.retain(|other| self.by_id.contains_key(other));
        }
        Some(consumer)
    }

    pub(crate) fn close_all(&mut self) -> impl Iterator<Item = Waiting> + use<> {
        let next_line = self.next_line;
        let all = std::mem::replace(self, Self { next_line, ..Self::new(Arc::clone(&self.outbox)) });
        all.by_id.into_values()
    }

    pub(crate) fn credit(&mut self, id: ConsumerId, tasks: u32, bytes: u64) {
        self.change(id, |consumer| {
            consumer.tasks = consumer.tasks.saturating_add(tasks);
            consumer.bytes = consumer.bytes.saturating_add_unsigned(bytes);
        });
    }

    /// Returns how many consumers a queue has, and how many of them would take a task.
    pub(crate) fn waiting(&self, queue: &QueueName) -> Waiters {
        let line = self.names.get(queue).and_then(|line| self.lines.get(line));
        line.map_or(Waiters::default(), |line| Waiters {
            consumers: line.members as u64,
            hungry: line.hungry,
        })
    }

    /// Takes note of a create that is proposed: `tasks` of it are due at once.
    pub(crate) fn coming(&mut self, queue: &QueueName, tasks: u32) {
        let Some(line) = self.names.get(queue) else { return };
        self.lines.get_mut(line).expect("a name leads to a line").coming += u64::from(tasks);
        self.agenda.mark(*line);
    }

    /// Takes note that the create is applied.
    pub(crate) fn came(&mut self, queue: &QueueName, tasks: u32) {
        let Some(line) = self.names.get(queue) else { return };
        let line = self.lines.get_mut(line).expect("a name leads to a line");
        line.coming = line.coming.saturating_sub(tasks.into());
    }

    /// Takes note that a task was put into the queue's line: it may be due before all that were known.
    pub(crate) fn touched(&mut self, queue: &QueueName) {
        if let Some(line) = self.names.get(queue) {
            self.agenda.mark(*line);
        }
    }

    pub(crate) fn get_mut(&mut self, id: ConsumerId) -> Option<&mut Waiting> {
        self.by_id.get_mut(&id)
    }

    /// Returns when [`Consumers::ask_all`] is next worth a call.
    pub(crate) fn next_look(&self) -> Option<Millis> {
        let next = self.full_until.or_else(|| self.agenda.first());
        let sated = (!self.sated.is_empty()).then_some(self.sated_until);
        next.into_iter().chain(sated).min()
    }

    /// Returns the Leases worth proposing in one entry at `now`; `backlog` says what a queue has.
    ///
    /// # Errors
    /// What `backlog` returns.
    pub(crate) fn ask_all<E>(
        &mut self,
        now: Millis,
        mut backlog: impl FnMut(&QueueName) -> Result<Backlog, E>,
    ) -> Result<Vec<(Command, Asked)>, E> {
        self.look_at_sated(now);
        let mut out = Vec::new();
        // Its first line finds out whether that is still so.
        self.full_until = None;
        self.agenda.advance(now);
        let mut tasks = LEASED_PER_ENTRY_MAX;
        for _ in 0..self.agenda.marks() {
            let Some(id) = self.agenda.next() else { break };
            let Some(line) = self.lines.get(&id) else { continue };
            if line.hungry == 0 {
                continue;
            }
            let found = backlog(&line.queue)?;
            self.ask(id, found, now, &mut tasks, &mut out);
            if tasks == 0 || self.full_until.is_some() {
                break;
            }
        }
        Ok(out)
    }

    /// Adds the Leases of one line; Leases under way count against what is due, creates under way add to it.
    fn ask(
        &mut self,
        id: LineId,
        found: Backlog,
        now: Millis,
        room_tasks: &mut u64,
        out: &mut Vec<(Command, Asked)>,
    ) {
        let line = self.lines.get_mut(&id).expect("the caller looked");
        let due = found.next_due.is_some_and(|at| at <= now);
        let expected = if due { found.waiting } else { 0 };
        let wanted = (expected + line.coming).saturating_sub(line.asked);
        let mut rest = wanted.min(*room_tasks);
        let share = if rest == 0 { 0 } else { rest.div_ceil(line.hungry).max(rest.min(SHARE_MIN)) };
        let mut left = wanted;
        for _ in 0..line.ring.len() {
            if rest == 0 {
                break;
            }
            let Some(name) = line.ring.pop_front() else { break };
            let Some(consumer) = self.by_id.get_mut(&name) else { continue };
            let bytes = match room(&self.outbox, &consumer.outbox, line.weights.one()) {
                Room::Bytes(bytes) => bytes,
                Room::Sated => {
                    (consumer.sated, consumer.hungry) = (true, false);
                    line.hungry -= 1;
                    if self.sated.is_empty() {
                        self.sated_until = now + OUTBOX_RETRY;
                    }
                    self.sated.insert(name);
                    continue;
                }
                Room::Full => {
                    // Its turn comes first when there is room: small tasks of others must not starve a large one.
                    line.ring.push_front(name);
                    self.full_until = Some(now + OUTBOX_RETRY);
                    self.agenda.mark_first(id);
                    return;
                }
            };
            let (command, asked) = consumer.lease(name, line, share, bytes);
            consumer.hungry = consumer.can_take();
            if consumer.hungry {
                line.ring.push_back(name);
            } else {
                line.hungry -= 1;
            }
            let tasks = u64::from(asked.tasks);
            line.asked += tasks;
            left = left.saturating_sub(tasks);
            rest = rest.saturating_sub(tasks);
            *room_tasks = room_tasks.saturating_sub(tasks);
            out.push((command, asked));
        }
        if left > 0 && line.hungry > 0 {
            self.agenda.mark(id);
        } else if let Some(at) = found.next_due.filter(|_| !due) {
            self.agenda.at(id, at);
        }
        // Otherwise all that is due is asked for, and the answer marks the line; or nobody is hungry, and credit does.
    }

    /// Settles the credit of a Lease that was applied: `tasks` of `bytes` are handed over.
    pub(crate) fn answered(&mut self, asked: &Asked, tasks: u32, bytes: u64) {
        if let Some(line) = self.lines.get_mut(&asked.line) {
            line.asked = line.asked.saturating_sub(u64::from(asked.tasks));
            self.agenda.mark(asked.line);
        }
        // What was reserved may be free again.
        self.full_until = None;
        self.sated.remove(&asked.consumer);
        self.change(asked.consumer, |consumer| {
            consumer.sated = false;
            consumer.tasks = consumer.tasks.saturating_add(asked.tasks.saturating_sub(tasks));
            consumer.bytes =
                consumer.bytes.saturating_add_unsigned(asked.bytes).saturating_sub_unsigned(bytes);
        });
    }

    /// Takes note of what the tasks of a Lease weigh: their largest payload and metadata, bytes.
    pub(crate) fn learn(&mut self, asked: &Asked, payload: usize, metadata: usize) {
        if let Some(line) = self.lines.get_mut(&asked.line) {
            line.weights.learn(payload, metadata);
        }
    }

    /// Lets those be hungry again who have taken what was on its way to them.
    fn look_at_sated(&mut self, now: Millis) {
        if self.sated.len() > SATED_CHEAP && now < self.sated_until {
            return;
        }
        self.sated_until = now + OUTBOX_RETRY + Duration((self.sated.len() / SATED_CHEAP) as u64);
        let (by_id, lines, outbox) = (&self.by_id, &self.lines, &self.outbox);
        let ready = |id: &ConsumerId| {
            let consumer = &by_id[id];
            room(outbox, &consumer.outbox, lines[&consumer.line].weights.one()) != Room::Sated
        };
        let ready: Vec<ConsumerId> = self.sated.iter().copied().filter(ready).collect();
        for id in ready {
            self.sated.remove(&id);
            self.change(id, |consumer| consumer.sated = false);
        }
    }

    /// Changes what a consumer can take and puts it into the ring if it is hungry now. An unknown consumer was closed
    /// meanwhile.
    fn change(&mut self, id: ConsumerId, change: impl FnOnce(&mut Waiting)) {
        let Some(consumer) = self.by_id.get_mut(&id) else { return };
        change(consumer);
        let can_take = consumer.can_take();
        if can_take == consumer.hungry {
            return;
        }
        consumer.hungry = can_take;
        let line = self.lines.get_mut(&consumer.line).expect("a consumer stands in a line");
        if can_take {
            line.hungry += 1;
            line.ring.push_back(id);
            self.agenda.mark(consumer.line);
        } else {
            line.hungry -= 1;
            line.ring.retain(|other| *other != id);
        }
    }
}

impl Line {
    fn new(queue: QueueName) -> Self {
        let weights = Weights::default();
        Self { queue, members: 0, ring: VecDeque::new(), hungry: 0, asked: 0, coming: 0, weights }
    }
}

impl Waiting {
    fn can_take(&self) -> bool {
        self.tasks > 0 && self.bytes > 0 && !self.sated
    }

    /// Takes the credit and the room of one Lease: at most `share` tasks in `room` bytes of the outbox.
    fn lease(&mut self, id: ConsumerId, line: &Line, share: u64, room: usize) -> (Command, Asked) {
        let most = u32::try_from(share).unwrap_or(u32::MAX).min(self.tasks).min(LEASE_TASKS_MAX);
        let (tasks, fitting) = line.weights.fit(room, most);
        // Its part of the byte credit; a Lease picks at least one task whatever the bytes.
        let credit = (self.bytes.cast_unsigned() / u64::from(self.tasks)).saturating_mul(u64::from(tasks));
        let bytes = credit.min(fitting as u64).max(1);
        let command = Command::Lease {
            queue: line.queue.clone(),
            consumer: self.name.clone(),
            max: tasks,
            max_bytes: bytes,
            ttl: self.lease,
        };
        self.tasks -= tasks;
        self.bytes = self.bytes.saturating_sub_unsigned(bytes);
        let reserved = self.outbox.take_always(line.weights.reserve(tasks, bytes));
        (command, Asked { consumer: id, line: self.line, tasks, bytes, reserved })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nobody;
    impl Deliver for Nobody {
        fn deliver(&mut self, _: Vec<Delivery>) -> bool {
            true
        }
        fn closed(&mut self, _: Error) {}
    }

    fn queue() -> QueueName {
        QueueName::new("mail").expect("valid")
    }

    fn nobody() -> Consumers {
        Consumers::new(Budget::new(48 << 20))
    }

    fn consumers(credits: &[u32]) -> Consumers {
        let mut all = nobody();
        for (n, credit) in credits.iter().enumerate() {
            let id = ConsumerId(n as u64);
            all.open(id, queue(), format!("c{n}"), Duration(1_000), Box::new(Nobody));
            all.credit(id, *credit, 1 << 20);
        }
        all
    }

    /// Asks when every queue has so many tasks due.
    fn leases(consumers: &mut Consumers, expected: u64) -> Vec<Asked> {
        let queues: Vec<_> = consumers.names.keys().cloned().collect();
        queues.iter().for_each(|queue| consumers.touched(queue));
        let backlog = Backlog { next_due: (expected > 0).then_some(Millis(0)), waiting: expected };
        let asked: Result<_, ()> = consumers.ask_all(Millis(0), |_| Ok(backlog));
        asked.expect("nothing fails here").into_iter().map(|(_, asked)| asked).collect()
    }

    fn asked(consumers: &mut Consumers, expected: u64) -> Vec<(u64, u32)> {
        leases(consumers, expected).into_iter().map(|a| (a.consumer.0, a.tasks)).collect()
    }

    fn hungry(consumers: &Consumers) -> u64 {
        consumers.lines.values().map(|line| line.hungry).sum()
    }

    #[test]
    fn work_is_shared_evenly_and_single_tasks_go_round() {
        let mut all = consumers(&[1_000, 1_000, 0, 1_000]);
        assert_eq!(asked(&mut all, 300), [(0, 100), (1, 100), (3, 100)]);
        let mut all = consumers(&[10, 10]);
        assert_eq!(asked(&mut all, 1), [(0, 1)]);
        assert_eq!(asked(&mut all, 2), [(1, 1)], "one more than is asked for already");
    }

    #[test]
    fn credit_is_never_exceeded_and_comes_back_when_nothing_was_due() {
        let mut all = consumers(&[5]);
        let first = leases(&mut all, 100).pop().expect("asks");
        assert_eq!(first.tasks, 5);
        assert!(asked(&mut all, 100).is_empty(), "no credit is left");
        all.answered(&first, 2, 10);
        assert_eq!(asked(&mut all, 100), [(0, 3)]);
    }

    #[test]
    fn tasks_in_a_create_under_way_are_asked_for_once() {
        let mut all = consumers(&[1_000]);
        all.coming(&queue(), 100);
        assert_eq!(asked(&mut all, 0), [(0, 100)]);
        all.coming(&queue(), 50);
        assert_eq!(asked(&mut all, 0), [(0, 50)], "the first hundred are asked for already");
        all.came(&queue(), 100);
        assert!(asked(&mut all, 100).is_empty());
    }

    #[test]
    fn one_entry_asks_for_a_bounded_number_and_every_queue_has_its_turn() {
        let mut all = nobody();
        for n in 0..8 {
            let name = QueueName::new(&format!("q{n}")).expect("valid");
            all.open(ConsumerId(n), name, "c".into(), Duration(1_000), Box::new(Nobody));
            all.credit(ConsumerId(n), 10_000, 1 << 20);
        }
        let first = leases(&mut all, 10_000);
        assert_eq!(first.iter().map(|a| a.consumer.0).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
        let second = leases(&mut all, 10_000);
        assert_eq!(second[0].consumer.0, 5);
        assert!(second.iter().map(|a| u64::from(a.tasks)).sum::<u64>() <= LEASED_PER_ENTRY_MAX);
    }

    #[test]
    fn a_task_larger_than_the_byte_credit_is_delivered_and_the_rest_is_owed() {
        let mut all = consumers(&[10]);
        let asked = leases(&mut all, 1).pop().expect("asks");
        all.answered(&asked, 1, 3 << 20);
        assert_eq!(hungry(&all), 0, "two MiB are owed");
        all.credit(ConsumerId(0), 0, 2 << 20);
        assert_eq!(hungry(&all), 0, "nothing is owed, nothing is left");
        all.credit(ConsumerId(0), 0, 1);
        assert_eq!(hungry(&all), 1);
    }

    #[test]
    fn a_queue_whose_last_consumer_left_asks_for_nothing() {
        let mut all = consumers(&[5]);
        all.close(ConsumerId(0));
        assert_eq!(hungry(&all), 0);
        assert!(asked(&mut all, 100).is_empty());
    }

    #[test]
    fn a_queue_in_which_nothing_happens_costs_nothing() {
        let mut all = nobody();
        for n in 0..1_000 {
            let name = QueueName::new(&format!("q{n}")).expect("valid");
            all.open(ConsumerId(n), name, "c".into(), Duration(1_000), Box::new(Nobody));
            all.credit(ConsumerId(n), 10, 1 << 20);
        }
        let looked_at = |all: &mut Consumers, now: u64, next_due: Option<u64>| {
            let mut looked = Vec::new();
            let asked: Result<_, ()> = all.ask_all(Millis(now), |queue| {
                looked.push(queue.as_str().to_owned());
                Ok(Backlog { next_due: next_due.map(Millis), waiting: 1 })
            });
            (looked, asked.expect("nothing fails here").len())
        };
        assert_eq!(looked_at(&mut all, 0, None).0.len(), 1_000, "credit is worth a look");
        assert_eq!((looked_at(&mut all, 0, None).0.len(), all.next_look()), (0, None));
        all.touched(&QueueName::new("q7").expect("valid"));
        assert_eq!(all.next_look(), Some(Millis(0)));
        assert_eq!(looked_at(&mut all, 5, Some(50)), (vec!["q7".to_owned()], 0));
        assert_eq!(all.next_look(), Some(Millis(50)));
        assert_eq!(looked_at(&mut all, 49, Some(50)).0.len(), 0);
        assert_eq!(looked_at(&mut all, 50, Some(50)), (vec!["q7".to_owned()], 1), "its time has come");
        assert_eq!(all.next_look(), None, "the answer tells what is next");
    }

    #[test]
    fn rings_do_not_grow_with_consumers_that_come_and_go() {
        let mut all = consumers(&[5]);
        for n in 1..1_000 {
            all.open(ConsumerId(n), queue(), "c".into(), Duration(1_000), Box::new(Nobody));
            all.credit(ConsumerId(n), 1, 1);
            all.close(ConsumerId(n));
        }
        let line = all.lines.values().next().expect("the line of the first");
        assert!(line.ring.len() <= 4 + RING_SLACK, "{} names", line.ring.len());
        assert_eq!(asked(&mut all, 3), [(0, 3)]);
    }
}
