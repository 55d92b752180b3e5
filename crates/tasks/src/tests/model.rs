//! The machine answers like a naive model: a list of tasks, searched from end to end for everything.

mod follow;

use std::collections::BTreeMap;

use proptest::prelude::*;
use z4_types::limits::{LEASE_MS_MAX, LEASE_MS_MIN, LEASE_TASKS_MAX, REQUEST_WINDOW_MS};
use z4_types::{Duration, Millis, Priority, QueueName, RequestId, ShardId, TaskId, Token};

use super::strict::StrictStore;
use crate::command::{
    Command, Due, NewTask, Pause, Purge, PurgeStates, Retry, SetGroup, SetMode, SetQueue, Settlement, Target,
    UpdateTask, Verdict,
};
use crate::outcome::{Leased, Outcome, Pick, Purged, QueueSet, Refusal, Settled, Updated};
use crate::{
    Effective, End, EntryBuilder, Fields, GroupFields, GroupPatch, GroupSettings, ListFilter, Machine, Patch,
    Phase, Policies, Rate, Retention, Settings, TaskState, get, list, retry,
};

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
    groups: BTreeMap<String, GroupSettings>,
}

#[derive(Default)]
struct Model {
    now: u64,
    queues: BTreeMap<QueueName, Queue>,
    policies: Policies,
    tasks: Vec<Task>,
    counter: u64,
    token: u64,
    /// Batch or task, request, when, answer.
    requests: Vec<(bool, RequestId, u64, Vec<TaskId>)>,
    /// Groups are not served before.
    slowed: BTreeMap<(QueueName, String), u64>,
    deliveries: follow::Deliveries,
}

