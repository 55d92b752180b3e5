//! What a consumer promises, against a server that the test plays.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tonic::Status;
use z4_proto::v1::settlement::Verdict as Pb;
use z4_proto::v1::{self, pull_reply, pull_request};
use z4_types::TaskId;

use super::*;
use crate::fake::{Fake, Pull, dead_address};

fn leased(number: u128) -> v1::LeasedTask {
    v1::LeasedTask {
        id: TaskId(number).to_string(),
        token: number as u64,
        deliveries: 1,
        ..Default::default()
    }
}

async fn send(session: &Pull, message: pull_reply::Message) {
    session.reply(v1::PullReply { message: Some(message) }).await;
}

/// Takes the opening and the first credit, answers, and returns that credit.
async fn opened(session: &mut Pull) -> u32 {
    let open = session.next().await.and_then(|r| r.message);
    assert!(matches!(open, Some(pull_request::Message::Open(_))), "{open:?}");
    send(session, pull_reply::Message::Opened(pull_reply::Opened::default())).await;
    match session.next().await.and_then(|r| r.message) {
        Some(pull_request::Message::Credit(credit)) => credit.tasks,
        other => panic!("credit expected, not {other:?}"),
    }
}

async fn deliver(session: &Pull, numbers: impl IntoIterator<Item = u128>) {
    let tasks = numbers.into_iter().map(leased).collect();
    send(session, pull_reply::Message::Tasks(pull_reply::Tasks { tasks })).await;
}

/// Returns the next settlement frame, skipping credit. None: the client has closed its side.
async fn settlements(session: &mut Pull) -> Option<(u64, Vec<v1::Settlement>)> {
    while let Some(request) = session.next().await {
        if let Some(pull_request::Message::Settle(settle)) = request.message {
            return Some((settle.seq, settle.settlements));
        }
    }
    None
}

async fn confirm(session: &Pull, seq: u64) {
    send(session, pull_reply::Message::Settled(pull_reply::Settled { seq, ..Default::default() })).await;
}

fn acks(words: &[v1::Settlement]) -> Vec<u64> {
    words.iter().filter(|w| matches!(w.verdict, Some(Pb::Ack(_)))).map(|w| w.token).collect()
}

fn builder(fake: &Fake) -> ConsumerBuilder {
    Client::connect([fake.address.as_str()]).expect("address").consumer("q").name("w")
}

#[tokio::test]
async fn every_task_is_handled_and_settled_by_what_the_handler_said() {
    let mut fake = Fake::start().await;
    let consumer = builder(&fake)
        .run(|task: Task| async move {
            match task.token.0 {
                1 => Ok(()),
                2 => Err(HandlerError::new("no").retry_in(Duration::from_secs(7))),
                _ => panic!("a handler may panic"),
            }
        })
        .expect("consumer");
    let mut session = fake.pull().await;
    assert_eq!(opened(&mut session).await, 32, "twice the concurrency");
    deliver(&session, 1..=3).await;
    let mut words = Vec::new();
    while words.len() < 3 {
        let (seq, more) = settlements(&mut session).await.expect("open");
        confirm(&session, seq).await;
        words.extend(more);
    }
    words.sort_by_key(|word| word.token);
    assert!(matches!(&words[0].verdict, Some(Pb::Ack(_))));
    let Some(Pb::Nack(nack)) = &words[1].verdict else { panic!("nack expected") };
    assert_eq!((nack.reason.as_str(), nack.delay.map(|d| d.seconds)), ("no", Some(7)));
    assert!(matches!(&words[2].verdict, Some(Pb::Nack(nack)) if nack.reason.contains("panicked")));

    let drained = tokio::spawn(consumer.drain());
    while session.next().await.is_some() {}
    drop(session);
    let counts = drained.await.expect("no panic").expect("drained");
    assert_eq!(counts, Counts { delivered: 3, acked: 1, failed: 2, ..Default::default() });
}

