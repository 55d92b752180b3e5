//! What a host counts of its tasks as leader, for `/metrics`. Relaxed atomics, never read by the logic.
//!
//! # Not here
//! - Backlogs: they are state, and come from the machine's own counters.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use z4_multiraft::Histogram;
use z4_tasks::outcome::{Fired, Made, Pick, Refusal, Settled};
use z4_types::Millis;

/// Counters since the host started; tasks of all shards it leads.
#[derive(Debug, Default)]
pub struct TaskMetrics {
    /// Tasks created.
    pub pushed: AtomicU64,
    /// Tasks handed to consumers.
    pub delivered: AtomicU64,
    /// Of those, not for the first time.
    pub redelivered: AtomicU64,
    /// Acks that counted.
    pub acked: AtomicU64,
    /// Nacks that counted, the last ones included.
    pub failed: AtomicU64,
    /// Tasks that failed for the last time, by a nack or because their lease ran out.
    pub dead: AtomicU64,
    /// Settlements refused: the lease was over and the task is not.
    pub stale: AtomicU64,
    /// Slots of schedules that made a task.
    pub slots_fired: AtomicU64,
    /// Slots that made none because the last task was open.
    pub slots_overlapped: AtomicU64,
    /// Slots that made none because they were older than the catch-up window.
    pub slots_late: AtomicU64,
    /// Slots that made none because their queue took none.
    pub slots_refused: AtomicU64,
    /// Shard time of delivery minus the later of due time and creation.
    pub lateness: Histogram,
}

impl TaskMetrics {
    pub(crate) fn pushed(&self, results: &[Result<Made, Refusal>]) {
        let new = results.iter().flatten().filter(|made| !made.existed);
        self.pushed.fetch_add(new.count() as u64, Relaxed);
    }

    pub(crate) fn settled(&self, results: &[Result<Settled, Refusal>]) {
        let (mut acked, mut failed, mut dead, mut stale) = (0, 0, 0, 0);
        for result in results {
            match result {
                Ok(Settled::Acked) => acked += 1,
                Ok(Settled::Retried(_)) => failed += 1,
                Ok(Settled::Dead) => {
                    failed += 1;
                    dead += 1;
                }
                Ok(Settled::Released(_) | Settled::Extended(_)) => {}
                Err(Refusal::LeaseLost { .. }) => stale += 1,
                // It ended before, by an ack whose answer was lost or by a cancel.
                Err(_) => {}
            }
        }
        self.acked.fetch_add(acked, Relaxed);
        self.failed.fetch_add(failed, Relaxed);
        self.dead.fetch_add(dead, Relaxed);
        self.stale.fetch_add(stale, Relaxed);
    }

    pub(crate) fn fired(&self, fired: Fired) {
        match fired {
            Fired::Created(_) => {
                self.pushed.fetch_add(1, Relaxed);
                self.slots_fired.fetch_add(1, Relaxed);
            }
            Fired::Overlapped => {
                self.slots_overlapped.fetch_add(1, Relaxed);
            }
            Fired::Late(slots) => {
                self.slots_late.fetch_add(slots, Relaxed);
            }
            Fired::Refused => {
                self.slots_refused.fetch_add(1, Relaxed);
            }
            // A remembered one counts when it fires, and a stale one was counted.
            Fired::Buffered | Fired::Stale => {}
        }
    }

    pub(crate) fn lapsed(&self, dead: u32) {
        self.dead.fetch_add(dead.into(), Relaxed);
    }

    pub(crate) fn delivered(&self, now: Millis, picks: &[Pick]) {
        self.delivered.fetch_add(picks.len() as u64, Relaxed);
        for pick in picks {
            if pick.deliveries > 1 {
                self.redelivered.fetch_add(1, Relaxed);
            }
            let due = pick.due.max(pick.id.created_at());
            self.lateness.record_ns(now.since(due).0.saturating_mul(1_000_000));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use z4_types::{ShardId, TaskId, Token};

    #[test]
    fn each_settlement_counts_as_what_it_was() {
        let metrics = TaskMetrics::default();
        let id = TaskId::new(Millis(1), ShardId(1), 1);
        metrics.settled(&[
            Ok(Settled::Acked),
            Ok(Settled::Retried(Millis(1))),
            Ok(Settled::Released(Millis(1))),
            Ok(Settled::Extended(Millis(1))),
            Ok(Settled::Dead),
            Err(Refusal::LeaseLost { id, token: Token(1) }),
            Err(Refusal::NotFound(id)),
        ]);
        metrics.lapsed(2);
        let counted = [&metrics.acked, &metrics.failed, &metrics.dead, &metrics.stale];
        assert_eq!(counted.map(|counter| counter.load(Relaxed)), [1, 2, 3, 1]);
    }
}
