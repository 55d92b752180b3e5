//! The ends of leases: what a consumer says counts while its lease holds and not after, and time ends the others.

use z4_tasks::EventKind;
use z4_tasks::command::{Settlement, Verdict};
use z4_tasks::outcome::{Refusal, Settled};
use z4_types::limits::{LEASE_MS_MAX, LEASE_MS_MIN, SLOW_GROUP_MS_MAX};
use z4_types::{Duration, Millis, TaskId};

use super::Judge;
use super::state::{Pause, Stand, after};
use crate::checks::{Checked, ensure};
use crate::report::Reached;

impl Judge {
    pub(super) fn settled(
        &mut self,
        asked: &[Settlement],
        answers: &[Result<Settled, Refusal>],
        reached: &mut Reached,
    ) -> Checked {
        asked.iter().zip(answers).try_for_each(|(one, answer)| match answer {
            Ok(settled) => self.settled_one(one, *settled, reached),
            Err(refusal) => self.settle_refused(one, refusal, reached),
        })
    }

    /// Returns whether the lease of a settlement holds.
    fn holds(&self, one: &Settlement) -> Option<bool> {
        let task = self.sure(one.id)?;
        Some(match task.stand {
            Stand::Leased { token, until } => token == one.token && self.now < until,
            _ => false,
        })
    }

    fn settle_refused(&mut self, one: &Settlement, refusal: &Refusal, reached: &mut Reached) -> Checked {
        ensure!(
            self.holds(one) != Some(true),
            "P3",
            "lease {} of task {} holds, and was refused: {refusal}",
            one.token,
            one.id
        );
        if self.tasks.contains_key(&one.id) {
            reached.reach("lively settlement refused");
        }
        Ok(())
    }

    fn settled_one(&mut self, one: &Settlement, settled: Settled, reached: &mut Reached) -> Checked {
        let (id, now) = (one.id, self.now);
        let Some(holds) = self.holds(one) else {
            if self.tasks.contains_key(&id) {
                self.doubt(id);
            }
            return Ok(());
        };
        let task = &self.tasks[&id];
        ensure!(
            holds,
            "P3",
            "lease {} of task {id}, which is {:?}, was settled at {now}",
            one.token,
            task.stand
        );
        let is_serial =
            task.group.as_deref().is_some_and(|group| self.queues[&task.queue].rules(group).serial);
        let (failures, max_attempts, due) = (task.failures + 1, task.max_attempts, task.due);
        match (&one.verdict, settled) {
            (Verdict::Ack | Verdict::AckWith { .. }, Settled::Acked) => {
                self.change(id, |task| task.stand = Stand::Ended("its ack"));
                self.queue_of(id).stats.acked += 1;
                self.tell(id, EventKind::Acked);
                reached.reach(match one.verdict {
                    Verdict::Ack => "lively task acked",
                    _ => "acked with a result",
                });
            }
            (Verdict::Nack { .. }, Settled::Retried(at)) => {
                ensure!(
                    failures < max_attempts,
                    "P4",
                    "task {id} failed {failures} of {max_attempts} times, and is retried"
                );
                self.slow(one, reached);
                self.queue_of(id).stats.failed += 1;
                self.again(id, if is_serial { due } else { at }, true);
                self.tell(id, EventKind::Failed);
                if is_serial {
                    self.rest_group(id, at);
                    reached.reach("serial group waits for a retry");
                }
                ensure!(self.waits(one, at), "P2", "task {id} is retried at {at}, sooner than was asked");
            }
            (Verdict::Nack { reason, .. }, Settled::Dead) => {
                let is_final = self.queue_of(id).effective.non_retryable.contains(reason);
                ensure!(
                    is_final || failures >= max_attempts,
                    "P4",
                    "task {id} failed {failures} of {max_attempts} times, and is dead"
                );
                if failures < max_attempts {
                    reached.reach("a reason was final");
                }
                self.slow(one, reached);
                self.queue_of(id).stats.failed += 1;
                self.dies(id, reached);
            }
            (Verdict::NackDead { .. }, Settled::Dead) => {
                self.queue_of(id).stats.failed += 1;
                self.dies(id, reached);
                reached.reach("nacked for good");
            }
            (Verdict::Release { delay }, Settled::Released(at)) => {
                let wanted = if delay.0 == 0 { due } else { after(now, *delay) };
                ensure!(at == wanted, "P2", "task {id} was released until {at}, and must until {wanted}");
                if is_serial && delay.0 > 0 {
                    self.rest_group(id, at);
                }
                self.again(id, if is_serial { due } else { at }, false);
                self.tell(id, EventKind::Released);
            }
            (Verdict::Extend { ttl } | Verdict::ExtendWith { ttl, .. }, Settled::Extended(until)) => {
                let of_queue = self.queue_of(id).effective.lease_duration;
                let ttl = if ttl.0 == 0 { of_queue } else { *ttl };
                let wanted = now + Duration(ttl.0.clamp(LEASE_MS_MIN, LEASE_MS_MAX));
                ensure!(
                    until == wanted,
                    "P3",
                    "task {id} was extended until {until}, and must until {wanted}"
                );
                self.change(id, |task| task.stand = Stand::Leased { token: one.token, until });
                if let Verdict::ExtendWith { .. } = one.verdict {
                    reached.reach("extended with progress");
                }
            }
            (verdict, settled) => ensure!(false, "P3", "task {id}: {verdict:?} is answered by {settled:?}"),
        }
        if !matches!(settled, Settled::Extended(_)) {
            self.breaker_may_open(id);
        }
        Ok(())
    }

