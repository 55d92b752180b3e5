//! What this crate needs of storage: ordered rows of bytes.

use std::borrow::Cow;

use z4_types::Kind;

/// Storage failed below us: the replica must stop, a reader may try again if `kind` says so. Never a deterministic answer
/// of the state machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct Fault {
    /// What to do about it.
    pub kind: Kind,
    /// What happened.
    pub what: String,
}

impl Fault {
    /// Rows were read, and contradict each other or cannot be understood.
    #[must_use]
    pub fn corrupt(what: impl Into<String>) -> Self {
        Self { kind: Kind::Corrupt, what: what.into() }
    }
}

/// Visits one row; returns false to end the scan.
pub type Visit<'v> = dyn FnMut(&[u8], &[u8]) -> bool + 'v;

/// Reads rows at one consistent point.
pub trait Read {
    /// Returns the value of `key`.
    ///
    /// # Errors
    /// If storage fails.
    fn get(&self, key: &[u8]) -> Result<Option<Cow<'_, [u8]>>, Fault>;

    /// Visits the rows with `from <= key < to` in key order, until `visit` returns false.
    ///
    /// # Errors
    /// If storage fails.
    fn scan(&self, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), Fault>;

    /// Calls `found(position, value)` for each of the `keys` that exists; `keys` must be sorted. One pass over
    /// storage, far cheaper than single gets when keys are neighbours.
    ///
    /// # Errors
    /// If storage fails.
    fn get_many(&self, keys: &[&[u8]], found: &mut dyn FnMut(usize, &[u8])) -> Result<(), Fault>;
}

/// Reads and changes rows. A reader sees every change made before.
pub trait Store: Read {
    /// Adds a row whose key is known to be absent. Cheaper than [`Store::put`]: a later delete before the next
    /// checkpoint leaves no trace.
    fn insert(&mut self, key: &[u8], value: &[u8]);

    /// Adds or replaces a row.
    fn put(&mut self, key: &[u8], value: &[u8]);

    /// Removes a row; an absent key is fine.
    fn delete(&mut self, key: &[u8]);
}
