//! Policies: the registry keeps the list, and every task shard is told it by its leader's host.
//!
//! A shard keeps the list in its own rows, for what its commands do must follow from its log alone. Each pass compares
//! versions; where a shard that is led here has an older one, the whole list is proposed. A list that comes late, twice or
//! after a newer one changes nothing: the shard decides by version. So a new leader, a restored shard and a new shard need
//! no special care.
//!
//! # Not here
//! - What a policy is: `z4-tasks`. Who wins where several match: its `settings`.

use std::sync::PoisonError;

use bytes::Bytes;
use z4_multiraft::{Driver, Input};
use z4_registry::{Command as RegistryCommand, Registry};
use z4_tasks::command::Command;
use z4_tasks::{Policies, Settings, encode};
use z4_types::ShardId;

use super::Cluster;
use crate::budget::Budget;
use crate::error::Error;
use crate::machine::{HostMachine, HostWrite};
use crate::shard::Write;

/// Returns the task shards led here that know an older list than `version`.
pub(super) fn outdated(driver: &mut Driver<HostMachine>, version: u64) -> Vec<ShardId> {
    if version == 0 {
        return Vec::new();
    }
    let leaders = driver.leaders();
    let mut shards = Vec::new();
    driver.for_each(|shard, machine, _| {
        if let HostMachine::Tasks(tasks) = machine
            && tasks.machine().policies().version < version
            && leaders.of(shard).is_some_and(|leader| leader.here)
        {
            shards.push(shard);
        }
    });
    shards
}

/// Returns the command that tells a shard the registry's list; the pattern whose settings this version cannot read, if
/// there is one.
pub(crate) fn command(registry: &Registry) -> Result<Bytes, String> {
    let mut policies = Policies { version: registry.policies.version, ..Policies::default() };
    for (pattern, settings) in &registry.policies.list {
        let settings = Settings::decode(settings).ok_or_else(|| pattern.clone())?;
        policies.list.insert(pattern.clone(), settings);
    }
    Ok(encode(&Command::SetPolicies(policies)))
}

/// Returns the write that tells one shard. Nobody waits for it, and it must not wait for a budget: a list is bounded.
pub(crate) fn write(encoded: Bytes) -> HostWrite {
    let permit = Budget::new(encoded.len()).take_always(encoded.len());
    HostWrite::Task(Write::Manage { encoded, grows: false, reply: Box::new(drop), permit })
}

impl Cluster {
    /// Changes the list, and returns when this host knows, unless that takes long.
    ///
    /// # Errors
    /// As [`Cluster::change`].
    pub(crate) async fn change_policy(&self, command: RegistryCommand) -> Result<(), Error> {
        self.change(command.clone()).await?;
        let has = |registry: &Registry| match &command {
            RegistryCommand::SetPolicy { pattern, settings } => {
                registry.policies.list.get(pattern) == Some(settings)
            }
            RegistryCommand::DeletePolicy { pattern } => !registry.policies.list.contains_key(pattern),
            _ => true,
        };
        self.wait_for(has).await;
        Ok(())
    }

    /// Tells `shards`, led here, the list of the registry.
    pub(super) fn tell_policies(&self, registry: &Registry, shards: Vec<ShardId>) {
        if shards.is_empty() {
            return;
        }
        match command(registry) {
            Ok(encoded) => {
                for shard in shards {
                    self.runner.send(Input::Write(shard, write(encoded.clone())));
                }
            }
            Err(pattern) => {
                let version = registry.policies.version;
                let mut warned = self.policies_unread.lock().unwrap_or_else(PoisonError::into_inner);
                if *warned < version {
                    *warned = version;
                    tracing::warn!(
                        pattern,
                        "this version cannot read a policy that a newer one has set: shards led here keep the policies \
                         they know; upgrade this host"
                    );
                }
            }
        }
    }
}
