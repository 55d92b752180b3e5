//! Everything clients of a cluster were told, each fact with its place in the log of its shard, judged at the end.
//!
//! Old and new leaders answer at the same time, so the order in which answers arrive says little. But each answer
//! has a place: the entry it came of, or, for a read, the entry after which it was served. Two things make a history
//! linearizable, and both are checked. In real time ([`History::told`]): whatever was invoked after an answer was given has a
//! later place (a read: not an earlier one). In meaning ([`History::judge`]): in the order of places, the facts of a
//! shard fit the model that also judges a single host.
//!
//! A call that was never answered may have happened at any place behind what its client knew when it called.
//!
//! # Not here
//! - What fits: `model.rs`.

use std::collections::BTreeMap;
use std::sync::Arc;

use z4_host::{Budget, Delivery, Permit};
use z4_tasks::command::{NewTask, Settlement};
use z4_tasks::outcome::{Refusal, Settled};
use z4_tasks::{QueueStats, TaskInfo};
use z4_types::{Duration, Index, Millis, ShardId, TaskId};

use crate::checks::{Checked, Violation, ensure};
use crate::model::Model;
use crate::report::Reached;

/// What somebody was told.
pub enum Told {
    /// A create has happened; whether it was asked for before.
    Created(Arc<[NewTask]>, Vec<Result<TaskId, Refusal>>),
    /// Leases were settled.
    Settled(Vec<Settlement>, Vec<Result<Settled, Refusal>>),
    /// Tasks were cancelled.
    Cancelled(Vec<TaskId>, Vec<Result<(), Refusal>>),
    /// Tasks came, of this queue, under leases of this time.
    Delivered(usize, Duration, Vec<Delivery>),
    /// A task, or none.
    Got(TaskId, Millis, Option<Box<TaskInfo>>),
    /// A whole queue.
    Listed(usize, Millis, Vec<TaskInfo>),
    /// Counters of the whole shard, when nothing was left to do.
    Counted(Box<QueueStats>),
}

/// A call whose answer never came.
pub enum Unanswered {
    /// A create.
    Create(Arc<[NewTask]>),
    /// A settle.
    Settle(Vec<Settlement>),
    /// A cancel.
    Cancel(Vec<TaskId>),
}

enum What {
    Told(Box<Told>),
    Unanswered(Unanswered),
}

/// The order of facts at one index: what the entry did, what was read behind it, what may come after it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Write,
    Read,
    Later,
}

/// A create as it was sent: queue, tasks, whether they have request ids.
type Sent = (usize, Arc<[NewTask]>, bool);

struct Fact {
    at: (Index, Rank, u64),
    latest: Millis,
    what: What,
}

/// See the module essay.
pub struct History {
    facts: BTreeMap<ShardId, Vec<Fact>>,
    /// Creates by their calls, unless they certainly failed.
    creates: BTreeMap<ShardId, BTreeMap<u64, Sent>>,
    /// The furthest place of an answer.
    known: BTreeMap<ShardId, Index>,
    next: u64,
    /// Stands for the outbox's share of a delivery, which its host has back by now.
    nothing: Arc<Permit>,
    /// Facts so far.
    pub facts_told: u64,
}

impl Default for History {
    fn default() -> Self {
        let nothing = Arc::new(Budget::new(1).take_always(0));
        Self {
            facts: BTreeMap::new(),
            creates: BTreeMap::new(),
            known: BTreeMap::new(),
            next: 0,
            nothing,
            facts_told: 0,
        }
    }
}

impl History {
    /// Returns the furthest place any client of `shard` knows of: what is called now comes after it.
    #[must_use]
    pub fn known(&self, shard: ShardId) -> Index {
        self.known.get(&shard).copied().unwrap_or_default()
    }

    /// Takes note of a create that is about to be sent.
    pub fn creating(&mut self, shard: ShardId, call: u64, queue: usize, tasks: &Arc<[NewTask]>, named: bool) {
        self.creates.entry(shard).or_default().insert(call, (queue, Arc::clone(tasks), named));
    }

    /// Takes note that a create certainly did nothing.
    pub fn create_failed(&mut self, shard: ShardId, call: u64) {
        self.creates.entry(shard).or_default().remove(&call);
    }

