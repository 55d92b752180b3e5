//! What a filter can ask of a task: the fields by name, the phases, and the trait a task is seen through.

use z4_types::{Millis, Priority, TaskId};

/// A field of the language.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Field {
    /// `state`
    State,
    /// `priority`
    Priority,
    /// `deliver_at`
    DeliverAt,
    /// `created_at`
    CreatedAt,
    /// `deliveries`
    Deliveries,
    /// `failures`
    Failures,
    /// `key`
    Key,
    /// `group`
    Group,
    /// `consumer`
    Consumer,
    /// `last_error`
    LastError,
    /// `metadata`
    Metadata,
    /// `id`
    Id,
}

/// Where a task stands, as its rows say. Due and scheduled are both [`Phase::Waiting`]: time alone parts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// In line until, or since, its `deliver_at`.
    Waiting,
    /// Held by a consumer.
    Leased,
    /// Out of attempts.
    Dead,
    /// Waits for other tasks.
    Blocked,
    /// Ended by an ack, and retained.
    Done,
    /// Ended by a caller, and retained.
    Cancelled,
    /// Ended by its TTL, and retained.
    Expired,
}

/// A task as a filter sees it. Each method is called only if the filter asks for that field, so it may be lazy; which
/// ones may be called is told by [`crate::Bounds::needs`].
pub trait Fields {
    /// Returns the task's id.
    fn id(&self) -> TaskId;
    /// Returns where the task stands.
    fn phase(&self) -> Phase;
    /// Returns its priority.
    fn priority(&self) -> Priority;
    /// Returns when it is, or was, to be delivered.
    fn deliver_at(&self) -> Millis;
    /// Returns how often it was leased.
    fn deliveries(&self) -> u32;
    /// Returns how often it failed.
    fn failures(&self) -> u32;
    /// Returns its unique key, empty without one.
    fn key(&self) -> &str;
    /// Returns its group, empty without one.
    fn group(&self) -> &str;
    /// Returns who holds its lease or held the last one, empty before the first.
    fn consumer(&self) -> &str;
    /// Returns why its last failure was one, empty before the first.
    fn last_error(&self) -> &str;
    /// Returns the metadata of that name.
    fn metadata(&self, name: &str) -> Option<&str>;

    /// Returns when it was created, which its id knows.
    fn created_at(&self) -> Millis {
        self.id().created_at()
    }
}

impl Field {
    /// All fields, in the order messages name them.
    pub const ALL: [Self; 12] = [
        Self::State,
        Self::Priority,
        Self::DeliverAt,
        Self::CreatedAt,
        Self::Deliveries,
        Self::Failures,
        Self::Key,
        Self::Group,
        Self::Consumer,
        Self::LastError,
        Self::Metadata,
        Self::Id,
    ];

    /// Returns the field's name in filters.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::State => "state",
            Self::Priority => "priority",
            Self::DeliverAt => "deliver_at",
            Self::CreatedAt => "created_at",
            Self::Deliveries => "deliveries",
            Self::Failures => "failures",
            Self::Key => "key",
            Self::Group => "group",
            Self::Consumer => "consumer",
            Self::LastError => "last_error",
            Self::Metadata => "metadata",
            Self::Id => "id",
        }
    }
}

impl Phase {
    /// All phases, in the order of their numbers.
    pub const ALL: [Self; 7] =
        [Self::Waiting, Self::Leased, Self::Dead, Self::Blocked, Self::Done, Self::Cancelled, Self::Expired];
}
