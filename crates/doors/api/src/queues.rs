//! Service `z4.v1.Queues`: one verb, one file; this is the dispatch, and what several verbs share.
//!
//! # Not here
//! - What queues hold and their list: they are older than this service, and belong to `z4.v1.Tasks`.

mod create;
mod delete;
mod explain;
mod get;
mod groups;
mod pause;
mod policies;
mod purge;
mod stats;
mod update;

use tonic::{Request, Response, Status, async_trait};
use z4_proto::reason;
use z4_proto::status::Failure;
use z4_proto::v1;
use z4_proto::v1::queues_server::Queues;
use z4_tasks::command::SetQueue;
use z4_tasks::outcome::Refusal;
use z4_types::{Kind, QueueName};

use crate::call::{Call, unary};
use crate::door::Door;
use crate::{messages, status};

/// See the module essay.
pub(crate) struct QueuesService {
    door: Door,
}

impl QueuesService {
    pub(crate) fn new(door: Door) -> Self {
        Self { door }
    }
}

#[async_trait]
impl Queues for QueuesService {
    async fn create_queue(
        &self,
        request: Request<v1::CreateQueueRequest>,
    ) -> Result<Response<v1::CreateQueueResponse>, Status> {
        unary!(self, request, create::create)
    }

    async fn update_queue(
        &self,
        request: Request<v1::UpdateQueueRequest>,
    ) -> Result<Response<v1::UpdateQueueResponse>, Status> {
        unary!(self, request, update::update)
    }

    async fn delete_queue(
        &self,
        request: Request<v1::DeleteQueueRequest>,
    ) -> Result<Response<v1::DeleteQueueResponse>, Status> {
        unary!(self, request, delete::delete)
    }

    async fn get_queue_settings(
        &self,
        request: Request<v1::GetQueueSettingsRequest>,
    ) -> Result<Response<v1::GetQueueSettingsResponse>, Status> {
        unary!(self, request, get::get)
    }

    async fn pause_queue(
        &self,
        request: Request<v1::PauseQueueRequest>,
    ) -> Result<Response<v1::PauseQueueResponse>, Status> {
        unary!(self, request, pause::pause)
    }

    async fn resume_queue(
        &self,
        request: Request<v1::ResumeQueueRequest>,
    ) -> Result<Response<v1::ResumeQueueResponse>, Status> {
        unary!(self, request, pause::resume)
    }

    async fn purge_queue(
        &self,
        request: Request<v1::PurgeQueueRequest>,
    ) -> Result<Response<v1::PurgeQueueResponse>, Status> {
        unary!(self, request, purge::purge)
    }

    async fn get_queue_stats(
        &self,
        request: Request<v1::GetQueueStatsRequest>,
    ) -> Result<Response<v1::GetQueueStatsResponse>, Status> {
        unary!(self, request, stats::stats)
    }

    async fn set_policy(
        &self,
        request: Request<v1::SetPolicyRequest>,
    ) -> Result<Response<v1::SetPolicyResponse>, Status> {
        unary!(self, request, policies::set)
    }

    async fn delete_policy(
        &self,
        request: Request<v1::DeletePolicyRequest>,
    ) -> Result<Response<v1::DeletePolicyResponse>, Status> {
        unary!(self, request, policies::delete)
    }

    async fn list_policies(
        &self,
        request: Request<v1::ListPoliciesRequest>,
    ) -> Result<Response<v1::ListPoliciesResponse>, Status> {
        unary!(self, request, policies::list)
    }

    async fn explain_queue(
        &self,
        request: Request<v1::ExplainQueueRequest>,
    ) -> Result<Response<v1::ExplainQueueResponse>, Status> {
        unary!(self, request, explain::explain)
    }

    async fn set_group(
        &self,
        request: Request<v1::SetGroupRequest>,
    ) -> Result<Response<v1::SetGroupResponse>, Status> {
        unary!(self, request, groups::set)
    }

    async fn get_group(
        &self,
        request: Request<v1::GetGroupRequest>,
    ) -> Result<Response<v1::GetGroupResponse>, Status> {
        unary!(self, request, groups::get)
    }

    async fn list_groups(
        &self,
        request: Request<v1::ListGroupsRequest>,
    ) -> Result<Response<v1::ListGroupsResponse>, Status> {
        unary!(self, request, groups::list)
    }
}

/// Returns an answer of the host, a refusal as the failure it is to the caller.
fn accepted<T>(answer: Result<T, Refusal>) -> Result<T, Failure> {
    answer.map_err(|why| status::refusal(&why))
}

/// Makes or changes a queue on this host; returns its settings afterwards.
async fn set(call: Call<'_>, set: SetQueue) -> Result<v1::QueueConfig, Failure> {
    let queue = set.queue.clone();
    accepted(call.write(call.handle().set_queue(set)).await?)?;
    // It is done: whatever the read says, "nothing was done" would not be true.
    config(call, queue).await.map_err(|failure| {
        let what = format!("the queue is set, but what it is now could not be read: {}", failure.message);
        Failure::new(Kind::OutcomeUnknown, reason::OUTCOME_UNKNOWN, what)
    })
}

/// Returns the settings of a queue whose shard is led here.
async fn config(call: Call<'_>, queue: QueueName) -> Result<v1::QueueConfig, Failure> {
    let (_, setup) = call.read(call.handle().queue_setup(queue.clone())).await?;
    Ok(messages::queue_config(queue.as_str(), &setup))
}
