//! Stop deliveries of a queue, and deliver again.

use z4_proto::convert::queue_name;
use z4_proto::status::Failure;
use z4_proto::v1;
use z4_tasks::command::Pause;

use super::accepted;
use crate::call::Call;

pub(super) async fn pause(
    call: Call<'_>,
    request: v1::PauseQueueRequest,
) -> Result<v1::PauseQueueResponse, Failure> {
    let queue = queue_name(&request.queue, "queue")?;
    let shard = call.handle().shard_of(&queue);
    let local = |request: v1::PauseQueueRequest| async move {
        let v1::PauseQueueRequest { note, author, .. } = request;
        let pause = Pause { queue, paused: true, note, author };
        accepted(call.write(call.handle().pause_queue(pause)).await?)?;
        Ok(v1::PauseQueueResponse::default())
    };
    call.serve(shard, request, local).await
}

pub(super) async fn resume(
    call: Call<'_>,
    request: v1::ResumeQueueRequest,
) -> Result<v1::ResumeQueueResponse, Failure> {
    let queue = queue_name(&request.queue, "queue")?;
    let shard = call.handle().shard_of(&queue);
    let local = |_| async move {
        let resume = Pause { queue, paused: false, note: String::new(), author: String::new() };
        accepted(call.write(call.handle().pause_queue(resume)).await?)?;
        Ok(v1::ResumeQueueResponse::default())
    };
    call.serve(shard, request, local).await
}
