//! The machine answers like a naive model: a list of tasks, searched from end to end for everything.

mod compare;
mod keys;
mod steps;

use std::collections::BTreeMap;

use proptest::prelude::*;
use z4_types::limits::{LEASE_MS_MAX, LEASE_MS_MIN, LEASE_TASKS_MAX, REQUEST_WINDOW_MS};
use z4_types::{Duration, Millis, Priority, QueueName, RequestId, ShardId, TaskId, Token};

use super::strict::StrictStore;
use crate::command::{
    Command, Due, NewTask, Purge, PurgeStates, Retry, SetMode, SetQueue, Settlement, Target, UpdateTask,
    Verdict, Which,
};
use crate::outcome::{Leased, Outcome, Pick, Purged, QueueSet, Refusal, Settled, Updated};
use crate::{Effective, End, EntryBuilder, Machine, Policies, Settings, retry};
use compare::compare;
use steps::{command, step, time_step};

const SHARD: ShardId = ShardId(9);

/// Times are multiples of this many milliseconds, so that ends and clocks often meet exactly.
const GRAIN: u64 = 50;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Leased { until: u64, token: u64 },
    Dead,
    Finished { end: End, at: u64 },
}

#[derive(Debug, Clone)]
struct Task {
    id: TaskId,
    queue: QueueName,
    new: NewTask,
    priority: Priority,
    max_attempts: u32,
    retry: Retry,
    deliver_at: u64,
    ttl_at: u64,
    state: State,
    deliveries: u32,
    failures: u32,
    revision: u64,
}

#[derive(Default)]
struct Queue {
    etag: u64,
    settings: Settings,
    paused: bool,
}

#[derive(Default)]
struct Model {
    now: u64,
    queues: BTreeMap<QueueName, Queue>,
    policies: Policies,
    tasks: Vec<Task>,
    counter: u64,
    token: u64,
    /// Keys of ended tasks: queue, key, the task, and until when.
    windows: BTreeMap<(QueueName, String), (TaskId, u64)>,
    /// Batch or task, request, when, answer.
    requests: Vec<(bool, RequestId, u64, Vec<TaskId>)>,
}

impl Model {
    fn apply(&mut self, now: u64, command: &Command) -> Outcome {
        self.now = self.now.max(now);
        let outcome = self.command(command);
        self.evict();
        outcome
    }

    fn command(&mut self, command: &Command) -> Outcome {
        match command {
            Command::Create { queue, request, tasks } => {
                Outcome::Created(self.answer(queue, *request, tasks))
            }
            Command::Lease { queue, max, max_bytes, ttl, .. } => self.lease(queue, *max, *max_bytes, *ttl),
            Command::Settle(settlements) => {
                Outcome::Settled(settlements.iter().map(|one| self.settle(one)).collect())
            }
            Command::Cancel(ids) => Outcome::Cancelled(ids.iter().map(|id| self.cancel(*id)).collect()),
            Command::Advance { limit } => self.advance(*limit),
            Command::SetQueue(set) => Outcome::QueueSet(self.set(set)),
            Command::DeleteQueue { queue, etag } => Outcome::QueueDeleted(self.delete(queue, *etag)),
            Command::SetPolicies(policies) => {
                if policies.version > self.policies.version {
                    self.policies = policies.clone();
                }
                Outcome::PoliciesSet(self.policies.version)
            }
            Command::Pause(pause) => Outcome::QueuePaused(match self.queues.get_mut(&pause.queue) {
                Some(queue) => {
                    queue.paused = pause.paused;
                    Ok(())
                }
                None => Err(Refusal::QueueNotFound(pause.queue.clone())),
            }),
            Command::Purge(purge) => Outcome::Purged(self.purge(purge)),
            Command::CancelIf(tasks) => Outcome::Cancelled(
                tasks
                    .iter()
                    .map(|target| self.target(target).and_then(|task| self.cancel(self.tasks[task].id)))
                    .collect(),
            ),
            Command::Redrive(tasks) => {
                Outcome::Redriven(tasks.iter().map(|(target, delay)| self.redrive(target, *delay)).collect())
            }
            Command::UpdateTask(update) => Outcome::Updated(self.update(update)),
            Command::RunNow(targets) => {
                Outcome::MadeDue(targets.iter().map(|target| self.run_now(target)).collect())
            }
        }
    }

