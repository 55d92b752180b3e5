//! SetQueue: creates a queue or changes its settings, if it is as the caller saw it.
//!
//! Etags count changes: a patch that changes nothing leaves the etag, so that repeating it is harmless.

use z4_types::limits::QUEUES_PER_SHARD_MAX;

use crate::command::{SetMode, SetQueue};
use crate::machine::Machine;
use crate::outcome::{QueueSet, Refusal};
use crate::{Fault, Store};

impl Machine {
    pub(super) fn set_queue(
        &mut self,
        store: &mut dyn Store,
        set: &SetQueue,
    ) -> Result<Result<QueueSet, Refusal>, Fault> {
        let name = set.queue.as_str();
        let exists = self.names.contains_key(name);
        let refusal = match set.mode {
            SetMode::Create if exists => Some(Refusal::QueueExists(set.queue.clone())),
            SetMode::Update if !exists => Some(Refusal::QueueNotFound(set.queue.clone())),
            SetMode::Create => None,
            SetMode::Update | SetMode::Upsert => self.changed(&set.queue, set.etag),
        };
        if let Some(refusal) = refusal {
            return Ok(Err(refusal));
        }
        if !exists && self.names.len() >= QUEUES_PER_SHARD_MAX {
            return Ok(Err(Refusal::TooManyQueues(self.names.len())));
        }
        let number = self.intern(store, name);
        let before = self.queue(number)?.config.as_deref().cloned().unwrap_or_default();
        let mut settings = before.settings.clone();
        settings.patch(&set.patch);
        let mut etag = before.revision;
        // A queue that is made by this command has settings, if only empty ones.
        if !exists || settings != before.settings {
            etag += 1;
            self.configure(store, number, |config| (config.settings, config.revision) = (settings, etag))?;
        }
        Ok(Ok(QueueSet { created: !exists, etag }))
    }

    /// Returns the refusal of a change that expects an etag, if the queue has another one.
    pub(super) fn changed(&self, queue: &z4_types::QueueName, given: Option<u64>) -> Option<Refusal> {
        let config = self.named(queue.as_str()).and_then(|(_, queue)| queue.config.as_deref());
        let etag = config.map_or(0, |config| config.revision);
        let given = given.filter(|given| *given != etag)?;
        Some(Refusal::QueueChanged { queue: queue.clone(), etag, given })
    }
}
