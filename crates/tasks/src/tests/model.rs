//! The machine answers like a naive model: a list of tasks, searched from end to end for everything.

mod after;
mod compare;
mod events;
mod follow;
mod keys;
mod queues;
mod schedules;
mod steps;

use std::collections::BTreeMap;

use proptest::prelude::*;
use z4_types::limits::{LEASE_MS_MAX, LEASE_MS_MIN, LEASE_TASKS_MAX, REQUEST_WINDOW_MS};
use z4_types::{Duration, Millis, Priority, QueueName, RequestId, ShardId, TaskId, Token};

use super::strict::StrictStore;
use crate::command::{Command, Due, NewTask, Retry, Settlement, Target, UpdateTask, Verdict, Which};
use crate::outcome::{Fired, Leased, Made, Outcome, Pick, Refusal, ScheduleRun, Settled, Updated};
use crate::{End, EntryBuilder, GroupSettings, Machine, Policies, Settings, TaskState, get, retry};
use compare::compare;
use steps::{command, step, time_step};

const SHARD: ShardId = ShardId(9);

/// Times are multiples of this many milliseconds, so that ends and clocks often meet exactly.
const GRAIN: u64 = 50;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Blocked,
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
    /// It has a stream of events: a token was drawn for it.
    stream: bool,
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
    /// Groups are not served before.
    slowed: BTreeMap<(QueueName, String), u64>,
    deliveries: follow::Deliveries,
    waits: after::Waits,
    schedules: schedules::All,
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
        self.follow_ends(64);
        self.evict();
        self.open_streams();
        self.release_slots();
        Ok(outcome)
    }

    fn command(&mut self, command: &Command) -> Outcome {
        match command {
            Command::SetSchedule(_)
            | Command::DeleteSchedule { .. }
            | Command::PauseSchedule(_)
            | Command::RunSchedule(_)
            | Command::Fire(_) => self.on_schedule(command),
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
        let (id, state) = self.waiting(target).map(|task| (task.id, task.state))?;
        if state == State::Blocked {
            let new = &self.tasks[self.open(id).expect("it waits")].new;
            let blockers = self.waits.count(id);
            let first = new.after.iter().find(|blocker| self.waits.edges.contains(&(**blocker, id)));
            return Err(Refusal::TaskBlocked { id, blockers, first: *first.expect("it is blocked") });
        }
        let task = self.waiting(target)?;
        if task.deliver_at > now {
            task.deliver_at = now;
            task.revision += 1;
        }
        Ok(Updated { id: task.id, etag: task.revision, deliver_at: Millis(task.deliver_at) })
    }

    /// Ends a task, which is kept or not.
    fn end(&mut self, position: usize, end: End) {
        let task = &self.tasks[position];
        if let Some(key) = task.new.key.as_deref().filter(|key| key.window.0 > 0) {
            let (of, until) = ((task.queue.clone(), key.name.clone()), self.now + key.window.0);
            self.windows.insert(of, (task.id, until));
        }
        let (id, was) = (self.tasks[position].id, self.tasks[position].state);
        if was != State::Dead {
            self.ended_for(id, end == End::Done);
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
    ) -> Vec<Result<Made, Refusal>> {
        match request.and_then(|request| self.recall(true, request)) {
            Some(ids) if ids.len() != tasks.len() => {
                vec![Err(Refusal::RequestReused { then: ids.len(), now: tasks.len() }); tasks.len()]
            }
            Some(ids) if !ids.contains(&TaskId(0)) => ids.into_iter().map(|id| Ok(id.into())).collect(),
            known => self.create(queue, request, tasks, &known.unwrap_or_default()),
        }
    }

    fn create(
        &mut self,
        queue: &QueueName,
        request: Option<RequestId>,
        tasks: &[NewTask],
        known: &[TaskId],
    ) -> Vec<Result<Made, Refusal>> {
        let mut ids = Vec::new();
        let mut new_ones = tasks.is_empty();
        for (n, new) in tasks.iter().enumerate() {
            if let Some(id) = known.get(n).filter(|id| **id != TaskId(0)) {
                ids.push(Ok((*id).into()));
                continue;
            }
            if let Some(known) = new.request.and_then(|request| self.recall(false, request)) {
                ids.push(Ok(known[0].into()));
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
                    ids.push(Ok(Made { id, existed: true }));
                    continue;
                }
                Some(Ok(Err(replaced))) => replaced,
                None => None,
            };
            let blockers = match self.blockers(new, replaced) {
                Ok(blockers) => blockers,
                Err(refusal) => {
                    ids.push(Err(refusal));
                    continue;
                }
            };
            let is_backlog = |task: &&Task| {
                task.queue == *queue
                    && Some(task.id) != replaced
                    && matches!(task.state, State::Waiting | State::Blocked | State::Leased { .. })
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
                state: if blockers.is_empty() { State::Waiting } else { State::Blocked },
                deliveries: 0,
                failures: 0,
                revision: u64::from(!blockers.is_empty()),
            });
            self.waits.edges.extend(blockers.into_iter().map(|blocker| (blocker, id)));
            if let Some(request) = new.request {
                self.requests.push((false, request, self.now, vec![id]));
            }
            ids.push(Ok(id.into()));
        }
        if let Some(request) = request
            && new_ones
        {
            self.requests.retain(|known| !known.0 || known.1 != request);
            let answer = ids.iter().map(|id| id.as_ref().map_or(TaskId(0), |made| made.id)).collect();
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
        let effective = self.effective(&self.tasks[position].queue);
        let (fatal, lease_duration) = (effective.non_retryable, effective.lease_duration);
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
                let ttl = if ttl.0 == 0 { lease_duration } else { *ttl };
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
        self.follow_ends(left - lapsed.len().min(left));
        let more = self.tasks.iter().any(|task| is_expired(task) || key(task).is_some());
        let more = more || !self.waits.endings.is_empty();
        Outcome::Advanced { more, dead }
    }

    fn fail(&mut self, position: usize, delay: Option<Duration>, is_final: bool) -> Settled {
        let serial = self.is_serial(&self.tasks[position]);
        let task = &mut self.tasks[position];
        task.failures += 1;
        task.revision += 1;
        if is_final || task.failures >= task.max_attempts {
            (task.state, task.ttl_at) = (State::Dead, u64::MAX);
            let id = task.id;
            self.ended_for(id, false);
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

fn due_at(new: &NewTask, now: u64) -> u64 {
    match new.due {
        Due::Now => now,
        Due::At(at) => at.0,
        Due::After(delay) => now + delay.0,
    }
}

proptest! {
    #![proptest_config(super::fixed(400))]

    #[test]
    fn the_machine_answers_like_the_model(steps in proptest::collection::vec((step(), time_step()), 1..60)) {
        let mut store = StrictStore::default();
        let mut machine = Machine::open(SHARD, &store).expect("empty");
        let mut model = Model::default();
        let (mut ids, mut tokens) = (Vec::new(), Vec::new());
        let mut readers = events::Readers::default();
        let mut now = 0i64;
        for (step, elapsed) in steps {
            now = (now + elapsed).max(0);
            let command = match &step {
                steps::Step::OnSchedule(step) => Some(model.of_schedule(step)),
                step => command(step, &ids, &tokens),
            };
            let Some(command) = command else {
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
                Outcome::Created(created) => ids.extend(created.iter().flatten().map(|made| made.id)),
                Outcome::SlotFired(Fired::Created(id)) | Outcome::ScheduleRun(Ok(ScheduleRun::Created(id))) => {
                    ids.push(*id);
                }
                Outcome::Leased(leased) => tokens.extend(leased.picks.iter().map(|pick| (pick.id, pick.token))),
                _ => {}
            }
            compare(&model, &machine, &store)?;
            readers.follow(&model, &store)?;
            model.compare_schedules(&machine, &store)?;
        }
    }
}
