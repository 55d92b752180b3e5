//! Why a call on a group failed, and what to do then.

use z4_types::{Kind, ShardId};

/// Why a call on a group failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// This replica does not lead; nothing was proposed. Normal operation: ask the leader.
    #[error("this replica is not the leader of shard {0}")]
    NotLeader(ShardId),
    /// Leadership is being handed over; nothing was proposed. Keep the data and ask again: the hand-over ends or is
    /// given up within one election timeout.
    #[error("shard {0}: leadership is being handed over")]
    Transferring(ShardId),
    /// A change of the membership may be under way; nothing was proposed. Ask again later.
    #[error("shard {0}: another change of the membership is under way")]
    Busy(ShardId),
    /// The message or the change can never be taken as it is; nothing was done.
    #[error("shard {0}: refused: {1}")]
    Refused(ShardId, &'static str),
    /// The message is for another replica: one that lived here before, or one that lives elsewhere. Nothing was done.
    #[error("shard {shard}: a message for replica {to} reached replica {replica}")]
    NotMine {
        /// The group.
        shard: ShardId,
        /// Whom the message is for.
        to: u64,
        /// Who got it.
        replica: u64,
    },
    /// What was found on disk, here or at a peer, does not fit together.
    #[error("shard {0}: {1}")]
    Inconsistent(ShardId, String),
    /// The engine refused.
    #[error("shard {0}: consensus engine: {1}")]
    Engine(ShardId, String),
}

impl Error {
    /// Returns what the caller should do next.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::NotLeader(_) | Self::Transferring(_) | Self::Busy(_) => Kind::Unavailable,
            Self::Refused(..) | Self::NotMine { .. } => Kind::Invalid,
            Self::Inconsistent(..) => Kind::Corrupt,
            Self::Engine(..) => Kind::Internal,
        }
    }
}
