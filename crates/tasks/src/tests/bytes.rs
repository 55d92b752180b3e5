//! No bytes make the machine panic, and commands survive their encoding.

use bytes::Bytes;
use proptest::prelude::*;
use z4_types::{Duration, Millis, Priority, QueueName, RequestId, ShardId, TaskId, Token};

use crate::command::{
    Command, Due, Fire, Firing, Key, NewTask, OnConflict, OnFailure, Pause, PauseSchedule, Purge,
    PurgeCursor, PurgeStates, Retry, RunSchedule, SetGroup, SetMode, SetQueue, SetSchedule, Settlement,
    Target, UpdateTask, Verdict, Which,
};
use crate::{
    Breaker, Fields, GroupFields, GroupPatch, GroupSettings, Overlap, Patch, Policies, Rate, Retention,
    Schedule, Settings,
};
use crate::{EntryBuilder, Machine, MemoryStore, decode_entry, encode, encode_create};

fn due() -> impl Strategy<Value = Due> {
    prop_oneof![
        Just(Due::Now),
        any::<u64>().prop_map(|at| Due::At(Millis(at))),
        any::<u64>().prop_map(|delay| Due::After(Duration(delay))),
    ]
}

fn retry() -> impl Strategy<Value = Retry> {
    (any::<u64>(), any::<u64>(), any::<u32>(), any::<u8>()).prop_map(
        |(initial, cap, multiplier_percent, jitter_percent)| Retry {
            initial: Duration(initial),
            cap: Duration(cap),
            multiplier_percent,
            jitter_percent,
        },
    )
}

fn task() -> impl Strategy<Value = NewTask> {
    let options = (
        proptest::option::of(any::<u32>()),
        proptest::option::of(retry()),
        proptest::option::of(any::<u64>().prop_map(Duration)),
        proptest::option::of((0..4u128).prop_map(RequestId)),
        proptest::option::of(any::<u8>().prop_map(Priority)),
        proptest::option::weighted(
            0.4,
            prop_oneof![Just("g"), Just("größe"), Just("h")].prop_map(str::to_owned),
        ),
        (proptest::option::of(key()), proptest::collection::vec(any::<u128>().prop_map(TaskId), 0..3)),
        prop_oneof![Just(OnFailure::Cancel), Just(OnFailure::Run)],
    );
    let metadata = proptest::collection::vec((".{0,4}", ".{0,4}"), 0..3);
    let payload = proptest::collection::vec(any::<u8>(), 0..20).prop_map(Bytes::from);
    (payload, metadata, due(), options).prop_map(
        |(
            payload,
            metadata,
            due,
            (max_attempts, retry, ttl, request, priority, group, (key, after), on_failure),
        )| NewTask {
            payload,
            metadata,
            due,
            priority,
            max_attempts,
            retry,
            ttl,
            request,
            group,
            key: key.map(Box::new),
            on_failure: if after.is_empty() { OnFailure::default() } else { on_failure },
            after,
        },
    )
}

fn key() -> impl Strategy<Value = Key> {
    let on_conflict = prop_oneof![
        Just(OnConflict::Fail),
        Just(OnConflict::Keep),
        Just(OnConflict::Replace),
        Just(OnConflict::Debounce)
    ];
    ("[a-c]{1,2}", on_conflict, prop_oneof![Just(0), any::<u64>()])
        .prop_map(|(name, on_conflict, window)| Key { name, on_conflict, window: Duration(window) })
}

fn queue() -> impl Strategy<Value = QueueName> {
    prop_oneof![Just("a"), Just("b/größe")].prop_map(|name| QueueName::new(name).expect("valid"))
}

fn id() -> impl Strategy<Value = TaskId> {
    (0..3u64, 1..6u64).prop_map(|(at, counter)| TaskId::new(Millis(at), ShardId(1), counter))
}

fn span() -> impl Strategy<Value = Option<Duration>> {
    proptest::option::of(any::<u64>().prop_map(Duration))
}

