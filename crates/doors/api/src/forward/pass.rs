//! Which requests can be passed on, and how: one line each.

use std::future::Future;

use tonic::{Request, Response, Status};
use z4_proto::MESSAGE_BYTES_MAX;
use z4_proto::v1;
use z4_proto::v1::admin_client::AdminClient;
use z4_proto::v1::queues_client::QueuesClient;
use z4_proto::v1::tasks_client::TasksClient;

use super::Answers;

/// A unary request that another host's door can answer.
pub(crate) trait Pass: Clone + Send + Sync + 'static {
    /// The answer.
    type Reply: Send + 'static;
    /// It changes nothing, so it may be repeated whatever became of it.
    const READS: bool;

    /// Sends it.
    fn send(
        answers: Answers,
        request: Request<Self>,
    ) -> impl Future<Output = Result<Response<Self::Reply>, Status>> + Send;

    /// Names who has answered, by its service address.
    fn name(reply: &mut Self::Reply, service: &str);
}

macro_rules! pass {
    ($($client:ident::$verb:ident($request:ident) -> $reply:ident, reads: $reads:literal;)*) => {$(
        impl Pass for v1::$request {
            type Reply = v1::$reply;
            const READS: bool = $reads;

            async fn send(answers: Answers, request: Request<Self>) -> Result<Response<v1::$reply>, Status> {
                $client::new(answers).max_decoding_message_size(MESSAGE_BYTES_MAX).$verb(request).await
            }

            fn name(reply: &mut v1::$reply, service: &str) {
                service.clone_into(&mut reply.forwarded_to);
            }
        }
    )*};
}

pass! {
    TasksClient::create_task(CreateTaskRequest) -> CreateTaskResponse, reads: false;
    TasksClient::batch_create_tasks(BatchCreateTasksRequest) -> BatchCreateTasksResponse, reads: false;
    TasksClient::lease_tasks(LeaseTasksRequest) -> LeaseTasksResponse, reads: false;
    TasksClient::settle(SettleRequest) -> SettleResponse, reads: false;
    TasksClient::cancel_tasks(CancelTasksRequest) -> CancelTasksResponse, reads: false;
    TasksClient::get_task(GetTaskRequest) -> GetTaskResponse, reads: true;
    TasksClient::list_tasks(ListTasksRequest) -> ListTasksResponse, reads: true;
    TasksClient::list_queues(ListQueuesRequest) -> ListQueuesResponse, reads: true;
    TasksClient::get_queue(GetQueueRequest) -> GetQueueResponse, reads: true;
    QueuesClient::create_queue(CreateQueueRequest) -> CreateQueueResponse, reads: false;
    QueuesClient::update_queue(UpdateQueueRequest) -> UpdateQueueResponse, reads: false;
    QueuesClient::delete_queue(DeleteQueueRequest) -> DeleteQueueResponse, reads: false;
    QueuesClient::get_queue_settings(GetQueueSettingsRequest) -> GetQueueSettingsResponse, reads: true;
    QueuesClient::pause_queue(PauseQueueRequest) -> PauseQueueResponse, reads: false;
    QueuesClient::resume_queue(ResumeQueueRequest) -> ResumeQueueResponse, reads: false;
    QueuesClient::purge_queue(PurgeQueueRequest) -> PurgeQueueResponse, reads: false;
    QueuesClient::get_queue_stats(GetQueueStatsRequest) -> GetQueueStatsResponse, reads: true;
    AdminClient::transfer_leader(TransferLeaderRequest) -> TransferLeaderResponse, reads: false;
}
