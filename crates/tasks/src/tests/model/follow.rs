//! What the model says of a Lease where groups, rates or ageing have a say: not which tasks, but which it may not pick.
//!
//! Whose turn it is among groups is `fair`'s own model. Here a pick is followed, and held to: it was due and the first
//! of its line; its group was neither at a limit nor slowed; nobody more urgent could have been served; whoever could be
//! served was, unless the batch was full; rates hold over every span.

use std::collections::BTreeMap;

use proptest::prelude::TestCaseError;
use z4_types::limits::LEASE_TASKS_MAX;
use z4_types::{Millis, QueueName, TaskId, Token};

use super::{Model, State, Task};
use crate::outcome::Leased;
use crate::{GroupSettings, Rate};

/// Instants of deliveries, per queue and group ("": the queue's own), since the rate is what it is.
pub(super) type Deliveries = BTreeMap<(QueueName, String), (Option<Rate>, Vec<u64>)>;

macro_rules! ensure {
    ($holds:expr, $($text:tt)*) => {
        if !$holds {
            return Err(TestCaseError::fail(format!($($text)*)));
        }
    };
}

fn group(task: &Task) -> &str {
    task.new.group.as_deref().unwrap_or("")
}

impl Model {
    pub(super) fn group_settings(&self, queue: &QueueName, group: &str) -> GroupSettings {
        let own =
            self.queues.get(queue).and_then(|queue| queue.groups.get(group)).copied().unwrap_or_default();
        let effective = self.effective(queue);
        GroupSettings {
            weight: own.weight.or(Some(effective.group_weight)),
            serial: own.serial.or(Some(effective.group_serial)),
            concurrency: own.concurrency.or(effective.group_concurrency),
            rate: own.rate.or(effective.group_rate),
        }
    }

    pub(super) fn is_serial(&self, task: &Task) -> bool {
        task.new.group.is_some() && self.group_settings(&task.queue, group(task)).serial == Some(true)
    }

    pub(super) fn slow(&mut self, queue: &QueueName, group: &str, until: u64) {
        let slowed = self.slowed.entry((queue.clone(), group.to_owned())).or_default();
        *slowed = (*slowed).max(until);
    }

    /// Returns whether the model can say which tasks a Lease picks.
    pub(super) fn knows(&self, queue: &QueueName) -> bool {
        let effective = self.effective(queue);
        let mut waiting =
            self.tasks.iter().filter(|task| task.queue == *queue && task.state == State::Waiting);
        effective.ageing.is_none() && effective.rate.is_none() && waiting.all(|task| task.new.group.is_none())
    }

    pub(super) fn leased(&self, queue: &QueueName, of: Option<&str>) -> u64 {
        let leased = self.tasks.iter().filter(|task| {
            task.queue == *queue
                && matches!(task.state, State::Leased { .. })
                && of.is_none_or(|of| group(task) == of)
        });
        leased.count() as u64
    }

    /// Returns the class and place of the best task that each group could be served with now; groups with a rate are left out
    /// unless `rated`.
    fn servable(&self, queue: &QueueName, rated: bool) -> BTreeMap<&str, (u8, usize)> {
        let ageing = self.effective(queue).ageing;
        let mut best: BTreeMap<&str, (u8, usize)> = BTreeMap::new();
        let mut heads: BTreeMap<(&str, u8), usize> = BTreeMap::new();
        for (place, task) in self.tasks.iter().enumerate() {
            if task.queue != *queue || task.state != State::Waiting || task.ttl_at <= self.now {
                continue;
            }
            let key = |place: usize| (self.tasks[place].deliver_at, self.tasks[place].id);
            let head = heads.entry((group(task), task.priority.0)).or_insert(place);
            if key(place) < key(*head) {
                *head = place;
            }
        }
        for ((of, priority), place) in heads {
            let task = &self.tasks[place];
            if task.deliver_at > self.now {
                continue;
            }
            if !of.is_empty() {
                let limits = self.group_settings(queue, of);
                let most = if limits.serial == Some(true) { Some(1) } else { limits.concurrency };
                let slowed = self.slowed.get(&(queue.clone(), of.to_owned())).copied().unwrap_or(0);
                if most.is_some_and(|most| self.leased(queue, Some(of)) >= most.into()) || slowed > self.now {
                    continue;
                }
                if limits.rate.is_some() && !rated {
                    continue;
                }
            }
            let gained = ageing.map_or(0, |span| (self.now - task.deliver_at) / span.0);
            let class = priority.saturating_sub(u8::try_from(gained).unwrap_or(u8::MAX));
            let this = (class, place);
            let before = best.entry(of).or_insert(this);
            if this.0 < before.0 {
                *before = this;
            }
        }
        best
    }

