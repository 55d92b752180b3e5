//! AddHost: a host joins, called by an operator, or by the host itself with its data directory's instance.
//!
//! A host that asks itself may ask again, for its answer may have been lost: that changes nothing. A removed host may
//! come back under its name with an empty directory, once the replicas it had have left; until then the
//! directory it had may still be needed to let them go.

use z4_types::HostId;

use crate::command::check;
use crate::host::{Host, HostStatus};
use crate::limits::HOSTS_MAX;
use crate::refusal::Refusal;
use crate::registry::Registry;

impl Registry {
    pub(crate) fn add_host(
        &mut self,
        host: &HostId,
        address: &str,
        instance: Option<u64>,
    ) -> Result<(), Refusal> {
        check::host(host)?;
        check::address(address)?;
        instance.map_or(Ok(()), check::instance)?;
        match self.hosts.binary_search_by(|each| each.id.cmp(host)) {
            Ok(at) if self.hosts[at].is_member() => self.ask_again(at, instance),
            Ok(at) => {
                self.require_free(address, host)?;
                self.come_back(at, address, instance)
            }
            Err(at) => {
                self.require_free(address, host)?;
                if self.hosts.len() == HOSTS_MAX {
                    return Err(Refusal::TooManyHosts(HOSTS_MAX));
                }
                let mut new = Host::new(host.clone(), address);
                new.instance = instance.unwrap_or(0);
                self.hosts.insert(at, new);
                Ok(())
            }
        }
    }

    fn ask_again(&mut self, at: usize, instance: Option<u64>) -> Result<(), Refusal> {
        let known = &mut self.hosts[at];
        let Some(instance) = instance else {
            return Err(Refusal::AlreadyMember { host: known.id.clone(), address: known.address.clone() });
        };
        // Added by an operator before it came, or by itself before its answer was lost.
        known.require_instance(instance)?;
        known.instance = instance;
        Ok(())
    }

    fn come_back(&mut self, at: usize, address: &str, instance: Option<u64>) -> Result<(), Refusal> {
        let id = self.hosts[at].id.clone();
        if instance.is_some_and(|instance| self.hosts[at].is_former(instance)) {
            return Err(Refusal::Removed(id));
        }
        if let Some(shard) = self.shards.iter().find(|shard| shard.on(&id).is_some()) {
            return Err(Refusal::StillMoving(shard.id));
        }
        let known = &mut self.hosts[at];
        known.bury_instance();
        *known = Host { former: std::mem::take(&mut known.former), ..Host::new(id, address) };
        known.instance = instance.unwrap_or(0);
        known.status = HostStatus::Active;
        Ok(())
    }
}
