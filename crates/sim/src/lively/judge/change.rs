//! What is done to tasks and queues on purpose: each happens if, and only if, it may.

use z4_tasks::command::{
    Pause as PauseCommand, Purge, PurgeStates, SetGroup, SetMode, SetQueue, Target, UpdateTask, Which,
};
use z4_tasks::outcome::{Purged, QueueSet, Refusal, Updated};
use z4_tasks::{EventKind, GroupSettings, Policies, Read};
use z4_types::{Duration, Millis, QueueName, TaskId};

use super::keys::Named;
use super::state::{Pause, Queue, Stand, after, due_of, row, stand_of};
use super::{Judge, PREFIX, PURGE};
use crate::checks::{Checked, Violation, ensure};
use crate::report::Reached;

impl Judge {
    /// Checks a condition on a task's etag, and that a task that is said to be missing is. Returns the task, unless nothing
    /// more can be said of it.
    fn condition<T>(
        &mut self,
        target: &Target,
        answer: &Result<T, Refusal>,
        reached: &mut Reached,
    ) -> Result<Option<TaskId>, Violation> {
        let id = match self.named(target) {
            Named::Task(id) => id,
            Named::Nobody => {
                ensure!(answer.is_err(), "KEY", "nobody has the key of {target:?}, and it was found");
                reached.reach("no task with a key");
                return Ok(None);
            }
            Named::Unsure => {
                self.doubt_holders(target);
                return Ok(None);
            }
        };
        let Some(task) = self.sure(id) else {
            if answer.is_ok() && self.tasks.contains_key(&id) {
                self.doubt(id);
            }
            return Ok(None);
        };
        if let Which::Key { .. } = target.which {
            reached.reach("task named by its key");
        }
        if let Err(Refusal::NotFound(_)) = answer {
            ensure!(!task.stand.is_open(), "P4", "task {id} is {:?}, and is not found", task.stand);
            reached.reach("an ended task is not found");
            return Ok(None);
        }
        ensure!(task.stand.is_open(), "P5", "task {id} was ended by {:?}, and is found", task.stand);
        let Some(given) = target.etag.filter(|_| self.knows_etag(id)) else { return Ok(Some(id)) };
        let refused = matches!(answer, Err(Refusal::TaskChanged { .. }));
        ensure!(
            refused == (given != task.etag),
            "ETAG",
            "task {id} has etag {}, {given} was given, and that was {}",
            task.etag,
            if refused { "refused" } else { "taken" }
        );
        reached.reach(if refused { "stale etag refused" } else { "etag held" });
        Ok((!refused).then_some(id))
    }

    pub(super) fn cancelled(
        &mut self,
        target: &Target,
        answer: &Result<(), Refusal>,
        reached: &mut Reached,
    ) -> Checked {
        let found = self.condition(target, answer, reached)?;
        let Some(id) = found.filter(|_| answer.is_ok()) else { return Ok(()) };
        self.change(id, |task| task.stand = Stand::Ended("its cancel"));
        self.queue_of(id).stats.cancelled += 1;
        self.tell(id, EventKind::Cancelled);
        reached.reach(if target.etag.is_some() { "cancelled by etag" } else { "lively task cancelled" });
        Ok(())
    }

    pub(super) fn redriven(
        &mut self,
        target: &Target,
        delay: Duration,
        answer: &Result<Millis, Refusal>,
        reached: &mut Reached,
    ) -> Checked {
        let Some(id) = self.condition(target, answer, reached)? else { return Ok(()) };
        let stand = self.tasks[&id].stand;
        match answer {
            Ok(due) => {
                let wanted = after(self.now, delay);
                ensure!(stand == Stand::Dead, "P4", "task {id} is {stand:?}, and was redriven");
                ensure!(*due == wanted, "P2", "task {id} was redriven to {due}, and must to {wanted}");
                self.change(id, |task| {
                    (task.stand, task.due, task.failures, task.expires) = (Stand::Waiting, wanted, 0, None);
                });
                self.tell(id, EventKind::Redriven);
                reached.reach("dead task redriven");
            }
            Err(Refusal::TaskNotDead(_)) => {
                ensure!(stand != Stand::Dead, "P4", "task {id} is dead, and was not redriven");
                reached.reach("redrive of a living task refused");
            }
            Err(_) => {}
        }
        Ok(())
    }

    /// Something was done to one of them, perhaps.
    fn doubt_holders(&mut self, target: &Target) {
        let Which::Key { queue, key } = &target.which else { return };
        for id in self.holders(queue, key) {
            self.doubt(id);
        }
    }

