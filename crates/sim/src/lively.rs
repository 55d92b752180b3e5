//! A second population of queues, in the same shards and logs, that uses every command: settings, policies, limits, groups,
//! pauses, purges, redrives, updates, conditions, schedules, tasks after tasks.
//!
//! The queues of `model.rs` are plain: their clients' knowledge alone judges them, unknown outcomes and all. Here too much happens
//! for that; but the simulator sees the log. Each entry goes, once, to a machine that never restarts ([`twin`]), whose
//! outcomes a [`judge`] holds against the promises, whose rows every replica must hold byte for byte, and whose outcomes are
//! what clients must have been told ([`ledger`]). So no outcome is unknown but to the clients, who go on all the same.
//!
//! ```text
//! every replica's apply ──entries──> Tap ──each once──> Twin ──commands, outcomes──> Judge: fits, or Violation
//!                       └──rows────────── compare ──────┘  └──outcomes──> Ledger <──answers, deliveries── clients
//! ```
//! Both worlds use it: they say who leads ([`Hosts`]), let clients act, and read their mail.
//!
//! # Invariants
//! - Its dice are its own: what plain clients do does not depend on it, but through time and load.
//! # Not here
//! - Reads: the plain population has them, with places in the log.

mod calm;
mod clients;
pub mod draw;
pub mod judge;
pub mod ledger;
mod tap;
pub mod twin;

use std::collections::{BTreeMap, BTreeSet};

use z4_env::{Rng, SeededRng};
use z4_host::{HostMachine, Permit, RowsRef, Write};
use z4_multiraft::Driver;
use z4_tasks::{decode_entry, encode};
use z4_types::{Millis, QueueName, ShardId};

pub use clients::Clients;
pub use tap::Tap;

use crate::checks::{Checked, Violation};
use crate::report::Reached;
use crate::swarm::Work;
use draw::Manners;
use ledger::Ledger;
use twin::Twin;

/// States of lively queues that a batch of seeds must reach, each at least once, on a host alone and in clusters.
pub const REACHED: &[&str] = &[
    "a reason was final",
    "acked with a result",
    "after a failed task refused",
    "after an ended task refused",
    "an ended task is not found",
    "backlog full",
    "blocked task is not made due",
    "breaker opened",
    "breaker tried a delivery",
    "cancelled by etag",
    "change of a dead task refused",
    "change of a leased task refused",
    "dead task redriven",
    "delete of a queue with schedules refused",
    "delete of a queue with tasks refused",
    "delivered within a concurrency",
    "delivered within a group's concurrency",
    "delivered within a group's rate",
    "delivered within a rate",
    "etag held",
    "events told what happened",
    "extended with progress",
    "group set",
    "group slowed",
    "key of a leased task refused",
    "key of an ended task refused",
    "key taken",
    "lease took all there was",
    "lively create repeated",
    "lively lease expired",
    "lively queues drained",
    "lively settlement refused",
    "lively task acked",
    "lively task cancelled",
    "lively task created",
    "lively task dead",
    "lively task delivered",
    "lively task expired",
    "nacked for good",
    "no such queue",
    "no such schedule",
    "no task with a key",
    "older policies changed nothing",
    "policies set",
    "purge stopped at its limit",
    "queue deleted",
    "queue exists already",
    "queue paused",
    "queue purged",
    "queue resumed",
    "queue set",
    "redrive of a living task refused",
    "remembered slot given up",
    "remembered slot happened",
    "run of a schedule repeated",
    "schedule changed",
    "schedule deleted",
    "schedule exists already",
    "schedule made",
    "schedule moved meanwhile",
    "schedule paused",
    "schedule resumed",
    "schedule run by hand",
    "serial group delivered",
    "serial group waits for a retry",
    "slot cancelled the task before it",
    "slot fired",
    "slot late",
    "slot overlapped",
    "slot refused",
    "slot remembered",
    "slot's task is due later",
    "stale etag of a queue refused",
    "stale etag of a schedule refused",
    "stale etag refused",
    "stale fire changed nothing",
    "task cancelled for its predecessor",
    "task debounced",
    "task freed by its predecessor",
    "task kept by its key",
    "task named by its key",
    "task replaced by its key",
    "task run after a failure",
    "task run now",
    "task updated",
    "task waits for others",
    "times of a schedule changed",
];

/// The stream of its own dice.
const DICE: u64 = 21;

/// Who can be asked.
pub trait Hosts {
    /// Returns a host that is believed to lead `shard`; None: nobody is there.
    fn leader(&mut self, shard: ShardId, rng: &mut SeededRng) -> Option<usize>;
    /// Returns a request's share of a host's budget, if there is room.
    fn permit(&mut self, host: usize, bytes: usize, freeing: bool) -> Option<Permit>;
    /// Hands a write to a host. Returns whether it was heard; if not, its consumer or call is gone.
    fn write(&mut self, host: usize, shard: ShardId, write: Write) -> bool;
    /// Returns what a client's clock shows.
    fn wall(&self) -> Millis;
}

