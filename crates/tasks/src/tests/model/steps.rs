//! Random steps, and the commands they are.

use proptest::prelude::*;
use z4_types::limits::REQUEST_WINDOW_MS;
use z4_types::{Duration, Millis, Priority, QueueName, RequestId, ShardId, TaskId, Token};

use super::{GRAIN, SHARD, schedules};
use crate::command::{
    Command, Due, Key, NewTask, OnConflict, OnFailure, Pause, Purge, PurgeStates, Retry, SetGroup, SetMode,
    SetQueue, Settlement, Target, UpdateTask, Verdict, Which,
};
use crate::{Fields, GroupFields, GroupPatch, GroupSettings, Patch, Policies, Rate, Retention, Settings};

/// What a random step does; ids and tokens are named by their order, so that they mostly hit.
#[derive(Debug, Clone)]
pub(super) enum Step {
    Create { queue: u8, request: Option<u8>, tasks: Vec<NewTask> },
    Lease { queue: u8, max: u32, max_bytes: u64, ttl: u64 },
    Settle(Vec<(u8, Option<u8>, Verdict)>),
    Cancel(Vec<u8>),
    Set(u8, SetMode, Option<u64>, Patch),
    Delete(u8, Option<u64>),
    Policies(u64, Settings),
    Pause(u8, bool),
    Purge(u8, u8, u8),
    CancelIf(Named, u64),
    Redrive(Vec<(Named, Option<u64>, u64)>),
    Update(Named, Option<u64>, NewTask, u8),
    RunNow(Vec<(Named, Option<u64>)>),
    Group(u8, u8, GroupPatch),
    Advance { limit: u32 },
    OnSchedule(schedules::Step),
    Reopen,
}

/// A task by its place among those created, or by queue and key.
#[derive(Debug, Clone)]
pub(super) enum Named {
    Id(u8),
    Key(u8, String),
}

fn named() -> impl Strategy<Value = Named> {
    prop_oneof![
        3 => any::<u8>().prop_map(Named::Id),
        1 => (0..3u8, "[a-c]").prop_map(|(queue, key)| Named::Key(queue, key)),
    ]
}

fn key() -> impl Strategy<Value = Key> {
    let on_conflict = prop_oneof![
        1 => Just(OnConflict::Fail),
        1 => Just(OnConflict::Keep),
        2 => Just(OnConflict::Replace),
        2 => Just(OnConflict::Debounce)
    ];
    ("[a-c]", on_conflict, prop_oneof![2 => Just(0), 1 => 1..12u64])
        .prop_map(|(name, on_conflict, window)| Key { name, on_conflict, window: Duration(window * GRAIN) })
}

/// Boxed: in place it is too large for the stack of a test that is not optimised.
pub(super) fn new_task() -> BoxedStrategy<NewTask> {
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
        (proptest::option::weighted(0.5, 0..3u8), proptest::option::weighted(0.4, key())),
        (
            prop_oneof![
                3 => Just(Vec::new()),
                2 => proptest::collection::vec(any::<u8>().prop_map(|n| TaskId(n.into())), 1..4)
            ],
            prop_oneof![Just(OnFailure::Cancel), Just(OnFailure::Run)],
        ),
    )
        .prop_map(
            |(due, priority, size, max_attempts, retry, ttl, request, (group, key), (after, on_failure))| {
                NewTask {
                    payload: vec![b'p'; size].into(),
                    metadata: Vec::new(),
                    due,
                    priority,
                    max_attempts,
                    retry,
                    ttl: ttl.map(Duration),
                    request: request.map(RequestId),
                    group: group.map(group_name),
                    key: key.map(Box::new),
                    on_failure: if after.is_empty() { OnFailure::default() } else { on_failure },
                    // Places among the tasks created: see `after_those`.
                    after,
                }
            },
        )
        .boxed()
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
        (limits(), proptest::option::weighted(0.5, prop_oneof![Just(0), 1..9u64, Just(1_000)])),
    )
        .prop_map(
            |(
                lease_duration,
                max_attempts,
                non_retryable,
                retention,
                ttl,
                priority,
                max_backlog,
                (limits, events),
            )| {
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
                    events,
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
    let redrive = (named(), etag(), 0..6u64);
    prop_oneof![
        1 => (named(), 0..3u64).prop_map(|(id, etag)| Step::CancelIf(id, etag)),
        3 => proptest::collection::vec(redrive, 1..4).prop_map(Step::Redrive),
        3 => (named(), etag(), new_task(), 0..16u8)
            .prop_map(|(id, etag, new, fields)| Step::Update(id, etag, new, fields)),
        1 => proptest::collection::vec((named(), etag()), 1..3).prop_map(Step::RunNow),
    ]
}

pub(super) fn step() -> impl Strategy<Value = Step> {
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
        4 => schedules::step().prop_map(Step::OnSchedule),
        1 => Just(Step::Reopen),
    ]
}