    /// Takes note of a fact at `index`; `floor` is what was known when it was asked for, and `latest` a time that shard
    /// time cannot have passed yet.
    ///
    /// # Errors
    /// LIN if it was answered from before something that was known.
    pub fn told(
        &mut self,
        shard: ShardId,
        index: Index,
        floor: Index,
        latest: Millis,
        told: Told,
    ) -> Checked {
        let is_read = matches!(told, Told::Got(..) | Told::Listed(..) | Told::Counted(_));
        let pushed = matches!(told, Told::Delivered(..));
        ensure!(
            index > floor || index == floor && (is_read || pushed),
            "LIN",
            "shard {shard}: what was answered at entry {index} was asked for when {floor} was known"
        );
        let known = self.known.entry(shard).or_default();
        *known = index.max(*known);
        let told = match told {
            Told::Delivered(queue, ttl, tasks) => {
                let without = |task: Delivery| Delivery { held: Arc::clone(&self.nothing), ..task };
                Told::Delivered(queue, ttl, tasks.into_iter().map(without).collect())
            }
            other => other,
        };
        self.facts_told += 1;
        let rank = if is_read { Rank::Read } else { Rank::Write };
        self.put(shard, (index, rank), latest, What::Told(Box::new(told)));
        Ok(())
    }

    /// Takes note of a call that was made when `floor` was known, and that nobody will answer.
    pub fn unanswered(&mut self, shard: ShardId, floor: Index, call: Unanswered) {
        self.put(shard, (floor, Rank::Later), Millis(0), What::Unanswered(call));
    }

    fn put(&mut self, shard: ShardId, at: (Index, Rank), latest: Millis, what: What) {
        self.next += 1;
        let at = (at.0, at.1, self.next);
        self.facts.entry(shard).or_default().push(Fact { at, latest, what });
    }

    /// Holds everything against the model, shard by shard. Returns how many tasks existed.
    ///
    /// # Errors
    /// The first promise that was broken.
    pub fn judge(&mut self, reached: &mut Reached) -> Result<u64, Violation> {
        let mut tasks = 0;
        let nothing = BTreeMap::new();
        for (shard, facts) in &mut self.facts {
            facts.sort_by_key(|fact| fact.at);
            let mut model = Model::of_cluster();
            for (queue, tasks, named) in self.creates.get(shard).unwrap_or(&nothing).values() {
                model.creating(*queue, tasks, *named);
            }
            for fact in facts.iter() {
                model.not_later_than(fact.latest);
                judge(&mut model, &fact.what, reached).map_err(|violation| {
                    let (index, what) = (fact.at.0, violation.what);
                    Violation::new(violation.promise, format!("at entry {index} of shard {shard}: {what}"))
                })?;
            }
            tasks += model.created();
        }
        Ok(tasks)
    }
}

fn judge(model: &mut Model, what: &What, reached: &mut Reached) -> Checked {
    let told = match what {
        What::Unanswered(Unanswered::Create(tasks)) => {
            model.create_unknown(tasks);
            return Ok(());
        }
        What::Unanswered(Unanswered::Settle(all)) => {
            all.iter().for_each(|one| model.settle_unknown(one));
            return Ok(());
        }
        What::Unanswered(Unanswered::Cancel(all)) => {
            all.iter().for_each(|id| model.cancel_unknown(*id));
            return Ok(());
        }
        What::Told(told) => &**told,
    };
    match told {
        Told::Created(tasks, answers) => {
            if model.created_ok(tasks, answers)? {
                reached.reach("repeat answered as before");
            }
        }
        Told::Settled(asked, answers) => {
            ensure!(answers.len() == asked.len(), "P3", "{} answers to {asked:?}", answers.len());
            for (one, answer) in asked.iter().zip(answers) {
                model.settled(one, answer, reached)?;
            }
        }
        Told::Cancelled(asked, answers) => {
            for (id, answer) in asked.iter().zip(answers) {
                model.cancelled(*id, answer, reached)?;
            }
        }
        Told::Delivered(queue, ttl, tasks) => {
            for task in tasks {
                model.delivered(*queue, *ttl, task, reached)?;
            }
        }
        Told::Got(id, now, None) => model.absent(*id, *now, reached)?,
        Told::Got(_, _, Some(info)) => model.seen(None, info, reached)?,
        Told::Listed(queue, now, tasks) => {
            for info in tasks {
                model.seen(Some(*queue), info, reached)?;
            }
            let mut ids: Vec<_> = tasks.iter().map(|info| info.id).collect();
            ids.sort_unstable();
            let missing: Vec<_> = model.open(*queue).filter(|id| ids.binary_search(id).is_err()).collect();
            for id in missing {
                model.absent(id, *now, reached)?;
            }
        }
        Told::Counted(stats) => model.check_counters(stats)?,
    }
    Ok(())
}
