//! Leases: what is delivered may be (P2, P3, P5, LIMIT, PAUSE), goes before what it goes before (ORDER), and nothing stays behind
//! that could have come along (IDLE).

use z4_tasks::EventKind;
use z4_tasks::outcome::{Leased, Pick};
use z4_types::limits::{LEASE_MS_MAX, LEASE_MS_MIN, LEASE_TASKS_MAX};
use z4_types::{Duration, QueueName, TaskId};

use super::Judge;
use super::state::{Pause, Queue, Stand, Task};
use crate::checks::{Checked, ensure};
use crate::report::Reached;

impl Judge {
    pub(super) fn leased(
        &mut self,
        name: &QueueName,
        max: u32,
        max_bytes: u64,
        ttl: Duration,
        leased: &Leased,
        reached: &mut Reached,
    ) -> Checked {
        for pick in &leased.picks {
            ensure!(
                pick.token > self.token,
                "P3",
                "lease {} of task {} is not newer than lease {}",
                pick.token,
                pick.id,
                self.token
            );
            self.token = pick.token;
        }
        let now = self.now;
        let Some(queue) = self.queue(name) else { return Ok(()) };
        let ttl = if ttl.0 == 0 { queue.effective.lease_duration } else { ttl };
        let until = now + Duration(ttl.0.clamp(LEASE_MS_MIN, LEASE_MS_MAX));
        ensure!(leased.until == until, "P3", "a lease ends at {}, and must at {until}", leased.until);
        match queue.pause {
            Pause::Asked => {
                ensure!(leased.picks.is_empty(), "PAUSE", "queue {name} is paused and delivers");
                return Ok(());
            }
            Pause::Breaker(until) => {
                let most = usize::from(until <= now);
                ensure!(
                    leased.picks.len() <= most,
                    "PAUSE",
                    "the breaker of queue {name} is open until {until}, and it delivers {}",
                    leased.picks.len()
                );
                if !leased.picks.is_empty() {
                    reached.reach("breaker tried a delivery");
                }
            }
            Pause::No | Pause::Unsure => {}
        }
        self.doubt_expired(name);
        for pick in &leased.picks {
            self.pick(name, pick, leased, reached)?;
        }
        self.nothing_idle(name, max, max_bytes, &leased.picks, reached)
    }

    /// A lease ends tasks on its way whose TTL has passed, as far as it comes.
    fn doubt_expired(&mut self, name: &QueueName) {
        let now = self.now;
        let expired = |id: &&TaskId| {
            let task = &self.tasks[*id];
            task.stand == Stand::Waiting && task.expires.is_some_and(|at| at <= now) && task.due <= now
        };
        let expired: Vec<TaskId> = self.queues[name].open.iter().filter(expired).copied().collect();
        expired.into_iter().for_each(|id| self.doubt(id));
    }

    fn pick(&mut self, name: &QueueName, pick: &Pick, leased: &Leased, reached: &mut Reached) -> Checked {
        let now = self.now;
        let id = pick.id;
        self.leases.insert(pick.token, (id, leased.until));
        let Some(task) = self.sure(id) else {
            ensure!(self.tasks.contains_key(&id), "T1", "task {id} is delivered, and nobody made it");
            return Ok(());
        };
        ensure!(task.stand.is_open(), "P5", "task {id} is delivered, and was ended by {:?}", task.stand);
        let on = &task.waits.on;
        ensure!(task.stand != Stand::Blocked, "AFTER", "task {id} is delivered, and comes after {on:?}");
        ensure!(task.stand == Stand::Waiting, "P3", "task {id} is delivered, and is {:?}", task.stand);
        ensure!(task.due <= now, "P2", "task {id} is delivered at {now}, and is due at {}", task.due);
        ensure!(task.queue == *name, "T1", "task {id} of queue {} is delivered from {name}", task.queue);
        let found = (pick.due, pick.deliveries, pick.failures, u64::from(pick.payload_bytes));
        let known = (task.due, task.deliveries + 1, task.failures, task.payload);
        ensure!(
            found == known,
            "P4",
            "task {id}: due, deliveries, failures, bytes are delivered as {found:?}, and must be {known:?}"
        );
        let group = task.group.clone();
        self.in_order(name, id)?;
        self.within_limits(name, id, group.as_deref(), reached)?;
        self.change(id, |task| {
            task.deliveries += 1;
            task.stand = Stand::Leased { token: pick.token, until: leased.until };
        });
        self.tell(id, EventKind::Leased);
        let stats = &mut self.queue_of(id).stats;
        stats.deliveries += 1;
        stats.redelivered += u64::from(pick.deliveries > 1);
        reached.reach("lively task delivered");
        Ok(())
    }

