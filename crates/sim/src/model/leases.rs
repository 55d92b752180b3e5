//! Deliveries and settlements: who may hold a task, and what a word on it may do.
//!
//! # Caveats
//! - A lease that reached nobody (its consumer was gone) shows only in the next delivery's numbers, or in a read.

use z4_host::Delivery;
use z4_tasks::command::{Settlement, Verdict};
use z4_tasks::outcome::{Refusal, Settled};
use z4_types::{Duration, Millis};

use super::{End, Lease, Model, first_due, read_tag};
use crate::checks::{Checked, Violation, ensure};
use crate::report::Reached;

impl Model {
    /// Checks one delivery under a lease of `ttl`.
    pub fn delivered(
        &mut self,
        queue: usize,
        ttl: Duration,
        delivery: &Delivery,
        reached: &mut Reached,
    ) -> Checked {
        let Delivery { pick, until, body, .. } = delivery;
        let (id, now) = (pick.id, Millis(until.0.saturating_sub(ttl.0)));
        self.deliveries += 1;
        let Some(tag) = read_tag(&body.payload) else {
            return Err(Violation::new("T1", format!("task {id} has a payload that nobody pushed")));
        };
        self.know(id, tag)?;
        let wanted = &self.wanted[&tag];
        ensure!(wanted.task.payload == body.payload, "T1", "task {id} has another payload than pushed");
        ensure!(
            wanted.task.metadata == body.metadata
                && wanted.task.priority.unwrap_or_default() == body.priority,
            "T1",
            "task {id} has other metadata or priority than pushed"
        );
        ensure!(wanted.queue == queue, "T1", "task {id} of queue {} comes from queue {queue}", wanted.queue);
        let shard = id.shard();
        let logged = self.logged.entry(shard).or_default();
        ensure!(now >= *logged, "P2", "shard {shard}: time went from {logged} back to {now}");
        ensure!(
            now <= self.latest,
            "P2",
            "shard {shard}: time is {now}, but cannot be later than {}",
            self.latest
        );
        *logged = now;
        let newest = self.tokens.entry(shard).or_default();
        ensure!(pick.token > *newest, "P3", "task {id}: token {} comes after {newest}", pick.token);
        *newest = pick.token;

        let task = self.tasks.get_mut(&id).expect("known by now");
        ensure!(
            task.end != Some(End::Acked),
            "P5",
            "task {id} (tag {tag}) is delivered again after its ack was ok"
        );
        ensure!(
            task.end.is_none(),
            "P5",
            "task {id} (tag {tag}) is delivered after it was seen gone: {:?}",
            task.end
        );
        ensure!(!task.dead, "P4", "task {id} is delivered although it is dead");
        ensure!(now >= pick.due, "P2", "task {id} is delivered at {now}, due at {}", pick.due);
        let first_due = first_due(&wanted.task, id);
        ensure!(now >= first_due, "P2", "task {id} is delivered at {now}, before {first_due}");
        if let Some(due) = task.due {
            ensure!(now >= due, "P2", "task {id} is delivered at {now}, before {due}");
            let nothing_between =
                pick.deliveries == task.deliveries + 1 && task.lease.is_none_or(|lease| lease.over);
            ensure!(
                !nothing_between || pick.due == due,
                "P8",
                "task {id} is due at {}, not at {due}",
                pick.due
            );
        }
        ensure!(
            task.expires_at.is_none_or(|at| now < at),
            "P4",
            "task {id} is delivered at {now}, after its TTL ended"
        );
        ensure!(
            pick.failures < task.max_attempts && pick.failures < pick.deliveries,
            "P4",
            "task {id} is delivered for the {}. time, after {} failures of {} allowed",
            pick.deliveries,
            pick.failures,
            task.max_attempts
        );
        ensure!(
            pick.deliveries > task.deliveries && pick.failures >= task.failures,
            "P11",
            "task {id} counts {} deliveries and {} failures after {} and {}",
            pick.deliveries,
            pick.failures,
            task.deliveries,
            task.failures
        );
        if let Some(before) = task.lease {
            let ended = before.over || !before.sure || before.until <= now;
            ensure!(
                ended,
                "P3",
                "task {id} is delivered at {now} under token {}, but token {} holds until {}",
                pick.token,
                before.token,
                before.until
            );
            if pick.deliveries == task.deliveries + 1 {
                let lapsed = !before.over && before.sure;
                if lapsed {
                    reached.reach("lease expired");
                }
                if let Some(counted) = before.counted.or(lapsed.then_some(true)) {
                    let expected = task.failures + u32::from(counted);
                    ensure!(
                        pick.failures == expected,
                        "P11",
                        "task {id} counts {} failures, not {expected}",
                        pick.failures
                    );
                }
            }
        }
        if pick.deliveries > 1 {
            reached.reach("redelivered");
        } else if pick.due > id.created_at() {
            reached.reach("delayed task delivered");
        }
        (task.deliveries, task.failures) = (pick.deliveries, pick.failures);
        // Delivered, so whatever was unknown did not end it; a later answer cannot come, its sender is dead. In a cluster
        // a cancel may still be on its way; an ack is not, its token is over.
        (task.maybe_acked, task.maybe_cancelled) = (false, self.patient && task.maybe_cancelled);
        task.due = Some(pick.due);
        task.lease = Some(Lease {
            token: pick.token,
            until: *until,
            ours: true,
            sure: true,
            over: false,
            counted: None,
        });
        Ok(())
    }

