//! Why tasks do not run, and what holds queues back: every reason that needs no step of the clock. The others, and that each is
//! right to the millisecond, in `z4-tasks`. And groups, of which many reasons are.

use std::time::Duration;

use z4_client::{
    Breaker, Client, GroupPatch, Kind, Lease, NewTask, Obstacle, Pull, QueuePatch, Task, TaskId, Verdict,
};
use z4_proto::reason;

use super::Served;
use super::queues::{client, fails};

const HOUR: Duration = Duration::from_secs(3_600);

async fn lease(client: &Client, queue: &str, max_tasks: u32) -> Vec<Task> {
    client
        .lease(Lease { max_tasks, wait: Duration::from_secs(10), ..Lease::one(queue) })
        .await
        .expect("leases")
}

async fn settle(client: &Client, task: &Task, verdict: Verdict) {
    let answers = client.settle(&[task.settle(verdict)]).await.expect("answers");
    answers.into_iter().for_each(|answer| answer.expect("settles"));
}

async fn push(client: &Client, queue: &str, task: NewTask) -> TaskId {
    client.create(queue, task).await.expect("created")
}

/// Asserts that a task is held back by this and says so in these words.
async fn check(client: &Client, id: TaskId, obstacle: Obstacle, words: &str) {
    let said = client.explain(id).await.expect("is there");
    assert_eq!(said.obstacle(), obstacle, "{said:?}");
    assert!(said.because.contains(words), "{words:?} is not in {:?}", said.because);
    assert!(!said.remedy.is_empty(), "it says what would change that: {said:?}");
}

