//! Make a schedule's task at once, outside of its slots.

use z4_proto::convert::{queue_name, request_id, schedule_name};
use z4_proto::status::Failure;
use z4_proto::v1;
use z4_tasks::outcome::ScheduleRun;

use super::accepted;
use crate::call::Call;

pub(super) async fn run(
    call: Call<'_>,
    request: v1::RunScheduleRequest,
) -> Result<v1::RunScheduleResponse, Failure> {
    let (queue, name) = (queue_name(&request.queue, "queue")?, schedule_name(request.name.clone())?);
    let id = request_id(&request.request_id, &queue, "request_id")?;
    let shard = call.handle().shard_of(&queue);
    let local = |_| async move {
        let run = accepted(call.write(call.handle().run_schedule(queue, name, id)).await?)?;
        let (task_id, open_task_id) = match run {
            ScheduleRun::Created(id) => (id.to_string(), String::new()),
            ScheduleRun::Buffered { open } => (String::new(), open.to_string()),
        };
        Ok(v1::RunScheduleResponse { task_id, open_task_id, forwarded_to: String::new() })
    };
    call.serve(shard, request, local).await
}
