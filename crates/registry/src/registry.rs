//! The registry's value, its commands, and the routing of queues.

use z4_types::{ClusterId, HostId, QueueName, ShardId};

/// One server of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// The operator's stable name.
    pub id: HostId,
    /// host:port by which other hosts reach it.
    pub address: String,
}

/// A shard's copy on one host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replica {
    /// Unique in the cluster, never zero, never reused.
    pub id: u64,
    /// Where it lives.
    pub host: HostId,
}

/// One Raft group and where its replicas live.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shard {
    /// Its id; 0 is the registry.
    pub id: ShardId,
    /// Its voters.
    pub voters: Vec<Replica>,
}

/// Desired state of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registry {
    /// Drawn when the cluster was formed.
    pub cluster: ClusterId,
    /// The operator's name of the cluster.
    pub name: String,
    /// All hosts, by id.
    pub hosts: Vec<Host>,
    /// All shards, by id. Invariant: `shards[i].id == i` and there are at least two.
    pub shards: Vec<Shard>,
    /// Next replica id. Invariant: larger than every id in use.
    pub next_replica: u64,
}

/// A change of the registry, through shard 0's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// A host is reached at another address from now on.
    SetAddress {
        /// Which host; unknown ones change nothing.
        host: HostId,
        /// host:port.
        address: String,
    },
}

impl Registry {
    /// Returns the registry of a new cluster of one host, which holds shard 0 and `task_shards` task shards.
    ///
    /// # Panics
    /// If `task_shards` is zero or does not fit the 24 bits of a shard id: configuration checks it.
    #[must_use]
    pub fn form(cluster: ClusterId, name: &str, host: Host, task_shards: u32) -> Self {
        assert!(task_shards > 0, "a cluster without task shards holds no task");
        assert!(task_shards < 1 << 24, "a shard id has 24 bits");
        let shards = (0..=task_shards)
            .map(|id| Shard {
                id: ShardId(id),
                voters: vec![Replica { id: u64::from(id) + 1, host: host.id.clone() }],
            })
            .collect();
        Self {
            cluster,
            name: name.into(),
            hosts: vec![host],
            shards,
            next_replica: u64::from(task_shards) + 2,
        }
    }

    /// Applies one command. Returns whether it changed anything.
    pub fn apply(&mut self, command: Command) -> bool {
        match command {
            Command::SetAddress { host, address } => {
                match self.hosts.iter_mut().find(|h| h.id == host && h.address != address) {
                    Some(entry) => {
                        entry.address = address;
                        true
                    }
                    None => false,
                }
            }
        }
    }

    /// Returns the shard that holds `queue`: a hash of the name over the task shards (FNV-1a, 64 bit). Fixed for
    /// the life of a cluster, as the number of task shards is.
    #[must_use]
    pub fn shard_of(&self, queue: &QueueName) -> ShardId {
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for byte in queue.as_str().bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        // The high half: FNV's low bits mix the last byte poorly.
        let task_shards = self.shards.len() as u64 - 1;
        let slot = ((hash >> 32) * task_shards) >> 32;
        ShardId(u32::try_from(slot).expect("below the number of shards") + 1)
    }

    /// Returns whether `shard` holds tasks in this cluster.
    #[must_use]
    pub fn has_task_shard(&self, shard: ShardId) -> bool {
        shard.0 > 0 && (shard.0 as usize) < self.shards.len()
    }

    /// Returns this host's replica of `shard`.
    #[must_use]
    pub fn replica_on(&self, shard: ShardId, host: &HostId) -> Option<&Replica> {
        self.shards.get(shard.0 as usize)?.voters.iter().find(|r| r.host == *host)
    }

    /// Checks the invariants.
    ///
    /// # Errors
    /// The first one that does not hold, in words.
    pub fn check(&self) -> Result<(), String> {
        if self.shards.len() < 2 {
            return Err("there is no task shard".into());
        }
        let mut ids = Vec::new();
        for (at, shard) in self.shards.iter().enumerate() {
            if shard.id.0 as usize != at {
                return Err(format!("shard {} stands at position {at}", shard.id));
            }
            for (n, replica) in shard.voters.iter().enumerate() {
                if shard.voters[..n].iter().any(|other| other.host == replica.host) {
                    return Err(format!("shard {} has two replicas on host {}", shard.id, replica.host));
                }
                ids.push(replica.id);
            }
        }
        ids.sort_unstable();
        if ids.windows(2).any(|w| w[0] == w[1]) || ids.first() == Some(&0) {
            return Err("a replica id is zero or used twice".into());
        }
        if ids.last().is_some_and(|last| *last >= self.next_replica) {
            return Err("the next replica id is in use".into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registry(task_shards: u32) -> Registry {
        let host = Host { id: HostId("peer1".into()), address: "127.0.0.1:6356".into() };
        Registry::form(ClusterId(7), "z4", host, task_shards)
    }

    #[test]
    fn a_new_cluster_keeps_its_invariants_and_its_bytes() {
        for shards in [1, 4, 1000] {
            let registry = registry(shards);
            assert_eq!(registry.check(), Ok(()));
            assert_eq!(Registry::decode(&registry.encode()), Ok(registry));
        }
    }

    #[test]
    fn queues_spread_over_all_task_shards_and_never_fall_on_the_registry() {
        let registry = registry(4);
        let mut seen = [0u32; 5];
        for n in 0..4_000 {
            let queue = QueueName::new(&format!("team-{n}/mail")).expect("a valid name");
            seen[registry.shard_of(&queue).0 as usize] += 1;
        }
        assert_eq!(seen[0], 0);
        assert!(seen[1..].iter().all(|n| (800..1_200).contains(n)), "{seen:?}");
    }

    #[test]
    fn a_command_survives_its_bytes_and_mutilated_bytes_are_refused() {
        let command = Command::SetAddress { host: HostId("peer1".into()), address: "db1:6356".into() };
        let bytes = command.encode();
        assert_eq!(Command::decode(&bytes), Ok(command.clone()));
        for cut in 0..bytes.len() {
            assert!(Command::decode(&bytes[..cut]).is_err());
        }
        let mut registry = registry(1);
        assert!(registry.apply(command.clone()));
        assert!(!registry.apply(command), "the same address again changes nothing");
    }
}
