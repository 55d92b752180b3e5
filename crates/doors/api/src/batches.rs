//! What long calls share that work batch by batch: a purge, a change of all tasks that pass a filter.
//!
//! After a batch such a call rests as long as that took, so that at most half of a shard's time is its. When the call's time
//! is up its answer says so, with a token to go on.

use std::time::Duration;

use tokio::time::Instant;
use z4_proto::reason;
use z4_proto::status::Failure;
use z4_types::Kind;

use crate::call::Call;

/// Tasks of one batch: a few milliseconds of work for the shard.
pub(crate) const BATCH: u32 = 500;
/// No batch begins with less time left than this: its answer would come too late to be counted.
const TIME_MIN: Duration = Duration::from_secs(1);
/// And none with less than so many times what the last one took.
const TIME_FACTOR: u32 = 4;

/// Returns whether another call may succeed where this one did not.
pub(crate) fn may_go_on(failure: &Failure) -> bool {
    matches!(failure.kind, Kind::Unavailable | Kind::Overloaded | Kind::OutcomeUnknown)
        || failure.reason == reason::QUEUE_NOT_FOUND
}

/// Returns whether there is time for a batch like the one that began then.
pub(crate) fn is_time_for_another(call: Call<'_>, began: Instant) -> bool {
    call.deadline.left() >= TIME_MIN.max(began.elapsed() * TIME_FACTOR) && !call.door.is_stopping()
}
