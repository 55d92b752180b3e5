//! Holds what the log decided against the promises, place by place, knowing every command and every outcome.
//!
//! A model of its own: it believes no pick before it has seen that the task may be delivered, and no refusal before it has
//! seen why. Where a command does not say which tasks it meant (a purge stops at its limit), the rows behind the entry
//! tell, and only what contradicts every possibility is a violation. At the end of each entry, what it touched is compared
//! with the rows: state, times, counters, settings, etags.
//!
//! Ids beside those of `checks.rs`: LIMIT more is leased, or was within a time, than settings allow · ORDER a task goes before one
//! that must go first · IDLE a lease gets less than there is · PAUSE a paused queue delivers · ETAG a condition that holds is
//! refused, or one that does not is not · SLOT a slot of a schedule
//! happens twice, not at all, out of turn, or otherwise than its policy says · AFTER a task goes before one
//! that it comes after, or does not hear of its end · KEY two open tasks of a queue have one key, or somebody has a key too soon.
//!
//! # Invariants
//! - `open` of each queue holds exactly its tasks that are not over.
//! # Not here
//! - Who has which share of a queue: `tests/shares.rs`. Queues that nobody manages: `model.rs`.
//! # Caveats
//! - Where a breaker counts failures, its pauses are taken from the rows; that it delivers nothing then is judged.
//! - Finished tasks that are kept are not modelled, `Machine::check` counts them.

mod after;
mod change;
mod create;
mod events;
mod keys;
mod lease;
pub mod schedules;
mod settle;
pub mod slots;
pub mod state;

use std::collections::{BTreeMap, BTreeSet};

use z4_tasks::command::{Command, Fire, Target, Which};
use z4_tasks::outcome::Outcome;
use z4_tasks::{EventKind, Machine, Policies, Read, TaskState};
use z4_types::{Duration, Millis, QueueName, RequestId, TaskId, Token};

use crate::checks::{Checked, Violation, ensure};
use crate::model::Tag;
use crate::report::Reached;
use after::compare_waits;
use state::{Pause, Queue, Stand, Task, row, stand_of};

/// What ended a task that was purged: its key is free at once.
const PURGE: &str = "a purge";

/// What the names of the judged queues begin with.
pub const PREFIX: &str = "lively/";

/// See the module essay.
#[derive(Debug, Default)]
pub struct Judge {
    /// Shard time.
    pub now: Millis,
    /// What the clock showed of whoever proposed the entry.
    stamp: Millis,
    /// The newest lease.
    token: Token,
    /// As last set.
    pub policies: Policies,
    /// Queues that exist.
    pub queues: BTreeMap<QueueName, Queue>,
    /// Tasks that exist or have.
    pub tasks: BTreeMap<TaskId, Task>,
    /// Those that wait for others.
    blocked: BTreeSet<TaskId>,
    /// By who asked for them.
    tags: BTreeMap<Tag, TaskId>,
    /// Slots that happened last, as they were proposed.
    pub fires: Vec<Fire>,
    /// Tasks of runs of schedules, by who asked for them.
    runs: BTreeMap<RequestId, TaskId>,
    /// Every lease there was: of which task, and until when when it began.
    pub leases: BTreeMap<Token, (TaskId, Millis)>,
    /// Of the present entry: tasks it named, those of which only the rows know what became of them, and queues.
    touched: BTreeSet<TaskId>,
    doubted: BTreeSet<TaskId>,
    busy: BTreeSet<QueueName>,
    /// Schedules of it.
    moved: BTreeSet<(QueueName, String)>,
    /// And what happened to tasks, by queue.
    happened: BTreeMap<QueueName, Vec<(EventKind, TaskId)>>,
    /// Of the purge that is judged: tasks on which a command behind it acted.
    rest: BTreeSet<TaskId>,
}

impl Judge {
    /// Judges an entry that was just applied.
    ///
    /// # Errors
    /// The first promise that it breaks.
    pub fn entry(
        &mut self,
        machine: &Machine,
        rows: &dyn Read,
        (stamp, commands): (Millis, &[Command]),
        outcomes: &[Outcome],
        reached: &mut Reached,
    ) -> Checked {
        (self.now, self.stamp) = (machine.now(), stamp);
        for (at, (command, outcome)) in commands.iter().zip(outcomes).enumerate() {
            if let Command::Purge(purge) = command {
                let behind = &commands[at + 1..];
                self.rest = named_later(behind, &outcomes[at + 1..]);
                let again = |other: &Command| match other {
                    Command::Purge(other) => other.queue == purge.queue,
                    // They may cancel the task before theirs.
                    Command::RunSchedule(run) => run.queue == purge.queue,
                    Command::Fire(fire) => fire.queue == purge.queue,
                    // It may replace a task.
                    Command::Create { queue, tasks, .. } => {
                        *queue == purge.queue && tasks.iter().any(|task| task.key.is_some())
                    }
                    _ => false,
                };
                if behind.iter().any(again) {
                    // Which of them ended what, nobody tells.
                    let open = self.queues.get(&purge.queue).map(|queue| queue.open.clone());
                    open.into_iter().flatten().for_each(|id| self.doubt(id));
                }
            }
            self.command(rows, command, outcome, reached)?;
            self.release_slots();
        }
        self.tell_some(reached);
        self.adopt(machine, rows);
        self.compare(machine, rows, reached)
    }

