//! The clients of lively queues: they ask whoever is believed to lead, remember what they wait for, and take what comes.
//!
//! # Not here
//! - Judging: the ledger and the judge do that. What to ask for: `draw.rs`.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use z4_env::{Rng, SeededRng};
use z4_host::{ConsumerId, Deliver, Delivery, Error, Reply, Write};
use z4_tasks::command::{Command, NewTask, PurgeCursor, PurgeStates, RunSchedule, Settlement};
use z4_tasks::encode;
use z4_tasks::outcome::{Outcome, Purged, Settled};
use z4_types::{Duration, QueueName, RequestId, ShardId};

use super::Hosts;
use super::draw::{Drawer, Manners, Wish};
use super::judge::Judge;
use super::ledger::Ledger;
use super::twin::Twin;
use crate::checks::{Checked, Violation, ensure};
use crate::client::{CREDIT_BYTES, Held, ITEM_OVERHEAD, REQUEST_OVERHEAD, draw_task, is_due};
use crate::model::{Tag, read_tag};
use crate::swarm::Work;

/// The first number of a consumer: those of plain queues begin with 1.
const CONSUMERS_FROM: u64 = 1 << 40;
/// Calls that wait; while there are so many, nobody calls.
const WAITING_MAX: usize = 64;
/// Leases, creates and cursors that are remembered.
const KEPT_MAX: usize = 64;

/// What a host says.
enum Letter {
    Answer(u64, Result<Outcome, Error>),
    Delivered(ConsumerId, Vec<Delivery>),
    Closed(ConsumerId),
}

/// What hosts have said, in order, with their numbers.
type Letters = Arc<Mutex<Vec<(usize, Letter)>>>;

/// A call under way.
struct Call {
    host: usize,
    shard: ShardId,
    command: Command,
    encoded: Bytes,
}

struct Consumer {
    host: usize,
    shard: ShardId,
    queue: QueueName,
    alive: Arc<AtomicBool>,
}

struct Sink {
    host: usize,
    id: ConsumerId,
    letters: Letters,
    alive: Arc<AtomicBool>,
}

fn put(letters: &Letters, host: usize, letter: Letter) {
    letters.lock().unwrap_or_else(PoisonError::into_inner).push((host, letter));
}

impl Deliver for Sink {
    fn deliver(&mut self, tasks: Vec<Delivery>) -> bool {
        let alive = self.alive.load(Ordering::Relaxed);
        if alive {
            put(&self.letters, self.host, Letter::Delivered(self.id, tasks));
        }
        alive
    }

    fn closed(&mut self, _why: Error) {
        put(&self.letters, self.host, Letter::Closed(self.id));
    }
}

/// What clients see while they act.
pub(super) struct Scene<'a> {
    pub(super) hosts: &'a mut dyn Hosts,
    pub(super) twins: &'a BTreeMap<ShardId, Twin>,
    pub(super) ledger: &'a mut Ledger,
}

/// See the module essay.
pub struct Clients {
    pub(super) queues: Vec<(QueueName, ShardId)>,
    letters: Letters,
    waiting: BTreeMap<u64, Call>,
    consumers: BTreeMap<ConsumerId, Consumer>,
    pub(super) held: Vec<Held>,
    old: Vec<Held>,
    /// Creates and runs with request ids, to be sent again.
    named: Vec<(ShardId, Command)>,
    /// Where purges stopped.
    cursors: Vec<(QueueName, PurgeStates, PurgeCursor)>,
    pub(super) calls: u64,
    next_tag: Tag,
    next_consumer: u64,
    work: Work,
    pub(super) rng: SeededRng,
    nothing: Judge,
}

