//! A server with nothing behind it: the same service, messages and sizes, answered at once. The ceiling of gRPC.
//!
//! It decodes requests with the generated code and builds whole answers, as any server of this API must, on a runtime
//! of its own with as many threads as there are cores. What z4 does beside that (log, fdatasync, state) is the
//! difference.
//!
//! # Caveats
//! - It lives in the process of the load generator; a child process would compete for the same cores.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use bytes::Bytes;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};
use z4_proto::v1;
use z4_proto::v1::pull_reply::{Message as Said, Opened, Settled, Tasks as Batch};
use z4_proto::v1::pull_request::Message as Asked;
use z4_proto::v1::tasks_server::{Tasks, TasksServer};

/// An id, as every answer has one for each task.
const ID: &str = "01arz3ndektsv4rrffq69g5fav";
/// Tasks of one batch on the pull stream, as the server's.
const PULL_BATCH: u32 = 1_000;
/// Replies that may wait for the socket.
const REPLIES_QUEUED: usize = 64;

/// A running echo server; it ends when dropped.
#[derive(Debug)]
pub(crate) struct Echo {
    runtime: Option<Runtime>,
    address: SocketAddr,
}

impl Echo {
    /// Starts the server; leased tasks carry `payload` bytes.
    ///
    /// # Errors
    /// No port on the loopback, no threads.
    pub(crate) fn start(payload: usize) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let listener =
            runtime.block_on_here(TcpListener::bind("127.0.0.1:0")).context("no port for the echo server")?;
        let address = listener.local_addr()?;
        let service = TasksServer::new(Service { payload: Bytes::from(vec![b'x'; payload]) })
            .max_decoding_message_size(z4_proto::MESSAGE_BYTES_MAX);
        let server = tonic::transport::Server::builder()
            .initial_stream_window_size(8 << 20)
            .initial_connection_window_size(32 << 20)
            .tcp_nodelay(true)
            .add_service(service);
        runtime.spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        Ok(Self { runtime: Some(runtime), address })
    }

    /// Returns `host:port`.
    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        // A runtime must not be dropped where another one runs.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Runs a future that needs the runtime's reactor from within another runtime: on a thread of its own.
trait BlockOnHere {
    fn block_on_here<F: Future<Output: Send> + Send>(&self, future: F) -> F::Output;
}

impl BlockOnHere for Runtime {
    fn block_on_here<F: Future<Output: Send> + Send>(&self, future: F) -> F::Output {
        std::thread::scope(|scope| {
            scope.spawn(|| self.block_on(future)).join().expect("the future does not panic")
        })
    }
}

struct Service {
    payload: Bytes,
}

fn only_echo<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("this server only answers what the bench asks"))
}

#[tonic::async_trait]
impl Tasks for Service {
    type PushStream = ReceiverStream<Result<v1::PushReply, Status>>;
    type PullStream = ReceiverStream<Result<v1::PullReply, Status>>;

    async fn create_task(
        &self,
        request: Request<v1::CreateTaskRequest>,
    ) -> Result<Response<v1::CreateTaskResponse>, Status> {
        drop(request);
        Ok(Response::new(v1::CreateTaskResponse { id: ID.to_owned(), ..v1::CreateTaskResponse::default() }))
    }

