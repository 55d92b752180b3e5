//! What a task weighs in a frame, and which tasks no frame can carry.
//!
//! All pushes of a producer share one stream, and a server ends a stream that brings a message too large to be read.
//! So a task that is too large for any batch is refused here, alone, and never gets into a frame beside others.
//! Smaller ones over a limit of the server (a payload of 2 MiB, say) are sent: it knows its limits, and answers by item.

use z4_proto::convert::task_bytes;
use z4_proto::{reason, v1};
use z4_types::limits::BATCH_BYTES_MAX;

use crate::Error;

/// The framing of one label: without it many short ones would weigh half of what they are.
const LABEL_BYTES: usize = 8;

/// Returns what `task` weighs: at least what counts against the batch limit, and about its length as a message.
pub(super) fn weight(task: &v1::NewTask) -> usize {
    task_bytes(task) + task.request_id.len() + task.metadata.len() * LABEL_BYTES
}

/// Returns why no frame can carry `task`, if none can.
pub(super) fn refusal(task: &v1::NewTask) -> Option<Error> {
    let bytes = weight(task);
    if bytes <= BATCH_BYTES_MAX {
        return None;
    }
    let rest = bytes - task.payload.len() - task.request_id.len();
    let (field, reason) = if task.payload.len() >= rest.max(task.request_id.len()) {
        ("payload", reason::PAYLOAD_TOO_LARGE)
    } else if rest >= task.request_id.len() {
        ("metadata", reason::METADATA_TOO_LARGE)
    } else {
        ("request_id", reason::REQUEST_ID_INVALID)
    };
    let what = format_args!("the task has {bytes} bytes, more than the {BATCH_BYTES_MAX} of a whole batch");
    let what = format!("{what}: store it elsewhere and send a reference");
    Some(z4_proto::status::Failure::invalid(field, reason, what).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NewTask;
    use z4_types::Kind;

    #[test]
    fn what_no_frame_can_carry_is_refused_by_its_largest_field() {
        let check = |task: NewTask, field: Option<&str>| {
            let refused = refusal(&task.0);
            assert_eq!(refused.as_ref().and_then(Error::field), field, "{refused:?}");
            assert!(refused.is_none_or(|error| error.kind() == Kind::Invalid));
        };
        let empty = weight(&NewTask::new("").0);
        check(NewTask::new(vec![0; BATCH_BYTES_MAX - empty]), None);
        check(NewTask::new(vec![0; BATCH_BYTES_MAX - empty + 1]), Some("payload"));
        check(NewTask::new("x").request_id("r".repeat(BATCH_BYTES_MAX)), Some("request_id"));
        check(NewTask::new("x").metadata("k", "v".repeat(BATCH_BYTES_MAX)), Some("metadata"));
        // Few bytes of text, many of framing.
        let many = (0..1_000_000).fold(NewTask::new("x"), |task, n| task.metadata(format!("{n:x}"), ""));
        check(many, Some("metadata"));
    }
}
