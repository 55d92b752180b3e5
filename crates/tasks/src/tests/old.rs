//! Rows and entries as the first version wrote them.

use z4_types::{Duration, Millis, QueueName, ShardId};

use crate::command::{Command, SetMode, SetQueue, Settlement, Verdict};
use crate::outcome::{Outcome, Settled};
use crate::{
    DueCounts, EntryBuilder, ListFilter, Machine, MemoryStore, Patch, Read, Store, TaskState, get, list,
};

/// A shard of version 1, "key value" in hex. In `mail`: task 1 leased until 32,000, 2 dead, 3 failed once and due at
/// 4,000 with a TTL until 501,000, 4 due at 1,000 with priority 200, 5 due at 26,000, 6 at 1,000,000. In `acme/other`: 7.
const ROWS: &str = include_str!("fixtures/rows_v1");

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len() / 2).map(|n| u8::from_str_radix(&hex[2 * n..2 * n + 2], 16).expect("hex")).collect()
}

fn open() -> (MemoryStore, Machine) {
    let mut store = MemoryStore::new();
    for line in ROWS.lines() {
        let (key, value) = line.split_once(' ').expect("key and value");
        store.insert(&bytes(key), &bytes(value));
    }
    let machine = Machine::open(ShardId(3), &store).expect("rows of version 1 open");
    machine.check(&store).expect("and hold together");
    (store, machine)
}

fn apply(machine: &mut Machine, store: &mut MemoryStore, now: u64, command: &Command) -> Outcome {
    let mut entry = EntryBuilder::new(Millis(now));
    entry.push(command);
    let outcome = machine.apply(store, &entry.finish()).expect("applies").pop().expect("one outcome");
    machine.check(store).expect("old and new rows hold together");
    let reopened = Machine::open(ShardId(3), store).expect("opens again");
    reopened.check(store).expect("as after any restart");
    outcome
}

fn mail() -> QueueName {
    QueueName::new("mail").expect("valid")
}

#[test]
fn rows_of_version_1_are_read_as_they_were() {
    let (store, machine) = open();
    let tasks = list(&store, &mail(), ListFilter::default(), None, 100).expect("reads").tasks;
    let seen: Vec<_> =
        tasks.iter().map(|task| (task.id.counter(), task.deliver_at.0, task.failures)).collect();
    assert_eq!(
        seen,
        [(1, 1_000, 0), (2, 1_000, 1), (4, 1_000, 0), (3, 4_000, 1), (5, 26_000, 0), (6, 1_000_000, 0)]
    );
    assert!(matches!(&tasks[0].state, TaskState::Leased { until: Millis(32_000), .. }));
    assert_eq!((tasks[0].revision, tasks[0].progress.as_ref()), (1, None), "it was written at least once");
    assert_eq!(tasks[2].revision, 0);
    assert_eq!(tasks[1].last_error.as_deref(), Some("old reason"));
    let stats = machine.stats(&mail()).expect("there");
    assert_eq!((stats.waiting, stats.leased, stats.dead, stats.pushed, stats.finished), (4, 1, 1, 6, 0));
    let due = machine.due(&store, &mail(), Millis(5_000)).expect("reads").expect("there");
    let expected = DueCounts {
        due: 2,
        in_1_minute: 1,
        in_5_minutes: 1,
        in_60_minutes: 2,
        oldest_due: Some(Millis(1_000)),
    };
    assert_eq!(due, expected, "counted although the record has no counts");
}

#[test]
fn a_shard_of_version_1_goes_on() {
    let (mut store, mut machine) = open();
    let before = machine.due(&store, &mail(), Millis(30_000)).expect("reads");
    let set = SetQueue { queue: mail(), mode: SetMode::Update, etag: Some(0), patch: Patch::default() };
    apply(&mut machine, &mut store, 30_000, &Command::SetQueue(Box::new(set)));
    let lease = Command::Lease {
        queue: mail(),
        consumer: "new".into(),
        max: 9,
        max_bytes: u64::MAX,
        ttl: Duration(0),
    };
    assert_eq!(machine.due(&store, &mail(), Millis(30_000)).expect("reads"), before);
    let Outcome::Leased(leased) = apply(&mut machine, &mut store, 30_000, &lease) else { panic!("a lease") };
    let picked: Vec<u64> = leased.picks.iter().map(|pick| pick.id.counter()).collect();
    assert_eq!(picked, [3, 5, 4]);
    assert_eq!(leased.until, Millis(60_000), "for as long as the queue says");
    let revisions = |store: &MemoryStore| {
        leased
            .picks
            .iter()
            .map(|pick| get(store, pick.id).expect("reads").map(|info| info.revision))
            .collect::<Vec<_>>()
    };
    assert_eq!(revisions(&store), [Some(2), Some(1), Some(1)], "a row of version 1 had revision 1");
    let ack = |n: usize| Settlement {
        id: leased.picks[n].id,
        token: leased.picks[n].token,
        verdict: Verdict::AckWith { result: "r".into() },
    };
    let settled = apply(&mut machine, &mut store, 31_000, &Command::Settle(vec![ack(0), ack(1), ack(2)]));
    assert_eq!(settled, Outcome::Settled(vec![Ok(Settled::Acked); 3]));
    let lapsed = apply(&mut machine, &mut store, 32_000, &Command::Advance { limit: 100 });
    assert_eq!(lapsed, Outcome::Advanced { more: false, dead: 0 }, "the old lease ends like a new one");
    let due = machine.due(&store, &mail(), Millis(32_000)).expect("reads").expect("there");
    assert_eq!((due.due, due.in_60_minutes, due.oldest_due), (1, 1, Some(Millis(32_000))));
    let mut records = 0;
    store
        .scan(b"Q", b"R", &mut |_, value| {
            records += usize::from(value[0] == 3);
            true
        })
        .expect("reads");
    assert_eq!(records, 1, "the queue that was written has the new format, the other one still the old");
}
