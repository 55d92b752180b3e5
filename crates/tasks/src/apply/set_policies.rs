//! SetPolicies: the whole list of policies, as the registry has it.
//!
//! Every shard is told every list, perhaps late, twice or out of order: the version decides.

use crate::machine::Machine;
use crate::outcome::Outcome;
use crate::rows::{key, write_policies};
use crate::settings::Policies;
use crate::{Fault, Store};

impl Machine {
    pub(super) fn set_policies(
        &mut self,
        store: &mut dyn Store,
        policies: Policies,
    ) -> Result<Outcome, Fault> {
        if policies.version > self.policies.version {
            self.buffer.clear();
            write_policies(&policies, &mut self.buffer);
            store.put(&key::POLICIES, &self.buffer);
            self.adopt_policies(policies)?;
        }
        Ok(Outcome::PoliciesSet(self.policies.version))
    }
}
