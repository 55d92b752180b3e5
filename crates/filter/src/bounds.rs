//! Where tasks that pass can lie: for each phase a window of `deliver_at` and priority, the two that storage orders by.
//!
//! AND intersects windows and OR unites them into the smallest window around both, so bounds may be wider than the
//! filter and never narrower. They are kept a phase at a time because rows are: `state = due OR state = dead` reads the
//! past of the lines and all of the dead, and no lease.
//!
//! # Invariants
//! - If a task passes, `Bounds::window` of its phase is there and holds it. Tested by `tests/properties.rs`.
//! - A window is never empty: a phase without tasks to read has none.

use z4_types::{Millis, Priority};

use crate::field::{Field, Phase};
use crate::filter::Node;
use crate::term::{NumberField, Order, StateName, Term, Test, TimeField};

/// What a scan has to read at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// By the number of the phase.
    windows: [Option<Window>; Phase::ALL.len()],
    needs: Needs,
}

/// A range of `deliver_at` and one of priority, ends included. Invariant: each begins no later than it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// The earliest `deliver_at`.
    pub from: Millis,
    /// The latest `deliver_at`, itself included.
    pub until: Millis,
    /// The lowest number of priority.
    pub priority_from: Priority,
    /// The highest number of priority, itself included.
    pub priority_until: Priority,
}

/// Which fields a filter asks for. State, `deliver_at`, `created_at` and id are known wherever a task is found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Needs(u16);

impl Bounds {
    pub(crate) fn of(node: &Node, now: Millis) -> Self {
        match node {
            Node::Term(term) => Self::of_term(term, now),
            Node::All(nodes) => {
                let each = nodes.iter().map(|node| Self::of(node, now));
                each.fold(Self::everything(), |all, one| all.intersect(&one))
            }
            Node::Any(nodes) => {
                let each = nodes.iter().map(|node| Self::of(node, now));
                each.fold(Self::nothing(), |all, one| all.unite(&one))
            }
        }
    }

    /// Returns where tasks of a phase can lie that pass; None: no task of that phase passes.
    #[must_use]
    pub fn window(&self, phase: Phase) -> Option<Window> {
        self.windows[phase as usize]
    }

    /// Returns the phases in which tasks can pass.
    pub fn phases(&self) -> impl Iterator<Item = Phase> + '_ {
        Phase::ALL.into_iter().filter(|phase| self.window(*phase).is_some())
    }

    /// Returns the window around those of all phases; None: nothing can pass, read nothing.
    #[must_use]
    pub fn hull(&self) -> Option<Window> {
        self.windows.into_iter().flatten().reduce(Window::unite)
    }

    /// Returns which fields are asked for.
    #[must_use]
    pub fn needs(&self) -> Needs {
        self.needs
    }

    /// Returns the bounds of two filters joined by AND.
    #[must_use]
    pub fn intersect(&self, other: &Self) -> Self {
        let mut both = *self;
        for (window, other) in both.windows.iter_mut().zip(&other.windows) {
            *window = window.zip(*other).and_then(|(one, other)| one.intersect(other));
        }
        both.needs = Needs(self.needs.0 | other.needs.0);
        both
    }

    /// Returns the bounds of two filters joined by OR.
    #[must_use]
    pub fn unite(&self, other: &Self) -> Self {
        let mut both = *self;
        for (window, other) in both.windows.iter_mut().zip(&other.windows) {
            *window = [*window, *other].into_iter().flatten().reduce(Window::unite);
        }
        both.needs = Needs(self.needs.0 | other.needs.0);
        both
    }

    fn everything() -> Self {
        Self::each(|_| Some(Window::ALL))
    }

    fn nothing() -> Self {
        Self::each(|_| None)
    }

    fn each(window: impl Fn(Phase) -> Option<Window>) -> Self {
        Self { windows: Phase::ALL.map(window), needs: Needs::default() }
    }

    fn of_term(term: &Term, now: Millis) -> Self {
        let mut bounds = match &term.test {
            Test::State(name) => Self::each(|phase| name.window(phase, term.negated, now)),
            // What `!=` leaves out is one value in the midst of all others.
            _ if term.negated => Self::everything(),
            Test::Time(TimeField::DeliverAt, order, value) => {
                let range = order.range(value.0, u64::MAX);
                let window =
                    |(from, until)| Window { from: Millis(from), until: Millis(until), ..Window::ALL };
                Self::each(|_| range.map(window))
            }
            Test::Number(NumberField::Priority, order, value) => {
                let range = order.range(u64::from(*value), u64::from(u8::MAX));
                let priority = |number| Priority(u8::try_from(number).expect("a range ends at u8::MAX"));
                let window = |(from, until)| Window {
                    priority_from: priority(from),
                    priority_until: priority(until),
                    ..Window::ALL
                };
                Self::each(|_| range.map(window))
            }
            Test::Time(..) | Test::Number(..) | Test::Id(..) | Test::IdStart { .. } | Test::Text(..) => {
                Self::everything()
            }
        };
        bounds.needs = Needs(1 << term.test.field() as u16);
        bounds
    }
}

