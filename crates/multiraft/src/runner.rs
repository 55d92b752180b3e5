//! The shell of threads around a [`Driver`].
//!
//! One thread drives the groups. The log is written inline by it, or by a thread of its own so that applying one
//! batch overlaps syncing the next ([`LogMode`], ADR-0009). Checkpoints, snapshots and the prewriting of spare log
//! segments, which take long and wait for the disk, have threads of their own (`threads.rs`).
//!
//! # Caveats
//! - Any error of the log, and any fault of a group, ends the driver: the host stops and says why. A failed fsync is
//!   never retried. A checkpoint that found the disk full is tried again; the log keeps everything
//!   until one succeeds.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use z4_env::{Clock, Frame, Net};
use z4_store::{Done, Frozen};
use z4_types::{HostId, Kind};
use z4_wal::{Batch, Wal};

use crate::driver::{Driver, Input};
use crate::inbox::Inbox;
use crate::leaders::Leaders;
use crate::machine::{Admission, Fault, Refused, StateMachine};
use crate::metrics::Metrics;
use crate::replica::GroupStatus;
use crate::snapshot::{SnapshotDone, SnapshotWork};
use crate::threads::{self, CheckpointJob, FULL_RETRY, LogJob, Shared};

/// The log seals its last batch when nothing was written for this long.
const SEAL_AFTER_NS: u64 = 50_000_000;
/// How often gauges are refreshed and free space is looked at.
const HOUSEKEEPING_NS: u64 = 500_000_000;
/// Free space for the base below which nothing is taken that needs more of it: two checkpoints' worth.
const BASE_RESERVE_BYTES: u64 = 256 << 20;
/// Space for the log below which nothing is taken that needs more of it: free, or in segments it owns already.
const LOG_RESERVE_BYTES: u64 = 64 << 20;
/// While the disk is low, how often a checkpoint is tried: it turns what was acked into free pages.
const LOW_CHECKPOINT_NS: u64 = 5_000_000_000;
/// A base file of this many times its rows' bytes is normal; what it has beyond is free pages.
const BASE_BYTES_PER_LIVE_BYTE: u64 = 3;

/// Who writes the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogMode {
    /// The driver's thread: fewest hops, the right choice for one core.
    Inline,
    /// A thread of its own: applying overlaps syncing.
    Thread,
}

/// Bytes still free for each part of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FreeSpace {
    /// On the log's filesystem.
    pub log: u64,
    /// On the base's filesystem; may be the same one.
    pub base: u64,
}

/// How the shell runs.
pub struct RunnerConfig {
    /// Who writes the log.
    pub log_mode: LogMode,
    /// Segments of the log beyond which a checkpoint is wanted so that they can be recycled.
    pub log_segments_max: u64,
    /// Looks at the disks; called about twice a second.
    pub free_space: Box<dyn Fn() -> std::io::Result<FreeSpace> + Send>,
    /// Carries frames to other hosts.
    pub net: Box<dyn Net>,
}

/// The network of a host that has no others.
#[derive(Debug, Clone, Copy)]
pub struct NoNet;

impl Net for NoNet {
    fn send(&mut self, _: &HostId, _: Frame) -> bool {
        false
    }
}

/// Looks at a driver between two passes.
type Look<M> = Box<dyn FnOnce(&mut Driver<M>) + Send>;

/// What the driver's thread receives.
pub(crate) enum Letter<M: StateMachine> {
    Input(Input<M>),
    /// The batch under way is durable.
    Persisted,
    /// The log cannot grow; the batch under way waits until it can.
    LogFull,
    Checkpointed(Vec<Frozen>, Result<Done, z4_store::Error>),
    /// From another host's driver; the last is dropped when it has been taken.
    Frame(HostId, Bytes, Box<dyn Send>),
    Snapshot(Box<SnapshotDone>),
    /// Another thread has ended by a fault.
    Failed(Fault),
    Look(Look<M>),
    Stop,
}

/// A running driver. Dropping it stops it.
pub struct Runner<M: StateMachine + 'static> {
    inbox: Arc<Inbox<Letter<M>>>,
    metrics: Arc<Metrics>,
    leaders: Arc<Leaders>,
    threads: Mutex<Option<Threads>>,
}

/// In the order in which they end: the driver drops the others' queues.
struct Threads {
    driver: JoinHandle<Result<(), Fault>>,
    others: Vec<JoinHandle<()>>,
}

