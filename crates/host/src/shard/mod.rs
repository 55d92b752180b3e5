//! A task shard on this host: the pure machine, and the leader's half around it.
//!
//! Calls wait here until the driver asks for an entry; then everything waiting goes into one: time's work first,
//! then writes in order of arrival, then the Leases of consumers who can take what this very entry makes due. So a
//! task pushed to a waiting consumer needs one commit from push to delivery (ADR-0005).
//!
//! # Invariants
//! - `inflight` holds one item per entry proposed in this leadership and not applied, in log order.
//! - Every call is answered exactly once: by its outcome, or with `Unknown` if leadership was lost.
//! # Not here
//! - What commands do: `z4-tasks`. Who waits for tasks: `delivery.rs`.

mod agenda;
mod call;
mod delivery;
mod firing;
mod metrics;
#[cfg(feature = "bug-lease-granted-twice")]
mod planted;
mod rates;
mod room;
#[cfg(test)]
mod tests;
mod watchers;

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use z4_multiraft::{Admission, Fault, Refused};
use z4_store::GroupStore;
use z4_tasks::command::{Command, Settlement, Verdict};
use z4_tasks::outcome::{Leased, Made, Outcome, Pick, Refusal, Settled};
use z4_tasks::{EntryBuilder, Fields, Machine, QueueConfig, Settings, encode};
use z4_types::limits::ENTRY_BYTES_TARGET;
use z4_types::{Duration, Entry, Index, Millis, QueueName, ShardId, Term};

use crate::budget::{Budget, Permit};
use crate::error::Error;
use crate::rows::{Rows, RowsRef};
use delivery::{Asked, Backlog, Consumers};
use rates::Activity;
use room::{DELIVERY_OVERHEAD, metadata_weight};

pub(crate) use call::reply;
pub use call::{
    Delivery, EventsRequest, Explained, Held, QueueCounts, QueueSetup, Read, Reply, Waiters, Write,
};
pub use delivery::{ConsumerId, Deliver};
pub use metrics::TaskMetrics;
pub use rates::Rates;
use watchers::Watchers;
pub use watchers::{Bell, WatcherId};

/// Leases, TTLs and evictions handled in one entry; the rest follows in the next.
const ADVANCE_LIMIT: u32 = 2_000;

/// Tasks whose bodies are read, and whose share of the outbox is held, together.
const PIECE_TASKS: usize = 64;

/// A command that waits for the next entry.
struct Pending {
    encoded: Bytes,
    waiter: Waiter,
}

/// Who hears of an outcome.
enum Waiter {
    Create {
        queue: QueueName,
        due_now: u32,
        reply: Reply<Vec<Result<Made, Refusal>>>,
        _permit: Permit,
    },
    Settle(Reply<Vec<Result<Settled, Refusal>>>, Permit),
    Cancel(Reply<Vec<Result<(), Refusal>>>, Permit),
    Manage(Reply<Outcome>, Permit),
    Lease(Asked),
    /// A slot of a schedule.
    Slot,
    Nobody,
}

/// See the module essay.
pub struct TaskShard {
    shard: ShardId,
    machine: Machine,
    pending: VecDeque<Pending>,
    /// Waiters of the entry packed last, until the driver says where it stands.
    packed: Vec<Waiter>,
    inflight: VecDeque<(Index, Term, Vec<Waiter>)>,
    consumers: Consumers,
    watchers: Watchers,
    /// An Advance is proposed and not applied: one is enough.
    advancing: bool,
    /// Slots of schedules are proposed and not applied: what comes after them is worked out then.
    firing: usize,
    metrics: Arc<TaskMetrics>,
    activity: Activity,
    /// Bounds the bytes on their way to consumers, all shards of the host together.
    outbox: Arc<Budget>,
    #[cfg(feature = "bug-lease-granted-twice")]
    just_leads: bool,
}

/// What became of the tasks of a Lease.
#[derive(Default)]
struct HandedOver {
    deliveries: Vec<Delivery>,
    /// Largest metadata among them.
    metadata: usize,
    payload_bytes: u64,
}

impl TaskShard {
    /// Opens the shard over its rows.
    ///
    /// # Errors
    /// If storage fails or the rows cannot be understood.
    pub fn open(
        shard: ShardId,
        store: &GroupStore,
        metrics: Arc<TaskMetrics>,
        outbox: Arc<Budget>,
    ) -> Result<Self, Fault> {
        Ok(Self {
            shard,
            machine: Machine::open(shard, &RowsRef(store)).map_err(fault)?,
            pending: VecDeque::new(),
            packed: Vec::new(),
            inflight: VecDeque::new(),
            consumers: Consumers::new(Arc::clone(&outbox)),
            watchers: Watchers::default(),
            advancing: false,
            firing: 0,
            metrics,
            activity: Activity::default(),
            outbox,
            #[cfg(feature = "bug-lease-granted-twice")]
            just_leads: false,
        })
    }

