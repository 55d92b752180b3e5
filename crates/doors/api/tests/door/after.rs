//! Tasks that come after others, through the door.

use tonic::Code;
use z4_client::{Client, Kind, ListTasks, NewTask, OnFailure, TaskId, TaskState, Verdict};
use z4_proto::{reason, v1};

use super::{Served, refused, task};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_is_delivered_when_those_before_it_have_ended() {
    let z4 = Served::start().await;
    let client = Client::connect([z4.address.as_str()]).expect("an address");
    let cut = client.create("video", NewTask::new("cut")).await.expect("created");
    let other = client.create("video", NewTask::new("subtitles")).await.expect("created");
    let after = NewTask::new("publish").after([cut, other]);
    let publish = client.create("video", after).await.expect("created");
    let known = client.get(publish).await.expect("is there");
    assert_eq!((known.state, known.blockers, known.after), (TaskState::Blocked, 2, vec![cut, other]));
    let blocked = ListTasks { queue: "video".into(), state: Some(TaskState::Blocked), ..Default::default() };
    let listed = client.list(blocked).await.expect("a page").items;
    assert_eq!(listed.iter().map(|task| task.id).collect::<Vec<_>>(), [publish]);

    let leased = z4.lease("video", 5, 20).await.expect("leases");
    assert_eq!(leased.len(), 2, "not the third");
    let waiting = z4.lease("video", 5, 20);
    let (next, done) = tokio::join!(waiting, async {
        let words = leased.iter().map(|task| (task.id.parse().expect("an id"), task.token));
        let word = |(id, token): (TaskId, u64)| z4_client::Settlement {
            id,
            token: z4_client::Token(token),
            verdict: Verdict::Ack,
        };
        client.settle(&words.map(word).collect::<Vec<_>>()).await
    });
    done.expect("acked");
    assert_eq!(next.expect("leases")[0].id, publish.to_string());
    z4.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_cancels_what_comes_after_or_lets_it_run() {
    let z4 = Served::start().await;
    let client = Client::connect([z4.address.as_str()]).expect("an address");
    let build = client.create("deploy", NewTask::new("build")).await.expect("created");
    let out = client.create("deploy", NewTask::new("out").after([build])).await.expect("created");
    let behind = client.create("deploy", NewTask::new("tell").after([out])).await.expect("created");
    let clean = NewTask::new("clean").after([build]).on_failure(OnFailure::Run);
    let clean = client.create("deploy", clean).await.expect("created");
    assert!(client.cancel(&[build]).await.expect("an answer")[0].is_ok());
    for id in [out, behind] {
        let gone = client.get(id).await.expect_err("it is cancelled");
        assert_eq!(gone.kind(), Kind::NotFound, "{gone}");
    }
    assert_eq!(client.get(clean).await.expect("is there").state, TaskState::Due);
    let late = client.create("deploy", NewTask::new("late").after([build])).await.expect_err("is gone");
    assert_eq!((late.kind(), late.reason()), (Kind::Conflict, reason::AFTER_UNKNOWN));
    assert_eq!(late.task(), Some(build));
    z4.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_said_of_others_is_checked() {
    let z4 = Served::start().await;
    let id = z4.create("mail", task("x")).await.expect("created");
    let after = |after: Vec<String>| v1::NewTask { after, ..task("y") };
    refused(
        z4.create("mail", after(vec!["no id".into()])).await,
        Code::InvalidArgument,
        reason::TASK_ID_INVALID,
    );
    refused(
        z4.create("mail", after(vec![id.clone(); 65])).await,
        Code::InvalidArgument,
        reason::FIELD_INVALID,
    );
    let alone = v1::NewTask { on_failure: 2, ..task("y") };
    refused(z4.create("mail", alone).await, Code::InvalidArgument, reason::FIELD_INVALID);
    let policy = v1::NewTask { on_failure: 9, ..after(vec![id]) };
    refused(z4.create("mail", policy).await, Code::InvalidArgument, reason::FIELD_INVALID);
    z4.stop().await;
}
