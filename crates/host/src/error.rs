//! Why a call failed, and why a host did not start.

use std::path::PathBuf;

use z4_multiraft::Refused;
use z4_types::{Duration, Index, Kind, QueueName, ShardId, TaskId};

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// This host does not lead the shard. Nothing was proposed.
    #[error("this host does not lead shard {0} now; retry")]
    NotLeader(ShardId),
    /// This host has nothing of the shard that could be read.
    #[error(
        "this host holds no replica of shard {0}, or one that waits for its data; ask a host that holds one, or retry"
    )]
    NoReplica(ShardId),
    /// This host's replica is behind what the reader has seen.
    #[error(
        "the replica of shard {shard} on this host has applied entry {applied}, and the page before was of entry \
         {at_least}; ask another host that holds one, or retry"
    )]
    Behind {
        /// The shard.
        shard: ShardId,
        /// How far the replica is.
        applied: Index,
        /// How far it should be.
        at_least: Index,
    },
    /// The id names a shard this cluster does not have.
    #[error("this cluster has no shard {0}; the id is from another cluster")]
    NoSuchShard(ShardId),
    /// Requests wait faster than they are answered. Nothing was accepted.
    #[error("the host holds as many requests as it may; retry after {0}")]
    Overloaded(Duration),
    /// The disk is nearly full. Nothing was accepted; acks and cancels still work.
    #[error(
        "the disk is nearly full: new tasks are refused until space is free; acks and cancels still work"
    )]
    DiskFull,
    /// The host is stopping. Nothing was proposed.
    #[error("the host is stopping; retry on another host, or on this one when it is back")]
    Stopping,
    /// It was proposed and the answer is lost.
    #[error("the outcome is unknown: it may or may not have happened; retry with the same request id")]
    Unknown,
    /// No such task.
    #[error("task {0} does not exist: it was never created, or it was acked, cancelled or has expired")]
    TaskNotFound(TaskId),
    /// No task of the queue has the key.
    #[error("queue {queue} has no task with the key {key}: there never was one, or it has ended")]
    KeyNotFound {
        /// The queue.
        queue: QueueName,
        /// The key.
        key: String,
    },
    /// No such queue.
    #[error("queue {0} does not exist: no task was ever created in it, or it was deleted")]
    QueueNotFound(QueueName),
    /// No such schedule.
    #[error("queue {0} has no schedule {1:?}; list the queue's schedules, or create this one first")]
    ScheduleNotFound(QueueName, String),
    /// An expression or a time zone that is none.
    #[error(transparent)]
    Cron(#[from] z4_cron::Error),
    /// A limit that is known only where slots are worked out.
    #[error(transparent)]
    Invalid(#[from] z4_tasks::Invalid),
    /// The cluster's registry refuses a change.
    #[error(transparent)]
    Registry(#[from] z4_registry::Refusal),
    /// This host listens to no other, so it can neither reach one nor be reached.
    #[error(
        "this host runs without a peer port, so it cannot speak with other hosts; run `z4 server`, which listens on \
         Z4_PEER_PORT"
    )]
    NoPeerPort,
    /// This host belongs to no cluster yet.
    #[error(
        "this host waits to be added to a cluster: add it with `z4t -t MEMBER:PORT -p ADDRESS -id NAME add-peer` on a \
         member, or set Z4_JOIN (flag --join) to a member's peer address"
    )]
    NotJoined,
    /// This host was a member and is none any more.
    #[error("this host was removed from the cluster; use another one")]
    Removed,
    /// Another host was asked and did not do it: what to do about it, and what happened.
    #[error("{1}")]
    Peer(Kind, String),
    /// Storage failed under a read: what to do about it, and what happened.
    #[error("storage failed: {1}")]
    Storage(Kind, String),
}

impl Error {
    /// Returns what the caller should do next.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::NotLeader(_)
            | Self::NoReplica(_)
            | Self::Behind { .. }
            | Self::Stopping
            | Self::NotJoined
            | Self::Removed => Kind::Unavailable,
            Self::NoSuchShard(_)
            | Self::TaskNotFound(_)
            | Self::KeyNotFound { .. }
            | Self::QueueNotFound(_)
            | Self::ScheduleNotFound(..) => Kind::NotFound,
            Self::Cron(error) => error.kind(),
            Self::Invalid(_) => Kind::Invalid,
            Self::Overloaded(_) | Self::DiskFull => Kind::Overloaded,
            Self::Unknown => Kind::OutcomeUnknown,
            Self::Registry(refusal) => refusal.kind(),
            Self::NoPeerPort => Kind::Unsupported,
            Self::Storage(kind, _) | Self::Peer(kind, _) => *kind,
        }
    }

    pub(crate) fn from_refused(why: Refused, shard: ShardId) -> Self {
        match why {
            Refused::NotLeader => Self::NotLeader(shard),
            Refused::NoSuchShard => Self::NoSuchShard(shard),
            Refused::Stopping => Self::Stopping,
        }
    }
}

/// Why a host did not start. Each says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BootError {
    /// Another process uses the directory.
    #[error("{} is in use by another z4 server; stop that one, or choose another directory", .0.display())]
    Locked(PathBuf),
    /// The directory belongs to something else.
    #[error("{} holds the data of {what}; {remedy}", .dir.display())]
    Foreign {
        /// The directory.
        dir: PathBuf,
        /// Whose data it is.
        what: String,
        /// What to do.
        remedy: String,
    },
    /// A name that cannot be kept.
    #[error("{name:?} cannot be the name of a {what}: use printable characters without spaces around them")]
    Name {
        /// What is named.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// Nothing there and not told to form a cluster.
    #[error(
        "{} is empty and this host was not told what to do; to form a new cluster set Z4_BOOTSTRAP_CLUSTER=true \
         (flag --bootstrap-cluster), or name its hosts in Z4_INITIAL_PEERS (flag --initial-peers)", .0.display()
    )]
    Empty(PathBuf),
    /// The initial peers cannot form a cluster.
    #[error("Z4_INITIAL_PEERS: {0}")]
    Peers(String),
    /// Other hosts cannot be listened to.
    #[error("the peer port cannot be served: {0}")]
    Transport(#[from] z4_transport::Error),
    /// One directory has data and the other has not.
    #[error("{} has data but {} has none; both directories of a host belong together, restore the missing one",
        .present.display(), .missing.display())]
    Half {
        /// The directory that has data.
        present: PathBuf,
        /// The directory that has none.
        missing: PathBuf,
    },
    /// Written by a newer version.
    #[error("{} has data format {found}, this version reads up to {known}; run the version that wrote it, or a newer one",
        .dir.display())]
    NewerFormat {
        /// The directory.
        dir: PathBuf,
        /// Its format.
        found: u32,
        /// The newest format this version reads.
        known: u32,
    },
    /// The system refused.
    #[error("{} cannot be used: {error}", .path.display())]
    Io {
        /// File or directory.
        path: PathBuf,
        /// The system's word.
        error: std::io::Error,
    },
    /// The log cannot be opened.
    #[error(transparent)]
    Wal(#[from] z4_wal::Error),
    /// The base cannot be opened.
    #[error(transparent)]
    Store(#[from] z4_store::Error),
    /// A group cannot be opened.
    #[error(transparent)]
    Fault(#[from] z4_multiraft::Fault),
    /// What was found makes no sense.
    #[error("{0}")]
    Corrupt(String),
}
