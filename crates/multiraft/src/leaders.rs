//! Who leads which shard, as this host's replicas know it; read by any thread without asking the driver.

use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock};

use z4_types::ShardId;

/// What a replica knows of its group's leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leader {
    /// Its replica id, 0 if none is known.
    pub replica: u64,
    /// Whether it is the replica on this host.
    pub here: bool,
}

/// See the module essay.
#[derive(Debug, Default)]
pub struct Leaders(RwLock<BTreeMap<ShardId, Leader>>);

impl Leaders {
    /// Returns what is known of `shard`; None if it has no replica here.
    #[must_use]
    pub fn of(&self, shard: ShardId) -> Option<Leader> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(&shard).copied()
    }

    /// Returns what is known of all shards with a replica here.
    #[must_use]
    pub fn all(&self) -> BTreeMap<ShardId, Leader> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set(&self, shard: ShardId, leader: Leader) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(shard, leader);
    }

    pub(crate) fn remove(&self, shard: ShardId) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(&shard);
    }
}
