//! One verb, one file. Each changes hosts or policies, or strikes replicas off; the plan does the rest.

mod add_host;
mod announce;
mod delete_policy;
mod drain_host;
mod left;
mod remove_host;
mod replace_host;
mod set_address;
mod set_policy;
mod set_replication;
mod undrain_host;

use z4_types::HostId;

use crate::host::Host;
use crate::refusal::Refusal;
use crate::registry::Registry;

impl Registry {
    /// Returns a member to be changed.
    fn member_mut(&mut self, host: &HostId) -> Result<&mut Host, Refusal> {
        self.hosts
            .iter_mut()
            .find(|each| each.id == *host && each.is_member())
            .ok_or_else(|| Refusal::NotFound(host.clone()))
    }

    /// Refuses an address by which a member other than `host` is reached: two hosts would answer for each other.
    fn require_free(&self, address: &str, host: &HostId) -> Result<(), Refusal> {
        match self.members().find(|each| each.address == address && each.id != *host) {
            Some(other) => Err(Refusal::AddressInUse { address: address.to_owned(), host: other.id.clone() }),
            None => Ok(()),
        }
    }

    /// Refuses to do without `host` if no other is active.
    fn require_another_active(&self, host: &HostId) -> Result<(), Refusal> {
        if self.active_hosts().any(|each| each.id != *host) {
            Ok(())
        } else {
            Err(Refusal::LastVoter(host.clone()))
        }
    }
}
