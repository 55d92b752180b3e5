//! Reads: a task that is there, and one that is not.
//!
//! A linearizable read sees the end of everything that was unknown in earlier lives of the host, so after it is found to
//! fit, the model takes it over.

use z4_tasks::{TaskInfo, TaskState};
use z4_types::{Millis, TaskId};

use super::{End, Lease, Model, read_tag};
use crate::checks::{Checked, Violation, ensure};
use crate::report::Reached;

impl Model {
    /// Checks that a task may be gone by `now`, and remembers that it is.
    pub fn absent(&mut self, id: TaskId, now: Millis, reached: &mut Reached) -> Checked {
        let Some(task) = self.tasks.get_mut(&id) else { return Ok(()) };
        if task.end.is_some() {
            return Ok(());
        }
        let expired = task.expires_at.is_some_and(|at| at <= now.max(self.latest));
        let promise_kept = task.maybe_acked || task.maybe_cancelled || expired;
        ensure!(
            promise_kept,
            "P8",
            "task {id} (tag {}) is missing: created, and neither acked, cancelled nor expired",
            task.tag
        );
        if task.maybe_acked {
            reached.reach("unknown ack found done");
        } else if expired {
            reached.reach("task expired");
        }
        task.end = Some(End::Gone);
        Ok(())
    }

    /// Checks a task as a linearizable read shows it, and learns from it.
    pub fn seen(&mut self, queue: Option<usize>, info: &TaskInfo, reached: &mut Reached) -> Checked {
        let id = info.id;
        let Some(tag) = read_tag(&info.payload) else {
            return Err(Violation::new("T1", format!("task {id} has a payload that nobody pushed")));
        };
        self.know(id, tag)?;
        let wanted = &self.wanted[&tag];
        ensure!(wanted.task.payload == info.payload, "T1", "task {id} has another payload than pushed");
        ensure!(
            queue.is_none_or(|queue| queue == wanted.queue),
            "T1",
            "task {id} is in another queue than pushed"
        );
        let latest = self.latest;
        let task = self.tasks.get_mut(&id).expect("known by now");
        ensure!(task.end != Some(End::Acked), "P5", "task {id} (tag {tag}) is there although its ack was ok");
        ensure!(
            task.end.is_none(),
            "P5",
            "task {id} (tag {tag}) is there although it was gone: {:?}",
            task.end
        );
        ensure!(info.max_attempts == task.max_attempts, "T1", "task {id} has other attempts than pushed");
        ensure!(
            info.deliveries >= task.deliveries && info.failures >= task.failures,
            "P8",
            "task {id} counts {} deliveries and {} failures after {} and {}",
            info.deliveries,
            info.failures,
            task.deliveries,
            task.failures
        );
        let is_dead = matches!(info.state, TaskState::Dead { .. });
        ensure!(is_dead || !task.dead, "P4", "dead task {id} came back: {:?}", info.state);
        ensure!(!is_dead || info.failures >= info.max_attempts, "P4", "task {id} died too early");
        if let Some(lease) = task.lease.filter(|lease| lease.sure && info.deliveries == task.deliveries) {
            match &info.state {
                TaskState::Leased { until, token, .. } => ensure!(
                    !lease.over && *token == lease.token && *until == lease.until,
                    "P3",
                    "task {id} is leased under {token} until {until}, known is {lease:?}"
                ),
                TaskState::Waiting { deliver_at } => {
                    ensure!(
                        lease.over || lease.until <= latest,
                        "P3",
                        "task {id} waits, but token {} holds until {}",
                        lease.token,
                        lease.until
                    );
                    ensure!(
                        !lease.over || task.due == Some(*deliver_at),
                        "P8",
                        "task {id} is due at {deliver_at}, not at {:?}",
                        task.due
                    );
                }
                TaskState::Dead { .. } => {}
                // No queue of the workload keeps finished tasks.
                TaskState::Finished { .. } => ensure!(false, "T1", "task {id} is kept: {:?}", info.state),
                // And no task of it comes after others.
                TaskState::Blocked { .. } => {
                    ensure!(false, "T1", "task {id} waits for others: {:?}", info.state)
                }
            }
        } else if task.lease.is_none() && info.deliveries == 0 {
            let waits =
                matches!(info.state, TaskState::Waiting { deliver_at } if Some(deliver_at) == task.due);
            ensure!(waits, "P8", "task {id} is {:?}, due at {:?}", info.state, task.due);
        }
        if is_dead && !task.dead {
            reached.reach("task dead");
        }
        (task.deliveries, task.failures) = (info.deliveries, info.failures);
        let leased = matches!(info.state, TaskState::Leased { .. });
        task.maybe_acked &= self.patient && leased;
        task.maybe_cancelled &= self.patient;
        task.dead = is_dead;
        task.expires_at = info.expires_at;
        task.due = Some(info.deliver_at);
        task.lease = match &info.state {
            TaskState::Leased { until, token, .. } => {
                let held = task.lease.filter(|lease| lease.ours && lease.token == *token);
                let sure = held.is_some_and(|lease| lease.sure || !self.patient);
                let ours = held.is_some();
                Some(Lease { token: *token, until: *until, ours, sure, over: false, counted: None })
            }
            // What a past lease did to the count is in `failures` now.
            _ => task.lease.map(|lease| Lease { sure: true, over: true, counted: Some(false), ..lease }),
        };
        Ok(())
    }
}
