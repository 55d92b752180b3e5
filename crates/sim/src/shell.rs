//! One life of the host: what `multiraft::Runner` does with threads, step by step and in one thread.
//!
//! The order of calls is the runner's: inputs, `advance`, passes of prepare, write and apply, then a checkpoint if one
//! is due. Where the runner hands work to another thread, the shell holds it until the world asks for the next step,
//! so that anything can happen in between: calls, time, a crash.
//!
//! ```text
//! batch:       held ──append──> written ──sync──> synced ──persisted──> answers leave
//! checkpoint:  frozen ──checkpoint──> done ──checkpointed, release, recycle──> nothing
//! ```
//!
//! # Invariants
//! - Any error of the log and any fault ends this life, as it ends the process.
//! # Not here
//! - What happens between lives: `world.rs`.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

use z4_env::{Clock, DirLock, Disk, Net};
use z4_host::{
    Boot, BootError, Budget, Config, HostMachine, HostRead, HostWrite, Opener, Published, Read, Seats, Write,
    boot,
};
use z4_multiraft::{Admission, Driver, Fault, Input, LogOrder, SnapshotWork};
use z4_registry::Registry;
use z4_store::{Done, Frozen};
use z4_types::{HostId, Index, Kind, Millis, ShardId};
use z4_wal::{Batch, Record, SpareMaker, Wal};

use crate::checks::Digests;
use crate::clock::SimClock;
use crate::disk::SimDisk;
use crate::net::SimPort;
use crate::swarm::{HostSizes, Swarm};

/// Passes after which the host should long have come to rest.
const PASSES_MAX: u32 = 10_000;
/// The planted bug: answers leave before the log is synced.
const EARLY_ANSWERS: bool = cfg!(feature = "bug-ok-before-fsync");

/// Where the oldest batch under way stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// None, or held.
    Waiting,
    /// Appended.
    Written,
    /// Appended and synced.
    Synced,
}

enum Checkpoint {
    Nothing,
    Frozen(Vec<Frozen>),
    Done(Vec<Frozen>, Done),
}

/// What a step of the checkpoint did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// There was none to do.
    Nothing,
    /// It was written, or taken over.
    Done,
    /// The disk was full; it joins the next one.
    Full,
}

/// A running host.
pub struct Shell {
    /// Its groups.
    pub driver: Driver<HostMachine>,
    /// What routes by, as of the last pass.
    pub registry: Arc<Registry>,
    /// Bounds requests, as the handle of a real host does.
    pub budget: Arc<Budget>,
    /// Entries the log held that the base did not.
    pub replayed: usize,
    wal: Wal,
    spares: SpareMaker,
    batches: VecDeque<Batch>,
    stage: Stage,
    checkpoint: Checkpoint,
    releases: Vec<(ShardId, Index)>,
    /// For the log, behind the batch under way.
    orders: Vec<LogOrder>,
    /// For the thread of snapshots, in order.
    works: VecDeque<SnapshotWork>,
    /// The way to other hosts; one alone has none.
    port: Option<SimPort>,
    /// Records that became durable, if anybody wants to know.
    synced: Option<Vec<Record>>,
    published: Published,
    /// Which replicas live here.
    pub seats: Seats,
    opener: Opener,
    sealed: bool,
    threaded: bool,
    reserve_bytes: u64,
    segments_max: usize,
    admission: Admission,
    data_dir: PathBuf,
    disk: SimDisk,
    clock: SimClock,
    /// Monotonic and wall time of the start.
    booted: (u64, Millis),
    /// Neither the wall nor any entry showed a later time then.
    latest: Millis,
    _locks: Vec<Box<dyn DirLock>>,
}

impl Shell {
    /// Starts the host. `digests` sees every entry it applies; `learn` says whether they are the host's history, or
    /// those of a copy that is only tried. Shard time has not passed `latest` before.
    ///
    /// # Errors
    /// As `z4_host::boot`.
    pub fn start(
        swarm: &Swarm,
        config: &Config,
        disk: &SimDisk,
        clock: &SimClock,
        digests: &Digests,
        learn: bool,
        latest: Millis,
    ) -> Result<Self, BootError> {
        let draw = u128::from(swarm.seed) << 64 | 1;
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let booted = (clock.monotonic_ns(), clock.wall());
        let mut boot = boot(config, shared, Arc::new(clock.clone()), draw)?;
        boot.driver.watch_digests(digests.watch(learn));
        Ok(Self::around(boot, &swarm.host, config, disk, clock, booted, latest))
    }