    fn target(&self, target: &Target) -> Result<usize, Refusal> {
        let id = match &target.which {
            Which::Id(id) => *id,
            Which::Key { queue, key } => match self.holder(queue, key) {
                Some((id, None)) => id,
                _ => return Err(Refusal::KeyNotFound { queue: queue.clone(), key: key.as_str().into() }),
            },
        };
        let position = self.open(id).ok_or(Refusal::NotFound(id))?;
        let revision = self.tasks[position].revision;
        match target.etag {
            Some(given) if given != revision => Err(Refusal::TaskChanged { id, etag: revision, given }),
            _ => Ok(position),
        }
    }

    fn redrive(&mut self, target: &Target, delay: Duration) -> Result<Millis, Refusal> {
        let position = self.target(target)?;
        let task = &mut self.tasks[position];
        if task.state != State::Dead {
            return Err(Refusal::TaskNotDead(task.id));
        }
        (task.state, task.failures, task.deliver_at) = (State::Waiting, 0, self.now + delay.0);
        task.revision += 1;
        Ok(Millis(task.deliver_at))
    }

    fn waiting(&mut self, target: &Target) -> Result<&mut Task, Refusal> {
        let position = self.target(target)?;
        let task = &mut self.tasks[position];
        match task.state {
            State::Leased { until, .. } => Err(Refusal::TaskLeased { id: task.id, until: Millis(until) }),
            State::Dead => Err(Refusal::TaskDead(task.id)),
            _ => Ok(task),
        }
    }

    fn update(&mut self, update: &UpdateTask) -> Result<Updated, Refusal> {
        let now = self.now;
        let task = self.waiting(&update.target)?;
        match update.due {
            None => {}
            Some(Due::Now) => task.deliver_at = now,
            Some(Due::At(at)) => task.deliver_at = at.0,
            Some(Due::After(delay)) => task.deliver_at = now + delay.0,
        }
        task.priority = update.priority.unwrap_or(task.priority);
        task.new.payload = update.payload.clone().unwrap_or(task.new.payload.clone());
        task.new.metadata = update.metadata.clone().unwrap_or(task.new.metadata.clone());
        task.revision += 1;
        Ok(Updated { id: task.id, etag: task.revision, deliver_at: Millis(task.deliver_at) })
    }

    fn run_now(&mut self, target: &Target) -> Result<Updated, Refusal> {
        let now = self.now;
        let task = self.waiting(target)?;
        if task.deliver_at > now {
            task.deliver_at = now;
            task.revision += 1;
        }
        Ok(Updated { id: task.id, etag: task.revision, deliver_at: Millis(task.deliver_at) })
    }

    fn effective(&self, queue: &QueueName) -> Effective {
        let own = self.queues.get(queue).map(|queue| &queue.settings);
        self.policies.resolve(queue.as_str(), own)
    }

