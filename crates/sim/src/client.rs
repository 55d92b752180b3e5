//! The clients of one host, as plain state machines: they send, they remember what they wait for, they judge answers.
//!
//! Calls carry closures that put the answer into a shared letter box in the order the driver gives them; the world
//! empties it after each step. When the host dies, whatever is still waited for has an unknown outcome: creates with
//! a request id are sent again later, consumers connect anew, and old lease tokens are kept to be used too late.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use z4_env::{Clock, Rng, SeededRng};
use z4_host::{ConsumerId, Deliver, Delivery, Error, Read, Reply, Write};
use z4_store::View;
use z4_tasks::command::{Due, NewTask, Retry, Settlement, Verdict};
use z4_tasks::outcome::{Made, Refusal, Settled};
use z4_tasks::{QueueStats, TaskInfo, encode_create};
use z4_types::{Duration, Millis, Priority, QueueName, RequestId, ShardId, TaskId, Token};

use crate::clock::SimClock;
use crate::model::{Model, TAG_BYTES, Tag};
use crate::report::Reached;
use crate::shell::Shell;
use crate::swarm::Work;

/// Accounted for a request and per item, as the handle of a real host does.
pub(crate) const REQUEST_OVERHEAD: usize = 512;
/// See [`REQUEST_OVERHEAD`].
pub(crate) const ITEM_OVERHEAD: usize = 96;
/// Credit in bytes that never binds.
pub(crate) const CREDIT_BYTES: u64 = 1 << 30;
/// Leases remembered after they were settled or lost.
const OLD_LEASES_MAX: usize = 64;

/// Names a call.
pub type Call = u64;

type All<T> = Result<Vec<Result<T, Refusal>>, Error>;

/// Returns the tasks a create was answered with.
pub(crate) fn ids(answer: All<Made>) -> All<TaskId> {
    answer.map(|made| made.into_iter().map(|made| made.map(|made| made.id)).collect())
}

/// An answer or a delivery, in the order the host gave them.
pub enum Letter {
    /// To a create.
    Created(Call, All<TaskId>),
    /// To a settle.
    Settled(Call, All<Settled>),
    /// To a cancel.
    Cancelled(Call, All<()>),
    /// To a get.
    Got(Call, Result<(Millis, Option<Box<TaskInfo>>), Error>),
    /// To a list: what to list from.
    Viewed(Call, Result<(Millis, View), Error>),
    /// To a question for the counters of a shard.
    Counted(Call, Result<Vec<(QueueName, QueueStats)>, Error>),
    /// Tasks for a consumer of this queue, with this lease time.
    Delivered(usize, Duration, Vec<Delivery>),
    /// A consumer gets no more.
    Closed(ConsumerId),
}

/// The shared letter box.
#[derive(Clone, Default)]
pub struct Letters(Arc<Mutex<Vec<Letter>>>);

impl Letter {
    /// Returns the answer to a get.
    #[must_use]
    pub fn got(call: Call, answer: Result<(Millis, Option<TaskInfo>), Error>) -> Self {
        Self::Got(call, answer.map(|(now, info)| (now, info.map(Box::new))))
    }
}

impl Letters {
    fn put(&self, letter: Letter) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(letter);
    }

    /// Takes everything that arrived.
    #[must_use]
    pub fn take(&self) -> Vec<Letter> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn reply<T: Send + 'static>(
        &self,
        letter: impl FnOnce(Result<T, Error>) -> Letter + Send + 'static,
    ) -> Reply<T> {
        let letters = self.clone();
        Box::new(move |answer| letters.put(letter(answer)))
    }
}

/// A create, as often as it is sent.
#[derive(Debug, Clone)]
pub struct Create {
    /// The queue.
    pub queue: usize,
    /// Of the batch.
    pub request: Option<RequestId>,
    /// What to create.
    pub tasks: Arc<[NewTask]>,
    /// The life of the host in which it was first sent.
    pub life: u64,
    /// Whether it may be sent again.
    pub named: bool,
}