#[tokio::test]
async fn a_broken_stream_is_opened_again_and_unanswered_acks_are_sent_again() {
    let mut fake = Fake::start().await;
    let consumer = builder(&fake).run(|_| async { Ok(()) }).expect("consumer");
    let mut session = fake.pull().await;
    opened(&mut session).await;
    deliver(&session, [1]).await;
    let (_, words) = settlements(&mut session).await.expect("open");
    assert_eq!(acks(&words), [1]);
    session.fail(Status::unavailable("the host died before it answered")).await;

    let mut session = fake.pull().await;
    let mut seen = Vec::new();
    while seen.is_empty() {
        match session.next().await.and_then(|r| r.message).expect("open") {
            pull_request::Message::Open(_) => {
                send(&session, pull_reply::Message::Opened(pull_reply::Opened::default())).await;
            }
            pull_request::Message::Settle(settle) => {
                seen = acks(&settle.settlements);
                // The first time did it, so now the lease is over; that is no loss.
                let failure = z4_proto::status::Failure::new(Kind::NotFound, reason::TASK_NOT_FOUND, "gone");
                let errors = vec![failure.to_item(0)];
                let settled = pull_reply::Settled { seq: settle.seq, errors, failure: None };
                send(&session, pull_reply::Message::Settled(settled)).await;
            }
            pull_request::Message::Credit(_) => {}
        }
    }
    assert_eq!(seen, [1]);
    let drained = tokio::spawn(consumer.drain());
    while session.next().await.is_some() {}
    drop(session);
    let counts = drained.await.expect("no panic").expect("drained");
    assert_eq!((counts.acked, counts.lost), (1, 0));
}

/// Reads until settlements come, opening the stream if it is new.
async fn next_settlements(session: &mut Pull) -> (u64, Vec<v1::Settlement>) {
    loop {
        match session.next().await.and_then(|r| r.message).expect("open") {
            pull_request::Message::Open(_) => {
                send(session, pull_reply::Message::Opened(pull_reply::Opened::default())).await;
            }
            pull_request::Message::Settle(settle) => return (settle.seq, settle.settlements),
            pull_request::Message::Credit(_) => {}
        }
    }
}

/// Refuses the word at `index`, confirms the others.
async fn refuse(session: &Pull, seq: u64, index: usize, kind: Kind, reason: &'static str) {
    let errors = vec![z4_proto::status::Failure::new(kind, reason, "refused").to_item(index)];
    send(session, pull_reply::Message::Settled(pull_reply::Settled { seq, errors, failure: None })).await;
}

async fn drained(consumer: Consumer, mut session: Pull) -> Counts {
    let drained = tokio::spawn(consumer.drain());
    while session.next().await.is_some() {}
    drop(session);
    drained.await.expect("no panic").expect("drained")
}

#[tokio::test]
async fn an_ack_without_an_answer_whose_lease_was_lost_is_no_ack() {
    let mut fake = Fake::start().await;
    let consumer = builder(&fake).run(|_| async { Ok(()) }).expect("consumer");
    let mut session = fake.pull().await;
    opened(&mut session).await;
    deliver(&session, [1]).await;
    assert_eq!(acks(&settlements(&mut session).await.expect("open").1), [1]);
    session.fail(Status::unavailable("the host died before it answered")).await;

    let mut session = fake.pull().await;
    let (seq, words) = next_settlements(&mut session).await;
    assert_eq!(acks(&words), [1]);
    // The task is still there under another lease: had the first ack been done, it would be gone.
    refuse(&session, seq, 0, Kind::Conflict, reason::LEASE_LOST).await;
    let counts = drained(consumer, session).await;
    assert_eq!((counts.acked, counts.lost), (0, 1));
}

#[tokio::test]
async fn an_ack_that_no_host_was_there_for_is_not_in_doubt() {
    let (mut first, mut second) = (Fake::start().await, Fake::start().await);
    let addresses = [first.address.clone(), dead_address().await, second.address.clone()];
    let client = Client::connect(addresses).expect("addresses");
    let finish = Arc::new(Notify::new());
    let may_finish = Arc::clone(&finish);
    let handler = move |_| {
        let may_finish = Arc::clone(&may_finish);
        async move {
            may_finish.notified().await;
            Ok(())
        }
    };
    let consumer = client.consumer("q").run(handler).expect("consumer");
    let mut session = first.pull().await;
    opened(&mut session).await;
    deliver(&session, [1]).await;
    session.fail(Status::unavailable("the host died")).await;
    while client.endpoints().to(crate::endpoints::About::Nothing).0 == first.address {
        tokio::task::yield_now().await;
    }
    // Now the ack goes to the dead address, or right to the second host: in both cases it was never sent before.
    finish.notify_one();
    let mut session = second.pull().await;
    let (seq, words) = next_settlements(&mut session).await;
    assert_eq!(acks(&words), [1]);
    refuse(&session, seq, 0, Kind::NotFound, reason::TASK_NOT_FOUND).await;
    let counts = drained(consumer, session).await;
    assert_eq!((counts.acked, counts.lost), (0, 1));
}

