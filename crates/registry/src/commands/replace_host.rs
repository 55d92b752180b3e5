//! ReplaceHost: a member lost its disk and comes back empty under its name.
//!
//! The replicas it had are gone, and an empty disk under their ids would forget their votes. So they are struck off, not
//! left to leave, and new ones stand in their places at once.
//!
//! A member that was never recorded may have lost its disk too, before its announcement was committed: it may have
//! voted by then. Or it was never there: one of those that form a cluster together, and the last to start. The registry
//! cannot tell. New replicas are right for both, but only where every shard can be led without it: else nobody could
//! let them in, and the vote of one that was never there is needed.
//!
//! # Caveats
//! - A member that loses its disk before it was recorded, while most of the others are not recorded either, is taken
//!   for one that was never there.

use z4_types::HostId;

use crate::command::check;
use crate::refusal::Refusal;
use crate::registry::Registry;
use crate::shard::{Replica, Role};

impl Registry {
    pub(crate) fn replace_host(
        &mut self,
        host: &HostId,
        instance: u64,
        address: &str,
    ) -> Result<(), Refusal> {
        check::instance(instance)?;
        check::address(address)?;
        self.require_free(address, host)?;
        let needed = !self.can_do_without(host);
        let member = self.member_mut(host)?;
        let never_there = member.instance == 0 && needed;
        let again = member.instance == instance;
        if member.is_former(instance) {
            return Err(Refusal::Removed(host.clone()));
        }
        if !again {
            member.bury_instance();
            member.instance = instance;
        }
        if member.address != address {
            member.address = address.into();
            // It announces its door anew.
            member.service.clear();
        }
        // The same directory asks again, for the answer may have been lost: its replicas are already new.
        if again {
            return Ok(());
        }
        if let Some(shard) =
            self.shards.iter().find(|shard| shard.on(host).is_some() && shard.replicas.len() == 1)
        {
            return Err(Refusal::OnlyReplica { host: host.clone(), shard: shard.id });
        }
        if !never_there {
            self.renew_replicas(host);
        }
        Ok(())
    }

    /// Returns whether each shard of which `host` has a replica has most of its voters on other hosts that were
    /// recorded. Replicas that leave count, and those of the registry on hosts that drain: their votes may still do.
    fn can_do_without(&self, host: &HostId) -> bool {
        self.shards.iter().filter(|shard| shard.on(host).is_some()).all(|shard| {
            let is_there = |other: &HostId| self.host(other).is_some_and(|known| known.instance != 0);
            let leaves = |other: &HostId| self.host(other).is_some_and(|known| !known.is_active());
            let counts =
                || shard.replicas.iter().filter(|each| each.role != Role::Learner || leaves(&each.host));
            let there = counts().filter(|each| each.host != *host && is_there(&each.host)).count();
            2 * there > counts().count()
        })
    }

    fn renew_replicas(&mut self, host: &HostId) {
        for at in 0..self.shards.len() {
            let Some(old) = self.shards[at].on(host).cloned() else { continue };
            self.shards[at].replicas.retain(|replica| replica.id != old.id);
            if old.is_wanted() {
                let new = Replica { id: self.draw_replica(), ..old };
                self.shards[at].replicas.push(new);
            }
        }
    }
}