    pub(super) fn updated(
        &mut self,
        update: &UpdateTask,
        answer: &Result<Updated, Refusal>,
        reached: &mut Reached,
    ) -> Checked {
        let Some(id) = self.condition(&update.target, answer, reached)? else { return Ok(()) };
        if !self.is_changeable(id, answer, reached)? {
            return Ok(());
        }
        let now = self.now;
        let due = update.due.map_or(self.tasks[&id].due, |due| due_of(due, now)).min(Millis::MAX_NAMEABLE);
        self.moved(id, due, answer)?;
        self.change(id, |task| {
            task.priority = update.priority.map_or(task.priority, |priority| priority.0);
            task.payload = update.payload.as_ref().map_or(task.payload, |payload| payload.len() as u64);
        });
        self.tell(id, EventKind::Updated);
        reached.reach("task updated");
        Ok(())
    }

    pub(super) fn ran_now(
        &mut self,
        target: &Target,
        answer: &Result<Updated, Refusal>,
        reached: &mut Reached,
    ) -> Checked {
        let Some(id) = self.condition(target, answer, reached)? else { return Ok(()) };
        if !self.is_changeable(id, answer, reached)? {
            return Ok(());
        }
        ensure!(
            self.tasks[&id].stand != Stand::Blocked,
            "AFTER",
            "task {id} waits for others, and was made due"
        );
        let due = self.tasks[&id].due;
        if due > self.now {
            reached.reach("task run now");
            self.tell(id, EventKind::Updated);
        }
        self.moved(id, due.min(self.now), answer)
    }

    /// Only a waiting task is changed, be it for others. Returns whether this one was.
    fn is_changeable(
        &self,
        id: TaskId,
        answer: &Result<Updated, Refusal>,
        reached: &mut Reached,
    ) -> Result<bool, Violation> {
        let stand = self.tasks[&id].stand;
        match answer {
            Ok(_) => {
                let waits = matches!(stand, Stand::Waiting | Stand::Blocked);
                ensure!(waits, "P3", "task {id} is {stand:?}, and was changed");
                return Ok(true);
            }
            Err(Refusal::TaskBlocked { blockers, first, .. }) => {
                let on = &self.tasks[&id].waits.on;
                let fits = *blockers as usize == on.len() && on.contains(first);
                ensure!(fits, "AFTER", "task {id} waits for {on:?}, told are {blockers}, {first} among them");
                reached.reach("blocked task is not made due");
            }
            Err(Refusal::TaskLeased { until, .. }) => {
                let is_leased = matches!(stand, Stand::Leased { until: known, .. } if known == *until);
                ensure!(is_leased, "P4", "task {id} is {stand:?}, not leased until {until}");
                reached.reach("change of a leased task refused");
            }
            Err(Refusal::TaskDead(_)) => {
                ensure!(stand == Stand::Dead, "P4", "task {id} is {stand:?}, not dead");
                reached.reach("change of a dead task refused");
            }
            Err(refusal) => {
                let stale = matches!(refusal, Refusal::TaskChanged { .. });
                ensure!(stale, "P4", "a change of task {id}, which is {stand:?}, was refused: {refusal}");
            }
        }
        Ok(false)
    }

    fn moved(&mut self, id: TaskId, due: Millis, answer: &Result<Updated, Refusal>) -> Checked {
        let Ok(updated) = answer else { return Ok(()) };
        ensure!(
            updated.deliver_at == due && updated.id == id,
            "P2",
            "task {id} is due at {}, and must be at {due}",
            updated.deliver_at
        );
        self.change(id, |task| task.due = due);
        Ok(())
    }

