//! What holds a queue back now.

use z4_proto::convert::queue_name;
use z4_proto::status::Failure;
use z4_proto::v1;

use crate::call::Call;
use crate::explain;

pub(super) async fn explain(
    call: Call<'_>,
    request: v1::ExplainQueueRequest,
) -> Result<v1::ExplainQueueResponse, Failure> {
    let queue = queue_name(&request.queue, "queue")?;
    let shard = call.handle().shard_of(&queue);
    let local = |_| async move {
        let (_, held) = call.read(call.handle().explain_queue(queue.clone())).await?;
        Ok(explain::queue(queue.as_str(), held))
    };
    call.serve(shard, request, local).await
}
