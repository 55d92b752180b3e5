//! A soft cursor on the first row of an index, so that nobody walks over what was deleted before it.
//!
//! Storage keeps a tombstone for every deleted row that the base still has. Scanning an index from its start would
//! step over all tombstones since the last checkpoint, again and again. A head remembers a lower bound instead: no
//! live row lies below it. Inserting below lowers it, a scan raises it, and often it is known to be a row itself, so
//! that asking for the first row costs nothing.
//!
//! # Invariants
//! - No live row of the index lies below `low`. If `known`, a live row lies at `low`.
//! - A cache only: losing it at a restart changes no answer. The golden scripts run with a restart after every
//!   command, and must print the same.

/// A point of an index: time, then id or token.
pub(crate) type Point = (u64, u128);

/// See the module essay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    low: Point,
    known: bool,
}

/// What a head knows about the first row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum First {
    /// The index is empty.
    Nothing,
    /// The first row is here.
    At(Point),
    /// No row below this; scan from here.
    From(Point),
}

impl Head {
    /// Above every row: nothing is named this late.
    const END: Point = (u64::MAX, u128::MAX);

    /// Nothing known: after opening.
    pub(crate) const UNKNOWN: Self = Self { low: (0, 0), known: false };

    /// The index is empty.
    pub(crate) const EMPTY: Self = Self { low: Self::END, known: false };

    /// A live row lies at `point`, none below.
    pub(crate) fn at(point: Point) -> Self {
        Self { low: point, known: true }
    }

    /// Returns what is known about the first row.
    pub(crate) fn first(self) -> First {
        match self {
            Self { low: Self::END, .. } => First::Nothing,
            Self { low, known: true } => First::At(low),
            Self { low, known: false } => First::From(low),
        }
    }

    /// Returns the lower bound.
    pub(crate) fn low(self) -> Point {
        self.low
    }

    /// A row was inserted at `point`.
    pub(crate) fn inserted(&mut self, point: Point) {
        if point <= self.low {
            *self = Self::at(point);
        }
    }

    /// The row at `point` was deleted.
    pub(crate) fn deleted(&mut self, point: Point) {
        if point == self.low {
            self.known = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_never_above_a_live_row() {
        let mut head = Head::EMPTY;
        assert_eq!(head.first(), First::Nothing);
        head.inserted((5, 1));
        head.inserted((7, 1));
        assert_eq!(head.first(), First::At((5, 1)));
        head.inserted((3, 1));
        head.deleted((5, 1));
        assert_eq!(head.first(), First::At((3, 1)));
        head.deleted((3, 1));
        assert_eq!(head.first(), First::From((3, 1)));
        assert_eq!(Head::UNKNOWN.first(), First::From((0, 0)));
    }
}
