//! The clients of a cluster: they ask whichever host they believe to lead, go elsewhere when it does not, give up waiting
//! after a while, and ask again with the same request id.
//!
//! A client follows what a host says of a shard's leader, as a door that forwards does. What was sent to a host that
//! died, or that does not answer in time, may have happened: creates are sent again if they have request ids,
//! settlements now and then. Consumers whose host stops leading are closed by it and open again elsewhere. What is said
//! to a host that clients are cut off from is lost, and so is what it says; its consumers are gone.
//!
//! # Not here
//! - Judging: `history.rs`. Reading the mail: `mail.rs`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use z4_env::{Clock, Rng, SeededRng};
use z4_host::{ConsumerId, Read, Write};
use z4_tasks::command::{NewTask, Settlement, Verdict};
use z4_tasks::encode_create;
use z4_types::{Duration, Index, QueueName, RequestId, ShardId, TaskId};

use super::history::{History, Unanswered};
use super::letters::{CallId, Letter, Sink};
use super::node::Node;
use super::swarm::{Call, Swarm, choose};
use crate::client::{
    CREDIT_BYTES, Create, Held, ITEM_OVERHEAD, REQUEST_OVERHEAD, draw_lease, draw_task, draw_verdict, ids,
    is_due,
};
use crate::model::Tag;
use crate::report::Reached;
use crate::shell::Shell;
use crate::swarm::Work;

/// Leases remembered after they were settled or lost.
const OLD_LEASES_MAX: usize = 64;
/// Creates worth sending again that are kept.
const CREATES_MAX: usize = 64;
/// Ids that gets and cancels choose from.
const IDS_MAX: usize = 512;

/// What a call is about.
#[derive(Debug, Clone)]
pub enum Asked {
    /// A create.
    Create(Create),
    /// Settlements.
    Settle(Vec<Settlement>),
    /// Cancels.
    Cancel(Vec<TaskId>),
    /// One task.
    Get(TaskId),
    /// A queue.
    List(usize),
    /// All counters.
    Count,
}

/// A call under way.
#[derive(Debug, Clone)]
pub struct Waiting {
    /// What it asks.
    pub asked: Asked,
    /// Of which shard.
    pub shard: ShardId,
    /// Which host.
    pub node: usize,
    /// When, true time, nanoseconds.
    pub since: u64,
    /// What was known then.
    pub floor: Index,
    /// Nobody waits for the answer any more.
    pub given_up: bool,
    /// The question was lost on its way, or the answer was: none will come.
    pub unheard: bool,
}

/// A connected consumer.
pub struct Consumer {
    /// Its host.
    pub node: usize,
    /// Its shard.
    pub shard: ShardId,
    /// Its queue.
    pub queue: usize,
    /// How long its leases hold.
    pub lease: Duration,
    alive: Arc<AtomicBool>,
}

impl Consumer {
    /// Returns whether it takes what comes.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.alive.load(Ordering::Relaxed)
    }
}

/// See the module essay.
pub struct Clients {
    /// Calls without an answer.
    pub waiting: BTreeMap<CallId, Waiting>,
    /// Creates worth sending again.
    pub unfinished: Vec<Create>,
    /// Creates that were answered and may be sent again all the same.
    pub finished: Vec<Create>,
    /// Connected consumers.
    pub consumers: BTreeMap<ConsumerId, Consumer>,
    /// Leases to settle.
    pub held: Vec<Held>,
    /// Leases that are over, or should be.
    old: Vec<Held>,
    /// Some ids.
    ids: Vec<TaskId>,
    /// The queues, and their shards.
    pub queues: Vec<(QueueName, ShardId)>,
    /// Who is believed to lead.
    leaders: BTreeMap<ShardId, usize>,
    /// Calls made.
    pub calls: u64,
    rng: SeededRng,
    work: Work,
    choices: Vec<(Call, u64)>,
    next_tag: Tag,
    next_consumer: u64,
}

/// What clients act in.
pub struct Scene<'a> {
    /// The hosts.
    pub nodes: &'a mut [Node],
    /// What they were told.
    pub history: &'a mut History,
    /// Counts.
    pub reached: &'a mut Reached,
    /// True time, nanoseconds.
    pub now: u64,
}