    pub(super) fn queue_set(
        &mut self,
        set: &SetQueue,
        answer: &Result<QueueSet, Refusal>,
        reached: &mut Reached,
    ) -> Checked {
        let name = &set.queue;
        if !name.as_str().starts_with(PREFIX) {
            return Ok(());
        }
        let before = self.queue(name).map(|queue| queue.etag);
        let etag = before.unwrap_or(0);
        let QueueSet { created, etag: told } = match answer {
            Ok(set) => *set,
            Err(Refusal::QueueExists(_)) => {
                ensure!(
                    set.mode == SetMode::Create && before.is_some(),
                    "STATE",
                    "queue {name} did not exist"
                );
                reached.reach("queue exists already");
                return Ok(());
            }
            Err(Refusal::QueueNotFound(_)) => {
                ensure!(set.mode == SetMode::Update && before.is_none(), "STATE", "queue {name} exists");
                reached.reach("no such queue");
                return Ok(());
            }
            Err(refusal) => {
                let changed = set.mode != SetMode::Create && set.etag.is_some_and(|given| given != etag);
                ensure!(changed, "ETAG", "queue {name} has etag {etag}: {refusal}");
                reached.reach("stale etag of a queue refused");
                return Ok(());
            }
        };
        let conditional = set.mode != SetMode::Create;
        ensure!(
            !conditional || set.etag.is_none_or(|given| given == etag),
            "ETAG",
            "queue {name} has etag {etag}, and was set with {:?}",
            set.etag
        );
        ensure!(
            created == before.is_none(),
            "STATE",
            "queue {name}: created is {created}, etag was {before:?}"
        );
        let (policies, now) = (&self.policies, self.now);
        let queue = self.queues.entry(name.clone()).or_insert_with(|| Queue::new(name, policies));
        let old = queue.settings.clone();
        queue.settings.patch(&set.patch);
        queue.etag += u64::from(created || old != queue.settings);
        queue.resolve(name, policies, now);
        ensure!(told == queue.etag, "ETAG", "queue {name} has etag {}, and {told} is told", queue.etag);
        self.busy.insert(name.clone());
        reached.reach("queue set");
        Ok(())
    }

    pub(super) fn queue_deleted(
        &mut self,
        name: &QueueName,
        etag: Option<u64>,
        answer: &Result<(), Refusal>,
        reached: &mut Reached,
    ) -> Checked {
        if !name.as_str().starts_with(PREFIX) {
            return Ok(());
        }
        let known = self.queue(name).map(|queue| (queue.etag, queue.open.len() as u64));
        let doubtful = known.is_some() && self.queues[name].open.iter().any(|id| self.doubted.contains(id));
        match (answer, known) {
            (Ok(()), Some((is, open))) => {
                ensure!(open == 0 || doubtful, "P4", "queue {name} is deleted with {open} tasks");
                let schedules = self.queues[name].schedules.len();
                ensure!(schedules == 0, "SLOT", "queue {name} is deleted with {schedules} schedules");
                ensure!(
                    etag.is_none_or(|given| given == is),
                    "ETAG",
                    "queue {name} has etag {is}, not {etag:?}"
                );
                let open: Vec<TaskId> = self.queues[name].open.iter().copied().collect();
                open.into_iter().for_each(|id| self.doubt_behind(id));
                let queue = self.queues.remove(name).expect("looked at above");
                for id in queue.open {
                    self.tasks.get_mut(&id).expect("it was open").stand = Stand::Ended(PURGE);
                    self.doubted.remove(&id);
                }
                reached.reach("queue deleted");
            }
            (Err(Refusal::QueueNotFound(_)), None) => reached.reach("no such queue"),
            (Err(Refusal::QueueChanged { .. }), Some((is, _))) => {
                ensure!(etag.is_some_and(|given| given != is), "ETAG", "queue {name} has etag {is}");
                reached.reach("stale etag of a queue refused");
            }
            (Err(Refusal::QueueHasSchedules { schedule, .. }), Some(_)) => {
                let has = self.queues[name].schedules.contains_key(schedule);
                ensure!(has, "STATE", "queue {name} has no schedule {schedule}");
                reached.reach("delete of a queue with schedules refused");
            }
            (Err(Refusal::QueueAwaited(_)), Some(_)) => {
                let awaited = self.awaited(name);
                ensure!(awaited > 0 || doubtful, "AFTER", "nobody waits for tasks of queue {name}");
            }
            (Err(Refusal::QueueNotEmpty { tasks, .. }), Some((_, open))) => {
                ensure!(
                    (*tasks >= open || doubtful) && *tasks > 0,
                    "P4",
                    "queue {name} holds {open} tasks, {tasks} are told"
                );
                reached.reach("delete of a queue with tasks refused");
            }
            (answer, known) => ensure!(false, "STATE", "delete of queue {name} ({known:?}): {answer:?}"),
        }
        Ok(())
    }

    pub(super) fn policies_set(
        &mut self,
        policies: &Policies,
        version: u64,
        reached: &mut Reached,
    ) -> Checked {
        let newest = policies.version.max(self.policies.version);
        ensure!(version == newest, "STATE", "policies have version {version}, and must have {newest}");
        if policies.version <= self.policies.version {
            reached.reach("older policies changed nothing");
            return Ok(());
        }
        self.policies = policies.clone();
        for (name, queue) in &mut self.queues {
            queue.resolve(name, &self.policies, self.now);
            self.busy.insert(name.clone());
        }
        reached.reach("policies set");
        Ok(())
    }

