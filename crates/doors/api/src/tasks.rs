//! Service `z4.v1.Tasks`: one verb, one file; this is the dispatch.

mod cancel;
mod create;
mod explain;
mod get;
mod lease;
mod list;
mod pull;
mod push;
mod queues;
mod redrive;
mod run;
mod selection;
mod settle;
mod split;
mod stale;
mod update;

pub(crate) use list::{bad_token, hex, page_size, unhex};

use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming, async_trait};
use z4_proto::v1;
use z4_proto::v1::tasks_server::Tasks;

use crate::call::{Call, is_forwarded, unary};
use crate::deadline::Deadline;
use crate::door::Door;
use crate::forward::Splice;
use crate::requests::Requests;

/// See the module essay.
pub(crate) struct TasksService {
    door: Door,
}

impl TasksService {
    pub(crate) fn new(door: Door) -> Self {
        Self { door }
    }
}

#[async_trait]
impl Tasks for TasksService {
    type PushStream = ReceiverStream<Result<v1::PushReply, Status>>;
    type PullStream = pull::Replies;

    async fn create_task(
        &self,
        request: Request<v1::CreateTaskRequest>,
    ) -> Result<Response<v1::CreateTaskResponse>, Status> {
        unary!(self, request, create::one)
    }

    async fn batch_create_tasks(
        &self,
        request: Request<v1::BatchCreateTasksRequest>,
    ) -> Result<Response<v1::BatchCreateTasksResponse>, Status> {
        unary!(self, request, create::batch)
    }

    async fn push(
        &self,
        request: Request<Streaming<v1::PushRequest>>,
    ) -> Result<Response<Self::PushStream>, Status> {
        Ok(Response::new(push::push(&self.door, Requests::of(&request)?)))
    }

    async fn pull(
        &self,
        request: Request<Streaming<v1::PullRequest>>,
    ) -> Result<Response<Self::PullStream>, Status> {
        let splice = request.extensions().get::<Splice>().cloned();
        let forwarded = is_forwarded(request.metadata());
        Ok(Response::new(pull::pull(&self.door, Requests::of(&request)?, splice, forwarded)))
    }

    async fn lease_tasks(
        &self,
        request: Request<v1::LeaseTasksRequest>,
    ) -> Result<Response<v1::LeaseTasksResponse>, Status> {
        let deadline = Deadline::allowing(request.metadata(), lease::WAIT_MAX);
        let call = Call { deadline, ..Call::new(&self.door, request.metadata()) };
        lease::lease(call, request.into_inner()).await.map(Response::new).map_err(Status::from)
    }

    async fn settle(
        &self,
        request: Request<v1::SettleRequest>,
    ) -> Result<Response<v1::SettleResponse>, Status> {
        unary!(self, request, settle::settle)
    }

    async fn get_task(
        &self,
        request: Request<v1::GetTaskRequest>,
    ) -> Result<Response<v1::GetTaskResponse>, Status> {
        unary!(self, request, get::get)
    }

    async fn list_tasks(
        &self,
        request: Request<v1::ListTasksRequest>,
    ) -> Result<Response<v1::ListTasksResponse>, Status> {
        unary!(self, request, list::list)
    }

    async fn cancel_tasks(
        &self,
        request: Request<v1::CancelTasksRequest>,
    ) -> Result<Response<v1::CancelTasksResponse>, Status> {
        unary!(self, request, cancel::cancel)
    }

    async fn update_task(
        &self,
        request: Request<v1::UpdateTaskRequest>,
    ) -> Result<Response<v1::UpdateTaskResponse>, Status> {
        unary!(self, request, update::one)
    }

    async fn update_tasks(
        &self,
        request: Request<v1::UpdateTasksRequest>,
    ) -> Result<Response<v1::UpdateTasksResponse>, Status> {
        unary!(self, request, update::many)
    }

    async fn run_tasks(
        &self,
        request: Request<v1::RunTasksRequest>,
    ) -> Result<Response<v1::RunTasksResponse>, Status> {
        unary!(self, request, run::run)
    }

    async fn redrive_tasks(
        &self,
        request: Request<v1::RedriveTasksRequest>,
    ) -> Result<Response<v1::RedriveTasksResponse>, Status> {
        unary!(self, request, redrive::redrive)
    }

    async fn explain_task(
        &self,
        request: Request<v1::ExplainTaskRequest>,
    ) -> Result<Response<v1::ExplainTaskResponse>, Status> {
        unary!(self, request, explain::explain)
    }

    async fn list_queues(
        &self,
        request: Request<v1::ListQueuesRequest>,
    ) -> Result<Response<v1::ListQueuesResponse>, Status> {
        unary!(self, request, queues::list)
    }

    async fn get_queue(
        &self,
        request: Request<v1::GetQueueRequest>,
    ) -> Result<Response<v1::GetQueueResponse>, Status> {
        unary!(self, request, queues::get)
    }
}
