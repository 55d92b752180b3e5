//! What became of the last slots of a schedule.

use z4_proto::convert::{pb_slot_record, queue_name, schedule_name};
use z4_proto::status::Failure;
use z4_proto::v1;
use z4_types::limits::SCHEDULE_HISTORY_MAX;

use crate::call::Call;

pub(super) async fn list(
    call: Call<'_>,
    request: v1::ListScheduleHistoryRequest,
) -> Result<v1::ListScheduleHistoryResponse, Failure> {
    let (queue, name) = (queue_name(&request.queue, "queue")?, schedule_name(request.name.clone())?);
    let shard = call.handle().shard_of(&queue);
    let local = |request: v1::ListScheduleHistoryRequest| async move {
        let limit = match request.limit {
            0 => SCHEDULE_HISTORY_MAX as usize,
            limit => limit as usize,
        };
        let rows = call.read(call.handle().schedule_history(queue, name, None, limit)).await?;
        let slots = rows.iter().map(pb_slot_record).collect();
        Ok(v1::ListScheduleHistoryResponse { slots, forwarded_to: String::new() })
    };
    call.serve(shard, request, local).await
}
