//! Limits of a whole shard, too large for a script.

use z4_types::limits::QUEUES_PER_SHARD_MAX;
use z4_types::{Millis, QueueName, RequestId, ShardId};

use crate::command::{Command, NewTask};
use crate::outcome::{Outcome, Refusal};
use crate::{EntryBuilder, ListFilter, Machine, MemoryStore, list};

fn create(machine: &mut Machine, rows: &mut MemoryStore, queue: &str, request: Option<RequestId>) -> Outcome {
    let task = NewTask { payload: "x".into(), ..NewTask::default() };
    let mut entry = EntryBuilder::new(Millis(1_000));
    let queue = QueueName::new(queue).expect("a valid name");
    entry.push(&Command::Create { queue, request, tasks: vec![task] });
    machine.apply(rows, &entry.finish()).expect("storage does not fail").pop().expect("one outcome")
}

#[test]
fn a_shard_refuses_one_queue_too_many_and_its_other_queues_go_on() {
    let mut rows = MemoryStore::default();
    let mut machine = Machine::open(ShardId(1), &rows).expect("an empty shard opens");
    for number in 0..QUEUES_PER_SHARD_MAX {
        create(&mut machine, &mut rows, &format!("q{number}"), None);
    }
    let refused = Outcome::Created(vec![Err(Refusal::TooManyQueues(QUEUES_PER_SHARD_MAX))]);
    assert_eq!(create(&mut machine, &mut rows, "one more", Some(RequestId(7))), refused);
    assert_eq!(
        create(&mut machine, &mut rows, "one more", Some(RequestId(7))),
        refused,
        "and again, not as a repeat"
    );
    let Outcome::Created(results) = create(&mut machine, &mut rows, "q5", None) else { panic!("a create") };
    assert!(results[0].is_ok());
}

#[test]
fn a_page_ends_early_when_its_bytes_are_in_metadata() {
    let mut rows = MemoryStore::default();
    let mut machine = Machine::open(ShardId(1), &rows).expect("an empty shard opens");
    let queue = QueueName::new("labels").expect("a valid name");
    let tasks = (0..300).map(|_| NewTask {
        payload: "x".into(),
        metadata: vec![("k".into(), "v".repeat(15_000))],
        ..NewTask::default()
    });
    let mut entry = EntryBuilder::new(Millis(1_000));
    entry.push(&Command::Create { queue: queue.clone(), request: None, tasks: tasks.collect() });
    machine.apply(&mut rows, &entry.finish()).expect("storage does not fail");
    let (mut after, mut seen) = (None, 0);
    loop {
        let page = list(&rows, &queue, ListFilter::default(), after.as_ref(), 1_000).expect("reads");
        let bytes: usize = page.tasks.iter().map(|task| task.payload.len() + task.metadata[0].1.len()).sum();
        assert!((1..=2 << 20).contains(&bytes), "{bytes}");
        seen += page.tasks.len();
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(seen, 300);
}
