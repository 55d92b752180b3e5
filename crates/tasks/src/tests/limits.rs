//! Limits of a whole shard, too large for a script.

use z4_types::limits::QUEUES_PER_SHARD_MAX;
use z4_types::{Millis, Priority, QueueName, RequestId, ShardId};

use crate::command::{Command, Due, NewTask};
use crate::outcome::{Outcome, Refusal};
use crate::{EntryBuilder, Machine, MemoryStore};

fn create(machine: &mut Machine, rows: &mut MemoryStore, queue: &str, request: Option<RequestId>) -> Outcome {
    let task = NewTask {
        payload: "x".into(),
        metadata: Vec::new(),
        due: Due::Now,
        priority: Priority::default(),
        max_attempts: None,
        retry: None,
        ttl: None,
        request: None,
    };
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
