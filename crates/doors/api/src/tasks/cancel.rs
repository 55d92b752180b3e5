//! Cancel tasks by id, each on its own.

use z4_proto::convert::task_id;
use z4_proto::status::Failure;
use z4_proto::v1;
use z4_types::limits::BATCH_TASKS_MAX;

use super::settle::{check_count, each};
use crate::deadline::Deadline;
use crate::door::Door;

pub(super) async fn cancel(
    door: &Door,
    request: v1::CancelTasksRequest,
    deadline: Deadline,
) -> Result<v1::CancelTasksResponse, Failure> {
    check_count("ids", request.ids.len(), BATCH_TASKS_MAX)?;
    let ids = request.ids.iter().map(|id| task_id(id, "id"));
    let errors = each(ids, |good| deadline.write(door.handle().cancel(good))).await?;
    Ok(v1::CancelTasksResponse { errors, forwarded_to: String::new() })
}
