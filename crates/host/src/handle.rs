//! What doors hold: every call on a host, routed to its shard, bounded in memory.
//!
//! Futures here are plain oneshots: dropping one does not undo the call. Deadlines are the doors' business.
//!
//! # Not here
//! - Reads: `handle/reads.rs` through a leader, `handle/stale.rs` without one. Changes of tasks that are there:
//!   `handle/tasks.rs`; whole queues: `handle/queues.rs`. The cluster: `handle/cluster.rs`.
//! # Caveats
//! - Lists read a frozen view on a blocking thread: consistent within a shard, not across shards.

mod cluster;
mod events;
mod keys;
mod queues;
mod reads;
mod schedules;
mod stale;
mod tasks;

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::{Semaphore, oneshot};
use z4_env::Clock;
use z4_multiraft::{GroupStatus, Input, Metrics, Runner};
use z4_registry::Registry;
use z4_tasks::command::{Due, NewTask, Settlement, Verdict};
use z4_tasks::outcome::{Made, Refusal, Settled};
use z4_tasks::{DueCounts, QueueStats, encode_create};
use z4_types::limits::CONSUMERS_MAX;
use z4_types::{Duration, Millis, QueueName, RequestId, ShardId, TaskId};

use crate::budget::{Budget, Permit};
use crate::cluster::Cluster;
use crate::error::Error;
use crate::identity::Identity;
use crate::machine::{HostMachine, HostWrite};
use crate::rows::RowsRef;
use crate::shard::{ConsumerId, Deliver, Reply, TaskMetrics, Write, reply};

pub use cluster::Route;
pub use events::Watcher;
pub use reads::{ListRequest, Test};
pub use schedules::{ScheduleChange, SchedulePause, next_slots, preview_slots};
pub use stale::Freshness;

use reads::VIEWS_MAX;

/// What a caller should wait when the host holds as many requests as it may.
const RETRY_AFTER: Duration = Duration(100);
/// Accounted for a request besides its payload.
const REQUEST_OVERHEAD: usize = 512;
/// Accounted per task or settlement besides its payload.
const ITEM_OVERHEAD: usize = 96;
/// Queues a snapshot shows by name.
const SNAPSHOT_QUEUES_MAX: usize = 1_000;
/// Queues of which a snapshot says what is due when: each is a few hundred rows to read on the driver's thread.
const SNAPSHOT_DUE_MAX: usize = 20;

/// Where a task is.
enum Place<'a> {
    /// On the shard of its id.
    Task(TaskId),
    /// On that of its queue.
    Queue(&'a QueueName),
}

/// Cheap to clone. See the module essay.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
}

struct Shared {
    runner: Arc<Runner<HostMachine>>,
    registry: Arc<RwLock<Arc<Registry>>>,
    identity: Identity,
    metrics: Arc<TaskMetrics>,
    budget: Arc<Budget>,
    clock: Arc<dyn Clock>,
    next_consumer: AtomicU64,
    /// Open ones.
    consumers: AtomicUsize,
    next_watcher: AtomicU64,
    /// Open ones.
    watchers: AtomicUsize,
    views: Arc<Semaphore>,
    stopping: AtomicBool,
    /// None for a host without a peer port.
    cluster: Option<Arc<Cluster>>,
}

/// A host's state for `info`, `diagnostic` and metrics.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Every group on this host.
    pub groups: Vec<GroupStatus>,
    /// The queues of this host with the largest backlogs, with their counters; at most a thousand, largest first.
    pub queues: Vec<(QueueName, QueueStats)>,
    /// What is due when in the first twenty of these.
    pub due: Vec<(QueueName, DueCounts)>,
    /// How many queues this host has.
    pub queues_total: usize,
    /// The sum of the counters of all of them.
    pub totals: QueueStats,
    /// Bytes of the base's file after the last checkpoint.
    pub base_bytes: u64,
}

/// A consumer's end on this host. Dropping it closes the consumer.
pub struct Consumer {
    handle: Handle,
    id: ConsumerId,
    shard: ShardId,
}

