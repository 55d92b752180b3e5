//! Which requests can be passed on, and how: one line each.

use std::future::Future;

use tonic::{Request, Response, Status};
use z4_proto::MESSAGE_BYTES_MAX;
use z4_proto::v1;
use z4_proto::v1::admin_client::AdminClient;
use z4_proto::v1::events_client::EventsClient;
use z4_proto::v1::queues_client::QueuesClient;
use z4_proto::v1::schedules_client::SchedulesClient;
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
    TasksClient::update_task(UpdateTaskRequest) -> UpdateTaskResponse, reads: false;
    TasksClient::update_tasks(UpdateTasksRequest) -> UpdateTasksResponse, reads: false;
    TasksClient::run_tasks(RunTasksRequest) -> RunTasksResponse, reads: false;
    TasksClient::redrive_tasks(RedriveTasksRequest) -> RedriveTasksResponse, reads: false;
    TasksClient::explain_task(ExplainTaskRequest) -> ExplainTaskResponse, reads: true;
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
    QueuesClient::explain_queue(ExplainQueueRequest) -> ExplainQueueResponse, reads: true;
    QueuesClient::set_group(SetGroupRequest) -> SetGroupResponse, reads: false;
    QueuesClient::get_group(GetGroupRequest) -> GetGroupResponse, reads: true;
    QueuesClient::list_groups(ListGroupsRequest) -> ListGroupsResponse, reads: true;
    EventsClient::list_events(ListEventsRequest) -> ListEventsResponse, reads: true;
    SchedulesClient::create_schedule(CreateScheduleRequest) -> CreateScheduleResponse, reads: false;
    SchedulesClient::update_schedule(UpdateScheduleRequest) -> UpdateScheduleResponse, reads: false;
    SchedulesClient::get_schedule(GetScheduleRequest) -> GetScheduleResponse, reads: true;
    SchedulesClient::list_schedules(ListSchedulesRequest) -> ListSchedulesResponse, reads: true;
    SchedulesClient::pause_schedule(PauseScheduleRequest) -> PauseScheduleResponse, reads: false;
    SchedulesClient::resume_schedule(ResumeScheduleRequest) -> ResumeScheduleResponse, reads: false;
    SchedulesClient::run_schedule(RunScheduleRequest) -> RunScheduleResponse, reads: false;
    SchedulesClient::delete_schedule(DeleteScheduleRequest) -> DeleteScheduleResponse, reads: false;
    SchedulesClient::list_slots(ListSlotsRequest) -> ListSlotsResponse, reads: true;
    SchedulesClient::list_schedule_history(ListScheduleHistoryRequest) -> ListScheduleHistoryResponse, reads: true;
    AdminClient::transfer_leader(TransferLeaderRequest) -> TransferLeaderResponse, reads: false;
}
