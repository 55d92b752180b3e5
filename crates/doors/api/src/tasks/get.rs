//! Get one task, whatever its state.

use z4_proto::convert::task_id;
use z4_proto::status::Failure;
use z4_proto::v1;

use crate::deadline::Deadline;
use crate::door::Door;
use crate::messages;

pub(super) async fn get(
    door: &Door,
    request: v1::GetTaskRequest,
    deadline: Deadline,
) -> Result<v1::GetTaskResponse, Failure> {
    let id = task_id(&request.id, "id")?;
    let (now, info) = deadline.read(door.handle().get(id)).await?;
    Ok(v1::GetTaskResponse { task: Some(messages::task(info, now)), forwarded_to: String::new() })
}