impl Clients {
    /// Returns clients of these queues.
    #[must_use]
    pub(super) fn new(queues: Vec<(QueueName, ShardId)>, work: &Work, rng: SeededRng) -> Self {
        Self {
            queues,
            letters: Letters::default(),
            waiting: BTreeMap::new(),
            consumers: BTreeMap::new(),
            held: Vec::new(),
            old: Vec::new(),
            named: Vec::new(),
            cursors: Vec::new(),
            calls: 0,
            next_tag: 1,
            next_consumer: CONSUMERS_FROM,
            work: work.clone(),
            rng,
            nothing: Judge::default(),
        }
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn act(
        &mut self,
        hosts: &mut dyn Hosts,
        twins: &BTreeMap<ShardId, Twin>,
        ledger: &mut Ledger,
        manners: &Manners,
    ) {
        let mut at = self.rng.below(manners.weights.iter().map(|(_, weight)| weight).sum());
        let wish = manners.weights.iter().find(|(_, weight)| {
            let found = at < *weight;
            at = at.saturating_sub(*weight);
            found
        });
        let Some((wish, _)) = wish else { return };
        let scene = &mut Scene { hosts, twins, ledger };
        let (queue, shard) = self.queues[self.rng.below(self.queues.len() as u64) as usize].clone();
        match wish {
            Wish::Create => self.create(scene, manners, &queue, shard),
            Wish::Again => self.again(scene, |_| true),
            Wish::RunAgain => self.again(scene, |command| matches!(command, Command::RunSchedule(_))),
            Wish::Open => {
                let tasks = 1 + self.rng.below(20) as u32;
                self.open(scene, &queue, shard, tasks);
            }
            Wish::Close => self.close(scene),
            Wish::Credit => self.credit(scene),
            Wish::Settle => self.settle(scene, manners),
            _ => {
                self.next_tag += 1;
                let cursor = self.cursor(&queue);
                let (tag, rng, work) = (self.next_tag, &mut self.rng, &self.work);
                let judge = scene.twins.get(&shard).map_or(&self.nothing, |twin| &twin.judge);
                let command = Drawer { rng, manners, work, judge }.command(*wish, &queue, tag, cursor);
                if let Some(command) = command {
                    if let Command::RunSchedule(RunSchedule { request: Some(_), .. }) = command {
                        keep(&mut self.named, (shard, command.clone()), &mut self.rng);
                    }
                    self.send(scene, shard, command);
                }
            }
        }
    }

    /// Sends one of the named commands again.
    fn again(&mut self, scene: &mut Scene<'_>, wanted: impl Fn(&Command) -> bool) {
        let fits: Vec<usize> = (0..self.named.len()).filter(|at| wanted(&self.named[*at].1)).collect();
        if !fits.is_empty() {
            let (shard, command) = self.named[fits[self.rng.below(fits.len() as u64) as usize]].clone();
            self.send(scene, shard, command);
        }
    }

    fn cursor(&mut self, queue: &QueueName) -> Option<(PurgeStates, PurgeCursor)> {
        let at = self.cursors.iter().position(|cursor| cursor.0 == *queue)?;
        let (_, states, after) = self.cursors.swap_remove(at);
        self.rng.chance(2, 3).then_some((states, after))
    }

    /// Sends a command, unless too many wait. Nobody may be there, or have room.
    pub(super) fn send(&mut self, scene: &mut Scene<'_>, shard: ShardId, command: Command) -> bool {
        let encoded = encode(&command);
        let bytes = match &command {
            Command::Create { tasks, .. } => {
                tasks.iter().map(|task| task.payload.len() + ITEM_OVERHEAD).sum::<usize>() + REQUEST_OVERHEAD
            }
            _ => encoded.len() + REQUEST_OVERHEAD,
        };
        let freeing = !matches!(command, Command::Create { .. });
        let Some(host) = scene.hosts.leader(shard, &mut self.rng) else { return false };
        let permit = (self.waiting.len() < WAITING_MAX).then(|| scene.hosts.permit(host, bytes, freeing));
        let Some(permit) = permit.flatten() else { return false };
        self.calls += 1;
        let id = self.calls;
        let write = match &command {
            Command::Create { queue, tasks, .. } => {
                let now = scene.hosts.wall();
                let due_now = tasks.iter().filter(|task| is_due(task.due, now)).count() as u32;
                let reply = self.reply(host, id, Outcome::Created);
                Write::Create { queue: queue.clone(), encoded: encoded.clone(), due_now, reply, permit }
            }
            Command::Settle(settlements) => {
                let reply = self.reply(host, id, Outcome::Settled);
                Write::Settle { settlements: settlements.clone(), reply, permit }
            }
            Command::Cancel(ids) => {
                let reply = self.reply(host, id, Outcome::Cancelled);
                Write::Cancel { ids: ids.clone(), reply, permit }
            }
            _ => {
                let reply = self.reply(host, id, |outcome| outcome);
                let grows = matches!(command, Command::UpdateTask(_));
                Write::Manage { encoded: encoded.clone(), grows, reply, permit }
            }
        };
        if is_own(&command) {
            scene.ledger.sending(shard, &encoded);
        }
        if scene.hosts.write(host, shard, write) {
            self.waiting.insert(id, Call { host, shard, command, encoded });
        }
        true
    }

    fn reply<T: 'static>(&self, host: usize, id: u64, outcome: fn(T) -> Outcome) -> Reply<T> {
        let letters = Arc::clone(&self.letters);
        Box::new(move |answer| put(&letters, host, Letter::Answer(id, answer.map(outcome))))
    }

