//! Slots to come: of a schedule, or of an expression that is yet to be one.

use z4_host::{next_slots, preview_slots};
use z4_proto::convert::{queue_name, schedule_name, timestamp};
use z4_proto::reason;
use z4_proto::status::Failure;
use z4_proto::v1;
use z4_types::Millis;

use super::SLOTS_SHOWN;
use crate::call::Call;

/// Most slots in one answer.
const SLOTS_MAX: usize = 100;

pub(super) async fn list(
    call: Call<'_>,
    request: v1::ListSlotsRequest,
) -> Result<v1::ListSlotsResponse, Failure> {
    let count = match request.count as usize {
        0 => SLOTS_SHOWN,
        count => count.min(SLOTS_MAX),
    };
    let answer = |slots: Vec<Millis>| {
        let slots = slots.into_iter().map(timestamp).collect();
        v1::ListSlotsResponse { slots, forwarded_to: String::new() }
    };
    if request.queue.is_empty() {
        if request.cron.is_empty() {
            let what = "is empty; give an expression, or the queue and name of a schedule";
            return Err(Failure::invalid("cron", reason::FIELD_MISSING, what));
        }
        let zone = if request.time_zone.is_empty() { "UTC" } else { &request.time_zone };
        let slots = preview_slots(&request.cron, zone, call.door.wall(), count);
        return slots.map(answer).map_err(|error| call.door.failure(&error));
    }
    let (queue, name) = (queue_name(&request.queue, "queue")?, schedule_name(request.name.clone())?);
    let shard = call.handle().shard_of(&queue);
    let local = |_| async move {
        let (now, info) = call.read(call.handle().schedule(queue, name)).await?;
        if info.paused.is_none() && info.next.is_none() {
            return Ok(answer(Vec::new()));
        }
        next_slots(&info, now, count).map(answer).map_err(|error| call.door.failure(&error))
    };
    call.serve(shard, request, local).await
}
