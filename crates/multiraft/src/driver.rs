//! Many groups, one log, one base: the core of a host as a value.
//!
//! A pass is [`Driver::prepare`] (propose, take what is ready, hand out one batch for the log) and
//! [`Driver::apply`]. While a batch is on its way to the disk nothing new is proposed: what arrives meanwhile
//! becomes one larger entry. That is the whole of group commit; there is no linger timer.
//!
//! What is said to other hosts gathers in frames ([`Driver::take_frames`]): after `prepare`, to be sent before the batch is
//! written, since followers may write while we do; and after `persisted`, what had to wait for the disk.
//!
//! # Invariants
//! - At most one batch is under way; `persisted` answers it.
//! - At most one checkpoint is under way.
//! - A group that got no input, tick or answer is not visited.
//!
//! # Not here
//! - Checkpoints: `driver/checkpoints.rs`. Frames, snapshots, what others say: `driver/peers.rs`. Members and leaders:
//!   `driver/members.rs`.
//! - Threads and sleeping: `runner.rs`. Disk errors: whoever runs the batch ends the process.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use z4_consensus::Message;
use z4_env::Clock;
use z4_store::Store;
use z4_types::{Entry, Millis, ShardId};
use z4_wal::Batch;

use crate::clock::ShardClock;
use crate::leaders::{Leader, Leaders};
use crate::machine::{Admission, Fault, Refuse, Refused, StateMachine};
use crate::part::Part;
use crate::post::Post;
use crate::replica::{Applied, GroupStatus, Replica};

mod checkpoints;
mod members;
mod peers;

pub use peers::LogOrder;

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

/// Told of every entry applied: the group, the entry, and the digest of the group's state after it.
pub type DigestWatch = Box<dyn FnMut(ShardId, &Entry, u64) + Send>;

impl<M: StateMachine> Input<M> {
    /// Answers the call without having done it.
    pub fn refuse(self, why: Refused) {
        match self {
            Self::Write(shard, write) => write.refuse(shard, why),
            Self::Read(shard, read) => read.refuse(shard, why),
        }
    }
}