    fn create(&mut self, scene: &mut Scene<'_>, manners: &Manners, queue: &QueueName, shard: ShardId) {
        let percent = |rng: &mut SeededRng, chance: u64| chance > 0 && rng.chance(chance, 100);
        let count = 1 + self.rng.below(self.work.batch_max.min(8));
        let each = percent(&mut self.rng, self.work.task_requests);
        let batch = !each && percent(&mut self.rng, self.work.batch_requests);
        let now = scene.hosts.wall();
        let mut tasks: Vec<NewTask> = Vec::new();
        for _ in 0..count {
            self.next_tag += 1;
            let mut task = draw_task(&mut self.rng, &self.work, now, self.next_tag, false);
            // Ids of requests are of a shard, plain queues use them too.
            task.request = each.then(|| request(self.next_tag));
            task.payload.truncate(200);
            let judge = scene.twins.get(&shard).map_or(&self.nothing, |twin| &twin.judge);
            let (rng, work) = (&mut self.rng, &self.work);
            let mut drawer = Drawer { rng, manners, work, judge };
            (task.group, task.key) = (drawer.group(), drawer.key());
            (task.after, task.on_failure) = drawer.after();
            tasks.push(task);
        }
        let request = batch.then(|| request(self.next_tag));
        let create = Command::Create { queue: queue.clone(), request, tasks };
        if each || batch {
            keep(&mut self.named, (shard, create.clone()), &mut self.rng);
        }
        self.send(scene, shard, create);
    }

    /// Connects a consumer with room for `tasks`.
    pub(super) fn open(&mut self, scene: &mut Scene<'_>, queue: &QueueName, shard: ShardId, tasks: u32) {
        let Some(host) = scene.hosts.leader(shard, &mut self.rng) else { return };
        let id = ConsumerId(self.next_consumer);
        self.next_consumer += 1;
        let alive = Arc::new(AtomicBool::new(true));
        let sink = Sink { host, id, letters: Arc::clone(&self.letters), alive: Arc::clone(&alive) };
        let of_queue = self.rng.chance(1, 2);
        let (low, high) = self.work.lease_ms;
        let lease = if of_queue { Duration(0) } else { Duration(low + self.rng.below(high - low + 1)) };
        let (name, queue) = (format!("l{}", id.0 - CONSUMERS_FROM), queue.clone());
        let write = Write::Open { consumer: id, queue: queue.clone(), name, lease, sink: Box::new(sink) };
        if scene.hosts.write(host, shard, write) {
            self.consumers.insert(id, Consumer { host, shard, queue, alive });
            self.give(scene, id, tasks);
        }
    }

