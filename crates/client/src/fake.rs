//! A server that does what a test says: every stream and every call is handed to the test, which answers it.
//!
//! So tests wait for what happens and never for time. Loopback, port 0, real tonic on both sides.

use std::pin::Pin;

use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::Stream;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};
use z4_proto::v1;
use z4_proto::v1::tasks_server::{Tasks, TasksServer};

/// The server's side of one stream.
pub(crate) struct Session<Req, Rep> {
    requests: Streaming<Req>,
    replies: mpsc::Sender<Result<Rep, Status>>,
}

impl<Req, Rep> Session<Req, Rep> {
    /// Returns the next request; None when the client has closed its side or is gone.
    pub(crate) async fn next(&mut self) -> Option<Req> {
        self.requests.message().await.ok().flatten()
    }

    pub(crate) async fn reply(&self, reply: Rep) {
        drop(self.replies.send(Ok(reply)).await);
    }

    /// Ends the stream with an error, as a dying host does.
    pub(crate) async fn fail(self, status: Status) {
        drop(self.replies.send(Err(status)).await);
    }
}

/// One unary call, to be answered.
pub(crate) struct Call<Req, Rep> {
    pub(crate) request: Req,
    answer: oneshot::Sender<Result<Rep, Status>>,
}

impl<Req, Rep> Call<Req, Rep> {
    pub(crate) fn answer(self, answer: Result<Rep, Status>) {
        drop(self.answer.send(answer));
    }
}

pub(crate) type Push = Session<v1::PushRequest, v1::PushReply>;
pub(crate) type Pull = Session<v1::PullRequest, v1::PullReply>;
pub(crate) type Create = Call<v1::CreateTaskRequest, v1::CreateTaskResponse>;
pub(crate) type Settle = Call<v1::SettleRequest, v1::SettleResponse>;

/// What the test sees.
pub(crate) struct Fake {
    pub(crate) address: String,
    pub(crate) pushes: mpsc::UnboundedReceiver<Push>,
    pub(crate) pulls: mpsc::UnboundedReceiver<Pull>,
    pub(crate) creates: mpsc::UnboundedReceiver<Create>,
    pub(crate) settles: mpsc::UnboundedReceiver<Settle>,
}

struct Service {
    pushes: mpsc::UnboundedSender<Push>,
    pulls: mpsc::UnboundedSender<Pull>,
    creates: mpsc::UnboundedSender<Create>,
    settles: mpsc::UnboundedSender<Settle>,
}

impl Fake {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let address = listener.local_addr().expect("bound").to_string();
        let (pushes_in, pushes) = mpsc::unbounded_channel();
        let (pulls_in, pulls) = mpsc::unbounded_channel();
        let (creates_in, creates) = mpsc::unbounded_channel();
        let (settles_in, settles) = mpsc::unbounded_channel();
        let service =
            Service { pushes: pushes_in, pulls: pulls_in, creates: creates_in, settles: settles_in };
        let server = tonic::transport::Server::builder()
            .add_service(TasksServer::new(service))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(server);
        Self { address, pushes, pulls, creates, settles }
    }

    pub(crate) async fn push(&mut self) -> Push {
        self.pushes.recv().await.expect("the server runs")
    }

    pub(crate) async fn pull(&mut self) -> Pull {
        self.pulls.recv().await.expect("the server runs")
    }
}

/// Returns an address where nobody listens.
pub(crate) async fn dead_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    listener.local_addr().expect("bound").to_string()
}

type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn session<Req, Rep: Send + 'static>(
    sessions: &mpsc::UnboundedSender<Session<Req, Rep>>,
    requests: Request<Streaming<Req>>,
) -> Result<Response<Replies<Rep>>, Status> {
    let (replies, stream) = mpsc::channel(64);
    drop(sessions.send(Session { requests: requests.into_inner(), replies }));
    Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
}