impl Window {
    /// Every task of a phase.
    pub const ALL: Self = Self {
        from: Millis(0),
        until: Millis(u64::MAX),
        priority_from: Priority(0),
        priority_until: Priority(u8::MAX),
    };

    /// Returns whether a task with these lies inside.
    #[must_use]
    pub fn holds(&self, deliver_at: Millis, priority: Priority) -> bool {
        (self.from..=self.until).contains(&deliver_at)
            && (self.priority_from..=self.priority_until).contains(&priority)
    }

    fn intersect(self, other: Self) -> Option<Self> {
        let both = Self {
            from: self.from.max(other.from),
            until: self.until.min(other.until),
            priority_from: self.priority_from.max(other.priority_from),
            priority_until: self.priority_until.min(other.priority_until),
        };
        (both.from <= both.until && both.priority_from <= both.priority_until).then_some(both)
    }

    fn unite(self, other: Self) -> Self {
        Self {
            from: self.from.min(other.from),
            until: self.until.max(other.until),
            priority_from: self.priority_from.min(other.priority_from),
            priority_until: self.priority_until.max(other.priority_until),
        }
    }
}

impl Needs {
    /// Returns whether the filter asks for this field.
    #[must_use]
    pub fn has(self, field: Field) -> bool {
        self.0 & (1 << field as u16) != 0
    }

    /// Returns whether the filter asks for what the state row of a task holds. The priority of a waiting task is also
    /// in its place in line, so ask [`Needs::has`] for that.
    #[must_use]
    pub fn state(self) -> bool {
        [Field::Deliveries, Field::Failures, Field::Consumer, Field::LastError]
            .into_iter()
            .any(|field| self.has(field))
    }

    /// Returns whether the filter asks for what the body of a task holds.
    #[must_use]
    pub fn body(self) -> bool {
        [Field::Key, Field::Group, Field::Metadata].into_iter().any(|field| self.has(field))
    }
}

impl StateName {
    /// Returns where tasks of a phase lie that have this state, or, negated, do not have it.
    fn window(self, phase: Phase, negated: bool, now: Millis) -> Option<Window> {
        let waiting = phase == Phase::Waiting;
        let past = || Some(Window { until: now, ..Window::ALL });
        let future = || Some(Window { from: Millis(now.0 + 1), ..Window::ALL });
        match (self, negated) {
            (Self::Due, false) | (Self::Scheduled, true) if waiting => past(),
            (Self::Scheduled, false) | (Self::Due, true) if waiting => future(),
            (Self::Due | Self::Scheduled, _) => negated.then_some(Window::ALL),
            (Self::Waiting, _) => (waiting != negated).then_some(Window::ALL),
            (Self::Other(own), _) => ((phase == own) != negated).then_some(Window::ALL),
        }
    }
}

impl Order {
    /// Returns the first and last number up to `max` for which it holds.
    fn range(self, value: u64, max: u64) -> Option<(u64, u64)> {
        let (from, until) = match self {
            Self::Equal => (value, value),
            Self::Less => (0, value.checked_sub(1)?),
            Self::AtMost => (0, value),
            Self::More => (value.checked_add(1)?, max),
            Self::AtLeast => (value, max),
        };
        (from <= until.min(max)).then_some((from, until.min(max)))
    }
}
