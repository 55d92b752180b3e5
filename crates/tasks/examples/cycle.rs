//! Measures the machine alone: create, lease and ack in batches of 256, over a tree in memory.
//!
//! `cargo run --release -p z4-tasks --example cycle [BACKLOG GROUPS [EVENTS] | events]`. No log, no disk, no socket: what apply itself costs. The clock
//! here is the one place outside `z4-env` that reads real time, because it measures and decides nothing.

use std::hint::black_box;

use bytes::Bytes;
use z4_tasks::command::{Command, Due, NewTask, SetMode, SetQueue, Settlement, Verdict};
use z4_tasks::outcome::Outcome;
use z4_tasks::{EntryBuilder, Machine, MemoryStore, Patch, Rate, Settings, encode_create, hydrate};
use z4_types::{Duration, Millis, QueueName, ShardId};

const BATCH: u32 = 256;
const ROUNDS: u64 = 4_000;

/// Nanoseconds spent in each phase, summed over all rounds.
#[derive(Default)]
struct Spent {
    encode: u128,
    create: u128,
    lease: u128,
    hydrate: u128,
    ack: u128,
}

#[allow(clippy::disallowed_methods, reason = "a measurement, not part of the core")]
fn timed<T>(total: &mut u128, work: impl FnOnce() -> T) -> T {
    let start = std::time::Instant::now();
    let result = work();
    *total += start.elapsed().as_nanos();
    result
}

fn entry(now: u64, command: &Command) -> Bytes {
    let mut entry = EntryBuilder::new(Millis(now));
    entry.push(command);
    entry.finish()
}

/// Limits of a queue and its groups that are looked at with every task, and never met.
fn limits(queue: &QueueName) -> Command {
    let rate = Rate { thousandths: 1_000_000_000, burst: 1 << 30 };
    let set = Settings {
        concurrency: Some(1 << 20),
        rate: Some(rate),
        group_concurrency: Some(1 << 20),
        group_rate: Some(rate),
        group_weight: Some(3),
        ..Settings::default()
    };
    let patch = Patch { set, ..Patch::default() };
    Command::SetQueue(Box::new(SetQueue { queue: queue.clone(), mode: SetMode::Upsert, etag: None, patch }))
}

/// Keeps the events of a queue.
fn keep_events(queue: &QueueName, kept: u64) -> Command {
    let patch = Patch { set: Settings { events: Some(kept), ..Settings::default() }, ..Patch::default() };
    Command::SetQueue(Box::new(SetQueue { queue: queue.clone(), mode: SetMode::Upsert, etag: None, patch }))
}

/// Runs `ROUNDS` cycles over a backlog of `backlog` tasks that stay, of so many groups; 0: without groups and limits.
/// Returns the nanoseconds a task.
fn run(backlog: u32, groups: usize, events: u64) -> u128 {
    let queue = QueueName::new("bench").expect("valid");
    let task = NewTask { payload: Bytes::from(vec![7; 200]), ..NewTask::default() };
    let group = |n: usize| (groups > 0).then(|| format!("tenant-{}", n % groups));
    let batch: Vec<NewTask> =
        (0..BATCH as usize).map(|n| NewTask { group: group(n * 7), ..task.clone() }).collect();
    let later: Vec<NewTask> =
        batch.iter().map(|task| NewTask { due: Due::After(Duration(1 << 30)), ..task.clone() }).collect();
    let mut store = MemoryStore::new();
    let mut machine = Machine::open(ShardId(1), &store).expect("empty");
    if groups > 0 {
        machine.apply(&mut store, &entry(1, &limits(&queue))).expect("applies");
    }
    if events > 0 {
        machine.apply(&mut store, &entry(1, &keep_events(&queue, events))).expect("applies");
    }
    for _ in 0..backlog / BATCH {
        let mut entry = EntryBuilder::new(Millis(1));
        entry.push_encoded(&encode_create(&queue, None, &later));
        machine.apply(&mut store, &entry.finish()).expect("applies");
    }
    let mut spent = Spent::default();
    for round in 0..ROUNDS {
        let now = 1_000 + round;
        let create = timed(&mut spent.encode, || {
            let mut entry = EntryBuilder::new(Millis(now));
            entry.push_encoded(&encode_create(&queue, None, black_box(&batch)));
            entry.finish()
        });
        timed(&mut spent.create, || machine.apply(&mut store, &create).expect("applies"));
        let lease = Command::Lease {
            queue: queue.clone(),
            consumer: "worker-1".into(),
            max: BATCH,
            max_bytes: u64::MAX,
            ttl: Duration::from_secs(30),
        };
        let outcomes =
            timed(&mut spent.lease, || machine.apply(&mut store, &entry(now, &lease)).expect("applies"));
        let [Outcome::Leased(leased)] = &outcomes[..] else { unreachable!("one lease, one outcome") };
        assert_eq!(leased.picks.len(), BATCH as usize, "all were due");
        timed(&mut spent.hydrate, || black_box(hydrate(&store, &leased.picks)).expect("reads"));
        let acks = leased.picks.iter();
        let acks =
            acks.map(|pick| Settlement { id: pick.id, token: pick.token, verdict: Verdict::Ack }).collect();
        let acks = entry(now, &Command::Settle(acks));
        timed(&mut spent.ack, || machine.apply(&mut store, &acks).expect("applies"));
    }
    let totals = machine.totals();
    assert_eq!(totals.acked, ROUNDS * u64::from(BATCH), "every task was acked");
    let each = |nanos: u128| nanos / u128::from(ROUNDS * u64::from(BATCH));
    println!(
        "backlog {backlog:>7}, groups {groups:>6}, events {events:>6}: create {} + lease {} + ack {} = {} ns a task; encode {}, hydrate {}",
        each(spent.create),
        each(spent.lease),
        each(spent.ack),
        each(spent.create + spent.lease + spent.ack),
        each(spent.encode),
        each(spent.hydrate),
    );
    each(spent.create + spent.lease + spent.ack)
}

/// The same without events and with them, in turns, so that the machine's moods meet both.
fn with_and_without_events(backlog: u32) {
    let (mut off, mut on) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        off.push(run(backlog, 0, 0));
        on.push(run(backlog, 0, 100_000));
    }
    off.sort_unstable();
    on.sort_unstable();
    println!("backlog {backlog:>7}: median {} ns a task without events, {} ns with them", off[1], on[1]);
}

fn main() {
    // Narrowed down by arguments: backlog, groups, events kept; or `events`: with and without them, in turns.
    let given: Vec<u32> = std::env::args().skip(1).filter_map(|text| text.parse().ok()).collect();
    if std::env::args().nth(1).as_deref() == Some("events") {
        return [0, 100_000].into_iter().for_each(with_and_without_events);
    }
    if let [backlog, groups, ..] = given[..] {
        run(backlog, groups as usize, given.get(2).copied().unwrap_or(0).into());
        return;
    }
    for backlog in [0, 100_000, 1_000_000] {
        for groups in [0, 100, 10_000] {
            run(backlog, groups, 0);
        }
    }
}