    /// Returns whether `at` is as late as a nack asked for.
    fn waits(&self, one: &Settlement, at: Millis) -> bool {
        match &one.verdict {
            Verdict::Nack { delay: Some(delay), .. } => at == after(self.now, *delay),
            _ => at >= self.now,
        }
    }

    fn slow(&mut self, one: &Settlement, reached: &mut Reached) {
        if let Verdict::Nack { slow_group: Some(span), .. } = &one.verdict {
            self.rest_group(one.id, after(self.now, Duration(span.0.min(SLOW_GROUP_MS_MAX))));
            reached.reach("group slowed");
        }
    }

    fn rest_group(&mut self, id: TaskId, until: Millis) {
        if let Some(group) = self.tasks[&id].group.clone() {
            self.queue_of(id).rest(&group, until);
        }
    }

    fn again(&mut self, id: TaskId, due: Millis, failed: bool) {
        self.change(id, |task| {
            (task.stand, task.due) = (Stand::Waiting, due);
            task.failures += u32::from(failed);
        });
    }

    fn dies(&mut self, id: TaskId, reached: &mut Reached) {
        self.change(id, |task| {
            task.stand = Stand::Dead;
            task.failures += 1;
            task.expires = None;
        });
        self.tell(id, EventKind::Dead);
        reached.reach("lively task dead");
    }

    /// The delivery of a task has ended: from now on only the rows know whether its queue's breaker is open.
    fn breaker_may_open(&mut self, id: TaskId) {
        let queue = self.queue_of(id);
        if queue.has_breaker && queue.pause != Pause::Asked {
            queue.pause = Pause::Unsure;
        }
    }

    /// Time has ended what it ends; `more`: not all of it.
    pub(super) fn advanced(&mut self, more: bool, reached: &mut Reached) {
        let now = self.now;
        let open: Vec<TaskId> = self.queues.values().flat_map(|queue| &queue.open).copied().collect();
        for id in open {
            let Some(task) = self.sure(id) else { continue };
            let lapses = matches!(task.stand, Stand::Leased { until, .. } if until <= now);
            let expires = task.stand != Stand::Dead && task.expires.is_some_and(|at| at <= now);
            if !lapses && !expires {
                continue;
            }
            if more {
                self.doubt(id);
                continue;
            }
            if expires {
                self.change(id, |task| task.stand = Stand::Ended("its TTL"));
                self.queue_of(id).stats.expired += 1;
                self.tell(id, EventKind::Expired);
                reached.reach("lively task expired");
                continue;
            }
            let (is_last, due) = (task.failures + 1 >= task.max_attempts, task.due);
            let group = task.group.clone();
            let queue = self.queue_of(id);
            queue.stats.lease_expired += 1;
            let is_serial = group.is_some_and(|group| queue.rules(&group).serial);
            if is_last {
                self.dies(id, reached);
            } else {
                self.again(id, if is_serial { due } else { now }, true);
                self.tell(id, EventKind::Failed);
            }
            self.breaker_may_open(id);
            reached.reach("lively lease expired");
        }
        if more {
            self.doubt_told();
        } else {
            self.tell_all(reached);
        }
    }
}
