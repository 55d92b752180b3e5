//! SetAddress: a member moved. Nothing but its addresses changes.

use z4_types::HostId;

use crate::command::check;
use crate::refusal::Refusal;
use crate::registry::Registry;

impl Registry {
    pub(crate) fn set_address(&mut self, host: &HostId, address: &str, service: &str) -> Result<(), Refusal> {
        check::address(address)?;
        check::service(service)?;
        self.member_mut(host)?;
        self.require_free(address, host)?;
        let member = self.member_mut(host)?;
        member.address = address.into();
        member.service = service.into();
        Ok(())
    }
}