/// What a call waits for.
#[derive(Debug, Clone)]
pub enum Waiting {
    /// The ids.
    Create(Create),
    /// The verdicts' fate.
    Settle(Vec<Settlement>),
    /// The cancels' fate.
    Cancel(Vec<TaskId>),
    /// The task.
    Get(TaskId),
    /// A view of the queue's shard.
    List(usize),
    /// Counters.
    Count,
}

/// A lease a client holds, or held.
#[derive(Debug, Clone, Copy)]
pub struct Held {
    /// The task.
    pub id: TaskId,
    /// The lease.
    pub token: Token,
}

/// A connected consumer.
pub struct Consumer {
    shard: ShardId,
    alive: Arc<AtomicBool>,
}

struct Sink {
    id: ConsumerId,
    queue: usize,
    lease: Duration,
    letters: Letters,
    alive: Arc<AtomicBool>,
}

impl Deliver for Sink {
    fn deliver(&mut self, tasks: Vec<Delivery>) -> bool {
        let alive = self.alive.load(Ordering::Relaxed);
        if alive {
            self.letters.put(Letter::Delivered(self.queue, self.lease, tasks));
        }
        alive
    }

    fn closed(&mut self, _why: Error) {
        self.letters.put(Letter::Closed(self.id));
    }
}

/// See the module essay.
pub struct Clients {
    /// What the host answered and nobody has looked at.
    pub letters: Letters,
    /// Calls without an answer.
    pub waiting: BTreeMap<Call, Waiting>,
    /// Creates worth sending again.
    pub unfinished: Vec<Create>,
    /// Creates that were answered and may be sent again all the same.
    pub finished: Vec<Create>,
    /// Connected consumers.
    pub consumers: BTreeMap<ConsumerId, Consumer>,
    /// Leases to settle.
    pub held: Vec<Held>,
    /// Leases that are over, or should be.
    pub old: Vec<Held>,
    /// The queues' names.
    pub queues: Vec<QueueName>,
    /// Calls made.
    pub calls: u64,
    rng: SeededRng,
    work: Work,
    clock: SimClock,
    next_tag: Tag,
    next_consumer: u64,
}

impl Clients {
    /// Returns clients that have done nothing yet.
    #[must_use]
    pub fn new(work: &Work, rng: SeededRng, clock: &SimClock) -> Self {
        let queues = (0..work.queues)
            .map(|n| QueueName::new(&format!("team-{n}/mail")).expect("a valid name"))
            .collect();
        Self {
            letters: Letters::default(),
            waiting: BTreeMap::new(),
            unfinished: Vec::new(),
            finished: Vec::new(),
            consumers: BTreeMap::new(),
            held: Vec::new(),
            old: Vec::new(),
            queues,
            calls: 0,
            rng,
            work: work.clone(),
            clock: clock.clone(),
            next_tag: 1,
            next_consumer: 1,
        }
    }

    fn call(&mut self, waiting: Waiting) -> Call {
        self.calls += 1;
        self.waiting.insert(self.calls, waiting);
        self.calls
    }

    fn percent(&mut self, chance: u64) -> bool {
        chance > 0 && self.rng.chance(chance, 100)
    }

    fn some_queue(&mut self) -> usize {
        self.rng.below(self.queues.len() as u64) as usize
    }

    fn some_lease(&mut self) -> Duration {
        draw_lease(&mut self.rng, &self.work)
    }

    /// Draws a create and sends it.
    pub fn create(&mut self, shell: &mut Shell, model: &mut Model, life: u64, reached: &mut Reached) {
        let queue = self.some_queue();
        let count = 1 + self.rng.below(self.work.batch_max);
        let each = self.percent(self.work.task_requests);
        let request =
            (!each && self.percent(self.work.batch_requests)).then(|| RequestId(self.next_tag.into()));
        let tasks: Arc<[NewTask]> = (0..count).map(|_| self.new_task(each)).collect();
        let create = Create { queue, request, tasks, life, named: each || request.is_some() };
        self.send_create(shell, model, create, reached);
    }

