//! Measures the machine alone: create, lease and ack in batches of 256, over a tree in memory.
//!
//! `cargo run --release -p z4-tasks --example cycle`. No log, no disk, no socket: what apply itself costs. The clock
//! here is the one place outside `z4-env` that reads real time, because it measures and decides nothing.

use std::hint::black_box;

use bytes::Bytes;
use z4_tasks::command::{Command, Due, NewTask, Settlement, Verdict};
use z4_tasks::outcome::Outcome;
use z4_tasks::{EntryBuilder, Machine, MemoryStore, encode_create, hydrate};
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

/// Runs `ROUNDS` cycles over a backlog of `backlog` tasks that stay.
fn run(backlog: u32) {
    let queue = QueueName::new("bench").expect("valid");
    let task = NewTask { payload: Bytes::from(vec![7; 200]), ..NewTask::default() };
    let batch = vec![task.clone(); BATCH as usize];
    let later = vec![NewTask { due: Due::After(Duration(1 << 30)), ..task }; BATCH as usize];
    let mut store = MemoryStore::new();
    let mut machine = Machine::open(ShardId(1), &store).expect("empty");
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
        "backlog {backlog:>7}: create {} + lease {} + ack {} = {} ns a task; encode {}, hydrate {}",
        each(spent.create),
        each(spent.lease),
        each(spent.ack),
        each(spent.create + spent.lease + spent.ack),
        each(spent.encode),
        each(spent.hydrate),
    );
}

fn main() {
    for backlog in [0, 100_000, 1_000_000] {
        run(backlog);
    }
}