impl<M: StateMachine + 'static> Runner<M> {
    /// Starts the threads. `ended` is called once, from the driver's thread, when it ends.
    ///
    /// # Errors
    /// If a thread cannot be started.
    pub fn start(
        mut driver: Driver<M>,
        wal: Wal,
        clock: Arc<dyn Clock>,
        config: RunnerConfig,
        ended: impl FnOnce(&Result<(), Fault>) + Send + 'static,
    ) -> std::io::Result<Self> {
        let shared =
            Shared { inbox: Arc::new(Inbox::default()), metrics: Arc::new(Metrics::default()), clock };
        let (inbox, metrics) = (Arc::clone(&shared.inbox), Arc::clone(&shared.metrics));
        let (spares, spares_thread) = threads::start_spares(wal.spare_maker(), shared.clone())?;
        let (checkpoints, checkpoints_thread) =
            threads::start_checkpoints(driver.store().clone(), shared.clone())?;
        let (snapshots, snapshots_thread) = threads::start_snapshots(driver.store().clone(), shared.clone())?;
        let mut others = vec![spares_thread, checkpoints_thread, snapshots_thread];
        let leaders = driver.leaders();
        let log = match config.log_mode {
            LogMode::Inline => Log::Inline(Box::new(wal)),
            LogMode::Thread => {
                let (jobs, thread) = threads::start_log(wal, shared.clone())?;
                others.push(thread);
                Log::Thread(jobs)
            }
        };
        let driver = std::thread::Builder::new().name("z4-driver".into()).spawn(move || {
            let mut shell = Shell {
                driver: &mut driver,
                shared: &shared,
                log,
                spares,
                checkpoints,
                snapshots,
                config,
                housekept_ns: 0,
                written_ns: None,
                stalled_since_ns: None,
                low_checkpoint_ns: 0,
                held: None,
                stopping: false,
                checkpointing: false,
                out_of_space: false,
            };
            let result = catch_unwind(AssertUnwindSafe(|| shell.run())).unwrap_or_else(|_| {
                Err(Fault { kind: Kind::Internal, what: "the driver panicked; see its message above".into() })
            });
            for letter in shared.inbox.close() {
                if let Letter::Input(input) = letter {
                    input.refuse(Refused::Stopping);
                }
            }
            ended(&result);
            result
        })?;
        Ok(Self { inbox, metrics, leaders, threads: Mutex::new(Some(Threads { driver, others })) })
    }

    /// Hands an input to the driver, or refuses it if that has ended. The caller bounds how much is under way.
    pub fn send(&self, input: Input<M>) {
        if let Err(Letter::Input(input)) = self.inbox.push(Letter::Input(input)) {
            input.refuse(Refused::Stopping);
        }
    }

    /// Hands a frame of another host to the driver, which drops `hold` when it has taken it: a share of what may wait.
    pub fn receive(&self, from: HostId, body: Bytes, hold: Box<dyn Send>) {
        drop(self.inbox.push(Letter::Frame(from, body, hold)));
    }

    /// Returns who leads which shard, as this host's replicas know it.
    #[must_use]
    pub fn leaders(&self) -> &Arc<Leaders> {
        &self.leaders
    }

    /// Calls `look` with the driver between two passes, on its thread; drops it if the driver has ended.
    pub fn look(&self, look: impl FnOnce(&mut Driver<M>) + Send + 'static) {
        drop(self.inbox.push(Letter::Look(Box::new(look))));
    }

    /// Asks for the state of every group; `reply` is called on the driver's thread.
    pub fn status(&self, reply: impl FnOnce(Vec<GroupStatus>) + Send + 'static) {
        self.look(move |driver| reply(driver.status()));
    }

    /// Returns the counters.
    #[must_use]
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Lets the driver finish what it has, checkpoint, seal the log and end; waits for all threads. Later calls do
    /// nothing.
    ///
    /// # Errors
    /// What ended the driver, if it was not this call.
    pub fn stop(&self) -> Result<(), Fault> {
        drop(self.inbox.push(Letter::Stop));
        // Held while waiting: a second caller waits for the end, too.
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Threads { driver, others }) = threads.take() else { return Ok(()) };
        let result = driver.join().unwrap_or(Ok(()));
        for thread in others {
            // Their panics reached the driver as faults.
            let _ = thread.join();
        }
        result
    }
}

impl<M: StateMachine + 'static> Drop for Runner<M> {
    fn drop(&mut self) {
        if let Err(fault) = self.stop() {
            tracing::error!(%fault, "the host had ended by itself");
        }
    }
}

/// The log, wherever it is written.
enum Log {
    Inline(Box<Wal>),
    Thread(Sender<LogJob>),
}