impl Scene<'_> {
    /// Returns whether clients and this host do not reach each other now.
    fn is_cut_off(&self, node: usize) -> bool {
        self.now < self.nodes[node].cut_off_until
    }

    /// Sends a write. It may be lost.
    fn write(&mut self, node: usize, shard: ShardId, write: Write) {
        if !self.is_cut_off(node) {
            running(self.nodes, node).write(shard, write);
        }
    }

    /// Sends a read. It may be lost.
    fn read(&mut self, node: usize, shard: ShardId, read: Read) {
        if !self.is_cut_off(node) {
            running(self.nodes, node).read(shard, read);
        }
    }
}

impl Clients {
    /// Returns clients that have done nothing yet; `shard_of` says where a queue lives.
    #[must_use]
    pub fn new(swarm: &Swarm, rng: SeededRng, shard_of: impl Fn(&QueueName) -> ShardId) -> Self {
        let queue = |n| {
            let name = QueueName::new(&format!("team-{n}/mail")).expect("a valid name");
            let shard = shard_of(&name);
            (name, shard)
        };
        Self {
            waiting: BTreeMap::new(),
            unfinished: Vec::new(),
            finished: Vec::new(),
            consumers: BTreeMap::new(),
            held: Vec::new(),
            old: Vec::new(),
            ids: Vec::new(),
            queues: (0..swarm.work.queues).map(queue).collect(),
            leaders: BTreeMap::new(),
            calls: 0,
            rng,
            work: swarm.work.clone(),
            choices: swarm.calls.clone(),
            next_tag: 1,
            next_consumer: 1,
        }
    }

    /// Makes one call, or none if nobody is there.
    pub fn act(&mut self, scene: &mut Scene<'_>) {
        match choose(&mut self.rng, &self.choices.clone()) {
            Call::Create => self.create(scene),
            Call::Retry => self.retry(scene),
            Call::Open => {
                let queue = self.some_queue();
                self.open(scene, queue);
            }
            Call::Close => self.close(scene),
            Call::Credit => self.credit(scene),
            Call::Settle => self.settle(scene),
            Call::Cancel => self.cancel(scene),
            Call::Get => self.get(scene),
            Call::List => {
                let queue = self.some_queue();
                self.list(scene, queue);
            }
        }
    }

    /// Returns how many tasks were ever asked for.
    #[must_use]
    pub fn wanted(&self) -> u64 {
        self.next_tag
    }

    fn some_queue(&mut self) -> usize {
        self.rng.below(self.queues.len() as u64) as usize
    }

    fn percent(&mut self, chance: u64) -> bool {
        chance > 0 && self.rng.chance(chance, 100)
    }

    /// Returns the host to ask about `shard`: the believed leader, or any that is up and the leader it names.
    fn route(&mut self, nodes: &[Node], shard: ShardId) -> Option<usize> {
        if let Some(at) = self.leaders.get(&shard).copied() {
            if nodes[at].is_up() {
                return Some(at);
            }
            self.leaders.remove(&shard);
        }
        let up: Vec<usize> = nodes.iter().filter(|node| node.is_up()).map(|node| node.at).collect();
        if up.is_empty() {
            return None;
        }
        let first = up[self.rng.below(up.len() as u64) as usize];
        let shell = nodes[first].shell.as_ref().expect("it is up");
        let leader = shell.driver.leaders().of(shard);
        let named = leader.and_then(|leader| {
            let registry = shell.registry();
            let host = &registry.host_of_replica(shard, leader.replica)?.id;
            nodes.iter().find(|node| node.name == *host && node.is_up()).map(|node| node.at)
        });
        let at = named.unwrap_or(first);
        self.leaders.insert(shard, at);
        Some(at)
    }

    /// The believed leader said that it is none.
    pub fn not_leader(&mut self, shard: ShardId, node: usize) {
        if self.leaders.get(&shard) == Some(&node) {
            self.leaders.remove(&shard);
        }
    }

    fn call(&mut self, scene: &Scene<'_>, node: usize, shard: ShardId, asked: Asked) -> CallId {
        self.calls += 1;
        let floor = scene.history.known(shard);
        let unheard = scene.is_cut_off(node);
        let waiting = Waiting { asked, shard, node, since: scene.now, floor, given_up: false, unheard };
        self.waiting.insert(self.calls, waiting);
        self.calls
    }

    fn create(&mut self, scene: &mut Scene<'_>) {
        let queue = self.some_queue();
        let count = 1 + self.rng.below(self.work.batch_max);
        let each = self.percent(self.work.task_requests);
        let request =
            (!each && self.percent(self.work.batch_requests)).then(|| RequestId(self.next_tag.into()));
        let now = scene.nodes[0].clock.wall();
        let mut tasks = Vec::new();
        for _ in 0..count {
            let tag = self.next_tag;
            self.next_tag += 1;
            tasks.push(draw_task(&mut self.rng, &self.work, now, tag, each));
        }
        let tasks: Arc<[NewTask]> = tasks.into();
        self.send_create(scene, Create { queue, request, tasks, life: 0, named: each || request.is_some() });
    }