    /// One more is leased: of the queue, and of its group.
    fn within_limits(
        &mut self,
        name: &QueueName,
        id: TaskId,
        group: Option<&str>,
        reached: &mut Reached,
    ) -> Checked {
        let now = self.now;
        let out = self.out(name, None);
        let in_group = group.map_or(0, |group| self.out(name, Some(group)));
        let queue = self.queues.get_mut(name).expect("looked at above");
        if let Some(limit) = queue.effective.concurrency {
            ensure!(
                out < u64::from(limit),
                "LIMIT",
                "task {id}: {out} tasks of queue {name} are leased, and {limit} may be"
            );
            reached.reach("delivered within a concurrency");
        }
        ensure!(queue.meter.take(now), "LIMIT", "task {id} exceeds the rate of queue {name}");
        if queue.effective.rate.is_some() {
            reached.reach("delivered within a rate");
        }
        let Some(group) = group else { return Ok(()) };
        let rules = queue.rules(group);
        ensure!(
            !rules.serial || in_group == 0,
            "LIMIT",
            "task {id}: group {group} of queue {name} is serial, and {in_group} of it are leased"
        );
        if let Some(limit) = rules.concurrency {
            ensure!(
                in_group < u64::from(limit),
                "LIMIT",
                "task {id}: {in_group} tasks of group {group} of queue {name} are leased, and {limit} may be"
            );
            reached.reach("delivered within a group's concurrency");
        }
        ensure!(
            !queue.rests(group, now),
            "LIMIT",
            "task {id}: group {group} of queue {name} rests until {}",
            queue.rests[group]
        );
        ensure!(
            queue.meter_of(group, now).take(now),
            "LIMIT",
            "task {id} exceeds the rate of group {group} of queue {name}"
        );
        if rules.serial {
            reached.reach("serial group delivered");
        }
        if rules.rate.is_some() {
            reached.reach("delivered within a group's rate");
        }
        Ok(())
    }

    /// Returns how many tasks are leased for sure: of a queue, or of one of its groups.
    fn out(&self, name: &QueueName, group: Option<&str>) -> u64 {
        let open = self.queues[name].open.iter().filter_map(|id| self.sure(*id));
        let of_it = open.filter(|task| group.is_none() || task.group.as_deref() == group);
        of_it.filter(|task| matches!(task.stand, Stand::Leased { .. })).count() as u64
    }

    /// Nothing that must go first is left behind: of the same line what is older, of other lines what is more urgent.
    fn in_order(&self, name: &QueueName, id: TaskId) -> Checked {
        let queue = &self.queues[name];
        let this = &self.tasks[&id];
        for other in &queue.open {
            let Some(task) = self.sure(*other).filter(|task| task.stand == Stand::Waiting) else { continue };
            if *other == id || task.due > self.now {
                continue;
            }
            let same_line = task.group == this.group && task.priority == this.priority;
            ensure!(
                !same_line || (this.due, id) < (task.due, *other),
                "ORDER",
                "task {id}, due at {}, is delivered before {other}, due at {}",
                this.due,
                task.due
            );
            ensure!(
                task.priority >= this.priority
                    || queue.effective.ageing.is_some()
                    || !self.is_free(queue, task),
                "ORDER",
                "task {id} of priority {} is delivered before {other} of priority {}",
                this.priority,
                task.priority
            );
        }
        Ok(())
    }

    /// Returns whether its group surely lets a waiting task go.
    fn is_free(&self, queue: &Queue, task: &Task) -> bool {
        let Some(group) = task.group.as_deref() else { return true };
        let rules = queue.rules(group);
        let most = if rules.serial { Some(1) } else { rules.concurrency };
        let out = || self.out(&task.queue, Some(group));
        rules.rate.is_none()
            && !queue.rests(group, self.now)
            && most.is_none_or(|most| out() < u64::from(most))
    }

    /// A lease that has room for more has left nothing that could be delivered.
    fn nothing_idle(
        &self,
        name: &QueueName,
        max: u32,
        max_bytes: u64,
        picks: &[Pick],
        reached: &mut Reached,
    ) -> Checked {
        let queue = &self.queues[name];
        let is_open = queue.pause == Pause::No && queue.effective.rate.is_none();
        let out = self.out(name, None);
        let has_room = queue.effective.concurrency.is_none_or(|limit| out < u64::from(limit));
        let in_doubt = queue.open.iter().any(|id| self.doubted.contains(id));
        if !is_open || !has_room || in_doubt || picks.len() as u64 >= u64::from(max.min(LEASE_TASKS_MAX)) {
            return Ok(());
        }
        let picked: u64 = picks.iter().map(|pick| u64::from(pick.payload_bytes)).sum();
        for id in &queue.open {
            let task = &self.tasks[id];
            if task.stand != Stand::Waiting || task.due > self.now || !self.is_free(queue, task) {
                continue;
            }
            // Any of them may be the one that did not fit.
            if !picks.is_empty() && picked.saturating_add(task.payload) > max_bytes {
                return Ok(());
            }
        }
        let idle = queue.open.iter().find(|id| {
            let task = &self.tasks[*id];
            task.stand == Stand::Waiting && task.due <= self.now && self.is_free(queue, task)
        });
        ensure!(
            idle.is_none(),
            "IDLE",
            "of {max} tasks {} were leased, and task {} of queue {name} could have been",
            picks.len(),
            idle.copied().unwrap_or_default()
        );
        if !picks.is_empty() {
            reached.reach("lease took all there was");
        }
        Ok(())
    }
}
