//! New clusters: of one host, or of several that start together.
//!
//! Hosts that form a cluster together do not speak before: each computes the same registry from the same
//! configuration, and the cluster's id with it. Whatever the registry depends on is part of that id, so hosts whose
//! configurations differ find themselves in different clusters instead of in one with two beginnings.

use z4_types::{ClusterId, HostId, ShardId};

use crate::command::check;
use crate::host::Host;
use crate::limits::{HOSTS_MAX, REPLICATION_DEFAULT};
use crate::plan;
use crate::refusal::Refusal;
use crate::registry::{Policies, Registry};
use crate::shard::Shard;

/// Offset basis and prime of FNV-1a with 128 bits.
const FNV_BASIS: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
const FNV_PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;

impl Registry {
    /// Returns the registry of a new cluster of one host, which holds shard 0 and `task_shards` task shards. Replica
    /// `n + 1` is shard `n`'s.
    ///
    /// # Panics
    /// If `task_shards` is zero or does not fit the 24 bits of a shard id: configuration checks it.
    #[must_use]
    pub fn form(cluster: ClusterId, name: &str, host: Host, task_shards: u32) -> Self {
        Self::new(cluster, name, vec![host], task_shards, REPLICATION_DEFAULT)
    }

    /// Returns the registry of a new cluster of `peers` (id and peer address), the same on each of them whatever the
    /// order they are named in. The cluster's id is a hash of the arguments.
    ///
    /// # Errors
    /// `Invalid` if a host or an address is named twice or cannot be one, if there is none or too many, or for a
    /// `replication` out of range.
    ///
    /// # Panics
    /// As [`Registry::form`].
    pub fn form_many(
        name: &str,
        mut peers: Vec<(HostId, String)>,
        task_shards: u32,
        replication: u32,
    ) -> Result<Self, Refusal> {
        peers.sort();
        if peers.is_empty() || peers.len() > HOSTS_MAX {
            return Err(Refusal::Invalid(format!("a cluster is formed of 1 to {HOSTS_MAX} hosts")));
        }
        check::replication(replication)?;
        for (at, (host, address)) in peers.iter().enumerate() {
            check::host(host)?;
            check::address(address)?;
            for (other, elsewhere) in &peers[..at] {
                if other == host {
                    return Err(Refusal::Invalid(format!("host {host} is named twice")));
                }
                if elsewhere == address {
                    return Err(Refusal::AddressInUse { address: address.clone(), host: other.clone() });
                }
            }
        }
        let cluster = cluster_id(name, &peers, task_shards, replication);
        let hosts = peers.into_iter().map(|(id, address)| Host::new(id, address)).collect();
        Ok(Self::new(cluster, name, hosts, task_shards, replication))
    }

    /// Returns the registry of a host that has not been told any: no hosts, no shards.
    #[must_use]
    pub fn unknown() -> Self {
        Self {
            cluster: ClusterId(0),
            name: String::new(),
            replication: REPLICATION_DEFAULT,
            hosts: Vec::new(),
            shards: Vec::new(),
            next_replica: 1,
            policies: Policies::default(),
        }
    }

    /// Returns whether this is the registry of a cluster.
    #[must_use]
    pub fn is_known(&self) -> bool {
        !self.shards.is_empty()
    }

    fn new(cluster: ClusterId, name: &str, hosts: Vec<Host>, task_shards: u32, replication: u32) -> Self {
        assert!(task_shards > 0, "a cluster without task shards holds no task");
        assert!(task_shards < 1 << 24, "a shard id has 24 bits");
        let shards =
            (0..=task_shards).map(|id| Shard { id: ShardId(id), epoch: 1, replicas: Vec::new() }).collect();
        let mut registry = Self {
            cluster,
            name: name.into(),
            replication,
            hosts,
            shards,
            next_replica: 1,
            policies: Policies::default(),
        };
        plan::place(&mut registry);
        debug_assert_eq!(registry.check(), Ok(()));
        registry
    }
}

/// Returns the id of the cluster these arguments form: FNV-1a, 128 bit, over the bytes drawn in `docs/FORMATS.md`.
/// `peers` are sorted.
fn cluster_id(name: &str, peers: &[(HostId, String)], task_shards: u32, replication: u32) -> ClusterId {
    let mut hash = FNV_BASIS;
    let mut take = |bytes: &[u8]| {
        for byte in bytes {
            hash = (hash ^ u128::from(*byte)).wrapping_mul(FNV_PRIME);
        }
    };
    // Counted, so that no two lists of texts give the same bytes.
    let mut text = |text: &str| {
        take(&(text.len() as u64).to_le_bytes());
        take(text.as_bytes());
    };
    text(name);
    for (host, address) in peers {
        text(&host.0);
        text(address);
    }
    take(&task_shards.to_le_bytes());
    take(&replication.to_le_bytes());
    ClusterId(hash)
}