    /// Checks the answer to one settlement.
    pub fn settled(
        &mut self,
        settlement: &Settlement,
        answer: &Result<Settled, Refusal>,
        reached: &mut Reached,
    ) -> Checked {
        let Settlement { id, token, verdict } = settlement;
        let (latest, logged) = (self.latest, self.logged(id.shard()));
        let Some(task) = self.tasks.get_mut(id) else {
            return Err(Violation::new(
                "T1",
                format!("a settlement of task {id}, which was never delivered"),
            ));
        };
        let current = task.lease.as_mut().filter(|lease| lease.token == *token);
        let settled = match answer {
            Ok(settled) => settled,
            Err(Refusal::NotFound(_)) => return self.absent(*id, latest, reached),
            Err(refusal) => {
                let lost = matches!(refusal, Refusal::LeaseLost { .. });
                ensure!(lost, "T1", "task {id}: {verdict:?} is answered by {refusal}");
                reached.reach("stale settlement refused");
                if let Some(lease) = current {
                    let ended = lease.over || !lease.sure || lease.until <= latest || task.dead;
                    ensure!(
                        ended,
                        "P3",
                        "task {id}: token {token} is refused, but holds until {}",
                        lease.until
                    );
                }
                return Ok(());
            }
        };
        let Some(lease) = current else {
            return Err(Violation::new(
                "P3",
                format!(
                    "task {id}: {verdict:?} is accepted under token {token}, the lease is {:?}",
                    task.lease
                ),
            ));
        };
        ensure!(
            !lease.over,
            "P3",
            "task {id}: {verdict:?} is accepted, but token {token} was settled before"
        );
        ensure!(
            lease.until > logged || !lease.sure,
            "P3",
            "task {id}: {verdict:?} is accepted at {logged}, after {}",
            lease.until
        );
        ensure!(
            task.end.is_none(),
            "P5",
            "task {id}: {verdict:?} is accepted, but it is gone: {:?}",
            task.end
        );
        let attempts_left = task.failures + 1 < task.max_attempts;
        match (verdict, settled) {
            (Verdict::Ack | Verdict::AckWith { .. }, Settled::Acked) => {
                self.acks.sure += 1;
                (lease.over, task.end) = (true, Some(End::Acked));
            }
            (Verdict::Nack { .. }, Settled::Retried(at)) => {
                self.nacks.sure += 1;
                ensure!(attempts_left, "P4", "task {id} is retried after {} failures", task.failures + 1);
                (lease.over, lease.counted, task.due) = (true, Some(true), Some(*at));
            }
            (Verdict::Nack { .. }, Settled::Dead) => {
                self.nacks.sure += 1;
                ensure!(!attempts_left, "P4", "task {id} is dead after {} failures", task.failures + 1);
                (lease.over, task.dead) = (true, true);
                task.expires_at = None;
                reached.reach("task dead");
            }
            (Verdict::Release { delay }, Settled::Released(at)) => {
                ensure!(
                    delay.0 > 0 || task.due.is_none_or(|due| due == *at),
                    "P11",
                    "task {id} was released to {at}, its due time is {:?}",
                    task.due
                );
                (lease.over, lease.counted, task.due) = (true, Some(false), Some(*at));
            }
            (Verdict::Extend { .. } | Verdict::ExtendWith { .. }, Settled::Extended(until)) => {
                lease.until = *until
            }
            _ => {
                return Err(Violation::new(
                    "P3",
                    format!("task {id}: {verdict:?} is answered by {settled:?}"),
                ));
            }
        }
        Ok(())
    }

    /// Takes note of a settlement whose answer never came.
    pub fn settle_unknown(&mut self, settlement: &Settlement) {
        let Settlement { id, token, verdict } = settlement;
        match verdict {
            Verdict::Ack | Verdict::AckWith { .. } => self.acks.unknown += 1,
            Verdict::Nack { .. } | Verdict::NackDead { .. } => self.nacks.unknown += 1,
            Verdict::Release { .. } | Verdict::Extend { .. } | Verdict::ExtendWith { .. } => {}
        }
        let Some(task) = self.tasks.get_mut(id) else { return };
        let Some(lease) = task.lease.as_mut().filter(|lease| lease.token == *token && !lease.over) else {
            return;
        };
        lease.sure = false;
        match verdict {
            Verdict::Ack | Verdict::AckWith { .. } => task.maybe_acked = true,
            // It may be due at another time, and may be dead.
            Verdict::Nack { .. } | Verdict::NackDead { .. } | Verdict::Release { .. } => task.due = None,
            Verdict::Extend { .. } | Verdict::ExtendWith { .. } => {}
        }
    }
}
