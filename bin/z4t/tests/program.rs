//! `z4t` as a program, mostly `consume` against a server that the test plays: signals, and the time without a task.
//!
//! Tests wait for what happens: a stream that opens, a byte on stdout, the end of the program. A time is only ever
//! compared from below.

use std::pin::Pin;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};
use z4_proto::status::Failure;
use z4_proto::v1::pull_reply::{Message as Out, Opened, Settled, Tasks as Delivered};
use z4_proto::v1::pull_request::Message as In;
use z4_proto::v1::settlement::Verdict;
use z4_proto::v1::tasks_server::{Tasks, TasksServer};
use z4_proto::{reason, v1};
use z4_types::{Kind, TaskId};

/// The server's side of one Pull stream.
struct Session {
    requests: Streaming<v1::PullRequest>,
    replies: mpsc::Sender<Result<v1::PullReply, Status>>,
}

impl Session {
    async fn next(&mut self) -> Option<In> {
        self.requests.message().await.ok().flatten().and_then(|request| request.message)
    }

    async fn send(&self, message: Out) {
        drop(self.replies.send(Ok(v1::PullReply { message: Some(message) })).await);
    }

    /// Answers the opening.
    async fn open(&mut self) {
        assert!(matches!(self.next().await, Some(In::Open(_))));
        self.send(Out::Opened(Opened::default())).await;
    }

    /// Delivers task 1.
    async fn deliver(&self, payload: Vec<u8>) {
        let task = v1::LeasedTask {
            id: TaskId(1).to_string(),
            token: 1,
            payload: payload.into(),
            ..Default::default()
        };
        self.send(Out::Tasks(Delivered { tasks: vec![task] })).await;
    }

    /// Confirms all settlements until the client has closed its side; returns how many.
    async fn serve(mut self) -> usize {
        let mut settled = 0;
        while let Some(message) = self.next().await {
            if let In::Settle(settle) = message {
                settled += settle.settlements.len();
                self.send(Out::Settled(Settled { seq: settle.seq, ..Default::default() })).await;
            }
        }
        settled
    }
}

struct Fake {
    address: String,
    pulls: mpsc::UnboundedReceiver<Session>,
    /// What was settled by a call of its own; each is confirmed.
    settles: mpsc::UnboundedReceiver<Vec<v1::Settlement>>,
}

struct Service {
    pulls: mpsc::UnboundedSender<Session>,
    settles: mpsc::UnboundedSender<Vec<v1::Settlement>>,
}

impl Fake {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let address = listener.local_addr().expect("bound").to_string();
        let (pulls_in, pulls) = mpsc::unbounded_channel();
        let (settles_in, settles) = mpsc::unbounded_channel();
        let service = TasksServer::new(Service { pulls: pulls_in, settles: settles_in });
        let server = tonic::transport::Server::builder().add_service(service);
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        Self { address, pulls, settles }
    }

    async fn pull(&mut self) -> Session {
        self.pulls.recv().await.expect("the server runs")
    }

    /// Starts the program.
    fn consume(&self, args: &[&str]) -> Child {
        Command::new(env!("CARGO_BIN_EXE_z4t"))
            .args(["-t", &self.address, "-q", "jobs", "--timeout", "1h", "consume"])
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the program was built")
    }
}

type Replies = Pin<Box<dyn Stream<Item = Result<v1::PullReply, Status>> + Send>>;
type Answer<T> = Result<Response<T>, Status>;

fn not_faked<T>() -> Answer<T> {
    Err(Status::unimplemented("not faked"))
}

#[tonic::async_trait]
impl Tasks for Service {
    type PushStream = Pin<Box<dyn Stream<Item = Result<v1::PushReply, Status>> + Send>>;
    type PullStream = Replies;