    pub(super) fn paused(
        &mut self,
        pause: &PauseCommand,
        answer: &Result<(), Refusal>,
        reached: &mut Reached,
    ) -> Checked {
        let name = &pause.queue;
        if !name.as_str().starts_with(PREFIX) {
            return Ok(());
        }
        let Some(queue) = self.queue(name) else {
            ensure!(answer.is_err(), "STATE", "queue {name} is paused, and does not exist");
            reached.reach("no such queue");
            return Ok(());
        };
        ensure!(answer.is_ok(), "STATE", "queue {name} exists, and was not paused: {answer:?}");
        queue.pause = if pause.paused { Pause::Asked } else { Pause::No };
        reached.reach(if pause.paused { "queue paused" } else { "queue resumed" });
        Ok(())
    }

    pub(super) fn group_set(
        &mut self,
        set: &SetGroup,
        answer: &Result<GroupSettings, Refusal>,
        reached: &mut Reached,
    ) -> Checked {
        let (name, now) = (&set.queue, self.now);
        if !name.as_str().starts_with(PREFIX) {
            return Ok(());
        }
        let Some(queue) = self.queue(name) else {
            ensure!(answer.is_err(), "STATE", "a group of queue {name} was set, which does not exist");
            reached.reach("no such queue");
            return Ok(());
        };
        let mut settings = queue.groups.get(&set.group).copied().unwrap_or_default();
        settings.patch(&set.patch);
        ensure!(
            answer.as_ref() == Ok(&settings),
            "STATE",
            "group {} of queue {name} is set to {answer:?}, and must be to {settings:?}",
            set.group
        );
        queue.groups.insert(set.group.clone(), settings);
        if queue.meters.contains_key(&set.group) {
            queue.meter_of(&set.group, now);
        }
        reached.reach("group set");
        Ok(())
    }

    pub(super) fn purged(
        &mut self,
        rows: &dyn Read,
        purge: &Purge,
        answer: &Result<Purged, Refusal>,
        reached: &mut Reached,
    ) -> Checked {
        let name = &purge.queue;
        if !name.as_str().starts_with(PREFIX) {
            return Ok(());
        }
        let Some(queue) = self.queue(name) else {
            ensure!(answer.is_err(), "STATE", "queue {name} was purged, and does not exist");
            reached.reach("no such queue");
            return Ok(());
        };
        let Ok(Purged { count, next }) = answer else {
            ensure!(false, "STATE", "queue {name} exists, and was not purged: {answer:?}");
            return Ok(());
        };
        let open: Vec<TaskId> = queue.open.iter().copied().collect();
        if purge.states.contains(PurgeStates::FINISHED) {
            self.purged_keys(name, purge.before);
        }
        let now = self.now;
        let (mut purged, mut left, mut unsure) = (0, 0, 0_u32);
        for id in open {
            let Some(task) = self.sure(id) else {
                unsure += 1;
                continue;
            };
            if id >= purge.before || !purge.states.contains(state_of(task.stand)) {
                continue;
            }
            if self.rest.contains(&id) || stand_of(row(rows, id).as_ref()).is_open() {
                left += 1;
            } else if task.stand == Stand::Blocked || task.expires.is_some_and(|at| at <= now) {
                // A lease behind this may have ended it just as well, or the end of a task before it.
                unsure += 1;
                self.doubt(id);
            } else {
                purged += 1;
                self.change(id, |task| task.stand = Stand::Ended(PURGE));
                self.queue_of(id).stats.cancelled += 1;
                self.tell(id, EventKind::Cancelled);
            }
        }
        ensure!(
            purged <= *count && (purge.states.contains(PurgeStates::FINISHED) || *count <= purged + unsure),
            "P4",
            "{count} tasks of queue {name} were purged, {purged} and perhaps {unsure} are gone"
        );
        ensure!(*count <= purge.limit.max(1), "LIMIT", "{count} tasks are purged, {} may be", purge.limit);
        ensure!(
            next.is_some() || purge.after.is_some() || left == 0,
            "P4",
            "queue {name} is purged, and {left} tasks are left"
        );
        if purged > 0 {
            reached.reach("queue purged");
        }
        if next.is_some() {
            reached.reach("purge stopped at its limit");
        }
        Ok(())
    }
}

/// Returns the state that a purge knows a task by.
fn state_of(stand: Stand) -> PurgeStates {
    match stand {
        Stand::Waiting | Stand::Blocked => PurgeStates::WAITING,
        Stand::Leased { .. } => PurgeStates::LEASED,
        Stand::Dead => PurgeStates::DEAD,
        Stand::Ended(_) => PurgeStates::FINISHED,
    }
}
