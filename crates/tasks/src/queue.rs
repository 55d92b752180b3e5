//! A queue as the machine holds it in memory: its record, its settings, and a head per priority.
//!
//! A few machine words per queue and priority in use; the tasks themselves are rows. A `line` is the waiting tasks of one
//! priority, in the order they are due.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;

use z4_types::{Millis, QueueName, Token};

use crate::Fault;
use crate::events::Stream;
use crate::fair::{GroupLimits, Groups, Limits};
use crate::head::Head;
use crate::rows::{Config, QueueRecord, Served};
use crate::settings::{Effective, GroupSettings};
use crate::stats::QueueStats;
use crate::steps::Steps;

/// The waiting tasks of one priority.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) priority: u8,
    /// Invariant: the number of schedule rows of this queue and priority.
    pub(crate) waiting: u64,
    /// In a cell: asking when the next task is due is a read, and may learn where the head is.
    pub(crate) head: Cell<Head>,
}

/// Why a queue delivers nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paused {
    /// Shard time of the pause, or of the last word on it.
    pub since: Millis,
    /// Why.
    pub note: String,
    /// Who.
    pub author: String,
    /// When a delivery is tried again: the circuit breaker paused it. None: until somebody resumes it.
    pub until: Option<Millis>,
}

/// One queue.
#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) name: QueueName,
    pub(crate) stats: QueueStats,
    /// Ascending by priority; may hold empty ones, for their heads.
    pub(crate) lines: Vec<Line>,
    /// Waiting tasks by due time.
    pub(crate) steps: Steps,
    /// What was set of it; None: nothing ever. Invariant: equals the config row.
    pub(crate) config: Option<Box<Config>>,
    /// Invariant: what its settings and the policies come to.
    pub(crate) effective: Arc<Effective>,
    /// Its groups that have open tasks, or are remembered; None: there are none. Invariant: equal the group rows.
    pub(crate) groups: Option<Box<Groups>>,
    /// Named groups counted in the machine's total, as of the last entry.
    pub(crate) groups_counted: usize,
    /// Groups with limits of their own. Invariant: equals their rows.
    pub(crate) group_settings: BTreeMap<Box<str>, GroupSettings>,
    /// Limits of a group of which nothing is set. Invariant: those of `effective`.
    pub(crate) group_limits: Arc<GroupLimits>,
    /// Tasks that wait in groups, by priority, ascending, none empty.
    pub(crate) grouped: Vec<(u8, u64)>,
    /// Head of the rows by due time of the tasks that wait in groups.
    pub(crate) timed: Cell<Head>,
    /// Limits of the whole queue. Invariant: those of `effective`.
    pub(crate) limits: Limits,
    /// What it has used of them, and what its breaker has seen.
    pub(crate) served: Served,
    /// Its events; None: never any. Invariant: equals the stream row.
    pub(crate) stream: Option<Box<Stream>>,
    /// Head of its finished rows.
    pub(crate) finished: Cell<Head>,
    /// Its key in the machine's order of evictions; None: it keeps no finished task.
    pub(crate) evict_at: Cell<Option<Millis>>,
    /// The record in storage is older than this one. Invariant: false between entries.
    pub(crate) dirty: bool,
    /// Tasks were put into its lines since somebody asked which queues that happened to.
    pub(crate) touched: bool,
}

impl Queue {
    pub(crate) fn new(name: QueueName, effective: Arc<Effective>) -> Self {
        Self {
            name,
            stats: QueueStats::default(),
            lines: Vec::new(),
            steps: Steps::default(),
            config: None,
            groups: None,
            groups_counted: 0,
            group_settings: BTreeMap::new(),
            group_limits: Arc::new(effective.group_limits()),
            grouped: Vec::new(),
            timed: Cell::new(Head::EMPTY),
            limits: effective.limits(),
            served: Served::default(),
            effective,
            stream: None,
            finished: Cell::new(Head::EMPTY),
            evict_at: Cell::new(None),
            dirty: false,
            touched: false,
        }
    }

    /// Returns the queue of a record; its config and settings are read after it.
    pub(crate) fn from_record(record: QueueRecord, effective: Arc<Effective>) -> Self {
        let lines = record.lines.into_iter();
        let lines =
            lines.map(|(priority, waiting)| Line { priority, waiting, head: Cell::new(Head::UNKNOWN) });
        let kept = record.stats.finished > 0;
        Self {
            stats: record.stats,
            lines: lines.collect(),
            steps: Steps::from(record.counted.unwrap_or_default()),
            timed: Cell::new(if record.grouped.is_empty() { Head::EMPTY } else { Head::UNKNOWN }),
            grouped: record.grouped,
            served: record.served,
            finished: Cell::new(if kept { Head::UNKNOWN } else { Head::EMPTY }),
            ..Self::new(record.name, effective)
        }
    }