    async fn pull(&self, requests: Request<Streaming<v1::PullRequest>>) -> Answer<Replies> {
        let (replies, stream) = mpsc::channel(64);
        drop(self.pulls.send(Session { requests: requests.into_inner(), replies }));
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
    async fn settle(&self, request: Request<v1::SettleRequest>) -> Answer<v1::SettleResponse> {
        drop(self.settles.send(request.into_inner().settlements));
        Ok(Response::new(v1::SettleResponse::default()))
    }
    async fn push(&self, _: Request<Streaming<v1::PushRequest>>) -> Answer<Self::PushStream> {
        not_faked()
    }
    async fn create_task(&self, _: Request<v1::CreateTaskRequest>) -> Answer<v1::CreateTaskResponse> {
        not_faked()
    }
    async fn batch_create_tasks(
        &self,
        _: Request<v1::BatchCreateTasksRequest>,
    ) -> Answer<v1::BatchCreateTasksResponse> {
        not_faked()
    }
    async fn lease_tasks(&self, _: Request<v1::LeaseTasksRequest>) -> Answer<v1::LeaseTasksResponse> {
        not_faked()
    }
    async fn get_task(&self, request: Request<v1::GetTaskRequest>) -> Answer<v1::GetTaskResponse> {
        let v1::GetTaskRequest { id, stale, .. } = request.into_inner();
        let task = Some(v1::Task { id, ..Default::default() });
        Ok(Response::new(v1::GetTaskResponse { task, freshness: freshness(stale), ..Default::default() }))
    }
    /// Two pages of a task each.
    async fn list_tasks(&self, request: Request<v1::ListTasksRequest>) -> Answer<v1::ListTasksResponse> {
        let request = request.into_inner();
        let last = !request.page_token.is_empty();
        let task = v1::Task { id: TaskId(1 + u128::from(last)).to_string(), ..Default::default() };
        Ok(Response::new(v1::ListTasksResponse {
            tasks: vec![task],
            next_page_token: if last { String::new() } else { "next".into() },
            freshness: freshness(request.stale),
            ..Default::default()
        }))
    }
    async fn cancel_tasks(&self, _: Request<v1::CancelTasksRequest>) -> Answer<v1::CancelTasksResponse> {
        not_faked()
    }
    async fn update_task(&self, _: Request<v1::UpdateTaskRequest>) -> Answer<v1::UpdateTaskResponse> {
        not_faked()
    }
    async fn update_tasks(&self, _: Request<v1::UpdateTasksRequest>) -> Answer<v1::UpdateTasksResponse> {
        not_faked()
    }
    async fn run_tasks(&self, _: Request<v1::RunTasksRequest>) -> Answer<v1::RunTasksResponse> {
        not_faked()
    }
    async fn redrive_tasks(&self, _: Request<v1::RedriveTasksRequest>) -> Answer<v1::RedriveTasksResponse> {
        not_faked()
    }
    async fn explain_task(&self, _: Request<v1::ExplainTaskRequest>) -> Answer<v1::ExplainTaskResponse> {
        not_faked()
    }
    async fn list_queues(&self, _: Request<v1::ListQueuesRequest>) -> Answer<v1::ListQueuesResponse> {
        not_faked()
    }
    async fn get_queue(&self, _: Request<v1::GetQueueRequest>) -> Answer<v1::GetQueueResponse> {
        not_faked()
    }
}

fn freshness(stale: bool) -> Option<v1::Freshness> {
    let time = Some(z4_proto::convert::timestamp(z4_types::Millis(1_000)));
    stale.then(|| v1::Freshness { host: "b".into(), applied: 7, time })
}

/// Sends the program a signal, by the shell, which has `kill` built in.
async fn signal(child: &Child, name: &str) {
    let pid = child.id().expect("it runs");
    let sent = Command::new("sh").args(["-c", &format!("kill -{name} {pid}")]).status().await;
    assert!(sent.expect("a shell").success());
}

async fn end(child: &mut Child) -> ExitStatus {
    // Far below the --timeout of an hour, far above what a busy machine needs.
    let ended = tokio::time::timeout(Duration::from_secs(60), child.wait()).await;
    ended.expect("it must not wait for the server or the reader").expect("a child")
}

#[tokio::test]
async fn a_signal_ends_it_while_the_stream_is_not_open_yet() {
    for name in ["INT", "TERM"] {
        let mut fake = Fake::start().await;
        let mut child = fake.consume(&[]);
        // It came, so the program listens for signals; its opening is never answered.
        let session = fake.pull().await;
        signal(&child, name).await;
        assert_eq!(end(&mut child).await.code(), Some(0), "{name}");
        drop(session);
    }
}

#[tokio::test]
async fn a_signal_ends_it_while_nobody_reads_and_what_was_not_seen_is_given_back() {
    let mut fake = Fake::start().await;
    let mut child = fake.consume(&[]);
    let mut session = fake.pull().await;
    session.open().await;
    // Far more than a pipe holds.
    session.deliver(vec![b'x'; 1 << 20]).await;
    let stdout = child.stdout.as_mut().expect("piped");
    stdout.read_u8().await.expect("the line has begun");
    signal(&child, "INT").await;
    let served = tokio::spawn(session.serve());
    assert_eq!(end(&mut child).await.code(), Some(0));
    assert_eq!(served.await.expect("no panic"), 0, "nobody saw the line, so nothing is acked");
    let words = fake.settles.recv().await.expect("the server runs");
    assert!(matches!(&words[..], [v1::Settlement { token: 1, verdict: Some(Verdict::Release(_)), .. }]));
}

/// The time to open the stream is not the time without a task.
#[tokio::test]
async fn idle_begins_when_the_stream_is_open() {
    let mut fake = Fake::start().await;
    let idle = Duration::from_millis(300);
    let mut child = fake.consume(&["--idle", "300ms"]);
    // The server makes it wait longer than that before it opens the second stream.
    let failure = Failure::new(Kind::Unavailable, reason::NO_LEADER, "election").with_retry_after(idle * 2);
    drop(fake.pull().await.replies.send(Err(failure.to_status())).await);
    let mut session = fake.pull().await;
    session.open().await;
    let opened_at = Instant::now();
    assert_eq!(session.serve().await, 0);
    assert!(opened_at.elapsed() >= idle, "ended {:?} after it began", opened_at.elapsed());
    assert_eq!(end(&mut child).await.code(), Some(0));
}

/// Nor is the time that a reader needs for a line.
#[tokio::test]
async fn idle_begins_again_when_a_line_is_out() {
    let mut fake = Fake::start().await;
    let idle = Duration::from_millis(300);
    let mut child = fake.consume(&["--idle", "300ms"]);
    let mut session = fake.pull().await;
    session.open().await;
    session.deliver(vec![b'x'; 1 << 20]).await;
    let mut stdout = child.stdout.take().expect("piped");
    let begun_at = Instant::now();
    stdout.read_u8().await.expect("the line has begun");
    // A reader that takes longer than the idle time for one line.
    while begun_at.elapsed() < idle * 2 {
        stdout.read_u8().await.expect("a megabyte is longer");
        tokio::task::yield_now().await;
    }
    let out_at = Instant::now();
    let (served, rest) = tokio::join!(tokio::spawn(session.serve()), async {
        let mut rest = Vec::new();
        stdout.read_to_end(&mut rest).await.map(|_| rest)
    });
    assert_eq!(served.expect("no panic"), 1, "acked");
    assert!(rest.expect("the rest of the line").ends_with(b"\n"));
    assert!(out_at.elapsed() >= idle, "ended {:?} after the line", out_at.elapsed());
    assert_eq!(end(&mut child).await.code(), Some(0));
}

#[tokio::test]
async fn words_about_a_key_need_the_key() {
    for args in [&["push", "jobs", "hello", "--key-policy", "keep"][..], &["get", "--key", "order-7"][..]] {
        let output = Command::new(env!("CARGO_BIN_EXE_z4t"))
            .arg("task")
            .args(args)
            .output()
            .await
            .expect("the program was built");
        assert_eq!(output.status.code(), Some(2), "{args:?}");
    }
}

#[tokio::test]
async fn stale_is_asked_for_and_the_answer_says_how_fresh_it_is() {
    let fake = Fake::start().await;
    let id = TaskId(1).to_string();
    let run = async |args: &[&str]| {
        let target = ["-t", &fake.address, "task"];
        let program = Command::new(env!("CARGO_BIN_EXE_z4t")).args(target).args(args).output().await;
        let output = program.expect("the program was built");
        let text = |bytes| String::from_utf8(bytes).expect("text");
        assert_eq!(output.status.code(), Some(0));
        (text(output.stdout), text(output.stderr))
    };
    let fresh = r#""freshness":{"host":"b","applied":7,"time":"1970-01-01T00:00:01.000Z"}"#;
    let (data, _) = run(&["get", &id, "--stale", "-o", "json"]).await;
    assert!(data.contains(fresh), "{data}");
    let (data, _) = run(&["list", "jobs", "--stale", "-o", "json"]).await;
    assert_eq!(data.matches(fresh).count(), 2, "on every page: {data}");
    let (data, talk) = run(&["get", &id, "--stale"]).await;
    assert!(talk.contains("host b") && talk.contains("entry 7") && !data.contains("host b"), "{talk}");
    for plain in [&["get", &id, "-o", "json"][..], &["list", "jobs", "-o", "json"]] {
        let (data, talk) = run(plain).await;
        assert!(data.contains(&id) && !data.contains("freshness") && talk.is_empty(), "{data}{talk}");
    }
}
