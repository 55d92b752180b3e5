//! Questions a host asks its copy of the registry: where does this go, who may speak.

use z4_types::{HostId, QueueName, ShardId};

use crate::command::Command;
use crate::host::Host;
use crate::refusal::Refusal;
use crate::registry::Registry;
use crate::shard::Replica;

impl Registry {
    /// Returns the shard that holds `queue`: a hash of the name over the task shards (FNV-1a, 64 bit). Fixed for
    /// the life of a cluster, as the number of task shards is. Of an unknown registry it is a shard that does not exist.
    #[must_use]
    pub fn shard_of(&self, queue: &QueueName) -> ShardId {
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for byte in queue.as_str().bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        // The high half: FNV's low bits mix the last byte poorly.
        let task_shards = (self.shards.len() as u64).saturating_sub(1);
        let slot = ((hash >> 32) * task_shards) >> 32;
        ShardId(u32::try_from(slot).expect("below the number of shards") + 1)
    }

    /// Returns whether `shard` holds tasks in this cluster.
    #[must_use]
    pub fn has_task_shard(&self, shard: ShardId) -> bool {
        shard.0 > 0 && (shard.0 as usize) < self.shards.len()
    }

    /// Returns the replicas of `shard` by id, leaving ones too; none of an unknown shard.
    #[must_use]
    pub fn replicas_of(&self, shard: ShardId) -> &[Replica] {
        self.shard(shard).map_or(&[], |shard| &shard.replicas)
    }

    /// Returns the replica of `shard` on `host`, in whatever role: there is at most one.
    #[must_use]
    pub fn replica_on(&self, shard: ShardId, host: &HostId) -> Option<&Replica> {
        self.shard(shard)?.on(host)
    }

    /// Returns where a replica of `shard` stands; None once it has left.
    #[must_use]
    pub fn host_of_replica(&self, shard: ShardId, replica: u64) -> Option<&Host> {
        let found = self.shard(shard)?.replicas.iter().find(|each| each.id == replica)?;
        self.host(&found.host)
    }

    /// Returns what is known of `host`, also of a removed one.
    #[must_use]
    pub fn host(&self, host: &HostId) -> Option<&Host> {
        let at = self.hosts.binary_search_by(|each| each.id.cmp(host)).ok()?;
        Some(&self.hosts[at])
    }

    /// Returns the hosts that belong to the cluster, by id: active and draining ones.
    pub fn members(&self) -> impl Iterator<Item = &Host> {
        self.hosts.iter().filter(|host| host.is_member())
    }

    /// Returns the hosts on which replicas may be placed, by id.
    pub fn active_hosts(&self) -> impl Iterator<Item = &Host> {
        self.hosts.iter().filter(|host| host.is_active())
    }

    /// Returns whether a replica still stands on `host`, wanted or not.
    #[must_use]
    pub fn holds_replicas(&self, host: &HostId) -> bool {
        self.shards.iter().any(|shard| shard.on(host).is_some())
    }

    /// Returns whether a replica of a task shard still stands on `host`, wanted or not.
    pub(crate) fn holds_tasks(&self, host: &HostId) -> bool {
        self.shards.iter().any(|shard| shard.id.0 > 0 && shard.on(host).is_some())
    }

    /// Returns the command that makes the empty directory `instance` the one of `host`, reached at `address`: a new
    /// member, or the successor of one that lost its disk. Nobody else speaks for `host` any more: the caller has seen
    /// to that.
    #[must_use]
    pub fn admission(&self, host: &HostId, instance: u64, address: String) -> Command {
        if self.host(host).is_some_and(|known| known.is_member() && known.instance != instance) {
            Command::ReplaceHost { host: host.clone(), instance, address }
        } else {
            Command::AddHost { host: host.clone(), address, instance: Some(instance) }
        }
    }

    /// Decides whether the data directory `instance` may speak for `host`, as in a handshake. A removed host may until
    /// its last replica has left: the change that lets it go may need its vote.
    ///
    /// # Errors
    /// `NotFound`, `Removed` or `WrongInstance`.
    pub fn admit(&self, host: &HostId, instance: u64) -> Result<(), Refusal> {
        let known = self.host(host).ok_or_else(|| Refusal::NotFound(host.clone()))?;
        if !known.is_member() {
            let speaks =
                known.instance == instance || known.instance == 0 && !known.former.contains(&instance);
            let finishing = speaks && self.holds_replicas(host);
            return if finishing { Ok(()) } else { Err(Refusal::Removed(host.clone())) };
        }
        known.require_instance(instance)
    }
}

impl Host {
    /// Decides whether `instance` may speak for this member. The first to come is recorded by its announcement.
    pub(crate) fn require_instance(&self, instance: u64) -> Result<(), Refusal> {
        if self.is_former(instance) {
            Err(Refusal::Removed(self.id.clone()))
        } else if self.instance != 0 && self.instance != instance {
            Err(Refusal::WrongInstance(self.id.clone()))
        } else {
            Ok(())
        }
    }
}
