//! SetPolicy: settings for all queues whose names match a pattern.
//!
//! The registry keeps the list and counts its changes; every task shard is told the list of a newer count.

use crate::command::check;
use crate::limits::POLICIES_BYTES_MAX;
use crate::refusal::Refusal;
use crate::registry::Registry;

impl Registry {
    pub(crate) fn set_policy(&mut self, pattern: &str, settings: &[u8]) -> Result<(), Refusal> {
        check::policy(pattern, settings)?;
        let policies = &mut self.policies;
        if policies.list.get(pattern).is_some_and(|known| known == settings) {
            return Ok(());
        }
        policies.list.insert(pattern.to_owned(), settings.to_vec());
        let bytes: usize =
            policies.list.iter().map(|(pattern, settings)| pattern.len() + settings.len()).sum();
        if policies.list.len() > z4_types::limits::POLICIES_MAX || bytes > POLICIES_BYTES_MAX {
            return Err(Refusal::TooManyPolicies(policies.list.len() - 1));
        }
        policies.version += 1;
        Ok(())
    }
}
