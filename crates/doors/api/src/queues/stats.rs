//! What a queue counts, at the same cost for any backlog.

use z4_proto::convert::queue_name;
use z4_proto::status::Failure;
use z4_proto::v1;

use crate::call::Call;
use crate::messages;

pub(super) async fn stats(
    call: Call<'_>,
    request: v1::GetQueueStatsRequest,
) -> Result<v1::GetQueueStatsResponse, Failure> {
    let queue = queue_name(&request.queue, "queue")?;
    let shard = call.handle().shard_of(&queue);
    let local = |_| async move {
        let (_, counts) = call.read(call.handle().queue_counts(queue)).await?;
        let stats = Some(messages::queue_stats(&counts));
        Ok(v1::GetQueueStatsResponse { stats, forwarded_to: String::new() })
    };
    call.serve(shard, request, local).await
}
