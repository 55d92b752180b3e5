//! Stop a schedule, and let it fire again.

use z4_host::SchedulePause;
use z4_proto::convert::{etag, etag_text, queue_name, schedule_name};
use z4_proto::status::Failure;
use z4_proto::v1;

use super::accepted;
use crate::call::Call;

pub(super) async fn pause(
    call: Call<'_>,
    request: v1::PauseScheduleRequest,
) -> Result<v1::PauseScheduleResponse, Failure> {
    let (queue, name) = (queue_name(&request.queue, "queue")?, schedule_name(request.name.clone())?);
    let (shard, etag) = (call.handle().shard_of(&queue), etag(&request.etag)?);
    let local = |request: v1::PauseScheduleRequest| async move {
        let v1::PauseScheduleRequest { note, author, .. } = request;
        let pause = SchedulePause { queue, name, etag, paused: true, note, author };
        let etag = accepted(call.write(call.handle().pause_schedule(pause)).await?)?;
        Ok(v1::PauseScheduleResponse { etag: etag_text(etag), forwarded_to: String::new() })
    };
    call.serve(shard, request, local).await
}

pub(super) async fn resume(
    call: Call<'_>,
    request: v1::ResumeScheduleRequest,
) -> Result<v1::ResumeScheduleResponse, Failure> {
    let (queue, name) = (queue_name(&request.queue, "queue")?, schedule_name(request.name.clone())?);
    let (shard, etag) = (call.handle().shard_of(&queue), etag(&request.etag)?);
    let local = |_| async move {
        let (note, author) = (String::new(), String::new());
        let resume = SchedulePause { queue, name, etag, paused: false, note, author };
        let etag = accepted(call.write(call.handle().pause_schedule(resume)).await?)?;
        Ok(v1::ResumeScheduleResponse { etag: etag_text(etag), forwarded_to: String::new() })
    };
    call.serve(shard, request, local).await
}
