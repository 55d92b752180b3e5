//! ReplaceHost: a member lost its disk and comes back empty under its name.
//!
//! The replicas it had are gone, and an empty disk under their ids would forget their votes. So they are struck off, not
//! left to leave, and new ones stand in their places at once.

use z4_types::HostId;

use crate::command::check;
use crate::refusal::Refusal;
use crate::registry::Registry;
use crate::shard::Replica;

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
        let member = self.member_mut(host)?;
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
        if again { Ok(()) } else { self.renew_replicas(host) }
    }

    fn renew_replicas(&mut self, host: &HostId) -> Result<(), Refusal> {
        for at in 0..self.shards.len() {
            let Some(old) = self.shards[at].on(host).cloned() else { continue };
            if self.shards[at].replicas.len() == 1 {
                return Err(Refusal::OnlyReplica { host: host.clone(), shard: self.shards[at].id });
            }
            self.shards[at].replicas.retain(|replica| replica.id != old.id);
            if old.is_wanted() {
                let new = Replica { id: self.draw_replica(), ..old };
                self.shards[at].replicas.push(new);
            }
        }
        Ok(())
    }
}
