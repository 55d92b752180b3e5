//! Many groups, one log, one base: the core of a host as a value.
//!
//! A pass is [`Driver::prepare`] (propose, take what is ready, hand out one batch for the log) and
//! [`Driver::apply`]. While a batch is on its way to the disk nothing new is proposed: what arrives meanwhile
//! becomes one larger entry. That is the whole of group commit; there is no linger timer.
//!
//! # Invariants
//! - At most one batch is under way; `persisted` answers it.
//! - At most one checkpoint is under way.
//! - A group that got no input, tick or answer is not visited.
//!
//! # Not here
//! - Threads and sleeping: `runner.rs`. Disk errors: whoever runs the batch ends the process.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use z4_env::Clock;
use z4_store::{Done, Frozen, Store};
use z4_types::{Index, Millis, ShardId, Term};
use z4_wal::Batch;

use crate::clock::ShardClock;
use crate::machine::{Admission, Fault, Refuse, Refused, StateMachine};
use crate::replica::{GroupStatus, Replica};

/// Wait after a checkpoint that found the disk full.
const CHECKPOINT_RETRY_NS: u64 = 1_000_000_000;

/// When to checkpoint and tick. Bytes are of the working sets of all groups together.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Nanoseconds between ticks.
    pub tick_ns: u64,
    /// Start a checkpoint when the active working sets hold this much.
    pub checkpoint_bytes: usize,
    /// Start a checkpoint when changes have waited this long, nanoseconds.
    pub checkpoint_age_ns: u64,
    /// What may change while a checkpoint runs. With what that checkpoint writes and this much more waiting, nothing
    /// is proposed or applied until it has ended.
    pub stall_bytes: usize,
    /// What may change beyond that while checkpoints find the disk full: acks and cancels, which will free space.
    pub reserve_bytes: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            tick_ns: 100_000_000,
            checkpoint_bytes: 96 << 20,
            checkpoint_age_ns: 60_000_000_000,
            stall_bytes: 112 << 20,
            reserve_bytes: 32 << 20,
        }
    }
}

/// What arrives for a group.
pub enum Input<M: StateMachine> {
    /// A change.
    Write(ShardId, M::Write),
    /// A linearizable read.
    Read(ShardId, M::Read),
}

/// Told of every entry applied: the group, its index, and the digest of the group's state after it.
pub type DigestWatch = Box<dyn FnMut(ShardId, Index, u64) + Send>;

impl<M: StateMachine> Input<M> {
    /// Answers the call without having done it.
    pub fn refuse(self, why: Refused) {
        match self {
            Self::Write(shard, write) => write.refuse(shard, why),
            Self::Read(shard, read) => read.refuse(shard, why),
        }
    }
}

/// See the module essay.
pub struct Driver<M: StateMachine> {
    settings: Settings,
    clock: Arc<dyn Clock>,
    shard_clock: ShardClock,
    store: Store,
    groups: BTreeMap<ShardId, Replica<M>>,
    dirty: BTreeSet<ShardId>,
    /// Visited while nothing could be proposed; visited again when that is over.
    deferred: BTreeSet<ShardId>,
    /// When each group's machine wants to be asked again.
    deadlines: BTreeMap<ShardId, Millis>,
    collected: Batch,
    collected_numbers: Vec<(ShardId, u64)>,
    /// Numbers of the batch under way.
    writing: Option<Vec<(ShardId, u64)>>,
    /// Groups and their applied indexes in the checkpoint under way.
    checkpointing: Option<Vec<(ShardId, Index, Term)>>,
    checkpoint_wanted: bool,
    /// The last checkpoint found the disk full; when to try again, monotonic nanoseconds.
    checkpoint_failed: Option<u64>,
    checkpointed_ns: u64,
    next_tick_ns: u64,
    /// Time as of the last [`Driver::advance`]: a pass sees one point in time.
    now: Millis,
    mono_ns: u64,
    admission: Admission,
    stopping: bool,
    watch: Option<DigestWatch>,
}

impl<M: StateMachine> Driver<M> {
    /// Returns a driver without groups.
    #[must_use]
    pub fn new(settings: Settings, clock: Arc<dyn Clock>, store: Store) -> Self {
        let mono_ns = clock.monotonic_ns();
        let mut shard_clock = ShardClock::new(&*clock);
        Self {
            next_tick_ns: mono_ns + settings.tick_ns,
            settings,
            now: shard_clock.now(&*clock),
            mono_ns,
            shard_clock,
            clock,
            store,
            groups: BTreeMap::new(),
            dirty: BTreeSet::new(),
            deferred: BTreeSet::new(),
            deadlines: BTreeMap::new(),
            collected: Batch::default(),
            collected_numbers: Vec::new(),
            writing: None,
            checkpointing: None,
            checkpoint_wanted: false,
            checkpoint_failed: None,
            checkpointed_ns: mono_ns,
            admission: Admission::All,
            stopping: false,
            watch: None,
        }
    }