    fn command(
        &mut self,
        rows: &dyn Read,
        command: &Command,
        outcome: &Outcome,
        reached: &mut Reached,
    ) -> Checked {
        match (command, outcome) {
            (Command::Create { queue, tasks, .. }, Outcome::Created(answers)) => {
                self.created(queue, tasks, answers, reached)
            }
            (Command::Lease { queue, max, max_bytes, ttl, .. }, Outcome::Leased(leased)) => {
                self.leased(queue, *max, *max_bytes, *ttl, leased, reached)
            }
            (Command::Settle(asked), Outcome::Settled(answers)) => self.settled(asked, answers, reached),
            (Command::Advance { .. }, Outcome::Advanced { more, .. }) => {
                self.advanced(*more, reached);
                Ok(())
            }
            (Command::Cancel(ids), Outcome::Cancelled(answers)) => ids
                .iter()
                .zip(answers)
                .try_for_each(|(id, answer)| self.cancelled(&Target::id(*id, None), answer, reached)),
            (Command::CancelIf(asked), Outcome::Cancelled(answers)) => asked
                .iter()
                .zip(answers)
                .try_for_each(|(target, answer)| self.cancelled(target, answer, reached)),
            (Command::Redrive(asked), Outcome::Redriven(answers)) => asked
                .iter()
                .zip(answers)
                .try_for_each(|((target, delay), answer)| self.redriven(target, *delay, answer, reached)),
            (Command::UpdateTask(update), Outcome::Updated(answer)) => self.updated(update, answer, reached),
            (Command::RunNow(asked), Outcome::MadeDue(answers)) => asked
                .iter()
                .zip(answers)
                .try_for_each(|(target, answer)| self.ran_now(target, answer, reached)),
            (Command::SetQueue(set), Outcome::QueueSet(answer)) => self.queue_set(set, answer, reached),
            (Command::DeleteQueue { queue, etag }, Outcome::QueueDeleted(answer)) => {
                self.queue_deleted(queue, *etag, answer, reached)
            }
            (Command::SetPolicies(policies), Outcome::PoliciesSet(version)) => {
                self.policies_set(policies, *version, reached)
            }
            (Command::Pause(pause), Outcome::QueuePaused(answer)) => self.paused(pause, answer, reached),
            (Command::Purge(purge), Outcome::Purged(answer)) => self.purged(rows, purge, answer, reached),
            (Command::SetGroup(set), Outcome::GroupSet(answer)) => self.group_set(set, answer, reached),
            (Command::SetSchedule(set), Outcome::ScheduleSet(answer)) => {
                self.schedule_set(set, answer, reached)
            }
            (Command::DeleteSchedule { queue, name, etag }, Outcome::ScheduleDeleted(answer)) => {
                self.schedule_deleted(queue, name, *etag, answer, reached)
            }
            (Command::PauseSchedule(pause), Outcome::SchedulePaused(answer)) => {
                self.schedule_paused(pause, answer, reached)
            }
            (Command::RunSchedule(run), Outcome::ScheduleRun(answer)) => {
                self.schedule_run(rows, run, answer, reached)
            }
            (Command::Fire(fire), Outcome::SlotFired(fired)) => self.fired(rows, fire, *fired, reached),
            _ => Err(Violation::new("STATE", format!("{command:?} is answered by {outcome:?}"))),
        }
    }

    /// Returns a queue, if it is one that is judged and it exists.
    fn queue(&mut self, name: &QueueName) -> Option<&mut Queue> {
        let queue = self.queues.get_mut(name)?;
        self.busy.insert(name.clone());
        Some(queue)
    }

    fn queue_of(&mut self, id: TaskId) -> &mut Queue {
        let name = &self.tasks[&id].queue;
        self.busy.insert(name.clone());
        self.queues.get_mut(name).expect("a queue with open tasks exists")
    }

    /// Returns a task whose state is known for sure. None: it is not judged, or only the rows know.
    fn sure(&self, id: TaskId) -> Option<&Task> {
        if self.doubted.contains(&id) { None } else { self.tasks.get(&id) }
    }

