//! What a producer promises, against a server that the test plays.

use std::time::Duration;

use tonic::Status;
use z4_proto::status::Failure;

use super::*;
use crate::fake::{Fake, Push, dead_address};

fn id(number: u128) -> String {
    TaskId(number).to_string()
}

fn done(request: &v1::PushRequest) -> v1::PushReply {
    let ids = (1..=request.tasks.len()).map(|n| id(n as u128)).collect();
    v1::PushReply { seq: request.seq, ids, ..Default::default() }
}

fn failed(request: &v1::PushRequest, failure: Failure) -> v1::PushReply {
    v1::PushReply { seq: request.seq, failure: Some(failure.to_pb()), ..Default::default() }
}

async fn next(session: &mut Push) -> v1::PushRequest {
    session.next().await.expect("a frame")
}

fn producer(addresses: &[&str]) -> Producer {
    Client::connect(addresses.iter().copied()).expect("addresses").producer("q").build().expect("producer")
}

#[tokio::test]
async fn p6_a_push_without_an_answer_is_sent_again_under_the_same_request_id() {
    let mut fake = Fake::start().await;
    let producer = producer(&[&fake.address]);
    let push = tokio::spawn(async move { producer.push(NewTask::new("x")).await });

    let mut session = fake.push().await;
    let first = next(&mut session).await;
    assert_eq!(first.request_id.len(), 32);
    session.fail(Status::unavailable("the host died before it answered")).await;

    let mut session = fake.push().await;
    let second = next(&mut session).await;
    assert_eq!(second.request_id, first.request_id, "over a reconnect");
    session.reply(failed(&second, Failure::new(Kind::Unavailable, reason::NO_LEADER, "election"))).await;

    let third = next(&mut session).await;
    assert_eq!(third.request_id, first.request_id, "over a refusal");
    session.reply(done(&third)).await;
    assert_eq!(push.await.expect("no panic"), Ok(TaskId(1)));
}

#[tokio::test]
async fn p10_an_overloaded_server_is_left_alone_as_long_as_it_asks() {
    let mut fake = Fake::start().await;
    let producer = producer(&[&fake.address]);
    let push = tokio::spawn(async move { producer.push(NewTask::new("x")).await });

    let mut session = fake.push().await;
    let first = next(&mut session).await;
    let asked = Duration::from_millis(150);
    let refused_at = Instant::now();
    let failure = Failure::new(Kind::Overloaded, reason::OVERLOADED, "full").with_retry_after(asked);
    session.reply(failed(&first, failure)).await;

    let second = next(&mut session).await;
    assert!(refused_at.elapsed() >= asked, "came back after {:?}", refused_at.elapsed());
    assert_eq!(second.request_id, first.request_id);
    session.reply(done(&second)).await;
    assert_eq!(push.await.expect("no panic"), Ok(TaskId(1)));
}

#[tokio::test]
async fn the_next_frame_fills_while_two_are_under_way() {
    let mut fake = Fake::start().await;
    let producer = producer(&[&fake.address]);
    let mut receipts = vec![producer.enqueue(NewTask::new("0")).await.expect("room")];
    let mut session = fake.push().await;
    let first = next(&mut session).await;
    receipts.push(producer.enqueue(NewTask::new("1")).await.expect("room"));
    let second = next(&mut session).await;
    for n in 2..100 {
        receipts.push(producer.enqueue(NewTask::new(n.to_string())).await.expect("room"));
    }
    // Frames come in order, so a third one sent before this answer would be seen below with fewer tasks.
    session.reply(done(&first)).await;
    let third = next(&mut session).await;
    assert_eq!((first.tasks.len(), second.tasks.len(), third.tasks.len()), (1, 1, 98));
    session.reply(done(&second)).await;
    session.reply(done(&third)).await;
    for receipt in receipts {
        assert!(receipt.await.is_ok());
    }
}

#[tokio::test]
async fn a_bad_task_fails_alone() {
    let mut fake = Fake::start().await;
    let producer = producer(&[&fake.address]);
    let batch = (0..3).map(|n| NewTask::new(n.to_string())).collect();
    let push = tokio::spawn(async move { producer.push_batch(batch).await });
    let mut session = fake.push().await;
    let request = next(&mut session).await;
    let failure = Failure::invalid("tasks[1].payload", reason::PAYLOAD_TOO_LARGE, "too large");
    session
        .reply(v1::PushReply {
            ids: vec![id(1), String::new(), id(3)],
            errors: vec![failure.to_item(1)],
            ..done(&request)
        })
        .await;
    let answers = push.await.expect("no panic");
    assert_eq!((&answers[0], &answers[2]), (&Ok(TaskId(1)), &Ok(TaskId(3))));
    let error = answers[1].as_ref().expect_err("too large");
    assert_eq!(
        (error.kind(), error.reason(), error.field()),
        (Kind::Invalid, "PAYLOAD_TOO_LARGE", Some("tasks[1].payload"))
    );
}