    /// Reads the rows that a snapshot brought. Nobody waits here: this replica does not lead.
    pub(crate) fn reload(&mut self, store: &GroupStore) -> Result<(), Fault> {
        self.machine = Machine::open(self.shard, &RowsRef(store)).map_err(fault)?;
        Ok(())
    }

    /// Returns the pure machine, for checks.
    #[must_use]
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    pub(crate) fn write(&mut self, write: Write, admission: Admission) {
        match write {
            Write::Create { .. } if admission == Admission::FreeingOnly => write.answer(Error::DiskFull),
            Write::Create { queue, encoded, due_now, reply, permit } => {
                self.pend(encoded, Waiter::Create { queue, due_now, reply, _permit: permit });
            }
            Write::Settle { settlements, reply, permit } => {
                let encoded = encode(&Command::Settle(settlements));
                self.pend(encoded, Waiter::Settle(reply, permit));
            }
            Write::Cancel { ids, reply, permit } => {
                self.pend(encode(&Command::Cancel(ids)), Waiter::Cancel(reply, permit));
            }
            Write::Manage { grows: true, .. } if admission == Admission::FreeingOnly => {
                write.answer(Error::DiskFull);
            }
            // On a full disk too: they are small, and some of them make room.
            Write::Manage { encoded, reply, permit, .. } => {
                self.pend(encoded, Waiter::Manage(reply, permit));
            }
            Write::Open { consumer, queue, name, lease, sink } => {
                self.consumers.open(consumer, queue, name, lease, sink);
            }
            Write::Credit { consumer, tasks, bytes } => self.consumers.credit(consumer, tasks, bytes),
            Write::Close { consumer } => {
                self.consumers.close(consumer);
            }
            Write::Watch { watcher, queue, bell } => self.watchers.open(watcher, queue, bell),
            Write::Unwatch { watcher } => self.watchers.close(watcher),
        }
    }

    pub(crate) fn entry(&mut self, store: &GroupStore, now: Millis) -> Result<Option<Bytes>, Fault> {
        #[cfg(feature = "bug-lease-granted-twice")]
        if std::mem::take(&mut self.just_leads) {
            self.release_unknown(store)?;
        }
        assert!(self.packed.is_empty(), "the driver says where an entry stands before it asks for the next");
        let rows = RowsRef(store);
        let mut entry = EntryBuilder::new(now);
        self.activity.advance(now, &self.machine);
        if !self.advancing && self.machine.next_deadline(&rows).map_err(fault)?.is_some_and(|at| at <= now) {
            entry.push(&Command::Advance { limit: ADVANCE_LIMIT });
            self.packed.push(Waiter::Nobody);
            self.advancing = true;
        }
        self.fire_slots(&rows, now, &mut entry)?;
        while let Some(next) = self.pending.front() {
            if entry.commands() > 0 && entry.bytes() + next.encoded.len() > ENTRY_BYTES_TARGET {
                break;
            }
            let next = self.pending.pop_front().expect("looked at above");
            entry.push_encoded(&next.encoded);
            if let Waiter::Create { queue, due_now, .. } = &next.waiter {
                self.activity.watch(queue, &self.machine);
                self.consumers.coming(queue, *due_now);
            }
            self.packed.push(next.waiter);
        }
        self.ask_for_consumers(&rows, now, &mut entry)?;
        Ok((entry.commands() > 0).then(|| entry.finish()))
    }

    pub(crate) fn proposed(&mut self, index: Index, term: Term) {
        self.inflight.push_back((index, term, std::mem::take(&mut self.packed)));
    }

    pub(crate) fn apply(
        &mut self,
        store: &mut GroupStore,
        entry: &Entry,
        leading: bool,
    ) -> Result<(), Fault> {
        let outcomes = self.machine.apply(&mut Rows(store), &entry.data).map_err(fault)?;
        for queue in self.machine.take_touched() {
            self.consumers.touched(queue);
        }
        for queue in self.machine.take_eventful() {
            self.watchers.happened(queue);
        }
        let ours = leading
            && self
                .inflight
                .front()
                .is_some_and(|(index, term, _)| (*index, *term) == (entry.index, entry.term));
        if !ours {
            // Replayed, or another leader's: nobody here waits for it.
            return Ok(());
        }
        let (.., waiters) = self.inflight.pop_front().expect("looked at above");
        assert_eq!(waiters.len(), outcomes.len(), "one outcome per command");
        for (waiter, outcome) in waiters.into_iter().zip(outcomes) {
            self.answer(store, waiter, outcome)?;
        }
        Ok(())
    }

