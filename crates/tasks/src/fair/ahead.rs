//! Rows read ahead of the lines that a batch visits, so that a thousand picks are not a thousand scans.
//!
//! For the length of one command, while rows are only read: what is picked is deleted at its end.
//!
//! # Invariants
//! - A line gives its rows in order, none twice, and with each the one behind it.

use std::collections::{BTreeMap, VecDeque};

use super::{Choice, Groups, Number};
use crate::Fault;
use crate::head::Point;

/// Most rows one scan reads: enough to make the cost of starting a scan small, little enough to waste.
const AHEAD_MAX: usize = 64;

/// Rows of some lines. `T` is what a row holds beside its place.
#[derive(Debug)]
pub(crate) struct Ahead<T> {
    lines: BTreeMap<(Number, u8), Rows<T>>,
}

#[derive(Debug)]
struct Rows<T> {
    /// Invariant: the first is the line's head.
    read: VecDeque<(Point, T)>,
    /// The last one read is the last of the line.
    ended: bool,
    /// How many the next scan reads.
    next: usize,
}

impl<T> Ahead<T> {
    /// Nothing read.
    pub(crate) fn new() -> Self {
        Self { lines: BTreeMap::new() }
    }

    /// Takes the row of a choice, and says what is behind it. `left`: how many the batch may still take.
    /// `fetch(choice, from, count)` reads up to `count` rows of the choice's line from `from` on, itself included;
    /// fewer mean the line ends.
    ///
    /// # Errors
    /// `Corrupt`, if the line does not start with the choice; what `fetch` fails with.
    pub(crate) fn take(
        &mut self,
        groups: &Groups,
        choice: &Choice,
        left: usize,
        mut fetch: impl FnMut(&Choice, Point, usize) -> Result<Vec<(Point, T)>, Fault>,
    ) -> Result<(T, Option<Point>), Fault> {
        let rows = self.lines.entry((choice.group, choice.priority)).or_insert_with(|| {
            // Each ready group an equal part of what is left, the row behind it, and one for luck.
            let next = left / groups.ready.len().max(1) + 2;
            Rows { read: VecDeque::new(), ended: false, next: next.min(AHEAD_MAX) }
        });
        if rows.read.len() < 2 && !rows.ended {
            let from = rows.read.back().map_or(choice.head, |(point, _)| *point);
            // The last row read is read again, and not kept twice.
            let again = rows.read.len();
            let found = fetch(choice, from, rows.next + again)?;
            rows.ended = found.len() < rows.next + again;
            rows.next = (rows.next * 2).min(AHEAD_MAX);
            rows.read.extend(found.into_iter().skip(again));
        }
        match rows.read.pop_front() {
            Some((point, row)) if point == choice.head => Ok((row, rows.read.front().map(|(next, _)| *next))),
            _ => Err(Fault::corrupt(format!(
                "group number {} has a head that is not the first row of its line",
                choice.group.0
            ))),
        }
    }
}