#[tokio::test]
async fn p9_a_push_to_a_dead_port_ends_within_its_time() {
    let address = dead_address().await;
    let client = Client::connect([address.as_str()]).expect("address");
    let producer = client.producer("q").timeout(Duration::from_millis(200)).build().expect("producer");
    let start = Instant::now();
    let error = producer.push(NewTask::new("x")).await.expect_err("nobody is there");
    assert_eq!(error.kind(), Kind::Unavailable, "never sent: {error}");
    assert!(error.message().contains(&address), "{error}");
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_push_without_an_answer_in_time_is_an_unknown_outcome() {
    let mut fake = Fake::start().await;
    let client = Client::connect([fake.address.as_str()]).expect("address");
    let producer = client.producer("q").timeout(Duration::from_millis(200)).build().expect("producer");
    let push = tokio::spawn(async move { producer.push(NewTask::new("x")).await });
    let mut session = fake.push().await;
    next(&mut session).await;
    assert_eq!(push.await.expect("no panic").expect_err("no answer").kind(), Kind::OutcomeUnknown);
}

#[tokio::test]
async fn a_second_address_takes_over() {
    let mut fake = Fake::start().await;
    let producer = producer(&[&dead_address().await, &fake.address]);
    let push = tokio::spawn(async move { producer.push(NewTask::new("x")).await });
    let mut session = fake.push().await;
    let request = next(&mut session).await;
    session.reply(done(&request)).await;
    assert_eq!(push.await.expect("no panic"), Ok(TaskId(1)));
}

/// All pushes share one stream, and no server reads a message of any size: it would end the stream for all of them.
#[tokio::test]
async fn p10_a_task_larger_than_a_batch_fails_alone_and_is_not_sent() {
    let mut fake = Fake::start().await;
    let producer = producer(&[&fake.address]);
    let large = || NewTask::new(vec![0; 17 << 20]);
    let error = producer.push(large()).await.expect_err("too large");
    assert_eq!((error.kind(), error.field()), (Kind::Invalid, Some("payload")), "{error}");

    let batch = vec![NewTask::new("0"), large(), NewTask::new("2"), large()];
    let handle = producer.clone();
    let push = tokio::spawn(async move { handle.push_batch(batch).await });
    let mut session = fake.push().await;
    for payload in ["0", "2"] {
        let request = next(&mut session).await;
        assert_eq!(
            request.tasks.iter().map(|task| &task.payload[..]).collect::<Vec<_>>(),
            [payload.as_bytes()]
        );
        session.reply(done(&request)).await;
    }
    let answers = push.await.expect("no panic");
    let kinds: Vec<_> = answers.iter().map(|answer| answer.as_ref().err().map(Error::kind)).collect();
    assert_eq!(kinds, [None, Some(Kind::Invalid), None, Some(Kind::Invalid)]);

    let push = tokio::spawn(async move { producer.push(NewTask::new("x")).await });
    let request = next(&mut session).await;
    session.reply(done(&request)).await;
    assert_eq!(push.await.expect("no panic"), Ok(TaskId(1)));
}

#[tokio::test]
async fn the_longest_span_there_is_can_be_given_for_every_deadline() {
    let mut fake = Fake::start().await;
    let longest = Duration::MAX;
    let client = Client::builder([fake.address.as_str()]).timeout(longest).build().expect("address");

    let producer = client.producer("q").timeout(longest).build().expect("producer");
    let push =
        tokio::spawn(async move { producer.push(NewTask::new("x").delay(longest).ttl(longest)).await });
    let mut session = fake.push().await;
    let request = next(&mut session).await;
    let failure = Failure::new(Kind::Overloaded, reason::OVERLOADED, "full").with_retry_after(Duration::ZERO);
    session.reply(failed(&request, failure)).await;
    let request = next(&mut session).await;
    session.reply(done(&request)).await;
    assert_eq!(push.await.expect("no panic"), Ok(TaskId(1)));

    let lease = crate::Lease { wait: longest, ..crate::Lease::one("q") };
    assert_eq!(client.lease(lease).await.expect_err("not faked").kind(), Kind::Unsupported);

    let consumer = client.consumer("q").drain_timeout(longest).run(|_| async { Ok(()) }).expect("consumer");
    let drained = tokio::spawn(consumer.drain());
    drop(fake.pull().await);
    drained.await.expect("no panic").expect("drained");
}

#[tokio::test]
async fn a_server_that_asks_to_wait_for_ever_is_believed_for_a_day() {
    let failure = Failure::new(Kind::Overloaded, reason::OVERLOADED, "full").with_retry_after(Duration::MAX);
    assert_eq!(Error::from(failure).retry_after(), Some(Duration::from_secs(24 * 3_600)));
}

#[tokio::test]
async fn p6_a_push_goes_on_at_the_leader_under_its_request_id_and_without_a_wait() {
    let (mut follower, mut leader) = (Fake::start().await, Fake::start().await);
    let producer = producer(&[&follower.address]);
    let push = |payload: &'static str| {
        let producer = producer.clone();
        tokio::spawn(async move { producer.push(NewTask::new(payload)).await })
    };
    let (first, second) = (push("1"), push("2"));
    let mut session = follower.push().await;
    let one = next(&mut session).await;
    // The other push may have travelled with it.
    let two = if one.tasks.len() == 1 { Some(next(&mut session).await) } else { None };
    let refusal = Failure::new(Kind::Unavailable, reason::NOT_LEADER, "not me")
        .with_leader("b", leader.address.as_str())
        // It would not be sent again before the test's end, were it not for the leader's name.
        .with_retry_after(Duration::from_secs(3_600));
    session.reply(failed(&one, refusal.clone())).await;
    if let Some(two) = &two {
        session.reply(failed(two, refusal)).await;
    }
    let mut session = leader.push().await;
    let again = next(&mut session).await;
    assert_eq!(again.request_id, one.request_id);
    session.reply(done(&again)).await;
    if let Some(two) = two {
        let again = next(&mut session).await;
        assert_eq!(again.request_id, two.request_id);
        session.reply(done(&again)).await;
    }
    assert!(first.await.expect("no panic").is_ok() && second.await.expect("no panic").is_ok());
}

