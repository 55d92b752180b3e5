//! Which lines may have a task for somebody, now and later: the only ones an entry looks at.
//!
//! A host has thousands of consumers that wait at idle queues; none of them may cost anything while nothing happens
//! to its queue. Whoever changes something that a look depends on marks the line; a look that finds nothing due
//! writes down when the next task will be.
//!
//! # Invariants
//! - A line is marked at most once, and marked or in the calendar, not both.
//! - Marked lines are looked at in the order in which they were marked, so none starves another.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use z4_types::Millis;

/// Names a line of consumers, never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LineId(pub(crate) u64);

/// See the module essay.
#[derive(Debug, Default)]
pub(crate) struct Agenda {
    marked: VecDeque<LineId>,
    /// The same lines, to find them; one that is missing here was forgotten.
    is_marked: BTreeSet<LineId>,
    calendar: BTreeSet<(Millis, LineId)>,
    /// The same, by line.
    times: BTreeMap<LineId, Millis>,
}

impl Agenda {
    /// Something changed: the line is worth a look.
    pub(crate) fn mark(&mut self, line: LineId) {
        if self.is_marked.insert(line) {
            self.unschedule(line);
            self.marked.push_back(line);
        }
    }

    /// The line is to be looked at before all others, again.
    pub(crate) fn mark_first(&mut self, line: LineId) {
        self.forget(line);
        self.is_marked.insert(line);
        self.marked.push_front(line);
    }

    /// Nothing is due in the line before `at`, unless it is marked until then.
    pub(crate) fn at(&mut self, line: LineId, at: Millis) {
        if !self.is_marked.contains(&line) {
            self.unschedule(line);
            self.calendar.insert((at, line));
            self.times.insert(line, at);
        }
    }

    /// The line is gone.
    pub(crate) fn forget(&mut self, line: LineId) {
        self.unschedule(line);
        if self.is_marked.remove(&line) {
            self.marked.retain(|other| *other != line);
        }
    }

    /// Marks the lines whose time has come.
    pub(crate) fn advance(&mut self, now: Millis) {
        while let Some(&(at, line)) = self.calendar.first()
            && at <= now
        {
            self.mark(line);
        }
    }

    /// Returns how many lines are marked.
    pub(crate) fn marks(&self) -> usize {
        self.marked.len()
    }

    /// Takes the line marked longest ago.
    pub(crate) fn next(&mut self) -> Option<LineId> {
        let line = self.marked.pop_front()?;
        self.is_marked.remove(&line);
        Some(line)
    }

    /// Returns when the next look is worth it: the beginning of time if a line is marked.
    pub(crate) fn first(&self) -> Option<Millis> {
        if self.marked.is_empty() { self.calendar.first().map(|(at, _)| *at) } else { Some(Millis(0)) }
    }

    fn unschedule(&mut self, line: LineId) {
        if let Some(at) = self.times.remove(&line) {
            self.calendar.remove(&(at, line));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: LineId = LineId(1);
    const B: LineId = LineId(2);

    #[test]
    fn a_line_is_looked_at_once_for_any_number_of_marks_and_in_their_order() {
        let mut agenda = Agenda::default();
        for line in [B, A, B] {
            agenda.mark(line);
        }
        assert_eq!((agenda.first(), agenda.marks()), (Some(Millis(0)), 2));
        assert_eq!([agenda.next(), agenda.next(), agenda.next()], [Some(B), Some(A), None]);
        assert_eq!(agenda.first(), None);
    }

    #[test]
    fn a_line_comes_when_its_time_does_or_before_if_something_happens() {
        let mut agenda = Agenda::default();
        agenda.at(A, Millis(10));
        agenda.at(B, Millis(20));
        agenda.at(A, Millis(30));
        assert_eq!(agenda.first(), Some(Millis(20)));
        agenda.advance(Millis(25));
        assert_eq!([agenda.next(), agenda.next()], [Some(B), None]);
        agenda.mark(A);
        agenda.at(A, Millis(30));
        assert_eq!(agenda.first(), Some(Millis(0)), "a mark is not undone by an older look");
        agenda.mark(B);
        agenda.mark_first(B);
        agenda.forget(A);
        assert_eq!([agenda.next(), agenda.next()], [Some(B), None]);
    }
}
