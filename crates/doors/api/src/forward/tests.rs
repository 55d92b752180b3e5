//! Two real hosts, each its own cluster; the door of the first believes that the second leads all shards. So every verb
//! takes the way to another host, and what arrives there can be counted.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tonic::transport::Channel;
use z4_host::{Config, Host};
use z4_proto::v1::settlement::Verdict;
use z4_proto::v1::tasks_client::TasksClient;
use z4_proto::v1::{pull_reply, pull_request};
use z4_proto::{MESSAGE_BYTES_MAX, v1};

use super::*;
use crate::bodies::Bodies;
use crate::door::Door;
use crate::server::serve_at;

/// Far above what anything here takes.
const SOON: Duration = Duration::from_secs(20);

/// What a door believes of all shards but the registry.
type Belief = Arc<Mutex<Route>>;

struct Served {
    host: Host,
    door: Door,
    address: String,
    belief: Belief,
    stop: watch::Sender<bool>,
    served: tokio::task::JoinHandle<()>,
    _dir: TempDir,
}

impl Served {
    async fn start(name: &str) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut config = Config::single(name, dir.path());
        config.sizes.segment_bytes = 16 << 20;
        let host = Host::start(&config, |_| {}).expect("starts");
        assert!(host.wait_until_serving(SOON), "shards elect their only voter");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound").to_string();
        let (stop, stopping) = watch::channel(false);
        let belief = Belief::new(Mutex::new(Route::Here));
        let believed = Arc::clone(&belief);
        let routes = Box::new(move |_: &z4_host::Handle, _| believed.lock().expect("no panic").clone());
        let door = Door::new(host.handle().clone(), routes, stopping, Bodies::new());
        let served = tokio::spawn(serve_at(door.clone(), listener));
        Self { host, door, address, belief, stop, served, _dir: dir }
    }

    fn believe(&self, route: Route) {
        *self.belief.lock().expect("no panic") = route;
    }

    fn client(&self) -> TasksClient<Channel> {
        let endpoint = Channel::from_shared(format!("http://{}", self.address)).expect("an address");
        TasksClient::new(endpoint.connect_lazy()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    fn route_to(&self) -> Route {
        let host = self.host.handle().identity().host.clone();
        Route::There { host, service: self.address.clone() }
    }

    async fn waiting(&self, queue: &str) -> u64 {
        let request = v1::GetQueueRequest { queue: queue.into() };
        let reply = self.client().get_queue(request).await.expect("known").into_inner();
        reply.queue.expect("a queue").waiting
    }

    async fn stop(self) {
        self.stop.send_replace(true);
        self.served.await.expect("no panic");
        self.host.stop().expect("stops in good order");
    }
}

/// Returns the two; the first believes that the second leads.
async fn pair() -> (Served, Served) {
    let (a, b) = (Served::start("a").await, Served::start("b").await);
    a.believe(b.route_to());
    (a, b)
}

fn task(payload: &str) -> v1::NewTask {
    v1::NewTask { payload: Bytes::copy_from_slice(payload.as_bytes()), ..Default::default() }
}

fn create(request_id: &str) -> v1::CreateTaskRequest {
    v1::CreateTaskRequest { queue: "mail".into(), task: Some(task("x")), request_id: request_id.into() }
}

fn ack(task: &v1::LeasedTask) -> v1::Settlement {
    v1::Settlement { id: task.id.clone(), token: task.token, verdict: Some(Verdict::Ack(v1::Ack::default())) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_unary_verb_is_answered_by_the_leader_and_the_reply_names_it() {
    let (a, b) = pair().await;
    let mut client = a.client();
    let created = client.create_task(create("")).await.expect("created").into_inner();
    assert_eq!(created.forwarded_to, b.address);
    let batch = v1::BatchCreateTasksRequest {
        queue: "mail".into(),
        tasks: vec![task("y"), v1::NewTask { priority: Some(256), ..task("bad") }],
        request_id: "once".into(),
    };
    let first = client.batch_create_tasks(batch.clone()).await.expect("created").into_inner();
    assert_eq!((first.ids.len(), first.errors.len(), &first.forwarded_to), (2, 1, &b.address));
    let again = client.batch_create_tasks(batch).await.expect("answered").into_inner();
    assert_eq!(again.ids, first.ids, "the request id travels along");

    let got = client
        .get_task(v1::GetTaskRequest { id: created.id.clone(), ..Default::default() })
        .await
        .expect("is there");
    assert_eq!(got.into_inner().forwarded_to, b.address);
    let list = v1::ListTasksRequest { queue: "mail".into(), ..Default::default() };
    let listed = client.list_tasks(list).await.expect("lists").into_inner();
    assert_eq!((listed.tasks.len(), &listed.forwarded_to), (2, &b.address));
    let queue = client.get_queue(v1::GetQueueRequest { queue: "mail".into() }).await.expect("known");
    assert_eq!(queue.into_inner().forwarded_to, b.address);
    let sms = v1::CreateTaskRequest { queue: "sms".into(), ..create("") };
    client.create_task(sms).await.expect("created");
    let queues = client.list_queues(v1::ListQueuesRequest::default()).await.expect("lists").into_inner();
    assert_eq!(queues.queues.iter().map(|q| q.name.as_str()).collect::<Vec<_>>(), ["mail", "sms"]);
    let page = v1::ListQueuesRequest { page_size: 1, ..Default::default() };
    let page = client.list_queues(page).await.expect("lists").into_inner();
    assert_eq!((page.queues[0].name.as_str(), page.next_page_token.is_empty()), ("mail", false));

    let lease = v1::LeaseTasksRequest {
        queue: "mail".into(),
        max_tasks: 2,
        wait: Some(z4_proto::Duration { seconds: 10, nanos: 0 }),
        ..Default::default()
    };
    let leased = client.lease_tasks(lease).await.expect("leases").into_inner();
    assert_eq!((leased.tasks.len(), &leased.forwarded_to), (2, &b.address));
    let bad = v1::Settlement { id: "nonsense".into(), ..ack(&leased.tasks[0]) };
    let stale = v1::Settlement { token: 1, ..ack(&leased.tasks[1]) };
    let words = vec![bad, stale, ack(&leased.tasks[0])];
    let settled =
        client.settle(v1::SettleRequest { settlements: words }).await.expect("settles").into_inner();
    assert_eq!(
        settled.errors.iter().map(|e| e.index).collect::<Vec<_>>(),
        [0, 1],
        "by the caller's positions"
    );
    assert_eq!(settled.forwarded_to, b.address);
    let ids = vec![leased.tasks[1].id.clone(), leased.tasks[0].id.clone()];
    let cancelled = client
        .cancel_tasks(v1::CancelTasksRequest { ids, ..Default::default() })
        .await
        .expect("cancels")
        .into_inner();
    assert_eq!(cancelled.errors.iter().map(|e| e.index).collect::<Vec<_>>(), [1], "it was acked");
    let refused = client
        .get_task(v1::GetTaskRequest { id: created.id, ..Default::default() })
        .await
        .expect_err("is gone");
    assert_eq!(refused.code(), Code::NotFound, "refusals come through: {refused:?}");
    assert_eq!((a.door.bodies().used(), b.door.bodies().used()), (0, 0), "shares are given back");
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_and_explanations_come_from_the_leader_with_all_that_was_asked() {
    let (a, b) = pair().await;
    let mut client = a.client();
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(client.create_task(create("")).await.expect("created").into_inner().id);
    }
    let update = Some(v1::TaskUpdate { priority: Some(7), ..Default::default() });
    let update = v1::UpdateTaskRequest { id: ids[0].clone(), update, ..Default::default() };
    let updated = client.update_task(update).await.expect("changes").into_inner();
    assert_eq!((&*updated.etag, &updated.forwarded_to), ("0000000000000001", &b.address));
    let explain = v1::ExplainTaskRequest { id: ids[0].clone() };
    let said = client.explain_task(explain).await.expect("answers").into_inner();
    assert_eq!(said.forwarded_to, b.address);
    assert_eq!(said.explanation.expect("one").obstacle(), v1::Obstacle::NoConsumer);
    let etags = vec![String::new(), "00000000000000ff".into(), String::new()];
    let run = v1::RunTasksRequest { ids: ids.clone(), etags, selection: None };
    let run = client.run_tasks(run).await.expect("answers").into_inner();
    assert_eq!(run.errors.iter().map(|error| error.index).collect::<Vec<_>>(), [1], "etags travel along");

    let lease = v1::LeaseTasksRequest { queue: "mail".into(), max_tasks: 3, ..Default::default() };
    let leased = client.lease_tasks(lease).await.expect("leases").into_inner().tasks;
    let nack = |task: &v1::LeasedTask| {
        let nack = v1::Nack { reason: "no".into(), dead: true, ..Default::default() };
        v1::Settlement { verdict: Some(Verdict::Nack(nack)), ..ack(task) }
    };
    let settle = v1::SettleRequest { settlements: leased.iter().map(nack).collect() };
    assert!(client.settle(settle).await.expect("settles").into_inner().errors.is_empty());
    let redrive = v1::RedriveTasksRequest { ids: ids.clone(), rate: 0.001, ..Default::default() };
    let redriven = client.redrive_tasks(redrive).await.expect("redrives").into_inner();
    assert_eq!((redriven.errors.len(), &redriven.forwarded_to), (0, &b.address));
    let scheduled = v1::ListTasksRequest {
        queue: "mail".into(),
        filter: "state = scheduled".into(),
        ..Default::default()
    };
    let listed = client.list_tasks(scheduled).await.expect("lists").into_inner().tasks;
    assert_eq!(listed.len(), 2, "each is a thousand seconds behind the one before: the rate travels along");

    let selection = |filter: &str| {
        Some(v1::Selection { queue: "mail".into(), filter: filter.into(), ..Default::default() })
    };
    let update = Some(v1::TaskUpdate { priority: Some(9), ..Default::default() });
    let update = v1::UpdateTasksRequest { selection: selection("state = due"), update, update_mask: None };
    let updated = client.update_tasks(update).await.expect("changes").into_inner();
    assert_eq!((updated.matched.expect("counted").changed, &updated.forwarded_to), (1, &b.address));
    let cancel = v1::CancelTasksRequest { selection: selection("state = scheduled"), ..Default::default() };
    let cancelled = client.cancel_tasks(cancel).await.expect("cancels").into_inner();
    assert_eq!((cancelled.matched.expect("counted").changed, &cancelled.forwarded_to), (2, &b.address));
    let mut gone = ids[..1].to_vec();
    gone.push("nonsense".into());
    let etags = vec!["0000000000000000".into(), String::new()];
    let cancel = v1::CancelTasksRequest { ids: gone, etags, ..Default::default() };
    let answer = client.cancel_tasks(cancel).await.expect("answers").into_inner();
    assert_eq!(answer.errors.iter().map(|error| error.index).collect::<Vec<_>>(), [0, 1]);
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn push_batches_of_other_shards_go_on_to_their_leader() {
    let (a, b) = pair().await;
    let batch = |seq| v1::PushRequest {
        seq,
        queue: "mail".into(),
        tasks: vec![task("x"); 100],
        request_id: format!("batch {}", seq % 10),
    };
    let mut replies =
        a.client().push(tokio_stream::iter((1..=20).map(batch))).await.expect("opens").into_inner();
    let mut seqs = Vec::new();
    while let Some(reply) = replies.message().await.expect("no error") {
        assert_eq!((reply.ids.len(), reply.failure, &reply.forwarded_to), (100, None, &b.address));
        seqs.push(reply.seq);
    }
    seqs.sort_unstable();
    assert_eq!(seqs, (1..=20).collect::<Vec<_>>());
    assert_eq!(b.waiting("mail").await, 1_000, "each batch came twice and was made once");
    a.stop().await;
    b.stop().await;
}

/// The client's half of a pull stream.
struct Puller {
    sender: tokio::sync::mpsc::Sender<v1::PullRequest>,
    replies: tonic::Streaming<v1::PullReply>,
}

impl Puller {
    async fn open(served: &Served) -> Self {
        let (sender, receiver) = tokio::sync::mpsc::channel(8);
        let mut client = served.client();
        // Answered before the opening is sent: clients may wait for that.
        let replies = client.pull(ReceiverStream::new(receiver)).await.expect("opens").into_inner();
        let this = Self { sender, replies };
        let open = pull_request::Open { queue: "mail".into(), consumer: "w".into(), ..Default::default() };
        this.say(pull_request::Message::Open(open)).await;
        this
    }

    async fn say(&self, message: pull_request::Message) {
        let request = v1::PullRequest { message: Some(message) };
        self.sender.send(request).await.expect("the stream is open");
    }

    async fn next(&mut self) -> pull_reply::Message {
        let message = tokio::time::timeout(SOON, self.replies.message()).await.expect("soon");
        message.expect("no error").and_then(|reply| reply.message).expect("a message")
    }

    async fn opened(&mut self) {
        let message = self.next().await;
        assert!(matches!(&message, pull_reply::Message::Opened(o) if o.consumer == "w"), "{message:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_stream_is_passed_on_to_the_leader_and_ends_in_good_order() {
    let (a, b) = pair().await;
    let mut puller = Puller::open(&a).await;
    puller.opened().await;
    puller.say(pull_request::Message::Credit(pull_request::Credit { tasks: 100, bytes: 32 << 20 })).await;
    let large = v1::NewTask { payload: vec![7; 512 << 10].into(), ..Default::default() };
    let batch =
        v1::BatchCreateTasksRequest { queue: "mail".into(), tasks: vec![large; 12], ..Default::default() };
    b.client().batch_create_tasks(batch).await.expect("created");
    let mut words = Vec::new();
    while words.len() < 12 {
        match puller.next().await {
            pull_reply::Message::Tasks(batch) => words.extend(batch.tasks.iter().map(ack)),
            other => panic!("expected tasks, got {other:?}"),
        }
    }
    puller.say(pull_request::Message::Settle(pull_request::Settle { seq: 42, settlements: words })).await;
    let message = puller.next().await;
    assert!(
        matches!(&message, pull_reply::Message::Settled(s) if s.seq == 42 && s.errors.is_empty()),
        "{message:?}"
    );
    drop(puller.sender);
    assert!(puller.replies.message().await.expect("ends in good order").is_none());
    assert_eq!(b.waiting("mail").await, 0);

    // A host that stops lets its streams end in good order too.
    let mut puller = Puller::open(&a).await;
    puller.opened().await;
    a.stop.send_replace(true);
    let end = tokio::time::timeout(SOON, puller.replies.message()).await.expect("soon");
    assert!(end.expect("in good order").is_none());
    assert_eq!(a.door.bodies().used(), 0);
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_dies_ends_the_streams_that_were_passed_on_to_it_by_name() {
    let a = Served::start("a").await;
    // Its door has a runtime of its own, which ends without a word to anybody.
    let theirs = tokio::runtime::Runtime::new().expect("a runtime");
    let b = theirs.spawn(Served::start("b")).await.expect("no panic");
    a.believe(b.route_to());
    let mut puller = Puller::open(&a).await;
    puller.opened().await;
    theirs.shutdown_background();
    let end = tokio::time::timeout(SOON, puller.replies.message()).await.expect("soon");
    let failure = Failure::from_status(&end.expect_err("says why"));
    assert_eq!((failure.kind, &*failure.reason), (Kind::Unavailable, reason::NO_LEADER), "{failure}");
    a.stop().await;
    b.host.stop().expect("stops in good order");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_was_passed_on_once_is_refused_with_the_leader_it_should_have_met() {
    let (a, b) = pair().await;
    let mut request = tonic::Request::new(create(""));
    request.metadata_mut().insert(FORWARDED_BY, "c".parse().expect("a name"));
    let failure = Failure::from_status(&a.client().create_task(request).await.expect_err("refused"));
    assert_eq!((failure.kind, &*failure.reason), (Kind::Unavailable, reason::NOT_LEADER));
    let leader = failure.leader.expect("is named");
    assert_eq!((&*leader.host, &leader.address), ("b", &b.address));
    assert!(failure.retry_after.is_some());

    // Two doors that believe in each other do not send a call in circles: it ends by its deadline, undone.
    b.believe(a.route_to());
    let mut request = tonic::Request::new(create(""));
    request.set_timeout(Duration::from_millis(500));
    let failure = Failure::from_status(&a.client().create_task(request).await.expect_err("nobody leads"));
    assert_eq!((failure.kind, &*failure.reason), (Kind::Unavailable, reason::NOT_LEADER), "{failure}");
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p9_calls_wait_for_a_leader_as_long_as_their_deadline_allows_and_no_longer() {
    let (a, b) = pair().await;
    a.believe(Route::Nowhere);
    let mut request = tonic::Request::new(create("late"));
    request.set_timeout(Duration::from_millis(500));
    let failure = Failure::from_status(&a.client().create_task(request).await.expect_err("nobody leads"));
    assert_eq!((failure.kind, &*failure.reason), (Kind::Unavailable, reason::NO_LEADER), "{failure}");

    // Its leader is dead, which is seen at once; then another is elected.
    let dead = TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("bound");
    a.believe(Route::There { host: HostId("dead".into()), service: dead.to_string() });
    let mut client = a.client();
    let waiting = tokio::spawn(async move { client.create_task(create("late")).await });
    let mut puller = Puller::open(&a).await;
    while a.door.bodies().calls() < 2 {
        tokio::task::yield_now().await;
    }
    a.believe(b.route_to());
    let created = waiting.await.expect("no panic").expect("an election is no error").into_inner();
    assert_eq!(created.forwarded_to, b.address);
    puller.opened().await;
    drop(puller);

    // It is this host that leads by now.
    a.believe(Route::Nowhere);
    let mut client = a.client();
    let waiting = tokio::spawn(async move { client.create_task(create("late")).await });
    while a.door.bodies().calls() == 0 {
        tokio::task::yield_now().await;
    }
    a.believe(Route::Here);
    let created = waiting.await.expect("no panic").expect("created").into_inner();
    assert_eq!(created.forwarded_to, "");
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn channels_to_hosts_that_the_registry_does_not_name_are_dropped() {
    let (a, b) = pair().await;
    a.client().create_task(create("")).await.expect("created");
    // Host b is of another cluster, so the registry of this one does not name it.
    let dropped = async {
        while a.door.peers().len() > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, dropped).await.expect("soon");
    a.client().create_task(create("")).await.expect("and made again when they are needed");
    a.stop().await;
    b.stop().await;
}