    /// Returns whether the etag that is known is still the task's.
    fn knows_etag(&self, id: TaskId) -> bool {
        !self.touched.contains(&id)
    }

    /// This happened to a task: its queue's events must say so.
    fn tell(&mut self, id: TaskId, kind: EventKind) {
        let queue = self.tasks[&id].queue.clone();
        self.happened.entry(queue).or_default().push((kind, id));
    }

    fn doubt(&mut self, id: TaskId) {
        self.touched.insert(id);
        self.doubted.insert(id);
    }

    fn change(&mut self, id: TaskId, change: impl FnOnce(&mut Task)) {
        self.touched.insert(id);
        let task = self.tasks.get_mut(&id).expect("it is judged");
        let before = task.stand;
        change(task);
        let (is_open, name) = (task.stand.is_open(), task.queue.clone());
        let key = task.key.clone().filter(|key| key.1.0 > 0);
        let keeps = task.stand != Stand::Ended(PURGE);
        let until = (self.now + key.as_ref().map_or(Duration(0), |key| key.1)).min(Millis::MAX_NAMEABLE);
        // None: the queue was deleted behind the task's end.
        if let Some(queue) = self.queues.get_mut(&name) {
            if is_open {
                queue.open.insert(id);
            } else if queue.open.remove(&id)
                && let Some((name, _)) = key.filter(|_| keeps)
            {
                queue.used.insert(name, (id, Some(until)));
            }
        }
        self.busy.insert(name);
        self.pass_on(id, before);
    }

    /// Takes from the rows what is in doubt.
    fn adopt(&mut self, machine: &Machine, rows: &dyn Read) {
        // Who comes after a task was made after it.
        while let Some(id) = self.doubted.pop_first() {
            self.doubt_behind(id);
            let info = row(rows, id);
            self.change(id, |task| {
                task.stand = stand_of(info.as_ref());
                if let Some(info) = &info {
                    (task.due, task.deliveries) = (info.deliver_at, info.deliveries);
                    (task.failures, task.expires) = (info.failures, info.expires_at);
                    task.priority = info.priority.0;
                    task.payload = info.payload.len() as u64;
                }
            });
            self.adopt_waits(machine, rows, id);
            // Nobody counted what happened to it.
            if !self.tasks[&id].stand.is_open() {
                self.unsure_key(id);
            }
            if let Some(queue) = self.queues.get_mut(&self.tasks[&id].queue) {
                queue.recount = true;
            }
        }
    }

    /// Compares what the entry touched with the rows.
    fn compare(&mut self, machine: &Machine, rows: &dyn Read, reached: &mut Reached) -> Checked {
        self.compare_schedules(machine, rows)?;
        for id in std::mem::take(&mut self.touched) {
            self.compare_task(rows, id)?;
        }
        for name in std::mem::take(&mut self.busy) {
            self.compare_events(rows, &name, reached)?;
            self.compare_queue(machine, &name, reached)?;
        }
        self.happened.clear();
        Ok(())
    }

    fn compare_task(&mut self, rows: &dyn Read, id: TaskId) -> Checked {
        let Some(task) = self.tasks.get_mut(&id) else { return Ok(()) };
        let info = row(rows, id);
        if let Some(TaskState::Blocked { blockers }) = info.as_ref().map(|info| &info.state) {
            compare_waits(id, task, *blockers)?;
        }
        let stand = stand_of(info.as_ref());
        let (Some(info), true) = (info, task.stand.is_open()) else {
            ensure!(
                !stand.is_open() && !task.stand.is_open(),
                "P4",
                "task {id} is {stand:?}, and must be {:?}",
                task.stand
            );
            return Ok(());
        };
        ensure!(stand == task.stand, "P4", "task {id} is {stand:?}, and must be {:?}", task.stand);
        let found = (info.deliver_at, info.deliveries, info.failures, info.priority.0, info.max_attempts);
        let known = (task.due, task.deliveries, task.failures, task.priority, task.max_attempts);
        ensure!(
            found == known,
            "P4",
            "task {id}: due, deliveries, failures, priority, attempts are {found:?}, and must be {known:?}"
        );
        let known = task.expires.filter(|_| stand != Stand::Dead);
        ensure!(
            info.expires_at == known,
            "P4",
            "task {id} expires at {:?}, and must at {known:?}",
            info.expires_at
        );
        ensure!(
            info.group == task.group && info.queue == task.queue,
            "STATE",
            "task {id} of queue {} is of group {:?} of {}",
            task.queue,
            info.group,
            info.queue
        );
        let etag = u64::from(info.revision);
        ensure!(etag >= task.etag, "ETAG", "task {id} had etag {}, now {etag}", task.etag);
        task.etag = etag;
        Ok(())
    }