    fn send_create(&mut self, scene: &mut Scene<'_>, create: Create) {
        let (queue, shard) = self.queues[create.queue].clone();
        let bytes =
            create.tasks.iter().map(|t| t.payload.len() + ITEM_OVERHEAD).sum::<usize>() + REQUEST_OVERHEAD;
        let node = self.route(scene.nodes, shard);
        let permit = node.and_then(|at| running(scene.nodes, at).budget.take(bytes));
        let (Some(node), Some(permit)) = (node, permit) else { return self.again(create) };
        let now = scene.nodes[node].clock.wall();
        let due_now = create.tasks.iter().filter(|task| is_due(task.due, now)).count() as u32;
        let encoded = encode_create(&queue, create.request, &create.tasks);
        let call = self.call(scene, node, shard, Asked::Create(create.clone()));
        scene.history.creating(shard, call, create.queue, &create.tasks, create.named);
        let letters = scene.nodes[node].letters.clone();
        let reply = letters.reply(move |answer| Letter::Created(call, ids(answer)));
        let write = Write::Create { queue, encoded, due_now, reply, permit };
        scene.write(node, shard, write);
    }

    /// Keeps a create that is to be sent again, if it has request ids.
    pub fn again(&mut self, create: Create) {
        if create.named && self.unfinished.len() < CREATES_MAX {
            self.unfinished.push(create);
        }
    }

    /// Sends an earlier create again: one of unknown outcome if there is one, or one that was answered.
    pub fn retry(&mut self, scene: &mut Scene<'_>) {
        if !self.unfinished.is_empty() {
            let at = self.rng.below(self.unfinished.len() as u64) as usize;
            let create = self.unfinished.swap_remove(at);
            scene.reached.reach("unknown create retried");
            self.send_create(scene, create);
        } else if !self.finished.is_empty() {
            let at = self.rng.below(self.finished.len() as u64) as usize;
            let create = self.finished[at].clone();
            self.send_create(scene, create);
        }
    }

    /// Connects a consumer to `queue`.
    pub fn open(&mut self, scene: &mut Scene<'_>, queue: usize) -> Option<ConsumerId> {
        let (name, shard) = self.queues[queue].clone();
        let node = self.route(scene.nodes, shard)?;
        if scene.is_cut_off(node) {
            self.not_leader(shard, node);
            return None;
        }
        let id = ConsumerId(self.next_consumer);
        self.next_consumer += 1;
        let lease = draw_lease(&mut self.rng, &self.work);
        let alive = Arc::new(AtomicBool::new(true));
        let letters = scene.nodes[node].letters.clone();
        let sink = Box::new(Sink { id, letters, alive: Arc::clone(&alive) });
        self.consumers.insert(id, Consumer { node, shard, queue, lease, alive });
        let shell = running(scene.nodes, node);
        let write = Write::Open { consumer: id, queue: name, name: format!("c{}", id.0), lease, sink };
        shell.write(shard, write);
        let tasks = 1 + self.rng.below(20) as u32;
        shell.write(shard, Write::Credit { consumer: id, tasks, bytes: CREDIT_BYTES });
        Some(id)
    }

    fn some_consumer(&mut self) -> Option<ConsumerId> {
        let count = self.consumers.len() as u64;
        (count > 0)
            .then(|| *self.consumers.keys().nth(self.rng.below(count) as usize).expect("below the count"))
    }

    fn close(&mut self, scene: &mut Scene<'_>) {
        let Some(id) = self.some_consumer() else { return };
        if self.rng.chance(1, 2) {
            self.consumers[&id].alive.store(false, Ordering::Relaxed);
        } else {
            let consumer = self.consumers.remove(&id).expect("looked at above");
            // What comes until its host knows is not taken.
            consumer.alive.store(false, Ordering::Relaxed);
            scene.write(consumer.node, consumer.shard, Write::Close { consumer: id });
        }
    }

    /// Disconnects everybody.
    pub fn close_all(&mut self, scene: &mut Scene<'_>) {
        for (id, consumer) in std::mem::take(&mut self.consumers) {
            consumer.alive.store(false, Ordering::Relaxed);
            scene.write(consumer.node, consumer.shard, Write::Close { consumer: id });
        }
    }

