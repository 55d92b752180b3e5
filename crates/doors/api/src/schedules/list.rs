//! The schedules of a queue, by name, in pages.

use z4_proto::convert::queue_name;
use z4_proto::status::Failure;
use z4_proto::v1;

use super::shown;
use crate::call::Call;
use crate::tasks::{bad_token, hex, page_size, unhex};

pub(super) async fn list(
    call: Call<'_>,
    request: v1::ListSchedulesRequest,
) -> Result<v1::ListSchedulesResponse, Failure> {
    let queue = queue_name(&request.queue, "queue")?;
    let after = match request.page_token.as_str() {
        "" => None,
        token => {
            let name = unhex(token).and_then(|bytes| String::from_utf8(bytes).ok());
            Some(name.ok_or_else(bad_token)?)
        }
    };
    let shard = call.handle().shard_of(&queue);
    let local = |request: v1::ListSchedulesRequest| async move {
        let limit = page_size(request.page_size) as usize;
        let (now, page) = call.read(call.handle().schedules(queue, after, limit)).await?;
        // A short page may be one of large payloads: only an empty one is surely the last.
        let next_page_token = page.last().map(|info| hex(info.name.as_bytes())).unwrap_or_default();
        let schedules = page.iter().map(|info| shown(info, now)).collect();
        Ok(v1::ListSchedulesResponse { schedules, next_page_token, forwarded_to: String::new() })
    };
    call.serve(shard, request, local).await
}