    fn compare_queue(&mut self, machine: &Machine, name: &QueueName, reached: &mut Reached) -> Checked {
        let (config, awaited) = (machine.config(name), self.awaited(name));
        let Some(queue) = self.queues.get_mut(name) else {
            ensure!(config.is_none(), "STATE", "queue {name} was deleted and is there");
            return Ok(());
        };
        let (Some(config), Some(stats)) = (config, machine.stats(name)) else {
            return Err(Violation::new("STATE", format!("queue {name} is gone")));
        };
        ensure!(
            *config.effective == queue.effective && config.settings == queue.settings,
            "STATE",
            "of queue {name} is set {:?}, which comes to {:?}; it must be {:?}, which comes to {:?}",
            config.settings,
            config.effective,
            queue.settings,
            queue.effective
        );
        ensure!(config.etag == queue.etag, "ETAG", "queue {name}: {} is not {}", config.etag, queue.etag);
        let pause = match config.paused.as_ref().map(|paused| paused.until) {
            None => Pause::No,
            Some(None) => Pause::Asked,
            Some(Some(until)) => Pause::Breaker(until),
        };
        if matches!(pause, Pause::Breaker(_)) && pause != queue.pause {
            reached.reach("breaker opened");
        }
        ensure!(
            queue.has_breaker || pause == queue.pause,
            "PAUSE",
            "queue {name}: {pause:?}, and must be {:?}",
            queue.pause
        );
        queue.pause = pause;
        if std::mem::take(&mut queue.recount) {
            queue.stats = stats;
        }
        let mut known = queue.stats;
        (known.waiting, known.leased, known.dead, known.finished) = (0, 0, 0, stats.finished);
        (known.blocked, known.awaited) = (0, awaited);
        for id in &queue.open {
            match self.tasks[id].stand {
                Stand::Waiting => known.waiting += 1,
                Stand::Blocked => known.blocked += 1,
                Stand::Leased { .. } => known.leased += 1,
                Stand::Dead => known.dead += 1,
                Stand::Ended(_) => {}
            }
        }
        ensure!(stats == known, "P4", "queue {name} counts {stats:?}, and must {known:?}");
        Ok(())
    }

    /// Compares all that is known with the rows.
    ///
    /// # Errors
    /// The first thing that differs.
    pub fn check_all(&mut self, machine: &Machine, rows: &dyn Read) -> Checked {
        self.touched = self.tasks.keys().copied().collect();
        self.busy = self.queues.keys().cloned().collect();
        let schedules = self.queues.iter().flat_map(|(name, queue)| {
            queue.schedules.keys().map(|schedule| (name.clone(), schedule.clone()))
        });
        self.moved = schedules.collect();
        self.compare(machine, rows, &mut Reached::default())
    }
}

/// Returns the id that a target names; one of no task if it names a key.
fn id_of(target: &Target) -> TaskId {
    match &target.which {
        Which::Id(id) => *id,
        Which::Key { .. } => TaskId::default(),
    }
}

/// Returns the tasks that these commands acted on with success: they were there.
fn named_later(commands: &[Command], outcomes: &[Outcome]) -> BTreeSet<TaskId> {
    fn done<'a, T: 'a, E: 'a>(
        ids: impl Iterator<Item = TaskId> + 'a,
        answers: &'a [Result<T, E>],
    ) -> impl Iterator<Item = TaskId> + 'a {
        ids.zip(answers).filter(|(_, answer)| answer.is_ok()).map(|(id, _)| id)
    }
    let mut named = BTreeSet::new();
    for (command, outcome) in commands.iter().zip(outcomes) {
        match (command, outcome) {
            (_, Outcome::Leased(leased)) => named.extend(leased.picks.iter().map(|pick| pick.id)),
            (Command::Settle(asked), Outcome::Settled(answers)) => {
                named.extend(done(asked.iter().map(|one| one.id), answers));
            }
            (Command::Cancel(ids), Outcome::Cancelled(answers)) => {
                named.extend(done(ids.iter().copied(), answers));
            }
            (Command::CancelIf(asked), Outcome::Cancelled(answers)) => {
                named.extend(done(asked.iter().map(id_of), answers));
            }
            (Command::Redrive(asked), Outcome::Redriven(answers)) => {
                named.extend(done(asked.iter().map(|one| id_of(&one.0)), answers));
            }
            (Command::RunNow(asked), Outcome::MadeDue(answers)) => {
                named.extend(done(asked.iter().map(id_of), answers));
            }
            (Command::UpdateTask(_), Outcome::Updated(Ok(updated))) => drop(named.insert(updated.id)),
            _ => {}
        }
    }
    named
}
