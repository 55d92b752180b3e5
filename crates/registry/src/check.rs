//! The registry's invariants, as one function: run after every command in debug builds and when a base is opened.

use crate::limits::{FORMER_INSTANCES_MAX, HOSTS_MAX, REPLICATION_MAX};
use crate::registry::Registry;
use crate::shard::{Replica, Role, Shard};

impl Registry {
    /// Checks the invariants.
    ///
    /// # Errors
    /// The first one that does not hold, in words.
    pub fn check(&self) -> Result<(), String> {
        if self.replication == 0 || self.replication > REPLICATION_MAX {
            return Err(format!("replication is {}", self.replication));
        }
        self.check_hosts()?;
        if self.shards.len() < 2 {
            return Err("there is no task shard".into());
        }
        let mut ids = Vec::new();
        for (at, shard) in self.shards.iter().enumerate() {
            if shard.id.0 as usize != at {
                return Err(format!("shard {} stands at position {at}", shard.id));
            }
            self.check_shard(shard)?;
            ids.extend(shard.replicas.iter().map(|replica| replica.id));
        }
        ids.sort_unstable();
        if ids.windows(2).any(|w| w[0] == w[1]) || ids.first() == Some(&0) {
            return Err("a replica id is zero or used twice".into());
        }
        if ids.last().is_some_and(|last| *last >= self.next_replica) {
            return Err("the next replica id is in use".into());
        }
        if self.policies.version == 0 && !self.policies.list.is_empty() {
            return Err("policies of no version".into());
        }
        Ok(())
    }

    fn check_hosts(&self) -> Result<(), String> {
        if self.hosts.len() > HOSTS_MAX {
            return Err(format!("there are {} hosts", self.hosts.len()));
        }
        if self.hosts.windows(2).any(|w| w[0].id >= w[1].id) {
            return Err("hosts are not in order, or one is there twice".into());
        }
        if self.active_hosts().next().is_none() {
            return Err("no host is active".into());
        }
        let mut addresses: Vec<&str> = self.members().map(|host| host.address.as_str()).collect();
        addresses.sort_unstable();
        if addresses.windows(2).any(|w| w[0] == w[1]) {
            return Err("two members have one address".into());
        }
        for host in &self.hosts {
            let mut former = host.former.clone();
            former.push(host.instance);
            former.sort_unstable();
            let twice = former.windows(2).any(|w| w[0] == w[1]);
            if twice || host.former.contains(&0) || host.former.len() > FORMER_INSTANCES_MAX {
                return Err(format!("the instances of host {} are {former:?}", host.id));
            }
        }
        Ok(())
    }

    fn check_shard(&self, shard: &Shard) -> Result<(), String> {
        let id = shard.id;
        if shard.replicas.windows(2).any(|w| w[0].id >= w[1].id) {
            return Err(format!("the replicas of shard {id} are not in order"));
        }
        let voters = shard.voters().count();
        let voters_max = self.active_hosts().count().min(self.replication as usize);
        if voters == 0 || voters > voters_max {
            return Err(format!("shard {id} has {voters} voters, of at most {voters_max}"));
        }
        if id.0 == 0 && voters != voters_max {
            return Err(format!("the registry has {voters} voters instead of {voters_max}"));
        }
        for (n, replica) in shard.replicas.iter().enumerate() {
            if shard.replicas[..n].iter().any(|other| other.host == replica.host) {
                return Err(format!("shard {id} has two replicas on host {}", replica.host));
            }
            let Some(host) = self.host(&replica.host) else {
                return Err(format!("shard {id} has a replica on the unknown host {}", replica.host));
            };
            let fits = match replica.role {
                Role::Voter => host.is_active(),
                Role::Learner => id.0 == 0 && (host.is_member() || self.holds_tasks(&host.id)),
                Role::Leaving => true,
            };
            if !fits {
                return Err(format!(
                    "shard {id} wants a {} on the {} host {}",
                    replica.role, host.status, host.id
                ));
            }
        }
        let mut members = self.members();
        if id.0 == 0 && !members.all(|host| shard.on(&host.id).is_some_and(Replica::is_wanted)) {
            return Err("a member has no replica of the registry".into());
        }
        Ok(())
    }
}