    fn credit(&mut self, scene: &mut Scene<'_>) {
        let Some(id) = self.some_consumer() else { return };
        let tasks = 1 + self.rng.below(20) as u32;
        self.give_credit(scene, id, tasks);
    }

    /// Gives a consumer room for `tasks` more.
    pub fn give_credit(&mut self, scene: &mut Scene<'_>, id: ConsumerId, tasks: u32) {
        let Consumer { node, shard, .. } = self.consumers[&id];
        let write = Write::Credit { consumer: id, tasks, bytes: CREDIT_BYTES };
        scene.write(node, shard, write);
    }

    fn settle(&mut self, scene: &mut Scene<'_>) {
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
            if let Some(verdict) = draw_verdict(&mut self.rng, &self.work) {
                settlements.push(Settlement { id: held.id, token: held.token, verdict });
            }
            self.remember(held);
        }
        self.send_settle(scene, settlements);
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
    pub fn ack_all(&mut self, scene: &mut Scene<'_>) {
        let held = std::mem::take(&mut self.held);
        let ack = |held: &Held| Settlement { id: held.id, token: held.token, verdict: Verdict::Ack };
        self.send_settle(scene, held.iter().map(ack).collect());
    }

    fn send_settle(&mut self, scene: &mut Scene<'_>, settlements: Vec<Settlement>) {
        let mut by_shard: BTreeMap<ShardId, Vec<Settlement>> = BTreeMap::new();
        for settlement in settlements {
            by_shard.entry(settlement.id.shard()).or_default().push(settlement);
        }
        for (shard, settlements) in by_shard {
            let bytes = REQUEST_OVERHEAD + settlements.len() * ITEM_OVERHEAD;
            let node = self.route(scene.nodes, shard);
            let permit = node.and_then(|at| running(scene.nodes, at).budget.take_freeing(bytes));
            let (Some(node), Some(permit)) = (node, permit) else {
                self.hold(&settlements);
                continue;
            };
            let call = self.call(scene, node, shard, Asked::Settle(settlements.clone()));
            let letters = scene.nodes[node].letters.clone();
            let reply = letters.reply(move |answer| Letter::Settled(call, answer));
            scene.write(node, shard, Write::Settle { settlements, reply, permit });
        }
    }

    /// Takes leases back that were not settled, as far as is known.
    pub fn hold(&mut self, settlements: &[Settlement]) {
        self.held.extend(settlements.iter().map(|one| Held { id: one.id, token: one.token }));
    }

    /// Learns of a task.
    pub fn learn(&mut self, id: TaskId) {
        if self.ids.len() < IDS_MAX {
            self.ids.push(id);
        } else {
            let at = self.rng.below(IDS_MAX as u64) as usize;
            self.ids[at] = id;
        }
    }

    fn some_task(&mut self) -> Option<TaskId> {
        let count = self.ids.len() as u64;
        (count > 0).then(|| self.ids[self.rng.below(count) as usize])
    }

    fn cancel(&mut self, scene: &mut Scene<'_>) {
        let Some(id) = self.some_task() else { return };
        let shard = id.shard();
        let Some(node) = self.route(scene.nodes, shard) else { return };
        let bytes = REQUEST_OVERHEAD + ITEM_OVERHEAD;
        let Some(permit) = running(scene.nodes, node).budget.take_freeing(bytes) else { return };
        let call = self.call(scene, node, shard, Asked::Cancel(vec![id]));
        let letters = scene.nodes[node].letters.clone();
        let reply = letters.reply(move |answer| Letter::Cancelled(call, answer));
        scene.write(node, shard, Write::Cancel { ids: vec![id], reply, permit });
    }

    /// Reads go to any host now and then: one that does not lead must refuse them.
    fn route_read(&mut self, nodes: &[Node], shard: ShardId) -> Option<usize> {
        if self.rng.chance(1, 4) {
            let any = self.rng.below(nodes.len() as u64) as usize;
            return nodes[any].is_up().then_some(any);
        }
        self.route(nodes, shard)
    }

    fn get(&mut self, scene: &mut Scene<'_>) {
        let Some(id) = self.some_task() else { return };
        let shard = id.shard();
        let Some(node) = self.route_read(scene.nodes, shard) else { return };
        let call = self.call(scene, node, shard, Asked::Get(id));
        let letters = scene.nodes[node].letters.clone();
        let reply = letters.reply(move |answer| Letter::got(call, answer));
        scene.read(node, shard, Read::Get { id, reply });
    }

