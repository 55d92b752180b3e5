//! Who waits for tasks, how much they can take, and which Lease commands to propose for them.
//!
//! A queue's consumers form a ring: each Lease goes to the next one with credit, so work spreads evenly. Credit is
//! taken when a Lease is proposed and given back for what it did not pick. Nothing here is replicated: a new leader
//! starts with the consumers that connect to it.
//!
//! # Invariants
//! - A consumer is in the ring of its queue, and nowhere else.
//! - `Line::hungry` counts the consumers of the ring that can take a task.
//! - `Line::asked` and `Line::coming` are sums over what is proposed and not applied: tasks asked for by Leases, tasks
//!   made due by creates. A line that is new since may lack some: that costs a round trip, never a task.
//! # Not here
//! - Which task is next: the state machine decides, the same on every replica.

use std::collections::{BTreeMap, VecDeque};

use z4_tasks::command::Command;
use z4_types::limits::LEASE_TASKS_MAX;
use z4_types::{Duration, QueueName};

use super::call::Delivery;
use crate::error::Error;

/// Most tasks asked for in one entry, all queues together: bounds what one apply does.
const LEASED_PER_ENTRY_MAX: u64 = 4_096;
/// A share smaller than this is not worth splitting further when a backlog is waiting.
const SHARE_MIN: u64 = 16;

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
    pub(crate) queue: QueueName,
    name: String,
    lease: Duration,
    tasks: u32,
    /// Below zero: the last Lease picked a task larger than its share, and the rest is owed.
    bytes: i64,
    pub(crate) sink: Box<dyn Deliver>,
}

#[derive(Default)]
struct Line {
    ring: VecDeque<ConsumerId>,
    /// Of them, those that can take a task.
    hungry: u64,
    asked: u64,
    /// Tasks that are due at once, in creates that are proposed and not applied.
    coming: u64,
}

/// A Lease that was proposed.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) consumer: ConsumerId,
    pub(crate) queue: QueueName,
    pub(crate) tasks: u32,
    pub(crate) bytes: u64,
}

/// All consumers of one shard on this host.
#[derive(Default)]
pub(crate) struct Consumers {
    by_id: BTreeMap<ConsumerId, Waiting>,
    lines: BTreeMap<QueueName, Line>,
    /// Queue that was asked for last: the next entry begins behind it, so none starves another.
    last_asked: Option<QueueName>,
}

impl Consumers {
    pub(crate) fn open(
        &mut self,
        id: ConsumerId,
        queue: QueueName,
        name: String,
        lease: Duration,
        sink: Box<dyn Deliver>,
    ) {
        self.lines.entry(queue.clone()).or_default().ring.push_back(id);
        self.by_id.insert(id, Waiting { queue, name, lease, tasks: 0, bytes: 0, sink });
    }

    pub(crate) fn close(&mut self, id: ConsumerId) -> Option<Waiting> {
        let consumer = self.by_id.remove(&id)?;
        if let Some(line) = self.lines.get_mut(&consumer.queue) {
            line.ring.retain(|other| *other != id);
            line.hungry -= u64::from(consumer.can_take());
            if line.ring.is_empty() {
                self.lines.remove(&consumer.queue);
            }
        }
        Some(consumer)
    }

    pub(crate) fn close_all(&mut self) -> impl Iterator<Item = Waiting> + use<> {
        self.lines.clear();
        std::mem::take(&mut self.by_id).into_values()
    }

    pub(crate) fn credit(&mut self, id: ConsumerId, tasks: u32, bytes: u64) {
        self.change(id, |consumer| {
            consumer.tasks = consumer.tasks.saturating_add(tasks);
            consumer.bytes = consumer.bytes.saturating_add_unsigned(bytes);
        });
    }

    /// Takes note of a create that is proposed: `tasks` of it are due at once.
    pub(crate) fn coming(&mut self, queue: &QueueName, tasks: u32) {
        if let Some(line) = self.lines.get_mut(queue) {
            line.coming += u64::from(tasks);
        }
    }

    /// Takes note that the create is applied.
    pub(crate) fn came(&mut self, queue: &QueueName, tasks: u32) {
        if let Some(line) = self.lines.get_mut(queue) {
            line.coming = line.coming.saturating_sub(tasks.into());
        }
    }

    pub(crate) fn get_mut(&mut self, id: ConsumerId) -> Option<&mut Waiting> {
        self.by_id.get_mut(&id)
    }

    /// Returns the queues in which somebody can take a task.
    pub(crate) fn hungry_queues(&self) -> impl Iterator<Item = &QueueName> {
        self.lines.iter().filter(|(_, line)| line.hungry > 0).map(|(queue, _)| queue)
    }

    /// Returns the Leases worth proposing in one entry; `due(queue)` says how many tasks may be due there now.
    ///
    /// # Errors
    /// What `due` returns.
    pub(crate) fn ask_all<E>(
        &mut self,
        mut due: impl FnMut(&QueueName) -> Result<u64, E>,
    ) -> Result<Vec<(Command, Asked)>, E> {
        let mut queues: Vec<QueueName> = self.hungry_queues().cloned().collect();
        if let Some(last) = &self.last_asked {
            let behind = queues.partition_point(|queue| queue <= last);
            queues.rotate_left(behind);
        }
        let mut out = Vec::new();
        let mut room = LEASED_PER_ENTRY_MAX;
        for queue in queues {
            let expected = due(&queue)?;
            let before = out.len();
            self.ask(&queue, expected, &mut room, &mut out);
            if out.len() > before {
                self.last_asked = Some(queue);
            }
            if room == 0 {
                break;
            }
        }
        Ok(out)
    }

