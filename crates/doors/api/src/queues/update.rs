//! Change the settings of a queue: the fields that a mask names, if the etag is still the one that was seen.

use z4_proto::convert::{etag, patch, queue_name, set_queue};
use z4_proto::status::Failure;
use z4_proto::v1;
use z4_tasks::command::SetMode;

use super::set;
use crate::call::Call;

pub(super) async fn update(
    call: Call<'_>,
    request: v1::UpdateQueueRequest,
) -> Result<v1::UpdateQueueResponse, Failure> {
    let queue = queue_name(&request.queue, "queue")?;
    let mode = if request.allow_missing { SetMode::Upsert } else { SetMode::Update };
    let patch = patch(request.settings.clone(), request.update_mask.as_ref())?;
    let command = set_queue(queue.clone(), mode, etag(&request.etag)?, patch)?;
    let local = |_| async move {
        let config = Some(set(call, command).await?);
        Ok(v1::UpdateQueueResponse { config, forwarded_to: String::new() })
    };
    call.serve(call.handle().shard_of(&queue), request, local).await
}