    fn new_task(&mut self, named: bool) -> NewTask {
        let tag = self.next_tag;
        self.next_tag += 1;
        draw_task(&mut self.rng, &self.work, self.clock.wall(), tag, named)
    }

    fn send_create(&mut self, shell: &mut Shell, model: &mut Model, create: Create, reached: &mut Reached) {
        let bytes =
            create.tasks.iter().map(|t| t.payload.len() + ITEM_OVERHEAD).sum::<usize>() + REQUEST_OVERHEAD;
        let Some(permit) = shell.budget.take(bytes) else {
            reached.reach("budget refused a create");
            if create.named && self.unfinished.len() < 32 {
                self.unfinished.push(create);
            }
            return;
        };
        model.creating(create.queue, &create.tasks, create.named);
        let queue = self.queues[create.queue].clone();
        let now = self.clock.wall();
        let due_now = create.tasks.iter().filter(|task| is_due(task.due, now)).count() as u32;
        let encoded = encode_create(&queue, create.request, &create.tasks);
        let shard = shell.registry.shard_of(&queue);
        let call = self.call(Waiting::Create(create));
        let reply = self.letters.reply(move |answer| Letter::Created(call, ids(answer)));
        shell.write(shard, Write::Create { queue, encoded, due_now, reply, permit });
    }

    /// Sends an earlier create again: one of unknown outcome if there is one, or one that was answered.
    pub fn retry(&mut self, shell: &mut Shell, model: &mut Model, reached: &mut Reached) {
        if !self.unfinished.is_empty() {
            let create = self.unfinished.swap_remove(self.rng.below(self.unfinished.len() as u64) as usize);
            reached.reach("unknown create retried");
            self.send_create(shell, model, create, reached);
        } else if !self.finished.is_empty() {
            let create = self.finished[self.rng.below(self.finished.len() as u64) as usize].clone();
            self.send_create(shell, model, create, reached);
        }
    }

    /// Connects a consumer, to `queue` if given.
    pub fn open(&mut self, shell: &mut Shell, queue: Option<usize>) -> ConsumerId {
        let queue = queue.unwrap_or_else(|| self.some_queue());
        let (id, lease, alive) =
            (ConsumerId(self.next_consumer), self.some_lease(), Arc::new(AtomicBool::new(true)));
        self.next_consumer += 1;
        let sink =
            Box::new(Sink { id, queue, lease, letters: self.letters.clone(), alive: Arc::clone(&alive) });
        let name = self.queues[queue].clone();
        let shard = shell.registry.shard_of(&name);
        self.consumers.insert(id, Consumer { shard, alive });
        shell
            .write(shard, Write::Open { consumer: id, queue: name, name: format!("c{}", id.0), lease, sink });
        id
    }

    fn some_consumer(&mut self) -> Option<ConsumerId> {
        let count = self.consumers.len() as u64;
        (count > 0)
            .then(|| *self.consumers.keys().nth(self.rng.below(count) as usize).expect("below the count"))
    }

    /// Disconnects a consumer: politely, or by just not being there any more.
    pub fn close(&mut self, shell: &mut Shell) {
        let Some(id) = self.some_consumer() else { return };
        if self.rng.chance(1, 2) {
            self.consumers[&id].alive.store(false, Ordering::Relaxed);
        } else {
            let consumer = self.consumers.remove(&id).expect("looked at above");
            shell.write(consumer.shard, Write::Close { consumer: id });
        }
    }

    /// Gives a consumer room for `tasks` more, or for a few.
    pub fn credit(&mut self, shell: &mut Shell, id: Option<ConsumerId>, tasks: Option<u32>) {
        let Some(id) = id.or_else(|| self.some_consumer()) else { return };
        let tasks = tasks.unwrap_or(1 + self.rng.below(20) as u32);
        shell.write(self.consumers[&id].shard, Write::Credit { consumer: id, tasks, bytes: CREDIT_BYTES });
    }