fn verdict() -> impl Strategy<Value = Verdict> {
    prop_oneof![
        Just(Verdict::Ack),
        (span(), span(), ".{0,8}").prop_map(|(delay, slow_group, reason)| Verdict::Nack {
            delay,
            slow_group,
            reason
        }),
        any::<u64>().prop_map(|delay| Verdict::Release { delay: Duration(delay) }),
        any::<u64>().prop_map(|ttl| Verdict::Extend { ttl: Duration(ttl) }),
        proptest::collection::vec(any::<u8>(), 0..5)
            .prop_map(|bytes| Verdict::AckWith { result: bytes.into() }),
        ".{0,8}".prop_map(|reason| Verdict::NackDead { reason }),
        (any::<u64>(), ".{0,8}")
            .prop_map(|(ttl, progress)| Verdict::ExtendWith { ttl: Duration(ttl), progress }),
    ]
}

fn settings() -> impl Strategy<Value = Settings> {
    let number = || proptest::option::of(any::<u32>());
    let rate = || {
        let rate = (any::<u64>(), any::<u32>()).prop_map(|(thousandths, burst)| Rate { thousandths, burst });
        proptest::option::of(rate)
    };
    let retention = (any::<u64>(), proptest::option::of(0..u64::MAX))
        .prop_map(|(age, count)| Retention { age: Duration(age), count });
    let breaker =
        (any::<u32>(), any::<u8>(), any::<u64>()).prop_map(|(deliveries, failure_percent, span)| Breaker {
            deliveries,
            failure_percent,
            window: Duration(span),
            cool_down: Duration(span / 2),
        });
    let reasons = proptest::collection::vec(".{0,4}", 0..3);
    let tasks = (
        span(),
        proptest::option::of(retry()),
        number(),
        proptest::option::of(reasons),
        proptest::option::of(retention),
        span(),
        proptest::option::of(any::<u8>().prop_map(Priority)),
        proptest::option::of(any::<u64>()),
    );
    let limits = (rate(), number(), number(), rate(), number(), proptest::option::of(any::<bool>()), span());
    let rest = (proptest::option::of(breaker), proptest::option::of(any::<u64>()));
    (tasks, limits, rest).prop_map(|(tasks, limits, (breaker, events))| {
        let (lease_duration, retry, max_attempts, non_retryable, retention, ttl, priority, max_backlog) =
            tasks;
        let (rate, concurrency, group_concurrency, group_rate, group_weight, group_serial, ageing) = limits;
        Settings {
            lease_duration,
            retry,
            max_attempts,
            non_retryable,
            retention,
            ttl,
            priority,
            max_backlog,
            rate,
            concurrency,
            group_concurrency,
            group_rate,
            group_weight,
            group_serial,
            ageing,
            breaker,
            events,
        }
    })
}

fn of_queues() -> impl Strategy<Value = Command> {
    let etag = || proptest::option::of(0..3u64);
    let mode = prop_oneof![Just(SetMode::Create), Just(SetMode::Update), Just(SetMode::Upsert)];
    let clear = any::<u8>().prop_map(|bits| if bits % 2 == 0 { Fields::default() } else { Fields::TTL });
    let policy = (prop_oneof![Just("*"), Just("b/*"), Just("a")], settings());
    let cursor = (0..9u8, proptest::collection::vec(any::<u8>(), 0..30))
        .prop_map(|(state, key)| PurgeCursor { state, key });
    prop_oneof![
        (queue(), mode, etag(), settings(), clear).prop_map(|(queue, mode, etag, set, clear)| {
            Command::SetQueue(Box::new(SetQueue { queue, mode, etag, patch: Patch { set, clear } }))
        }),
        (queue(), etag()).prop_map(|(queue, etag)| Command::DeleteQueue { queue, etag }),
        (queue(), ".{1,3}", settings(), 0..16u8).prop_map(|(queue, group, settings, clear)| {
            let set = GroupSettings {
                weight: settings.group_weight,
                serial: settings.group_serial,
                concurrency: settings.group_concurrency,
                rate: settings.group_rate,
            };
            let patch = GroupPatch { set, clear: GroupFields(clear) };
            Command::SetGroup(SetGroup { queue, group, patch })
        }),
        (0..4u64, proptest::collection::vec(policy, 0..3)).prop_map(|(version, list)| {
            let list = list.into_iter().map(|(pattern, settings)| (pattern.to_owned(), settings));
            Command::SetPolicies(Policies { version, list: list.collect() })
        }),
        (queue(), any::<bool>(), ".{0,4}", ".{0,4}")
            .prop_map(|(queue, paused, note, author)| Command::Pause(Pause { queue, paused, note, author })),
        (queue(), any::<u8>(), any::<u128>(), any::<u32>(), proptest::option::of(cursor)).prop_map(
            |(queue, states, before, limit, after)| {
                let (states, before) = (PurgeStates(states), TaskId(before));
                Command::Purge(Purge { queue, states, before, limit, after })
            }
        ),
    ]
}

