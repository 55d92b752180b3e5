//! What was set of a queue, what it comes to, and why.

use z4_proto::convert::queue_name;
use z4_proto::status::Failure;
use z4_proto::v1;

use super::config;
use crate::call::Call;

pub(super) async fn get(
    call: Call<'_>,
    request: v1::GetQueueSettingsRequest,
) -> Result<v1::GetQueueSettingsResponse, Failure> {
    let queue = queue_name(&request.queue, "queue")?;
    let shard = call.handle().shard_of(&queue);
    let local = |_| async move {
        let config = Some(config(call, queue).await?);
        Ok(v1::GetQueueSettingsResponse { config, forwarded_to: String::new() })
    };
    call.serve(shard, request, local).await
}
