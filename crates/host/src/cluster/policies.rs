//! Tells the task shards led here the policies of the registry, when theirs are older.
//!
//! The list goes through each shard's log, so that all replicas take it at the same place. Told again at every pass until
//! the shard has it; the version makes that harmless.
//!
//! # Not here
//! - Changing policies: `handle/policies.rs`, through the registry. What they do: `z4-tasks`.

use std::collections::BTreeMap;
use std::sync::PoisonError;

use z4_multiraft::{Driver, Input};
use z4_registry::Registry;
use z4_tasks::command::Command;
use z4_tasks::{Policies, Settings};
use z4_types::ShardId;

use super::Cluster;
use crate::budget::Budget;
use crate::machine::{HostMachine, HostWrite};
use crate::shard::Write;

/// Returns the task shards led here whose policies are older than `version`.
pub(super) fn outdated(driver: &mut Driver<HostMachine>, version: u64) -> Vec<ShardId> {
    let mut shards = Vec::new();
    driver.for_each(|shard, machine, _| {
        if let HostMachine::Tasks(tasks) = machine
            && tasks.machine().policies().version < version
        {
            shards.push(shard);
        }
    });
    shards.retain(|shard| driver.members(*shard).is_some_and(|members| members.leading));
    shards
}

impl Cluster {
    pub(super) fn tell_policies(&self, shards: &[ShardId]) {
        if shards.is_empty() {
            return;
        }
        let registry = self.registry();
        let policies = match read(&registry) {
            Ok(policies) => policies,
            Err(error) => {
                // Said once a version, not at every pass.
                let mut unread = self.policies_unread.lock().unwrap_or_else(PoisonError::into_inner);
                if *unread != registry.policies.version {
                    *unread = registry.policies.version;
                    tracing::warn!(%error, "the policies cannot be read; a newer version has set them, update this host");
                }
                return;
            }
        };
        let encoded = z4_tasks::encode(&Command::SetPolicies(policies));
        for shard in shards {
            // Bounded by the number of shards; the registry bounds the list.
            let permit = Budget::new(encoded.len()).take_always(encoded.len());
            let write = Write::Manage { encoded: encoded.clone(), reply: Box::new(drop), permit };
            self.runner.send(Input::Write(*shard, HostWrite::Task(write)));
        }
    }
}

/// Returns the registry's policies as the task machine knows them.
fn read(registry: &Registry) -> Result<Policies, z4_tasks::Fault> {
    let list: Result<BTreeMap<String, Settings>, _> = registry
        .policies
        .list
        .iter()
        .map(|(pattern, bytes)| Settings::decode(bytes).map(|settings| (pattern.clone(), settings)))
        .collect();
    Ok(Policies { version: registry.policies.version, list: list? })
}