    /// Settles some leases, now and then an old one.
    pub fn settle(&mut self, shell: &mut Shell) {
        let mut leases = Vec::new();
        for _ in 0..=self.rng.below(8) {
            if !self.held.is_empty() {
                leases.push(self.held.swap_remove(self.rng.below(self.held.len() as u64) as usize));
            }
        }
        if !self.old.is_empty() && self.percent(self.work.stale) {
            leases.push(self.old[self.rng.below(self.old.len() as u64) as usize]);
        }
        let mut settlements = Vec::new();
        for held in leases {
            let verdict = draw_verdict(&mut self.rng, &self.work);
            if let Some(verdict) = verdict {
                settlements.push(Settlement { id: held.id, token: held.token, verdict });
            }
            self.remember(held);
        }
        self.send_settle(shell, settlements);
    }

    fn remember(&mut self, held: Held) {
        if self.old.len() < OLD_LEASES_MAX {
            self.old.push(held);
        } else {
            let at = self.rng.below(OLD_LEASES_MAX as u64) as usize;
            self.old[at] = held;
        }
    }

    /// Acks everything that is held.
    pub fn ack_all(&mut self, shell: &mut Shell) {
        let held = std::mem::take(&mut self.held);
        let ack = |held: &Held| Settlement { id: held.id, token: held.token, verdict: Verdict::Ack };
        self.send_settle(shell, held.iter().map(ack).collect());
    }

    fn send_settle(&mut self, shell: &mut Shell, settlements: Vec<Settlement>) {
        let mut by_shard: BTreeMap<ShardId, Vec<Settlement>> = BTreeMap::new();
        for settlement in settlements {
            by_shard.entry(settlement.id.shard()).or_default().push(settlement);
        }
        for (shard, settlements) in by_shard {
            let bytes = REQUEST_OVERHEAD + settlements.len() * ITEM_OVERHEAD;
            let Some(permit) = shell.budget.take_freeing(bytes) else {
                self.held.extend(settlements.iter().map(|s| Held { id: s.id, token: s.token }));
                continue;
            };
            let call = self.call(Waiting::Settle(settlements.clone()));
            let reply = self.letters.reply(move |answer| Letter::Settled(call, answer));
            shell.write(shard, Write::Settle { settlements, reply, permit });
        }
    }

    fn some_task(&mut self, model: &Model) -> Option<TaskId> {
        let count = model.created();
        (count > 0).then(|| model.ids().nth(self.rng.below(count) as usize).expect("below the count"))
    }

    /// Cancels a task.
    pub fn cancel(&mut self, shell: &mut Shell, model: &Model) {
        let Some(id) = self.some_task(model) else { return };
        let Some(permit) = shell.budget.take_freeing(REQUEST_OVERHEAD + ITEM_OVERHEAD) else { return };
        let call = self.call(Waiting::Cancel(vec![id]));
        let reply = self.letters.reply(move |answer| Letter::Cancelled(call, answer));
        shell.write(id.shard(), Write::Cancel { ids: vec![id], reply, permit });
    }

    /// Gets a task: `id` if given.
    pub fn get(&mut self, shell: &mut Shell, model: &Model, id: Option<TaskId>) {
        let Some(id) = id.or_else(|| self.some_task(model)) else { return };
        let call = self.call(Waiting::Get(id));
        let reply = self.letters.reply(move |answer| Letter::got(call, answer));
        shell.read(id.shard(), Read::Get { id, reply });
    }

    /// Lists a queue: `queue` if given.
    pub fn list(&mut self, shell: &mut Shell, queue: Option<usize>) {
        let queue = queue.unwrap_or_else(|| self.some_queue());
        let shard = shell.registry.shard_of(&self.queues[queue]);
        let call = self.call(Waiting::List(queue));
        let reply = self.letters.reply(move |answer| Letter::Viewed(call, answer));
        shell.read(shard, Read::View { reply });
    }

    /// Asks every task shard for its counters.
    pub fn count(&mut self, shell: &mut Shell) {
        let shards: Vec<ShardId> = shell.registry.shards.iter().map(|s| s.id).filter(|id| id.0 > 0).collect();
        for shard in shards {
            let call = self.call(Waiting::Count);
            let reply = self.letters.reply(move |answer| Letter::Counted(call, answer));
            shell.read(shard, Read::Stats { reply });
        }
    }

