//! Change tasks that wait: one by its id, or by queue and key; or all of a queue that pass a filter.

use z4_proto::convert::{change, etag, etag_text, queue_name, task_id, timestamp};
use z4_proto::reason;
use z4_proto::status::Failure;
use z4_proto::v1;
use z4_tasks::command::{Target, Which};
use z4_types::ShardId;

use super::selection::{Deed, all, selected};
use crate::call::Call;
use crate::status;

pub(super) async fn one(
    call: Call<'_>,
    request: v1::UpdateTaskRequest,
) -> Result<v1::UpdateTaskResponse, Failure> {
    let (shard, which) = named(call, &request)?;
    let target = Target { which, etag: etag(&request.etag)? };
    let update = change(request.update.clone(), request.update_mask.as_ref())?.of(target);
    // Its values were checked; a key was not.
    update.check().map_err(|why| Failure::invalid(why.field, reason::FIELD_INVALID, why.problem))?;
    let local = |_| async move {
        let answers = call.write(call.handle().update_tasks(vec![update])).await?;
        let answer = answers.into_iter().next().ok_or_else(|| status::defect("an update has no answer"))?;
        let updated = answer.map_err(|why| status::refusal(&why))?;
        Ok(v1::UpdateTaskResponse {
            etag: etag_text(updated.etag),
            deliver_at: Some(timestamp(updated.deliver_at)),
            forwarded_to: String::new(),
        })
    };
    call.serve(shard, request, local).await
}

/// Returns which task a request names, and its shard.
fn named(call: Call<'_>, request: &v1::UpdateTaskRequest) -> Result<(ShardId, Which), Failure> {
    let v1::UpdateTaskRequest { id, queue, key, .. } = request;
    if key.is_empty() && queue.is_empty() {
        let id = task_id(id, "id")?;
        let shard = call.handle().task_shard(id).map_err(|error| status::failure(&error))?;
        return Ok((shard, Which::Id(id)));
    }
    if !id.is_empty() || key.is_empty() {
        let what = "name the task by its id, or by queue and key, not by both";
        return Err(Failure::invalid("id", reason::FIELD_INVALID, what));
    }
    let queue = queue_name(queue, "queue")?;
    Ok((call.handle().shard_of(&queue), Which::Key { queue, key: key.clone() }))
}

pub(super) async fn many(
    call: Call<'_>,
    request: v1::UpdateTasksRequest,
) -> Result<v1::UpdateTasksResponse, Failure> {
    let selection = selected(request.selection.as_ref())?;
    let queue = queue_name(&selection.queue, "selection.queue")?;
    let change = change(request.update.clone(), request.update_mask.as_ref())?;
    let shard = call.handle().shard_of(&queue);
    let local = |_| async move {
        let matched = Some(all(call, queue, selection, Deed::Update(change)).await?);
        Ok(v1::UpdateTasksResponse { matched, forwarded_to: String::new() })
    };
    call.serve(shard, request, local).await
}
