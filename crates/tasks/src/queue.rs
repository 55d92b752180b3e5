//! A queue as the machine holds it in memory: its record, and a head per priority.
//!
//! A few machine words per queue and priority in use; the tasks themselves are rows. A `line` is the waiting tasks of one
//! priority, in the order they are due.

use std::cell::Cell;

use z4_types::QueueName;

use crate::Fault;
use crate::head::Head;
use crate::rows::QueueRecord;
use crate::stats::QueueStats;

/// The waiting tasks of one priority.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) priority: u8,
    /// Invariant: the number of schedule rows of this queue and priority.
    pub(crate) waiting: u64,
    /// In a cell: asking when the next task is due is a read, and may learn where the head is.
    pub(crate) head: Cell<Head>,
}

/// One queue.
#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) name: QueueName,
    pub(crate) stats: QueueStats,
    /// Ascending by priority; may hold empty ones, for their heads.
    pub(crate) lines: Vec<Line>,
    /// The record in storage is older than this one. Invariant: false between entries.
    pub(crate) dirty: bool,
    /// Tasks were put into its lines since somebody asked which queues that happened to.
    pub(crate) touched: bool,
}

impl Queue {
    pub(crate) fn new(name: QueueName) -> Self {
        Self { name, stats: QueueStats::default(), lines: Vec::new(), dirty: false, touched: false }
    }

    pub(crate) fn from_record(record: QueueRecord) -> Self {
        let lines = record.lines.into_iter();
        let lines =
            lines.map(|(priority, waiting)| Line { priority, waiting, head: Cell::new(Head::UNKNOWN) });
        Self { name: record.name, stats: record.stats, lines: lines.collect(), dirty: false, touched: false }
    }

    /// Appends the record's bytes.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let lines = self.lines.iter().map(|line| (line.priority, line.waiting));
        QueueRecord::write(&self.name, &self.stats, lines, out);
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
}

/// Takes one off a gauge. One that is already zero means that rows and counters disagree: stop, do not guess.
pub(crate) fn decrease(gauge: &mut u64, what: &str) -> Result<(), Fault> {
    *gauge = gauge
        .checked_sub(1)
        .ok_or_else(|| Fault::corrupt(format!("more {what} rows than the queue record counts")))?;
    Ok(())
}
