//! Reasons: the stable names of failures, for programs. They travel in `ErrorInfo.reason`; a name is never reused.

/// Domain of every `ErrorInfo` of z4.
pub const DOMAIN: &str = "z4.dev";

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident)*) => {
        $($(#[$doc])* pub const $name: &str = stringify!($name);)*
    };
}

reasons! {
    /// A field has a value it must not have; the message and `BadRequest` name it.
    FIELD_INVALID
    /// A required field is missing.
    FIELD_MISSING
    /// The queue name is empty, too long, or holds a control character.
    QUEUE_NAME_INVALID
    /// The filter cannot be read; the message shows the place.
    FILTER_INVALID
    /// The consumer name is too long or holds a control character.
    CONSUMER_NAME_INVALID
    /// The task id is not 26 characters of its alphabet.
    TASK_ID_INVALID
    /// The request id is too long, or two different ones were given.
    REQUEST_ID_INVALID
    /// The request id was used before, for a batch of another size.
    REQUEST_ID_REUSED
    /// The payload is over the limit.
    PAYLOAD_TOO_LARGE
    /// The result of an ack is over the limit.
    RESULT_TOO_LARGE
    /// The metadata has too many pairs or bytes, or an empty key.
    METADATA_TOO_LARGE
    /// The batch holds nothing.
    BATCH_EMPTY
    /// The batch has too many items or bytes.
    BATCH_TOO_LARGE
    /// A point in time is outside the years 0001 to 9999.
    TIME_OUT_OF_RANGE
    /// A span of time is negative, too long, or not a valid protobuf Duration.
    DURATION_OUT_OF_RANGE
    /// The lease duration is outside its bounds.
    LEASE_DURATION_OUT_OF_RANGE
    /// The resume token is damaged, or of another queue.
    RESUME_TOKEN_INVALID
    /// Events behind the resume token are not kept any more.
    EVENTS_COMPACTED
    /// The queue keeps no events.
    EVENTS_OFF
    /// The page token was not made by this server for this query.
    PAGE_TOKEN_INVALID
    /// The stream was used against its protocol, such as credit before `open`.
    STREAM_PROTOCOL
    /// More credit than a consumer may hold.
    CREDIT_TOO_LARGE
    /// No such task: never created, or acked, cancelled or expired since.
    TASK_NOT_FOUND
    /// No such queue: no task was ever created in it, or it was deleted.
    QUEUE_NOT_FOUND
    /// A queue of this name exists already.
    QUEUE_EXISTS
    /// A task of the queue has the key, or had it and keeps it for a while.
    KEY_TAKEN
    /// A task was to come after one that is not there: it was never created, or has ended and is not kept.
    AFTER_UNKNOWN
    /// A task was to come after one that has failed, and to be cancelled in that case.
    AFTER_FAILED
    /// The task waits for others to end.
    TASK_BLOCKED
    /// It was changed since the caller read it: read it again and redo the change.
    ETAG_MISMATCH
    /// The etag was not made by this server.
    ETAG_INVALID
    /// The queue still holds tasks.
    QUEUE_NOT_EMPTY
    /// The queue has as many tasks to do as its settings allow.
    QUEUE_FULL
    /// Nothing is set for this pattern of queue names.
    POLICY_NOT_FOUND
    /// There are as many policies as there may be, in number or in bytes.
    TOO_MANY_POLICIES
    /// The queue has no schedule of this name.
    SCHEDULE_NOT_FOUND
    /// The queue has a schedule of this name already.
    SCHEDULE_EXISTS
    /// The schedule's name is empty, too long, or holds a control character.
    SCHEDULE_NAME_INVALID
    /// The schedule fired while it was being changed: try again.
    SCHEDULE_MOVED
    /// The schedule's last task is still open, and its policy is to skip then.
    SCHEDULE_OVERLAPS
    /// The shard has as many schedules as it may have.
    TOO_MANY_SCHEDULES
    /// The queue still has schedules.
    QUEUE_HAS_SCHEDULES
    /// The cron expression cannot be read, or never fires; the message names the column.
    CRON_INVALID
    /// No time zone has this name; the message names the nearest.
    ZONE_UNKNOWN
    /// The task was changed since the caller read it.
    TASK_CHANGED
    /// A consumer holds the task.
    TASK_LEASED
    /// The task is dead, or is not, and that is in the way.
    TASK_STATE
    /// The task's id names a shard this cluster does not have.
    SHARD_NOT_FOUND
    /// The lease is over: it expired, was settled, or the task was delivered again.
    LEASE_LOST
    /// This host does not lead the shard; the metadata names who does, if known.
    NOT_LEADER
    /// The shard has no leader now.
    NO_LEADER
    /// No host that holds the shard's data could be asked, or none is as far as an earlier page was.
    NO_REPLICA
    /// The host is starting and does not serve yet.
    STARTING
    /// The host is stopping; go to another.
    DRAINING
    /// No host could be reached.
    UNREACHABLE
    /// The host waits to be added to a cluster.
    NOT_JOINED
    /// Another host was asked on behalf of the call and did not do it.
    PEER_FAILED
    /// No member of the cluster has this name.
    HOST_NOT_FOUND
    /// A member of the cluster has this name already.
    ALREADY_MEMBER
    /// Another member is reached at this address.
    ADDRESS_IN_USE
    /// The host is the last one that may hold the data.
    LAST_VOTER
    /// The host is known with another data directory.
    WRONG_INSTANCE
    /// The host, or its data directory, was removed from the cluster.
    HOST_REMOVED
    /// Replicas are still moving: wait until they have arrived.
    STILL_MOVING
    /// The host holds the only replica of a shard.
    ONLY_REPLICA
    /// The registry takes no more hosts.
    TOO_MANY_HOSTS
    /// A limit was met and nothing was accepted: back off.
    OVERLOADED
    /// The shard has as many queues as it may have; existing ones go on.
    TOO_MANY_QUEUES
    /// The shard has as many groups with open tasks as it may have, or the queue as many with limits of their own.
    TOO_MANY_GROUPS
    /// The disk is full; settling and cancelling still work.
    DISK_FULL
    /// It was proposed and the answer was lost: retry with the same request id.
    OUTCOME_UNKNOWN
    /// The call's deadline passed.
    DEADLINE_EXCEEDED
    /// This build does not offer what was asked for.
    UNSUPPORTED
    /// Stored bytes do not match their checksum.
    CORRUPT
    /// The caller did not say who it is.
    UNAUTHENTICATED
    /// The caller may not do that.
    PERMISSION_DENIED
    /// A defect in z4.
    INTERNAL
}
