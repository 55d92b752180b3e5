//! The machine answers like a naive model: a list of tasks, searched from end to end for everything.

use proptest::prelude::*;
use z4_types::limits::{
    LEASE_MS_MAX, LEASE_MS_MIN, LEASE_TASKS_MAX, MAX_ATTEMPTS_DEFAULT, REQUEST_WINDOW_MS,
};
use z4_types::{Duration, Millis, Priority, QueueName, RequestId, ShardId, TaskId, Token};

use super::strict::StrictStore;
use crate::command::{Command, Due, NewTask, Retry, Settlement, Verdict};
use crate::outcome::{Leased, Outcome, Pick, Refusal, Settled};
use crate::{EntryBuilder, ListFilter, Machine, Phase, TaskState, get, list, retry};

const SHARD: ShardId = ShardId(9);

/// Times are multiples of this many milliseconds, so that ends and clocks often meet exactly.
const GRAIN: u64 = 50;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Leased { until: u64, token: u64 },
    Dead,
}

#[derive(Debug, Clone)]
struct Task {
    id: TaskId,
    queue: QueueName,
    new: NewTask,
    deliver_at: u64,
    ttl_at: u64,
    state: State,
    deliveries: u32,
    failures: u32,
}

#[derive(Default)]
struct Model {
    now: u64,
    tasks: Vec<Task>,
    counter: u64,
    token: u64,
    /// Batch or task, request, when, answer.
    requests: Vec<(bool, RequestId, u64, Vec<TaskId>)>,
}

impl Model {
    fn apply(&mut self, now: u64, command: &Command) -> Outcome {
        self.now = self.now.max(now);
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
        }
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
            Some(ids) => ids.into_iter().map(Ok).collect(),
            None => self.create(queue, request, tasks).into_iter().map(Ok).collect(),
        }
    }

    fn create(&mut self, queue: &QueueName, request: Option<RequestId>, tasks: &[NewTask]) -> Vec<TaskId> {
        let mut ids = Vec::new();
        for new in tasks {
            if let Some(known) = new.request.and_then(|request| self.recall(false, request)) {
                ids.push(known[0]);
                continue;
            }
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
                deliver_at,
                ttl_at: new.ttl.map_or(u64::MAX, |ttl| self.now + ttl.0),
                state: State::Waiting,
                deliveries: 0,
                failures: 0,
            });
            if let Some(request) = new.request {
                self.requests.push((false, request, self.now, vec![id]));
            }
            ids.push(id);
        }
        if let Some(request) = request {
            self.requests.push((true, request, self.now, ids.clone()));
        }
        ids
    }

    fn lease(&mut self, queue: &QueueName, max: u32, max_bytes: u64, ttl: Duration) -> Outcome {
        let until = self.now + ttl.0.clamp(LEASE_MS_MIN, LEASE_MS_MAX);
        let mut due: Vec<usize> = (0..self.tasks.len())
            .filter(|&n| self.tasks[n].queue == *queue && self.tasks[n].state == State::Waiting)
            .filter(|&n| self.tasks[n].deliver_at <= self.now)
            .collect();
        due.sort_by_key(|&n| (self.tasks[n].new.priority, self.tasks[n].deliver_at, self.tasks[n].id));
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
        self.tasks.retain(|task| !expired.contains(&task.id));
        Outcome::Leased(Leased { queue: queue.clone(), until: Millis(until), picks })
    }

    fn settle(&mut self, settlement: &Settlement) -> Result<Settled, Refusal> {
        let Settlement { id, token, verdict } = settlement;
        let now = self.now;
        let position = self.tasks.iter().position(|task| task.id == *id).ok_or(Refusal::NotFound(*id))?;
        let task = &mut self.tasks[position];
        if !matches!(task.state, State::Leased { until, token: held } if held == token.0 && now < until) {
            return Err(Refusal::LeaseLost { id: *id, token: *token });
        }
        Ok(match verdict {
            Verdict::Ack => {
                self.tasks.remove(position);
                Settled::Acked
            }
            Verdict::Nack { delay, .. } => fail(task, now, *delay),
            Verdict::Release { delay } => {
                task.state = State::Waiting;
                task.deliver_at = if delay.0 == 0 { task.deliver_at } else { now + delay.0 };
                Settled::Released(Millis(task.deliver_at))
            }
            Verdict::Extend { ttl } => {
                let until = now + ttl.0.clamp(LEASE_MS_MIN, LEASE_MS_MAX);
                task.state = State::Leased { until, token: token.0 };
                Settled::Extended(Millis(until))
            }
        })
    }

    fn cancel(&mut self, id: TaskId) -> Result<(), Refusal> {
        let position = self.tasks.iter().position(|task| task.id == id).ok_or(Refusal::NotFound(id))?;
        self.tasks.remove(position);
        Ok(())
    }

    fn advance(&mut self, limit: u32) -> Outcome {
        let now = self.now;
        let mut left = limit as usize;
        self.tasks.sort_by_key(|task| (task.ttl_at, task.id));
        let is_expired = |task: &Task| task.ttl_at <= now && task.state != State::Dead;
        self.tasks.retain(|task| {
            let ends = is_expired(task) && left > 0;
            left -= usize::from(ends);
            !ends
        });
        let key = |task: &Task| match task.state {
            State::Leased { until, token } if until <= now => Some((until, token)),
            _ => None,
        };
        let mut lapsed: Vec<usize> =
            (0..self.tasks.len()).filter(|&n| key(&self.tasks[n]).is_some()).collect();
        lapsed.sort_by_key(|&n| key(&self.tasks[n]));
        let mut dead = 0;
        for &n in lapsed.iter().take(left) {
            dead += u32::from(fail(&mut self.tasks[n], now, Some(Duration(0))) == Settled::Dead);
        }
        let more = self.tasks.iter().any(|task| is_expired(task) || key(task).is_some());
        Outcome::Advanced { more, dead }
    }
}

