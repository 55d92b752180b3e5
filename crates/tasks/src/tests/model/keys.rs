//! Who has a key, found by looking at every task.

use z4_types::{Millis, QueueName, TaskId};

use super::{Model, State, Task, due_at};
use crate::command::{Key, NewTask, OnConflict};
use crate::outcome::Refusal;

impl Model {
    /// Returns who has a key, and until when if that task has ended.
    pub(super) fn holder(&self, queue: &QueueName, key: &str) -> Option<(TaskId, Option<u64>)> {
        let has = |task: &&Task| {
            let name = task.new.key.as_ref().map(|key| key.name.as_str());
            task.queue == *queue && name == Some(key) && !matches!(task.state, State::Finished { .. })
        };
        if let Some(task) = self.tasks.iter().find(has) {
            return Some((task.id, None));
        }
        let ended = self.windows.get(&(queue.clone(), key.to_owned()));
        ended.filter(|(_, until)| *until > self.now).map(|(id, until)| (*id, Some(*until)))
    }

    /// Returns the task that answers a create with this key; None if a new one is made, after the one to cancel is.
    pub(super) fn claim(
        &mut self,
        queue: &QueueName,
        key: &Key,
        new: &NewTask,
    ) -> Result<Result<TaskId, Option<TaskId>>, Refusal> {
        let name = || Box::from(key.name.as_str());
        let Some((id, until)) = self.holder(queue, &key.name) else { return Ok(Err(None)) };
        if key.on_conflict == OnConflict::Keep {
            return Ok(Ok(id));
        }
        if let Some(until) = until {
            return Err(Refusal::KeyUsed { key: name(), id, until: Millis(until) });
        }
        if key.on_conflict == OnConflict::Fail {
            return Err(Refusal::KeyTaken { key: name(), id });
        }
        let now = self.now;
        let position = self.open(id).expect("it holds the key");
        let task = &mut self.tasks[position];
        match task.state {
            State::Leased { until, .. } => Err(Refusal::KeyLeased { key: name(), id, until: Millis(until) }),
            State::Waiting | State::Blocked if key.on_conflict == OnConflict::Debounce => {
                task.deliver_at = task.deliver_at.max(due_at(new, now));
                (task.new.payload, task.new.metadata) = (new.payload.clone(), new.metadata.clone());
                task.revision += 1;
                Ok(Ok(id))
            }
            _ => Ok(Err(Some(id))),
        }
    }
}
