//! When a checkpoint is due, what it takes along, and what its end means.
//!
//! # Invariants
//! - The log is released, and the engine compacted, only up to what a checkpoint made durable.

use z4_store::{Done, Frozen};
use z4_types::{Index, ShardId};

use super::{Driver, Settings};
use crate::machine::{Fault, StateMachine};

/// Wait after a checkpoint that found the disk full.
const CHECKPOINT_RETRY_NS: u64 = 1_000_000_000;

impl<M: StateMachine> Driver<M> {
    /// Returns what to checkpoint now, if anything: run it with [`Store::checkpoint`], then call
    /// [`Driver::checkpointed`].
    pub fn checkpoint_due(&mut self) -> Option<Vec<Frozen>> {
        if self.checkpointing {
            return None;
        }
        let mono = self.mono_ns;
        match self.checkpoint_failed {
            Some(retry) if mono < retry => return None,
            Some(_) => self.checkpoint_wanted = true,
            None => {}
        }
        let aged = mono.saturating_sub(self.checkpointed_ns) >= self.settings.checkpoint_age_ns;
        if !self.checkpoint_wanted && !aged && self.delta_bytes() < self.settings.checkpoint_bytes {
            return None;
        }
        self.checkpoint_wanted = false;
        self.checkpointed_ns = mono;
        let mut frozen = Vec::new();
        for group in self.groups.values_mut() {
            // One whose rows are being replaced has nothing worth writing.
            if !group.installing
                && let Some(set) = group.store.freeze()
            {
                frozen.push(set);
            }
        }
        if frozen.is_empty() {
            self.checkpoint_failed = None;
            return None;
        }
        self.checkpointing = true;
        Some(frozen)
    }

    /// Asks for a checkpoint at the next chance, whatever the sizes: the log needs to be cut, or the host stops.
    pub fn want_checkpoint(&mut self) {
        self.checkpoint_wanted = true;
    }

    /// Says how the checkpoint ended. Returns the indexes below which the log is not needed any more; empty if it
    /// failed, in which case the frozen sets stay and join the next checkpoint.
    ///
    /// # Errors
    /// If the base cannot be read any more.
    pub fn checkpointed(
        &mut self,
        frozen: Vec<Frozen>,
        done: Option<&Done>,
    ) -> Result<Vec<(ShardId, Index)>, Fault> {
        assert!(std::mem::take(&mut self.checkpointing), "a checkpoint is under way");
        let retry = self.clock.monotonic_ns() + CHECKPOINT_RETRY_NS;
        self.checkpoint_failed = done.is_none().then_some(retry);
        // A group that was stalled by the full working set has writes waiting.
        self.dirty.extend(self.groups.keys());
        let Some(done) = done else {
            for set in frozen {
                // Gone if it was removed meanwhile.
                if let Some(group) = self.groups.get_mut(&set.group()) {
                    group.store.abandoned(set);
                }
            }
            return Ok(Vec::new());
        };
        // Every group, frozen or not: one that kept reading the old base would make its file grow.
        for group in self.groups.values_mut() {
            group.store.installed(done);
        }
        let mut released = Vec::new();
        for set in done.frozen() {
            let (shard, meta) = (set.group(), set.meta());
            // A group that was removed, or got a snapshot meanwhile, is further or gone.
            if let Some(group) = self.groups.get_mut(&shard)
                && !group.installing
                && group.durable <= meta.applied
                && meta.applied <= group.store.meta().applied
            {
                group.durable = meta.applied;
                group.consensus.compact(meta.applied, meta.term);
                released.push((shard, meta.applied));
            }
        }
        Ok(released)
    }

    /// Returns whether the working sets are full and a checkpoint must succeed before anything is proposed.
    #[must_use]
    pub fn is_stalled(&self) -> bool {
        let Settings { checkpoint_bytes, stall_bytes, reserve_bytes, .. } = self.settings;
        let max = match (self.checkpoint_failed.is_some(), self.checkpointing) {
            (true, _) => checkpoint_bytes + stall_bytes + reserve_bytes,
            (false, true) => checkpoint_bytes + stall_bytes,
            // The next pass starts one.
            (false, false) => return false,
        };
        self.delta_bytes() + self.frozen_bytes() >= max
    }

    /// Returns the bytes in the active working sets of all groups.
    #[must_use]
    pub fn delta_bytes(&self) -> usize {
        self.groups.values().map(|g| g.store.bytes()).sum()
    }

    /// Returns the bytes in what the checkpoint under way writes.
    fn frozen_bytes(&self) -> usize {
        self.groups.values().map(|g| g.store.frozen_bytes()).sum()
    }
}