fn schedule() -> impl Strategy<Value = Schedule> {
    let overlap = prop_oneof![
        Just(Overlap::Allow),
        Just(Overlap::Skip),
        Just(Overlap::BufferOne),
        Just(Overlap::CancelPrevious)
    ];
    let times = (slot(), proptest::option::of(slot()), proptest::option::of(slot()));
    (".{0,6}", ".{0,6}", times, overlap, any::<u64>(), any::<u64>(), task()).prop_map(
        |(cron, zone, (anchor, start, end), overlap, catch_up, jitter, template)| Schedule {
            cron,
            zone,
            anchor,
            start,
            end,
            overlap,
            catch_up: Duration(catch_up),
            jitter: Duration(jitter),
            template,
        },
    )
}

/// Few, so that they meet.
fn slot() -> impl Strategy<Value = Millis> {
    (0..4u64).prop_map(Millis)
}

fn of_schedules() -> impl Strategy<Value = Command> {
    let name = || prop_oneof![Just("n"), Just("nächtlich")].prop_map(str::to_owned);
    let etag = || proptest::option::of(0..3u64);
    let next = || proptest::option::of(slot());
    let mode = prop_oneof![Just(SetMode::Create), Just(SetMode::Update), Just(SetMode::Upsert)];
    let firing = prop_oneof![
        (slot(), next()).prop_map(|(due, next)| Firing::Slot { due, next }),
        (any::<u64>(), slot(), next()).prop_map(|(slots, last, next)| Firing::Late { slots, last, next }),
        slot().prop_map(|due| Firing::Buffered { due }),
    ];
    prop_oneof![
        (queue(), name(), mode, etag(), next(), next(), schedule()).prop_map(
            |(queue, name, mode, etag, seen, next, schedule)| {
                Command::SetSchedule(Box::new(SetSchedule { queue, name, mode, etag, seen, schedule, next }))
            }
        ),
        (queue(), name(), etag()).prop_map(|(queue, name, etag)| Command::DeleteSchedule {
            queue,
            name,
            etag
        }),
        (queue(), name(), etag(), any::<bool>(), ".{0,4}", next()).prop_map(
            |(queue, name, etag, paused, note, next)| {
                let author = note.clone();
                Command::PauseSchedule(PauseSchedule { queue, name, etag, paused, note, author, next })
            }
        ),
        (queue(), name(), proptest::option::of((0..4u128).prop_map(RequestId)))
            .prop_map(|(queue, name, request)| Command::RunSchedule(RunSchedule { queue, name, request })),
        (queue(), name(), 1..4u64, slot(), firing).prop_map(|(queue, name, etag, slot, firing)| {
            Command::Fire(Fire { queue, name, etag, slot, firing })
        }),
    ]
}

fn of_tasks() -> impl Strategy<Value = Command> {
    let which = || {
        let by_key = (queue(), "[a-c]{1,2}").prop_map(|(queue, key)| Which::Key { queue, key });
        prop_oneof![2 => id().prop_map(Which::Id), 1 => by_key]
    };
    let target = || (which(), proptest::option::of(0..3u64)).prop_map(|(which, etag)| Target { which, etag });
    let redrive = (target(), any::<u64>()).prop_map(|(target, delay)| (target, Duration(delay)));
    let metadata = proptest::collection::vec((".{0,4}", ".{0,4}"), 0..3);
    let parts = (
        proptest::option::of(due()),
        proptest::option::of(any::<u8>().prop_map(Priority)),
        proptest::option::of(proptest::collection::vec(any::<u8>(), 0..9).prop_map(Bytes::from)),
        proptest::option::of(metadata),
    );
    prop_oneof![
        proptest::collection::vec(target(), 0..3).prop_map(Command::CancelIf),
        proptest::collection::vec(redrive, 0..3).prop_map(Command::Redrive),
        proptest::collection::vec(target(), 0..3).prop_map(Command::RunNow),
        (target(), parts).prop_map(|(target, (due, priority, payload, metadata))| {
            Command::UpdateTask(Box::new(UpdateTask { target, due, priority, payload, metadata }))
        }),
    ]
}

