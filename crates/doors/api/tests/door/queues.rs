//! Queues through the door: settings, pauses, purges, statistics, with the client library.

use std::time::Duration;

use tonic::Code;
use z4_client::{Client, Error, Kind, ListTasks, NewTask, PurgeState, QueuePatch, TaskState, Verdict};
use z4_proto::{reason, v1};

use super::{Served, refused, task};

const MINUTE: Duration = Duration::from_secs(60);

pub(super) fn client(z4: &Served) -> Client {
    Client::connect([z4.address.as_str()]).expect("an address")
}

#[track_caller]
pub(super) fn fails<T: std::fmt::Debug>(result: Result<T, Error>, kind: Kind, reason: &str) {
    let error = result.expect_err("is refused");
    assert_eq!((error.kind(), error.reason()), (kind, reason), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_is_made_changed_by_mask_and_etag_and_deleted() {
    let z4 = Served::start().await;
    let client = client(&z4);
    fails(client.queue_config("mail").await, Kind::NotFound, reason::QUEUE_NOT_FOUND);
    fails(client.update_queue("mail", QueuePatch::new()).await, Kind::NotFound, reason::QUEUE_NOT_FOUND);

    let made =
        client.create_queue("mail", QueuePatch::new().max_attempts(3).group_weight(5)).await.expect("made");
    fails(client.create_queue("mail", QueuePatch::new()).await, Kind::AlreadyExists, reason::QUEUE_EXISTS);
    let effective = made.effective.clone().expect("is told");
    assert_eq!((effective.max_attempts, effective.default_priority), (Some(3), Some(128)));
    assert_eq!(made.sources.get("groups.weight").map(String::as_str), Some("queue"));
    assert_eq!(made.sources.len(), 2, "defaults have no source");

    let changed = QueuePatch::new().group_concurrency(2).unset("max_attempts").if_etag(&made.etag);
    let now = client.update_queue("mail", changed.clone()).await.expect("the etag is right");
    let settings = now.settings.clone().expect("is told");
    let groups = settings.groups.expect("two of four");
    assert_eq!((settings.max_attempts, groups.concurrency, groups.weight), (None, Some(2), Some(5)));
    fails(client.update_queue("mail", changed).await, Kind::Conflict, reason::ETAG_MISMATCH);
    assert_eq!(client.queue_config("mail").await.expect("is there"), now);
    fails(client.delete_queue("mail", Some(&made.etag)).await, Kind::Conflict, reason::ETAG_MISMATCH);
    fails(client.delete_queue("mail", Some("new")).await, Kind::Invalid, reason::ETAG_INVALID);
    client.delete_queue("mail", Some(&now.etag)).await.expect("it is empty");
    fails(client.delete_queue("mail", None).await, Kind::NotFound, reason::QUEUE_NOT_FOUND);
    let patch = QueuePatch::new().lease_duration(MINUTE).or_create();
    client.update_queue("mail", patch).await.expect("made by an update");

    let bad = client.update_queue("mail", QueuePatch::new().group_weight(0)).await.expect_err("no share");
    assert_eq!((bad.kind(), bad.field()), (Kind::Invalid, Some("settings.groups.weight")));
    let bad =
        client.update_queue("mail", QueuePatch::new().unset("retry.max_delay")).await.expect_err("a part");
    assert_eq!((bad.kind(), bad.field()), (Kind::Invalid, Some("update_mask")));
    let bad = client.create_queue("other", QueuePatch::new().rate(-1.0, None)).await.expect_err("no rate");
    assert_eq!((bad.kind(), bad.field()), (Kind::Invalid, Some("settings.rate.per_second")));
    z4.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_queue_holds_its_tasks_and_a_resumed_one_delivers_them() {
    let z4 = Served::start().await;
    let client = client(&z4);
    fails(client.pause_queue("mail", "", "").await, Kind::NotFound, reason::QUEUE_NOT_FOUND);
    fails(client.resume_queue("mail").await, Kind::NotFound, reason::QUEUE_NOT_FOUND);
    let id = client.create("mail", NewTask::new("hello")).await.expect("created");
    client.pause_queue("mail", "the relay is down", "ann").await.expect("paused");
    let pause = client.queue_config("mail").await.expect("is there").pause.expect("is paused");
    assert_eq!((pause.note.as_str(), pause.author.as_str()), ("the relay is down", "ann"));
    client.create("mail", NewTask::new("more")).await.expect("may be created");
    assert!(z4.lease("mail", 1, 0).await.expect("no error").is_empty());

    // A consumer that waits already gets them when deliveries go on.
    let waiting = z4.lease("mail", 2, 20);
    let (leased, resumed) = tokio::join!(waiting, async {
        z4.until_calls(1).await;
        client.resume_queue("mail").await
    });
    resumed.expect("resumed");
    let leased = leased.expect("no error");
    assert_eq!(leased.first().map(|task| task.id.clone()), Some(id.to_string()));
    assert_eq!(client.queue_config("mail").await.expect("is there").pause, None);
    z4.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_purge_ends_what_was_there_and_its_states_only() {
    let z4 = Served::start().await;
    let client = client(&z4);
    fails(client.purge_queue("mail", &[]).await, Kind::NotFound, reason::QUEUE_NOT_FOUND);
    client.create("mail", NewTask::new("first")).await.expect("created");
    assert_eq!(z4.lease("mail", 1, 20).await.expect("leases").len(), 1);
    let many = (0..1_200).map(|_| NewTask::new("x").delay(MINUTE)).collect();
    client.create_batch("mail", many).await.expect("created");
    fails(client.delete_queue("mail", None).await, Kind::Conflict, reason::QUEUE_NOT_EMPTY);
    assert_eq!(client.purge_queue("mail", &[PurgeState::Dead]).await, Ok(0));
    assert_eq!(client.purge_queue("mail", &[]).await, Ok(1_200), "several batches");
    let stats = client.queue_stats("mail").await.expect("is there");
    assert_eq!((stats.waiting, stats.leased, stats.cancelled_total), (0, 1, 1_200));
    assert_eq!(client.purge_queue("mail", &[PurgeState::Leased]).await, Ok(1));
    client.delete_queue("mail", None).await.expect("it is empty");
    refused(
        z4.queues()
            .purge_queue(v1::PurgeQueueRequest {
                queue: "mail".into(),
                states: vec![9],
                ..Default::default()
            })
            .await,
        Code::InvalidArgument,
        reason::FIELD_INVALID,
    );
    z4.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_counts_what_happened_and_what_is_due_when() {
    let z4 = Served::start().await;
    let client = client(&z4);
    fails(client.queue_stats("mail").await, Kind::NotFound, reason::QUEUE_NOT_FOUND);
    for delay in [0, 0, 30, 200, 2_000, 9_000] {
        let task = NewTask::new("x").delay(Duration::from_secs(delay));
        client.create("mail", task).await.expect("created");
    }
    let leased = client.lease(z4_client::Lease::one("mail")).await.expect("leases");
    let words: Vec<_> = leased.iter().map(|task| task.settle(Verdict::Ack)).collect();
    assert_eq!(client.settle(&words).await.expect("settles"), [Ok(())]);
    let stats = client.queue_stats("mail").await.expect("is there");
    assert_eq!((stats.waiting, stats.due, stats.leased), (5, 1, 0));
    assert_eq!((stats.due_in_1m, stats.due_in_5m, stats.due_in_60m), (1, 2, 3));
    assert_eq!((stats.created_total, stats.deliveries_total, stats.acked_total), (6, 1, 1));
    assert!(stats.oldest_due_at.is_some());
    // Six within the last 55 to 60 seconds.
    assert!((0.09..0.12).contains(&stats.created_per_second), "{}", stats.created_per_second);
    assert!(stats.delivered_per_second > 0.0 && stats.acked_per_second > 0.0, "{stats:?}");
    z4.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_refuses_and_settings_hold_for_tasks_that_name_none() {
    let z4 = Served::start().await;
    let client = client(&z4);
    let patch = QueuePatch::new().max_backlog(1).lease_duration(MINUTE * 5);
    client.create_queue("mail", patch).await.expect("made");
    z4.create("mail", task("fits")).await.expect("created");
    refused(z4.create("mail", task("one more")).await, Code::ResourceExhausted, reason::QUEUE_FULL);
    let leased = z4.lease("mail", 1, 20).await.expect("leases");
    let held =
        leased[0].lease_until.expect("is told").seconds - leased[0].created_at.expect("is told").seconds;
    assert!((299..400).contains(&held), "a lease of {held} s");
    z4.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn finished_tasks_are_kept_with_their_results_and_progress() {
    let z4 = Served::start().await;
    let client = client(&z4);
    client.create_queue("jobs", QueuePatch::new().retention(MINUTE, None)).await.expect("made");
    let lease = async || {
        let id = client.create("jobs", NewTask::new("work")).await.expect("created");
        let wish = z4_client::Lease { wait: MINUTE / 3, ..z4_client::Lease::one("jobs") };
        (id, client.lease(wish).await.expect("leases").pop().expect("a task"))
    };
    let (done, leased) = lease().await;
    let said = Verdict::ExtendWith { lease: MINUTE, progress: "half".into() };
    assert_eq!(client.settle(&[leased.settle(said)]).await.expect("settles"), [Ok(())]);
    let before = client.get(done).await.expect("is there");
    assert_eq!(before.progress.as_deref(), Some("half"));
    let said = Verdict::AckWith { result: "42".into() };
    assert_eq!(client.settle(&[leased.settle(said)]).await.expect("settles"), [Ok(())]);
    let after = client.get(done).await.expect("is kept");
    assert_eq!((after.state, after.result.as_deref()), (TaskState::Done, Some(&b"42"[..])));
    assert!(after.ended_at.is_some() && after.etag != before.etag);

    let (dead, leased) = lease().await;
    let said = Verdict::NackDead { reason: "no such user".into() };
    assert_eq!(client.settle(&[leased.settle(said)]).await.expect("settles"), [Ok(())]);
    assert_eq!(client.get(dead).await.expect("is kept").state, TaskState::Dead);
    let gone = client.create("jobs", NewTask::new("x").delay(MINUTE)).await.expect("created");
    assert_eq!(client.cancel(&[gone]).await.expect("cancels"), [Ok(())]);
    for (state, ids) in [
        (None, vec![dead]),
        (Some(TaskState::Done), vec![done]),
        (Some(TaskState::Cancelled), vec![gone]),
        (Some(TaskState::Expired), vec![]),
    ] {
        let wish = ListTasks { queue: "jobs".into(), state, ..Default::default() };
        let listed: Vec<_> =
            client.list(wish).await.expect("lists").items.into_iter().map(|t| t.id).collect();
        assert_eq!(listed, ids, "{state:?}");
    }
    assert_eq!(client.get_queue("jobs").await.expect("is there").finished, 2);
    assert_eq!(client.purge_queue("jobs", &[PurgeState::Dead, PurgeState::Finished]).await, Ok(3));
    z4.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_holds_for_every_queue_that_matches_and_sets_nothing_itself() {
    let z4 = Served::start().await;
    let client = client(&z4);
    client.create_queue("acme/mail", QueuePatch::new().max_attempts(9)).await.expect("made");
    client.set_policy("*", QueuePatch::new().max_attempts(3).default_priority(7)).await.expect("set");
    client
        .set_policy("acme/*", QueuePatch::new().lease_duration(MINUTE).default_priority(8))
        .await
        .expect("set");
    // Shards are told within moments; the newest list comes with the last of these.
    let config = loop {
        let config = client.queue_config("acme/mail").await.expect("is there");
        if config.sources.len() == 3 {
            break config;
        }
        tokio::task::yield_now().await;
    };
    let effective = config.effective.expect("is told");
    assert_eq!((effective.max_attempts, effective.default_priority), (Some(9), Some(8)));
    let source = |field: &str| config.sources.get(field).map(String::as_str);
    assert_eq!(
        [source("max_attempts"), source("default_priority"), source("lease_duration")],
        [Some("queue"), Some("acme/*"), Some("acme/*")]
    );

    let listed = client.list_policies().await.expect("listed");
    assert_eq!(listed.iter().map(|policy| policy.pattern.as_str()).collect::<Vec<_>>(), ["*", "acme/*"]);
    client.delete_policy("acme/*").await.expect("is forgotten");
    fails(client.delete_policy("acme/*").await, Kind::NotFound, reason::POLICY_NOT_FOUND);
    let bad = client.set_policy("acme*", QueuePatch::new().max_attempts(3)).await.expect_err("no level");
    assert_eq!((bad.kind(), bad.field()), (Kind::Invalid, Some("policy.pattern")));
    let bad = client.set_policy("*", QueuePatch::new().concurrency(0)).await.expect_err("nothing would run");
    assert_eq!((bad.kind(), bad.field()), (Kind::Invalid, Some("policy.settings.concurrency")));
    z4.stop().await;
}
