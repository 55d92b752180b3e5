//! One group: its lines, its tags, what it has used of its limits, and where it belongs at a moment.
//!
//! [`Group::judge`] is the whole policy for one group; the sets of [`Groups`](super::Groups) only remember its
//! verdicts.
//!
//! # Invariants
//! - A verdict holds, without an event, until the moment it names: what is ready stays ready, with the same key.

use std::sync::Arc;

use z4_types::{Duration, Millis};

use super::Number;
use super::few::Few;
use super::limits::{Bucket, Gate, GroupLimits};
use crate::Fault;
use crate::head::Point;

/// The waiting tasks of one priority of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Line {
    /// Invariant: the number of rows of this group and priority; above 0.
    pub(super) waiting: u64,
    /// With `id` the first row, exactly.
    at: Millis,
    /// High and low half: a u128 would make every group 32 bytes larger, for alignment.
    id: [u64; 2],
    pub(super) priority: u8,
}

impl Line {
    pub(super) fn new(priority: u8, waiting: u64, head: Point) -> Self {
        let mut line = Self { waiting, at: Millis(0), id: [0; 2], priority };
        line.set_head(head);
        line
    }

    pub(super) fn head(&self) -> Point {
        (self.at.0, u128::from(self.id[0]) << 64 | u128::from(self.id[1]))
    }

    #[expect(clippy::cast_possible_truncation, reason = "the two halves of an id")]
    pub(super) fn set_head(&mut self, (at, id): Point) {
        self.at = Millis(at);
        self.id = [(id >> 64) as u64, id as u64];
    }

    /// Returns the class of the head at `now`, and when it changes.
    fn class(&self, ageing: Option<Duration>, now: Millis) -> (u8, Millis) {
        let Some(span) = ageing else { return (self.priority, Millis::NEVER) };
        let span = span.0.max(1);
        let gained = now.since(self.at).0 / span;
        let class = u8::try_from(gained).map_or(0, |gained| self.priority.saturating_sub(gained));
        let next =
            if class == 0 { Millis::NEVER } else { self.at + Duration((gained + 1).saturating_mul(span)) };
        (class, next)
    }
}

/// A virtual time for some classes; 0 for all others. A group's tags, or the times of a queue.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Tags {
    /// Invariant: ascending by class, no value 0.
    pub(super) set: Few<(u8, u64)>,
}

impl Tags {
    pub(super) fn get(&self, class: u8) -> u64 {
        self.set.iter().find(|tag| tag.0 == class).map_or(0, |tag| tag.1)
    }

    pub(super) fn set(&mut self, class: u8, value: u64) {
        match self.set.binary_search_by_key(&class, |tag| tag.0) {
            Ok(at) if value == 0 => self.set.remove(at),
            Ok(at) => self.set[at].1 = value,
            Err(_) if value == 0 => {}
            Err(at) => self.set.insert(at, (class, value)),
        }
    }

    pub(super) fn raise(&mut self, class: u8, value: u64) {
        self.set(class, value.max(self.get(class)));
    }

    /// Forgets tags that virtual time has passed, but those of `lines`.
    pub(super) fn prune(&mut self, times: &Self, lines: &[Line]) {
        let kept = |(class, tag): &(u8, u64)| {
            *tag > times.get(*class) || lines.iter().any(|line| line.priority == *class)
        };
        if !self.set.iter().all(kept) {
            let all = std::mem::take(&mut self.set);
            self.set.replace(all.iter().copied().filter(kept));
        }
    }

    /// Returns whether any tag lies ahead of its virtual time.
    pub(super) fn owe(&self, times: &Self) -> bool {
        self.set.iter().any(|(class, tag)| *tag > times.get(*class))
    }
}

/// A place in the order of service: the most urgent class, the smallest tag in it, then whose head has been due the
/// longest. Without that last one, groups that come anew all the time, with small numbers, could keep another waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) class: u8,
    pub(super) tag: u64,
    pub(super) at: Millis,
    pub(super) number: u32,
    /// The line whose head it is. Not part of the order: a number is there once.
    pub(super) priority: u8,
}

/// What holds for a group at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Verdict {
    /// It may be served, and this is its place.
    pub(super) ready: Option<Key>,
    /// Until then, if nothing happens. Invariant: later than the moment judged.
    pub(super) again: Millis,
}

