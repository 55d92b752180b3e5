//! DeletePolicy: a pattern says nothing any more.

use crate::refusal::Refusal;
use crate::registry::Registry;

impl Registry {
    pub(crate) fn delete_policy(&mut self, pattern: &str) -> Result<(), Refusal> {
        if self.policies.list.remove(pattern).is_none() {
            return Err(Refusal::NoPolicy(pattern.to_owned()));
        }
        self.policies.version += 1;
        Ok(())
    }
}
