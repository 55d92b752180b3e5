//! What the judge knows: tasks, queues with their settings, and meters of rates.

use std::collections::{BTreeMap, BTreeSet};

use z4_tasks::command::Due;
use z4_tasks::{
    Effective, End, GroupSettings, Policies, Position, QueueStats, Rate, Read, Settings, TaskInfo, TaskState,
};
use z4_types::{Duration, Millis, QueueName, TaskId, Token};

use super::after::Waits;
use super::schedules::Scheduled;
use crate::model::Tag;

/// Millionths of a token: what a thousandth of a token a second brings in a millisecond.
const TOKEN: u128 = 1_000_000;

/// Where a task stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stand {
    /// In line.
    Waiting,
    /// It waits for others to end.
    Blocked,
    /// With a consumer.
    Leased {
        /// Under this lease.
        token: Token,
        /// Until then.
        until: Millis,
    },
    /// Out of attempts.
    Dead,
    /// Over, by this.
    Ended(&'static str),
}

impl Stand {
    /// Returns whether it is not over.
    #[must_use]
    pub fn is_open(self) -> bool {
        !matches!(self, Self::Ended(_))
    }
}

/// A task.
#[derive(Debug, Clone)]
pub struct Task {
    /// Its queue.
    pub queue: QueueName,
    /// Who asked for it.
    pub tag: Tag,
    /// Its group.
    pub group: Option<String>,
    /// Its key, and how long nobody takes that after its end.
    pub key: Option<(String, Duration)>,
    /// Its priority.
    pub priority: u8,
    /// When it is due.
    pub due: Millis,
    /// When its TTL ends it.
    pub expires: Option<Millis>,
    /// Failures until it is dead.
    pub max_attempts: u32,
    /// Bytes of its payload.
    pub payload: u64,
    /// Deliveries so far.
    pub deliveries: u32,
    /// Failures so far.
    pub failures: u32,
    /// The tasks it comes after.
    pub waits: Waits,
    /// Where it stands.
    pub stand: Stand,
    /// Its etag at the end of the last entry that touched it.
    pub etag: u64,
}

/// Whether a queue delivers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pause {
    /// It does.
    No,
    /// Somebody paused it.
    Asked,
    /// Its breaker did, until then; behind that one delivery is tried.
    Breaker(Millis),
    /// Its breaker may have, within this entry.
    Unsure,
}

/// What was delivered of what a rate allows: as many as were saved up, and what comes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Meter {
    rate: Option<Rate>,
    tokens: u128,
    at: Millis,
}

impl Meter {
    /// The rate is this one now. Another one starts with all it may save up.
    pub fn set(&mut self, rate: Option<Rate>, now: Millis) {
        if self.rate != rate {
            let tokens = rate.map_or(0, |rate| u128::from(rate.burst) * TOKEN);
            *self = Self { rate, tokens, at: now };
        }
    }

    /// Takes one token; false if there is none.
    pub fn take(&mut self, now: Millis) -> bool {
        let Some(rate) = self.rate else { return true };
        let came = u128::from(now.since(self.at).0) * u128::from(rate.thousandths);
        self.tokens = (self.tokens + came).min(u128::from(rate.burst) * TOKEN);
        self.at = now;
        let is_there = self.tokens >= TOKEN;
        self.tokens = self.tokens.saturating_sub(TOKEN);
        is_there
    }
}

/// What holds for a group.
#[derive(Debug, Clone, Copy)]
pub struct GroupRules {
    /// One at a time, in order.
    pub serial: bool,
    /// At most so many at a time.
    pub concurrency: Option<u32>,
    /// Deliveries.
    pub rate: Option<Rate>,
}

/// A queue.
#[derive(Debug, Clone)]
pub struct Queue {
    /// What was set of it.
    pub settings: Settings,
    /// What it comes to.
    pub effective: Effective,
    /// Changes of its settings.
    pub etag: u64,
    /// What was set of groups.
    pub groups: BTreeMap<String, GroupSettings>,
    /// Groups at rest, until when.
    pub rests: BTreeMap<String, Millis>,
    /// Whether it delivers.
    pub pause: Pause,
    /// It has, or had, a breaker.
    pub has_breaker: bool,
    /// Of its own rate.
    pub meter: Meter,
    /// Of the rates of groups.
    pub meters: BTreeMap<String, Meter>,
    /// Tasks that are not over.
    pub open: BTreeSet<TaskId>,
    /// Keys that nobody takes, of which tasks that ended, until when. None: perhaps.
    pub used: BTreeMap<String, (TaskId, Option<Millis>)>,
    /// What happened to it, but the gauges.
    pub stats: QueueStats,
    /// Where its events go on.
    pub events: Option<Position>,
    /// Its schedules.
    pub schedules: BTreeMap<String, Scheduled>,
    /// Only the rows know what happened to it in this entry.
    pub recount: bool,
}