    pub(crate) fn read(&mut self, store: &mut GroupStore, now: Millis, read: Read) -> Result<(), Fault> {
        match read {
            Read::Get { id, reply } => {
                let found = z4_tasks::get(&RowsRef(store), id).map_err(fault)?;
                reply(Ok((now, found)));
            }
            Read::GetByKey { queue, key, reply } => {
                let found = z4_tasks::by_key(&RowsRef(store), &queue, &key).map_err(fault)?;
                reply(Ok((now, found)));
            }
            Read::View { reply } => {
                let view = store.view()?;
                reply(Ok((now, view)));
            }
            Read::Queue { queue, reply } => {
                let rows = RowsRef(store);
                let info = z4_tasks::queue(&rows, &queue).map_err(fault)?;
                let due = self.machine.next_due(&rows, &queue).map_err(fault)?;
                reply(Ok((now, info, due)));
            }
            Read::Setup { queue, reply } => reply(Ok((now, Box::new(self.setup(&queue))))),
            Read::Explain { id, reply } => {
                let rows = RowsRef(store);
                let why = z4_tasks::explain(&rows, &self.machine, id, now).map_err(fault)?;
                let found = why.map(|why| z4_tasks::get(&rows, id).map(|task| task.map(|task| (why, task))));
                let explained = found.transpose().map_err(fault)?.flatten().map(|(why, task)| {
                    let waiting = self.consumers.waiting(&task.queue);
                    Box::new(Explained { why, task, waiting })
                });
                reply(Ok((now, explained)));
            }
            Read::Held { queue, reply } => {
                let holds = z4_tasks::explain_queue(&RowsRef(store), &self.machine, &queue, now);
                let waiting = self.consumers.waiting(&queue);
                reply(Ok((now, holds.map_err(fault)?.map(|holds| Held { holds, waiting }))));
            }
            Read::Groups { queue, after, limit, reply } => {
                reply(Ok((now, self.machine.groups(&queue, after.as_ref(), limit))));
            }
            Read::Group { queue, group, reply } => reply(Ok((now, self.machine.group(&queue, &group)))),
            Read::Counts { queue, reply } => {
                let due = self.machine.due(&RowsRef(store), &queue, now).map_err(fault)?;
                let rates = self.activity.rates(&queue, now, &self.machine);
                let stats = self.machine.stats(&queue);
                let counts = stats.zip(due).map(|(stats, due)| QueueCounts { stats, due, rates });
                reply(Ok((now, counts)));
            }
            Read::Result { id, reply } => {
                reply(Ok(z4_tasks::result(&RowsRef(store), id).map_err(fault)?));
            }
            Read::Events { request, reply } => {
                let EventsRequest { queue, start, filter, limit } = &*request;
                let found = z4_tasks::events(&RowsRef(store), queue, *start, filter, *limit);
                reply(Ok(found.map_err(fault)?));
            }
            Read::Stats { reply } => {
                reply(Ok(self.machine.queues().map(|(name, stats)| (name.clone(), stats)).collect()));
            }
        }
        Ok(())
    }

    pub(crate) fn lead(&mut self) {
        assert!(self.inflight.is_empty(), "a new leader has proposed nothing");
        #[cfg(feature = "bug-lease-granted-twice")]
        {
            self.just_leads = true;
        }
    }

    pub(crate) fn follow(&mut self) {
        for (.., waiters) in self.inflight.drain(..) {
            for waiter in waiters {
                waiter.fail(&Error::Unknown);
            }
        }
        let refused = Error::from_refused(Refused::NotLeader, self.shard);
        for pending in self.pending.drain(..) {
            pending.waiter.fail(&refused);
        }
        for mut consumer in self.consumers.close_all() {
            consumer.sink.closed(refused.clone());
        }
        self.watchers.close_all(&refused);
        (self.advancing, self.firing) = (false, 0);
        self.activity.clear();
    }

    pub(crate) fn stop(&mut self) {
        for mut consumer in self.consumers.close_all() {
            consumer.sink.closed(Error::Stopping);
        }
        self.watchers.close_all(&Error::Stopping);
    }

