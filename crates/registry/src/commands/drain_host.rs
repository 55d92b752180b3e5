//! DrainHost: a host gives its replicas away, as before maintenance. It stays a member, and learns the registry.

use z4_types::HostId;

use crate::host::HostStatus;
use crate::refusal::Refusal;
use crate::registry::Registry;

impl Registry {
    pub(crate) fn drain_host(&mut self, host: &HostId) -> Result<(), Refusal> {
        self.member_mut(host)?;
        self.require_another_active(host)?;
        self.member_mut(host)?.status = HostStatus::Draining;
        Ok(())
    }
}
