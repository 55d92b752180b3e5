//! Cancel tasks by id, each on its own.

use z4_proto::convert::task_id;
use z4_proto::status::Failure;
use z4_proto::v1;
use z4_types::TaskId;
use z4_types::limits::BATCH_TASKS_MAX;

use super::split::{Item, Split, check_count, each, failures};
use crate::call::Call;
use crate::messages::id_text;

pub(super) async fn cancel(
    call: Call<'_>,
    request: v1::CancelTasksRequest,
) -> Result<v1::CancelTasksResponse, Failure> {
    check_count("ids", request.ids.len(), BATCH_TASKS_MAX)?;
    let Split { errors, forwarded_to } = each(call, request.ids.iter().map(|id| task_id(id, "id"))).await?;
    Ok(v1::CancelTasksResponse { errors, forwarded_to })
}

impl Item for TaskId {
    type Request = v1::CancelTasksRequest;

    fn task(&self) -> TaskId {
        *self
    }

    fn request(items: Vec<Self>) -> Self::Request {
        v1::CancelTasksRequest { ids: items.into_iter().map(id_text).collect() }
    }

    fn items(request: Self::Request) -> impl ExactSizeIterator<Item = Result<Self, Failure>> {
        request.ids.into_iter().map(|id| task_id(&id, "id"))
    }

    async fn here(call: Call<'_>, items: Vec<Self>) -> Result<Vec<v1::ItemError>, Failure> {
        Ok(failures(call.write(call.handle().cancel(items)).await?))
    }

    fn split(reply: v1::CancelTasksResponse) -> Split {
        Split { errors: reply.errors, forwarded_to: reply.forwarded_to }
    }

    fn reply(errors: Vec<v1::ItemError>) -> v1::CancelTasksResponse {
        v1::CancelTasksResponse { errors, forwarded_to: String::new() }
    }
}