/// See the module essay.
pub struct Lively {
    /// Hears every entry that is applied.
    tap: Tap,
    twins: BTreeMap<ShardId, Twin>,
    ledger: Ledger,
    clients: Clients,
    manners: Manners,
    /// At the end: slots that schedules wait for.
    owed: Option<calm::Owed>,
    /// And the queues that nobody needs any more.
    left: BTreeSet<QueueName>,
    /// Of the moments: whether anybody wants something.
    rng: SeededRng,
}

impl Lively {
    /// Returns the lively queues of a seed, none in some; `tap` hears every entry.
    #[must_use]
    pub fn new(seed: u64, work: &Work, tap: &Tap) -> Self {
        let (rng, manners) = (SeededRng::new(seed).fork(DICE), Manners::of(seed));
        let queue = |n| {
            let name = QueueName::new(&format!("{}q{n}", judge::PREFIX)).expect("a valid name");
            (name, ShardId(0))
        };
        let queues = (0..manners.queues).map(queue).collect();
        let clients = Clients::new(queues, work, rng.fork(1));
        Self {
            tap: tap.clone(),
            twins: BTreeMap::new(),
            ledger: Ledger::default(),
            clients,
            manners,
            owed: None,
            left: BTreeSet::new(),
            rng: rng.fork(2),
        }
    }

    /// Tells where queues live. Nobody may act before.
    pub fn place(&mut self, shard_of: impl Fn(&QueueName) -> ShardId) {
        for (queue, shard) in &mut self.clients.queues {
            *shard = shard_of(queue);
        }
    }

    /// Returns whether the seed has any.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.manners.queues > 0
    }

    /// Returns what the seed switches on.
    #[must_use]
    pub fn manners(&self) -> &Manners {
        &self.manners
    }

    /// Returns whether a queue is one of these.
    #[must_use]
    pub fn owns(queue: &QueueName) -> bool {
        queue.as_str().starts_with(judge::PREFIX)
    }

    /// Returns how many calls were made, answers judged, and tasks created.
    #[must_use]
    pub fn counts(&self) -> (u64, u64, u64) {
        let tasks = self.twins.values().map(|twin| twin.judge.tasks.len() as u64).sum();
        (self.clients.calls, self.ledger.told, tasks)
    }

    /// Judges what the log says since the last time.
    ///
    /// # Errors
    /// The first promise that was broken.
    pub fn follow(&mut self, reached: &mut Reached) -> Checked {
        for (shard, entry) in self.tap.take()? {
            if shard.0 == 0 || !self.is_on() {
                continue;
            }
            let twin = self.twins.entry(shard).or_insert_with(|| Twin::new(shard));
            let outcomes = twin.apply(&entry, reached)?;
            let (_, commands) =
                decode_entry(&entry.data).map_err(|fault| Violation::new("STATE", fault.what))?;
            for (command, outcome) in commands.iter().zip(outcomes) {
                self.ledger.logged(shard, encode(command), outcome);
            }
        }
        Ok(())
    }

    /// Lets a moment pass: somebody may want something.
    pub fn act(&mut self, hosts: &mut dyn Hosts) {
        if self.is_on() && self.rng.chance(self.manners.often, 100) {
            self.clients.act(hosts, &self.twins, &mut self.ledger, &self.manners);
        }
    }

    /// Reads what hosts have said to clients, `heard` or not. Returns it as text.
    ///
    /// # Errors
    /// The first promise that was broken.
    pub fn listen(&mut self, heard: impl Fn(usize) -> bool) -> Result<Vec<String>, Violation> {
        self.clients.listen(&mut self.ledger, heard)
    }

    /// A host has died.
    pub fn host_died(&mut self, host: usize) {
        self.clients.host_died(host);
    }

    /// Clients do not reach a host any more.
    pub fn cut_off(&mut self, host: usize) {
        self.clients.cut_off(host);
    }

    /// Returns how many calls wait for an answer.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.clients.waiting()
    }

    /// Compares the rows of a host with the twins'.
    ///
    /// # Errors
    /// P11, or STATE; as text what its storage failed with, for the caller to judge.
    pub fn compare(&mut self, driver: &mut Driver<HostMachine>) -> Result<Checked, String> {
        let mut seen: Result<Checked, String> = Ok(Ok(()));
        let twins = &self.twins;
        driver.for_each(|shard, machine, store| {
            if let (HostMachine::Tasks(_), Some(twin), Ok(Ok(()))) = (machine, twins.get(&shard), &seen) {
                seen = twin.compare(&RowsRef(store), store.meta().applied).map_err(|fault| fault.what);
            }
        });
        seen
    }
}
