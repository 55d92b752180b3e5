//! Commands: the changes of the registry, each one entry of shard 0's log.
//!
//! A command carries everything it needs; applying it reads no clock and rolls no die. What each does stands in the file
//! of its verb, in `commands/`; this is the dispatch.

use std::collections::BTreeMap;

use z4_types::{HostId, ShardId};

use crate::refusal::Refusal;
use crate::registry::Registry;

pub(crate) mod check;

/// A change of the registry, through shard 0's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// A member is reached at other addresses from now on.
    SetAddress {
        /// Which member.
        host: HostId,
        /// host:port of its peer port.
        address: String,
        /// host:port of its gRPC door; empty if it is not known.
        service: String,
    },
    /// A member has started: which data directory speaks for it, and where it is reached.
    Announce {
        /// Which member.
        host: HostId,
        /// Its data directory, not zero. The first to announce itself is recorded.
        instance: u64,
        /// host:port of its peer port.
        address: String,
        /// host:port of its gRPC door.
        service: String,
        /// What the operator says of it; replaces what was known.
        tags: BTreeMap<String, String>,
    },
    /// A host joins, or one that was removed comes back, empty.
    AddHost {
        /// Its name.
        host: HostId,
        /// host:port of its peer port.
        address: String,
        /// Its data directory, if it asks itself.
        instance: Option<u64>,
    },
    /// A host leaves for good; its replicas are placed elsewhere.
    RemoveHost {
        /// Which.
        host: HostId,
    },
    /// A member has lost its disk and comes back empty under its name: it gets new replicas for those it had.
    ReplaceHost {
        /// Which.
        host: HostId,
        /// Its new data directory, not zero.
        instance: u64,
        /// host:port of its peer port.
        address: String,
    },
    /// Shards shall have another number of voters.
    SetReplication {
        /// 1 to [`crate::REPLICATION_MAX`].
        replication: u32,
    },
    /// A host gives its replicas away and stays a member.
    DrainHost {
        /// Which.
        host: HostId,
    },
    /// A draining host takes replicas again.
    UndrainHost {
        /// Which.
        host: HostId,
    },
    /// Queues whose name matches a pattern have these settings from now on, where nothing more specific says otherwise.
    SetPolicy {
        /// The pattern.
        pattern: String,
        /// The settings, in the bytes of the task machine, which alone reads them.
        settings: Vec<u8>,
    },
    /// A pattern says nothing any more.
    DeletePolicy {
        /// The pattern.
        pattern: String,
    },
    /// The leader of a shard reports that leaving replicas are no members of its group any more. See
    /// [`crate::departed`] for when it may.
    Left {
        /// Its shard.
        shard: ShardId,
        /// The replicas.
        replicas: Vec<u64>,
    },
}

impl Command {
    /// Changes what the command says, not yet what follows from it for replicas. May leave `registry` half changed if
    /// it refuses.
    pub(crate) fn run(&self, registry: &mut Registry) -> Result<(), Refusal> {
        match self {
            Self::SetAddress { host, address, service } => registry.set_address(host, address, service),
            Self::Announce { host, instance, address, service, tags } => {
                registry.announce(host, *instance, address, service, tags)
            }
            Self::AddHost { host, address, instance } => registry.add_host(host, address, *instance),
            Self::RemoveHost { host } => registry.remove_host(host),
            Self::ReplaceHost { host, instance, address } => registry.replace_host(host, *instance, address),
            Self::SetReplication { replication } => registry.set_replication(*replication),
            Self::DrainHost { host } => registry.drain_host(host),
            Self::UndrainHost { host } => registry.undrain_host(host),
            Self::SetPolicy { pattern, settings } => registry.set_policy(pattern, settings),
            Self::DeletePolicy { pattern } => registry.delete_policy(pattern),
            Self::Left { shard, replicas } => registry.left(*shard, replicas),
        }
    }
}
