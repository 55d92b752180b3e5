//! Schedules through the door, with the client library.

use std::time::Duration;

use z4_client::{Client, Error, Kind, NewTask, OverlapPolicy, SchedulePatch, ScheduleRun, SlotFate, TaskId};
use z4_proto::convert::millis;
use z4_proto::reason;
use z4_types::Millis;

use super::Served;

fn client(z4: &Served) -> Client {
    Client::connect([z4.address.as_str()]).expect("an address")
}

#[track_caller]
fn fails<T: std::fmt::Debug>(result: Result<T, Error>, kind: Kind, reason: &str) -> Error {
    let error = result.expect_err("is refused");
    assert_eq!((error.kind(), error.reason()), (kind, reason), "{error}");
    error
}

fn daily() -> SchedulePatch {
    SchedulePatch::new().cron("30 2 * * *").time_zone("Europe/Berlin").payload("report")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schedule_is_made_changed_by_mask_and_etag_and_deleted() {
    let z4 = Served::start().await;
    let client = client(&z4);
    fails(client.schedule("reports", "nightly").await, Kind::NotFound, reason::SCHEDULE_NOT_FOUND);
    let update = client.update_schedule("reports", "nightly", daily()).await;
    fails(update, Kind::NotFound, reason::SCHEDULE_NOT_FOUND);
    let made = client.create_schedule("reports", "nightly", daily()).await.expect("made");
    let again = client.create_schedule("reports", "nightly", daily()).await;
    fails(again, Kind::AlreadyExists, reason::SCHEDULE_EXISTS);
    let schedule = made.schedule.clone().expect("is told");
    assert_eq!((schedule.time_zone.as_str(), schedule.overlap()), ("Europe/Berlin", OverlapPolicy::Skip));
    assert_eq!(made.next_slots.len(), 5);
    assert!(made.next_slots.is_sorted_by_key(|slot| slot.seconds));

    let change = SchedulePatch::new().priority(7).unset("time_zone").if_etag(&made.etag);
    let changed = client.update_schedule("reports", "nightly", change.clone()).await.expect("as it was seen");
    let now = changed.schedule.clone().expect("is told");
    assert_eq!((now.time_zone.as_str(), now.cron.as_str()), ("UTC", "30 2 * * *"));
    let task = now.task.expect("is told");
    assert_eq!((task.priority, &task.payload[..]), (Some(7), &b"report"[..]));
    let late = client.update_schedule("reports", "nightly", change).await;
    fails(late, Kind::Conflict, reason::ETAG_MISMATCH);

    client.create_schedule("reports", "hourly", SchedulePatch::new().cron("@hourly")).await.expect("made");
    let (page, _) = client.list_schedules("reports", None).await.expect("listed");
    assert_eq!(page.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), ["hourly", "nightly"]);
    assert_eq!(page[1], client.schedule("reports", "nightly").await.expect("is there"));
    fails(client.list_schedules("none", None).await, Kind::NotFound, reason::QUEUE_NOT_FOUND);

    fails(client.delete_queue("reports", None).await, Kind::Conflict, reason::QUEUE_HAS_SCHEDULES);
    let old = client.delete_schedule("reports", "nightly", Some(&made.etag)).await;
    fails(old, Kind::Conflict, reason::ETAG_MISMATCH);
    client.delete_schedule("reports", "nightly", Some(&changed.etag)).await.expect("deleted");
    client.delete_schedule("reports", "hourly", None).await.expect("deleted");
    client.delete_queue("reports", None).await.expect("has none any more");
    z4.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_is_refused_with_the_place_and_what_would_be_right() {
    let z4 = Served::start().await;
    let client = client(&z4);
    let create = async |patch| client.create_schedule("q", "n", patch).await;
    let error = fails(create(daily().cron("0 0 30 2 *")).await, Kind::Invalid, reason::CRON_INVALID);
    assert_eq!(error.field(), Some("schedule.cron"));
    assert!(error.to_string().contains("column"), "{error}");
    let error = fails(create(daily().time_zone("Europe/Berlim")).await, Kind::Invalid, reason::ZONE_UNKNOWN);
    assert_eq!(error.field(), Some("schedule.time_zone"));
    assert!(error.to_string().contains("Europe/Berlin"), "{error}");
    let refused = async |field: &str, patch| {
        let error = create(patch).await.expect_err("is refused");
        assert_eq!((error.kind(), error.field()), (Kind::Invalid, Some(field)), "{error}");
    };
    refused("schedule.cron", SchedulePatch::new()).await;
    refused("schedule.catch_up_window", daily().catch_up_window(Duration::from_secs(32 * 86_400))).await;
    refused("schedule.jitter", daily().cron("* * * * *").jitter(Duration::from_secs(60))).await;
    refused("schedule.end_at", daily().start_at(Millis(2_000)).end_at(Millis(1_000))).await;
    refused("schedule.task.max_attempts", daily().task(NewTask::new("x").max_attempts(0))).await;
    refused("schedule.task.metadata", daily().metadata([("z4.slot".into(), "x".into())])).await;
    refused("schedule.task.deliver_at", daily().task(NewTask::new("x").delay(Duration::from_secs(1)))).await;
    refused("schedule.task.request_id", daily().task(NewTask::new("x").request_id("r"))).await;
    let long = client.create_schedule("q", &"x".repeat(256), daily()).await;
    fails(long, Kind::Invalid, reason::SCHEDULE_NAME_INVALID);
    let bad = client.preview_slots("61 * * * *", "", 3).await;
    fails(bad, Kind::Invalid, reason::CRON_INVALID);
    let slots = client.preview_slots("*/5 * * * * *", "Asia/Tokyo", 3).await.expect("slots");
    assert_eq!(slots.len(), 3);
    assert!(slots.windows(2).all(|pair| pair[1].0 == pair[0].0 + 5_000));
    z4.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slots_make_tasks_that_say_which_and_a_pause_holds_them() {
    let z4 = Served::start().await;
    let client = client(&z4);
    let ticks = SchedulePatch::new().cron("@every 1s").payload("tick").overlap(OverlapPolicy::BufferOne);
    client.create_schedule("ticks", "tick", ticks).await.expect("made");
    let first = z4.lease("ticks", 1, 20).await.expect("leases").remove(0);
    assert_eq!((&first.payload[..], first.metadata["z4.schedule"].as_str()), (&b"tick"[..], "tick"));
    let status = client.schedule("ticks", "tick").await.expect("is there");
    assert_eq!(status.last_task_id, first.id);
    let slot = millis(status.last_slot.expect("it fired"), "slot").expect("a time");
    assert_eq!(first.metadata["z4.slot"], slot.rfc3339());

    client.pause_schedule("ticks", "tick", "too loud", "ann").await.expect("paused");
    let paused = client.schedule("ticks", "tick").await.expect("is there");
    assert_eq!(paused.pause.expect("is paused").note, "too loud");
    assert_eq!(paused.next_slots.len(), 5, "as if it were resumed");
    // The first one is open still: a run waits for it, and no second one does.
    let open: TaskId = first.id.parse().expect("an id");
    assert_eq!(client.run_schedule("ticks", "tick").await, Ok(ScheduleRun::Waits(open)));
    let again = client.run_schedule("ticks", "tick").await;
    fails(again, Kind::Conflict, reason::SCHEDULE_OVERLAPS);
    client.cancel(&[open]).await.expect("ended");
    let second = z4.lease("ticks", 1, 20).await.expect("leases").remove(0);
    assert_ne!(second.id, first.id);
    let records = client.schedule_history("ticks", "tick", 0).await.expect("told");
    let fates: Vec<SlotFate> = records.iter().map(z4_client::SlotRecord::fate).collect();
    assert_eq!(fates[0], SlotFate::Fired);
    assert!(fates.contains(&SlotFate::Buffered), "{fates:?}");
    client.resume_schedule("ticks", "tick").await.expect("resumed");
    assert!(client.schedule("ticks", "tick").await.expect("is there").pause.is_none());
    z4.stop().await;
}