    pub(crate) fn deadline(&mut self, store: &GroupStore) -> Result<Option<Millis>, Fault> {
        if !self.pending.is_empty() {
            return Ok(Some(Millis(0)));
        }
        let rows = RowsRef(store);
        let mut at = None;
        if !self.advancing {
            at = self.machine.next_deadline(&rows).map_err(fault)?;
        }
        let slot = if self.firing == 0 { self.machine.next_slot(&rows).map_err(fault)? } else { None };
        Ok(at.into_iter().chain(slot).chain(self.consumers.next_look()).min())
    }

    pub(crate) fn now(&self) -> Millis {
        self.machine.now()
    }

    /// Returns what was set of a queue, what that comes to, and where each field comes from.
    fn setup(&self, queue: &QueueName) -> QueueSetup {
        let found = self.machine.config(queue);
        let exists = found.is_some();
        let config = found.unwrap_or_else(|| QueueConfig {
            etag: 0,
            settings: Settings::default(),
            effective: Arc::new(self.machine.policies().resolve(queue.as_str(), None)),
            paused: None,
        });
        let own = config.settings.fields();
        let source = |field: Fields| {
            if own.contains(field) {
                return Some((field, None));
            }
            let mut policies = self.machine.policies().matching(queue.as_str());
            let (pattern, _) = policies.find(|(_, policy)| policy.fields().contains(field))?;
            Some((field, Some(pattern.to_owned())))
        };
        let sources = Fields::ALL.names().filter_map(Fields::named).filter_map(source).collect();
        QueueSetup { exists, config, sources }
    }

    fn pend(&mut self, encoded: Bytes, waiter: Waiter) {
        self.pending.push_back(Pending { encoded, waiter });
    }

    /// Adds what is to become of the slots of schedules that have come.
    fn fire_slots(&mut self, rows: &RowsRef<'_>, now: Millis, entry: &mut EntryBuilder) -> Result<(), Fault> {
        if self.firing > 0 || self.machine.next_slot(rows).map_err(fault)?.is_none_or(|at| at > now) {
            return Ok(());
        }
        let due = self.machine.due_slots(rows, now, firing::SCHEDULES_PER_PASS).map_err(fault)?;
        for slot in &due {
            self.activity.watch(&slot.queue, &self.machine);
        }
        for command in firing::firings(due, now) {
            entry.push(&command);
            self.packed.push(Waiter::Slot);
            self.firing += 1;
        }
        Ok(())
    }

    /// Adds the Leases of consumers for what is due already and for what this entry makes due.
    fn ask_for_consumers(
        &mut self,
        rows: &RowsRef<'_>,
        now: Millis,
        entry: &mut EntryBuilder,
    ) -> Result<(), Fault> {
        let machine = &self.machine;
        let leases = self.consumers.ask_all(now, |queue| {
            let next_due = machine.next_due(rows, queue)?;
            Ok(Backlog { next_due, waiting: machine.stats(queue).map_or(0, |stats| stats.waiting) })
        });
        for (command, asked) in leases.map_err(fault)? {
            if let Command::Lease { queue, .. } = &command {
                self.activity.watch(queue, &self.machine);
            }
            entry.push(&command);
            self.packed.push(Waiter::Lease(asked));
        }
        Ok(())
    }

    fn answer(&mut self, store: &GroupStore, waiter: Waiter, outcome: Outcome) -> Result<(), Fault> {
        match (waiter, outcome) {
            (Waiter::Create { queue, due_now, reply, _permit }, Outcome::Created(results)) => {
                self.consumers.came(&queue, due_now);
                self.metrics.pushed(&results);
                reply(Ok(results));
            }
            (Waiter::Settle(reply, _permit), Outcome::Settled(results)) => {
                self.metrics.settled(&results);
                reply(Ok(results));
            }
            (Waiter::Cancel(reply, _permit), Outcome::Cancelled(results)) => reply(Ok(results)),
            (Waiter::Manage(reply, _permit), outcome) => reply(Ok(outcome)),
            (Waiter::Lease(asked), Outcome::Leased(leased)) => self.hand_over(store, asked, leased)?,
            (Waiter::Slot, outcome) => {
                self.firing = self.firing.saturating_sub(1);
                if let Outcome::SlotFired(fired) = outcome {
                    self.metrics.fired(fired);
                }
            }
            (Waiter::Nobody, Outcome::Advanced { dead, .. }) => {
                self.advancing = false;
                self.metrics.lapsed(dead);
            }
            (Waiter::Nobody, _) => {}
            _ => unreachable!("an outcome is of its command's kind"),
        }
        Ok(())
    }