async fn unary<Req, Rep>(
    calls: &mpsc::UnboundedSender<Call<Req, Rep>>,
    request: Request<Req>,
) -> Result<Response<Rep>, Status> {
    let (answer, answered) = oneshot::channel();
    drop(calls.send(Call { request: request.into_inner(), answer }));
    answered.await.unwrap_or_else(|_| Err(Status::cancelled("the test has ended"))).map(Response::new)
}

#[tonic::async_trait]
impl Tasks for Service {
    type PushStream = Replies<v1::PushReply>;
    type PullStream = Replies<v1::PullReply>;

    async fn push(
        &self,
        requests: Request<Streaming<v1::PushRequest>>,
    ) -> Result<Response<Self::PushStream>, Status> {
        session(&self.pushes, requests)
    }

    async fn pull(
        &self,
        requests: Request<Streaming<v1::PullRequest>>,
    ) -> Result<Response<Self::PullStream>, Status> {
        session(&self.pulls, requests)
    }

    async fn create_task(
        &self,
        request: Request<v1::CreateTaskRequest>,
    ) -> Result<Response<v1::CreateTaskResponse>, Status> {
        unary(&self.creates, request).await
    }

    async fn settle(
        &self,
        request: Request<v1::SettleRequest>,
    ) -> Result<Response<v1::SettleResponse>, Status> {
        unary(&self.settles, request).await
    }

    async fn batch_create_tasks(
        &self,
        _: Request<v1::BatchCreateTasksRequest>,
    ) -> Result<Response<v1::BatchCreateTasksResponse>, Status> {
        Err(Status::unimplemented("not faked"))
    }
    async fn lease_tasks(
        &self,
        _: Request<v1::LeaseTasksRequest>,
    ) -> Result<Response<v1::LeaseTasksResponse>, Status> {
        Err(Status::unimplemented("not faked"))
    }
    async fn get_task(
        &self,
        _: Request<v1::GetTaskRequest>,
    ) -> Result<Response<v1::GetTaskResponse>, Status> {
        Err(Status::unimplemented("not faked"))
    }
    async fn list_tasks(
        &self,
        _: Request<v1::ListTasksRequest>,
    ) -> Result<Response<v1::ListTasksResponse>, Status> {
        Err(Status::unimplemented("not faked"))
    }
    async fn cancel_tasks(
        &self,
        _: Request<v1::CancelTasksRequest>,
    ) -> Result<Response<v1::CancelTasksResponse>, Status> {
        Err(Status::unimplemented("not faked"))
    }
    async fn update_task(
        &self,
        _: Request<v1::UpdateTaskRequest>,
    ) -> Result<Response<v1::UpdateTaskResponse>, Status> {
        Err(Status::unimplemented("not faked"))
    }
    async fn update_tasks(
        &self,
        _: Request<v1::UpdateTasksRequest>,
    ) -> Result<Response<v1::UpdateTasksResponse>, Status> {
        Err(Status::unimplemented("not faked"))
    }
    async fn run_tasks(
        &self,
        _: Request<v1::RunTasksRequest>,
    ) -> Result<Response<v1::RunTasksResponse>, Status> {
        Err(Status::unimplemented("not faked"))
    }
    async fn redrive_tasks(
        &self,
        _: Request<v1::RedriveTasksRequest>,
    ) -> Result<Response<v1::RedriveTasksResponse>, Status> {
        Err(Status::unimplemented("not faked"))
    }
    async fn explain_task(
        &self,
        _: Request<v1::ExplainTaskRequest>,
    ) -> Result<Response<v1::ExplainTaskResponse>, Status> {
        Err(Status::unimplemented("not faked"))
    }
    async fn list_queues(
        &self,
        _: Request<v1::ListQueuesRequest>,
    ) -> Result<Response<v1::ListQueuesResponse>, Status> {
        Err(Status::unimplemented("not faked"))
    }
    async fn get_queue(
        &self,
        _: Request<v1::GetQueueRequest>,
    ) -> Result<Response<v1::GetQueueResponse>, Status> {
        Err(Status::unimplemented("not faked"))
    }
}
