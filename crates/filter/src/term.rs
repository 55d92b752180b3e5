//! One question about one field.
//!
//! # Invariants
//! - A term is negated only where the opposite operator would mean something else: `NOT priority < 5` becomes
//!   `priority >= 5` by [`Term::new`], but a task without that metadata is neither below a text nor above it.

use z4_types::{Millis, TaskId};

use crate::field::{Field, Fields, Phase};

/// Letters of an id's text.
pub(crate) const ID_LETTERS: usize = 26;
/// What each of them adds; the first, which has room for more, adds three.
const BITS_PER_LETTER: usize = 5;

/// A test, or its opposite.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Term {
    /// Invariant: false if the test is an order that can be turned round.
    pub(crate) negated: bool,
    pub(crate) test: Test,
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Test {
    State(StateName),
    Number(NumberField, Order, u32),
    Time(TimeField, Order, Millis),
    Id(Order, TaskId),
    /// An id that begins with these letters. Invariant: 1 to `ID_LETTERS`, and `low` goes on with zeros.
    IdStart {
        low: TaskId,
        letters: usize,
    },
    Text(TextField, TextTest),
}

/// What is asked of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TextTest {
    Compare(Order, String),
    /// Begins with, ends with or contains the core: open at the end, at the start, or at both. Invariant: one is open.
    Like {
        core: String,
        open_start: bool,
        open_end: bool,
    },
    /// Invariant: the text is not empty.
    Contains(String),
    Present,
}

/// The operators without `!=`, which is `=` negated, and `:`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    Equal,
    Less,
    AtMost,
    More,
    AtLeast,
}