fn fail(task: &mut Task, now: u64, delay: Option<Duration>) -> Settled {
    task.failures += 1;
    if task.failures >= task.new.max_attempts.unwrap_or(MAX_ATTEMPTS_DEFAULT) {
        (task.state, task.ttl_at) = (State::Dead, u64::MAX);
        return Settled::Dead;
    }
    let policy = task.new.retry.unwrap_or_default();
    let wait = delay.unwrap_or_else(|| retry::wait(&policy, task.failures, task.id));
    task.state = State::Waiting;
    task.deliver_at = now + wait.0;
    Settled::Retried(Millis(task.deliver_at))
}

/// What a random step does; ids and tokens are named by their order, so that they mostly hit.
#[derive(Debug, Clone)]
enum Step {
    Create { queue: u8, request: Option<u8>, tasks: Vec<NewTask> },
    Lease { queue: u8, max: u32, max_bytes: u64, ttl: u64 },
    Settle(Vec<(u8, Option<u8>, Verdict)>),
    Cancel(Vec<u8>),
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
        prop_oneof![Just(1u8), Just(128)],
        0..60usize,
        proptest::option::of(1..4u32),
        proptest::option::of(Just(retry)),
        proptest::option::weighted(0.2, (1..30u64).prop_map(|ttl| ttl * GRAIN)),
        proptest::option::weighted(0.3, 0..6u128),
    )
        .prop_map(|(due, priority, size, max_attempts, retry, ttl, request)| NewTask {
            payload: vec![b'p'; size].into(),
            metadata: Vec::new(),
            due,
            priority: Priority(priority),
            max_attempts,
            retry,
            ttl: ttl.map(Duration),
            request: request.map(RequestId),
        })
}

fn step() -> impl Strategy<Value = Step> {
    let verdict = prop_oneof![
        3 => Just(Verdict::Ack),
        2 => proptest::option::of((0..6u64).prop_map(|delay| Duration(delay * GRAIN)))
            .prop_map(|delay| Verdict::Nack { delay, reason: "why".into() }),
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
        Step::Reopen => return None,
    })
}

/// Compares what the machine's rows say with the model's tasks.
fn compare(model: &Model, machine: &Machine, store: &StrictStore) -> Result<(), TestCaseError> {
    for number in 0..2 {
        let queue = queue(number);
        let mut tasks: Vec<&Task> = model.tasks.iter().filter(|task| task.queue == queue).collect();
        tasks.sort_by_key(|task| (task.deliver_at, task.id));
        let waiting = tasks.iter().filter(|task| task.state == State::Waiting);
        let earliest = waiting.map(|task| Millis(task.deliver_at)).min();
        prop_assert_eq!(machine.next_due(store, &queue).expect("reads"), earliest);

        let page = list(store, &queue, ListFilter::default(), None, 1_000).expect("reads");
        let listed: Vec<TaskId> = page.tasks.iter().map(|info| info.id).collect();
        prop_assert_eq!(listed, tasks.iter().map(|task| task.id).collect::<Vec<_>>());
        for (info, task) in page.tasks.iter().zip(&tasks) {
            let state = match info.state {
                TaskState::Waiting { .. } => State::Waiting,
                TaskState::Leased { until, token, .. } => State::Leased { until: until.0, token: token.0 },
                TaskState::Dead { .. } => State::Dead,
            };
            prop_assert_eq!(state, task.state);
            prop_assert_eq!(info.deliver_at, Millis(task.deliver_at));
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
