//! Announce: a host has started and says which data directory speaks for it, and where it is reached.
//!
//! The first directory to announce itself under a name is recorded. Another one is refused until it is admitted as a
//! replacement, so that an empty disk cannot answer for one that promised something.

use std::collections::BTreeMap;

use z4_types::HostId;

use crate::command::check;
use crate::refusal::Refusal;
use crate::registry::Registry;

impl Registry {
    pub(crate) fn announce(
        &mut self,
        host: &HostId,
        instance: u64,
        address: &str,
        service: &str,
        tags: &BTreeMap<String, String>,
    ) -> Result<(), Refusal> {
        check::instance(instance)?;
        check::address(address)?;
        check::service(service)?;
        check::tags(tags)?;
        // Also a removed host that still lets its replicas go: it must be found where it is now.
        self.admit(host, instance)?;
        self.require_free(address, host)?;
        let at = self.hosts.binary_search_by(|each| each.id.cmp(host)).expect("it was admitted");
        let known = &mut self.hosts[at];
        known.instance = instance;
        known.address = address.into();
        known.service = service.into();
        known.tags.clone_from(tags);
        Ok(())
    }
}
