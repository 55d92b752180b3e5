//! Make waiting tasks due at once: by id, or all of a queue that pass a filter and are scheduled.

use z4_proto::convert::{queue_name, targets};
use z4_proto::status::Failure;
use z4_proto::v1;
use z4_tasks::command::Target;
use z4_types::TaskId;
use z4_types::limits::BATCH_TASKS_MAX;

use super::cancel::names;
use super::selection::{Deed, all, either};
use super::split::{Item, Split, check_count, each, failures};
use crate::call::Call;

/// One task to run, and the etag it must have.
pub(super) struct Run(TaskId, Option<u64>);

pub(super) async fn run(
    call: Call<'_>,
    request: v1::RunTasksRequest,
) -> Result<v1::RunTasksResponse, Failure> {
    if let Some(selection) = either(&request.ids, request.selection.as_ref())? {
        let queue = queue_name(&selection.queue, "selection.queue")?;
        let shard = call.handle().shard_of(&queue);
        let local = |_| async move {
            let matched = Some(all(call, queue, selection, Deed::Run).await?);
            Ok(v1::RunTasksResponse { matched, ..Default::default() })
        };
        return call.serve(shard, request, local).await;
    }
    check_count("ids", request.ids.len(), BATCH_TASKS_MAX)?;
    let items = targets(&request.ids, &request.etags)?.map(|target| target.map(|(id, etag)| Run(id, etag)));
    let Split { errors, forwarded_to } = each(call, items).await?;
    Ok(v1::RunTasksResponse { errors, matched: None, forwarded_to })
}

impl Item for Run {
    type Request = v1::RunTasksRequest;

    fn task(&self) -> TaskId {
        self.0
    }

    fn request(items: Vec<Self>) -> Self::Request {
        let (ids, etags) = names(items.iter().map(|Self(id, etag)| (*id, *etag)));
        v1::RunTasksRequest { ids, etags, selection: None }
    }

    fn items(request: Self::Request) -> Result<Vec<Self>, Failure> {
        let targets = targets(&request.ids, &request.etags)?;
        targets.map(|target| target.map(|(id, etag)| Self(id, etag))).collect()
    }

    async fn here(call: Call<'_>, items: Vec<Self>) -> Result<Vec<v1::ItemError>, Failure> {
        let targets = items.into_iter().map(|Self(id, etag)| Target::id(id, etag)).collect();
        Ok(failures(call.write(call.handle().run_now(targets)).await?))
    }

    fn split(reply: v1::RunTasksResponse) -> Split {
        Split { errors: reply.errors, forwarded_to: reply.forwarded_to }
    }

    fn reply(errors: Vec<v1::ItemError>) -> v1::RunTasksResponse {
        v1::RunTasksResponse { errors, ..Default::default() }
    }
}
