//! What one replica tells another: the engine's message, opaque, with the few facts a driver needs to route it.
//!
//! A message is made by [`Group::ready`](crate::Group::ready) or by [`Message::decode`], never by hand. Its bytes are in
//! `codec.rs`.
//!
//! # Invariants
//! - Only the ten kinds of `codec.rs` exist in a `Message`: proposals and reads are never forwarded by the engine, and
//!   what the engine tells itself never leaves.

use raft::eraftpb::{Message as RaftMessage, MessageType, Snapshot};
use z4_types::{Index, Term};

use crate::membership::Membership;

/// A message between two replicas of one group.
#[derive(Debug, Clone, PartialEq)]
pub struct Message(pub(crate) RaftMessage);

/// Where a snapshot stands: the engine's whole knowledge of it. The rows travel elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotMark {
    /// Everything up to here is in the rows.
    pub index: Index,
    /// Term of the entry at `index`.
    pub term: Term,
    /// The membership as of `index`.
    pub membership: Membership,
}

impl Message {
    /// Returns the replica it is for.
    #[must_use]
    pub fn to(&self) -> u64 {
        self.0.to
    }

    /// Returns the replica that sent it.
    #[must_use]
    pub fn from(&self) -> u64 {
        self.0.from
    }

    /// Returns the sender's term; of a pre-vote, the term it would campaign in.
    #[must_use]
    pub fn term(&self) -> Term {
        Term(self.0.term)
    }

    /// Returns whether it is small and may overtake others. Appends may not, even without entries: one that overtakes
    /// the one before it is refused, and the leader would send everything after it again.
    #[must_use]
    pub fn is_urgent(&self) -> bool {
        !matches!(self.0.get_msg_type(), MessageType::MsgAppend | MessageType::MsgSnapshot)
    }

    /// Returns the mark if this is a snapshot: the receiver needs its rows before it may step the message.
    #[must_use]
    pub fn snapshot(&self) -> Option<SnapshotMark> {
        (self.0.get_msg_type() == MessageType::MsgSnapshot)
            .then(|| SnapshotMark::from_raft(self.0.get_snapshot()))
    }

    /// Returns the same snapshot with a later mark: that of the view whose rows are sent. The leader resumes as soon as
    /// the receiver answers at the mark it asked for or above.
    ///
    /// # Panics
    /// If this is no snapshot, or the mark is below the one it has.
    #[must_use]
    pub fn with_snapshot_mark(mut self, mark: &SnapshotMark) -> Self {
        let before = self.snapshot().expect("only a snapshot has a mark");
        assert!(mark.index >= before.index, "a view never lies before the mark that asked for it");
        self.0.set_snapshot(mark.to_raft());
        self
    }
}

impl SnapshotMark {
    pub(crate) fn from_raft(snapshot: &Snapshot) -> Self {
        let metadata = snapshot.get_metadata();
        Self {
            index: Index(metadata.index),
            term: Term(metadata.term),
            membership: Membership::from_raft(metadata.get_conf_state()),
        }
    }

    pub(crate) fn to_raft(&self) -> Snapshot {
        let mut snapshot = Snapshot::default();
        let metadata = snapshot.mut_metadata();
        metadata.set_index(self.index.0);
        metadata.set_term(self.term.0);
        metadata.set_conf_state(self.membership.to_raft());
        snapshot
    }
}
