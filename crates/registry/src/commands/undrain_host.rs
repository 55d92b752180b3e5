//! UndrainHost: a draining host takes replicas again. Of a shard whose replica has not left it yet it gets a new one
//! only after that.

use z4_types::HostId;

use crate::host::HostStatus;
use crate::refusal::Refusal;
use crate::registry::Registry;

impl Registry {
    pub(crate) fn undrain_host(&mut self, host: &HostId) -> Result<(), Refusal> {
        self.member_mut(host)?.status = HostStatus::Active;
        Ok(())
    }
}