    /// Appends the record's bytes.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let lines = self.lines.iter().map(|line| (line.priority, line.waiting));
        let grouped = self.grouped.iter().copied();
        QueueRecord::write(&self.name, &self.stats, self.steps.counted, lines, grouped, &self.served, out);
    }

    /// Returns the line of `priority`, made on first use: one the record did not name is empty.
    pub(crate) fn line(&mut self, priority: u8) -> &mut Line {
        // Nearly always one line: a scan beats a search.
        let at = self.lines.iter().position(|line| line.priority >= priority).unwrap_or(self.lines.len());
        if self.lines.get(at).is_none_or(|line| line.priority != priority) {
            self.lines.insert(at, Line { priority, waiting: 0, head: Cell::new(Head::EMPTY) });
        }
        &mut self.lines[at]
    }

    /// A task of a priority waits in a group, or does not any more.
    pub(crate) fn count_grouped(&mut self, priority: u8, waits: bool) -> Result<(), Fault> {
        match self.grouped.binary_search_by_key(&priority, |line| line.0) {
            Ok(at) if waits => self.grouped[at].1 += 1,
            Ok(at) => {
                self.grouped[at].1 -= 1;
                if self.grouped[at].1 == 0 {
                    self.grouped.remove(at);
                }
            }
            Err(at) if waits => self.grouped.insert(at, (priority, 1)),
            Err(_) => return Err(Fault::corrupt("more tasks in groups than the queue record counts")),
        }
        Ok(())
    }

    /// Returns the limits of one of its groups.
    pub(crate) fn limits_of(&self, group: &str) -> Arc<GroupLimits> {
        limits_of(&self.group_settings, &self.group_limits, group)
    }

    /// Returns how many more of its tasks may be leased at `now`, as far as its own limits say.
    pub(crate) fn room(&self, now: Millis) -> u32 {
        if self.paused(now).is_some() {
            return 0;
        }
        let mut room = self.limits.room(self.stats.leased, self.served.bucket, now);
        if self.is_half_open(now) {
            room = room.min(u64::from(self.served.probe == Token(0)));
        }
        u32::try_from(room).unwrap_or(u32::MAX)
    }

    /// So many of its tasks were leased, for which there was room; the first one under `token`.
    pub(crate) fn took(&mut self, tasks: u64, token: Token, now: Millis) {
        if self.is_half_open(now) {
            self.served.probe = token;
        }
        if let Some(rate) = self.limits.rate {
            self.served.bucket.take(rate, now, tasks);
        }
    }

    /// Returns how many tasks it holds, whatever their state.
    pub(crate) fn tasks(&self) -> u64 {
        self.stats.backlog() + self.stats.dead + self.stats.finished
    }

    /// Returns why it delivers nothing at `now`, if it is paused.
    pub(crate) fn paused(&self, now: Millis) -> Option<&Paused> {
        let paused = self.config.as_ref()?.paused.as_ref();
        paused.filter(|paused| paused.until.is_none_or(|until| now < until))
    }

    /// Returns whether its breaker has it try one delivery.
    pub(crate) fn is_half_open(&self, now: Millis) -> bool {
        let paused = self.config.as_ref().and_then(|config| config.paused.as_ref());
        paused.and_then(|paused| paused.until).is_some_and(|until| until <= now)
    }
}

/// Returns the limits of a group: what is set of it, over those of the queue.
pub(crate) fn limits_of(
    settings: &BTreeMap<Box<str>, GroupSettings>,
    queue: &Arc<GroupLimits>,
    group: &str,
) -> Arc<GroupLimits> {
    settings.get(group).map_or_else(|| Arc::clone(queue), |own| Arc::new(own.over(queue)))
}

/// Takes one off a gauge. One that is already zero means that rows and counters disagree: stop, do not guess.
pub(crate) fn decrease(gauge: &mut u64, what: &str) -> Result<(), Fault> {
    *gauge = gauge
        .checked_sub(1)
        .ok_or_else(|| Fault::corrupt(format!("more {what} rows than the queue record counts")))?;
    Ok(())
}