impl Handle {
    pub(crate) fn new(
        runner: Arc<Runner<HostMachine>>,
        registry: Arc<RwLock<Arc<Registry>>>,
        identity: Identity,
        metrics: Arc<TaskMetrics>,
        budget: Arc<Budget>,
        clock: Arc<dyn Clock>,
        cluster: Option<Arc<Cluster>>,
    ) -> Self {
        let shared = Shared {
            runner,
            registry,
            identity,
            metrics,
            budget,
            clock,
            next_consumer: AtomicU64::new(1),
            consumers: AtomicUsize::new(0),
            next_watcher: AtomicU64::new(1),
            watchers: AtomicUsize::new(0),
            views: Arc::new(Semaphore::new(VIEWS_MAX)),
            stopping: AtomicBool::new(false),
            cluster,
        };
        Self { shared: Arc::new(shared) }
    }

    /// Creates tasks in one queue. One answer per task. The tasks are encoded before this returns: the future does not
    /// hold on to them.
    ///
    /// # Errors
    /// `Overloaded`, `DiskFull`, `NotLeader`, `Stopping`: nothing was proposed. `Unknown`: retry with the same
    /// `request`.
    pub fn create(
        &self,
        queue: QueueName,
        request: Option<RequestId>,
        tasks: &[NewTask],
    ) -> impl Future<Output = Result<Vec<Result<Made, Refusal>>, Error>> + Send + use<> {
        let bytes = tasks.iter().map(|task| task.weight() + ITEM_OVERHEAD).sum::<usize>();
        let prepared = self.permit(bytes).map(|permit| {
            let now = self.shared.clock.wall();
            let due_now = tasks.iter().filter(|task| task.after.is_empty() && is_due(task.due, now)).count();
            (permit, u32::try_from(due_now).unwrap_or(u32::MAX), encode_create(&queue, request, tasks))
        });
        let handle = self.clone();
        async move {
            let (permit, due_now, encoded) = prepared?;
            let shard = handle.shard_of(&queue);
            handle.ask(shard, |reply| Write::Create { queue, encoded, due_now, reply, permit }).await
        }
    }

    /// Settles leases, each on its own, of any shards. Answers are in the order given.
    ///
    /// # Errors
    /// As [`Handle::create`], for the whole call. Some shards may have settled theirs: a repeat is safe, it answers
    /// `LeaseLost` or `NotFound` for what was settled before.
    pub async fn settle(&self, settlements: Vec<Settlement>) -> Result<Vec<Result<Settled, Refusal>>, Error> {
        self.by_shard(
            settlements,
            |settlement| Place::Task(settlement.id),
            |settlement| match &settlement.verdict {
                Verdict::Nack { reason, .. } | Verdict::NackDead { reason } => reason.len(),
                Verdict::AckWith { result } => result.len(),
                Verdict::ExtendWith { progress, .. } => progress.len(),
                _ => 0,
            },
            |settlements, reply, permit| Write::Settle { settlements, reply, permit },
        )
        .await
    }

    /// Ends tasks by id, whatever their state. Answers are in the order given.
    ///
    /// # Errors
    /// As [`Handle::settle`].
    pub async fn cancel(&self, ids: Vec<TaskId>) -> Result<Vec<Result<(), Refusal>>, Error> {
        self.by_shard(
            ids,
            |id| Place::Task(*id),
            |_| 0,
            |ids, reply, permit| Write::Cancel { ids, reply, permit },
        )
        .await
    }

    /// Opens a consumer without credit. `sink` takes its tasks on the driver's thread and must not block.
    ///
    /// # Errors
    /// `Stopping`.
    pub fn consume(
        &self,
        queue: QueueName,
        name: String,
        lease: Duration,
        sink: Box<dyn Deliver>,
    ) -> Result<Consumer, Error> {
        self.refuse_if_idle()?;
        let shared = &self.shared;
        if shared.consumers.fetch_add(1, Relaxed) >= CONSUMERS_MAX {
            shared.consumers.fetch_sub(1, Relaxed);
            return Err(Error::Overloaded(RETRY_AFTER));
        }
        let consumer = ConsumerId(self.shared.next_consumer.fetch_add(1, Relaxed));
        let shard = self.shard_of(&queue);
        self.send(shard, Write::Open { consumer, queue, name, lease, sink });
        Ok(Consumer { handle: self.clone(), id: consumer, shard })
    }