    fn set(&mut self, set: &SetQueue) -> Result<QueueSet, Refusal> {
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

    fn delete(&mut self, queue: &QueueName, etag: Option<u64>) -> Result<(), Refusal> {
        if !self.queues.contains_key(queue) {
            return Err(Refusal::QueueNotFound(queue.clone()));
        }
        self.same(queue, etag)?;
        let tasks = self.tasks.iter().filter(|task| task.queue == *queue).count() as u64;
        if tasks > 0 {
            return Err(Refusal::QueueNotEmpty { queue: queue.clone(), tasks });
        }
        self.queues.remove(queue);
        self.windows.retain(|(of, _), _| of != queue);
        Ok(())
    }

    fn purge(&mut self, purge: &Purge) -> Result<Purged, Refusal> {
        if !self.queues.contains_key(&purge.queue) {
            return Err(Refusal::QueueNotFound(purge.queue.clone()));
        }
        let before = self.tasks.len();
        self.tasks.retain(|task| {
            let state = match task.state {
                State::Waiting => PurgeStates::WAITING,
                State::Leased { .. } => PurgeStates::LEASED,
                State::Dead => PurgeStates::DEAD,
                State::Finished { .. } => PurgeStates::FINISHED,
            };
            task.queue != purge.queue || task.id >= purge.before || !purge.states.contains(state)
        });
        if purge.states.contains(PurgeStates::FINISHED) {
            self.windows.retain(|(of, _), (id, _)| *of != purge.queue || *id >= purge.before);
        }
        Ok(Purged { count: (before - self.tasks.len()) as u32, next: None })
    }

    /// Ends a task, which is kept or not.
    fn end(&mut self, position: usize, end: End) {
        let task = &self.tasks[position];
        if let Some(key) = task.new.key.as_deref().filter(|key| key.window.0 > 0) {
            let (of, until) = ((task.queue.clone(), key.name.clone()), self.now + key.window.0);
            self.windows.insert(of, (task.id, until));
        }
        let keeps = self.effective(&self.tasks[position].queue).retention.age.0 > 0;
        if keeps {
            let task = &mut self.tasks[position];
            (task.state, task.ttl_at) = (State::Finished { end, at: self.now }, u64::MAX);
            task.revision += 1;
        } else {
            self.tasks.remove(position);
        }
    }

    fn evict(&mut self) {
        for queue in self.queues.keys().cloned().collect::<Vec<_>>() {
            let retention = self.effective(&queue).retention;
            let ended = |task: &Task| match task.state {
                State::Finished { at, .. } if task.queue == queue => Some(at),
                _ => None,
            };
            let mut kept: Vec<(u64, TaskId)> =
                self.tasks.iter().filter_map(|task| Some((ended(task)?, task.id))).collect();
            kept.sort_unstable();
            let over = retention.count.map_or(0, |count| kept.len().saturating_sub(count as usize));
            let now = self.now;
            let goes = |place: usize, at: u64| place < over || at + retention.age.0 <= now;
            let gone: Vec<TaskId> =
                (0..).zip(&kept).filter(|(n, (at, _))| goes(*n, *at)).map(|(_, kept)| kept.1).collect();
            self.tasks.retain(|task| !gone.contains(&task.id));
        }
    }

    fn open(&self, id: TaskId) -> Option<usize> {
        let is_open = |task: &Task| !matches!(task.state, State::Finished { .. });
        self.tasks.iter().position(|task| task.id == id && is_open(task))
    }

    fn recall(&self, batch: bool, request: RequestId) -> Option<Vec<TaskId>> {
        let fresh = |at: u64| self.now < at + REQUEST_WINDOW_MS;
        let mut known = self.requests.iter();
        known
            .find(|known| known.0 == batch && known.1 == request && fresh(known.2))
            .map(|known| known.3.clone())
    }

    fn answer(
        &mut self,
        queue: &QueueName,
        request: Option<RequestId>,
        tasks: &[NewTask],
    ) -> Vec<Result<TaskId, Refusal>> {
        match request.and_then(|request| self.recall(true, request)) {
            Some(ids) if ids.len() != tasks.len() => {
                vec![Err(Refusal::RequestReused { then: ids.len(), now: tasks.len() }); tasks.len()]
            }
            Some(ids) if !ids.contains(&TaskId(0)) => ids.into_iter().map(Ok).collect(),
            known => self.create(queue, request, tasks, &known.unwrap_or_default()),
        }
    }

    fn create(
        &mut self,
        queue: &QueueName,
        request: Option<RequestId>,
        tasks: &[NewTask],
        known: &[TaskId],
    ) -> Vec<Result<TaskId, Refusal>> {
        let mut ids = Vec::new();
        let mut new_ones = tasks.is_empty();
        for (n, new) in tasks.iter().enumerate() {
            if let Some(id) = known.get(n).filter(|id| **id != TaskId(0)) {
                ids.push(Ok(*id));
                continue;
            }
            if let Some(known) = new.request.and_then(|request| self.recall(false, request)) {
                ids.push(Ok(known[0]));
                new_ones = true;
                continue;
            }
            self.queues.entry(queue.clone()).or_default();
            let effective = self.effective(queue);
            let replaced = match new.key.as_deref().map(|key| self.claim(queue, key, new)) {
                Some(Err(refusal)) => {
                    ids.push(Err(refusal));
                    continue;
                }
                Some(Ok(Ok(id))) => {
                    new_ones = true;
                    if let Some(request) = new.request {
                        self.requests.push((false, request, self.now, vec![id]));
                    }
                    ids.push(Ok(id));
                    continue;
                }
                Some(Ok(Err(replaced))) => replaced,
                None => None,
            };
            let is_backlog = |task: &&Task| {
                task.queue == *queue
                    && Some(task.id) != replaced
                    && matches!(task.state, State::Waiting | State::Leased { .. })
            };
            let backlog = self.tasks.iter().filter(is_backlog).count() as u64;
            if let Some(limit) = effective.max_backlog.filter(|limit| backlog >= *limit) {
                ids.push(Err(Refusal::BacklogFull { queue: queue.clone(), limit }));
                continue;
            }
            new_ones = true;
            if let Some(id) = replaced {
                let position = self.open(id).expect("it holds the key");
                self.end(position, End::Cancelled);
            }
            if let Some(key) = &new.key {
                self.windows.remove(&(queue.clone(), key.name.clone()));
            }
            self.counter += 1;
            let id = TaskId::new(Millis(self.now), SHARD, self.counter);
            let deliver_at = due_at(new, self.now);
            self.tasks.push(Task {
                id,
                queue: queue.clone(),
                new: new.clone(),
                priority: new.priority.unwrap_or(effective.priority),
                max_attempts: new.max_attempts.unwrap_or(effective.max_attempts),
                retry: new.retry.unwrap_or(effective.retry),
                deliver_at,
                ttl_at: match (new.ttl, effective.ttl) {
                    (Some(ttl), _) => self.now + ttl.0,
                    (None, Some(ttl)) => deliver_at.max(self.now) + ttl.0,
                    (None, None) => u64::MAX,
                },
                state: State::Waiting,
                deliveries: 0,
                failures: 0,
                revision: 0,
            });
            if let Some(request) = new.request {
                self.requests.push((false, request, self.now, vec![id]));
            }
            ids.push(Ok(id));
        }
        if let Some(request) = request
            && new_ones
        {
            self.requests.retain(|known| !known.0 || known.1 != request);
            let answer = ids.iter().map(|id| id.as_ref().copied().unwrap_or(TaskId(0))).collect();
            self.requests.push((true, request, self.now, answer));
        }
        ids
    }

    fn lease(&mut self, queue: &QueueName, max: u32, max_bytes: u64, ttl: Duration) -> Outcome {
        let ttl = if ttl.0 == 0 { self.effective(queue).lease_duration } else { ttl };
        let until = self.now + ttl.0.clamp(LEASE_MS_MIN, LEASE_MS_MAX);
        let paused = self.queues.get(queue).is_some_and(|queue| queue.paused);
        let mut due: Vec<usize> = (0..self.tasks.len())
            .filter(|_| !paused)
            .filter(|&n| self.tasks[n].queue == *queue && self.tasks[n].state == State::Waiting)
            .filter(|&n| self.tasks[n].deliver_at <= self.now)
            .collect();
        due.sort_by_key(|&n| (self.tasks[n].priority, self.tasks[n].deliver_at, self.tasks[n].id));
        let (mut picks, mut bytes, mut expired) = (Vec::new(), 0, Vec::new());
        for n in due {
            let task = &mut self.tasks[n];
            if task.ttl_at <= self.now {
                expired.push(task.id);
                continue;
            }
            bytes += task.new.payload.len() as u64;
            if picks.len() as u32 == max.min(LEASE_TASKS_MAX) || (!picks.is_empty() && bytes > max_bytes) {
                break;
            }
            self.token += 1;
            task.deliveries += 1;
            task.revision += 1;
            task.state = State::Leased { until, token: self.token };
            picks.push(Pick {
                id: task.id,
                token: Token(self.token),
                due: Millis(task.deliver_at),
                deliveries: task.deliveries,
                failures: task.failures,
                payload_bytes: task.new.payload.len() as u32,
            });
        }
        for id in expired {
            let position = self.open(id).expect("it waits");
            self.end(position, End::Expired);
        }
        Outcome::Leased(Leased { queue: queue.clone(), until: Millis(until), picks })
    }

    fn settle(&mut self, settlement: &Settlement) -> Result<Settled, Refusal> {
        let Settlement { id, token, verdict } = settlement;
        let now = self.now;
        let position = self.open(*id).ok_or(Refusal::NotFound(*id))?;
        let fatal = self.effective(&self.tasks[position].queue).non_retryable;
        let task = &mut self.tasks[position];
        if !matches!(task.state, State::Leased { until, token: held } if held == token.0 && now < until) {
            return Err(Refusal::LeaseLost { id: *id, token: *token });
        }
        Ok(match verdict {
            Verdict::Ack | Verdict::AckWith { .. } => {
                self.end(position, End::Done);
                Settled::Acked
            }
            Verdict::Nack { delay, reason } => fail(task, now, *delay, fatal.contains(reason)),
            Verdict::NackDead { .. } => fail(task, now, None, true),
            Verdict::Release { delay } => {
                task.state = State::Waiting;
                task.revision += 1;
                task.deliver_at = if delay.0 == 0 { task.deliver_at } else { now + delay.0 };
                Settled::Released(Millis(task.deliver_at))
            }
            Verdict::Extend { ttl } | Verdict::ExtendWith { ttl, .. } => {
                let until = now + ttl.0.clamp(LEASE_MS_MIN, LEASE_MS_MAX);
                let told = matches!(verdict, Verdict::ExtendWith { .. });
                let moved = task.state != State::Leased { until, token: token.0 };
                task.revision += u64::from(told || moved);
                task.state = State::Leased { until, token: token.0 };
                Settled::Extended(Millis(until))
            }
        })
    }

    fn cancel(&mut self, id: TaskId) -> Result<(), Refusal> {
        let position = self.open(id).ok_or(Refusal::NotFound(id))?;
        self.end(position, End::Cancelled);
        Ok(())
    }

    fn advance(&mut self, limit: u32) -> Outcome {
        let now = self.now;
        let mut left = limit as usize;
        self.tasks.sort_by_key(|task| (task.ttl_at, task.id));
        let is_expired = |task: &Task| task.ttl_at <= now && task.state != State::Dead;
        let expired: Vec<TaskId> =
            self.tasks.iter().filter(|task| is_expired(task)).map(|task| task.id).take(left).collect();
        left -= expired.len();
        for id in expired {
            let position = self.open(id).expect("it is open");
            self.end(position, End::Expired);
        }
        let key = |task: &Task| match task.state {
            State::Leased { until, token } if until <= now => Some((until, token)),
            _ => None,
        };
        let mut lapsed: Vec<usize> =
            (0..self.tasks.len()).filter(|&n| key(&self.tasks[n]).is_some()).collect();
        lapsed.sort_by_key(|&n| key(&self.tasks[n]));
        let mut dead = 0;
        for &n in lapsed.iter().take(left) {
            dead += u32::from(fail(&mut self.tasks[n], now, Some(Duration(0)), false) == Settled::Dead);
        }
        let more = self.tasks.iter().any(|task| is_expired(task) || key(task).is_some());
        Outcome::Advanced { more, dead }
    }
}

fn due_at(new: &NewTask, now: u64) -> u64 {
    match new.due {
        Due::Now => now,
        Due::At(at) => at.0,
        Due::After(delay) => now + delay.0,
    }
}

fn fail(task: &mut Task, now: u64, delay: Option<Duration>, is_final: bool) -> Settled {
    task.failures += 1;
    task.revision += 1;
    if is_final || task.failures >= task.max_attempts {
        (task.state, task.ttl_at) = (State::Dead, u64::MAX);
        return Settled::Dead;
    }
    let wait = delay.unwrap_or_else(|| retry::wait(&task.retry, task.failures, task.id));
    task.state = State::Waiting;
    task.deliver_at = now + wait.0;
    Settled::Retried(Millis(task.deliver_at))
}

proptest! {
    #![proptest_config(super::fixed(400))]

    #[test]
    fn the_machine_answers_like_the_model(steps in proptest::collection::vec((step(), time_step()), 1..60)) {
        let mut store = StrictStore::default();
        let mut machine = Machine::open(SHARD, &store).expect("empty");
        let mut model = Model::default();
        let (mut ids, mut tokens) = (Vec::new(), Vec::new());
        let mut now = 0i64;
        for (step, elapsed) in steps {
            now = (now + elapsed).max(0);
            let Some(command) = command(&step, &ids, &tokens) else {
                machine = Machine::open(SHARD, &store).expect("opens");
                continue;
            };
            let mut entry = EntryBuilder::new(Millis(now as u64));
            entry.push(&command);
            let outcomes = machine.apply(&mut store, &entry.finish()).expect("a built entry applies");
            let expected = model.apply(now as u64, &command);
            prop_assert_eq!(&outcomes[..], &[expected]);
            machine.check(&store).map_err(TestCaseError::fail)?;
            prop_assert_eq!(machine.now(), Millis(model.now));
            match &outcomes[0] {
                Outcome::Created(created) => ids.extend(created.iter().flatten().copied()),
                Outcome::Leased(leased) => tokens.extend(leased.picks.iter().map(|pick| (pick.id, pick.token))),
                _ => {}
            }
            compare(&model, &machine, &store)?;
        }
    }
}
