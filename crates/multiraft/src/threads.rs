//! The threads that wait for the disk, so that the driver need not: log, checkpoints, snapshots, spare segments.
//!
//! Each ends when its queue of jobs is dropped. Whatever goes wrong on one reaches the driver as a letter; a panic
//! does too, so that a host never lives on half dead.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use z4_env::Clock;
use z4_store::{Done, Frozen, Store};
use z4_types::{Index, Kind, ShardId};
use z4_wal::{Batch, SpareMaker, Wal};

use crate::driver::LogOrder;
use crate::inbox::Inbox;
use crate::machine::{Fault, StateMachine};
use crate::metrics::Metrics;
use crate::runner::Letter;
use crate::snapshot::SnapshotWork;

/// How long a batch that found the disk full waits for the next try.
pub(crate) const FULL_RETRY: Duration = Duration::from_millis(100);

/// What the log's thread is asked.
pub(crate) enum LogJob {
    /// Make a batch durable; answered by `Persisted`, or `LogFull` as long as there is no room.
    Write(Batch),
    /// Done before the next batch.
    Orders(Vec<LogOrder>),
    /// Entries up to these indexes are in the base.
    Release(Vec<(ShardId, Index)>),
    /// Nothing came for a while.
    Seal,
}

/// What the checkpoint's thread is asked.
pub(crate) enum CheckpointJob {
    /// Write this; answered by `Checkpointed`.
    Run(Vec<Frozen>),
    /// Free this: dropping that many rows takes long.
    Free(Vec<Frozen>, Done),
}

/// What the threads share.
pub(crate) struct Shared<M: StateMachine> {
    pub(crate) inbox: Arc<Inbox<Letter<M>>>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) clock: Arc<dyn Clock>,
}

impl<M: StateMachine> Clone for Shared<M> {
    fn clone(&self) -> Self {
        Self {
            inbox: Arc::clone(&self.inbox),
            metrics: Arc::clone(&self.metrics),
            clock: Arc::clone(&self.clock),
        }
    }
}

impl<M: StateMachine> Shared<M> {
    /// Tells the driver; a driver that has ended needs no telling.
    fn tell(&self, letter: Letter<M>) {
        drop(self.inbox.push(letter));
    }

    /// Runs `work` on a thread of its own; its failure, or its panic, reaches the driver.
    fn spawn(
        self,
        name: &'static str,
        work: impl FnOnce(&Self) -> Result<(), Fault> + Send + 'static,
    ) -> std::io::Result<JoinHandle<()>>
    where
        M: 'static,
    {
        Builder::new().name(name.into()).spawn(move || {
            let result = catch_unwind(AssertUnwindSafe(|| work(&self)));
            let fault = match result {
                Ok(Ok(())) => return,
                Ok(Err(fault)) => fault,
                Err(_) => Fault {
                    kind: Kind::Internal,
                    what: format!("thread {name} panicked; see its message above"),
                },
            };
            self.tell(Letter::Failed(fault));
        })
    }
}

pub(crate) fn log_fault(error: &z4_wal::Error) -> Fault {
    Fault { kind: error.kind(), what: format!("the log cannot be written: {error}") }
}

/// Writes one batch and makes it durable.
pub(crate) fn write_and_sync(
    wal: &mut Wal,
    batch: &Batch,
    metrics: &Metrics,
    clock: &dyn Clock,
) -> Result<(), z4_wal::Error> {
    wal.append(batch)?;
    let started = clock.monotonic_ns();
    wal.sync()?;
    metrics.fsync.record_ns(clock.monotonic_ns() - started);
    measure_log(wal, metrics);
    Ok(())
}

fn measure_log(wal: &Wal, metrics: &Metrics) {
    let stats = wal.stats();
    metrics.log_segments.store(stats.segments as u64, Relaxed);
    metrics.log_bytes.store(stats.written_bytes, Relaxed);
    metrics.log_room_bytes.store(wal.room(), Relaxed);
}

/// Does what the driver wants before the next batch.
pub(crate) fn obey(wal: &mut Wal, order: LogOrder) {
    match order {
        LogOrder::Release(shard, through) => wal.release(shard, through),
        LogOrder::Forget(shard) => wal.forget(shard),
    }
}

/// Forgets what the base holds and recycles segments that nobody needs.
pub(crate) fn release_and_recycle(
    wal: &mut Wal,
    release: &[(ShardId, Index)],
    metrics: &Metrics,
) -> Result<(), Fault> {
    for (shard, index) in release {
        wal.release(*shard, *index);
    }
    wal.recycle().map_err(|error| log_fault(&error))?;
    measure_log(wal, metrics);
    Ok(())
}