    /// Returns the state of every group and queue of this host.
    ///
    /// # Errors
    /// `Stopping` if the host has ended.
    pub async fn snapshot(&self) -> Result<Snapshot, Error> {
        let (reply, answer) = oneshot::channel();
        let base_bytes = self.runner_metrics().base_bytes.load(Relaxed);
        let now = self.shared.clock.wall();
        self.shared.runner.look(move |driver| {
            let (mut queues, mut queues_total, mut totals) = (Vec::new(), 0, QueueStats::default());
            driver.for_each(|_, machine, _| {
                if let HostMachine::Tasks(shard) = machine {
                    let machine = shard.machine();
                    queues.extend(machine.largest(SNAPSHOT_QUEUES_MAX));
                    queues_total += machine.queues().len();
                    totals = totals.plus(&machine.totals());
                }
            });
            queues.sort_by_key(|(_, stats)| std::cmp::Reverse(stats.backlog()));
            queues.truncate(SNAPSHOT_QUEUES_MAX);
            let mut due = Vec::new();
            driver.for_each(|_, machine, store| {
                if let HostMachine::Tasks(shard) = machine {
                    let (machine, rows) = (shard.machine(), RowsRef(store));
                    // A queue of another shard is None; what cannot be read now is left out.
                    let here = queues.iter().take(SNAPSHOT_DUE_MAX).filter_map(|(queue, _)| {
                        let counts = machine.due(&rows, queue, now).ok()??;
                        Some((queue.clone(), counts))
                    });
                    due.extend(here);
                }
            });
            let groups = driver.status();
            let _ = reply.send(Snapshot { groups, queues, due, queues_total, totals, base_bytes });
        });
        answer.await.map_err(|_| Error::Stopping)
    }

    /// Returns the state of every group of this host.
    ///
    /// # Errors
    /// `Stopping` if the host has ended.
    pub async fn groups(&self) -> Result<Vec<GroupStatus>, Error> {
        let (reply, answer) = oneshot::channel();
        self.shared.runner.status(move |groups| drop(reply.send(groups)));
        answer.await.map_err(|_| Error::Stopping)
    }

    /// Returns the registry as this host knows it.
    #[must_use]
    pub fn registry(&self) -> Arc<Registry> {
        Arc::clone(&self.shared.registry.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns who this host is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        self.shared.cluster.as_ref().map_or(&self.shared.identity, |cluster| cluster.identity())
    }

    /// Returns whether this host belongs to a cluster and knows its registry. Before, every call is refused with
    /// `NotJoined`; after it was removed, with `Removed`.
    #[must_use]
    pub fn is_joined(&self) -> bool {
        self.registry().is_known() && !self.is_removed()
    }

    /// Returns whether this host was told that it is removed from its cluster.
    #[must_use]
    pub fn is_removed(&self) -> bool {
        self.shared.cluster.as_ref().is_some_and(|cluster| cluster.is_removed())
    }

    /// Returns the time of this host's wall clock.
    #[must_use]
    pub fn wall(&self) -> Millis {
        self.shared.clock.wall()
    }

    /// Returns the counters of this host's task shards.
    #[must_use]
    pub fn task_metrics(&self) -> &TaskMetrics {
        &self.shared.metrics
    }

    /// Returns the counters of this host's threads.
    #[must_use]
    pub fn runner_metrics(&self) -> &Metrics {
        self.shared.runner.metrics()
    }

    /// Returns the bytes of requests this host holds between accept and answer.
    #[must_use]
    pub fn request_bytes(&self) -> usize {
        self.shared.budget.used()
    }

    /// Returns whether the host is stopping and takes no more calls.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.shared.stopping.load(Relaxed)
    }

    /// Refuses all calls from now on; those under way are answered.
    pub fn refuse_new_calls(&self) {
        self.shared.stopping.store(true, Relaxed);
    }

    /// Returns the shard that holds `queue`.
    #[must_use]
    pub fn shard_of(&self, queue: &QueueName) -> ShardId {
        self.registry().shard_of(queue)
    }

    /// Returns the shard that holds task `id`, by the id alone.
    ///
    /// # Errors
    /// `NoSuchShard` if the id is of another cluster; `NotJoined`.
    pub fn task_shard(&self, id: TaskId) -> Result<ShardId, Error> {
        let (shard, registry) = (id.shard(), self.registry());
        match registry.has_task_shard(shard) {
            true => Ok(shard),
            false if registry.is_known() => Err(Error::NoSuchShard(shard)),
            false => Err(Error::NotJoined),
        }
    }

    fn permit(&self, bytes: usize) -> Result<Permit, Error> {
        self.refuse_if_idle()?;
        self.shared.budget.take(bytes + REQUEST_OVERHEAD).ok_or(Error::Overloaded(RETRY_AFTER))
    }

