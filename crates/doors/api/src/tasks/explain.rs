//! Why a task is not running.

use z4_proto::convert::task_id;
use z4_proto::status::Failure;
use z4_proto::v1;

use crate::call::Call;
use crate::{explain, status};

pub(super) async fn explain(
    call: Call<'_>,
    request: v1::ExplainTaskRequest,
) -> Result<v1::ExplainTaskResponse, Failure> {
    let id = task_id(&request.id, "id")?;
    let shard = call.handle().task_shard(id).map_err(|error| status::failure(&error))?;
    let local = |_| async move {
        let (now, explained) = call.read(call.handle().explain(id)).await?;
        let explanation = Some(explain::task(explained, now));
        Ok(v1::ExplainTaskResponse { explanation, forwarded_to: String::new() })
    };
    call.serve(shard, request, local).await
}