/// A thousand reasons of this length are more than a server reads at once, and it would end the stream every time.
#[tokio::test]
async fn p10_a_thousand_long_reasons_are_cut_to_what_is_kept() {
    let mut fake = Fake::start().await;
    let handler = |_| async { Err(HandlerError::new("é".repeat(9_000))) };
    let consumer = builder(&fake).credit(1_000).run(handler).expect("consumer");
    let mut session = fake.pull().await;
    assert_eq!(opened(&mut session).await, 1_000);
    deliver(&session, 1..=1_000).await;
    let mut settled = 0;
    while settled < 1_000 {
        let (seq, words) = settlements(&mut session).await.expect("open");
        for word in &words {
            assert!(matches!(&word.verdict, Some(Pb::Nack(nack)) if nack.reason.len() == 1_024));
        }
        settled += words.len();
        confirm(&session, seq).await;
    }
    assert_eq!(drained(consumer, session).await.failed, 1_000);
}

/// Opening is no progress: a server that ends the stream because of what we send opens it every time.
#[tokio::test]
async fn a_stream_that_ends_whenever_settlements_come_is_opened_ever_more_slowly() {
    let mut fake = Fake::start().await;
    let consumer = builder(&fake).run(|_| async { Ok(()) }).expect("consumer");
    let mut session = fake.pull().await;
    opened(&mut session).await;
    deliver(&session, [1]).await;
    next_settlements(&mut session).await;
    let start = Instant::now();
    for _ in 0..6 {
        // With OK, as a server does that cannot decode a message.
        drop(session);
        session = fake.pull().await;
        assert_eq!(acks(&next_settlements(&mut session).await.1), [1]);
    }
    // The least waits are 10, 20, 40 … 320 ms.
    assert!(start.elapsed() >= Duration::from_millis(630), "after {:?}", start.elapsed());
    let (seq, _) = {
        drop(session);
        session = fake.pull().await;
        next_settlements(&mut session).await
    };
    confirm(&session, seq).await;
    assert_eq!(drained(consumer, session).await.acked, 1);
}

#[tokio::test]
async fn p10_one_extension_of_each_lease_waits_while_there_is_no_stream() {
    let mut fake = Fake::start().await;
    let finish = Arc::new(Notify::new());
    let may_finish = Arc::clone(&finish);
    let handler = move |_| {
        let may_finish = Arc::clone(&may_finish);
        async move {
            may_finish.notified().await;
            Ok(())
        }
    };
    let lease = Duration::from_millis(100);
    let consumer = builder(&fake).lease(lease).run(handler).expect("consumer");
    let mut session = fake.pull().await;
    opened(&mut session).await;
    deliver(&session, 1..=3).await;
    // Both the words that are under way and those that would follow come back to the outbox.
    next_settlements(&mut session).await;
    let failure = z4_proto::status::Failure::new(Kind::Overloaded, reason::OVERLOADED, "full");
    session.fail(failure.with_retry_after(lease * 5).to_status()).await;

    let mut session = fake.pull().await;
    let (seq, words) = next_settlements(&mut session).await;
    let mut extended: Vec<u64> = words.iter().map(|word| word.token).collect();
    extended.sort_unstable();
    assert_eq!(extended, [1, 2, 3]);
    confirm(&session, seq).await;
    finish.notify_waiters();
    let mut acked = Vec::new();
    while acked.len() < 3 {
        let (seq, words) = settlements(&mut session).await.expect("open");
        acked.extend(acks(&words));
        confirm(&session, seq).await;
    }
    assert_eq!(drained(consumer, session).await.acked, 3);
}

