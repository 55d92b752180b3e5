//! Measures the machine alone: create, lease and ack in batches of 256, over a tree in memory.
//!
//! `cargo run --release -p z4-tasks --example cycle`. No log, no disk, no socket: what apply itself costs. The clock
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

/// Runs `ROUNDS` cycles over a backlog of `backlog` tasks that stay, of so many groups; 0: without groups and limits.
fn run(backlog: u32, groups: usize) {
    let queue = QueueName::new("bench").expect("valid");
    let task = NewTask {
        payload: Bytes::from(vec![7; 200]),
        metadata: Vec::new(),
        due: Due::Now,
        priority: None,
        max_attempts: None,
        retry: None,
        ttl: None,
        request: None,
        group: None,
    };
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
        "backlog {backlog:>7}, groups {groups:>6}: create {} + lease {} + ack {} = {} ns a task; encode {}, hydrate {}",
        each(spent.create),
        each(spent.lease),
        each(spent.ack),
        each(spent.create + spent.lease + spent.ack),
        each(spent.encode),
        each(spent.hydrate),
    );
}

fn main() {
    // Narrowed down by arguments: backlog, groups.
    let given: Vec<u32> = std::env::args().skip(1).filter_map(|text| text.parse().ok()).collect();
    if let [backlog, groups] = given[..] {
        return run(backlog, groups as usize);
    }
    for backlog in [0, 100_000, 1_000_000] {
        for groups in [0, 100, 10_000] {
            run(backlog, groups);
        }
    }
}