    /// Refuses what a host cannot do that is stopping, or waits for its cluster.
    fn refuse_if_idle(&self) -> Result<(), Error> {
        if self.is_stopping() {
            Err(Error::Stopping)
        } else if self.is_removed() {
            Err(Error::Removed)
        } else if self.is_joined() {
            Ok(())
        } else {
            Err(Error::NotJoined)
        }
    }

    fn send(&self, shard: ShardId, write: Write) {
        self.shared.runner.send(Input::Write(shard, HostWrite::Task(write)));
    }

    async fn ask<T: Send + 'static>(
        &self,
        shard: ShardId,
        write: impl FnOnce(Reply<T>) -> Write,
    ) -> Result<T, Error> {
        let (reply, answer) = reply();
        self.send(shard, write(reply));
        // A host that ends drops what it holds: it may have been proposed.
        answer.await.unwrap_or(Err(Error::Unknown))
    }

    /// Returns the shard of a task; a refusal if it is of none.
    fn find_shard(&self, registry: &Registry, place: Place<'_>) -> Result<ShardId, Refusal> {
        match place {
            Place::Task(id) if registry.has_task_shard(id.shard()) => Ok(id.shard()),
            Place::Task(id) => Err(Refusal::NotFound(id)),
            Place::Queue(queue) => Ok(self.shard_of(queue)),
        }
    }

    /// Splits items by the shard of their task, asks each shard, and puts the answers back in order.
    async fn by_shard<I, T>(
        &self,
        items: Vec<I>,
        place_of: impl Fn(&I) -> Place<'_>,
        weight: impl Fn(&I) -> usize,
        write: impl Fn(Vec<I>, Reply<Vec<Result<T, Refusal>>>, Permit) -> Write,
    ) -> Result<Vec<Result<T, Refusal>>, Error>
    where
        T: Send + 'static,
    {
        self.refuse_if_idle()?;
        let registry = self.registry();
        let count = items.len();
        let mut shards: Vec<(ShardId, Vec<usize>, Vec<I>)> = Vec::new();
        let mut answers: Vec<Option<Result<T, Refusal>>> = (0..count).map(|_| None).collect();
        for (at, item) in items.into_iter().enumerate() {
            let shard = match self.find_shard(&registry, place_of(&item)) {
                Ok(shard) => shard,
                Err(refusal) => {
                    answers[at] = Some(Err(refusal));
                    continue;
                }
            };
            match shards.iter_mut().find(|(known, ..)| *known == shard) {
                Some((_, positions, items)) => {
                    positions.push(at);
                    items.push(item);
                }
                None => shards.push((shard, vec![at], vec![item])),
            }
        }
        // All permits before the first call: "overloaded" must mean that nothing was proposed.
        let mut permits = Vec::with_capacity(shards.len());
        for (.., items) in &shards {
            let bytes =
                items.iter().map(|item| weight(item) + ITEM_OVERHEAD).sum::<usize>() + REQUEST_OVERHEAD;
            permits.push(self.shared.budget.take_freeing(bytes).ok_or(Error::Overloaded(RETRY_AFTER))?);
        }
        let mut waiting = Vec::with_capacity(shards.len());
        for ((shard, positions, items), permit) in shards.into_iter().zip(permits) {
            let (reply, answer) = reply();
            self.send(shard, write(items, reply, permit));
            waiting.push((positions, answer));
        }
        for (positions, answer) in waiting {
            let results = answer.await.unwrap_or(Err(Error::Unknown))?;
            for (at, result) in positions.into_iter().zip(results) {
                answers[at] = Some(result);
            }
        }
        Ok(answers.into_iter().map(|a| a.expect("every item went to one shard")).collect())
    }
}

impl Consumer {
    /// Gives room for more tasks. Both counts only ever grow; a task is delivered while both have room.
    pub fn credit(&self, tasks: u32, bytes: u64) {
        self.handle.send(self.shard, Write::Credit { consumer: self.id, tasks, bytes });
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.handle.shared.consumers.fetch_sub(1, Relaxed);
        self.handle.send(self.shard, Write::Close { consumer: self.id });
    }
}

fn is_due(due: Due, now: Millis) -> bool {
    match due {
        Due::Now => true,
        Due::At(at) => at <= now,
        Due::After(delay) => delay.0 == 0,
    }
}
