//! RemoveHost: a host leaves for good. Its replicas are wanted elsewhere at once, and leave when those have caught up.
//!
//! Its replica of the registry leaves last, so that it learns of its removal when it was asleep.
//! Its name stays as a tombstone with the instance it had. See [`Registry::admit`] for how long it is still heard.

use z4_types::HostId;

use crate::host::HostStatus;
use crate::refusal::Refusal;
use crate::registry::Registry;

impl Registry {
    pub(crate) fn remove_host(&mut self, host: &HostId) -> Result<(), Refusal> {
        self.member_mut(host)?;
        self.require_another_active(host)?;
        self.member_mut(host)?.status = HostStatus::Removed;
        Ok(())
    }
}
