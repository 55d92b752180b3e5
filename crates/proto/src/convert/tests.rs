//! What the door accepts, and how it names what it refuses.

use bytes::Bytes;

use z4_types::limits::PAYLOAD_BYTES_MAX;

use super::*;

fn at(seconds: i64, nanos: i32) -> Timestamp {
    Timestamp { seconds, nanos }
}

fn span(seconds: i64, nanos: i32) -> PbDuration {
    PbDuration { seconds, nanos }
}

fn queue() -> QueueName {
    QueueName::new("mail").expect("a valid name")
}

#[test]
fn times_round_up_and_the_past_before_1970_is_1970() {
    assert_eq!(millis(at(1, 0), "t"), Ok(Millis(1_000)));
    assert_eq!(millis(at(1, 1), "t"), Ok(Millis(1_001)), "never early");
    assert_eq!(millis(at(1, 999_999_999), "t"), Ok(Millis(2_000)));
    assert_eq!(millis(at(SECONDS_MIN, 0), "t"), Ok(Millis(0)));
    assert_eq!(millis(at(-1, 999_999_999), "t"), Ok(Millis(0)));
    assert_eq!(millis(at(SECONDS_MAX, 999_999_999), "t"), Ok(Millis::MAX_NAMEABLE));
    for bad in
        [at(SECONDS_MIN - 1, 0), at(SECONDS_MAX + 1, 0), at(0, -1), at(0, 1_000_000_000), at(i64::MAX, 0)]
    {
        let failure = millis(bad, "task.deliver_at").expect_err("out of range");
        assert_eq!(failure.reason, reason::TIME_OUT_OF_RANGE);
        assert_eq!(failure.field.as_deref(), Some("task.deliver_at"));
    }
}

#[test]
fn every_nameable_millisecond_survives_its_timestamp() {
    for ms in [0, 1, 999, 1_000, 1_700_000_000_123, Millis::MAX_NAMEABLE.0] {
        assert_eq!(millis(timestamp(Millis(ms)), "t"), Ok(Millis(ms)));
    }
    assert_eq!(timestamp(Millis::NEVER), timestamp(Millis::MAX_NAMEABLE));
}

#[test]
fn spans_are_never_negative() {
    assert_eq!(duration(span(2, 500_000_001), "d"), Ok(Duration(2_501)));
    assert_eq!(duration(span(0, 0), "d"), Ok(Duration(0)));
    for bad in [
        span(-1, 0),
        span(0, -1),
        span(0, 1_000_000_000),
        span(DURATION_SECONDS_MAX + 1, 0),
        span(i64::MIN, 0),
    ] {
        assert_eq!(duration(bad, "d").expect_err("refused").reason, reason::DURATION_OUT_OF_RANGE);
    }
    assert_eq!(duration(pb_duration(Duration(12_345)), "d"), Ok(Duration(12_345)));
    assert_eq!(pb_duration(Duration(u64::MAX)).seconds, DURATION_SECONDS_MAX);
}

#[test]
fn a_request_id_is_its_number_or_its_hash_and_each_queue_has_its_own() {
    let id = |text: &str, queue: &str| {
        let queue = QueueName::new(queue).expect("a valid name");
        request_id(text, &queue, "r").expect("short enough").map(|id| id.0)
    };
    assert_eq!(id("", "mail"), None);
    let (zero, number) = (id(&"0".repeat(32), "mail"), id("000000000000000000000000000000ff", "mail"));
    assert_eq!(number.zip(zero).map(|(a, b)| a ^ b), Some(255));
    assert_ne!(id("+00000000000000000000000000000ff", "mail"), number, "a sign is no digit");
    assert_ne!(id("order-1", "mail"), id("order-2", "mail"));
    assert_ne!(id("order-1", "mail"), id("order-1", "sms"), "another queue, another request");
    let long = request_id(&"x".repeat(129), &queue(), "r").expect_err("too long");
    assert_eq!(long.reason, reason::REQUEST_ID_INVALID);
}

#[test]
fn a_bad_task_fails_alone_and_names_its_field() {
    let good = v1::NewTask { payload: Bytes::from_static(b"x"), ..Default::default() };
    let bad = v1::NewTask { priority: Some(256), ..Default::default() };
    let create = create_batch(queue(), vec![good, bad], "").expect("the batch is fine");
    assert_eq!(create.tasks[0].as_ref().expect("good").priority, None, "left open: the queue says");
    let failure = create.tasks[1].as_ref().expect_err("priority 256");
    assert_eq!(failure.field.as_deref(), Some("tasks[1].priority"));
    assert!(failure.message.starts_with("tasks[1].priority: "), "{}", failure.message);
}

#[test]
fn batches_over_the_limits_are_refused_whole() {
    let refused = |tasks| create_batch(queue(), tasks, "").expect_err("refused").reason;
    assert_eq!(refused(vec![]), reason::BATCH_EMPTY);
    assert_eq!(refused(vec![v1::NewTask::default(); 9_000]), reason::BATCH_TOO_LARGE);
    let big = v1::NewTask { payload: Bytes::from(vec![0; 1 << 20]), ..Default::default() };
    assert_eq!(refused(vec![big; 8]), reason::BATCH_TOO_LARGE);
}