    /// Adds a group.
    pub fn add(&mut self, replica: Replica<M>) {
        self.dirty.insert(replica.shard);
        let before = self.groups.insert(replica.shard, replica);
        assert!(before.is_none(), "a shard has one replica on a host");
    }

    /// Takes one input.
    pub fn input(&mut self, input: Input<M>) {
        if self.stopping {
            return input.refuse(Refused::Stopping);
        }
        let admission =
            if self.checkpoint_failed.is_some() { Admission::FreeingOnly } else { self.admission };
        match input {
            Input::Write(shard, write) => match self.groups.get_mut(&shard) {
                Some(group) if group.is_leading() => {
                    group.machine.write(write, admission);
                    self.dirty.insert(shard);
                }
                Some(_) => write.refuse(shard, Refused::NotLeader),
                None => write.refuse(shard, Refused::NoSuchShard),
            },
            Input::Read(shard, read) => match self.groups.get_mut(&shard) {
                Some(group) => {
                    group.take_read(read);
                    self.dirty.insert(shard);
                }
                None => read.refuse(shard, Refused::NoSuchShard),
            },
        }
    }

    /// Lets time pass: ticks that are due, machines whose deadline has come. Called before every pass.
    pub fn advance(&mut self) {
        let mono = self.clock.monotonic_ns();
        self.mono_ns = mono;
        self.now = self.shard_clock.now(&*self.clock);
        if mono >= self.next_tick_ns {
            // One tick however late: an overslept host must not believe that its peers were silent for long.
            self.next_tick_ns = mono + self.settings.tick_ns;
            for (shard, group) in &mut self.groups {
                group.consensus.tick();
                self.dirty.insert(*shard);
            }
        }
        let now = self.now;
        self.dirty.extend(self.deadlines.iter().filter(|(_, at)| **at <= now).map(|(shard, _)| *shard));
    }

    /// Proposes what waits and takes what is ready. Returns a batch for the log if none is under way: write it,
    /// sync it, then call [`Driver::persisted`].
    ///
    /// # Errors
    /// If storage fails: the host stops.
    pub fn prepare(&mut self) -> Result<Option<Batch>, Fault> {
        let now = self.now;
        let may_propose = self.writing.is_none() && !self.is_stalled();
        if !may_propose {
            self.deferred.extend(&self.dirty);
        }
        for shard in &self.dirty {
            let Some(group) = self.groups.get_mut(shard) else { continue };
            if may_propose {
                group.propose(now)?;
            }
            group.confirm_reads();
            if let Some((record, number)) = group.collect() {
                self.collected.records.push(record);
                self.collected_numbers.push((*shard, number));
            }
        }
        if self.writing.is_some() || self.collected.records.is_empty() {
            return Ok(None);
        }
        self.writing = Some(std::mem::take(&mut self.collected_numbers));
        Ok(Some(std::mem::take(&mut self.collected)))
    }

    /// Says that the batch handed out last is durable.
    pub fn persisted(&mut self) {
        for (shard, number) in self.writing.take().expect("a batch is under way") {
            let group = self.groups.get_mut(&shard).expect("groups with a write under way stay");
            group.consensus.persisted(number);
            if let Some((record, number)) = group.collect() {
                self.collected.records.push(record);
                self.collected_numbers.push((shard, number));
            }
            self.dirty.insert(shard);
        }
        // What arrived while the batch was under way may be proposed now.
        self.dirty.append(&mut self.deferred);
    }

    /// Applies what is committed and serves reads. Returns whether another pass would do something.
    ///
    /// # Errors
    /// If storage fails or an entry cannot be understood: the host stops.
    pub fn apply(&mut self) -> Result<bool, Fault> {
        let now = self.now;
        if self.is_stalled() {
            // The working sets are full, be it by a restart's replay: the end of the checkpoint visits every group.
            // Reads take no room.
            for shard in &self.dirty {
                let Some(group) = self.groups.get_mut(shard) else { continue };
                group.serve_reads(now)?;
            }
            return Ok(false);
        }
        let mut progress = false;
        let mut still_dirty = BTreeSet::new();
        for shard in std::mem::take(&mut self.dirty) {
            let Some(group) = self.groups.get_mut(&shard) else { continue };
            if group.apply(now, &mut self.watch)? {
                progress = true;
                still_dirty.insert(shard);
                self.shard_clock.at_least(&*self.clock, group.machine.now());
            }
            let group_now = now.max(group.machine.now());
            match group.machine.deadline(&group.store, group_now)? {
                Some(at) if group.is_leading() => {
                    if at <= group_now {
                        // Due already: proposed in the next pass, or when the batch under way is durable.
                        still_dirty.insert(shard);
                    }
                    self.deadlines.insert(shard, at);
                }
                _ => {
                    self.deadlines.remove(&shard);
                }
            }
        }
        self.dirty = still_dirty;
        Ok(progress)
    }