/// Seals the log; a disk too full for it is no fault, the next batch seals the last one.
pub(crate) fn seal(wal: &mut Wal) -> Result<(), Fault> {
    match wal.seal() {
        Err(error) if error.kind() != Kind::Overloaded => Err(log_fault(&error)),
        _ => Ok(()),
    }
}

pub(crate) fn start_log<M: StateMachine + 'static>(
    mut wal: Wal,
    shared: Shared<M>,
) -> std::io::Result<(Sender<LogJob>, JoinHandle<()>)> {
    let (jobs, queue) = channel();
    let thread = shared.spawn("z4-log", move |shared| {
        let mut held = None;
        while let Some(job) = next_job(&queue, &mut held) {
            match job {
                LogJob::Write(batch) => {
                    match write_and_sync(&mut wal, &batch, &shared.metrics, &*shared.clock) {
                        Ok(()) => shared.tell(Letter::Persisted),
                        Err(error) if error.kind() == Kind::Overloaded => {
                            tracing::warn!(%error, "the log cannot grow; what waits for it waits on");
                            held = Some(batch);
                            shared.tell(Letter::LogFull);
                        }
                        Err(error) => return Err(log_fault(&error)),
                    }
                }
                LogJob::Orders(orders) => orders.into_iter().for_each(|order| obey(&mut wal, order)),
                LogJob::Release(release) => release_and_recycle(&mut wal, &release, &shared.metrics)?,
                LogJob::Seal => seal(&mut wal)?,
            }
        }
        Ok(())
    })?;
    Ok((jobs, thread))
}

/// Returns the next job; a batch that found the disk full is tried again when other jobs, which may free space, are
/// done or nothing came for a while. None: the driver has ended.
fn next_job(queue: &Receiver<LogJob>, held: &mut Option<Batch>) -> Option<LogJob> {
    if held.is_none() {
        return queue.recv().ok();
    }
    match queue.recv_timeout(FULL_RETRY) {
        Ok(job) => Some(job),
        Err(RecvTimeoutError::Timeout) => held.take().map(LogJob::Write),
        Err(RecvTimeoutError::Disconnected) => None,
    }
}

pub(crate) fn start_checkpoints<M: StateMachine + 'static>(
    store: Store,
    shared: Shared<M>,
) -> std::io::Result<(Sender<CheckpointJob>, JoinHandle<()>)> {
    let (jobs, queue) = channel();
    measure_base(&store, &shared.metrics);
    let thread = shared.spawn("z4-checkpoint", move |shared| {
        for job in queue {
            match job {
                CheckpointJob::Free(frozen, done) => drop((frozen, done)),
                CheckpointJob::Run(frozen) => {
                    let started = shared.clock.monotonic_ns();
                    let result = store.checkpoint(&frozen);
                    shared.metrics.checkpoint.record_ns(shared.clock.monotonic_ns() - started);
                    measure_base(&store, &shared.metrics);
                    shared.tell(Letter::Checkpointed(frozen, result));
                }
            }
        }
        Ok(())
    })?;
    Ok((jobs, thread))
}

pub(crate) fn start_snapshots<M: StateMachine + 'static>(
    store: Store,
    shared: Shared<M>,
) -> std::io::Result<(Sender<SnapshotWork>, JoinHandle<()>)> {
    let (jobs, queue) = channel::<SnapshotWork>();
    let thread = shared.spawn("z4-snapshot", move |shared| {
        for work in queue {
            shared.tell(Letter::Snapshot(Box::new(work.run(&store))));
        }
        Ok(())
    })?;
    Ok((jobs, thread))
}

/// Asks the base for its size; that waits for a checkpoint that runs, so only its own thread does.
fn measure_base(store: &Store, metrics: &Metrics) {
    if let Ok(size) = store.base_bytes() {
        metrics.base_bytes.store(size.file, Relaxed);
        metrics.base_live_bytes.store(size.live, Relaxed);
    }
}

pub(crate) fn start_spares<M: StateMachine + 'static>(
    maker: SpareMaker,
    shared: Shared<M>,
) -> std::io::Result<(Sender<()>, JoinHandle<()>)> {
    let (jobs, queue) = channel();
    let thread = shared.spawn("z4-spares", move |_| {
        for () in queue {
            // A full disk: the log does without, and says so itself when it cannot.
            if let Err(error) = maker.make() {
                tracing::debug!(%error, "a spare log segment cannot be written");
            }
        }
        Ok(())
    })?;
    Ok((jobs, thread))
}
