//! Events through the door, with the client library: watches, resume tokens, and what is refused.

use std::time::Duration;

use tonic::Code;
use z4_client::{
    Client, Error, Event, EventStream, EventType, EventsFrom, Kind, Lease, NewTask, QueuePatch, Verdict,
    WatchEvents,
};
use z4_proto::v1::events_client::EventsClient;
use z4_proto::{reason, v1};

use super::{Served, refused};

fn client(z4: &Served) -> Client {
    Client::connect([z4.address.as_str()]).expect("an address")
}

#[track_caller]
fn fails<T: std::fmt::Debug>(result: Result<T, Error>, kind: Kind, reason: &str) -> Error {
    let error = result.expect_err("is refused");
    assert_eq!((error.kind(), error.reason()), (kind, reason), "{error}");
    error
}

fn from(queue: &str, from: EventsFrom) -> WatchEvents {
    WatchEvents { from, ..WatchEvents::new(queue) }
}

/// Waits for so many events, whatever batches they come in.
async fn take(watch: &mut EventStream, count: usize) -> Vec<Event> {
    let mut events = Vec::new();
    while events.len() < count {
        events.extend(watch.next().await.expect("goes on").events);
    }
    assert_eq!(events.len(), count);
    events
}

fn sequences(events: &[Event]) -> Vec<u64> {
    events.iter().map(|event| event.sequence).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_sees_lives_in_order_and_goes_on_in_the_middle() {
    let z4 = Served::start().await;
    let client = client(&z4);
    client.create_queue("mail", QueuePatch::new().events_kept(1_000)).await.expect("made");
    let mut watch = client.watch(WatchEvents::new("mail"));
    let first = watch.next().await.expect("comes at once");
    assert!(first.events.is_empty() && !first.resume_token.is_empty());
    assert_eq!(watch.resume_token(), Some(first.resume_token.as_str()));

    let id = client.create("mail", NewTask::new("a").priority(7)).await.expect("created");
    let other = client.create("mail", NewTask::new("b")).await.expect("created");
    let leased = client.lease(Lease { consumer: "w".into(), ..Lease::one("mail") }).await.expect("leases");
    let words: Vec<_> = leased.iter().map(|task| task.settle(Verdict::Ack)).collect();
    assert!(client.settle(&words).await.expect("settles").iter().all(Result::is_ok));
    client.cancel(&[other]).await.expect("cancels");
    let events = take(&mut watch, 5).await;
    let told: Vec<_> = events.iter().map(|event| (event.sequence, event.event, event.task)).collect();
    assert_eq!(
        told,
        [
            (1, EventType::Created, id),
            (2, EventType::Created, other),
            (3, EventType::Leased, id),
            (4, EventType::Acked, id),
            (5, EventType::Cancelled, other)
        ]
    );
    assert_eq!((events[0].priority, events[0].deliver_at), (Some(7), Some(events[0].time)));
    assert_eq!((events[2].consumer.as_deref(), events[2].deliveries), (Some("w"), Some(1)));
    assert_eq!(events[2].token, Some(leased[0].token));
    assert_eq!(events[3].token, Some(leased[0].token));

    // Behind any event, in a list and in another watch.
    let second = EventsFrom::Token(events[1].resume_token.clone());
    let page = client.list_events(&from("mail", second.clone()), 2).await.expect("a page");
    assert_eq!((sequences(&page.events), page.more), (vec![3, 4], true));
    let mut again = client.watch(from("mail", second));
    assert_eq!(sequences(&take(&mut again, 3).await), [3, 4, 5]);
    let all = client.list_events(&from("mail", EventsFrom::Earliest), 0).await.expect("a page");
    assert_eq!((all.events, all.more), (events, false));
    let now = client.list_events(&from("mail", EventsFrom::Now), 0).await.expect("a page");
    assert_eq!((now.events.len(), now.resume_token), (0, all.resume_token));

    let acks = WatchEvents { types: vec![EventType::Acked], ..from("mail", EventsFrom::Earliest) };
    assert_eq!(sequences(&client.list_events(&acks, 0).await.expect("a page").events), [4]);
    let of_one = WatchEvents { task: Some(other), ..from("mail", EventsFrom::Earliest) };
    let mut watch = client.watch(of_one);
    assert_eq!(sequences(&take(&mut watch, 2).await), [2, 5]);

    // Nothing happens: a heartbeat tells where the watch is.
    let idle = WatchEvents { heartbeat: Duration::from_secs(1), ..from("mail", EventsFrom::Now) };
    let mut watch = client.watch(idle);
    let (first, beat) = (watch.next().await.expect("at once"), watch.next().await.expect("a beat"));
    assert_eq!(first, beat);
    z4.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn places_that_are_none_and_queues_without_events_are_refused_by_name() {
    let z4 = Served::start().await;
    let client = client(&z4);
    let list = |queue: &'static str, start: EventsFrom| {
        let client = client.clone();
        async move { client.list_events(&from(queue, start), 0).await }
    };
    fails(list("mail", EventsFrom::Earliest).await, Kind::NotFound, reason::QUEUE_NOT_FOUND);
    client.create("mail", NewTask::new("x")).await.expect("created");
    let off = fails(list("mail", EventsFrom::Earliest).await, Kind::Conflict, reason::EVENTS_OFF);
    assert!(off.message().contains("z4t queue set mail --events-kept N"), "{off}");
    fails(client.watch(WatchEvents::new("mail")).next().await, Kind::Conflict, reason::EVENTS_OFF);

    for queue in ["mail", "sms"] {
        let patch = QueuePatch::new().events_kept(3).or_create();
        client.update_queue(queue, patch).await.expect("set");
    }
    let place = list("sms", EventsFrom::Now).await.expect("a page").resume_token;
    let other = list("mail", EventsFrom::Token(place.clone())).await;
    let other = fails(other, Kind::Invalid, reason::RESUME_TOKEN_INVALID);
    assert!(other.message().contains("queue sms, not of mail"), "{other}");
    assert_eq!(other.field(), Some("resume_token"));
    let mut cut = place.clone();
    cut.truncate(20);
    fails(list("sms", EventsFrom::Token(cut)).await, Kind::Invalid, reason::RESUME_TOKEN_INVALID);
    let watch = WatchEvents { heartbeat: Duration::from_millis(1), ..WatchEvents::new("sms") };
    fails(client.watch(watch).next().await, Kind::Invalid, reason::DURATION_OUT_OF_RANGE);

    for _ in 0..5 {
        client.create("sms", NewTask::new("x")).await.expect("created");
    }
    let late =
        fails(list("sms", EventsFrom::Token(place.clone())).await, Kind::Conflict, reason::EVENTS_COMPACTED);
    fails(
        client.watch(from("sms", EventsFrom::Token(place.clone()))).next().await,
        Kind::Conflict,
        reason::EVENTS_COMPACTED,
    );
    let oldest = late.message().rsplit(' ').next().expect("ends with the token").to_owned();
    let page = list("sms", EventsFrom::Token(oldest)).await.expect("goes on");
    assert_eq!(sequences(&page.events), [3, 4, 5]);
    let mut raw = EventsClient::new(z4.channel.clone());
    let request = |queue: &str, resume_token: &str| v1::ListEventsRequest {
        queue: queue.into(),
        resume_token: resume_token.into(),
        ..Default::default()
    };
    refused(raw.list_events(request("sms", &place)).await, Code::OutOfRange, reason::EVENTS_COMPACTED);
    refused(raw.list_events(request("sms", "00")).await, Code::InvalidArgument, reason::RESUME_TOKEN_INVALID);
    client.update_queue("sms", QueuePatch::new().events_kept(0)).await.expect("set");
    refused(raw.list_events(request("sms", "")).await, Code::FailedPrecondition, reason::EVENTS_OFF);
    z4.stop().await;
}

/// A watch that waits hears of its queue's end, and one at a host that stops is told so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_waits_hears_of_its_end() {
    let z4 = Served::start().await;
    let client = client(&z4);
    client.create_queue("mail", QueuePatch::new().events_kept(10)).await.expect("made");
    let mut watch = client.watch(WatchEvents { patience: Duration::ZERO, ..WatchEvents::new("mail") });
    watch.next().await.expect("at once");
    let waiting = tokio::spawn(async move { (watch.next().await, watch) });
    z4.until_calls(1).await;
    client.update_queue("mail", QueuePatch::new().events_kept(0)).await.expect("set");
    let (end, mut watch) = waiting.await.expect("no panic");
    fails(end, Kind::Conflict, reason::EVENTS_OFF);

    client.update_queue("mail", QueuePatch::new().events_kept(10)).await.expect("set");
    // Events in between may have been missed.
    fails(watch.next().await, Kind::Conflict, reason::EVENTS_COMPACTED);
    let mut watch = client.watch(WatchEvents { patience: Duration::ZERO, ..WatchEvents::new("mail") });
    watch.next().await.expect("at once");
    z4.stop.send_replace(true);
    let end = loop {
        match watch.next().await {
            Ok(batch) => assert!(batch.events.is_empty()),
            Err(error) => break error,
        }
    };
    assert_eq!(end.kind(), Kind::Unavailable, "{end}");
    z4.stop().await;
}
