//! Change a schedule: the fields that a mask names, if the etag is still the one that was seen.

use z4_host::ScheduleChange;
use z4_proto::convert::{etag, queue_name, schedule_name, schedule_patch};
use z4_proto::status::Failure;
use z4_proto::v1;
use z4_tasks::command::SetMode;

use super::set;
use crate::call::Call;

pub(super) async fn update(
    call: Call<'_>,
    request: v1::UpdateScheduleRequest,
) -> Result<v1::UpdateScheduleResponse, Failure> {
    let (queue, name) = (queue_name(&request.queue, "queue")?, schedule_name(request.name.clone())?);
    let mode = if request.allow_missing { SetMode::Upsert } else { SetMode::Update };
    let patch = schedule_patch(request.schedule.clone(), request.update_mask.as_ref(), &queue)?;
    let shard = call.handle().shard_of(&queue);
    let change = ScheduleChange { queue, name, mode, etag: etag(&request.etag)?, patch };
    let local = |_| async move {
        let schedule = Some(set(call, change).await?);
        Ok(v1::UpdateScheduleResponse { schedule, forwarded_to: String::new() })
    };
    call.serve(shard, request, local).await
}