    /// Returns what to checkpoint now, if anything: run it with [`Store::checkpoint`], then call
    /// [`Driver::checkpointed`].
    pub fn checkpoint_due(&mut self) -> Option<Vec<Frozen>> {
        if self.checkpointing.is_some() {
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
        let mut contents = Vec::new();
        let mut frozen = Vec::new();
        for (shard, group) in &mut self.groups {
            if let Some(set) = group.store.freeze() {
                contents.push((*shard, group.store.meta().applied, group.store.meta().term));
                frozen.push(set);
            }
        }
        if frozen.is_empty() {
            self.checkpoint_failed = None;
            return None;
        }
        self.checkpointing = Some(contents);
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
        let contents = self.checkpointing.take().expect("a checkpoint is under way");
        let retry = self.clock.monotonic_ns() + CHECKPOINT_RETRY_NS;
        self.checkpoint_failed = done.is_none().then_some(retry);
        // A group that was stalled by the full working set has writes waiting.
        self.dirty.extend(self.groups.keys());
        let Some(done) = done else {
            for (set, (shard, ..)) in frozen.into_iter().zip(contents) {
                self.groups.get_mut(&shard).expect("groups stay while frozen").store.abandoned(set);
            }
            return Ok(Vec::new());
        };
        // Every group, frozen or not: one that kept reading the old base would make its file grow.
        for group in self.groups.values_mut() {
            group.store.installed(done);
        }
        for (shard, applied, term) in &contents {
            let group = self.groups.get_mut(shard).expect("groups stay while frozen");
            group.durable = *applied;
            group.consensus.compact(*applied, *term);
        }
        Ok(contents.into_iter().map(|(shard, applied, _)| (shard, applied)).collect())
    }

    /// Lets `watch` see the digest after each entry from now on: equal indexes must show equal digests, on every
    /// replica and after every restart (P11).
    pub fn watch_digests(&mut self, watch: DigestWatch) {
        self.watch = Some(watch);
    }

    /// Takes no more calls, closes whoever waits for tasks, and asks for a last checkpoint. What is in flight goes on.
    pub fn stop(&mut self) {
        self.stopping = true;
        self.want_checkpoint();
        for (shard, group) in &mut self.groups {
            group.machine.stop();
            self.dirty.insert(*shard);
        }
    }

    /// Sets what may be taken from now on.
    pub fn admit(&mut self, admission: Admission) {
        self.admission = admission;
    }

    /// Returns how long nothing is due, nanoseconds. A deadline that has come waits for the batch or the checkpoint under
    /// way: its end is an input of its own.
    #[must_use]
    pub fn idle_ns(&self) -> u64 {
        let mono = self.clock.monotonic_ns();
        let mut until = self.next_tick_ns;
        if self.checkpointing.is_none() {
            until = until.min(self.checkpoint_failed.unwrap_or(u64::MAX));
        }
        if !self.is_writing() && !self.is_stalled() {
            if !self.dirty.is_empty() {
                return 0;
            }
            let deadline = self.deadlines.values().min();
            until = until.min(deadline.map_or(u64::MAX, |at| self.shard_clock.monotonic_of(*at)));
        }
        until.saturating_sub(mono)
    }

    /// Returns whether the working sets are full and a checkpoint must succeed before anything is proposed.
    #[must_use]
    pub fn is_stalled(&self) -> bool {
        let Settings { checkpoint_bytes, stall_bytes, reserve_bytes, .. } = self.settings;
        let max = match (self.checkpoint_failed.is_some(), self.checkpointing.is_some()) {
            (true, _) => checkpoint_bytes + stall_bytes + reserve_bytes,
            (false, true) => checkpoint_bytes + stall_bytes,
            // The next pass starts one.
            (false, false) => return false,
        };
        self.delta_bytes() + self.frozen_bytes() >= max
    }

    /// Returns whether a batch is under way.
    #[must_use]
    pub fn is_writing(&self) -> bool {
        self.writing.is_some()
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

    /// Returns the state of every group.
    #[must_use]
    pub fn status(&self) -> Vec<GroupStatus> {
        self.groups.values().map(Replica::status).collect()
    }

    /// Returns the store that all groups share.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Calls `visit` on every group's machine and working set.
    pub fn for_each(&mut self, mut visit: impl FnMut(ShardId, &mut M, &mut z4_store::GroupStore)) {
        for (shard, group) in &mut self.groups {
            visit(*shard, &mut group.machine, &mut group.store);
        }
    }

    /// Returns how far the wall clock runs ahead of shard time, milliseconds.
    #[must_use]
    pub fn wall_ahead_ms(&self) -> i64 {
        self.shard_clock.wall_ahead_ms(&*self.clock)
    }
}
