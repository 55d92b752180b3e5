//! Get one task, whatever its state.

use z4_proto::convert::task_id;
use z4_proto::status::Failure;
use z4_proto::v1;

use super::stale;
use crate::call::Call;
use crate::{messages, status};

pub(super) async fn get(call: Call<'_>, request: v1::GetTaskRequest) -> Result<v1::GetTaskResponse, Failure> {
    let id = task_id(&request.id, "id")?;
    let shard = call.handle().task_shard(id).map_err(|error| status::failure(&error))?;
    if request.stale {
        return call.serve_stale(shard, request, |_| stale::get(call, shard, id)).await;
    }
    let local = |_| async move {
        let (now, info) = call.read(call.handle().get(id)).await?;
        let has_result = info.result_bytes.is_some();
        let mut task = messages::task(info, now);
        if has_result {
            // None: the queue's retention has ended since.
            task.result = call.read(call.handle().result(id)).await?.unwrap_or_default();
        }
        Ok(v1::GetTaskResponse { task: Some(task), freshness: None, forwarded_to: String::new() })
    };
    call.serve(shard, request, local).await
}