/// One group.
#[derive(Debug)]
pub(crate) struct Group {
    pub(super) name: Box<str>,
    pub(super) limits: Arc<GroupLimits>,
    /// Invariant: the number of its tasks that are leased. Not counted for tasks without a group.
    pub(super) leased: u32,
    /// Ascending by priority.
    pub(super) lines: Few<Line>,
    /// When its next task of each class starts, in virtual time.
    pub(super) tags: Tags,
    pub(super) bucket: Bucket,
    /// A worker asked to be left in peace until then.
    pub(super) blocked_until: Millis,
    /// It is not open, and is forgotten then. 0: it is open.
    pub(super) keep_until: Millis,
    /// The last verdict: where it is in the sets.
    pub(super) ready: Option<Key>,
    pub(super) again: Millis,
    /// Its row in storage is older.
    pub(super) is_dirty: bool,
}

impl Group {
    pub(super) fn new(name: &str, limits: Arc<GroupLimits>) -> Self {
        Self {
            name: name.into(),
            limits,
            leased: 0,
            lines: Few::None,
            tags: Tags::default(),
            bucket: Bucket::default(),
            blocked_until: Millis(0),
            keep_until: Millis(0),
            ready: None,
            again: Millis::NEVER,
            is_dirty: false,
        }
    }

    /// Returns its name; empty for the tasks without a group.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Returns its limits.
    pub(crate) fn limits(&self) -> &GroupLimits {
        &self.limits
    }

    #[cfg(test)]
    pub(crate) fn waiting(&self) -> u64 {
        self.lines.iter().map(|line| line.waiting).sum()
    }

    /// Returns its lines: priority, tasks that wait, and the first of them.
    pub(crate) fn lines(&self) -> impl Iterator<Item = (u8, (u64, Point))> {
        self.lines.iter().map(|line| (line.priority, (line.waiting, line.head())))
    }

    /// Returns until when nothing of it is delivered; a time that has passed does not matter.
    pub(crate) fn blocked_until(&self) -> Millis {
        self.blocked_until
    }

    /// Returns how many of its tasks are leased.
    pub(crate) fn leased(&self) -> u32 {
        self.leased
    }

    /// Returns whether it has tasks that wait or are leased.
    pub(super) fn is_open(&self) -> bool {
        self.leased > 0 || !self.lines.is_empty()
    }

    pub(super) fn line(&mut self, priority: u8) -> Option<&mut Line> {
        self.lines.iter_mut().find(|line| line.priority == priority)
    }

    /// Adds a line of a priority that has none.
    pub(super) fn add_line(&mut self, line: Line) {
        let at = self.lines.partition_point(|other| other.priority < line.priority);
        self.lines.insert(at, line);
    }

    /// The head of a line is gone; `next` is behind it.
    pub(super) fn advance(&mut self, number: Number, priority: u8, next: Option<Point>) -> Result<(), Fault> {
        let at = self.lines.iter().position(|line| line.priority == priority);
        let at = at.ok_or_else(|| Fault::corrupt(format!("group number {} has no such line", number.0)))?;
        let line = &mut self.lines[at];
        line.waiting -= 1;
        match next {
            Some(next) if line.waiting > 0 && next > line.head() => line.set_head(next),
            None if line.waiting == 0 => self.lines.remove(at),
            _ => {
                return Err(Fault::corrupt(format!(
                    "group number {} counts {} more tasks of priority {priority}, and its rows say otherwise",
                    number.0, line.waiting
                )));
            }
        }
        Ok(())
    }

    /// Returns the due time of the earliest of its heads.
    pub(crate) fn first_due(&self) -> Option<Millis> {
        self.lines.iter().map(|line| line.at).min()
    }

    /// Returns where the group belongs at `now`.
    pub(super) fn judge(&self, number: u32, ageing: Option<Duration>, now: Millis) -> Verdict {
        let never = Verdict { ready: None, again: Millis::NEVER };
        let Some(due) = self.first_due() else { return never };
        let free = match self.limits.effective().gate(self.leased.into(), self.bucket, now) {
            Gate::Full { .. } => return never,
            Gate::Token { at } => at.max(self.blocked_until),
            Gate::Open => self.blocked_until,
        };
        if due.max(free) > now {
            return Verdict { ready: None, again: due.max(free) };
        }
        let mut again = Millis::NEVER;
        let mut best: Option<(u8, Millis, u8)> = None;
        for line in self.lines.iter().filter(|line| line.at <= now) {
            let (class, next) = line.class(ageing, now);
            again = again.min(next);
            let this = (class, line.at, line.priority);
            best = Some(best.map_or(this, |best| best.min(this)));
        }
        let (class, at, priority) = best.expect("one line is due");
        // A line that becomes due changes the verdict only if it is more urgent than what is due already: being
        // younger, it will never overtake that by ageing.
        for line in self.lines.iter().filter(|line| line.at > now && line.priority < class) {
            again = again.min(line.at);
        }
        let key = Key { class, tag: self.tags.get(class), at, number, priority };
        Verdict { ready: Some(key), again }
    }
}