#[tokio::test]
async fn a_task_whose_lease_was_lost_is_not_begun() {
    let mut fake = Fake::start().await;
    let (begun_in, mut begun) = mpsc::unbounded_channel();
    let finish = Arc::new(Notify::new());
    let may_finish = Arc::clone(&finish);
    let handler = move |task: Task| {
        let (begun_in, may_finish) = (begun_in.clone(), Arc::clone(&may_finish));
        async move {
            begun_in.send(task.token.0).expect("the test listens");
            may_finish.notified().await;
            Ok(())
        }
    };
    let lease = Duration::from_millis(400);
    let consumer = builder(&fake).concurrency(1).credit(3).lease(lease).run(handler).expect("consumer");
    let mut session = fake.pull().await;
    assert_eq!(opened(&mut session).await, 3);
    deliver(&session, 1..=3).await;
    assert_eq!(begun.recv().await, Some(1));
    let mut left = vec![1, 2, 3];
    while !left.is_empty() {
        let (seq, words) = settlements(&mut session).await.expect("open");
        assert!(words.iter().all(|word| matches!(word.verdict, Some(Pb::Extend(_)))), "{words:?}");
        left.retain(|token| words.iter().all(|word| word.token != *token));
        match words.iter().position(|word| word.token == 2) {
            Some(index) => refuse(&session, seq, index, Kind::Conflict, reason::LEASE_LOST).await,
            None => confirm(&session, seq).await,
        }
    }
    // Credit for the lost one comes back: the answer was read.
    loop {
        match session.next().await.and_then(|r| r.message).expect("open") {
            pull_request::Message::Credit(credit) if credit.tasks > 0 => break assert_eq!(credit.tasks, 1),
            pull_request::Message::Settle(settle) => confirm(&session, settle.seq).await,
            _ => {}
        }
    }
    finish.notify_one();
    assert_eq!(begun.recv().await, Some(3));
    finish.notify_one();
    let mut acked = Vec::new();
    while acked.len() < 2 {
        let (seq, words) = settlements(&mut session).await.expect("open");
        acked.extend(acks(&words));
        confirm(&session, seq).await;
    }
    assert_eq!(acked, [1, 3]);
    let counts = drained(consumer, session).await;
    assert_eq!(counts, Counts { delivered: 3, acked: 2, lost: 1, ..Default::default() });
}

#[tokio::test]
async fn drain_finishes_what_runs_and_releases_what_was_not_begun() {
    let mut fake = Fake::start().await;
    let (begun_in, mut begun) = mpsc::unbounded_channel();
    let finish = Arc::new(Notify::new());
    let may_finish = Arc::clone(&finish);
    let handler = move |task: Task| {
        let (begun_in, may_finish) = (begun_in.clone(), Arc::clone(&may_finish));
        async move {
            begun_in.send(task.token.0).expect("the test listens");
            may_finish.notified().await;
            Ok(())
        }
    };
    let consumer = builder(&fake).concurrency(1).credit(4).run(handler).expect("consumer");
    let mut session = fake.pull().await;
    assert_eq!(opened(&mut session).await, 4);
    deliver(&session, 1..=3).await;
    assert_eq!(begun.recv().await, Some(1));

    let drained = tokio::spawn(consumer.drain());
    while session.next().await.is_some() {}
    // One more was on its way when the client closed its side.
    deliver(&session, [4]).await;
    drop(session);
    let mut released = Vec::new();
    while released.len() < 3 {
        let call = fake.settles.recv().await.expect("the server runs");
        let words = &call.request.settlements;
        assert!(words.iter().all(|w| matches!(w.verdict, Some(Pb::Release(_)))), "{words:?}");
        released.extend(words.iter().map(|w| w.token));
        call.answer(Ok(v1::SettleResponse::default()));
    }
    released.sort_unstable();
    assert_eq!(released, [2, 3, 4]);
    assert!(begun.try_recv().is_err(), "nothing begins while draining");

    finish.notify_one();
    let call = fake.settles.recv().await.expect("the server runs");
    assert_eq!(acks(&call.request.settlements), [1]);
    call.answer(Ok(v1::SettleResponse::default()));
    let counts = drained.await.expect("no panic").expect("drained");
    assert_eq!(counts, Counts { delivered: 4, acked: 1, released: 3, ..Default::default() });
}

#[tokio::test]
async fn leases_of_long_handlers_are_extended_at_half_their_time() {
    let mut fake = Fake::start().await;
    let finish = Arc::new(Notify::new());
    let may_finish = Arc::clone(&finish);
    let handler = move |_| {
        let may_finish = Arc::clone(&may_finish);
        async move {
            may_finish.notified().await;
            Ok(())
        }
    };
    let lease = Duration::from_millis(400);
    let consumer = builder(&fake).lease(lease).run(handler).expect("consumer");
    let mut session = fake.pull().await;
    opened(&mut session).await;
    let delivered_at = Instant::now();
    deliver(&session, [1]).await;
    for round in 1..=2 {
        let (seq, words) = settlements(&mut session).await.expect("open");
        assert!(delivered_at.elapsed() >= lease / 2 * round, "extended after {:?}", delivered_at.elapsed());
        assert!(
            matches!(&words[..], [v1::Settlement { token: 1, verdict: Some(Pb::Extend(_)), .. }]),
            "{words:?}"
        );
        confirm(&session, seq).await;
    }
    finish.notify_one();
    let acked = loop {
        let (seq, words) = settlements(&mut session).await.expect("open");
        confirm(&session, seq).await;
        let acked = acks(&words);
        if !acked.is_empty() {
            break acked;
        }
    };
    assert_eq!(acked, [1]);
    drop(session);
    drop(consumer);
}