    /// Lists a whole queue.
    pub fn list(&mut self, scene: &mut Scene<'_>, queue: usize) {
        let shard = self.queues[queue].1;
        let Some(node) = self.route_read(scene.nodes, shard) else { return };
        let call = self.call(scene, node, shard, Asked::List(queue));
        let letters = scene.nodes[node].letters.clone();
        let reply = letters.reply(move |answer| Letter::Viewed(call, answer));
        scene.read(node, shard, Read::View { reply });
    }

    /// Asks for all counters of a shard.
    pub fn count(&mut self, scene: &mut Scene<'_>, shard: ShardId) {
        let Some(node) = self.route(scene.nodes, shard) else { return };
        let call = self.call(scene, node, shard, Asked::Count);
        let letters = scene.nodes[node].letters.clone();
        let reply = letters.reply(move |answer| Letter::Counted(call, answer));
        scene.read(node, shard, Read::Stats { reply });
    }

    /// Gives up calls that have waited for longer than `patience` nanoseconds: another host is asked next.
    pub fn give_up(&mut self, history: &mut History, now: u64, patience: u64, reached: &mut Reached) {
        self.hang_up(history, |waiting| now >= waiting.since + patience);
        let mut lost = Vec::new();
        for waiting in self.waiting.values_mut().filter(|waiting| !waiting.given_up) {
            if now >= waiting.since + patience {
                waiting.given_up = true;
                lost.push(waiting.clone());
            }
        }
        for waiting in lost {
            reached.reach("a call was given up");
            self.not_leader(waiting.shard, waiting.node);
            self.unsure(waiting.asked);
        }
    }

    /// Gives up calls that were lost on their way, and that `over` says are over.
    pub fn hang_up(&mut self, history: &mut History, over: impl Fn(&Waiting) -> bool) {
        self.lose(history, |waiting| waiting.unheard && over(waiting));
    }

    /// The answer to a call was lost on its way.
    pub fn answer_lost(&mut self, call: CallId) {
        if let Some(waiting) = self.waiting.get_mut(&call) {
            waiting.unheard = true;
        }
    }

    /// Clients do not reach a host any more: what consumers it had are gone.
    pub fn cut_off(&mut self, node: usize) {
        for consumer in self.consumers.values().filter(|consumer| consumer.node == node) {
            consumer.alive.store(false, Ordering::Relaxed);
        }
        self.consumers.retain(|_, consumer| consumer.node != node);
    }

    /// A client does not know what came of this: it may ask again.
    fn unsure(&mut self, asked: Asked) {
        match asked {
            Asked::Create(create) => self.again(create),
            // Saying it again is harmless: the token tells.
            Asked::Settle(settlements) if self.rng.chance(1, 2) => self.hold(&settlements),
            _ => {}
        }
    }

    /// A host has died, or leads no more and says so: what this call did nobody will tell.
    pub fn lost(&mut self, history: &mut History, waiting: Waiting) {
        let Waiting { asked, shard, floor, given_up, .. } = waiting;
        match &asked {
            Asked::Create(create) => {
                history.unanswered(shard, floor, Unanswered::Create(Arc::clone(&create.tasks)));
            }
            Asked::Settle(all) => history.unanswered(shard, floor, Unanswered::Settle(all.clone())),
            Asked::Cancel(all) => history.unanswered(shard, floor, Unanswered::Cancel(all.clone())),
            Asked::Get(_) | Asked::List(_) | Asked::Count => {}
        }
        if !given_up {
            self.unsure(asked);
        }
    }

    /// A host has died.
    pub fn host_died(&mut self, history: &mut History, node: usize) {
        self.lose(history, |waiting| waiting.node == node);
        self.consumers.retain(|_, consumer| consumer.node != node);
        self.leaders.retain(|_, at| *at != node);
    }

    /// Some calls will not be answered any more.
    fn lose(&mut self, history: &mut History, which: impl Fn(&Waiting) -> bool) {
        let gone: Vec<CallId> =
            self.waiting.iter().filter(|(_, waiting)| which(waiting)).map(|(call, _)| *call).collect();
        for call in gone {
            let waiting = self.waiting.remove(&call).expect("listed above");
            self.not_leader(waiting.shard, waiting.node);
            self.lost(history, waiting);
        }
    }

    /// Nothing more will be answered: whatever waits is unknown.
    pub fn end(&mut self, history: &mut History) {
        for waiting in std::mem::take(&mut self.waiting).into_values() {
            self.lost(history, waiting);
        }
    }
}

fn running(nodes: &mut [Node], at: usize) -> &mut Shell {
    nodes[at].shell.as_mut().expect("it is up")
}