#[test]
fn limits_of_one_task_are_kept() {
    let reason_of = |task| new_task(task, &queue(), "task").expect_err("refused").reason;
    let payload = Bytes::from(vec![0; PAYLOAD_BYTES_MAX + 1]);
    assert_eq!(reason_of(v1::NewTask { payload, ..Default::default() }), reason::PAYLOAD_TOO_LARGE);
    let metadata = (0..65).map(|n| (n.to_string(), String::new())).collect();
    assert_eq!(reason_of(v1::NewTask { metadata, ..Default::default() }), reason::METADATA_TOO_LARGE);
    assert_eq!(reason_of(v1::NewTask { max_attempts: Some(0), ..Default::default() }), reason::FIELD_INVALID);
    let ttl = v1::NewTask { ttl: Some(span(0, 0)), ..Default::default() };
    assert_eq!(reason_of(ttl), reason::DURATION_OUT_OF_RANGE, "it would expire at once");
    let retry = v1::RetryPolicy { initial_delay: Some(span(7_200, 0)), ..Default::default() };
    assert_eq!(reason_of(v1::NewTask { retry: Some(retry), ..Default::default() }), reason::FIELD_INVALID);
    let delay = Some(v1::new_task::Schedule::Delay(span(-5, 0)));
    let failure = new_task(v1::NewTask { schedule: delay, ..Default::default() }, &queue(), "task")
        .expect_err("negative");
    assert_eq!(failure.field.as_deref(), Some("task.delay"));
}

#[test]
fn two_request_ids_of_one_create_must_agree() {
    let create = |outer: &str, inner: &str| {
        let request = v1::CreateTaskRequest {
            queue: queue().as_str().into(),
            task: Some(v1::NewTask { request_id: inner.into(), ..Default::default() }),
            request_id: outer.into(),
        };
        create_one(&queue(), request)
    };
    let id = request_id("a", &queue(), "r").expect("short");
    assert_eq!(create("a", "").expect("outer").request, id);
    assert_eq!(create("", "a").expect("inner").request, id);
    assert_eq!(create("a", "a").expect("both").request, id);
    assert_eq!(create("a", "b").expect_err("two").reason, reason::REQUEST_ID_INVALID);
}

#[test]
fn a_settlement_survives_the_way_back_into_its_message() {
    let verdicts = [
        Verdict::Ack,
        Verdict::Nack { delay: Some(Duration(1_250)), slow_group: None, reason: "no".into() },
        Verdict::Nack { delay: None, slow_group: None, reason: String::new() },
        Verdict::Release { delay: Duration(0) },
        Verdict::Extend { ttl: Duration(5_000) },
        Verdict::AckWith { result: Bytes::from_static(b"42") },
        Verdict::NackDead { reason: "no such user".into() },
        Verdict::ExtendWith { ttl: Duration(5_000), progress: "half".into() },
    ];
    for verdict in verdicts {
        let word = Settlement { id: TaskId(77), token: Token(5), verdict };
        assert_eq!(settlement(pb_settlement(word.clone())), Ok(word));
    }
}

#[test]
fn settlements_are_checked() {
    let id = TaskId(77).to_string();
    let word = |verdict| v1::Settlement { id: id.clone(), token: 5, verdict };
    let ack = settlement(word(Some(v1::settlement::Verdict::Ack(v1::Ack::default())))).expect("ack");
    assert_eq!(ack, Settlement { id: TaskId(77), token: Token(5), verdict: Verdict::Ack });
    assert_eq!(settlement(word(None)).expect_err("no verdict").reason, reason::FIELD_MISSING);
    let long = v1::Nack { reason: "é".repeat(600), ..Default::default() };
    let nack = settlement(word(Some(v1::settlement::Verdict::Nack(long)))).expect("cut, not refused");
    assert!(matches!(nack.verdict, Verdict::Nack { delay: None, reason, .. } if reason.len() == 1_024));
    let short = v1::Extend { lease_duration: Some(span(0, 1)), ..Default::default() };
    let failure = settlement(word(Some(v1::settlement::Verdict::Extend(short)))).expect_err("1 ns");
    assert_eq!(failure.reason, reason::LEASE_DURATION_OUT_OF_RANGE);
    let large = v1::Ack { result: vec![0; 65_537].into() };
    let failure = settlement(word(Some(v1::settlement::Verdict::Ack(large)))).expect_err("64 KiB and one");
    assert_eq!(
        (failure.reason.as_ref(), failure.field.as_deref()),
        (reason::RESULT_TOO_LARGE, Some("ack.result"))
    );
    let both = v1::Nack { delay: Some(span(1, 0)), dead: true, ..Default::default() };
    let failure = settlement(word(Some(v1::settlement::Verdict::Nack(both)))).expect_err("dead, and later");
    assert_eq!(failure.field.as_deref(), Some("nack.delay"));
}
