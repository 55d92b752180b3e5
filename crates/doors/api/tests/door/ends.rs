//! How calls and streams end: by their client, their deadline, or the server's stop.

use std::sync::mpsc as std_mpsc;

use tokio::time::timeout;
use z4_host::{Deliver, Delivery, Error};

use super::*;

/// Far below the lease of 30 s, far above what anything here takes.
const SOON: Duration = Duration::from_secs(15);

fn waiting(queue: &str, seconds: i64) -> v1::LeaseTasksRequest {
    let wait = Some(PbDuration { seconds, nanos: 0 });
    v1::LeaseTasksRequest { queue: queue.into(), max_tasks: 3, wait, ..Default::default() }
}

async fn batch(z4: &Served, queue: &str, tasks: Vec<v1::NewTask>) -> Vec<String> {
    let request = v1::BatchCreateTasksRequest { queue: queue.into(), tasks, ..Default::default() };
    z4.tasks().batch_create_tasks(request).await.expect("created").into_inner().ids
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_call_that_was_dropped_takes_nothing() {
    let z4 = Served::start().await;
    let mut tasks = z4.tasks();
    let call = tokio::spawn(async move { tasks.lease_tasks(waiting("mail", 60)).await });
    z4.until_calls(1).await;
    call.abort();
    assert!(call.await.expect_err("ended before any task came").is_cancelled());
    z4.until_calls(0).await;
    batch(&z4, "mail", vec![task("x"); 3]).await;
    // Had the consumer stayed, the tasks were its own for 30 s.
    assert_eq!(z4.lease("mail", 3, 10).await.expect("leases").len(), 3);
    z4.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_leased_and_not_sent_go_to_the_next_consumer_at_once() {
    const COUNT: usize = 7;
    let z4 = Served::start().await;
    let large = v1::NewTask { payload: vec![1; 512 << 10].into(), ..Default::default() };
    let ids = batch(&z4, "mail", vec![large; COUNT]).await;
    let puller = Puller::open(&z4, "mail").await;
    let credit = pull_request::Credit { tasks: 100, bytes: 32 << 20 };
    puller.say(pull_request::Message::Credit(credit)).await;
    // The client reads nothing: HTTP/2 takes the first message, the others wait at the door.
    let all_leased = async {
        for id in &ids {
            while z4.get(id).await.expect("is there").state() != v1::TaskState::Leased {}
        }
    };
    timeout(SOON, all_leased).await.expect("the credit buys all");
    drop(puller);
    let mut again = Vec::new();
    while again.len() < COUNT / 2 {
        let mut tasks = z4.tasks();
        let leased = timeout(SOON, tasks.lease_tasks(waiting("mail", 20))).await.expect("not after 30 s");
        again.extend(leased.expect("leases").into_inner().tasks);
    }
    assert!(
        again.iter().all(|task| task.deliveries >= 2 && task.failures == 0),
        "a release counts no failure"
    );
    z4.stop().await;
}

/// Holds up the driver's thread, and so every shard, at its first delivery.
struct Stuck {
    entered: std_mpsc::Sender<()>,
    leave: std_mpsc::Receiver<()>,
}

impl Deliver for Stuck {
    fn deliver(&mut self, _: Vec<Delivery>) -> bool {
        self.entered.send(()).expect("the test waits");
        // Ends when the test drops its end.
        self.leave.recv().expect_err("nothing is ever sent");
        true
    }

    fn closed(&mut self, _: Error) {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_end_by_their_deadline_whether_they_wait_or_cannot_be_answered() {
    let z4 = Served::start().await;
    let mut request = tonic::Request::new(waiting("empty", 60));
    request.set_timeout(Duration::from_secs(1));
    match timeout(SOON, z4.tasks().lease_tasks(request)).await.expect("ends by its deadline") {
        Ok(leased) => assert!(leased.into_inner().tasks.is_empty()),
        // On a busy machine the client's own timer may be first.
        Err(status) => assert_eq!(Failure::from_status(&status).reason, reason::DEADLINE_EXCEEDED),
    }
    z4.until_calls(0).await;

    let (entered, is_stuck) = std_mpsc::channel();
    let (release, leave) = std_mpsc::channel();
    let queue = z4_types::QueueName::new("stuck").expect("a name");
    let sink = Box::new(Stuck { entered, leave });
    let consumer =
        z4.host.handle().consume(queue, "s".into(), z4_types::Duration(30_000), sink).expect("opens");
    consumer.credit(1, 1 << 20);
    z4.create("stuck", task("x")).await.expect("created");
    tokio::task::spawn_blocking(move || is_stuck.recv()).await.expect("no panic").expect("delivers");

    let mut request = tonic::Request::new(v1::CreateTaskRequest {
        queue: "mail".into(),
        task: Some(task("y")),
        request_id: "once".into(),
    });
    request.set_timeout(Duration::from_secs(1));
    let status = timeout(SOON, z4.tasks().create_task(request)).await.expect("ends by its deadline");
    let failure = Failure::from_status(&status.expect_err("nobody answers"));
    assert_eq!(failure.kind, z4_types::Kind::OutcomeUnknown, "{failure}");
    drop(release);
    let request =
        v1::CreateTaskRequest { queue: "mail".into(), task: Some(task("y")), request_id: "once".into() };
    z4.tasks().create_task(request).await.expect("a retry is answered");
    assert_eq!(z4.lease("mail", 5, 5).await.expect("leases").len(), 1, "one task for one request id");
    drop(consumer);
    z4.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_ends_streams_and_long_polls_by_name() {
    let z4 = Served::start().await;
    let mut puller = Puller::open(&z4, "mail").await;
    let (sender, receiver) = mpsc::channel::<v1::PushRequest>(1);
    let mut replies = z4.tasks().push(ReceiverStream::new(receiver)).await.expect("opens").into_inner();
    let mut tasks = z4.tasks();
    let polling = tokio::spawn(async move { tasks.lease_tasks(waiting("mail", 60)).await });
    z4.until_calls(3).await;

    z4.stop.send_replace(true);
    let leased = timeout(SOON, polling).await.expect("returns").expect("no panic").expect("in good order");
    assert!(leased.into_inner().tasks.is_empty());
    let status = timeout(SOON, replies.message()).await.expect("ends").expect_err("says why");
    assert_eq!(
        (status.code(), &*Failure::from_status(&status).reason),
        (Code::Unavailable, reason::DRAINING)
    );
    assert!(matches!(puller.next().await, pull_reply::Message::Draining(_)));
    // A client that stays is given some time to settle, then the stream ends.
    let status = timeout(SOON, puller.replies.message()).await.expect("ends").expect_err("says why");
    assert_eq!(
        (status.code(), &*Failure::from_status(&status).reason),
        (Code::Unavailable, reason::DRAINING)
    );
    drop(sender);
    z4.stop().await;
}
