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
use crate::queue::Paused;
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
        self.resolve_all();
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

    /// Resolves the settings of every queue.
    pub(crate) fn resolve_all(&mut self) {
        for number in 0..self.meta.next_queue {
            self.resolve_one(number);
        }
    }

    /// Resolves the settings of a queue, after they or the policies changed.
    fn resolve_one(&mut self, number: u32) {
        let Some(queue) = &self.queues[number as usize] else { return };
        let own = queue.config.as_ref().map(|config| &config.settings);
        let effective = self.resolve(queue.name.as_str(), own);
        let Some(queue) = &mut self.queues[number as usize] else { return };
        let changed = queue.effective.retention != effective.retention;
        queue.effective = effective;
        if changed && queue.stats.finished > 0 {
            // What goes next may go sooner now: looked at when somebody asks.
            self.evict_by(number, Some(Millis(0)));
        }
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
        self.resolve_one(number);
        Ok(())
    }

    /// Replaces the policies in memory.
    pub(crate) fn adopt_policies(&mut self, policies: Policies) {
        self.policies = policies;
        self.resolve_all();
    }
}