impl Model {
    /// Applies a command; a Lease of which it cannot say what it picks is taken over from `answer`.
    fn apply(
        &mut self,
        now: u64,
        command: &Command,
        answer: &Outcome,
        store: &StrictStore,
    ) -> Result<Outcome, TestCaseError> {
        self.now = self.now.max(now);
        let outcome = match (command, answer) {
            (Command::Lease { queue, max, max_bytes, .. }, Outcome::Leased(leased)) if !self.knows(queue) => {
                let waits = |id| {
                    let info = get(store, id).expect("reads");
                    info.is_some_and(|info| matches!(info.state, TaskState::Waiting { .. }))
                };
                self.follow(leased, (*max, *max_bytes), waits)?;
                answer.clone()
            }
            _ => self.command(command),
        };
        self.evict();
        Ok(outcome)
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
                    .map(|&(id, etag)| {
                        self.target(Target { id, etag: Some(etag) }).and_then(|_| self.cancel(id))
                    })
                    .collect(),
            ),
            Command::Redrive(tasks) => {
                Outcome::Redriven(tasks.iter().map(|(target, delay)| self.redrive(*target, *delay)).collect())
            }
            Command::UpdateTask(update) => Outcome::Updated(self.update(update)),
            Command::RunNow(targets) => {
                Outcome::MadeDue(targets.iter().map(|target| self.run_now(*target)).collect())
            }
            Command::SetGroup(set) => Outcome::GroupSet(match self.queues.get_mut(&set.queue) {
                Some(queue) => {
                    let settings = queue.groups.entry(set.group.clone()).or_default();
                    settings.patch(&set.patch);
                    Ok(*settings)
                }
                None => Err(Refusal::QueueNotFound(set.queue.clone())),
            }),
        }
    }

    fn target(&self, target: Target) -> Result<usize, Refusal> {
        let Target { id, etag } = target;
        let position = self.open(id).ok_or(Refusal::NotFound(id))?;
        let revision = self.tasks[position].revision;
        match etag {
            Some(given) if given != revision => Err(Refusal::TaskChanged { id, etag: revision, given }),
            _ => Ok(position),
        }
    }

    fn redrive(&mut self, target: Target, delay: Duration) -> Result<Millis, Refusal> {
        let position = self.target(target)?;
        let task = &mut self.tasks[position];
        if task.state != State::Dead {
            return Err(Refusal::TaskNotDead(task.id));
        }
        (task.state, task.failures, task.deliver_at) = (State::Waiting, 0, self.now + delay.0);
        task.revision += 1;
        Ok(Millis(task.deliver_at))
    }

    fn waiting(&mut self, target: Target) -> Result<&mut Task, Refusal> {
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
        let task = self.waiting(update.target)?;
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
        Ok(Updated { etag: task.revision, deliver_at: Millis(task.deliver_at) })
    }

    fn run_now(&mut self, target: Target) -> Result<Updated, Refusal> {
        let now = self.now;
        let task = self.waiting(target)?;
        if task.deliver_at > now {
            task.deliver_at = now;
            task.revision += 1;
        }
        Ok(Updated { etag: task.revision, deliver_at: Millis(task.deliver_at) })
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
        self.slowed.retain(|(of, _), _| of != queue);
        self.deliveries.retain(|(of, _), _| of != queue);
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
        Ok(Purged { count: (before - self.tasks.len()) as u32, next: None })
    }

    /// Ends a task, which is kept or not.
    fn end(&mut self, position: usize, end: End) {
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
            let is_backlog = |task: &&Task| {
                task.queue == *queue && matches!(task.state, State::Waiting | State::Leased { .. })
            };
            let backlog = self.tasks.iter().filter(is_backlog).count() as u64;
            if let Some(limit) = effective.max_backlog.filter(|limit| backlog >= *limit) {
                ids.push(Err(Refusal::BacklogFull { queue: queue.clone(), limit }));
                continue;
            }
            new_ones = true;
            self.counter += 1;
            let id = TaskId::new(Millis(self.now), SHARD, self.counter);
            let deliver_at = match new.due {
                Due::Now => self.now,
                Due::At(at) => at.0,
                Due::After(delay) => self.now + delay.0,
            };
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
        let most = self.effective(queue).concurrency.map_or(u64::MAX, u64::from);
        let room = most.saturating_sub(self.leased(queue, None));
        let max = u64::from(max.min(LEASE_TASKS_MAX)).min(room);
        let paused = room == 0 || self.queues.get(queue).is_some_and(|queue| queue.paused);
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
            if picks.len() as u64 == max || (!picks.is_empty() && bytes > max_bytes) {
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
        let task = &self.tasks[position];
        if !matches!(task.state, State::Leased { until, token: held } if held == token.0 && now < until) {
            return Err(Refusal::LeaseLost { id: *id, token: *token });
        }
        if let (Verdict::Nack { slow_group: Some(span), .. }, Some(group)) = (verdict, &task.new.group) {
            let (queue, group) = (task.queue.clone(), group.clone());
            self.slow(&queue, &group, now + span.0);
        }
        let serial = self.is_serial(&self.tasks[position]);
        let task = &mut self.tasks[position];
        Ok(match verdict {
            Verdict::Ack | Verdict::AckWith { .. } => {
                self.end(position, End::Done);
                Settled::Acked
            }
            Verdict::Nack { delay, reason, .. } => self.fail(position, *delay, fatal.contains(reason)),
            Verdict::NackDead { .. } => self.fail(position, None, true),
            Verdict::Release { delay } => {
                task.state = State::Waiting;
                task.revision += 1;
                if delay.0 == 0 {
                    return Ok(Settled::Released(Millis(task.deliver_at)));
                }
                let due = now + delay.0;
                if serial {
                    let (queue, group) = (task.queue.clone(), task.new.group.clone().expect("serial"));
                    self.slow(&queue, &group, due);
                } else {
                    task.deliver_at = due;
                }
                Settled::Released(Millis(due))
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
            dead += u32::from(self.fail(n, Some(Duration(0)), false) == Settled::Dead);
        }
        let more = self.tasks.iter().any(|task| is_expired(task) || key(task).is_some());
        Outcome::Advanced { more, dead }
    }

    fn fail(&mut self, position: usize, delay: Option<Duration>, is_final: bool) -> Settled {
        let serial = self.is_serial(&self.tasks[position]);
        let task = &mut self.tasks[position];
        task.failures += 1;
        task.revision += 1;
        if is_final || task.failures >= task.max_attempts {
            (task.state, task.ttl_at) = (State::Dead, u64::MAX);
            return Settled::Dead;
        }
        let wait = delay.unwrap_or_else(|| retry::wait(&task.retry, task.failures, task.id));
        let due = self.now + wait.0;
        task.state = State::Waiting;
        if serial {
            let (queue, group) = (task.queue.clone(), task.new.group.clone().expect("serial"));
            self.slow(&queue, &group, due);
        } else {
            task.deliver_at = due;
        }
        Settled::Retried(Millis(due))
    }
}

/// What a random step does; ids and tokens are named by their order, so that they mostly hit.
#[derive(Debug, Clone)]
enum Step {
    Create { queue: u8, request: Option<u8>, tasks: Vec<NewTask> },
    Lease { queue: u8, max: u32, max_bytes: u64, ttl: u64 },
    Settle(Vec<(u8, Option<u8>, Verdict)>),
    Cancel(Vec<u8>),
    Set(u8, SetMode, Option<u64>, Patch),
    Delete(u8, Option<u64>),
    Policies(u64, Settings),
    Pause(u8, bool),
    Purge(u8, u8, u8),
    CancelIf(u8, u64),
    Redrive(Vec<(u8, Option<u64>, u64)>),
    Update(u8, Option<u64>, NewTask, u8),
    RunNow(Vec<(u8, Option<u64>)>),
    Group(u8, u8, GroupPatch),
    Advance { limit: u32 },
    Reopen,
}

fn new_task() -> impl Strategy<Value = NewTask> {
    let due = prop_oneof![
        3 => Just(Due::Now),
        1 => (0..60u64).prop_map(|at| Due::At(Millis(at * GRAIN))),
        1 => (0..10u64).prop_map(|delay| Due::After(Duration(delay * GRAIN))),
    ];
    let retry =
        Retry { initial: Duration(50), cap: Duration(400), multiplier_percent: 200, jitter_percent: 50 };
    (
        due,
        prop_oneof![Just(None), Just(Some(Priority(1))), Just(Some(Priority(128)))],
        0..60usize,
        proptest::option::of(1..4u32),
        proptest::option::of(Just(retry)),
        proptest::option::weighted(0.2, (1..30u64).prop_map(|ttl| ttl * GRAIN)),
        proptest::option::weighted(0.3, 0..6u128),
        proptest::option::weighted(0.5, 0..3u8),
    )
        .prop_map(|(due, priority, size, max_attempts, retry, ttl, request, group)| NewTask {
            payload: vec![b'p'; size].into(),
            metadata: Vec::new(),
            due,
            priority,
            max_attempts,
            retry,
            ttl: ttl.map(Duration),
            request: request.map(RequestId),
            group: group.map(group_name),
        })
}

fn settings() -> impl Strategy<Value = Settings> {
    let span = |most: u64| proptest::option::weighted(0.3, (1..most).prop_map(|span| Duration(span * GRAIN)));
    let retention = (0..30u64, proptest::option::of(1..4u64))
        .prop_map(|(age, count)| Retention { age: Duration(age * GRAIN), count });
    (
        span(20),
        proptest::option::weighted(0.3, 1..4u32),
        proptest::option::weighted(0.2, Just(vec!["other".to_owned(), "why".to_owned()])),
        proptest::option::weighted(0.7, retention),
        span(40),
        proptest::option::weighted(0.3, (0..3u8).prop_map(Priority)),
        proptest::option::weighted(0.2, 1..8u64),
        limits(),
    )
        .prop_map(
            |(lease_duration, max_attempts, non_retryable, retention, ttl, priority, max_backlog, limits)| {
                Settings {
                    concurrency: limits.0,
                    rate: limits.1,
                    ageing: limits.2,
                    group_weight: limits.3.weight,
                    group_serial: limits.3.serial,
                    group_concurrency: limits.3.concurrency,
                    group_rate: limits.3.rate,
                    lease_duration,
                    max_attempts,
                    non_retryable,
                    retention,
                    ttl,
                    priority,
                    max_backlog,
                    ..Settings::default()
                }
            },
        )
}

type Limits = (Option<u32>, Option<Rate>, Option<Duration>, GroupSettings);

fn rate() -> impl Strategy<Value = Option<Rate>> {
    let rate = (1..4u64, 1..4u32).prop_map(|(n, burst)| Rate { thousandths: n * n * 1_700, burst });
    proptest::option::weighted(0.2, rate)
}

fn group_settings() -> impl Strategy<Value = GroupSettings> {
    let some = |most: u32| proptest::option::weighted(0.25, 1..most);
    (some(9), proptest::option::weighted(0.3, any::<bool>()), some(4), rate())
        .prop_map(|(weight, serial, concurrency, rate)| GroupSettings { weight, serial, concurrency, rate })
}

fn limits() -> impl Strategy<Value = Limits> {
    let ageing = proptest::option::weighted(0.2, (1..5u64).prop_map(|span| Duration(span * 100)));
    (proptest::option::weighted(0.3, 1..5u32), rate(), ageing, group_settings())
}

fn group_name(number: u8) -> String {
    ["acme", "umbrella", "initech"][usize::from(number)].to_owned()
}

fn of_queues() -> impl Strategy<Value = Step> {
    let etag = || proptest::option::weighted(0.2, 0..3u64);
    let mode =
        prop_oneof![1 => Just(SetMode::Create), 1 => Just(SetMode::Update), 3 => Just(SetMode::Upsert)];
    let clear = prop_oneof![
        Just(Fields::default()),
        Just(Fields::ALL),
        Just(Fields::MAX_BACKLOG.union(Fields::TTL).union(Fields::NON_RETRYABLE))
    ];
    let patch = (settings(), clear).prop_map(|(set, clear)| Patch { set, clear });
    prop_oneof![
        4 => (0..2u8, mode, etag(), patch).prop_map(|(queue, mode, etag, patch)| Step::Set(queue, mode, etag, patch)),
        1 => (0..3u8, etag()).prop_map(|(queue, etag)| Step::Delete(queue, etag)),
        1 => (0..9u64, settings()).prop_map(|(version, settings)| Step::Policies(version, settings)),
        1 => (0..3u8, prop_oneof![1 => Just(true), 2 => Just(false)]).prop_map(|(queue, paused)| Step::Pause(queue, paused)),
        2 => (0..3u8, 0..3u8, group_settings(), prop_oneof![Just(0u8), Just(15), 0..16u8]).prop_map(
            |(queue, group, set, clear)| Step::Group(queue, group, GroupPatch { set, clear: GroupFields(clear) })),
        1 => (0..3u8, 0..16u8, any::<u8>()).prop_map(|(queue, states, id)| Step::Purge(queue, states, id)),
    ]
}

fn of_tasks() -> impl Strategy<Value = Step> {
    let etag = || proptest::option::weighted(0.3, 0..3u64);
    let redrive = (any::<u8>(), etag(), 0..6u64);
    prop_oneof![
        1 => (any::<u8>(), 0..3u64).prop_map(|(id, etag)| Step::CancelIf(id, etag)),
        3 => proptest::collection::vec(redrive, 1..4).prop_map(Step::Redrive),
        3 => (any::<u8>(), etag(), new_task(), 0..16u8)
            .prop_map(|(id, etag, new, fields)| Step::Update(id, etag, new, fields)),
        1 => proptest::collection::vec((any::<u8>(), etag()), 1..3).prop_map(Step::RunNow),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let verdict = prop_oneof![
        2 => Just(Verdict::Ack),
        1 => Just(Verdict::AckWith { result: "r".into() }),
        1 => Just(Verdict::NackDead { reason: "no".into() }),
        1 => (0..12u64).prop_map(|ttl| Verdict::ExtendWith { ttl: Duration(ttl * GRAIN), progress: "p".into() }),
        2 => (
            proptest::option::of((0..6u64).prop_map(|delay| Duration(delay * GRAIN))),
            proptest::option::weighted(0.3, (0..9u64).prop_map(|span| Duration(span * GRAIN))),
        )
            .prop_map(|(delay, slow_group)| Verdict::Nack { delay, slow_group, reason: "why".into() }),
        2 => prop_oneof![Just(0u64), 0..6u64].prop_map(|delay| Verdict::Release { delay: Duration(delay * GRAIN) }),
        1 => (0..12u64).prop_map(|ttl| Verdict::Extend { ttl: Duration(ttl * GRAIN) }),
    ];
    let settlement = (any::<u8>(), proptest::option::weighted(0.1, any::<u8>()), verdict);
    prop_oneof![
        4 => (0..2u8, proptest::option::weighted(0.2, 0..4u8), proptest::collection::vec(new_task(), 0..4))
            .prop_map(|(queue, request, tasks)| Step::Create { queue, request, tasks }),
        4 => (0..3u8, 0..5u32, 0..150u64, 0..16u64)
            .prop_map(|(queue, max, max_bytes, ttl)| Step::Lease { queue, max, max_bytes, ttl: ttl * GRAIN }),
        4 => proptest::collection::vec(settlement, 1..4).prop_map(Step::Settle),
        1 => proptest::collection::vec(any::<u8>(), 1..3).prop_map(Step::Cancel),
        2 => (0..5u32).prop_map(|limit| Step::Advance { limit }),
        2 => of_queues(),
        2 => of_tasks(),
        1 => Just(Step::Reopen),
    ]
}

/// Mostly small steps; sometimes back, sometimes over the end of the request window.
fn time_step() -> impl Strategy<Value = i64> {
    let grains = |grains: i64| grains * GRAIN as i64;
    prop_oneof![
        6 => (0..3i64).prop_map(grains),
        2 => (3..18i64).prop_map(grains),
        1 => (-10..0i64).prop_map(grains),
        1 => Just((REQUEST_WINDOW_MS / 2) as i64),
    ]
}

fn queue(number: u8) -> QueueName {
    QueueName::new(["a", "b", "unknown"][usize::from(number)]).expect("valid")
}

/// Names tasks and tokens that were given out, oldest first; a few were not.
fn command(step: &Step, ids: &[TaskId], tokens: &[(TaskId, Token)]) -> Option<Command> {
    let nobody = TaskId::new(Millis(0), SHARD, 999_999);
    let id = |n: u8| ids.get(ids.len().saturating_sub(1 + usize::from(n) % 12)).copied().unwrap_or(nobody);
    Some(match step {
        Step::Create { queue: number, request, tasks } => Command::Create {
            queue: queue(*number),
            request: request.map(|request| RequestId(request.into())),
            tasks: tasks.clone(),
        },
        Step::Lease { queue: number, max, max_bytes, ttl } => Command::Lease {
            queue: queue(*number),
            consumer: "c".into(),
            max: *max,
            max_bytes: *max_bytes,
            ttl: Duration(*ttl),
        },
        Step::Settle(settlements) => Command::Settle(
            settlements
                .iter()
                .map(|(lease, wrong, verdict)| {
                    let latest = tokens.len().saturating_sub(1 + usize::from(*lease) % 8);
                    let (leased, token) = tokens.get(latest).copied().unwrap_or((nobody, Token(7)));
                    let (id, token) = wrong.map_or((leased, token), |n| (id(n), token));
                    Settlement { id, token, verdict: verdict.clone() }
                })
                .collect(),
        ),
        Step::Cancel(numbers) => Command::Cancel(numbers.iter().map(|n| id(*n)).collect()),
        Step::Advance { limit } => Command::Advance { limit: *limit },
        Step::Set(number, mode, etag, patch) => Command::SetQueue(Box::new(SetQueue {
            queue: queue(*number),
            mode: *mode,
            etag: *etag,
            patch: patch.clone(),
        })),
        Step::Delete(number, etag) => Command::DeleteQueue { queue: queue(*number), etag: *etag },
        Step::Policies(version, settings) => {
            let list = [("*".to_owned(), settings.clone())].into();
            Command::SetPolicies(Policies { version: *version, list })
        }
        Step::Pause(number, paused) => Command::Pause(Pause {
            queue: queue(*number),
            paused: *paused,
            note: "n".into(),
            author: "a".into(),
        }),
        Step::Purge(number, states, before) => Command::Purge(Purge {
            queue: queue(*number),
            states: PurgeStates(*states),
            before: id(*before),
            limit: 2_000,
            after: None,
        }),
        Step::CancelIf(n, etag) => Command::CancelIf(vec![(id(*n), *etag)]),
        Step::Redrive(tasks) => {
            let target = |n: &u8, etag: &Option<u64>| Target { id: id(*n), etag: *etag };
            let tasks = tasks.iter().map(|(n, etag, delay)| (target(n, etag), Duration(delay * GRAIN)));
            Command::Redrive(tasks.collect())
        }
        Step::Update(n, etag, new, fields) => {
            let has = |bit: u8| fields & bit != 0;
            Command::UpdateTask(Box::new(UpdateTask {
                target: Target { id: id(*n), etag: *etag },
                due: has(1).then_some(new.due),
                priority: new.priority.filter(|_| has(2)),
                payload: has(4).then(|| new.payload.clone()),
                metadata: has(8).then(|| vec![("k".into(), "v".into())]),
            }))
        }
        Step::RunNow(tasks) => {
            Command::RunNow(tasks.iter().map(|(n, etag)| Target { id: id(*n), etag: *etag }).collect())
        }
        Step::Group(number, group, patch) => {
            Command::SetGroup(SetGroup { queue: queue(*number), group: group_name(*group), patch: *patch })
        }
        Step::Reopen => return None,
    })
}

fn compare_finished(
    mut tasks: Vec<&Task>,
    store: &StrictStore,
    queue: &QueueName,
) -> Result<(), TestCaseError> {
    let ended = |task: &Task| match task.state {
        State::Finished { end, at } => (at, task.id, end),
        _ => unreachable!("finished"),
    };
    tasks.sort_by_key(|task| (ended(task).0, task.id));
    let filter = ListFilter { state: Some(Phase::Finished(None)), ..ListFilter::default() };
    let page = list(store, queue, filter, None, 1_000).expect("reads");
    let listed = page.tasks.iter().map(|info| match info.state {
        TaskState::Finished { end, at } => (at.0, info.id, end),
        _ => unreachable!("asked for finished ones"),
    });
    prop_assert_eq!(listed.collect::<Vec<_>>(), tasks.into_iter().map(ended).collect::<Vec<_>>());
    Ok(())
}

fn compare_due(
    model: &Model,
    machine: &Machine,
    store: &StrictStore,
    queue: &QueueName,
) -> Result<(), TestCaseError> {
    let counts = machine.due(store, queue, Millis(model.now)).expect("reads");
    prop_assert_eq!(counts.is_some(), model.queues.contains_key(queue));
    let Some(counts) = counts else { return Ok(()) };
    let waiting = model.tasks.iter().filter(|task| task.queue == *queue && task.state == State::Waiting);
    let due: Vec<u64> = waiting.map(|task| task.deliver_at).collect();
    let up_to = |at: u64| due.iter().filter(|due| **due <= at).count() as u64;
    prop_assert_eq!(counts.due, up_to(model.now));
    prop_assert_eq!(
        counts.oldest_due.map(|at| at.0),
        due.iter().copied().filter(|at| *at <= model.now).min()
    );
    for (minutes, count) in [(1, counts.in_1_minute), (5, counts.in_5_minutes), (60, counts.in_60_minutes)] {
        let end_of_step = (model.now + minutes * 60_000) / 10_000 * 10_000 + 9_999;
        prop_assert_eq!(count, up_to(end_of_step) - counts.due);
    }
    Ok(())
}

/// A Lease at the time that was said does something, and before it nothing.
fn serves_when_it_says(
    store: &StrictStore,
    queue: &QueueName,
    now: u64,
    next_due: Option<Millis>,
) -> Result<(), TestCaseError> {
    let acts = |at: u64| {
        let mut store = store.clone();
        let mut machine = Machine::open(SHARD, &store).expect("opens");
        let before = machine.stats(queue);
        let (queue, max_bytes) = (queue.clone(), u64::MAX);
        let lease = Command::Lease {
            queue: queue.clone(),
            consumer: "c".into(),
            max: 1,
            max_bytes,
            ttl: Duration(0),
        };
        let mut entry = EntryBuilder::new(Millis(at));
        entry.push(&lease);
        machine.apply(&mut store, &entry.finish()).expect("applies");
        let after = machine.stats(&queue);
        after.map(|stats| (stats.deliveries, stats.expired))
            != before.map(|stats| (stats.deliveries, stats.expired))
    };
    match next_due.map(|at| at.0.max(now)) {
        Some(at) => {
            prop_assert!(acts(at), "{} was said to be served at {at}", queue);
            prop_assert!(at == now || !acts(at - 1), "{} is served before {at}", queue);
        }
        None => {
            prop_assert!(!acts(now) && !acts(now + 100_000_000), "{} is served, and it was not said", queue)
        }
    }
    Ok(())
}

/// Compares what the machine's rows say with the model's tasks.
fn compare(model: &Model, machine: &Machine, store: &StrictStore) -> Result<(), TestCaseError> {
    for number in 0..2 {
        let queue = queue(number);
        let mut tasks: Vec<&Task> = model.tasks.iter().filter(|task| task.queue == queue).collect();
        tasks.sort_by_key(|task| (task.deliver_at, task.id));
        let (finished, tasks): (Vec<&Task>, Vec<&Task>) =
            tasks.into_iter().partition(|task| matches!(task.state, State::Finished { .. }));
        compare_finished(finished, store, &queue)?;
        compare_due(model, machine, store, &queue)?;
        let paused = model.queues.get(&queue).is_some_and(|queue| queue.paused);
        let full = model.effective(&queue).concurrency;
        let full = full.is_some_and(|most| model.leased(&queue, None) >= most.into());
        let waiting = tasks.iter().filter(|task| task.state == State::Waiting);
        let earliest = waiting.map(|task| Millis(task.deliver_at)).min().filter(|_| !paused && !full);
        let next_due = machine.next_due(store, &queue).expect("reads");
        if model.knows(&queue) {
            prop_assert_eq!(next_due, earliest);
        }
        serves_when_it_says(store, &queue, model.now, next_due)?;

        let page = list(store, &queue, ListFilter::default(), None, 1_000).expect("reads");
        let listed: Vec<TaskId> = page.tasks.iter().map(|info| info.id).collect();
        prop_assert_eq!(listed, tasks.iter().map(|task| task.id).collect::<Vec<_>>());
        for (info, task) in page.tasks.iter().zip(&tasks) {
            let state = match info.state {
                TaskState::Waiting { .. } => State::Waiting,
                TaskState::Leased { until, token, .. } => State::Leased { until: until.0, token: token.0 },
                TaskState::Dead { .. } => State::Dead,
                TaskState::Finished { end, at } => State::Finished { end, at: at.0 },
            };
            prop_assert_eq!(state, task.state);
            prop_assert_eq!(info.deliver_at, Millis(task.deliver_at));
            prop_assert_eq!(u64::from(info.revision), task.revision);
            prop_assert_eq!((&info.payload, &info.metadata), (&task.new.payload, &task.new.metadata));
            prop_assert_eq!(&info.group, &task.new.group);
            prop_assert_eq!((info.priority, info.max_attempts), (task.priority, task.max_attempts));
            prop_assert_eq!((info.deliveries, info.failures), (task.deliveries, task.failures));
            prop_assert_eq!(info.expires_at, (task.ttl_at != u64::MAX).then_some(Millis(task.ttl_at)));
            let got = get(store, task.id).expect("reads");
            prop_assert_eq!(got.as_ref(), Some(info));
        }
        let dead = ListFilter { state: Some(Phase::Dead), from: Some(Millis(100)), to: Some(Millis(900)) };
        let page = list(store, &queue, dead, None, 1_000).expect("reads");
        let expected =
            tasks.iter().filter(|task| task.state == State::Dead && (100..900).contains(&task.deliver_at));
        prop_assert_eq!(page.tasks.len(), expected.count());
    }
    Ok(())
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
            let expected = model.apply(now as u64, &command, &outcomes[0], &store)?;
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
