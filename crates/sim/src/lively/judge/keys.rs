//! Keys: of the open tasks of a queue one has a key, and after its end nobody takes it for as long as was asked.

use z4_tasks::EventKind;
use z4_tasks::command::{Key, NewTask, OnConflict, Target, Which};
use z4_tasks::outcome::Refusal;
use z4_types::{Millis, QueueName, TaskId};

use super::Judge;
use super::state::{Stand, due_of};
use crate::checks::{Checked, ensure};
use crate::report::Reached;

/// Which task a target names.
pub(super) enum Named {
    /// This one.
    Task(TaskId),
    /// None.
    Nobody,
    /// Only the rows know.
    Unsure,
}

impl Judge {
    /// Returns the open tasks that have a key.
    pub(super) fn holders(&self, name: &QueueName, key: &str) -> Vec<TaskId> {
        let Some(queue) = self.queues.get(name) else { return Vec::new() };
        let has = |id: &&TaskId| self.tasks[*id].key.as_ref().is_some_and(|known| known.0 == key);
        queue.open.iter().filter(has).copied().collect()
    }

    /// Returns which task a target names.
    pub(super) fn named(&self, target: &Target) -> Named {
        match &target.which {
            Which::Id(id) => Named::Task(*id),
            Which::Key { queue, key } => match self.holders(queue, key)[..] {
                [id] if !self.doubted.contains(&id) => Named::Task(id),
                [] => Named::Nobody,
                _ => Named::Unsure,
            },
        }
    }

    /// A task in doubt has ended, perhaps: so has the hold on its key.
    pub(super) fn unsure_key(&mut self, id: TaskId) {
        let task = &self.tasks[&id];
        let Some((key, _)) = task.key.clone().filter(|key| key.1.0 > 0) else { return };
        if let Some(queue) = self.queues.get_mut(&task.queue) {
            queue.used.insert(key, (id, None));
        }
    }

    /// A purge of ended tasks takes keys away as well, as far as it comes.
    pub(super) fn purged_keys(&mut self, name: &QueueName, before: TaskId) {
        if let Some(queue) = self.queues.get_mut(name) {
            queue.used.values_mut().filter(|used| used.0 < before).for_each(|used| used.1 = None);
        }
    }

    /// A new task has a key: nobody else may.
    pub(super) fn takes_key(
        &mut self,
        name: &QueueName,
        id: TaskId,
        key: &Key,
        reached: &mut Reached,
    ) -> Checked {
        for other in self.holders(name, &key.name) {
            if self.doubted.contains(&other) {
                continue;
            }
            let stand = self.tasks[&other].stand;
            let replaces = match key.on_conflict {
                OnConflict::Replace => matches!(stand, Stand::Waiting | Stand::Blocked | Stand::Dead),
                OnConflict::Debounce => stand == Stand::Dead,
                OnConflict::Fail | OnConflict::Keep => false,
            };
            ensure!(
                replaces,
                "KEY",
                "task {id} is made with the key {} of task {other}, which is {stand:?}",
                key.name
            );
            self.change(other, |task| task.stand = Stand::Ended("another one with its key"));
            self.queue_of(other).stats.cancelled += 1;
            self.tell(other, EventKind::Cancelled);
            reached.reach("task replaced by its key");
        }
        let now = self.now;
        let queue = self.queues.get_mut(name).expect("it has a new task");
        if let Some((other, Some(until))) = queue.used.remove(&key.name) {
            let replaced = self.tasks[&other].stand == Stand::Ended("another one with its key");
            ensure!(
                until <= now || replaced,
                "KEY",
                "task {id} is made with the key {} of task {other}, which keeps it until {until}",
                key.name
            );
        }
        Ok(())
    }

    /// A create was answered with a task that was there before.
    pub(super) fn found_by_key(
        &mut self,
        name: &QueueName,
        task: &NewTask,
        id: TaskId,
        reached: &mut Reached,
    ) -> Checked {
        let Some(key) = &task.key else {
            ensure!(false, "KEY", "task {id} existed, says a create without a key");
            return Ok(());
        };
        let holders = self.holders(name, &key.name);
        let used = self.queues.get(name).and_then(|queue| queue.used.get(&key.name)).copied();
        let in_window = used.is_some_and(|used| used.0 == id && used.1.is_none_or(|until| until > self.now));
        ensure!(
            holders.contains(&id) || in_window && key.on_conflict == OnConflict::Keep,
            "KEY",
            "task {id} is told to have the key {}; {holders:?} have it, used: {used:?}",
            key.name
        );
        if key.on_conflict == OnConflict::Keep {
            reached.reach("task kept by its key");
            return Ok(());
        }
        ensure!(
            key.on_conflict == OnConflict::Debounce,
            "KEY",
            "a create that asks {:?} found task {id}",
            key.on_conflict
        );
        let Some(known) = self.sure(id) else {
            self.doubt(id);
            return Ok(());
        };
        let is_in_line = matches!(known.stand, Stand::Waiting | Stand::Blocked);
        ensure!(is_in_line, "KEY", "task {id} is {:?}, and was changed", known.stand);
        let due = due_of(task.due, self.now).min(Millis::MAX_NAMEABLE).max(known.due);
        self.change(id, |known| (known.due, known.payload) = (due, task.payload.len() as u64));
        self.tell(id, EventKind::Updated);
        reached.reach("task debounced");
        Ok(())
    }

    /// A create was refused for its key.
    pub(super) fn key_refused(
        &self,
        name: &QueueName,
        task: &NewTask,
        refusal: &Refusal,
        reached: &mut Reached,
    ) -> Checked {
        let key = task.key.as_ref().map(|key| key.name.as_str()).unwrap_or_default();
        let holders = self.holders(name, key);
        match refusal {
            Refusal::KeyTaken { id, .. } => {
                ensure!(holders.contains(id), "KEY", "task {id} does not have the key {key}: {holders:?} do");
                reached.reach("key taken");
            }
            Refusal::KeyLeased { id, until, .. } => {
                let leased = self.sure(*id).is_none_or(
                    |task| matches!(task.stand, Stand::Leased { until: known, .. } if known == *until),
                );
                ensure!(leased && holders.contains(id), "KEY", "task {id} is not leased until {until}");
                reached.reach("key of a leased task refused");
            }
            Refusal::KeyUsed { id, until, .. } => {
                let used = self.queues.get(name).and_then(|queue| queue.used.get(key));
                let holds =
                    used.is_some_and(|used| used.0 == *id && used.1.is_none_or(|known| known == *until));
                ensure!(holds && *until > self.now, "KEY", "task {id} does not keep {key}: {used:?}");
                reached.reach("key of an ended task refused");
            }
            _ => {}
        }
        Ok(())
    }
}
