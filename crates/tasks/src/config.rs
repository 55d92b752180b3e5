//! The settings of queues and the policies, as the machine keeps them: rows, and what they come to per queue.
//!
//! What holds for a queue is resolved when its settings or the policies change and kept in memory; most queues share one
//! value, that of nothing set. A command that creates tasks or leases them only looks at it.
//!
//! # Not here
//! - What may be set: `settings`. The commands that set: `apply`.

use std::sync::Arc;

use z4_types::{Millis, QueueName};

use crate::machine::Machine;
use crate::queue::{Paused, limits_of};
use crate::rows::{Config, key, read_policies};
use crate::settings::{Effective, Policies, Settings};
use crate::{Fault, Read, Store};

/// What was set of a queue, and what it comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueConfig {
    /// Changes of its settings so far; 0: nothing was ever set.
    pub etag: u64,
    /// Its own settings.
    pub settings: Settings,
    /// With policies and defaults.
    pub effective: Arc<Effective>,
    /// Why it delivers nothing, if it is paused.
    pub paused: Option<Paused>,
}

impl Machine {
    /// Returns what was set of a queue; None if it does not exist. No storage is read.
    #[must_use]
    pub fn config(&self, queue: &QueueName) -> Option<QueueConfig> {
        let (_, queue) = self.named(queue.as_str())?;
        let Config { revision, paused, settings } = queue.config.as_deref().cloned().unwrap_or_default();
        Some(QueueConfig { etag: revision, settings, effective: Arc::clone(&queue.effective), paused })
    }

    /// Returns the policies that hold in this shard.
    #[must_use]
    pub fn policies(&self) -> &Policies {
        &self.policies
    }

    /// Reads policies and configs, after the queues.
    pub(crate) fn read_settings(&mut self, store: &dyn Read) -> Result<(), Fault> {
        if let Some(value) = store.get(&key::POLICIES)? {
            self.policies = read_policies(&value)?;
        }
        let (mut configs, mut malformed) = (Vec::new(), None);
        let [from, to] = key::CONFIGS;
        store.scan(from, to, &mut |key, value| {
            match key::read_queue(key).and_then(|number| Ok((number, Config::read(value)?))) {
                Ok(config) => configs.push(config),
                Err(error) => malformed = Some(error),
            }
            malformed.is_none()
        })?;
        if let Some(error) = malformed {
            return Err(error.into());
        }
        for (number, config) in configs {
            let queue = self.queues.get_mut(number as usize).and_then(Option::as_mut);
            let queue =
                queue.ok_or_else(|| Fault::corrupt(format!("a config row names no queue: {number}")))?;
            queue.config = Some(Box::new(config));
        }
        for number in 0..self.meta.next_queue {
            self.resolve_one(number);
        }
        Ok(())
    }

    /// Returns what holds for a queue of this name with these settings of its own.
    pub(crate) fn resolve(&self, name: &str, own: Option<&Settings>) -> Arc<Effective> {
        let is_plain = own.is_none_or(|own| *own == Settings::default());
        if is_plain && (self.policies.list.is_empty() || self.policies.matching(name).next().is_none()) {
            return Arc::clone(&self.standard);
        }
        Arc::new(self.policies.resolve(name, own))
    }

    /// Resolves the settings of a queue, after they or the policies changed.
    /// Returns whether limits have changed: then whoever serves is to be told.
    fn resolve_one(&mut self, number: u32) -> bool {
        let Some(queue) = &self.queues[number as usize] else { return false };
        let own = queue.config.as_ref().map(|config| &config.settings);
        let effective = self.resolve(queue.name.as_str(), own);
        let Some(queue) = &mut self.queues[number as usize] else { return false };
        let changed = queue.effective.retention != effective.retention;
        let limits = (queue.limits, queue.effective.group_limits(), queue.effective.ageing);
        queue.effective = effective;
        let now_limits = (queue.effective.limits(), queue.effective.group_limits(), queue.effective.ageing);
        queue.limits = now_limits.0;
        if *queue.group_limits != now_limits.1 {
            queue.group_limits = Arc::new(now_limits.1);
        }
        if changed && queue.stats.finished > 0 {
            // What goes next may go sooner now: looked at when somebody asks.
            self.evict_by(number, Some(Millis(0)));
        }
        limits != now_limits
    }

    /// Resolves the settings of a queue, and lets its scheduler know.
    fn resolve_and_tell(&mut self, number: u32) -> Result<(), Fault> {
        let limits_changed = self.resolve_one(number);
        self.tune_events(number)?;
        if limits_changed {
            let now = self.meta.now;
            let queue = self.queue_mut(number)?;
            if let Some(rate) = queue.limits.rate {
                queue.served.bucket.clamp(rate, now);
            }
            self.retune(number)?;
        }
        Ok(())
    }

    /// The limits of groups have changed: all are judged anew.
    pub(crate) fn retune(&mut self, number: u32) -> Result<(), Fault> {
        let now = self.meta.now;
        let queue = self.queue_mut(number)?;
        let (settings, of_queue) = (&queue.group_settings, &queue.group_limits);
        if let Some(groups) = &mut queue.groups {
            groups.retune(queue.effective.ageing, |name| limits_of(settings, of_queue, name), now);
        }
        self.touch(number)
    }

    /// Changes what was set of a queue, and writes its row.
    pub(crate) fn configure(
        &mut self,
        store: &mut dyn Store,
        number: u32,
        change: impl FnOnce(&mut Config),
    ) -> Result<(), Fault> {
        let queue = self.queue_mut(number)?;
        let had_row = queue.config.is_some();
        let mut config = queue.config.take().unwrap_or_default();
        change(&mut config);
        if *config == Config::default() {
            if had_row {
                store.delete(&key::config(number));
            }
        } else {
            let mut value = Vec::new();
            config.write(&mut value);
            store.put(&key::config(number), &value);
            queue.config = Some(config);
        }
        self.resolve_and_tell(number)
    }

    /// The same for one group.
    pub(crate) fn retune_one(&mut self, number: u32, group: &str) -> Result<(), Fault> {
        let now = self.meta.now;
        let queue = self.queue_mut(number)?;
        let limits = queue.limits_of(group);
        if let Some(groups) = &mut queue.groups {
            groups.retune_one(group, limits, now);
        }
        self.touch(number)
    }

    /// Replaces the policies in memory.
    pub(crate) fn adopt_policies(&mut self, policies: Policies) -> Result<(), Fault> {
        self.policies = policies;
        (0..self.meta.next_queue)
            .filter(|number| self.queues[*number as usize].is_some())
            .collect::<Vec<u32>>()
            .into_iter()
            .try_for_each(|number| self.resolve_and_tell(number))
    }
}