    /// Puts a shell around a host that was just opened, `booted` at a monotonic and a wall time.
    #[must_use]
    pub fn around(
        boot: Boot,
        sizes: &HostSizes,
        config: &Config,
        disk: &SimDisk,
        clock: &SimClock,
        booted: (u64, Millis),
        latest: Millis,
    ) -> Self {
        let Boot { driver, wal, registry: published, replayed, locks, seats, opener, .. } = boot;
        let registry = Arc::clone(&published.read().unwrap_or_else(PoisonError::into_inner));
        Self {
            driver,
            registry,
            budget: Budget::new(config.sizes.inbox_bytes),
            replayed,
            spares: wal.spare_maker(),
            wal,
            batches: VecDeque::new(),
            stage: Stage::Waiting,
            checkpoint: Checkpoint::Nothing,
            releases: Vec::new(),
            orders: Vec::new(),
            works: VecDeque::new(),
            port: None,
            synced: None,
            published,
            seats,
            opener,
            sealed: false,
            threaded: sizes.log_thread,
            reserve_bytes: sizes.reserve_bytes,
            segments_max: sizes.segments_max,
            admission: Admission::All,
            data_dir: config.data_dir.clone(),
            disk: disk.clone(),
            clock: clock.clone(),
            booted,
            latest: latest.max(booted.1),
            _locks: locks,
        }
    }

    /// Plugs the host into the network, and keeps what becomes durable for [`Self::take_synced`].
    pub fn connect(&mut self, port: SimPort) {
        self.port = Some(port);
        self.synced = Some(Vec::new());
    }

    /// Takes a frame of another host.
    ///
    /// # Errors
    /// What ends the host.
    pub fn receive(&mut self, from: &HostId, body: Vec<u8>) -> Result<(), Fault> {
        self.driver.receive(from, body.into())
    }