    fn give(&mut self, scene: &mut Scene<'_>, id: ConsumerId, tasks: u32) {
        let Consumer { host, shard, .. } = self.consumers[&id];
        scene.hosts.write(host, shard, Write::Credit { consumer: id, tasks, bytes: CREDIT_BYTES });
    }

    fn some_consumer(&mut self) -> Option<ConsumerId> {
        let count = self.consumers.len() as u64;
        let at = (count > 0).then(|| self.rng.below(count) as usize)?;
        self.consumers.keys().nth(at).copied()
    }

    fn close(&mut self, scene: &mut Scene<'_>) {
        let Some(id) = self.some_consumer() else { return };
        if self.rng.chance(1, 2) {
            self.consumers[&id].alive.store(false, Ordering::Relaxed);
        } else {
            self.close_one(scene, id);
        }
    }

    fn close_one(&mut self, scene: &mut Scene<'_>, id: ConsumerId) {
        let Some(consumer) = self.consumers.remove(&id) else { return };
        consumer.alive.store(false, Ordering::Relaxed);
        scene.hosts.write(consumer.host, consumer.shard, Write::Close { consumer: id });
    }

    /// Disconnects everybody.
    pub(super) fn close_all(&mut self, scene: &mut Scene<'_>) {
        let all: Vec<ConsumerId> = self.consumers.keys().copied().collect();
        all.into_iter().for_each(|id| self.close_one(scene, id));
    }

    fn credit(&mut self, scene: &mut Scene<'_>) {
        if let Some(id) = self.some_consumer() {
            let tasks = 1 + self.rng.below(20) as u32;
            self.give(scene, id, tasks);
        }
    }

    /// Sees to it that a queue has a consumer at its leader, with room for everything.
    pub(super) fn serve(&mut self, scene: &mut Scene<'_>, queue: &QueueName, shard: ShardId, plenty: u32) {
        let leader = scene.hosts.leader(shard, &mut self.rng);
        let serves = |consumer: &Consumer| {
            consumer.queue == *queue
                && Some(consumer.host) == leader
                && consumer.alive.load(Ordering::Relaxed)
        };
        match self.consumers.iter().find(|(_, consumer)| serves(consumer)).map(|(id, _)| *id) {
            Some(id) => self.give(scene, id, plenty),
            None => self.open(scene, queue, shard, plenty),
        }
    }

    fn settle(&mut self, scene: &mut Scene<'_>, manners: &Manners) {
        let mut leases = Vec::new();
        for _ in 0..=self.rng.below(6) {
            if !self.held.is_empty() {
                leases.push(self.held.swap_remove(self.rng.below(self.held.len() as u64) as usize));
            }
        }
        if !self.old.is_empty() && self.rng.chance(1, 10) {
            leases.push(self.old[self.rng.below(self.old.len() as u64) as usize]);
        }
        let mut by_shard: BTreeMap<ShardId, Vec<Settlement>> = BTreeMap::new();
        for held in leases {
            let (rng, work, judge) = (&mut self.rng, &self.work, &self.nothing);
            if let Some(verdict) = (Drawer { rng, manners, work, judge }).verdict() {
                let one = Settlement { id: held.id, token: held.token, verdict };
                by_shard.entry(held.id.shard()).or_default().push(one);
            }
            keep(&mut self.old, held, &mut self.rng);
        }
        for (shard, settlements) in by_shard {
            self.send_settle(scene, shard, settlements);
        }
    }

    /// Sends settlements; what cannot be sent is held on to.
    pub(super) fn send_settle(&mut self, scene: &mut Scene<'_>, shard: ShardId, all: Vec<Settlement>) {
        if !self.send(scene, shard, Command::Settle(all.clone())) {
            self.held.extend(all.iter().map(|one| Held { id: one.id, token: one.token }));
        }
    }

