//! What is done to a whole queue of the model.

use z4_types::{QueueName, TaskId};

use super::{Model, State, Task};
use crate::Effective;
use crate::command::{Purge, PurgeStates, SetMode, SetQueue};
use crate::outcome::{Purged, QueueSet, Refusal};

impl Model {
    pub(super) fn effective(&self, queue: &QueueName) -> Effective {
        let own = self.queues.get(queue).map(|queue| &queue.settings);
        self.policies.resolve(queue.as_str(), own)
    }

    pub(super) fn set(&mut self, set: &SetQueue) -> Result<QueueSet, Refusal> {
        let exists = self.queues.contains_key(&set.queue);
        match set.mode {
            SetMode::Create if exists => return Err(Refusal::QueueExists(set.queue.clone())),
            SetMode::Update if !exists => return Err(Refusal::QueueNotFound(set.queue.clone())),
            SetMode::Create => {}
            SetMode::Update | SetMode::Upsert => self.same(&set.queue, set.etag)?,
        }
        let queue = self.queues.entry(set.queue.clone()).or_default();
        let mut settings = queue.settings.clone();
        settings.patch(&set.patch);
        queue.etag += u64::from(!exists || settings != queue.settings);
        queue.settings = settings;
        Ok(QueueSet { created: !exists, etag: queue.etag })
    }

    fn same(&self, queue: &QueueName, given: Option<u64>) -> Result<(), Refusal> {
        let etag = self.queues.get(queue).map_or(0, |queue| queue.etag);
        match given {
            Some(given) if given != etag => Err(Refusal::QueueChanged { queue: queue.clone(), etag, given }),
            _ => Ok(()),
        }
    }

    pub(super) fn delete(&mut self, queue: &QueueName, etag: Option<u64>) -> Result<(), Refusal> {
        if !self.queues.contains_key(queue) {
            return Err(Refusal::QueueNotFound(queue.clone()));
        }
        self.same(queue, etag)?;
        let tasks = self.tasks.iter().filter(|task| task.queue == *queue).count() as u64;
        if tasks > 0 {
            return Err(Refusal::QueueNotEmpty { queue: queue.clone(), tasks });
        }
        if let Some((_, name)) = self.schedules.keys().find(|(of, _)| of == queue) {
            return Err(Refusal::QueueHasSchedules { queue: queue.clone(), schedule: name.clone() });
        }
        self.queues.remove(queue);
        self.slowed.retain(|(of, _), _| of != queue);
        self.deliveries.retain(|(of, _), _| of != queue);
        self.windows.retain(|(of, _), _| of != queue);
        Ok(())
    }

    pub(super) fn purge(&mut self, purge: &Purge) -> Result<Purged, Refusal> {
        if !self.queues.contains_key(&purge.queue) {
            return Err(Refusal::QueueNotFound(purge.queue.clone()));
        }
        let goes = |task: &Task| {
            let state = match task.state {
                State::Waiting | State::Blocked => PurgeStates::WAITING,
                State::Leased { .. } => PurgeStates::LEASED,
                State::Dead => PurgeStates::DEAD,
                State::Finished { .. } => PurgeStates::FINISHED,
            };
            task.queue == purge.queue && task.id < purge.before && purge.states.contains(state)
        };
        let gone: Vec<(TaskId, State)> =
            self.tasks.iter().filter(|task| goes(task)).map(|task| (task.id, task.state)).collect();
        self.tasks.retain(|task| !goes(task));
        for &(id, state) in &gone {
            if !matches!(state, State::Dead | State::Finished { .. }) {
                self.ended_for(id, false);
            }
        }
        if purge.states.contains(PurgeStates::FINISHED) {
            self.windows.retain(|(of, _), (id, _)| *of != purge.queue || *id >= purge.before);
        }
        Ok(Purged { count: gone.len() as u32, next: None })
    }
}
