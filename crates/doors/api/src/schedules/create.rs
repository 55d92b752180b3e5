//! Make a schedule.

use z4_host::ScheduleChange;
use z4_proto::convert::{queue_name, schedule_name, schedule_patch};
use z4_proto::reason;
use z4_proto::status::Failure;
use z4_proto::v1;
use z4_tasks::command::SetMode;

use super::set;
use crate::call::Call;

pub(super) async fn create(
    call: Call<'_>,
    request: v1::CreateScheduleRequest,
) -> Result<v1::CreateScheduleResponse, Failure> {
    let (queue, name) = (queue_name(&request.queue, "queue")?, schedule_name(request.name.clone())?);
    let patch = schedule_patch(request.schedule.clone(), None, &queue)?;
    if patch.cron.is_none() {
        let what = "is empty; give when it fires, such as `0 9 * * MON-FRI` or `@every 90s`";
        return Err(Failure::invalid("schedule.cron", reason::FIELD_MISSING, what));
    }
    let shard = call.handle().shard_of(&queue);
    let change = ScheduleChange { queue, name, mode: SetMode::Create, etag: None, patch };
    let local = |_| async move {
        let schedule = Some(set(call, change).await?);
        Ok(v1::CreateScheduleResponse { schedule, forwarded_to: String::new() })
    };
    call.serve(shard, request, local).await
}