#[tokio::test]
async fn a_stream_that_was_forwarded_is_left_for_the_leader_once_all_is_answered() {
    let (mut follower, mut leader) = (Fake::start().await, Fake::start().await);
    let producer = producer(&[&follower.address]);
    let push = |payload: &'static str| {
        let producer = producer.clone();
        tokio::spawn(async move { producer.push(NewTask::new(payload)).await })
    };
    let first = push("1");
    let mut session = follower.push().await;
    let one = next(&mut session).await;
    let second = push("2");
    let two = next(&mut session).await;
    let forwarded = |request: &_| v1::PushReply { forwarded_to: leader.address.clone(), ..done(request) };
    session.reply(forwarded(&one)).await;
    first.await.expect("no panic").expect("pushed");
    let third = push("3");
    session.reply(forwarded(&two)).await;
    second.await.expect("no panic").expect("pushed");
    let mut moved = leader.push().await;
    let three = next(&mut moved).await;
    moved.reply(done(&three)).await;
    third.await.expect("no panic").expect("pushed");
    assert!(session.next().await.is_none(), "the old stream got nothing more");
}

/// Hosts that are learned may have addresses that mean nothing here; the one that was given forwards.
#[tokio::test]
async fn a_leader_that_cannot_be_reached_from_here_is_asked_through_the_given_host() {
    let mut follower = Fake::start().await;
    let elsewhere = dead_address().await;
    let producer = producer(&[&follower.address]);
    let push = || {
        let producer = producer.clone();
        tokio::spawn(async move { producer.push(NewTask::new("x")).await })
    };
    let forwarded = |request: &_| v1::PushReply { forwarded_to: elsewhere.clone(), ..done(request) };
    let first = push();
    let mut session = follower.push().await;
    let request = next(&mut session).await;
    session.reply(forwarded(&request)).await;
    first.await.expect("no panic").expect("pushed");
    let second = push();
    // It went to look, found nobody, and came back.
    let mut session = follower.push().await;
    let request = next(&mut session).await;
    session.reply(forwarded(&request)).await;
    second.await.expect("no panic").expect("pushed");
    let third = push();
    let request = next(&mut session).await;
    session.reply(done(&request)).await;
    third.await.expect("no panic").expect("and stays");
}
