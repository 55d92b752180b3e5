//! Make a queue before its first task.

use z4_proto::convert::{patch, queue_name, set_queue};
use z4_proto::status::Failure;
use z4_proto::v1;
use z4_tasks::command::SetMode;

use super::set;
use crate::call::Call;

pub(super) async fn create(
    call: Call<'_>,
    request: v1::CreateQueueRequest,
) -> Result<v1::CreateQueueResponse, Failure> {
    let queue = queue_name(&request.queue, "queue")?;
    let command = set_queue(queue.clone(), SetMode::Create, None, patch(request.settings.clone(), None)?)?;
    let local = |_| async move {
        let config = Some(set(call, command).await?);
        Ok(v1::CreateQueueResponse { config, forwarded_to: String::new() })
    };
    call.serve(call.handle().shard_of(&queue), request, local).await
}
