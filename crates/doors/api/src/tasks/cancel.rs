//! Cancel tasks: by id or by queue and key, each on its own and perhaps only as it was seen; or all of a queue that pass a filter.

use z4_proto::convert::{etag_text, queue_name, targets};
use z4_proto::reason;
use z4_proto::status::Failure;
use z4_proto::v1;
use z4_tasks::command::Target;
use z4_types::TaskId;
use z4_types::limits::{BATCH_TASKS_MAX, KEY_BYTES_MAX};

use super::selection::{Deed, all, either};
use super::split::{Item, Split, check_count, each, failures};
use crate::call::Call;
use crate::messages::id_text;

/// One task to cancel, and the etag it must have.
pub(super) struct Cancel(TaskId, Option<u64>);

pub(super) async fn cancel(
    call: Call<'_>,
    request: v1::CancelTasksRequest,
) -> Result<v1::CancelTasksResponse, Failure> {
    if !request.keys.is_empty() {
        return by_key(call, request).await;
    }
    if let Some(selection) = either(&request.ids, request.selection.as_ref())? {
        if selection.filter.trim().is_empty() {
            let what = "names no task; say which, or purge the queue if all are meant";
            return Err(Failure::invalid("selection.filter", reason::FIELD_MISSING, what));
        }
        let queue = queue_name(&selection.queue, "selection.queue")?;
        let shard = call.handle().shard_of(&queue);
        let local = |_| async move {
            let matched = Some(all(call, queue, selection, Deed::Cancel).await?);
            Ok(v1::CancelTasksResponse { matched, ..Default::default() })
        };
        return call.serve(shard, request, local).await;
    }
    check_count("ids", request.ids.len(), BATCH_TASKS_MAX)?;
    let items =
        targets(&request.ids, &request.etags)?.map(|target| target.map(|(id, etag)| Cancel(id, etag)));
    let Split { errors, forwarded_to } = each(call, items).await?;
    Ok(v1::CancelTasksResponse { errors, matched: None, forwarded_to })
}

async fn by_key(call: Call<'_>, request: v1::CancelTasksRequest) -> Result<v1::CancelTasksResponse, Failure> {
    if !request.ids.is_empty() || request.selection.is_some() {
        let what = "name the tasks by their ids, by queue and keys, or by a selection, not by two of these";
        return Err(Failure::invalid("ids", reason::FIELD_INVALID, what));
    }
    if !request.etags.is_empty() {
        let what = "go with ids; name the tasks by these";
        return Err(Failure::invalid("etags", reason::FIELD_INVALID, what));
    }
    check_count("keys", request.keys.len(), BATCH_TASKS_MAX)?;
    let queue = queue_name(&request.queue, "queue")?;
    for (index, key) in request.keys.iter().enumerate() {
        if key.is_empty() || key.len() > KEY_BYTES_MAX {
            let what = format_args!("has {} bytes; a key has 1 to {KEY_BYTES_MAX}", key.len());
            return Err(Failure::invalid(&format!("keys[{index}]"), reason::FIELD_INVALID, what));
        }
    }
    let shard = call.handle().shard_of(&queue);
    let local = |request: v1::CancelTasksRequest| async move {
        let results = call.write(call.handle().cancel_by_key(queue, request.keys)).await?;
        Ok(Cancel::reply(failures(results)))
    };
    call.serve(shard, request, local).await
}

impl Item for Cancel {
    type Request = v1::CancelTasksRequest;

    fn task(&self) -> TaskId {
        self.0
    }

    fn request(items: Vec<Self>) -> Self::Request {
        let (ids, etags) = names(items.iter().map(|Self(id, etag)| (*id, *etag)));
        v1::CancelTasksRequest { ids, etags, ..Default::default() }
    }

    fn items(request: Self::Request) -> Result<Vec<Self>, Failure> {
        targets(&request.ids, &request.etags)?.map(|target| target.map(|(id, etag)| Self(id, etag))).collect()
    }

    async fn here(call: Call<'_>, items: Vec<Self>) -> Result<Vec<v1::ItemError>, Failure> {
        if items.iter().all(|Self(_, etag)| etag.is_none()) {
            let ids = items.into_iter().map(|Self(id, _)| id).collect();
            return Ok(failures(call.write(call.handle().cancel(ids)).await?));
        }
        let targets = items.into_iter().map(|Self(id, etag)| Target::id(id, etag)).collect();
        Ok(failures(call.write(call.handle().cancel_if(targets)).await?))
    }

    fn split(reply: v1::CancelTasksResponse) -> Split {
        Split { errors: reply.errors, forwarded_to: reply.forwarded_to }
    }

    fn reply(errors: Vec<v1::ItemError>) -> v1::CancelTasksResponse {
        v1::CancelTasksResponse { errors, ..Default::default() }
    }
}

/// Returns ids and etags as requests name them: no etags at all where none is named.
pub(super) fn names(targets: impl Iterator<Item = (TaskId, Option<u64>)>) -> (Vec<String>, Vec<String>) {
    let (ids, etags): (Vec<String>, Vec<String>) =
        targets.map(|(id, etag)| (id_text(id), etag.map(etag_text).unwrap_or_default())).unzip();
    let any = etags.iter().all(String::is_empty);
    (ids, if any { Vec::new() } else { etags })
}
