//! Changes of tasks that are there: by id and etag, and of all that pass a filter; with the client library.

use std::time::Duration;

use z4_client::{
    Client, Error, Kind, ListTasks, NewTask, QueuePatch, Selection, Settlement, Task, TaskId, TaskPatch,
    TaskState, Verdict,
};
use z4_proto::reason;

use super::Served;
use super::queues::{client, fails};

const HOUR: Duration = Duration::from_secs(3_600);

fn all(queue: &str, filter: &str) -> Selection {
    Selection { queue: queue.into(), filter: filter.into(), ..Default::default() }
}

async fn list(client: &Client, queue: &str, filter: &str) -> Result<Vec<TaskId>, Error> {
    let mut wish =
        ListTasks { queue: queue.into(), filter: filter.into(), page_size: 7, ..Default::default() };
    let mut ids = Vec::new();
    loop {
        let page = client.list(wish.clone()).await?;
        ids.extend(page.items.into_iter().map(|task| task.id));
        match page.next {
            Some(next) => wish.page_token = next,
            None => return Ok(ids),
        }
    }
}

async fn lease(client: &Client, queue: &str, max_tasks: u32) -> Vec<Task> {
    let lease = z4_client::Lease { max_tasks, ..z4_client::Lease::one(queue) };
    client.lease(lease).await.expect("leases")
}