impl Queue {
    /// Returns a queue that was just made.
    #[must_use]
    pub fn new(name: &QueueName, policies: &Policies) -> Self {
        Self {
            settings: Settings::default(),
            effective: policies.resolve(name.as_str(), None),
            etag: 0,
            groups: BTreeMap::new(),
            rests: BTreeMap::new(),
            pause: Pause::No,
            has_breaker: false,
            meter: Meter::default(),
            meters: BTreeMap::new(),
            open: BTreeSet::new(),
            used: BTreeMap::new(),
            stats: QueueStats::default(),
            events: None,
            schedules: BTreeMap::new(),
            recount: false,
        }
    }

    /// Returns what holds for a group.
    #[must_use]
    pub fn rules(&self, group: &str) -> GroupRules {
        let own = self.groups.get(group).copied().unwrap_or_default();
        let of_queue = &self.effective;
        GroupRules {
            serial: own.serial.unwrap_or(of_queue.group_serial),
            concurrency: own.concurrency.or(of_queue.group_concurrency),
            rate: own.rate.or(of_queue.group_rate),
        }
    }

    /// Settings or policies have changed.
    pub fn resolve(&mut self, name: &QueueName, policies: &Policies, now: Millis) {
        self.effective = policies.resolve(name.as_str(), Some(&self.settings));
        self.has_breaker |= self.effective.breaker.is_some();
        self.meter.set(self.effective.rate, now);
        let groups: Vec<String> = self.meters.keys().cloned().collect();
        for group in groups {
            self.meter_of(&group, now);
        }
    }

    /// Returns the meter of a group, which goes by its rate.
    pub fn meter_of(&mut self, group: &str, now: Millis) -> &mut Meter {
        let rate = self.rules(group).rate;
        let meter = self.meters.entry(group.to_owned()).or_default();
        meter.set(rate, now);
        meter
    }

    /// Nothing of a group is delivered for so long.
    pub fn rest(&mut self, group: &str, until: Millis) {
        let rest = self.rests.entry(group.to_owned()).or_default();
        *rest = until.max(*rest);
    }

    /// Returns whether a group is at rest.
    #[must_use]
    pub fn rests(&self, group: &str, now: Millis) -> bool {
        self.rests.get(group).is_some_and(|until| *until > now)
    }
}

/// Returns when a task is due that is made now.
#[must_use]
pub fn due_of(due: Due, now: Millis) -> Millis {
    match due {
        Due::Now => now,
        Due::At(at) => at,
        Due::After(delay) => after(now, delay),
    }
}

/// Returns the time `span` after `at`, which the calendar ends.
#[must_use]
pub fn after(at: Millis, span: Duration) -> Millis {
    (at + span).min(Millis::MAX_NAMEABLE)
}

/// Returns the task's row.
///
/// # Panics
/// If the twin's rows are damaged, which [`z4_tasks::Machine::check`] finds.
#[must_use]
pub fn row(rows: &dyn Read, id: TaskId) -> Option<TaskInfo> {
    z4_tasks::get(rows, id).expect("rows in memory can be read")
}

/// Returns where a row says that its task stands.
#[must_use]
pub fn stand_of(info: Option<&TaskInfo>) -> Stand {
    match info.map(|info| &info.state) {
        None => Stand::Ended("something"),
        Some(TaskState::Finished { end: End::Done, .. }) => Stand::Ended("its ack"),
        Some(TaskState::Finished { end: End::Cancelled, .. }) => Stand::Ended("its cancel"),
        Some(TaskState::Finished { end: End::Expired, .. }) => Stand::Ended("its TTL"),
        Some(TaskState::Waiting { .. }) => Stand::Waiting,
        Some(TaskState::Blocked { .. }) => Stand::Blocked,
        Some(TaskState::Leased { token, until, .. }) => Stand::Leased { token: *token, until: *until },
        Some(TaskState::Dead { .. }) => Stand::Dead,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_meter_allows_what_was_saved_up_and_what_comes() {
        let mut meter = Meter::default();
        assert!((0..9).all(|_| meter.take(Millis(1))), "no rate, no limit");
        meter.set(Some(Rate { thousandths: 2_000, burst: 2 }), Millis(1_000));
        assert!(meter.take(Millis(1_000)) && meter.take(Millis(1_000)));
        assert!(!meter.take(Millis(1_499)));
        meter.set(Some(Rate { thousandths: 2_000, burst: 3 }), Millis(1_500));
        assert!((0..3).all(|_| meter.take(Millis(1_500))) && meter.take(Millis(2_000)));
        assert!(!meter.take(Millis(2_001)));
    }
}