    /// Takes over what a Lease picked. `waits`: what the machine says of a task now.
    pub(super) fn follow(
        &mut self,
        leased: &Leased,
        (max, max_bytes): (u32, u64),
        waits: impl Fn(TaskId) -> bool,
    ) -> Result<(), TestCaseError> {
        let queue = &leased.queue;
        let effective = self.effective(queue);
        let paused = self.queues.get(queue).is_none_or(|queue| queue.paused);
        ensure!(!paused || leased.picks.is_empty(), "a paused queue delivers");
        let mut bytes = 0;
        for (n, pick) in leased.picks.iter().enumerate() {
            let full = effective.concurrency.is_some_and(|most| self.leased(queue, None) >= most.into());
            ensure!(!full, "queue {queue} is at its limit of {:?}", effective.concurrency);
            let place = self.tasks.iter().position(|task| task.id == pick.id);
            let place = place.ok_or_else(|| TestCaseError::fail("picked a task that is not there"))?;
            let task = &self.tasks[place];
            let servable = self.servable(queue, true);
            let mine = servable.get(group(task));
            ensure!(mine.is_some(), "group {:?} of task {} could not be served", group(task), task.id);
            let gained =
                effective.ageing.map_or(0, |span| (self.now - task.deliver_at.min(self.now)) / span.0);
            let class = task.priority.0.saturating_sub(u8::try_from(gained).unwrap_or(u8::MAX));
            let line = |other: &Task| {
                (&other.queue, group(other), other.priority) == (queue, group(task), task.priority)
                    && other.state == State::Waiting
                    && other.ttl_at > self.now
                    && (other.deliver_at, other.id) < (task.deliver_at, task.id)
            };
            ensure!(!self.tasks.iter().any(line), "task {} is not the first of its line", task.id);
            let urgent = self.servable(queue, false).into_iter().find(|(_, (other, _))| *other < class);
            ensure!(urgent.is_none(), "task {} of class {class} before {urgent:?}", task.id);
            bytes += u64::from(pick.payload_bytes);
            ensure!(n == 0 || bytes <= max_bytes, "more bytes than asked for");
            ensure!((n as u32) < max.min(LEASE_TASKS_MAX), "more tasks than asked for");
            self.token += 1;
            ensure!(pick.token == Token(self.token), "token {} of {}", pick.token, self.token);
            let task = &mut self.tasks[place];
            task.deliveries += 1;
            task.revision += 1;
            task.state = State::Leased { until: leased.until.0, token: self.token };
            ensure!(
                (pick.due, pick.deliveries, pick.failures)
                    == (Millis(task.deliver_at), task.deliveries, task.failures),
                "{pick:?}"
            );
            let of = group(task).to_owned();
            self.delivered(queue, &of)?;
        }
        let gone: Vec<usize> = (0..self.tasks.len())
            .rev()
            .filter(|&n| self.tasks[n].queue == *queue && self.tasks[n].state == State::Waiting)
            .filter(|&n| self.tasks[n].ttl_at <= self.now && !waits(self.tasks[n].id))
            .collect();
        for place in gone {
            self.end(place, crate::End::Expired);
        }
        // Nothing that could have been served was left, if there was room.
        let room = (leased.picks.len() as u32) < max
            && !paused
            && effective.rate.is_none()
            && effective.concurrency.is_none_or(|most| self.leased(queue, None) < most.into());
        if room {
            let left = self.servable(queue, false);
            let fits = |place: usize| bytes + self.tasks[place].new.payload.len() as u64 <= max_bytes;
            let fits = self.tasks.iter().enumerate().all(|(n, task)| task.queue != *queue || fits(n));
            ensure!(!fits || left.is_empty(), "{left:?} could have been served");
        }
        Ok(())
    }

    /// Takes note of a delivery, and holds it to the rates.
    pub(super) fn delivered(&mut self, queue: &QueueName, of: &str) -> Result<(), TestCaseError> {
        self.within(queue, "", self.effective(queue).rate)?;
        if !of.is_empty() {
            self.within(queue, of, self.group_settings(queue, of).rate)?;
        }
        Ok(())
    }

    fn within(&mut self, queue: &QueueName, of: &str, rate: Option<Rate>) -> Result<(), TestCaseError> {
        let now = self.now;
        let Some(Rate { thousandths, burst }) = rate else { return Ok(()) };
        let instants = self.deliveries.entry((queue.clone(), of.to_owned())).or_default();
        if instants.0 != rate {
            *instants = (rate, Vec::new());
        }
        instants.1.push(now);
        for (count, from) in (1..).zip(instants.1.iter().rev()) {
            let most = u64::from(burst) + (now - from) * thousandths / 1_000_000;
            ensure!(count <= most, "{count} deliveries of {of:?} within {} ms, not {most}", now - from);
        }
        Ok(())
    }
}
