//! Get one task, whatever its state: by its id, or by queue and key.

use z4_proto::convert::{queue_name, task_id};
use z4_proto::reason;
use z4_proto::status::Failure;
use z4_proto::v1;
use z4_tasks::TaskInfo;
use z4_types::Millis;

use super::stale;
use crate::call::Call;
use crate::{messages, status};

pub(super) async fn get(call: Call<'_>, request: v1::GetTaskRequest) -> Result<v1::GetTaskResponse, Failure> {
    if request.id.is_empty() && !request.key.is_empty() {
        return by_key(call, request).await;
    }
    if !request.key.is_empty() || !request.queue.is_empty() {
        let what = "name the task by its id, or by queue and key, not by both";
        return Err(Failure::invalid("id", reason::FIELD_INVALID, what));
    }
    let id = task_id(&request.id, "id")?;
    let shard = call.handle().task_shard(id).map_err(|error| status::failure(&error))?;
    if request.stale {
        return call.serve_stale(shard, request, |_| stale::get(call, shard, id)).await;
    }
    let local = |_| async move {
        let (now, info) = call.read(call.handle().get(id)).await?;
        described(call, now, info).await
    };
    call.serve(shard, request, local).await
}

async fn by_key(call: Call<'_>, request: v1::GetTaskRequest) -> Result<v1::GetTaskResponse, Failure> {
    let queue = queue_name(&request.queue, "queue")?;
    if request.stale {
        let what = "a stale read names the task by its id; leave out stale, or give the id";
        return Err(Failure::invalid("stale", reason::FIELD_INVALID, what));
    }
    let shard = call.handle().shard_of(&queue);
    let local = |request: v1::GetTaskRequest| async move {
        let (now, info) = call.read(call.handle().get_by_key(queue, request.key)).await?;
        described(call, now, info).await
    };
    call.serve(shard, request, local).await
}

async fn described(call: Call<'_>, now: Millis, info: TaskInfo) -> Result<v1::GetTaskResponse, Failure> {
    let (id, has_result) = (info.id, info.result_bytes.is_some());
    let mut task = messages::task(info, now);
    if has_result {
        // None: the queue's retention has ended since.
        task.result = call.read(call.handle().result(id)).await?.unwrap_or_default();
    }
    Ok(v1::GetTaskResponse { task: Some(task), freshness: None, forwarded_to: String::new() })
}