    /// Adds the Leases of one queue; Leases under way count against `expected`, creates under way add to it.
    fn ask(&mut self, queue: &QueueName, expected: u64, room: &mut u64, out: &mut Vec<(Command, Asked)>) {
        let Some(line) = self.lines.get_mut(queue) else { return };
        let mut rest = (expected + line.coming).saturating_sub(line.asked).min(*room);
        if rest == 0 || line.hungry == 0 {
            return;
        }
        let share = rest.div_ceil(line.hungry).max(rest.min(SHARE_MIN));
        for _ in 0..line.ring.len() {
            if rest == 0 {
                break;
            }
            let id = line.ring.pop_front().expect("the ring has that many");
            line.ring.push_back(id);
            let consumer = self.by_id.get_mut(&id).expect("the ring names consumers");
            if !consumer.can_take() {
                continue;
            }
            let tasks = share.min(u64::from(consumer.tasks.min(LEASE_TASKS_MAX)));
            let asked = Asked {
                consumer: id,
                queue: queue.clone(),
                tasks: u32::try_from(tasks).expect("at most a lease"),
                // Its part of the byte credit; a Lease picks at least one task whatever the bytes.
                bytes: (consumer.bytes.cast_unsigned() / u64::from(consumer.tasks))
                    .saturating_mul(tasks)
                    .max(1),
            };
            let command = Command::Lease {
                queue: queue.clone(),
                consumer: consumer.name.clone(),
                max: asked.tasks,
                max_bytes: asked.bytes,
                ttl: consumer.lease,
            };
            consumer.tasks -= asked.tasks;
            consumer.bytes = consumer.bytes.saturating_sub_unsigned(asked.bytes);
            line.hungry -= u64::from(!consumer.can_take());
            line.asked += tasks;
            rest = rest.saturating_sub(tasks);
            *room = room.saturating_sub(tasks);
            out.push((command, asked));
        }
    }

    /// Settles the credit of a Lease that was applied: it picked `tasks` of `bytes`.
    pub(crate) fn answered(&mut self, asked: &Asked, tasks: u32, bytes: u64) {
        if let Some(line) = self.lines.get_mut(&asked.queue) {
            line.asked = line.asked.saturating_sub(u64::from(asked.tasks));
        }
        self.change(asked.consumer, |consumer| {
            consumer.tasks = consumer.tasks.saturating_add(asked.tasks.saturating_sub(tasks));
            consumer.bytes =
                consumer.bytes.saturating_add_unsigned(asked.bytes).saturating_sub_unsigned(bytes);
        });
    }

    /// Changes a consumer's credit and keeps its line's count. An unknown consumer was closed meanwhile.
    fn change(&mut self, id: ConsumerId, change: impl FnOnce(&mut Waiting)) {
        let Some(consumer) = self.by_id.get_mut(&id) else { return };
        let before = u64::from(consumer.can_take());
        change(consumer);
        let after = u64::from(consumer.can_take());
        if let Some(line) = self.lines.get_mut(&consumer.queue) {
            line.hungry = line.hungry + after - before;
        }
    }
}

impl Waiting {
    fn can_take(&self) -> bool {
        self.tasks > 0 && self.bytes > 0
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

    fn consumers(credits: &[u32]) -> Consumers {
        let mut all = Consumers::default();
        for (n, credit) in credits.iter().enumerate() {
            let id = ConsumerId(n as u64);
            all.open(id, queue(), format!("c{n}"), Duration(1_000), Box::new(Nobody));
            all.credit(id, *credit, 1 << 20);
        }
        all
    }

    fn leases(consumers: &mut Consumers, expected: u64) -> Vec<Asked> {
        let asked: Result<_, ()> = consumers.ask_all(|_| Ok(expected));
        asked.expect("nothing fails here").into_iter().map(|(_, asked)| asked).collect()
    }

    fn asked(consumers: &mut Consumers, expected: u64) -> Vec<(u64, u32)> {
        leases(consumers, expected).into_iter().map(|a| (a.consumer.0, a.tasks)).collect()
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
        let mut all = Consumers::default();
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
        assert_eq!(all.hungry_queues().count(), 0, "two MiB are owed");
        all.credit(ConsumerId(0), 0, 2 << 20);
        assert_eq!(all.hungry_queues().count(), 0, "nothing is owed, nothing is left");
        all.credit(ConsumerId(0), 0, 1);
        assert_eq!(all.hungry_queues().count(), 1);
    }

    #[test]
    fn a_queue_whose_last_consumer_left_asks_for_nothing() {
        let mut all = consumers(&[5]);
        all.close(ConsumerId(0));
        assert_eq!(all.hungry_queues().count(), 0);
        assert!(asked(&mut all, 100).is_empty());
    }
}
