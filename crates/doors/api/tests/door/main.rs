//! The door, from outside: a real client against a real host. Few and thin; what tasks do is tested in `z4-tasks`.

mod after;
mod changes;
mod ends;
mod events;
mod explain;
mod keys;
mod limits;
mod queues;
mod schedules;

use std::time::Duration;

use bytes::Bytes;
use prost_types::{Duration as PbDuration, Timestamp};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use z4_host::{Config, Host};
use z4_proto::reason;
use z4_proto::status::Failure;
use z4_proto::v1::admin_client::AdminClient;
use z4_proto::v1::new_task::Schedule;
use z4_proto::v1::queues_client::QueuesClient;
use z4_proto::v1::settlement::Verdict;
use z4_proto::v1::tasks_client::TasksClient;
use z4_proto::v1::{self, pull_reply, pull_request};

/// A host and its door on a port of their own.
struct Served {
    host: Host,
    stop: watch::Sender<bool>,
    served: tokio::task::JoinHandle<()>,
    channel: Channel,
    address: String,
    _dir: TempDir,
}

impl Served {
    async fn start() -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut config = Config::single("a", dir.path());
        config.sizes.segment_bytes = 16 << 20;
        let host = Host::start(&config, |_| {}).expect("starts");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let (stop, stopping) = watch::channel(false);
        let served = tokio::spawn(z4_api::serve(host.handle().clone(), listener, stopping));
        let endpoint = Channel::from_shared(format!("http://{address}")).expect("an address");
        // A small window: what the client does not read stays at the server.
        let channel = endpoint.initial_stream_window_size(64 << 10).connect_lazy();
        let this = Self { host, stop, served, channel, address: address.to_string(), _dir: dir };
        assert!(this.host.wait_until_serving(Duration::from_secs(20)), "shards elect their only voter");
        this
    }

    fn tasks(&self) -> TasksClient<Channel> {
        TasksClient::new(self.channel.clone()).max_decoding_message_size(z4_proto::MESSAGE_BYTES_MAX)
    }

    fn queues(&self) -> QueuesClient<Channel> {
        QueuesClient::new(self.channel.clone())
    }

    async fn create(&self, queue: &str, task: v1::NewTask) -> Result<String, Status> {
        let request =
            v1::CreateTaskRequest { queue: queue.into(), task: Some(task), request_id: String::new() };
        self.tasks().create_task(request).await.map(|reply| reply.into_inner().id)
    }

    async fn get(&self, id: &str) -> Result<v1::Task, Status> {
        let reply = self.tasks().get_task(v1::GetTaskRequest { id: id.into(), ..Default::default() }).await?;
        Ok(reply.into_inner().task.expect("a task"))
    }

    async fn lease(&self, queue: &str, max_tasks: u32, wait: u64) -> Result<Vec<v1::LeasedTask>, Status> {
        let wait = PbDuration { seconds: wait.cast_signed(), nanos: 0 };
        let request =
            v1::LeaseTasksRequest { queue: queue.into(), max_tasks, wait: Some(wait), ..Default::default() };
        self.tasks().lease_tasks(request).await.map(|reply| reply.into_inner().tasks)
    }

    async fn settle(&self, words: Vec<v1::Settlement>) -> Vec<(u32, Failure)> {
        let reply = self.tasks().settle(v1::SettleRequest { settlements: words }).await.expect("settles");
        items(reply.into_inner().errors)
    }

    /// Returns a number of the host's diagnostic.
    async fn number(&self, name: &str) -> u64 {
        let mut admin = AdminClient::new(self.channel.clone());
        let json = admin.diagnostic(v1::DiagnosticRequest {}).await.expect("answers").into_inner().json;
        let all: serde_json::Value = serde_json::from_str(&json).expect("is JSON");
        all[name].as_u64().unwrap_or_else(|| panic!("{name} is a number"))
    }

    /// Asks again and again until so many calls are under way, the asking one not counted.
    async fn until_calls(&self, count: u64) {
        let asking = async { while self.number("calls").await != count + 1 {} };
        tokio::time::timeout(Duration::from_secs(20), asking)
            .await
            .expect("so many calls are under way soon");
    }

    /// Asks again and again until a consumer waits for tasks of the queue.
    async fn until_hungry(&self, client: &z4_client::Client, queue: &str) {
        let hungry = async || client.explain_queue(queue).await.expect("is there").waiting_consumers > 0;
        let asking = async { while !hungry().await {} };
        tokio::time::timeout(Duration::from_secs(20), asking).await.expect("one waits soon");
    }

    /// Extends a lease without a time.
    async fn extend(&self, task: &z4_client::Task) {
        let verdict = Some(Verdict::Extend(v1::Extend::default()));
        let word = v1::Settlement { id: task.id.to_string(), token: task.token.0, verdict };
        assert!(self.settle(vec![word]).await.is_empty(), "the lease holds");
    }

    async fn stop(self) {
        self.stop.send_replace(true);
        self.served.await.expect("no panic");
        self.host.stop().expect("stops in good order");
    }
}