    pub(super) fn listen(
        &mut self,
        ledger: &mut Ledger,
        heard: impl Fn(usize) -> bool,
    ) -> Result<Vec<String>, Violation> {
        let letters = std::mem::take(&mut *self.letters.lock().unwrap_or_else(PoisonError::into_inner));
        let mut said = Vec::new();
        for (host, letter) in letters {
            if heard(host) {
                self.read(ledger, host, letter, &mut said)?;
            } else if let Letter::Answer(id, _) = letter {
                self.waiting.remove(&id);
            }
        }
        Ok(said)
    }

    fn read(&mut self, ledger: &mut Ledger, host: usize, letter: Letter, said: &mut Vec<String>) -> Checked {
        match letter {
            Letter::Answer(id, answer) => {
                let Some(call) = self.waiting.remove(&id) else { return Ok(()) };
                said.push(format!("lively {id} by {host}: {answer:?} to {:?}", call.command));
                match answer {
                    _ if !is_own(&call.command) => {}
                    Ok(outcome) => {
                        self.learn(&call, &outcome);
                        ledger.told(call.shard, &call.encoded, outcome);
                    }
                    // Its outcome stands in the log, if it has one.
                    Err(Error::Unknown) => {}
                    Err(_) => {
                        ledger.failed(call.shard, &call.encoded);
                        if let Command::Settle(all) = &call.command {
                            self.held.extend(all.iter().map(|one| Held { id: one.id, token: one.token }));
                        }
                    }
                }
            }
            Letter::Delivered(consumer, tasks) => {
                for task in tasks {
                    let (id, token) = (task.pick.id, task.pick.token);
                    said.push(format!("lively {consumer:?} by {host}: {:?} until {}", task.pick, task.until));
                    ensure!(
                        read_tag(&task.body.payload).is_some(),
                        "T1",
                        "task {id} is delivered with {} bytes",
                        task.body.payload.len()
                    );
                    ledger.delivered(id.shard(), token, id, task.until)?;
                    self.held.push(Held { id, token });
                }
            }
            Letter::Closed(id) => drop(self.consumers.remove(&id)),
        }
        Ok(())
    }

    /// Takes from an answer what a client goes on with.
    fn learn(&mut self, call: &Call, outcome: &Outcome) {
        match (&call.command, outcome) {
            (Command::Settle(asked), Outcome::Settled(answers)) => {
                let extended = |answer: &&Result<Settled, _>| matches!(answer, Ok(Settled::Extended(_)));
                let again = asked.iter().zip(answers).filter(|(_, answer)| extended(answer));
                self.held.extend(again.map(|(one, _)| Held { id: one.id, token: one.token }));
            }
            (Command::Purge(purge), Outcome::Purged(Ok(Purged { next: Some(next), .. }))) => {
                let stopped = (purge.queue.clone(), purge.states, next.clone());
                keep(&mut self.cursors, stopped, &mut self.rng);
            }
            _ => {}
        }
    }

    /// Whatever waits for a host's answer will not have one.
    pub(super) fn host_died(&mut self, host: usize) {
        self.waiting.retain(|_, call| call.host != host);
        self.consumers.retain(|_, consumer| consumer.host != host);
    }

    pub(super) fn cut_off(&mut self, host: usize) {
        for consumer in self.consumers.values().filter(|consumer| consumer.host == host) {
            consumer.alive.store(false, Ordering::Relaxed);
        }
        self.consumers.retain(|_, consumer| consumer.host != host);
    }
}

/// Returns whether only clients propose such a command: then it stands in the log as often as they sent it.
fn is_own(command: &Command) -> bool {
    !matches!(command, Command::Fire(_))
}

/// Returns the request id of a tag: those of plain queues are below.
pub(super) fn request(tag: Tag) -> RequestId {
    RequestId(1 << 64 | u128::from(tag))
}

fn keep<T>(all: &mut Vec<T>, one: T, rng: &mut SeededRng) {
    if all.len() < KEPT_MAX {
        all.push(one);
    } else {
        let at = rng.below(KEPT_MAX as u64) as usize;
        all[at] = one;
    }
}