/// A record on its way to the disk.
struct Promise {
    shard: ShardId,
    replica: u64,
    number: u64,
    /// To be said once it is durable.
    messages: Vec<Message>,
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
    /// When each group's machine wants to be asked again, by this host's clock.
    deadlines: BTreeMap<ShardId, Millis>,
    collected: Batch,
    collected_promises: Vec<Promise>,
    /// What the batch under way holds.
    writing: Option<Vec<Promise>>,
    /// A checkpoint is under way.
    checkpointing: bool,
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
    post: Post,
    leaders: Arc<Leaders>,
    peers: peers::Peers,
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
            collected_promises: Vec::new(),
            writing: None,
            checkpointing: false,
            checkpoint_wanted: false,
            checkpoint_failed: None,
            checkpointed_ns: mono_ns,
            admission: Admission::All,
            stopping: false,
            watch: None,
            post: Post::default(),
            leaders: Arc::default(),
            peers: peers::Peers::default(),
        }
    }

    /// Adds a group, before the driver runs or between two passes.
    ///
    /// # Panics
    /// If there is a replica of the shard.
    pub fn add(&mut self, replica: Replica<M>) {
        let shard = replica.shard;
        // A log that was opened before the group was there does not know what the base holds of it.
        self.peers.release(shard, replica.durable);
        self.dirty.insert(shard);
        self.leaders.set(shard, Leader { replica: 0, here: false });
        let before = self.groups.insert(shard, replica);
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
                Some(group) if group.is_leading() && !group.installing => {
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
            self.tick_snapshots();
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
        let (now, mono_ns) = (self.now, self.mono_ns);
        let may_propose = self.writing.is_none() && !self.is_stalled();
        if !may_propose {
            self.deferred.extend(&self.dirty);
        }
        let dirty = std::mem::take(&mut self.dirty);
        for &shard in &dirty {
            let Some(group) = self.groups.get_mut(&shard) else { continue };
            if group.installing {
                continue;
            }
            if may_propose {
                group.propose(group.time(now, mono_ns))?;
            }
            group.confirm_reads();
            self.collect(shard)?;
        }
        let marked = std::mem::replace(&mut self.dirty, dirty);
        self.dirty.extend(marked);
        let forgets = self.peers.takes_forgets();
        if self.writing.is_some() || self.collected.records.is_empty() && !forgets {
            return Ok(None);
        }
        self.peers.began_write();
        self.writing = Some(std::mem::take(&mut self.collected_promises));
        Ok(Some(std::mem::take(&mut self.collected)))
    }

    /// Takes what a group has ready: mail, a record for the next batch, rows to install.
    fn collect(&mut self, shard: ShardId) -> Result<(), Fault> {
        let Some(group) = self.groups.get_mut(&shard) else { return Ok(()) };
        let collected = group.collect();
        let replica = group.consensus.replica();
        let leader = Leader { replica: group.consensus.leader(), here: group.is_leading() };
        if self.peers.seen_leader(shard, leader) {
            self.leaders.set(shard, leader);
        }
        for message in collected.messages {
            self.say(shard, message)?;
        }
        let Some((record, number, messages)) = collected.record else { return Ok(()) };
        let promise = Promise { shard, replica, number, messages };
        match collected.snapshot {
            // Not one byte of it may be durable before the rows are.
            Some(mark) => self.install(shard, &mark, record, promise)?,
            None => {
                self.collected.records.push(record);
                self.collected_promises.push(promise);
            }
        }
        Ok(())
    }

    /// Says that the batch handed out last is durable.
    ///
    /// # Errors
    /// If storage fails: the host stops.
    pub fn persisted(&mut self) -> Result<(), Fault> {
        for promise in self.writing.take().expect("a batch is under way") {
            let Promise { shard, replica, number, messages } = promise;
            // Gone if it was removed meanwhile.
            let group = self.groups.get_mut(&shard).filter(|group| group.consensus.replica() == replica);
            let Some(group) = group else { continue };
            group.consensus.persisted(number);
            for message in messages {
                self.say(shard, message)?;
            }
            self.collect(shard)?;
            self.dirty.insert(shard);
        }
        self.peers.ended_write();
        // What arrived while the batch was under way may be proposed now.
        self.dirty.append(&mut self.deferred);
        Ok(())
    }

    /// Applies what is committed and serves reads. Returns whether another pass would do something.
    ///
    /// # Errors
    /// If storage fails or an entry cannot be understood: the host stops.
    pub fn apply(&mut self) -> Result<bool, Fault> {
        let (now, mono_ns) = (self.now, self.mono_ns);
        if self.is_stalled() {
            // The working sets are full, be it by a restart's replay: the end of the checkpoint visits every group.
            // Reads take no room.
            for shard in &self.dirty {
                let Some(group) = self.groups.get_mut(shard) else { continue };
                group.serve_reads(group.time(now, mono_ns))?;
            }
            return Ok(false);
        }
        let mut progress = false;
        let mut still_dirty = BTreeSet::new();
        for shard in std::mem::take(&mut self.dirty) {
            let Some(group) = self.groups.get_mut(&shard) else { continue };
            if group.installing {
                continue;
            }
            if group.apply(now, mono_ns, &mut self.watch)? {
                progress = true;
                still_dirty.insert(shard);
            }
            if let Some((index, digest)) = group.digests.take_news()
                && group.is_leading()
            {
                let own = group.consensus.replica();
                for to in group.consensus.progress().iter().map(|peer| peer.replica).filter(|id| *id != own) {
                    self.post.put(shard, &Part::Digest { to, index, digest });
                }
            }
            let group_now = group.time(now, mono_ns);
            match group.machine.deadline(&group.store, group_now)? {
                Some(at) if group.is_leading() => {
                    if at <= group_now {
                        // Due already: proposed in the next pass, or when the batch under way is durable.
                        still_dirty.insert(shard);
                    }
                    self.deadlines.insert(shard, group.ahead.host_time(at, mono_ns));
                }
                _ => {
                    self.deadlines.remove(&shard);
                }
            }
        }
        self.dirty = still_dirty;
        Ok(progress)
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
        if !self.checkpointing {
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

    /// Returns whether a batch is under way.
    #[must_use]
    pub fn is_writing(&self) -> bool {
        self.writing.is_some()
    }

    /// Returns who leads which shard, for any thread.
    #[must_use]
    pub fn leaders(&self) -> Arc<Leaders> {
        Arc::clone(&self.leaders)
    }

    /// Returns the state of every group.
    #[must_use]
    pub fn status(&self) -> Vec<GroupStatus> {
        self.groups.values().map(Replica::status).collect()
    }

    /// Returns what the replica of `shard` has applied, whether or not anybody leads the group. None if none lives
    /// here, or if it has no data to show: its first snapshot has not come, or one is being installed.
    pub fn applied(&mut self, shard: ShardId) -> Option<Applied<'_, M>> {
        let group = self.groups.get_mut(&shard)?;
        group.applied(group.time(self.now, self.mono_ns))
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
