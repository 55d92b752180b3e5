//! Who waits for whom: a set of pairs, and the tasks that have ended since somebody looked.

use std::collections::{BTreeMap, BTreeSet};

use z4_types::{Millis, TaskId};

use super::{Model, SHARD, State};
use crate::End;
use crate::command::{NewTask, OnFailure};
use crate::outcome::Refusal;

#[derive(Default)]
pub(super) struct Waits {
    /// Predecessor and successor.
    pub(super) edges: BTreeSet<(TaskId, TaskId)>,
    /// By task and the first successor that it does not concern: whether it was acked.
    pub(super) endings: BTreeMap<(TaskId, TaskId), bool>,
}

impl Waits {
    pub(super) fn count(&self, id: TaskId) -> u32 {
        self.edges.iter().filter(|edge| edge.1 == id).count() as u32
    }
}

impl Model {
    /// Returns the predecessors of a new task that have not ended.
    pub(super) fn blockers(
        &self,
        new: &NewTask,
        replaced: Option<TaskId>,
    ) -> Result<BTreeSet<TaskId>, Refusal> {
        let mut open = BTreeSet::new();
        for &id in &new.after {
            if id.shard() != SHARD {
                return Err(Refusal::AfterElsewhere { id, shard: SHARD });
            }
            if id.counter() > self.counter {
                return Err(Refusal::AfterFuture(id));
            }
            let task = self.tasks.iter().find(|task| task.id == id).ok_or(Refusal::AfterUnknown(id))?;
            let failed = replaced == Some(id)
                || match task.state {
                    State::Waiting | State::Blocked | State::Leased { .. } => false,
                    State::Dead => true,
                    State::Finished { end, .. } => end != End::Done,
                };
            if failed && new.on_failure == OnFailure::Cancel {
                return Err(Refusal::AfterFailed(id));
            }
            if !failed && !matches!(task.state, State::Finished { .. }) {
                open.insert(id);
            }
        }
        Ok(open)
    }

    /// A task has ended or died.
    pub(super) fn ended_for(&mut self, id: TaskId, is_done: bool) {
        self.waits.edges.retain(|edge| edge.1 != id);
        if self.waits.edges.iter().any(|edge| edge.0 == id) {
            let bound = TaskId::new(Millis(self.now), SHARD, self.counter + 1);
            self.waits.endings.insert((id, bound), is_done);
        }
    }

    /// Tells up to `limit` tasks of the ends of those before them.
    pub(super) fn follow_ends(&mut self, limit: usize) {
        let mut left = limit;
        while left > 0
            && let Some((&(id, bound), &is_done)) = self.waits.endings.first_key_value()
        {
            let told = self.waits.edges.iter().filter(|edge| edge.0 == id && edge.1 < bound);
            let told: Vec<TaskId> = told.map(|edge| edge.1).collect();
            for &successor in told.iter().take(left) {
                self.tell(id, successor, is_done);
            }
            if told.len() <= left {
                self.waits.endings.remove(&(id, bound));
            }
            left -= told.len().min(left);
        }
    }

    fn tell(&mut self, id: TaskId, successor: TaskId, is_done: bool) {
        self.waits.edges.remove(&(id, successor));
        let position = self.open(successor).expect("it waits");
        let task = &mut self.tasks[position];
        assert_eq!(task.state, State::Blocked, "only those who wait are told");
        if !is_done && task.new.on_failure == OnFailure::Cancel {
            return self.end(position, End::Cancelled);
        }
        task.revision += 1;
        if self.waits.count(successor) == 0 {
            task.state = State::Waiting;
            task.deliver_at = task.deliver_at.max(self.now);
        }
    }
}