fn command() -> impl Strategy<Value = Command> {
    let settlement = (id(), 0..6u64, verdict()).prop_map(|(id, token, verdict)| Settlement {
        id,
        token: Token(token),
        verdict,
    });
    prop_oneof![
        (
            queue(),
            proptest::option::of((0..4u128).prop_map(RequestId)),
            proptest::collection::vec(task(), 0..4)
        )
            .prop_map(|(queue, request, tasks)| Command::Create { queue, request, tasks }),
        (queue(), ".{0,6}", any::<u32>(), any::<u64>(), any::<u64>()).prop_map(
            |(queue, consumer, max, max_bytes, ttl)| Command::Lease {
                queue,
                consumer,
                max,
                max_bytes,
                ttl: Duration(ttl)
            }
        ),
        proptest::collection::vec(settlement, 0..4).prop_map(Command::Settle),
        proptest::collection::vec(id(), 0..4).prop_map(Command::Cancel),
        any::<u32>().prop_map(|limit| Command::Advance { limit }),
        of_queues(),
        of_tasks(),
        of_schedules(),
    ]
}

fn entry() -> impl Strategy<Value = (u64, Vec<Command>)> {
    (0..3u64, proptest::collection::vec(command(), 0..6))
}

fn build(now: u64, commands: &[Command]) -> Bytes {
    let mut builder = EntryBuilder::new(Millis(now));
    commands.iter().for_each(|command| builder.push(command));
    builder.finish()
}

proptest! {
    #![proptest_config(super::fixed(512))]

    #[test]
    fn an_entry_gives_back_what_it_was_built_from((now, commands) in entry()) {
        let bytes = build(now, &commands);
        prop_assert_eq!(decode_entry(&bytes).expect("just built"), (Millis(now), commands.clone()));

        let mut builder = EntryBuilder::new(Millis(now));
        for command in &commands {
            builder.push_encoded(&match command {
                Command::Create { queue, request, tasks } => encode_create(queue, *request, tasks),
                other => encode(other),
            });
        }
        prop_assert_eq!(builder.commands(), commands.len());
        prop_assert_eq!(builder.bytes(), bytes.len());
        prop_assert_eq!(builder.finish(), bytes, "encoded early or late, the bytes are the same");
    }

    #[test]
    fn unchecked_values_are_clamped_and_never_break_an_invariant(entries in proptest::collection::vec(entry(), 1..6)) {
        let mut store = MemoryStore::new();
        let mut machine = Machine::open(ShardId(1), &store).expect("empty");
        for (now, commands) in &entries {
            machine.apply(&mut store, &build(*now, commands)).expect("a built entry applies");
            machine.check(&store).map_err(TestCaseError::fail)?;
        }
    }

    #[test]
    fn damaged_entries_are_faults_or_entries_but_never_panics(
        (now, commands) in entry(),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let whole = build(now, &commands);
        let mut changed = whole.to_vec();
        for (at, byte) in damage {
            let at = at.index(changed.len());
            changed[at] = byte;
        }
        for bytes in [&changed[..], &whole[..cut.index(whole.len())]] {
            let mut store = MemoryStore::new();
            let mut machine = Machine::open(ShardId(1), &store).expect("empty");
            if machine.apply(&mut store, bytes).is_ok() {
                machine.check(&store).map_err(TestCaseError::fail)?;
            }
            let _ = decode_entry(bytes);
        }
    }

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut store = MemoryStore::new();
        let mut machine = Machine::open(ShardId(1), &store).expect("empty");
        let _ = machine.apply(&mut store, &bytes);
        // The same behind a sound header, to get past it.
        let mut framed = build(1, &[]).to_vec();
        framed[9] = 1;
        framed.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        framed.extend_from_slice(&bytes);
        let mut store = MemoryStore::new();
        let mut machine = Machine::open(ShardId(1), &store).expect("empty");
        let _ = machine.apply(&mut store, &framed);
    }
}
