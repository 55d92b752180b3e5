//! One schedule, with its slots to come.

use z4_proto::convert::{queue_name, schedule_name};
use z4_proto::status::Failure;
use z4_proto::v1;

use super::read;
use crate::call::Call;

pub(super) async fn get(
    call: Call<'_>,
    request: v1::GetScheduleRequest,
) -> Result<v1::GetScheduleResponse, Failure> {
    let (queue, name) = (queue_name(&request.queue, "queue")?, schedule_name(request.name.clone())?);
    let shard = call.handle().shard_of(&queue);
    let local = |_| async move {
        let schedule = Some(read(call, queue, name).await?);
        Ok(v1::GetScheduleResponse { schedule, forwarded_to: String::new() })
    };
    call.serve(shard, request, local).await
}
