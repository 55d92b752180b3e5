//! SetReplication: shards shall have another number of voters, as far as there are hosts for them.

use crate::command::check;
use crate::refusal::Refusal;
use crate::registry::Registry;

impl Registry {
    pub(crate) fn set_replication(&mut self, replication: u32) -> Result<(), Refusal> {
        check::replication(replication)?;
        self.replication = replication;
        Ok(())
    }
}
