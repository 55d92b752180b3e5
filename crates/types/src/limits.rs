//! Every limit of z4, named, with what happens past it.

/// Largest payload of one task, bytes. Past it: `Invalid`.
pub const PAYLOAD_BYTES_MAX: usize = 1 << 20;
/// Most tasks in one batch. Past it: `Invalid`.
pub const BATCH_TASKS_MAX: usize = 8_192;
/// Most bytes in one batch, payloads and metadata together. Past it: `Invalid`.
pub const BATCH_BYTES_MAX: usize = 8 << 20;
/// Bytes after which no further command joins a log entry. One command may exceed it alone.
pub const ENTRY_BYTES_TARGET: usize = 1 << 20;
/// Bytes of requests a host holds between accept and answer. Past it: `Overloaded`.
pub const INBOX_BYTES_MAX: usize = 48 << 20;
/// Bytes of leased tasks a host holds until the consumer's socket takes them. Past it nothing is leased.
pub const OUTBOX_BYTES_MAX: usize = 48 << 20;
/// Bytes of leased tasks that one consumer may have on its way to its socket; a task that is larger goes alone. Less when the
/// outbox fills. Past it nothing more is leased for that consumer.
pub const CONSUMER_OUTBOX_BYTES_MAX: usize = 4 << 20;
/// Consumers a host serves at once. Past it: `Overloaded`.
pub const CONSUMERS_MAX: usize = 20_000;
/// Entries a group may have proposed and not yet applied. Past it the inbox fills.
pub const PROPOSALS_INFLIGHT_MAX: usize = 64;
/// Most tasks one consumer may hold as credit. Past it: `Invalid`.
pub const CONSUMER_CREDIT_TASKS_MAX: u32 = 10_000;
/// Most payload bytes one consumer may hold as credit. Past it: `Invalid`.
pub const CONSUMER_CREDIT_BYTES_MAX: u64 = 64 << 20;
/// Most tasks one Lease command picks; more credit is served by further commands.
pub const LEASE_TASKS_MAX: u32 = 1_000;
/// Most metadata pairs of a task. Past it: `Invalid`.
pub const METADATA_KEYS_MAX: usize = 64;
/// Most bytes of metadata keys and values of a task. Past it: `Invalid`.
pub const METADATA_BYTES_MAX: usize = 16 << 10;
/// Longest queue name, bytes of UTF-8. Past it: `Invalid`.
pub const QUEUE_NAME_BYTES_MAX: usize = 255;
/// Most queues of one shard; a create that would add one more is refused. Their records are kept in memory.
pub const QUEUES_PER_SHARD_MAX: usize = 100_000;
/// Longest group name, bytes of UTF-8. Past it: `Invalid`.
pub const GROUP_NAME_BYTES_MAX: usize = 255;
/// Most groups of one shard that have open tasks, or are shortly remembered; a create that would add one more is refused.
/// Some hundred bytes of memory each.
pub const GROUPS_PER_SHARD_MAX: usize = 2_000_000;
/// Most groups of one queue that have limits of their own. Past it they are refused. Kept in memory.
pub const GROUPS_SET_MAX: usize = 100_000;
/// Longest rest that a worker may ask for its group, milliseconds. Past it: `Invalid`.
pub const SLOW_GROUP_MS_MAX: u64 = 24 * 3_600 * 1_000;
/// Longest consumer name, bytes of UTF-8. Past it: `Invalid`.
pub const CONSUMER_NAME_BYTES_MAX: usize = 255;
/// Longest failure reason kept with a task, bytes; longer ones are cut at a character boundary.
pub const REASON_BYTES_MAX: usize = 1_024;
/// Longest client request id, bytes. Past it: `Invalid`.
pub const REQUEST_ID_BYTES_MAX: usize = 128;
/// Largest gRPC or peer frame, bytes.
pub const FRAME_BYTES_MAX: usize = 32 << 20;
/// How long a create's request id is remembered, shard time in milliseconds.
pub const REQUEST_WINDOW_MS: u64 = 10 * 60 * 1_000;
/// Deliveries that fail before a task is dead, unless the task says otherwise.
pub const MAX_ATTEMPTS_DEFAULT: u32 = 20;
/// Lease a consumer gets when it names none, milliseconds.
pub const LEASE_MS_DEFAULT: u64 = 30_000;
/// Shortest and longest lease, milliseconds. Outside: `Invalid`.
pub const LEASE_MS_MIN: u64 = 100;
/// See [`LEASE_MS_MIN`].
pub const LEASE_MS_MAX: u64 = 12 * 3_600 * 1_000;
/// Most tasks in one page of a list.
pub const LIST_PAGE_MAX: u32 = 1_000;
/// Most settlements in one call or frame. Past it: `Invalid`.
pub const SETTLE_BATCH_MAX: usize = 10_000;
/// Task shards created at bootstrap unless configured.
pub const TASK_SHARDS_DEFAULT: u32 = 4;
/// Largest result kept with an acked task, bytes. Past it: `Invalid`.
pub const RESULT_BYTES_MAX: usize = 64 << 10;
/// Longest progress text of a leased task, bytes; longer ones are cut at a character boundary.
pub const PROGRESS_BYTES_MAX: usize = 1_024;
/// Longest note and author of a pause, bytes; longer ones are cut at a character boundary.
pub const NOTE_BYTES_MAX: usize = 1_024;
/// Most non-retryable reasons of one queue. Past it: `Invalid`.
pub const NON_RETRYABLE_MAX: usize = 64;
/// Most policies. Past it: `Invalid`. Each shard keeps all of them in memory.
pub const POLICIES_MAX: usize = 1_000;
/// Most tasks one Purge ends; larger purges are several commands.
pub const PURGE_TASKS_MAX: u32 = 2_000;
/// Most tasks that one comes after. Past it: `Invalid`.
pub const AFTER_TASKS_MAX: usize = 64;
/// Longest key of a task, bytes of UTF-8. Past it: `Invalid`.
pub const KEY_BYTES_MAX: usize = 255;
/// Longest name of a schedule, bytes of UTF-8. Past it: `Invalid`.
pub const SCHEDULE_NAME_BYTES_MAX: usize = 255;
/// Longest cron expression, bytes. Past it: `Invalid`.
pub const CRON_BYTES_MAX: usize = 256;
/// Longest name of a time zone, bytes. Past it: `Invalid`.
pub const ZONE_NAME_BYTES_MAX: usize = 64;
/// Most schedules of one shard; one more is refused. They are rows: only those that wait for a task to end are in memory.
pub const SCHEDULES_PER_SHARD_MAX: u64 = 200_000;
/// Slots of a schedule whose fate is kept; older ones are forgotten.
pub const SCHEDULE_HISTORY_MAX: u64 = 100;
/// How late a slot may fire where the schedule does not say, milliseconds: a nightly job outlives an outage of an hour.
pub const CATCH_UP_MS_DEFAULT: u64 = 3_600 * 1_000;
/// Shortest catch-up window, milliseconds: a slot fires some milliseconds after its time. Below: `Invalid`.
pub const CATCH_UP_MS_MIN: u64 = 1_000;
/// Longest catch-up window, milliseconds: 31 days. Past it: `Invalid`.
pub const CATCH_UP_MS_MAX: u64 = 31 * 24 * 3_600 * 1_000;
/// Longest jitter of a schedule, milliseconds. Past it: `Invalid`.
pub const JITTER_MS_MAX: u64 = 24 * 3_600 * 1_000;