/// Asserts what holds a queue back, in that order.
async fn held(client: &Client, queue: &str, obstacles: &[Obstacle]) {
    let said = client.explain_queue(queue).await.expect("is there");
    assert_eq!(said.obstacles.iter().map(|one| one.obstacle()).collect::<Vec<_>>(), obstacles, "{said:?}");
    assert!(said.obstacles.iter().all(|one| !one.because.is_empty() && !one.remedy.is_empty()), "{said:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_says_why_it_does_not_run() {
    let z4 = Served::start().await;
    let client = client(&z4);
    fails(client.explain_queue("mail").await, Kind::NotFound, reason::QUEUE_NOT_FOUND);
    client.create_queue("mail", QueuePatch::new().retention(HOUR, None)).await.expect("made");
    held(&client, "mail", &[Obstacle::Empty, Obstacle::NoConsumer]).await;
    let later = push(&client, "mail", NewTask::new("x").delay(HOUR)).await;
    check(&client, later, Obstacle::NotDue, "not due until 20").await;
    held(&client, "mail", &[Obstacle::NotDue, Obstacle::NoConsumer]).await;
    let blocked = push(&client, "mail", NewTask::new("x").after([later])).await;
    check(&client, blocked, Obstacle::Blocked, &format!("comes after a task that has not ended: {later}"))
        .await;
    let first = push(&client, "mail", NewTask::new("x")).await;
    let second = push(&client, "mail", NewTask::new("x")).await;
    check(&client, first, Obstacle::NoConsumer, "no consumer is connected to queue mail").await;
    held(&client, "mail", &[Obstacle::NoConsumer]).await;

    client.pause_queue("mail", "lunch", "ann").await.expect("paused");
    check(&client, second, Obstacle::QueuePaused, "by ann: lunch").await;
    // One who waits for tasks of a paused queue.
    let stream = client.pull(Pull { tasks: 1, ..Pull::new("mail") }).await.expect("opens");
    z4.until_hungry(&client, "mail").await;
    held(&client, "mail", &[Obstacle::QueuePaused]).await;
    stream.close().await.expect("ends in good order");
    client.resume_queue("mail").await.expect("resumed");

    let tasks = lease(&client, "mail", 1).await;
    let task = tasks.iter().find(|task| task.id == first).expect("the first one is leased first");
    check(&client, first, Obstacle::Leased, "holds it until 20").await;
    settle(&client, task, Verdict::NackDead { reason: "no such user".into() }).await;
    check(&client, first, Obstacle::Dead, "the last time with: no such user").await;
    let task = lease(&client, "mail", 1).await.pop().expect("is due");
    settle(&client, &task, Verdict::Ack).await;
    check(&client, second, Obstacle::Finished, "it has ended: done at 20").await;
    z4.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_of_a_queue_say_that_they_are_reached() {
    let z4 = Served::start().await;
    let client = client(&z4);
    client.create_queue("narrow", QueuePatch::new().concurrency(1)).await.expect("made");
    push(&client, "narrow", NewTask::new("x")).await;
    let waits = push(&client, "narrow", NewTask::new("x")).await;
    assert_eq!(lease(&client, "narrow", 9).await.len(), 1);
    check(&client, waits, Obstacle::QueueFull, "1 of 1 tasks are leased").await;
    held(&client, "narrow", &[Obstacle::QueueFull, Obstacle::NoConsumer]).await;

    client.create_queue("slow", QueuePatch::new().rate(0.001, Some(1))).await.expect("made");
    push(&client, "slow", NewTask::new("x")).await;
    let waits = push(&client, "slow", NewTask::new("x")).await;
    assert_eq!(lease(&client, "slow", 9).await.len(), 1);
    check(&client, waits, Obstacle::QueueRate, "used up its rate until 20").await;
    held(&client, "slow", &[Obstacle::QueueRate, Obstacle::NoConsumer]).await;

    let breaker = Breaker { min_deliveries: Some(1), failure_percent: Some(50), ..Default::default() };
    client.create_queue("broken", QueuePatch::new().breaker(breaker)).await.expect("made");
    push(&client, "broken", NewTask::new("x")).await;
    let waits = push(&client, "broken", NewTask::new("x")).await;
    let task = lease(&client, "broken", 1).await.pop().expect("is due");
    let nack = Verdict::Nack { delay: None, slow_group: None, reason: "down".into() };
    settle(&client, &task, nack).await;
    check(&client, waits, Obstacle::QueuePaused, "circuit breaker").await;
    let said = client.explain_queue("broken").await.expect("is there");
    let pause = said.obstacles.first().expect("is paused");
    assert!(pause.until.is_some() && pause.note.contains("down"), "{pause:?}");
    z4.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_have_limits_of_their_own_and_say_when_they_are_reached() {
    let z4 = Served::start().await;
    let client = client(&z4);
    fails(
        client.set_group("mail", "a", GroupPatch::new().weight(2)).await,
        Kind::NotFound,
        reason::QUEUE_NOT_FOUND,
    );
    client.create_queue("mail", QueuePatch::new().group_concurrency(1)).await.expect("made");
    let task = |group: &str| NewTask::new("x").group(group);
    let ids = [
        push(&client, "mail", task("a")).await,
        push(&client, "mail", task("a")).await,
        push(&client, "mail", task("b")).await,
        push(&client, "mail", task("b")).await,
        push(&client, "mail", task("c")).await,
        push(&client, "mail", task("c")).await,
    ];
    client.set_group("mail", "b", GroupPatch::new().serial(true)).await.expect("set");
    let c = GroupPatch::new().concurrency(5).rate(0.001, Some(1)).weight(3);
    let c = client.set_group("mail", "c", c).await.expect("set");
    let (settings, effective) = (c.settings.expect("told"), c.effective.expect("told"));
    assert_eq!((settings.concurrency, settings.serial, effective.serial), (Some(5), None, Some(false)));
    assert_eq!((c.waiting, c.leased, effective.weight), (2, 0, Some(3)));

    let tasks = lease(&client, "mail", 9).await;
    let mut groups: Vec<_> = tasks.iter().map(|task| task.group.clone().expect("has one")).collect();
    groups.sort();
    assert_eq!(groups, ["a", "b", "c"]);
    check(&client, ids[1], Obstacle::GroupFull, "group a is at its concurrency: 1 of 1").await;
    check(&client, ids[3], Obstacle::GroupFull, "group b runs one task at a time").await;
    check(&client, ids[5], Obstacle::GroupRate, "group c has used up its rate until 20").await;
    held(&client, "mail", &[Obstacle::GroupsHeld, Obstacle::NoConsumer]).await;
    let of_a = tasks.iter().find(|task| task.id == ids[0]).expect("is leased");
    let nack = Verdict::Nack { delay: None, slow_group: Some(HOUR), reason: "429".into() };
    settle(&client, of_a, nack).await;
    check(&client, ids[1], Obstacle::GroupSlowed, "group a rests until 20").await;
    assert_eq!(client.get(ids[1]).await.expect("is there").group.as_deref(), Some("a"));
    let said = client.explain_queue("mail").await.expect("is there");
    let groups = said.obstacles.first().expect("is held");
    assert_eq!((groups.groups_full, groups.groups_slowed, groups.groups_rate), (1, 1, 1), "{groups:?}");

    // Behind others: those of its own group, and groups whose turn comes before.
    let d = [push(&client, "mail", task("d")).await, push(&client, "mail", task("d")).await];
    let stream = client.pull(Pull { tasks: 1, ..Pull::new("other") }).await.expect("opens");
    check(&client, d[1], Obstacle::NoConsumer, "ahead of it: 1 task in its group d").await;
    drop(stream);

    let mut listed = Vec::new();
    let mut token = String::new();
    loop {
        let page = client.list_groups("mail", 2, &token).await.expect("a page");
        assert!(page.items.len() <= 2);
        listed.extend(page.items);
        match page.next {
            Some(next) => token = next,
            None => break,
        }
    }
    let shown: Vec<_> =
        listed.iter().map(|group| (group.name.as_str(), group.waiting, group.leased)).collect();
    assert_eq!(shown, [("a", 2, 0), ("b", 1, 1), ("c", 1, 1), ("d", 2, 0)]);
    assert!(listed[0].blocked_until.is_some());
    let none = client.get_group("mail", "nobody").await.expect("follows the queue");
    assert_eq!((none.waiting, none.effective.expect("told").concurrency), (0, Some(1)));
    let cleared =
        client.set_group("mail", "c", GroupPatch::new().unset("rate").unset("weight")).await.expect("set");
    assert_eq!(cleared.effective.expect("told").rate, None);

    for bad in
        [GroupPatch::new().weight(0), GroupPatch::new().concurrency(0), GroupPatch::new().rate(0.0, None)]
    {
        let error = client.set_group("mail", "c", bad).await.expect_err("is nothing");
        assert_eq!(error.kind(), Kind::Invalid);
        assert!(error.field().is_some_and(|field| field.starts_with("settings.")), "{error}");
    }
    fails(
        client.set_group("mail", "", GroupPatch::new().weight(1)).await,
        Kind::Invalid,
        reason::FIELD_INVALID,
    );
    let long = client.create("mail", task(&"x".repeat(256))).await.expect_err("too long");
    assert_eq!(long.field(), Some("task.group"));
    fails(client.list_groups("mail", 2, "zz").await, Kind::Invalid, reason::PAGE_TOKEN_INVALID);
    z4.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_extension_without_a_time_is_as_long_as_the_queue_says() {
    let z4 = Served::start().await;
    let client = client(&z4);
    client.create_queue("mail", QueuePatch::new().lease_duration(HOUR).max_attempts(3)).await.expect("made");
    let id = push(&client, "mail", NewTask::new("x")).await;
    let lease = Lease { lease: Some(Duration::from_secs(60)), ..Lease::one("mail") };
    let task = client.lease(lease).await.expect("leases").pop().expect("is due");
    z4.extend(&task).await;
    let stored = client.get(id).await.expect("is there");
    let until = stored.lease_until.expect("is leased");
    assert!(until.since(task.lease_until).0 > 3_000_000, "an hour, not half a minute: {until}");
    assert_eq!(stored.max_attempts, 3, "what the queue says is shown where the task says nothing");
    z4.stop().await;
}
