//! A shard: one Raft group, and where its replicas shall stand.

use std::fmt;

use z4_types::{HostId, ShardId};

/// A shard's copy on one host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replica {
    /// Unique in the cluster, never zero, never reused: a wiped disk cannot answer for its predecessor.
    pub id: u64,
    /// Where it stands.
    pub host: HostId,
    /// What it shall be.
    pub role: Role,
}

/// What a replica shall be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Counts for elections and commits.
    Voter,
    /// Receives the log, does not count.
    Learner,
    /// Nothing: it shall go. It stays listed until its group reports that it has left ([`crate::Command::Left`]), so
    /// that it can be reached for the change that lets it go, and so that its host is not given another replica of
    /// the shard before. It is never wanted again.
    Leaving,
}

/// One Raft group and where its replicas shall stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shard {
    /// Its id; 0 is the registry.
    pub id: ShardId,
    /// Grows with each change of `replicas`: routes of an older epoch may be stale.
    pub epoch: u64,
    /// Its replicas, by id. Invariant: at most one a host, and at least one voter.
    pub replicas: Vec<Replica>,
}

impl Replica {
    /// Returns whether it shall be a member of its group.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.role != Role::Leaving
    }
}

impl Shard {
    /// Returns its replicas of one role, by id.
    pub fn with_role(&self, role: Role) -> impl Iterator<Item = &Replica> {
        self.replicas.iter().filter(move |replica| replica.role == role)
    }

    /// Returns the replicas that shall vote, by id.
    pub fn voters(&self) -> impl Iterator<Item = &Replica> {
        self.with_role(Role::Voter)
    }

    /// Returns its replica on `host`, in whatever role.
    #[must_use]
    pub fn on(&self, host: &HostId) -> Option<&Replica> {
        self.replicas.iter().find(|replica| replica.host == *host)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Voter => "voter",
            Self::Learner => "learner",
            Self::Leaving => "leaving",
        })
    }
}