    /// The host died: nobody will answer any more.
    pub fn host_died(&mut self, model: &mut Model) {
        for waiting in std::mem::take(&mut self.waiting).into_values() {
            match waiting {
                Waiting::Create(create) => {
                    model.create_unknown(&create.tasks);
                    if create.named {
                        self.unfinished.push(create);
                    }
                }
                Waiting::Settle(settlements) => settlements.iter().for_each(|s| model.settle_unknown(s)),
                Waiting::Cancel(ids) => ids.iter().for_each(|id| model.cancel_unknown(*id)),
                Waiting::Get(_) | Waiting::List(_) | Waiting::Count => {}
            }
        }
        self.consumers.clear();
    }
}

/// Draws a task that carries `tag`, at `now`; `named` gives it a request id of its own.
pub(crate) fn draw_task(rng: &mut SeededRng, work: &Work, now: Millis, tag: Tag, named: bool) -> NewTask {
    let percent = |rng: &mut SeededRng, chance: u64| chance > 0 && rng.chance(chance, 100);
    let filler = rng.below(work.payload_max + 1) as usize;
    let mut payload = Vec::with_capacity(TAG_BYTES + filler);
    payload.extend_from_slice(&tag.to_le_bytes());
    payload.resize(TAG_BYTES + filler, tag as u8);
    let delay = 1 + rng.below(work.delay_max_ms);
    let due = match rng.below(3) {
        _ if !percent(rng, work.delayed) => Due::Now,
        0 => Due::After(Duration(delay)),
        1 => Due::At(Millis(now.0 + delay)),
        _ => Due::At(Millis(now.0.saturating_sub(delay))),
    };
    NewTask {
        payload: Bytes::from(payload),
        metadata: if tag.is_multiple_of(5) { vec![("tag".into(), tag.to_string())] } else { Vec::new() },
        due,
        priority: if percent(rng, work.priorities) {
            Some(Priority([0, 64, 200][rng.below(3) as usize]))
        } else {
            None
        },
        max_attempts: percent(rng, work.few_attempts).then(|| 1 + rng.below(4) as u32),
        retry: rng.chance(1, 4).then(|| Retry { initial: Duration(1 + delay % 5_000), ..Retry::default() }),
        ttl: percent(rng, work.ttls).then(|| Duration(1 + rng.below(600_000))),
        request: named.then(|| RequestId(tag.into())),
        ..NewTask::default()
    }
}

/// Draws what becomes of a lease; None says nothing about it.
pub(crate) fn draw_verdict(rng: &mut SeededRng, work: &Work) -> Option<Verdict> {
    let weights = work.verdicts;
    let mut at = rng.below(weights.iter().sum());
    let mut choice = 0;
    while at >= weights[choice] {
        at -= weights[choice];
        choice += 1;
    }
    let delay = Duration(rng.below(work.delay_max_ms));
    match choice {
        0 => Some(Verdict::Ack),
        1 => Some(Verdict::Nack {
            delay: rng.chance(1, 2).then_some(delay),
            slow_group: None,
            reason: "no".into(),
        }),
        2 => Some(Verdict::Release { delay: if rng.chance(1, 2) { Duration(0) } else { delay } }),
        3 => Some(Verdict::Extend { ttl: draw_lease(rng, work) }),
        _ => None,
    }
}

/// Draws how long a lease holds.
pub(crate) fn draw_lease(rng: &mut SeededRng, work: &Work) -> Duration {
    let (low, high) = work.lease_ms;
    Duration(low + rng.below(high - low + 1))
}

/// Returns whether a task with this due time is due at `now`.
pub(crate) fn is_due(due: Due, now: Millis) -> bool {
    match due {
        Due::Now => true,
        Due::At(at) => at <= now,
        Due::After(delay) => delay.0 == 0,
    }
}
