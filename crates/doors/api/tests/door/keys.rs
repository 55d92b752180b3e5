//! Keys through the door: who has one, what becomes of the next, and tasks named by theirs.

use std::time::Duration;

use tonic::Code;
use z4_client::{Client, KeyPolicy, Kind, NewTask};
use z4_proto::{reason, v1};

use super::{Served, refused, task};

const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_open_task_has_the_key_and_the_next_does_what_it_says() {
    let z4 = Served::start().await;
    let client = Client::connect([z4.address.as_str()]).expect("an address");
    let with = |policy| NewTask::new("two").key("k", policy).delay(2 * MINUTE);
    let first = client.make("mail", NewTask::new("one").key("k", KeyPolicy::Fail).delay(MINUTE)).await;
    let first = first.expect("the key is free");
    assert!(!first.existed);

    let taken = client.make("mail", with(KeyPolicy::Fail)).await.expect_err("the key is taken");
    assert_eq!((taken.kind(), taken.reason()), (Kind::AlreadyExists, reason::KEY_TAKEN));
    assert_eq!(taken.task(), Some(first.id), "who has it");
    let kept = client.make("mail", with(KeyPolicy::Keep)).await.expect("an answer");
    assert_eq!((kept.id, kept.existed), (first.id, true));
    assert_eq!(client.get(first.id).await.expect("is there").payload, "one");
    let pushed = client.make("mail", with(KeyPolicy::Debounce)).await.expect("an answer");
    assert_eq!((pushed.id, pushed.existed), (first.id, true));
    let known = client.get_by_key("mail", "k").await.expect("is there");
    assert_eq!((known.id, known.key.as_deref()), (first.id, Some("k")));
    assert_eq!(known.payload, "two");
    let other = client.make("mail", NewTask::new("now").key("k", KeyPolicy::Replace)).await.expect("made");
    assert!(other.id != first.id && !other.existed);

    let leased = z4.lease("mail", 1, 20).await.expect("leases").remove(0);
    assert_eq!((leased.id, leased.key.as_str()), (other.id.to_string(), "k"));
    let held = client.make("mail", with(KeyPolicy::Replace)).await.expect_err("it is leased");
    assert_eq!((held.reason(), held.task()), (reason::KEY_TAKEN, Some(other.id)));
    let keys = ["k".to_owned(), "none".to_owned()];
    let results = client.cancel_by_key("mail", &keys).await.expect("an answer");
    assert!(results[0].is_ok());
    assert_eq!(results[1].as_ref().map_err(|error| error.reason()), Err(reason::TASK_NOT_FOUND));
    let gone = client.get_by_key("mail", "k").await.expect_err("it was cancelled");
    assert_eq!((gone.kind(), gone.reason()), (Kind::NotFound, reason::TASK_NOT_FOUND));
    z4.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_said_of_a_key_is_checked() {
    let z4 = Served::start().await;
    let check = async |task: v1::NewTask, field: &str| {
        let status = z4.create("mail", task).await.expect_err("is refused");
        assert_eq!(z4_proto::status::Failure::from_status(&status).field.as_deref(), Some(field));
    };
    let keyed = |key: &str| v1::NewTask { key: key.into(), ..task("x") };
    check(keyed(&"k".repeat(256)), "task.key").await;
    check(v1::NewTask { key_policy: 2, ..task("x") }, "task.key_policy").await;
    check(v1::NewTask { key_policy: 99, ..keyed("k") }, "task.key_policy").await;
    let window = Some(z4_proto::Duration { seconds: 1, nanos: 0 });
    check(v1::NewTask { key_window: window, ..task("x") }, "task.key_window").await;
    let both = v1::GetTaskRequest { id: "x".into(), queue: "mail".into(), key: "k".into(), stale: false };
    let mut api = z4.tasks();
    refused(api.get_task(both).await, Code::InvalidArgument, reason::FIELD_INVALID);
    let batch = v1::BatchCreateTasksRequest {
        queue: "mail".into(),
        tasks: vec![keyed("k"), keyed("k"), v1::NewTask { key_policy: 2, ..keyed("k") }],
        request_id: String::new(),
    };
    let reply = api.batch_create_tasks(batch).await.expect("an answer").into_inner();
    assert_eq!((reply.errors.len(), reply.errors[0].index, &reply.existed[..]), (1, 1, &[2][..]));
    let metadata = reply.errors[0].failure.as_ref().expect("a failure").metadata.clone();
    assert_eq!(metadata.get("taskId"), Some(&reply.ids[0]));
    z4.stop().await;
}