fn task(payload: &str) -> v1::NewTask {
    v1::NewTask { payload: Bytes::copy_from_slice(payload.as_bytes()), ..Default::default() }
}

fn at(seconds: i64) -> v1::NewTask {
    v1::NewTask { schedule: Some(Schedule::DeliverAt(Timestamp { seconds, nanos: 0 })), ..task("timed") }
}

fn ack(id: &str, token: u64) -> v1::Settlement {
    v1::Settlement { id: id.into(), token, verdict: Some(Verdict::Ack(v1::Ack::default())) }
}

fn items(errors: Vec<v1::ItemError>) -> Vec<(u32, Failure)> {
    errors.into_iter().map(|e| (e.index, Failure::from_pb(e.failure.expect("a failure")))).collect()
}

fn refused<T: std::fmt::Debug>(result: Result<T, Status>, code: Code, reason: &str) {
    let status = result.expect_err("is refused");
    let failure = Failure::from_status(&status);
    assert_eq!((status.code(), &*failure.reason), (code, reason), "{status:?}");
    if code == Code::InvalidArgument {
        assert!(failure.field.is_some(), "names the field: {status:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_is_created_leased_acked_and_gone() {
    let z4 = Served::start().await;
    assert!(z4.lease("mail", 1, 0).await.expect("no error").is_empty(), "an unknown queue has nothing due");
    let id = z4.create("mail", task("hello")).await.expect("created");
    assert_eq!(id.len(), 26);
    let leased = z4.lease("mail", 5, 5).await.expect("leases");
    assert_eq!(leased.len(), 1);
    assert_eq!((leased[0].id.as_str(), &leased[0].payload[..]), (id.as_str(), &b"hello"[..]));
    assert_eq!(z4.get(&id).await.expect("is there").state(), v1::TaskState::Leased);
    assert!(z4.settle(vec![ack(&id, leased[0].token)]).await.is_empty());
    refused(z4.get(&id).await, Code::NotFound, reason::TASK_NOT_FOUND);
    let again = z4.settle(vec![ack(&id, leased[0].token)]).await;
    assert_eq!(again[0].1.reason, reason::TASK_NOT_FOUND);
    let queue = z4.tasks().get_queue(v1::GetQueueRequest { queue: "mail".into() }).await.expect("known");
    let queue = queue.into_inner().queue.expect("a queue");
    assert_eq!((queue.waiting, queue.leased, queue.dead), (0, 0, 0));
    z4.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_poll_gets_what_comes_while_it_waits_and_cancel_ends_tasks() {
    let z4 = Served::start().await;
    let later = v1::NewTask {
        schedule: Some(Schedule::Delay(PbDuration { seconds: 0, nanos: 300_000_000 })),
        ..task("later")
    };
    let id = z4.create("mail", later).await.expect("created");
    assert!(z4.lease("mail", 1, 0).await.expect("leases").is_empty(), "not due yet");
    let leased = z4.lease("mail", 1, 10).await.expect("leases");
    assert_eq!(leased[0].id, id);
    let request = v1::CancelTasksRequest { ids: vec![id.clone(), "nonsense".into()], ..Default::default() };
    let errors = items(z4.tasks().cancel_tasks(request).await.expect("cancels").into_inner().errors);
    assert_eq!(
        errors.iter().map(|(at, f)| (*at, &*f.reason)).collect::<Vec<_>>(),
        [(1, reason::TASK_ID_INVALID)]
    );
    z4.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_item_fails_alone_and_a_repeat_creates_nothing() {
    let z4 = Served::start().await;
    let bad = v1::NewTask { priority: Some(256), ..task("b") };
    let request = v1::BatchCreateTasksRequest {
        queue: "mail".into(),
        tasks: vec![task("a"), bad, task("c")],
        request_id: "once".into(),
    };
    let first = z4.tasks().batch_create_tasks(request.clone()).await.expect("creates").into_inner();
    assert_eq!(first.ids.iter().map(String::len).collect::<Vec<_>>(), [26, 0, 26]);
    let errors = items(first.errors.clone());
    assert_eq!((errors.len(), errors[0].0, errors[0].1.field.as_deref()), (1, 1, Some("tasks[1].priority")));
    let again = z4.tasks().batch_create_tasks(request).await.expect("creates").into_inner();
    assert_eq!(again.ids, first.ids);

    let list = |state: v1::TaskState, page_token: String| {
        let mut tasks = z4.tasks();
        let request = v1::ListTasksRequest {
            queue: "mail".into(),
            state: state.into(),
            page_size: 1,
            page_token,
            ..Default::default()
        };
        async move { tasks.list_tasks(request).await.expect("lists").into_inner() }
    };
    let page = list(v1::TaskState::Due, String::new()).await;
    let next = list(v1::TaskState::Due, page.next_page_token.clone()).await;
    assert_eq!([&page.tasks[0].id, &next.tasks[0].id], [&first.ids[0], &first.ids[2]]);
    assert!(list(v1::TaskState::Scheduled, String::new()).await.tasks.is_empty());
    let queues = z4.tasks().list_queues(v1::ListQueuesRequest::default()).await.expect("lists").into_inner();
    assert_eq!(queues.queues.iter().map(|q| (q.name.as_str(), q.waiting)).collect::<Vec<_>>(), [("mail", 2)]);
    z4.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_stream_answers_each_batch_by_its_number() {
    let z4 = Served::start().await;
    let (sender, receiver) = mpsc::channel(8);
    let mut replies = z4.tasks().push(ReceiverStream::new(receiver)).await.expect("opens").into_inner();
    let batch = |seq, queue: &str, tasks| v1::PushRequest {
        seq,
        queue: queue.into(),
        tasks,
        request_id: String::new(),
    };
    let bad = v1::NewTask { max_attempts: Some(0), ..task("bad") };
    sender.send(batch(7, "mail", vec![task("a"), bad])).await.expect("open");
    sender.send(batch(8, "", vec![task("a")])).await.expect("open");
    sender.send(batch(9, "mail", vec![task("b"); 1_000])).await.expect("open");
    drop(sender);
    let mut answers = Vec::new();
    while let Some(reply) = replies.message().await.expect("no error") {
        answers.push((reply.seq, reply.ids.len(), reply.errors.len(), reply.failure.map(|f| f.reason)));
    }
    answers.sort();
    let queue_name = Some(reason::QUEUE_NAME_INVALID.to_owned());
    assert_eq!(answers, [(7, 2, 1, None), (8, 0, 0, queue_name), (9, 1_000, 0, None)]);
    z4.stop().await;
}

/// The client's half of a pull stream.
struct Puller {
    sender: mpsc::Sender<v1::PullRequest>,
    replies: tonic::Streaming<v1::PullReply>,
}

impl Puller {
    async fn open(z4: &Served, queue: &str) -> Self {
        let (sender, receiver) = mpsc::channel(8);
        let open = pull_request::Open { queue: queue.into(), consumer: "w1".into(), ..Default::default() };
        let this = Self {
            replies: {
                sender
                    .send(v1::PullRequest { message: Some(pull_request::Message::Open(open)) })
                    .await
                    .expect("has room");
                z4.tasks().pull(ReceiverStream::new(receiver)).await.expect("opens").into_inner()
            },
            sender,
        };
        let mut this = this;
        assert!(matches!(this.next().await, pull_reply::Message::Opened(opened) if opened.consumer == "w1"));
        this
    }

    async fn say(&self, message: pull_request::Message) {
        self.sender.send(v1::PullRequest { message: Some(message) }).await.expect("the stream is open");
    }

    async fn credit(&self, tasks: u32) {
        self.say(pull_request::Message::Credit(pull_request::Credit { tasks, bytes: 1 << 20 })).await;
    }

    async fn next(&mut self) -> pull_reply::Message {
        self.replies.message().await.expect("no error").and_then(|reply| reply.message).expect("a message")
    }

    /// Takes tasks until there are `count`.
    async fn tasks(&mut self, count: usize) -> Vec<v1::LeasedTask> {
        let mut all = Vec::new();
        while all.len() < count {
            match self.next().await {
                pull_reply::Message::Tasks(batch) => all.extend(batch.tasks),
                other => panic!("expected tasks, got {other:?}"),
            }
        }
        all
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_stream_sends_no_more_than_its_credit_and_answers_settlements() {
    let z4 = Served::start().await;
    let mut puller = Puller::open(&z4, "mail").await;
    puller.credit(3).await;
    for n in 0..5 {
        z4.create("mail", task(&n.to_string())).await.expect("created");
    }
    let first = puller.tasks(3).await;
    assert_eq!(first.len(), 3, "the credit");
    let mut words: Vec<_> = first.iter().map(|t| ack(&t.id, t.token)).collect();
    words.push(ack(&first[0].id, first[0].token + 99));
    puller.say(pull_request::Message::Settle(pull_request::Settle { seq: 42, settlements: words })).await;
    let pull_reply::Message::Settled(settled) = puller.next().await else {
        panic!("no more tasks without credit")
    };
    assert_eq!((settled.seq, settled.errors.len(), settled.failure), (42, 1, None));
    puller.credit(10).await;
    let rest = puller.tasks(2).await;
    assert_eq!(rest.len(), 2);
    let words = rest.iter().map(|t| ack(&t.id, t.token)).collect();
    puller.say(pull_request::Message::Settle(pull_request::Settle { seq: 43, settlements: words })).await;
    assert!(matches!(puller.next().await, pull_reply::Message::Settled(s) if s.errors.is_empty()));

    puller.credit(10_000).await;
    let status = puller.replies.message().await.expect_err("more credit than a consumer may have");
    assert_eq!(Failure::from_status(&status).reason, reason::CREDIT_TOO_LARGE);
    z4.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopping_server_tells_consumers_and_still_settles() {
    let z4 = Served::start().await;
    let mut puller = Puller::open(&z4, "mail").await;
    puller.credit(1).await;
    z4.create("mail", task("held")).await.expect("created");
    let held = puller.tasks(1).await.remove(0);
    z4.stop.send_replace(true);
    assert!(matches!(puller.next().await, pull_reply::Message::Draining(_)));
    let settlements = vec![ack(&held.id, held.token)];
    puller.say(pull_request::Message::Settle(pull_request::Settle { seq: 1, settlements })).await;
    assert!(matches!(puller.next().await, pull_reply::Message::Settled(s) if s.errors.is_empty()));
    let Puller { sender, mut replies } = puller;
    drop(sender);
    assert!(replies.message().await.expect("ends in good order").is_none());
    z4.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_input_is_refused_with_code_reason_and_field() {
    let z4 = Served::start().await;
    let invalid = Code::InvalidArgument;
    refused(z4.create(&"x".repeat(256), task("")).await, invalid, reason::QUEUE_NAME_INVALID);
    refused(z4.create("", task("")).await, invalid, reason::QUEUE_NAME_INVALID);
    refused(z4.create("a\u{7}b", task("")).await, invalid, reason::QUEUE_NAME_INVALID);
    let huge = v1::NewTask { payload: vec![0; (1 << 20) + 1].into(), ..Default::default() };
    refused(z4.create("mail", huge).await, invalid, reason::PAYLOAD_TOO_LARGE);
    let request = v1::BatchCreateTasksRequest {
        queue: "mail".into(),
        tasks: vec![task("x"); 9_000],
        request_id: String::new(),
    };
    refused(z4.tasks().batch_create_tasks(request).await, invalid, reason::BATCH_TOO_LARGE);
    let negative = Schedule::Delay(PbDuration { seconds: -1, nanos: 0 });
    let negative = v1::NewTask { schedule: Some(negative), ..task("x") };
    refused(z4.create("mail", negative).await, invalid, reason::DURATION_OUT_OF_RANGE);

    let past = z4.create("past", at(-62_135_596_800)).await.expect("the year 0001 is past, so due");
    assert_eq!(z4.get(&past).await.expect("is there").state(), v1::TaskState::Due);
    let far = z4.create("far", at(253_402_300_799)).await.expect("the year 9999 is accepted");
    assert_eq!(z4.get(&far).await.expect("is there").state(), v1::TaskState::Scheduled);
    assert_eq!(z4.lease("past", 1, 5).await.expect("leases").len(), 1);

    let unknown = z4.settle(vec![ack(&far, 12_345)]).await;
    assert_eq!((unknown[0].1.kind, &*unknown[0].1.reason), (z4_types::Kind::Conflict, reason::LEASE_LOST));
    let id = z4.create("mail", task("stale")).await.expect("created");
    let first = z4.lease("mail", 1, 5).await.expect("leases").remove(0);
    let release = Verdict::Release(v1::Release { delay: None });
    assert!(
        z4.settle(vec![v1::Settlement { verdict: Some(release), ..ack(&id, first.token) }]).await.is_empty()
    );
    let second = z4.lease("mail", 1, 5).await.expect("leases").remove(0);
    assert!(second.token > first.token, "tokens grow");
    let stale = z4.settle(vec![ack(&id, first.token)]).await;
    assert_eq!(stale[0].1.reason, reason::LEASE_LOST);

    refused(z4.get("not-an-id").await, invalid, reason::TASK_ID_INVALID);
    refused(z4.get(&"7".repeat(26)).await, Code::NotFound, reason::SHARD_NOT_FOUND);
    let queue = v1::GetQueueRequest { queue: "nobody".into() };
    refused(z4.tasks().get_queue(queue).await, Code::NotFound, reason::QUEUE_NOT_FOUND);
    let list = v1::ListTasksRequest { queue: "mail".into(), page_token: "zz".into(), ..Default::default() };
    refused(z4.tasks().list_tasks(list).await, invalid, reason::PAGE_TOKEN_INVALID);

    let credit = pull_request::Message::Credit(pull_request::Credit { tasks: 1, bytes: 1 });
    let early = tokio_stream::iter([v1::PullRequest { message: Some(credit) }]);
    let mut replies = z4.tasks().pull(early).await.expect("opens").into_inner();
    let status = replies.message().await.expect_err("credit before open");
    assert_eq!((status.code(), &*Failure::from_status(&status).reason), (invalid, reason::STREAM_PROTOCOL));
    z4.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_and_admin_say_who_is_there() {
    let z4 = Served::start().await;
    let mut health = HealthClient::new(z4.channel.clone());
    let mut watching =
        health.watch(HealthCheckRequest { service: "z4.v1.Tasks".into() }).await.expect("known").into_inner();
    loop {
        let status = watching.message().await.expect("no error").expect("a status");
        if status.status() == tonic_health::pb::health_check_response::ServingStatus::Serving {
            break;
        }
    }
    drop(watching);
    let mut admin = AdminClient::new(z4.channel.clone());
    let info = admin.info(v1::InfoRequest {}).await.expect("answers").into_inner();
    assert_eq!((info.server_id.as_str(), info.members.len(), info.shards.len()), ("a", 1, 5));
    assert_eq!(info.leader_address, info.members[0].address);
    assert_eq!(admin.ping(v1::PingRequest {}).await.expect("answers").into_inner().server_id, "a");
    let json = admin.diagnostic(v1::DiagnosticRequest {}).await.expect("answers").into_inner().json;
    assert!(json.contains("\"log_segments\""));
    z4.stop().await;
}