    async fn push(
        &self,
        request: Request<Streaming<v1::PushRequest>>,
    ) -> Result<Response<Self::PushStream>, Status> {
        let mut requests = request.into_inner();
        let (sender, replies) = mpsc::channel(REPLIES_QUEUED);
        tokio::spawn(async move {
            while let Ok(Some(request)) = requests.message().await {
                let ids = vec![ID.to_owned(); request.tasks.len()];
                let reply = v1::PushReply { seq: request.seq, ids, ..v1::PushReply::default() };
                if sender.send(Ok(reply)).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(replies)))
    }

    async fn pull(
        &self,
        request: Request<Streaming<v1::PullRequest>>,
    ) -> Result<Response<Self::PullStream>, Status> {
        let mut requests = request.into_inner();
        let (sender, replies) = mpsc::channel(REPLIES_QUEUED);
        let time = Some(z4_proto::Timestamp { seconds: 1_800_000_000, nanos: 1_000_000 });
        let task = v1::LeasedTask {
            id: ID.to_owned(),
            token: 1 << 30,
            payload: self.payload.clone(),
            priority: 128,
            deliver_at: time,
            created_at: time,
            lease_until: time,
            deliveries: 1,
            ..v1::LeasedTask::default()
        };
        tokio::spawn(async move {
            let say = async |message| sender.send(Ok(v1::PullReply { message: Some(message) })).await.is_ok();
            while let Ok(Some(request)) = requests.message().await {
                match request.message {
                    Some(Asked::Open(_)) => {
                        let _ = say(Said::Opened(Opened::default())).await;
                    }
                    Some(Asked::Credit(credit)) => {
                        let mut left = credit.tasks;
                        while left > 0 {
                            let count = left.min(PULL_BATCH);
                            left -= count;
                            if !say(Said::Tasks(Batch { tasks: vec![task.clone(); count as usize] })).await {
                                return;
                            }
                        }
                    }
                    Some(Asked::Settle(settle)) => {
                        let _ = say(Said::Settled(Settled { seq: settle.seq, ..Settled::default() })).await;
                    }
                    None => {}
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(replies)))
    }

    async fn batch_create_tasks(
        &self,
        _: Request<v1::BatchCreateTasksRequest>,
    ) -> Result<Response<v1::BatchCreateTasksResponse>, Status> {
        only_echo()
    }

    async fn lease_tasks(
        &self,
        _: Request<v1::LeaseTasksRequest>,
    ) -> Result<Response<v1::LeaseTasksResponse>, Status> {
        only_echo()
    }

    async fn settle(&self, _: Request<v1::SettleRequest>) -> Result<Response<v1::SettleResponse>, Status> {
        only_echo()
    }

    async fn get_task(
        &self,
        _: Request<v1::GetTaskRequest>,
    ) -> Result<Response<v1::GetTaskResponse>, Status> {
        only_echo()
    }

    async fn list_tasks(
        &self,
        _: Request<v1::ListTasksRequest>,
    ) -> Result<Response<v1::ListTasksResponse>, Status> {
        only_echo()
    }

    async fn cancel_tasks(
        &self,
        _: Request<v1::CancelTasksRequest>,
    ) -> Result<Response<v1::CancelTasksResponse>, Status> {
        only_echo()
    }

    async fn update_task(
        &self,
        _: Request<v1::UpdateTaskRequest>,
    ) -> Result<Response<v1::UpdateTaskResponse>, Status> {
        only_echo()
    }

    async fn update_tasks(
        &self,
        _: Request<v1::UpdateTasksRequest>,
    ) -> Result<Response<v1::UpdateTasksResponse>, Status> {
        only_echo()
    }

    async fn run_tasks(
        &self,
        _: Request<v1::RunTasksRequest>,
    ) -> Result<Response<v1::RunTasksResponse>, Status> {
        only_echo()
    }

    async fn redrive_tasks(
        &self,
        _: Request<v1::RedriveTasksRequest>,
    ) -> Result<Response<v1::RedriveTasksResponse>, Status> {
        only_echo()
    }

    async fn explain_task(
        &self,
        _: Request<v1::ExplainTaskRequest>,
    ) -> Result<Response<v1::ExplainTaskResponse>, Status> {
        only_echo()
    }

    async fn list_queues(
        &self,
        _: Request<v1::ListQueuesRequest>,
    ) -> Result<Response<v1::ListQueuesResponse>, Status> {
        only_echo()
    }

    async fn get_queue(
        &self,
        _: Request<v1::GetQueueRequest>,
    ) -> Result<Response<v1::GetQueueResponse>, Status> {
        only_echo()
    }
}
