//! The model bites: each promise, broken on purpose in what a host says, is named.

use std::sync::Arc;

use bytes::Bytes;
use z4_host::{Budget, Delivery};
use z4_tasks::Body;
use z4_tasks::command::{Due, NewTask, Settlement, Verdict};
use z4_tasks::outcome::{Pick, Refusal, Settled};
use z4_types::{Duration, Millis, ShardId, TaskId, Token};

use super::Model;
use crate::checks::Checked;
use crate::report::Reached;

const LEASE: Duration = Duration(1_000);

fn id(at: u64, counter: u64) -> TaskId {
    TaskId::new(Millis(at), ShardId(1), counter)
}

fn new_task(due: Due) -> NewTask {
    NewTask {
        payload: Bytes::copy_from_slice(&7u64.to_le_bytes()),
        due,
        max_attempts: Some(3),
        ..NewTask::default()
    }
}

/// A model of one task, created at 100 and due as given.
fn model(due: Due) -> (Model, Reached) {
    let mut model = Model::default();
    model.not_later_than(Millis(10_000_000));
    let tasks = [new_task(due)];
    model.creating(0, &tasks, false);
    model.created_ok(&tasks, &[Ok(id(100, 1))]).expect("a first create");
    (model, Reached::default())
}

fn deliver(model: &mut Model, reached: &mut Reached, now: u64, token: u64, deliveries: u32) -> Checked {
    let task = new_task(Due::Now);
    let pick = Pick {
        id: id(100, 1),
        token: Token(token),
        due: Millis(100),
        deliveries,
        failures: 0,
        payload_bytes: 8,
    };
    let body = Body {
        payload: task.payload,
        metadata: task.metadata,
        group: None,
        key: None,
        priority: task.priority.unwrap_or_default(),
        created_at: Millis(100),
        max_attempts: 3,
        expires_at: None,
    };
    let held = Arc::new(Budget::new(1).take(1).expect("an empty budget"));
    let delivery = Delivery { pick, until: Millis(now) + LEASE, body, held };
    model.delivered(0, LEASE, &delivery, reached)
}

fn settle(
    model: &mut Model,
    reached: &mut Reached,
    token: u64,
    answer: &Result<Settled, Refusal>,
) -> Checked {
    let ack = Settlement { id: id(100, 1), token: Token(token), verdict: Verdict::Ack };
    model.settled(&ack, answer, reached)
}

#[track_caller]
fn breaks(promise: &str, checked: Checked) {
    let violation = checked.expect_err("a promise was broken");
    assert_eq!(violation.promise, promise, "{violation}");
}

#[test]
fn a_delivery_before_its_time_breaks_p2() {
    let (mut model, mut reached) = model(Due::At(Millis(500)));
    breaks("P2", deliver(&mut model, &mut reached, 499, 1, 1));
}

#[test]
fn a_second_lease_while_the_first_holds_breaks_p3() {
    let (mut model, mut reached) = model(Due::Now);
    deliver(&mut model, &mut reached, 200, 1, 1).expect("the first lease");
    breaks("P3", deliver(&mut model, &mut reached, 1_199, 2, 2));
}

#[test]
fn a_lease_refused_while_it_holds_breaks_p3() {
    let mut model = Model::default();
    model.not_later_than(Millis(300));
    let (tasks, mut reached) = ([new_task(Due::Now)], Reached::default());
    model.creating(0, &tasks, false);
    model.created_ok(&tasks, &[Ok(id(100, 1))]).expect("a first create");
    deliver(&mut model, &mut reached, 200, 1, 1).expect("the first lease");
    let lost = Err(Refusal::LeaseLost { id: id(100, 1), token: Token(1) });
    breaks("P3", settle(&mut model, &mut reached, 1, &lost));
}

#[test]
fn a_stale_settlement_that_is_accepted_breaks_p3() {
    let (mut model, mut reached) = model(Due::Now);
    deliver(&mut model, &mut reached, 200, 1, 1).expect("the first lease");
    breaks("P3", settle(&mut model, &mut reached, 9, &Ok(Settled::Acked)));
}

#[test]
fn a_delivery_after_an_ok_ack_breaks_p5() {
    let (mut model, mut reached) = model(Due::Now);
    deliver(&mut model, &mut reached, 200, 1, 1).expect("the first lease");
    settle(&mut model, &mut reached, 1, &Ok(Settled::Acked)).expect("an ack in time");
    breaks("P5", deliver(&mut model, &mut reached, 5_000, 2, 2));
}

#[test]
fn one_task_under_two_ids_breaks_p6() {
    let (mut model, _) = model(Due::Now);
    let tasks = [new_task(Due::Now)];
    model.creating(0, &tasks, false);
    breaks("P6", model.created_ok(&tasks, &[Ok(id(150, 2))]).map(drop));
}

#[test]
fn an_accepted_task_that_is_missing_breaks_p8_and_an_unknown_ack_explains_it() {
    let (mut model, mut reached) = model(Due::Now);
    breaks("P8", model.absent(id(100, 1), Millis(300), &mut reached));
    deliver(&mut model, &mut reached, 200, 1, 1).expect("the first lease");
    let ack = Settlement { id: id(100, 1), token: Token(1), verdict: Verdict::Ack };
    model.settle_unknown(&ack);
    model.absent(id(100, 1), Millis(300), &mut reached).expect("the ack may have happened");
}

#[test]
fn a_task_whose_create_failed_and_that_exists_breaks_d2() {
    let mut model = Model::default();
    model.not_later_than(Millis(1_000));
    let tasks = [new_task(Due::Now)];
    model.creating(0, &tasks, false);
    model.create_failed(&tasks);
    breaks("D2", deliver(&mut model, &mut Reached::default(), 200, 1, 1));
}
