//! A queue as the machine holds it in memory: its record, its settings, and a head per priority.
//!
//! A few machine words per queue and priority in use; the tasks themselves are rows. A `line` is the waiting tasks of one
//! priority, in the order they are due.

use std::cell::Cell;
use std::sync::Arc;

use z4_types::{Millis, QueueName};

use crate::Fault;
use crate::head::Head;
use crate::rows::{Config, QueueRecord};
use crate::settings::Effective;
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
            effective,
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
            finished: Cell::new(if kept { Head::UNKNOWN } else { Head::EMPTY }),
            ..Self::new(record.name, effective)
        }
    }

    /// Appends the record's bytes.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let lines = self.lines.iter().map(|line| (line.priority, line.waiting));
        QueueRecord::write(&self.name, &self.stats, self.steps.counted, lines, out);
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

    /// Returns how many tasks it holds, whatever their state.
    pub(crate) fn tasks(&self) -> u64 {
        self.stats.backlog() + self.stats.dead + self.stats.finished
    }

    /// Returns whether it delivers nothing at present.
    pub(crate) fn is_paused(&self) -> bool {
        self.config.as_ref().is_some_and(|config| config.paused.is_some())
    }
}

/// Takes one off a gauge. One that is already zero means that rows and counters disagree: stop, do not guess.
pub(crate) fn decrease(gauge: &mut u64, what: &str) -> Result<(), Fault> {
    *gauge = gauge
        .checked_sub(1)
        .ok_or_else(|| Fault::corrupt(format!("more {what} rows than the queue record counts")))?;
    Ok(())
}