#[tokio::test]
async fn credit_never_lets_more_be_held_than_allowed() {
    let mut fake = Fake::start().await;
    let consumer = builder(&fake).concurrency(2).credit(4).run(|_| async { Ok(()) }).expect("consumer");
    let mut session = fake.pull().await;
    let mut credit = u128::from(opened(&mut session).await);
    let (mut sent, mut settled) = (0, 0);
    while settled < 40 {
        if credit > 0 {
            deliver(&session, sent + 1..=sent + credit).await;
            sent += credit;
            credit = 0;
        }
        match session.next().await.and_then(|r| r.message).expect("open") {
            pull_request::Message::Credit(more) => credit += u128::from(more.tasks),
            pull_request::Message::Settle(settle) => {
                settled += settle.settlements.len() as u128;
                confirm(&session, settle.seq).await;
            }
            pull_request::Message::Open(_) => panic!("opened twice"),
        }
        assert!(sent - settled + credit <= 4, "{sent} sent, {settled} settled, credit for {credit}");
    }
    drop(session);
    drop(consumer);
}

#[tokio::test]
async fn a_refused_consumer_ends_with_the_reason() {
    let mut fake = Fake::start().await;
    let consumer = builder(&fake).run(|_| async { Ok(()) }).expect("consumer");
    let refusal =
        z4_proto::status::Failure::invalid("open.lease_duration", reason::FIELD_INVALID, "too long");
    fake.pull().await.fail(refusal.to_status()).await;
    let error = consumer.wait().await.expect_err("refused");
    assert_eq!((error.kind(), error.field()), (Kind::Invalid, Some("open.lease_duration")));
}

#[tokio::test]
async fn a_stream_that_was_passed_on_is_left_for_the_leader_before_anything_was_asked_of_it() {
    let (mut follower, mut leader) = (Fake::start().await, Fake::start().await);
    let consumer = builder(&follower).run(|_| async { Ok(()) }).expect("consumer");
    let mut session = follower.pull().await;
    let open = session.next().await.and_then(|r| r.message);
    assert!(matches!(open, Some(pull_request::Message::Open(_))), "{open:?}");
    let forwarded = pull_reply::Opened { forwarded_to: leader.address.clone(), ..Default::default() };
    send(&session, pull_reply::Message::Opened(forwarded)).await;
    assert!(session.next().await.is_none(), "no credit: what it would buy could be lost on the way");

    let mut session = leader.pull().await;
    opened(&mut session).await;
    deliver(&session, [1]).await;
    let (seq, words) = settlements(&mut session).await.expect("open");
    assert_eq!(acks(&words), [1]);
    confirm(&session, seq).await;
    // The shard moves back: the stream ends with the name of its leader, and no time is lost.
    let refusal = z4_proto::status::Failure::new(Kind::Unavailable, reason::NOT_LEADER, "moved")
        .with_leader("a", follower.address.as_str())
        .with_retry_after(Duration::from_secs(3_600));
    session.fail(refusal.to_status()).await;
    let mut session = follower.pull().await;
    opened(&mut session).await;
    assert_eq!(drained(consumer, session).await, Counts { delivered: 1, acked: 1, ..Default::default() });
}

#[tokio::test]
async fn p9_a_host_that_never_opens_the_stream_is_left_for_another() {
    let (mut silent, mut second) = (Fake::start().await, Fake::start().await);
    let client = Client::builder([silent.address.as_str(), second.address.as_str()])
        .timeout(Duration::from_millis(200))
        .build()
        .expect("addresses");
    let consumer = client.consumer("q").run(|_| async { Ok(()) }).expect("consumer");
    let held = silent.pull().await;
    let mut session = second.pull().await;
    opened(&mut session).await;
    drop(held);
    assert_eq!(drained(consumer, session).await, Counts::default());
}