/// The driver's thread and all it talks to.
struct Shell<'a, M: StateMachine> {
    driver: &'a mut Driver<M>,
    shared: &'a Shared<M>,
    log: Log,
    spares: Sender<()>,
    checkpoints: Sender<CheckpointJob>,
    snapshots: Sender<SnapshotWork>,
    config: RunnerConfig,
    housekept_ns: u64,
    /// When the last batch became durable; None once it is sealed.
    written_ns: Option<u64>,
    stalled_since_ns: Option<u64>,
    /// Next checkpoint for the disk's sake.
    low_checkpoint_ns: u64,
    /// Inline log only: a batch that found the disk full, and when to try again.
    held: Option<(Batch, u64)>,
    stopping: bool,
    checkpointing: bool,
    /// Log or base found no space while stopping: end without them, the log holds what was answered.
    out_of_space: bool,
}

impl<M: StateMachine> Shell<'_, M> {
    fn run(&mut self) -> Result<(), Fault> {
        self.shared.inbox.attach();
        // A single voter leads after its first pass: calls that wait in the inbox find a leader.
        self.passes()?;
        let mut letters = Vec::new();
        loop {
            self.shared.inbox.drain_into(&mut letters);
            for letter in letters.drain(..) {
                self.read(letter)?;
            }
            self.retry_held()?;
            let idle = self.passes()?;
            if let Some(frozen) = self.driver.checkpoint_due() {
                self.checkpointing = true;
                let _ = self.checkpoints.send(CheckpointJob::Run(frozen));
            }
            self.housekeep();
            if self.stopping && !self.checkpointing && (idle || self.out_of_space) {
                return self.seal();
            }
            self.sleep()?;
        }
    }

    fn read(&mut self, letter: Letter<M>) -> Result<(), Fault> {
        match letter {
            Letter::Input(input) => self.driver.input(input),
            Letter::Persisted => self.persisted()?,
            Letter::Frame(from, body, _hold) => self.driver.receive(&from, body)?,
            Letter::Snapshot(done) => self.driver.snapshot_done(*done)?,
            Letter::LogFull => self.log_full(),
            Letter::Look(look) => look(self.driver),
            Letter::Checkpointed(frozen, result) => self.checkpointed(frozen, result)?,
            Letter::Failed(fault) => return Err(fault),
            Letter::Stop => {
                self.stopping = true;
                self.driver.stop();
            }
        }
        Ok(())
    }

    /// Runs passes until nothing more can be done now, or a batch is on its way: letters are looked at between
    /// batches. Returns whether nothing is under way.
    fn passes(&mut self) -> Result<bool, Fault> {
        loop {
            self.driver.advance();
            let batch = self.driver.prepare()?;
            let written = batch.is_some();
            // Before the batch is written: followers may write it while we do.
            self.send();
            self.order();
            if let Some(batch) = batch {
                self.write(batch)?;
            }
            let started = self.shared.clock.monotonic_ns();
            let progress = self.driver.apply()?;
            if progress {
                self.shared.metrics.apply.record_ns(self.shared.clock.monotonic_ns() - started);
            }
            self.send();
            for work in self.driver.snapshot_work() {
                // A thread that has ended sent its fault before.
                let _ = self.snapshots.send(work);
            }
            if written || !progress {
                return Ok(!written && !self.driver.is_writing());
            }
        }
    }

    /// Sends what the driver has to say to other hosts.
    fn send(&mut self) {
        let mut lost: Vec<HostId> = Vec::new();
        for (to, frame) in self.driver.take_frames() {
            if !self.config.net.send(&to, frame) && !lost.contains(&to) {
                lost.push(to);
            }
        }
        for host in lost {
            self.driver.unreachable(&host);
        }
    }

    /// Hands the driver's orders to the log, ahead of the next batch.
    fn order(&mut self) {
        let orders = self.driver.log_orders();
        match &mut self.log {
            Log::Inline(wal) => orders.into_iter().for_each(|order| threads::obey(wal, order)),
            Log::Thread(jobs) if !orders.is_empty() => drop(jobs.send(LogJob::Orders(orders))),
            Log::Thread(_) => {}
        }
    }

    fn write(&mut self, batch: Batch) -> Result<(), Fault> {
        match &mut self.log {
            Log::Thread(jobs) => {
                // A log thread that has ended sent its fault before.
                let _ = jobs.send(LogJob::Write(batch));
                Ok(())
            }
            Log::Inline(wal) => {
                match threads::write_and_sync(wal, &batch, &self.shared.metrics, &*self.shared.clock) {
                    Ok(()) => self.persisted()?,
                    Err(error) if error.kind() == Kind::Overloaded => {
                        tracing::warn!(%error, "the log cannot grow; what waits for it waits on");
                        let retry = self.shared.clock.monotonic_ns() + nanoseconds(FULL_RETRY);
                        self.held = Some((batch, retry));
                        self.log_full();
                    }
                    Err(error) => return Err(threads::log_fault(&error)),
                }
                Ok(())
            }
        }
    }

    fn retry_held(&mut self) -> Result<(), Fault> {
        match self.held.take() {
            Some((batch, at)) if self.shared.clock.monotonic_ns() >= at => self.write(batch),
            held => {
                self.held = held;
                Ok(())
            }
        }
    }

    fn persisted(&mut self) -> Result<(), Fault> {
        self.written_ns = Some(self.shared.clock.monotonic_ns());
        self.driver.persisted()
    }

    fn log_full(&mut self) {
        self.out_of_space |= self.stopping;
        self.driver.want_checkpoint();
    }

    fn checkpointed(
        &mut self,
        frozen: Vec<Frozen>,
        result: Result<Done, z4_store::Error>,
    ) -> Result<(), Fault> {
        self.checkpointing = false;
        match result {
            Ok(done) => {
                let release = self.driver.checkpointed(frozen.clone(), Some(&done))?;
                // The last handles to what was frozen: freeing that many rows takes long, so not on this thread.
                let _ = self.checkpoints.send(CheckpointJob::Free(frozen, done));
                match &mut self.log {
                    Log::Inline(wal) => threads::release_and_recycle(wal, &release, &self.shared.metrics)?,
                    Log::Thread(jobs) => drop(jobs.send(LogJob::Release(release))),
                }
                let _ = self.spares.send(());
            }
            Err(error) if error.kind() == Kind::Overloaded => {
                tracing::warn!(%error, "checkpoint failed, will be tried again");
                self.shared.metrics.checkpoint_failures.fetch_add(1, Relaxed);
                self.driver.checkpointed(frozen, None)?;
                self.out_of_space |= self.stopping;
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    fn housekeep(&mut self) {
        let now = self.shared.clock.monotonic_ns();
        let metrics = &self.shared.metrics;
        match (self.driver.is_stalled(), self.stalled_since_ns) {
            (true, None) => self.stalled_since_ns = Some(now),
            (false, Some(since)) => {
                metrics.stalled_ns.fetch_add(now - since, Relaxed);
                self.stalled_since_ns = None;
            }
            _ => {}
        }
        if now < self.housekept_ns {
            return;
        }
        self.housekept_ns = now + HOUSEKEEPING_NS;
        metrics.delta_bytes.store(self.driver.delta_bytes() as u64, Relaxed);
        metrics.wall_ahead_ms.store(self.driver.wall_ahead_ms().cast_unsigned(), Relaxed);
        if metrics.log_segments.load(Relaxed) > self.config.log_segments_max {
            self.driver.want_checkpoint();
        }
        let low = self.is_disk_low();
        if low && now >= self.low_checkpoint_ns {
            self.low_checkpoint_ns = now + LOW_CHECKPOINT_NS;
            self.driver.want_checkpoint();
        }
        metrics.disk_low.store(low.into(), Relaxed);
        self.driver.admit(if low { Admission::FreeingOnly } else { Admission::All });
        let _ = self.spares.send(());
    }

    fn is_disk_low(&self) -> bool {
        let Ok(free) = (self.config.free_space)() else { return false };
        // Pages of the base that hold no rows are as good as free: the next checkpoint fills them first.
        let metrics = &self.shared.metrics;
        let live = BASE_BYTES_PER_LIVE_BYTE * metrics.base_live_bytes.load(Relaxed);
        let reusable = metrics.base_bytes.load(Relaxed).saturating_sub(live);
        free.log + metrics.log_room_bytes.load(Relaxed) < LOG_RESERVE_BYTES
            || free.base + reusable < BASE_RESERVE_BYTES
    }

    fn seal(&mut self) -> Result<(), Fault> {
        self.written_ns = None;
        match &mut self.log {
            Log::Inline(wal) => threads::seal(wal),
            Log::Thread(jobs) => {
                let _ = jobs.send(LogJob::Seal);
                Ok(())
            }
        }
    }

    fn sleep(&mut self) -> Result<(), Fault> {
        let now = self.shared.clock.monotonic_ns();
        let mut ns = self.driver.idle_ns();
        if let Some(written) = self.written_ns
            && !self.driver.is_writing()
        {
            if now >= written + SEAL_AFTER_NS {
                self.seal()?;
            } else {
                ns = ns.min(written + SEAL_AFTER_NS - now);
            }
        }
        if let Some((_, at)) = &self.held {
            ns = ns.min(at.saturating_sub(now));
        }
        if ns > 0 {
            self.shared.inbox.wait(Duration::from_nanos(ns));
        }
        Ok(())
    }
}

fn nanoseconds(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}