    /// Returns the newest registry this host knows.
    #[must_use]
    pub fn registry(&self) -> Arc<Registry> {
        Arc::clone(&self.published.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Gives a replica a seat and lets it live.
    ///
    /// # Errors
    /// What ends the host; `Overloaded` if the disk is full, which does not.
    pub fn create(&mut self, shard: ShardId, replica: u64) -> Result<(), Fault> {
        let opened = self.opener.create(&mut self.seats, shard, replica)?;
        self.driver.add(opened);
        Ok(())
    }

    /// Takes the seat of a shard's replica away and removes its group.
    ///
    /// # Errors
    /// As [`Self::create`].
    pub fn bury(&mut self, shard: ShardId) -> Result<(), Fault> {
        self.opener.bury(&mut self.seats, shard)?;
        self.driver.remove(shard);
        Ok(())
    }

    /// Takes the records that became durable since the last call.
    pub fn take_synced(&mut self) -> Vec<Record> {
        self.synced.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Hands a write to the driver.
    pub fn write(&mut self, shard: ShardId, write: Write) {
        self.driver.input(Input::Write(shard, HostWrite::Task(write)));
    }

    /// Hands a read to the driver.
    pub fn read(&mut self, shard: ShardId, read: Read) {
        let read: HostRead = read;
        self.driver.input(Input::Read(shard, read));
    }

    /// Lets the driver's thread run until it has nothing to do but wait.
    ///
    /// # Errors
    /// What ends the host.
    pub fn pass(&mut self) -> Result<(), Fault> {
        self.registry = self.registry();
        self.housekeep();
        self.passes()?;
        if matches!(self.checkpoint, Checkpoint::Nothing)
            && let Some(frozen) = self.driver.checkpoint_due()
        {
            self.checkpoint = Checkpoint::Frozen(frozen);
        }
        Ok(())
    }

    fn passes(&mut self) -> Result<(), Fault> {
        for _ in 0..PASSES_MAX {
            self.driver.advance();
            let batch = self.driver.prepare()?;
            let written = batch.is_some();
            self.send();
            self.order();
            if let Some(batch) = batch {
                self.batches.push_back(batch);
                if EARLY_ANSWERS {
                    self.driver.persisted()?;
                } else if !self.threaded {
                    self.finish_batches()?;
                }
            }
            let progress = self.driver.apply()?;
            if EARLY_ANSWERS && !self.threaded {
                self.finish_batches()?;
            }
            self.send();
            self.works.extend(self.driver.snapshot_work());
            if self.threaded && written || !written && !progress {
                return Ok(());
            }
        }
        Err(Fault { kind: Kind::Internal, what: format!("no rest after {PASSES_MAX} passes") })
    }

    fn send(&mut self) {
        let mut lost: Vec<HostId> = Vec::new();
        for (to, frame) in self.driver.take_frames() {
            let taken = self.port.as_mut().is_some_and(|port| port.send(&to, frame));
            if !taken && !lost.contains(&to) {
                lost.push(to);
            }
        }
        for host in lost {
            self.driver.unreachable(&host);
        }
    }

    fn order(&mut self) {
        self.orders.extend(self.driver.log_orders());
        if self.batches.is_empty() {
            self.obey();
        }
    }

    fn obey(&mut self) {
        for order in self.orders.drain(..) {
            match order {
                LogOrder::Release(shard, index) => self.wal.release(shard, index),
                LogOrder::Forget(shard) => self.wal.forget(shard),
            }
        }
    }

    /// Takes the snapshots' thread one step further. Returns the shard whose rows it replaced, if it did.
    ///
    /// # Errors
    /// What ends the host.
    pub fn snapshot_step(&mut self) -> Result<Option<ShardId>, Fault> {
        let Some(work) = self.works.pop_front() else { return Ok(None) };
        let replaced = match &work {
            SnapshotWork::Install(staged) => Some(staged.group()),
            _ => None,
        };
        let store = self.driver.store().clone();
        self.driver.snapshot_done(work.run(&store))?;
        Ok(replaced)
    }

    /// Returns what waits for the snapshots' thread.
    #[must_use]
    pub fn snapshot_works(&self) -> usize {
        self.works.len()
    }

    /// Takes the log's thread one step further. A batch that finds the disk full is held and tried again.
    ///
    /// # Errors
    /// What ends the host.
    pub fn log_step(&mut self) -> Result<Step, Fault> {
        let Some(batch) = self.batches.front() else { return Ok(Step::Nothing) };
        match self.stage {
            Stage::Waiting => match self.wal.append(batch) {
                Ok(()) => (self.stage, self.sealed) = (Stage::Written, false),
                Err(error) if error.kind() == Kind::Overloaded => {
                    self.driver.want_checkpoint();
                    return Ok(Step::Full);
                }
                Err(error) => return Err(log_fault(&error)),
            },
            Stage::Written => {
                self.wal.sync().map_err(|error| log_fault(&error))?;
                self.stage = Stage::Synced;
                if let Some(synced) = &mut self.synced {
                    synced.extend_from_slice(&batch.records);
                }
            }
            Stage::Synced => {
                self.batches.pop_front();
                self.stage = Stage::Waiting;
                self.obey();
                self.release()?;
                if !EARLY_ANSWERS {
                    self.driver.persisted()?;
                }
            }
        }
        Ok(Step::Done)
    }

    fn finish_batches(&mut self) -> Result<(), Fault> {
        while self.log_step()? == Step::Done {}
        Ok(())
    }

    /// Takes the checkpoint's thread one step further.
    ///
    /// # Errors
    /// What ends the host.
    pub fn checkpoint_step(&mut self) -> Result<Step, Fault> {
        match std::mem::replace(&mut self.checkpoint, Checkpoint::Nothing) {
            Checkpoint::Nothing => Ok(Step::Nothing),
            Checkpoint::Frozen(frozen) => match self.driver.store().clone().checkpoint(&frozen) {
                Ok(done) => {
                    self.checkpoint = Checkpoint::Done(frozen, done);
                    Ok(Step::Done)
                }
                Err(error) if error.kind() == Kind::Overloaded => {
                    self.driver.checkpointed(frozen, None)?;
                    Ok(Step::Full)
                }
                Err(error) => {
                    // A crash inside is told by this.
                    self.checkpoint = Checkpoint::Frozen(frozen);
                    Err(error.into())
                }
            },
            Checkpoint::Done(frozen, done) => {
                let released = self.driver.checkpointed(frozen, Some(&done))?;
                self.releases.extend(released);
                if self.stage != Stage::Written {
                    self.release()?;
                }
                Ok(Step::Done)
            }
        }
    }

    /// Gives up the checkpoint under way before it wrote anything; returns whether there was one.
    ///
    /// # Errors
    /// What ends the host.
    pub fn abandon_checkpoint(&mut self) -> Result<bool, Fault> {
        match std::mem::replace(&mut self.checkpoint, Checkpoint::Nothing) {
            Checkpoint::Frozen(frozen) => {
                self.driver.checkpointed(frozen, None)?;
                Ok(true)
            }
            other => {
                self.checkpoint = other;
                Ok(false)
            }
        }
    }

    fn release(&mut self) -> Result<(), Fault> {
        if self.releases.is_empty() {
            return Ok(());
        }
        for (shard, index) in self.releases.drain(..) {
            self.wal.release(shard, index);
        }
        self.wal.recycle().map(drop).map_err(|error| log_fault(&error))
    }

    fn housekeep(&mut self) {
        if self.wal.stats().segments > self.segments_max {
            self.driver.want_checkpoint();
        }
        self.admission = match self.disk.free_bytes(&self.data_dir) {
            Ok(free) if free < self.reserve_bytes => Admission::FreeingOnly,
            _ => Admission::All,
        };
        self.driver.admit(self.admission);
    }

    /// Lets the background thread write a spare segment. Its errors are only logged on a real host.
    pub fn make_spare(&mut self) {
        let _ = self.spares.make();
    }

    /// Seals the log if it is idle.
    ///
    /// # Errors
    /// What ends the host.
    pub fn seal(&mut self) -> Result<(), Fault> {
        if self.batches.is_empty() && !self.sealed {
            match self.wal.seal() {
                Ok(()) => self.sealed = true,
                // Harmless, says the log.
                Err(error) if error.kind() == Kind::Overloaded => {}
                Err(error) => return Err(log_fault(&error)),
            }
        }
        Ok(())
    }

    /// Stops as on SIGTERM: finish, checkpoint, seal.
    ///
    /// # Errors
    /// What ends the host before.
    pub fn stop(&mut self) -> Result<(), Fault> {
        self.driver.stop();
        self.rest()?;
        self.seal()
    }

    /// As [`Self::stop`], of a host among others: as soon as nothing is on its way to the disk. What waits for other
    /// hosts waits in vain; the log holds all that was answered.
    ///
    /// # Errors
    /// What ends the host before.
    pub fn end(&mut self) -> Result<(), Fault> {
        self.driver.stop();
        for _ in 0..PASSES_MAX {
            self.pass()?;
            self.finish_batches()?;
            let full = !self.batches.is_empty();
            match self.checkpoint_step()? {
                Step::Nothing if !full => return self.seal(),
                Step::Nothing | Step::Full => return Ok(()),
                Step::Done => {}
            }
        }
        Err(Fault { kind: Kind::Internal, what: format!("no end after {PASSES_MAX} passes") })
    }

    /// Runs everything, other threads too, until nothing is under way, or waits for a full disk.
    ///
    /// # Errors
    /// What ends the host.
    pub fn rest(&mut self) -> Result<(), Fault> {
        for _ in 0..PASSES_MAX {
            self.pass()?;
            self.finish_batches()?;
            if self.checkpoint_step()? == Step::Done {
                continue;
            }
            let full = !self.batches.is_empty();
            if full {
                // It wished for a checkpoint, which may free segments; the next pass would begin one.
                self.pass()?;
            }
            if !self.is_checkpointing() && (full || self.driver.idle_ns() > 0) {
                return Ok(());
            }
        }
        Err(Fault { kind: Kind::Internal, what: format!("no rest after {PASSES_MAX} rounds") })
    }

    /// Returns whether every group leads and has applied all it has.
    #[must_use]
    pub fn is_recovered(&self) -> bool {
        self.driver.status().iter().all(|group| group.leading && group.applied == group.last)
    }

    /// Returns where the oldest batch under way stands; None if there is none.
    #[must_use]
    pub fn stage(&self) -> Option<Stage> {
        (!self.batches.is_empty()).then_some(self.stage)
    }

    /// Returns whether a checkpoint is under way.
    #[must_use]
    pub fn is_checkpointing(&self) -> bool {
        !matches!(self.checkpoint, Checkpoint::Nothing)
    }

    /// Returns whether the last batch is proved synced by a seal.
    #[must_use]
    pub fn is_sealed(&self) -> bool {
        self.sealed && self.batches.is_empty()
    }

    /// Returns whether creates are refused for want of space.
    #[must_use]
    pub fn is_nearly_full(&self) -> bool {
        self.admission == Admission::FreeingOnly
    }

    /// Returns the segments given back in this life.
    #[must_use]
    pub fn recycled(&self) -> u64 {
        self.wal.stats().recycled
    }

    /// Returns a time that shard time has certainly reached.
    #[must_use]
    pub fn earliest(&self) -> Millis {
        let (mono, wall) = self.booted;
        Millis((wall.0 + (self.clock.monotonic_ns() - mono) / 1_000_000 * 19 / 20).saturating_sub(2))
    }

    /// Returns a time that shard time cannot have passed yet.
    #[must_use]
    pub fn latest(&self) -> Millis {
        let (mono, _) = self.booted;
        // The clock slews by at most a twentieth; two for rounding.
        Millis(self.latest.0 + (self.clock.monotonic_ns() - mono) / 1_000_000 * 21 / 20 + 2)
    }
}

fn log_fault(error: &z4_wal::Error) -> Fault {
    Fault { kind: error.kind(), what: format!("the log cannot be written: {error}") }
}
