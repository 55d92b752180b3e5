//! The registry's value, and how a command changes it.

use std::collections::BTreeMap;

use z4_types::{ClusterId, ShardId};

use crate::command::Command;
use crate::host::Host;
use crate::plan;
use crate::refusal::Refusal;
use crate::shard::Shard;

/// Desired state of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registry {
    /// Drawn or computed when the cluster was formed.
    pub cluster: ClusterId,
    /// The operator's name of the cluster.
    pub name: String,
    /// Voters of a shard, as far as there are active hosts. Invariant: 1 to [`crate::REPLICATION_MAX`].
    pub replication: u32,
    /// All hosts by id, removed ones too. Invariant: at least one is active.
    pub hosts: Vec<Host>,
    /// All shards, by id. Invariant: `shards[i].id == i` and there are at least two.
    pub shards: Vec<Shard>,
    /// Next replica id. Invariant: larger than every id ever given.
    pub next_replica: u64,
    /// Settings of queues by name pattern.
    pub policies: Policies,
}

/// Settings of queues by name pattern, as every task shard is told them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policies {
    /// Grows with every change of the list. 0: there never was one.
    pub version: u64,
    /// Settings by pattern, in the bytes of the task machine.
    pub list: BTreeMap<String, Vec<u8>>,
}

impl Registry {
    /// Applies one command, and places replicas anew as far as that needs it. Returns whether anything changed.
    ///
    /// Deterministic: the same command on the same registry does the same everywhere.
    ///
    /// # Errors
    /// A [`Refusal`], as every replica gives it; nothing has changed then.
    pub fn apply(&mut self, command: &Command) -> Result<bool, Refusal> {
        // On a copy: a command may be found impossible only after its replicas were placed.
        let mut next = self.clone();
        command.run(&mut next)?;
        plan::place(&mut next);
        if let Some(shard) = next.shards.iter().find(|shard| shard.voters().next().is_none()) {
            return Err(Refusal::StillMoving(shard.id));
        }
        if next == *self {
            return Ok(false);
        }
        for (shard, old) in next.shards.iter_mut().zip(&self.shards) {
            shard.epoch += u64::from(shard.replicas != old.replicas);
        }
        debug_assert_eq!(next.check(), Ok(()), "after {command:?}");
        *self = next;
        Ok(true)
    }

    /// Returns a replica id that was never given before.
    pub(crate) fn draw_replica(&mut self) -> u64 {
        let id = self.next_replica;
        self.next_replica += 1;
        id
    }

    /// Returns `shard`; None if this cluster has none of that id.
    #[must_use]
    pub fn shard(&self, shard: ShardId) -> Option<&Shard> {
        self.shards.get(shard.0 as usize)
    }
}
