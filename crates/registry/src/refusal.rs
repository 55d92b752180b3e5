//! Why a command is refused: a value, the same on every replica, whose text says what to do next.

use z4_types::{HostId, Kind, ShardId};

/// A refused command has changed nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// A value cannot be used as it is.
    #[error("{0}")]
    Invalid(String),
    /// No member has this name.
    #[error("there is no host {0} in this cluster; `info` lists its members")]
    NotFound(HostId),
    /// A member has this name.
    #[error(
        "host {host} is a member already, reached at {address}; a host that moved tells its new address by itself, \
         and an empty one joins as a replacement"
    )]
    AlreadyMember {
        /// The name.
        host: HostId,
        /// Where it is reached.
        address: String,
    },
    /// Another member is reached there.
    #[error("address {address} is that of host {host}; each host needs its own")]
    AddressInUse {
        /// host:port.
        address: String,
        /// Whose it is.
        host: HostId,
    },
    /// Somebody must hold the data.
    #[error("host {0} is the last active one of the cluster; add another first, or undrain one")]
    LastVoter(HostId),
    /// Another data directory speaks for this host.
    #[error(
        "host {0} is known with another data directory; give each host its own Z4_PEER_ID, or, if that directory is \
         lost, join with an empty one, which replaces it"
    )]
    WrongInstance(HostId),
    /// The host, or this data directory of it, left the cluster for good.
    #[error(
        "this data directory of host {0} was removed from the cluster or replaced; to bring the host back, empty its \
         directories and add it again"
    )]
    Removed(HostId),
    /// A replica has to leave before.
    #[error("replicas of shard {0} are still moving; wait until they have arrived and try again")]
    StillMoving(ShardId),
    /// The data is nowhere else.
    #[error("host {host} holds the only replica of shard {shard}: restore its directories from a backup")]
    OnlyReplica {
        /// The host to be replaced.
        host: HostId,
        /// A shard that would be lost.
        shard: ShardId,
    },
    /// A limit was met.
    #[error(
        "the registry knows {0} hosts, removed ones included, and takes no more; use the name of a removed one"
    )]
    TooManyHosts(usize),
    /// Nothing was set for this pattern.
    #[error("there is no policy for {0:?}; list the policies to see their patterns")]
    NoPolicy(String),
    /// A limit was met.
    #[error(
        "there are {0} policies, and no room for this one: set fewer, for patterns that stand for more queues"
    )]
    TooManyPolicies(usize),
}

impl Refusal {
    /// Returns a stable name of the reason, as doors show it.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Invalid(_) => "INVALID",
            Self::NotFound(_) => "HOST_NOT_FOUND",
            Self::AlreadyMember { .. } => "ALREADY_MEMBER",
            Self::AddressInUse { .. } => "ADDRESS_IN_USE",
            Self::LastVoter(_) => "LAST_VOTER",
            Self::WrongInstance(_) => "WRONG_INSTANCE",
            Self::Removed(_) => "HOST_REMOVED",
            Self::StillMoving(_) => "STILL_MOVING",
            Self::OnlyReplica { .. } => "ONLY_REPLICA",
            Self::TooManyHosts(_) => "TOO_MANY_HOSTS",
            Self::NoPolicy(_) => "POLICY_NOT_FOUND",
            Self::TooManyPolicies(_) => "TOO_MANY_POLICIES",
        }
    }

    /// Returns what the caller should do.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Invalid(_)
            | Self::AlreadyMember { .. }
            | Self::AddressInUse { .. }
            | Self::LastVoter(_)
            | Self::WrongInstance(_)
            | Self::Removed(_)
            | Self::OnlyReplica { .. }
            | Self::TooManyHosts(_)
            | Self::TooManyPolicies(_) => Kind::Invalid,
            Self::NotFound(_) | Self::NoPolicy(_) => Kind::NotFound,
            Self::StillMoving(_) => Kind::Unavailable,
        }
    }
}
