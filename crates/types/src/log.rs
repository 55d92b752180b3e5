//! What a Raft log holds, in the words the log, the consensus engine and the drivers share.

use bytes::Bytes;

use crate::{Index, Term};

/// What an entry carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EntryKind {
    /// Bytes for the state machine; empty right after an election.
    Normal,
    /// A change of the group's members; bytes of `z4-consensus`.
    Membership,
}

/// A proposal with its place in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Position in the log.
    pub index: Index,
    /// Term of the leader that proposed it.
    pub term: Term,
    /// What `data` is.
    pub kind: EntryKind,
    /// The proposal's bytes.
    pub data: Bytes,
}

/// What a replica must remember across restarts besides its entries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HardState {
    /// Latest term seen. Invariant: never decreases.
    pub term: Term,
    /// Replica voted for in `term`, 0 for none.
    pub vote: u64,
    /// Highest index known committed. Invariant: never decreases.
    pub commit: Index,
}
