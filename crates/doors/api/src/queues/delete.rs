//! Remove a queue that holds no task.

use z4_proto::convert::{etag, queue_name};
use z4_proto::status::Failure;
use z4_proto::v1;

use super::accepted;
use crate::call::Call;

pub(super) async fn delete(
    call: Call<'_>,
    request: v1::DeleteQueueRequest,
) -> Result<v1::DeleteQueueResponse, Failure> {
    let (queue, etag) = (queue_name(&request.queue, "queue")?, etag(&request.etag)?);
    let shard = call.handle().shard_of(&queue);
    let local = |_| async move {
        accepted(call.write(call.handle().delete_queue(queue, etag)).await?)?;
        Ok(v1::DeleteQueueResponse::default())
    };
    call.serve(shard, request, local).await
}
