//! Forget a schedule and its history.

use z4_proto::convert::{etag, queue_name, schedule_name};
use z4_proto::status::Failure;
use z4_proto::v1;

use super::accepted;
use crate::call::Call;

pub(super) async fn delete(
    call: Call<'_>,
    request: v1::DeleteScheduleRequest,
) -> Result<v1::DeleteScheduleResponse, Failure> {
    let (queue, name) = (queue_name(&request.queue, "queue")?, schedule_name(request.name.clone())?);
    let (shard, etag) = (call.handle().shard_of(&queue), etag(&request.etag)?);
    let local = |_| async move {
        accepted(call.write(call.handle().delete_schedule(queue, name, etag)).await?)?;
        Ok(v1::DeleteScheduleResponse::default())
    };
    call.serve(shard, request, local).await
}
