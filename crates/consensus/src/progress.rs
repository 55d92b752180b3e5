//! What a leader knows of the others, for whoever decides on membership and for the metrics.

use raft::ProgressState;
use z4_types::Index;

/// How a leader feeds a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replication {
    /// Looking for the place where the logs agree, one message at a time.
    Probe,
    /// Sending ahead of the answers.
    Replicate,
    /// Waiting for a snapshot to arrive.
    Snapshot,
}

/// What a leader knows of one member, itself included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerProgress {
    /// The member.
    pub replica: u64,
    /// It has everything up to here durably.
    pub matched: Index,
    /// What it is sent next.
    pub next: Index,
    /// How it is fed.
    pub state: Replication,
    /// Whether it answered within the last election timeout; true for the leader itself.
    pub recent_active: bool,
    /// Whether it receives the log without counting.
    pub learner: bool,
}

impl PeerProgress {
    pub(crate) fn new(replica: u64, of: &raft::Progress, learner: bool, own: bool) -> Self {
        Self {
            replica,
            matched: Index(of.matched),
            next: Index(of.next_idx),
            state: match of.state {
                ProgressState::Probe => Replication::Probe,
                ProgressState::Replicate => Replication::Replicate,
                ProgressState::Snapshot => Replication::Snapshot,
            },
            recent_active: own || of.recent_active,
            learner,
        }
    }
}