/// Mostly small steps; sometimes back, sometimes over the end of the request window.
pub(super) fn time_step() -> impl Strategy<Value = i64> {
    let grains = |grains: i64| grains * GRAIN as i64;
    prop_oneof![
        6 => (0..3i64).prop_map(grains),
        2 => (3..18i64).prop_map(grains),
        1 => (-10..0i64).prop_map(grains),
        1 => Just((REQUEST_WINDOW_MS / 2) as i64),
    ]
}

pub(super) fn queue(number: u8) -> QueueName {
    QueueName::new(["a", "b", "unknown"][usize::from(number)]).expect("valid")
}

/// Names the tasks that a new one comes after; a few were not created, or never will be.
fn after_those(new: &NewTask, id: impl Fn(u8) -> TaskId) -> NewTask {
    let name = |place: &TaskId| match place.0 as u8 {
        250 => TaskId::new(Millis(0), ShardId(SHARD.0 + 1), 1),
        251.. => TaskId::new(Millis(0), SHARD, 1),
        place => id(place),
    };
    NewTask { after: new.after.iter().map(name).collect(), ..new.clone() }
}

/// Names tasks and tokens that were given out, oldest first; a few were not.
pub(super) fn command(step: &Step, ids: &[TaskId], tokens: &[(TaskId, Token)]) -> Option<Command> {
    let nobody = TaskId::new(Millis(0), SHARD, 999_999);
    let id = |n: u8| ids.get(ids.len().saturating_sub(1 + usize::from(n) % 12)).copied().unwrap_or(nobody);
    let target = |named: &Named, etag: Option<u64>| match named {
        Named::Id(n) => Target::id(id(*n), etag),
        Named::Key(of, key) => Target { which: Which::Key { queue: queue(*of), key: key.clone() }, etag },
    };
    Some(match step {
        Step::Create { queue: number, request, tasks } => Command::Create {
            queue: queue(*number),
            request: request.map(|request| RequestId(request.into())),
            tasks: tasks.iter().map(|new| after_those(new, id)).collect(),
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
        Step::CancelIf(named, etag) => Command::CancelIf(vec![target(named, (*etag < 2).then_some(*etag))]),
        Step::Redrive(tasks) => {
            let tasks = tasks.iter().map(|(n, etag, delay)| (target(n, *etag), Duration(delay * GRAIN)));
            Command::Redrive(tasks.collect())
        }
        Step::Update(n, etag, new, fields) => {
            let has = |bit: u8| fields & bit != 0;
            Command::UpdateTask(Box::new(UpdateTask {
                target: target(n, *etag),
                due: has(1).then_some(new.due),
                priority: new.priority.filter(|_| has(2)),
                payload: has(4).then(|| new.payload.clone()),
                metadata: has(8).then(|| vec![("k".into(), "v".into())]),
            }))
        }
        Step::RunNow(tasks) => Command::RunNow(tasks.iter().map(|(n, etag)| target(n, *etag)).collect()),
        Step::Group(number, group, patch) => {
            Command::SetGroup(SetGroup { queue: queue(*number), group: group_name(*group), patch: *patch })
        }
        Step::OnSchedule(_) => unreachable!("built by the model"),
        Step::Reopen => return None,
    })
}