    /// Gives leased tasks to their consumer. Those that do not fit into the outbox go back to the queue, and all of them
    /// if the consumer is gone.
    fn hand_over(&mut self, store: &GroupStore, mut asked: Asked, leased: Leased) -> Result<(), Fault> {
        let Leased { until, mut picks, .. } = leased;
        let largest = picks.iter().map(|pick| pick.payload_bytes).max();
        let mut gone = true;
        let mut held = HandedOver::default();
        if let Some(consumer) = self.consumers.get_mut(asked.consumer) {
            let own = Arc::clone(&consumer.outbox);
            held = self.hold(store, &own, &mut asked.reserved, until, &picks)?;
        }
        let handed = held.deliveries.len();
        self.consumers.answered(&asked, u32::try_from(handed).expect("at most a lease"), held.payload_bytes);
        let Some(largest) = largest else { return Ok(()) };
        self.consumers.learn(&asked, largest as usize, held.metadata);
        if let Some(consumer) = self.consumers.get_mut(asked.consumer) {
            gone = handed > 0 && !consumer.sink.deliver(held.deliveries);
        }
        let back = picks.split_off(if gone { 0 } else { handed });
        self.metrics.delivered(self.machine.now(), &picks);
        if gone {
            self.consumers.close(asked.consumer);
        }
        if !back.is_empty() {
            let release = |pick: &Pick| Settlement {
                id: pick.id,
                token: pick.token,
                verdict: Verdict::Release { delay: Duration(0) },
            };
            self.pend(encode(&Command::Settle(back.iter().map(release).collect())), Waiter::Nobody);
        }
        Ok(())
    }

    /// Reads the bodies of the first `picks`, as many as the outbox has room for: what was `reserved`, and what is
    /// free besides. If nothing else is on its way there is room for one of any size.
    fn hold(
        &self,
        store: &GroupStore,
        own: &Arc<Budget>,
        reserved: &mut Permit,
        until: Millis,
        picks: &[Pick],
    ) -> Result<HandedOver, Fault> {
        let mut held = HandedOver { deliveries: Vec::with_capacity(picks.len()), ..HandedOver::default() };
        for piece in picks.chunks(PIECE_TASKS) {
            let alone = held.deliveries.is_empty() && self.outbox.used() == reserved.bytes();
            let room = reserved.bytes().saturating_add(self.outbox.free());
            let mut bytes = 0;
            let fitting = piece.iter().enumerate().take_while(|(at, pick)| {
                bytes += pick.payload_bytes as usize + DELIVERY_OVERHEAD;
                bytes <= room || (alone && *at == 0)
            });
            let fitting = &piece[..fitting.count()];
            // Leases stand last in an entry, so nothing can have ended these tasks since.
            let bodies: Option<Vec<_>> =
                z4_tasks::hydrate(&RowsRef(store), fitting).map_err(fault)?.into_iter().collect();
            let bodies =
                bodies.ok_or_else(|| fault(z4_tasks::Fault::corrupt("a leased task has no body")))?;
            let metadata = || bodies.iter().map(metadata_weight);
            let payload: usize = bodies.iter().map(|body| body.payload.len()).sum();
            let weight = payload + fitting.len() * DELIVERY_OVERHEAD + metadata().sum::<usize>();
            held.metadata = held.metadata.max(metadata().max().unwrap_or(0));
            held.payload_bytes += payload as u64;
            reserved.shrink(weight);
            let permit = Arc::new(own.take_always(weight));
            let deliveries = fitting.iter().zip(bodies).map(|(pick, body)| Delivery {
                pick: *pick,
                until,
                body,
                held: Arc::clone(&permit),
            });
            held.deliveries.extend(deliveries);
            if fitting.len() < piece.len() {
                break;
            }
        }
        Ok(held)
    }
}

impl Waiter {
    fn fail(self, error: &Error) {
        match self {
            Self::Create { reply, .. } => reply(Err(error.clone())),
            Self::Settle(reply, _) => reply(Err(error.clone())),
            Self::Cancel(reply, _) => reply(Err(error.clone())),
            Self::Manage(reply, _) => reply(Err(error.clone())),
            Self::Lease(_) | Self::Slot | Self::Nobody => {}
        }
    }
}

/// A fault of the machine stops the replica; its text names the cause.
fn fault(error: z4_tasks::Fault) -> Fault {
    Fault { kind: error.kind, what: error.what }
}