/// Fails the next due task of a queue for good; returns its id.
async fn kill(client: &Client, queue: &str, reason: &str) -> TaskId {
    let task = lease(client, queue, 1).await.pop().expect("one is due");
    let word: Settlement = task.settle(Verdict::NackDead { reason: reason.into() });
    client.settle(&[word]).await.expect("settles").pop().expect("one answer").expect("is dead");
    task.id
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_is_changed_if_it_waits_and_is_as_it_was_seen() {
    let z4 = Served::start().await;
    let client = client(&z4);
    let id = client.create("mail", NewTask::new("a").delay(HOUR).metadata("k", "v")).await.expect("created");
    let before = client.get(id).await.expect("is there");
    let patch = TaskPatch::new().priority(3).payload("b").metadata("user", "u1").if_etag(&before.etag);
    let updated = client.update(id, patch.clone()).await.expect("nobody else was here");
    let task = client.get(id).await.expect("is there");
    assert_eq!((task.priority, &task.payload[..], task.deliver_at), (3, &b"b"[..], before.deliver_at));
    assert_eq!((task.metadata.len(), task.metadata["user"].as_str()), (1, "u1"));
    assert_eq!((&task.etag, updated.deliver_at), (&updated.etag, task.deliver_at));
    fails(client.update(id, patch).await, Kind::Conflict, reason::TASK_CHANGED);
    let keyed = NewTask::new("k").key("order-7", z4_client::KeyPolicy::Fail).delay(HOUR);
    let keyed = client.create("mail", keyed).await.expect("created");
    client.update_by_key("mail", "order-7", TaskPatch::new().priority(9)).await.expect("is open");
    assert_eq!(client.get(keyed).await.expect("is there").priority, 9);
    assert_eq!(list(&client, "mail", "key = \"order*\"").await.expect("lists"), [keyed]);
    let unknown = client.update_by_key("mail", "order-8", TaskPatch::new().priority(9)).await;
    fails(unknown, Kind::NotFound, reason::TASK_NOT_FOUND);
    let long = client.update_by_key("mail", &"x".repeat(256), TaskPatch::new().priority(9)).await;
    assert_eq!(long.expect_err("no key is that long").kind(), Kind::Invalid);
    fails(
        client.update(id, TaskPatch::new().if_etag("x").priority(1)).await,
        Kind::Invalid,
        reason::ETAG_INVALID,
    );
    fails(client.update(id, TaskPatch::new()).await, Kind::Invalid, reason::FIELD_MISSING);

    client.run(&[(id, None)]).await.expect("answers").pop().expect("one").expect("is due now");
    let held = lease(&client, "mail", 1).await.pop().expect("it is due");
    assert_eq!((held.id, &held.payload[..], held.priority), (id, &b"b"[..], 3));
    let error = client.update(id, TaskPatch::new().priority(1)).await.expect_err("is leased");
    assert_eq!((error.kind(), error.reason()), (Kind::Conflict, reason::TASK_LEASED));
    assert!(error.to_string().contains("is leased until 20"), "says until when: {error}");
    let refused = client.run(&[(id, None)]).await.expect("answers").pop().expect("one");
    fails(refused, Kind::Conflict, reason::TASK_LEASED);
    let word = held.settle(Verdict::NackDead { reason: "no".into() });
    client.settle(&[word]).await.expect("settles");
    fails(client.update(id, TaskPatch::new().priority(1)).await, Kind::Conflict, reason::TASK_STATE);

    let dead = client.get(id).await.expect("is kept");
    let other = client.create("mail", NewTask::new("c")).await.expect("created");
    let targets = [(id, Some("00000000000000ff")), (id, Some(&*dead.etag)), (other, None)];
    let mut answers = client.redrive(&targets, None).await.expect("answers").into_iter();
    fails(answers.next().expect("three"), Kind::Conflict, reason::TASK_CHANGED);
    answers.next().expect("three").expect("is redriven");
    fails(answers.next().expect("three"), Kind::Conflict, reason::TASK_STATE);
    let task = client.get(id).await.expect("is there");
    assert_eq!((task.state, task.failures), (TaskState::Due, 0));

    let targets = [(id, Some(&*dead.etag)), (other, None), (id, Some(&*task.etag)), (TaskId(7), None)];
    let mut answers = client.cancel_if(&targets).await.expect("answers").into_iter();
    fails(answers.next().expect("four"), Kind::Conflict, reason::TASK_CHANGED);
    answers.next().expect("four").expect("has no etag to have");
    answers.next().expect("four").expect("has that etag");
    fails(answers.next().expect("four"), Kind::NotFound, reason::TASK_NOT_FOUND);
    fails(client.update(id, TaskPatch::new().priority(1)).await, Kind::NotFound, reason::TASK_NOT_FOUND);
    fails(client.explain(id).await, Kind::NotFound, reason::TASK_NOT_FOUND);

    let many = vec![(TaskId(7), None); 8_193];
    let error = client.cancel_if(&many).await.expect_err("too many");
    assert_eq!((error.kind(), error.reason()), (Kind::Invalid, reason::BATCH_TOO_LARGE));
    assert!(error.to_string().contains("8192"), "says how many there may be: {error}");
    z4.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_shows_what_passes_its_filter() {
    let z4 = Served::start().await;
    let client = client(&z4);
    let tasks: Vec<NewTask> = (0..40)
        .map(|n| {
            let task = NewTask::new("x").metadata("user", format!("u{}", n % 4)).priority(n);
            let task = if n % 2 == 0 { task.group(format!("g{}", n % 3)) } else { task };
            if n < 20 { task } else { task.delay(HOUR) }
        })
        .collect();
    let ids: Vec<TaskId> = client
        .create_batch("mail", tasks)
        .await
        .expect("created")
        .into_iter()
        .map(|id| id.expect("created"))
        .collect();
    let check = async |filter: &str, expected: &[usize]| {
        let mut found = list(&client, "mail", filter).await.expect(filter);
        found.sort();
        assert_eq!(found, expected.iter().map(|n| ids[*n]).collect::<Vec<_>>(), "{filter}");
    };
    check("priority < 3", &[0, 1, 2]).await;
    check("metadata.user = u1 AND state = due", &[1, 5, 9, 13, 17]).await;
    check("group = g1 AND state = scheduled", &[22, 28, 34]).await;
    check("state = due AND (priority = 19 OR priority = 25)", &[19]).await;
    check("deliver_at > +30m AND priority <= 21", &[20, 21]).await;
    check("state = dead", &[]).await;
    check("state = done", &[]).await;
    check("priority > 5 AND priority < 4", &[]).await;
    let error = list(&client, "mail", "priority >> 3").await.expect_err("is none");
    assert_eq!(
        (error.kind(), error.reason(), error.field()),
        (Kind::Invalid, reason::FILTER_INVALID, Some("filter"))
    );
    assert!(error.to_string().contains("column 11"), "{error}");
    fails(list(&client, "other", "priority < 3").await, Kind::NotFound, reason::QUEUE_NOT_FOUND);

    // What has ended is listed where the filter asks for nothing else.
    client.update_queue("mail", QueuePatch::new().retention(HOUR, None)).await.expect("set");
    client.cancel(&ids[..2]).await.expect("cancels");
    check("state = cancelled", &[0, 1]).await;
    check("state = cancelled AND priority = 1", &[1]).await;
    check("priority < 3", &[2]).await;
    let stale =
        ListTasks { queue: "mail".into(), filter: "priority < 3".into(), stale: true, ..Default::default() };
    assert_eq!(client.list(stale).await.expect("a page").items.len(), 1);
    z4.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_passes_a_filter_is_changed_once_and_counted() {
    let z4 = Served::start().await;
    let client = client(&z4);
    let tasks: Vec<NewTask> =
        (0..1_200_u32).map(|n| NewTask::new("x").metadata("odd", (n % 2).to_string())).collect();
    client.create_batch("mail", tasks).await.expect("created");
    let count = async |filter: &str| list(&client, "mail", filter).await.expect(filter).len();

    let dry = Selection { dry_run: true, ..all("mail", "metadata.odd = 1") };
    let patch = TaskPatch::new().delay(HOUR).priority(9);
    assert_eq!(client.update_all(&dry, patch.clone()).await.expect("counts").changed, 600);
    assert_eq!(count("priority = 9").await, 0, "nothing was done");
    // They move behind the others, where the walk meets them again.
    let matched = client.update_all(&all("mail", "metadata.odd = 1"), patch).await.expect("changes");
    assert_eq!((matched.changed, matched.skipped, matched.next), (600, 0, None));
    assert_eq!((count("state = scheduled").await, count("state = due").await), (600, 600));
    let odd = all("mail", "metadata.odd = 1");
    let again = client.update_all(&odd, TaskPatch::new().priority(9)).await.expect("changes");
    assert_eq!(again.changed, 0, "they are so already");
    let run = client.run_all(&all("mail", "priority = 9")).await.expect("runs");
    assert_eq!((run.changed, count("state = due").await), (600, 1_200));

    let none = client.cancel_all(&all("mail", "")).await.expect_err("without a filter it is a purge");
    assert_eq!((none.kind(), none.field()), (Kind::Invalid, Some("selection.filter")));
    let wrong = client.cancel_all(&all("mail", "odd = 1")).await.expect_err("no such field");
    assert_eq!((wrong.kind(), wrong.reason()), (Kind::Invalid, reason::FILTER_INVALID));
    let cancelled = client.cancel_all(&all("mail", "metadata.odd = 1")).await.expect("cancels");
    assert_eq!((cancelled.changed, count("").await), (600, 600));
    fails(client.cancel_all(&all("other", "priority = 1")).await, Kind::NotFound, reason::QUEUE_NOT_FOUND);
    z4.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_tasks_are_redriven_by_filter_and_with_a_rate() {
    let z4 = Served::start().await;
    let client = client(&z4);
    client.create_batch("mail", vec![NewTask::new("x"); 5]).await.expect("created");
    for reason in ["timeout", "refused", "a timeout", "timeout", "gone"] {
        kill(&client, "mail", reason).await;
    }
    let dry = Selection { dry_run: true, ..all("mail", "") };
    assert_eq!(client.redrive_all(&dry, None).await.expect("counts").changed, 5);
    let redriven =
        client.redrive_all(&all("mail", "last_error:timeout"), Some(0.001)).await.expect("redrives");
    assert_eq!((redriven.changed, redriven.skipped), (3, 0));
    let spread = list(&client, "mail", "state = scheduled").await.expect("lists");
    assert_eq!(spread.len(), 2, "the first is due at once");
    let mut due = Vec::new();
    for id in spread {
        due.push(client.get(id).await.expect("is there").deliver_at);
    }
    due.sort();
    let apart = due[1].since(due[0]).0;
    assert!((900_000..1_100_000).contains(&apart), "a thousand seconds between two: {apart}");
    assert_eq!(client.redrive_all(&all("mail", ""), None).await.expect("redrives").changed, 2);
    fails(client.redrive_all(&all("mail", ""), Some(-1.0)).await, Kind::Invalid, reason::FIELD_INVALID);
    z4.stop().await;
}
