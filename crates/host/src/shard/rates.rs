//! How much happened to each queue in the last minute, as the leader of its shard saw it.
//!
//! The machine counts totals; here they are looked at whenever a step of five seconds has passed, and what was added is
//! noted under the step in which the last entry was applied. Only queues that something happens to are looked at: those for
//! which a create or a lease was packed, until a minute after the last of it.
//!
//! # Invariants
//! - At most `QUEUES_MAX` queues are watched, with at most `STEPS` numbers each. Past it the rates of further ones are zero.
//! - Never read by the machine, and no part of the state: a new leader begins at zero.

use std::collections::{BTreeMap, VecDeque};

use z4_tasks::{Machine, QueueStats};
use z4_types::{Millis, QueueName};

/// Length of a step.
const STEP_MS: u64 = 5_000;
/// Steps that are kept, the present one included: a minute.
const STEPS: u64 = 12;
/// Queues watched at a time.
const QUEUES_MAX: usize = 4_096;

/// Per second over the last minute.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Rates {
    /// Tasks created.
    pub created: f64,
    /// Deliveries.
    pub delivered: f64,
    /// Tasks acked.
    pub acked: f64,
}

type Counts = [u64; 3];

/// One queue.
#[derive(Debug, Default)]
struct Watched {
    /// Totals when last looked at.
    seen: Counts,
    /// What was added, by step, oldest first; steps in which nothing was are left out.
    added: VecDeque<(u64, Counts)>,
    /// The step in which something was last packed for it.
    last: u64,
}

/// See the module essay.
#[derive(Debug, Default)]
pub(crate) struct Activity {
    step: u64,
    queues: BTreeMap<QueueName, Watched>,
}

fn totals(stats: Option<QueueStats>) -> Counts {
    stats.map_or([0; 3], |stats| [stats.pushed, stats.deliveries, stats.acked])
}

impl Watched {
    /// Notes what was added since the last look, under `step`.
    fn look(&mut self, now: Counts, step: u64) {
        // A queue that was deleted and made again counts from zero.
        let added: Counts = std::array::from_fn(|at| now[at].checked_sub(self.seen[at]).unwrap_or(now[at]));
        self.seen = now;
        if added == [0; 3] {
            return;
        }
        match self.added.back_mut() {
            Some((last, counts)) if *last >= step => {
                counts.iter_mut().zip(added).for_each(|(count, more)| *count += more);
            }
            _ => self.added.push_back((step, added)),
        }
    }

    fn forget_before(&mut self, step: u64) {
        while self.added.front().is_some_and(|(at, _)| *at < step) {
            self.added.pop_front();
        }
    }
}

impl Activity {
    /// A command that may change the counters of `queue` is packed: it is watched from before that on.
    pub(crate) fn watch(&mut self, queue: &QueueName, machine: &Machine) {
        if let Some(watched) = self.queues.get_mut(queue) {
            watched.last = self.step;
        } else if self.queues.len() < QUEUES_MAX {
            let seen = totals(machine.stats(queue));
            self.queues.insert(queue.clone(), Watched { seen, added: VecDeque::new(), last: self.step });
        }
    }

    /// Time has come to `now`: looks at every watched queue if a step has passed.
    pub(crate) fn advance(&mut self, now: Millis, machine: &Machine) {
        let step = now.0 / STEP_MS;
        if step <= self.step {
            return;
        }
        // Entries that are under way will be noted later, those that were applied belong to their own time.
        let applied = (machine.now().0 / STEP_MS).clamp(self.step, step);
        let first = (step + 1).saturating_sub(STEPS);
        self.step = step;
        self.queues.retain(|queue, watched| {
            let stats = machine.stats(queue);
            watched.look(totals(stats), applied);
            watched.forget_before(first);
            // What is held will be acked.
            let held = stats.is_some_and(|stats| stats.leased > 0);
            held || !watched.added.is_empty() || watched.last >= first
        });
    }

    /// Returns the rates of a queue at `now`.
    pub(crate) fn rates(&mut self, queue: &QueueName, now: Millis, machine: &Machine) -> Rates {
        self.advance(now, machine);
        let Some(watched) = self.queues.get_mut(queue) else { return Rates::default() };
        watched.look(totals(machine.stats(queue)), self.step);
        let sum = |at: usize| watched.added.iter().map(|(_, counts)| counts[at]).sum::<u64>() as f64;
        let seconds = ((STEPS - 1) * STEP_MS + now.0 % STEP_MS).max(1) as f64 / 1_000.0;
        Rates { created: sum(0) / seconds, delivered: sum(1) / seconds, acked: sum(2) / seconds }
    }

    /// The leadership has ended.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_added_is_forgotten_after_a_minute_and_a_new_queue_of_an_old_name_counts_from_zero() {
        let mut watched = Watched { seen: [5, 5, 5], ..Watched::default() };
        watched.look([7, 5, 5], 1);
        watched.look([7, 6, 5], 1);
        watched.look([8, 6, 6], 2);
        assert_eq!(watched.added, [(1, [2, 1, 0]), (2, [1, 0, 1])]);
        watched.look([1, 0, 0], 3);
        assert_eq!(watched.added.back(), Some(&(3, [1, 0, 0])));
        watched.forget_before(3);
        assert_eq!(watched.added.len(), 1);
        watched.look([1, 0, 0], 9);
        assert_eq!(watched.added.len(), 1, "a step without anything costs nothing");
    }
}