/// The values of `state`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StateName {
    /// Due or scheduled.
    Waiting,
    /// Waiting, and its time has come.
    Due,
    /// Waiting for its time.
    Scheduled,
    /// A phase that is no kind of waiting.
    Other(Phase),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NumberField {
    Priority,
    Deliveries,
    Failures,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TimeField {
    DeliverAt,
    CreatedAt,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TextField {
    Key,
    Group,
    Consumer,
    LastError,
    Metadata(String),
}

impl Term {
    /// Returns the term, its order turned round rather than negated where both mean the same.
    pub(crate) fn new(negated: bool, mut test: Test) -> Self {
        if !negated {
            return Self { negated, test };
        }
        let order = match &mut test {
            Test::Number(_, order, _) | Test::Time(_, order, _) | Test::Id(order, _) => Some(order),
            Test::Text(TextField::Metadata(_), _) => None,
            Test::Text(_, TextTest::Compare(order, _)) => Some(order),
            Test::State(_) | Test::IdStart { .. } | Test::Text(..) => None,
        };
        match order.and_then(|order| order.opposite().map(|opposite| *order = opposite)) {
            Some(()) => Self { negated: false, test },
            None => Self { negated: true, test },
        }
    }

    pub(crate) fn matches(&self, task: &impl Fields, now: Millis) -> bool {
        self.negated != self.test.holds(task, now)
    }
}

impl Test {
    /// Returns the field it is about.
    pub(crate) fn field(&self) -> Field {
        match self {
            Self::State(_) => Field::State,
            Self::Number(field, ..) => field.field(),
            Self::Time(field, ..) => field.field(),
            Self::Id(..) | Self::IdStart { .. } => Field::Id,
            Self::Text(field, _) => field.field(),
        }
    }

    fn holds(&self, task: &impl Fields, now: Millis) -> bool {
        match self {
            Self::State(name) => name.holds(task, now),
            Self::Number(field, order, value) => {
                let found = match field {
                    NumberField::Priority => u32::from(task.priority().0),
                    NumberField::Deliveries => task.deliveries(),
                    NumberField::Failures => task.failures(),
                };
                order.holds(&found, value)
            }
            Self::Time(TimeField::DeliverAt, order, value) => order.holds(&task.deliver_at(), value),
            Self::Time(TimeField::CreatedAt, order, value) => order.holds(&task.created_at(), value),
            Self::Id(order, value) => order.holds(&task.id(), value),
            Self::IdStart { low, letters } => {
                let rest = BITS_PER_LETTER * (ID_LETTERS - letters);
                task.id().0 >> rest == low.0 >> rest
            }
            Self::Text(field, test) => {
                let found = match field {
                    TextField::Key => Some(task.key()),
                    TextField::Group => Some(task.group()),
                    TextField::Consumer => Some(task.consumer()),
                    TextField::LastError => Some(task.last_error()),
                    TextField::Metadata(name) => task.metadata(name),
                };
                found.is_some_and(|found| test.holds(found, matches!(field, TextField::Metadata(_))))
            }
        }
    }
}

impl TextTest {
    /// `found_is_set`: whether an empty text is a text that somebody set, as it is in metadata.
    fn holds(&self, found: &str, found_is_set: bool) -> bool {
        match self {
            Self::Compare(order, value) => order.holds(found, value.as_str()),
            Self::Like { core, open_start: false, .. } => found.starts_with(core.as_str()),
            Self::Like { core, open_end: false, .. } => found.ends_with(core.as_str()),
            Self::Like { core, .. } | Self::Contains(core) => found.contains(core.as_str()),
            Self::Present => found_is_set || !found.is_empty(),
        }
    }
}

impl StateName {
    /// All names, in the order messages name them.
    pub(crate) const ALL: [Self; 9] = [
        Self::Waiting,
        Self::Due,
        Self::Scheduled,
        Self::Other(Phase::Leased),
        Self::Other(Phase::Dead),
        Self::Other(Phase::Blocked),
        Self::Other(Phase::Done),
        Self::Other(Phase::Cancelled),
        Self::Other(Phase::Expired),
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Waiting | Self::Other(Phase::Waiting) => "waiting",
            Self::Due => "due",
            Self::Scheduled => "scheduled",
            Self::Other(Phase::Leased) => "leased",
            Self::Other(Phase::Dead) => "dead",
            Self::Other(Phase::Blocked) => "blocked",
            Self::Other(Phase::Done) => "done",
            Self::Other(Phase::Cancelled) => "cancelled",
            Self::Other(Phase::Expired) => "expired",
        }
    }

    fn holds(self, task: &impl Fields, now: Millis) -> bool {
        match self {
            Self::Waiting => task.phase() == Phase::Waiting,
            Self::Due => task.phase() == Phase::Waiting && task.deliver_at() <= now,
            Self::Scheduled => task.phase() == Phase::Waiting && task.deliver_at() > now,
            Self::Other(phase) => task.phase() == phase,
        }
    }
}

impl Order {
    fn holds<T: Ord + ?Sized>(self, found: &T, value: &T) -> bool {
        match self {
            Self::Equal => found == value,
            Self::Less => found < value,
            Self::AtMost => found <= value,
            Self::More => found > value,
            Self::AtLeast => found >= value,
        }
    }

    /// Returns the order that holds where this one does not; None for `=`, whose opposite is no order.
    fn opposite(self) -> Option<Self> {
        match self {
            Self::Equal => None,
            Self::Less => Some(Self::AtLeast),
            Self::AtMost => Some(Self::More),
            Self::More => Some(Self::AtMost),
            Self::AtLeast => Some(Self::Less),
        }
    }

    pub(crate) fn symbol(self) -> &'static str {
        match self {
            Self::Equal => "=",
            Self::Less => "<",
            Self::AtMost => "<=",
            Self::More => ">",
            Self::AtLeast => ">=",
        }
    }
}

impl NumberField {
    pub(crate) fn field(self) -> Field {
        match self {
            Self::Priority => Field::Priority,
            Self::Deliveries => Field::Deliveries,
            Self::Failures => Field::Failures,
        }
    }

    /// Returns the largest value a task can have.
    pub(crate) fn max(self) -> u32 {
        match self {
            Self::Priority => u32::from(u8::MAX),
            Self::Deliveries | Self::Failures => u32::MAX,
        }
    }
}

impl TimeField {
    pub(crate) fn field(self) -> Field {
        match self {
            Self::DeliverAt => Field::DeliverAt,
            Self::CreatedAt => Field::CreatedAt,
        }
    }
}

impl TextField {
    pub(crate) fn field(&self) -> Field {
        match self {
            Self::Key => Field::Key,
            Self::Group => Field::Group,
            Self::Consumer => Field::Consumer,
            Self::LastError => Field::LastError,
            Self::Metadata(_) => Field::Metadata,
        }
    }
}
