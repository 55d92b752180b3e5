//! Conversions between the generated messages and z4's own types, with the checks the door owes its callers.
//!
//! Every refusal names the field in the request's own words (`tasks[3].priority`), so the caller finds it. A batch is
//! converted item by item: a bad one fails alone.
//!
//! Times are rounded up to the next millisecond, never down: a task must not be delivered before the time it was
//! given. What lies before 1970 is simply past, and becomes 1970.
//!
//! Sources: google.protobuf.Timestamp and Duration for the ranges.

mod events;
mod groups;
mod queues;
mod schedules;
mod updates;

pub use events::{event_filter, event_type, events_start, pb_event, resume_token};
pub use groups::{group_name, pb_group, set_group};
pub use queues::{
    etag, etag_text, field_path, patch, pb_effective, pb_policy, pb_settings, policy, purge_states,
    set_queue, settings,
};
pub use updates::{Change, change, targets};

pub use schedules::{
    pb_schedule_status, pb_slot_record, schedule_name, schedule_out_of_limits, schedule_patch,
};

use prost_types::{Duration as PbDuration, Timestamp};
use z4_tasks::Invalid;
use z4_tasks::command::{Due, Key, NewTask, OnConflict, OnFailure, Retry, Settlement, Verdict};
use z4_types::limits::{
    AFTER_TASKS_MAX, BATCH_BYTES_MAX, BATCH_TASKS_MAX, CONSUMER_NAME_BYTES_MAX, LEASE_MS_DEFAULT,
    LEASE_MS_MAX, LEASE_MS_MIN, PROGRESS_BYTES_MAX, REASON_BYTES_MAX, REQUEST_ID_BYTES_MAX,
};
use z4_types::{Duration, Millis, Priority, QueueName, RequestId, TaskId, Token};

use crate::status::Failure;
use crate::{reason, v1};

/// 0001-01-01T00:00:00Z, the first second a Timestamp can name.
const SECONDS_MIN: i64 = -62_135_596_800;
/// 9999-12-31T23:59:59Z, the last one.
const SECONDS_MAX: i64 = 253_402_300_799;
/// Longest protobuf Duration, about 10,000 years.
const DURATION_SECONDS_MAX: i64 = 315_576_000_000;
const NANOS_PER_MS: u64 = 1_000_000;
/// Bytes of a task counted against the batch limit besides payload and metadata: its row in the log.
const TASK_OVERHEAD_BYTES: usize = 64;

/// Returns a Timestamp as milliseconds, rounded up; before 1970 it is 1970.
///
/// # Errors
/// `Invalid` outside the years 0001 to 9999, or with nanoseconds outside one second.
pub fn millis(time: Timestamp, field: &str) -> Result<Millis, Failure> {
    if !(SECONDS_MIN..=SECONDS_MAX).contains(&time.seconds) || !(0..1_000_000_000).contains(&time.nanos) {
        return Err(Failure::invalid(
            field,
            reason::TIME_OUT_OF_RANGE,
            format_args!(
                "{}s {}ns is no time between 0001-01-01 and 9999-12-31; give a valid google.protobuf.Timestamp",
                time.seconds, time.nanos
            ),
        ));
    }
    let Ok(seconds) = u64::try_from(time.seconds) else { return Ok(Millis(0)) };
    let nanos = time.nanos.unsigned_abs();
    let rounded = Millis(seconds * 1_000 + u64::from(nanos).div_ceil(NANOS_PER_MS));
    // The last millisecond of 9999 has no next one that can be named.
    Ok(rounded.min(Millis::MAX_NAMEABLE))
}

/// Returns milliseconds as a Timestamp; what lies past 9999 is its last millisecond.
#[must_use]
pub fn timestamp(time: Millis) -> Timestamp {
    let ms = time.min(Millis::MAX_NAMEABLE).0;
    Timestamp {
        seconds: i64::try_from(ms / 1_000).expect("bounded by 9999"),
        nanos: i32::try_from(ms % 1_000 * NANOS_PER_MS).expect("below one second"),
    }
}

/// Returns a protobuf Duration as a span, rounded up to the millisecond.
///
/// # Errors
/// `Invalid` if it is negative, longer than 10,000 years, or has nanoseconds outside one second.
pub fn duration(span: PbDuration, field: &str) -> Result<Duration, Failure> {
    let bad = |what| Err(Failure::invalid(field, reason::DURATION_OUT_OF_RANGE, what));
    if span.seconds < 0 || span.nanos < 0 {
        return bad("a span of time cannot be negative");
    }
    if span.seconds > DURATION_SECONDS_MAX || span.nanos > 999_999_999 {
        return bad("no valid google.protobuf.Duration; at most 10,000 years, nanos below 1,000,000,000");
    }
    let nanos = u64::from(span.nanos.unsigned_abs());
    Ok(Duration(span.seconds.unsigned_abs() * 1_000 + nanos.div_ceil(NANOS_PER_MS)))
}

/// Returns a span as a protobuf Duration, cut at its longest.
#[must_use]
pub fn pb_duration(span: Duration) -> PbDuration {
    PbDuration {
        seconds: i64::try_from(span.0 / 1_000).map_or(DURATION_SECONDS_MAX, |s| s.min(DURATION_SECONDS_MAX)),
        nanos: i32::try_from(span.0 % 1_000 * NANOS_PER_MS).expect("below one second"),
    }
}

/// Returns how long a lease holds; unset means z4's default of 30 s.
///
/// # Errors
/// `Invalid` if it is not a valid span or outside 100 ms to 12 h.
pub fn lease_duration(span: Option<PbDuration>, field: &str) -> Result<Duration, Failure> {
    let Some(span) = span else { return Ok(Duration(LEASE_MS_DEFAULT)) };
    let span = duration(span, field)?;
    if !(LEASE_MS_MIN..=LEASE_MS_MAX).contains(&span.0) {
        return Err(Failure::invalid(
            field,
            reason::LEASE_DURATION_OUT_OF_RANGE,
            format_args!("a lease holds {LEASE_MS_MIN} ms to {LEASE_MS_MAX} ms (12 h), not {span}"),
        ));
    }
    Ok(span)
}

/// Returns how long a lease holds that a consumer asks for, or from when on it extends one; unset is zero, which means as long as the queue says.
///
/// # Errors
/// As [`lease_duration`].
pub fn lease_wish(span: Option<PbDuration>, field: &str) -> Result<Duration, Failure> {
    if span.is_none() { Ok(Duration(0)) } else { lease_duration(span, field) }
}

/// Returns `name` as a queue name.
///
/// # Errors
/// `Invalid` as [`QueueName::new`].
pub fn queue_name(name: &str, field: &str) -> Result<QueueName, Failure> {
    QueueName::new(name).map_err(|why| Failure::invalid(field, reason::QUEUE_NAME_INVALID, why))
}

/// Checks a consumer's name; empty is fine, the door then chooses one.
///
/// # Errors
/// `Invalid` if it is longer than 255 bytes or holds a control character.
pub fn consumer_name(name: &str, field: &str) -> Result<(), Failure> {
    let bad = |what: String| Err(Failure::invalid(field, reason::CONSUMER_NAME_INVALID, what));
    if name.len() > CONSUMER_NAME_BYTES_MAX {
        return bad(format!("has {} bytes; the limit is {CONSUMER_NAME_BYTES_MAX}", name.len()));
    }
    match name.chars().find(|c| c.is_control()) {
        Some(c) => {
            bad(format!("has the control character U+{:04X}; use printable characters only", c as u32))
        }
        None => Ok(()),
    }
}

/// Returns `text` as a task id.
///
/// # Errors
/// `Invalid` if it is not one.
pub fn task_id(text: &str, field: &str) -> Result<TaskId, Failure> {
    text.parse().map_err(|why| Failure::invalid(field, reason::TASK_ID_INVALID, why))
}

/// Returns a request id reduced to 128 bits: 32 hexadecimal digits are the number they name, any other text its
/// XXH3-128 hash; empty is none. The queue's hash is mixed in: the same text names another request in another queue,
/// whichever shards hold the two.
///
/// # Errors
/// `Invalid` if it has more than 128 bytes.
pub fn request_id(text: &str, queue: &QueueName, field: &str) -> Result<Option<RequestId>, Failure> {
    if text.is_empty() {
        return Ok(None);
    }
    if text.len() > REQUEST_ID_BYTES_MAX {
        return Err(Failure::invalid(
            field,
            reason::REQUEST_ID_INVALID,
            format_args!("has {} bytes; the limit is {REQUEST_ID_BYTES_MAX}", text.len()),
        ));
    }
    // `from_str_radix` alone would also take a sign.
    let hex = text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
    let number = if hex { u128::from_str_radix(text, 16).ok() } else { None };
    let hash = |text: &str| xxhash_rust::xxh3::xxh3_128(text.as_bytes());
    Ok(Some(RequestId(number.unwrap_or_else(|| hash(text)) ^ hash(queue.as_str()))))
}

/// A create as the state machine takes it, its items each converted or refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Create {
    /// The queue of all tasks.
    pub queue: QueueName,
    /// Names the whole batch across retries.
    pub request: Option<RequestId>,
    /// One per task of the request, in order.
    pub tasks: Vec<Result<NewTask, Failure>>,
}

/// Returns the task of a unary create in `queue`, which the request names, the request id on the task.
///
/// # Errors
/// `Invalid` with the field.
pub fn create_one(queue: &QueueName, request: v1::CreateTaskRequest) -> Result<NewTask, Failure> {
    let task =
        request.task.ok_or_else(|| Failure::invalid("task", reason::FIELD_MISSING, "give the task"))?;
    let mut task = new_task(task, queue, "task")?;
    let outer = request_id(&request.request_id, queue, "request_id")?;
    match (outer, task.request) {
        (Some(a), Some(b)) if a != b => Err(Failure::invalid(
            "request_id",
            reason::REQUEST_ID_INVALID,
            "differs from task.request_id; give one of the two",
        )),
        (outer, inner) => {
            task.request = inner.or(outer);
            Ok(task)
        }
    }
}

/// Returns a batch create. The batch is refused as a whole only for what concerns all of it.
///
/// # Errors
/// `Invalid` for the request id, an empty batch, or one over the limits.
pub fn create_batch(queue: QueueName, tasks: Vec<v1::NewTask>, request: &str) -> Result<Create, Failure> {
    let request = request_id(request, &queue, "request_id")?;
    if tasks.is_empty() {
        return Err(Failure::invalid(
            "tasks",
            reason::BATCH_EMPTY,
            "the batch holds no task; give at least one",
        ));
    }
    if tasks.len() > BATCH_TASKS_MAX {
        return Err(Failure::invalid(
            "tasks",
            reason::BATCH_TOO_LARGE,
            format_args!(
                "the batch has {} tasks; split it into batches of at most {BATCH_TASKS_MAX}",
                tasks.len()
            ),
        ));
    }
    let bytes: usize = tasks.iter().map(task_bytes).sum();
    // One task alone always fits, whatever its overhead.
    if bytes > BATCH_BYTES_MAX && tasks.len() > 1 {
        return Err(Failure::invalid(
            "tasks",
            reason::BATCH_TOO_LARGE,
            format_args!("the batch has {bytes} bytes; split it into batches of at most {BATCH_BYTES_MAX}"),
        ));
    }
    let tasks = tasks
        .into_iter()
        .enumerate()
        .map(|(index, task)| new_task(task, &queue, "").map_err(|failure| within_item(failure, index)))
        .collect();
    Ok(Create { queue, request, tasks })
}

/// Returns what a task counts against `BATCH_BYTES_MAX`: payload, metadata, group, and a fixed part for its row.
#[must_use]
pub fn task_bytes(task: &v1::NewTask) -> usize {
    let metadata: usize = task.metadata.iter().map(|(key, value)| key.len() + value.len()).sum();
    TASK_OVERHEAD_BYTES + task.payload.len() + metadata + task.group.len()
}

/// Field names are made per item only when one fails: the good path formats nothing.
fn within_item(mut failure: Failure, index: usize) -> Failure {
    failure.message = format!("tasks[{index}].{}", failure.message);
    failure.field = failure.field.map(|field| format!("tasks[{index}].{field}"));
    failure
}

/// Returns a task to create in `queue`. `at` is the path of the task in its request, empty at the top.
///
/// # Errors
/// `Invalid` with the field.
pub fn new_task(task: v1::NewTask, queue: &QueueName, at: &str) -> Result<NewTask, Failure> {
    convert_new_task(task, queue).map_err(|mut failure| {
        if !at.is_empty() {
            failure.message = format!("{at}.{}", failure.message);
            failure.field = failure.field.map(|field| format!("{at}.{field}"));
        }
        failure
    })
}

fn convert_new_task(task: v1::NewTask, queue: &QueueName) -> Result<NewTask, Failure> {
    let due = match task.schedule {
        None => Due::Now,
        Some(v1::new_task::Schedule::DeliverAt(time)) => Due::At(millis(time, "deliver_at")?),
        Some(v1::new_task::Schedule::Delay(span)) => Due::After(duration(span, "delay")?),
    };
    let priority = match task.priority {
        None => None,
        Some(number) => Some(Priority(u8::try_from(number).map_err(|_| {
            Failure::invalid("priority", reason::FIELD_INVALID, format_args!("{number} is not in 0 to 255"))
        })?)),
    };
    let task = NewTask {
        payload: task.payload,
        metadata: task.metadata.into_iter().collect(),
        due,
        priority,
        max_attempts: task.max_attempts,
        retry: task.retry.map(retry).transpose()?,
        ttl: task.ttl.map(|span| duration(span, "ttl")).transpose()?,
        request: request_id(&task.request_id, queue, "request_id")?,
        key: key(task.key, task.key_policy, task.key_window)?,
        on_failure: on_failure(task.on_failure, task.after.is_empty())?,
        after: after(&task.after)?,
        group: Some(task.group).filter(|group| !group.is_empty()),
    };
    task.check().map_err(out_of_limits)?;
    Ok(task)
}

/// Returns the tasks that another one comes after.
fn after(ids: &[String]) -> Result<Vec<TaskId>, Failure> {
    if ids.len() > AFTER_TASKS_MAX {
        // Before each is looked at: the rest of the message is not worth it.
        let what = format_args!("names {} tasks, the limit is {AFTER_TASKS_MAX}", ids.len());
        return Err(Failure::invalid("after", reason::FIELD_INVALID, what));
    }
    ids.iter().map(|id| task_id(id, "after")).collect()
}

/// Returns what becomes of a task if one that it comes after fails. `alone`: it comes after none.
fn on_failure(policy: i32, alone: bool) -> Result<OnFailure, Failure> {
    let what = match v1::OnFailure::try_from(policy) {
        Ok(v1::OnFailure::Unspecified) => return Ok(OnFailure::Cancel),
        _ if alone => {
            "is of a task that comes after others; name them in after, or leave this out".to_owned()
        }
        Ok(v1::OnFailure::Cancel) => return Ok(OnFailure::Cancel),
        Ok(v1::OnFailure::Run) => return Ok(OnFailure::Run),
        Err(_) => format!("{policy} is not known to this server; give one of OnFailure"),
    };
    Err(Failure::invalid("on_failure", reason::FIELD_INVALID, what))
}

/// Returns a task's key, and what becomes of the task if another has it.
fn key(name: String, policy: i32, window: Option<PbDuration>) -> Result<Option<Box<Key>>, Failure> {
    if name.is_empty() {
        return match window {
            _ if policy != 0 => Err(Failure::invalid(
                "key_policy",
                reason::FIELD_INVALID,
                "is of a task with a key; give the task a key, or leave this out",
            )),
            Some(_) => Err(Failure::invalid(
                "key_window",
                reason::FIELD_INVALID,
                "is of a task with a key; give the task a key, or leave this out",
            )),
            None => Ok(None),
        };
    }
    let on_conflict = match v1::KeyPolicy::try_from(policy) {
        Ok(v1::KeyPolicy::Unspecified | v1::KeyPolicy::Fail) => OnConflict::Fail,
        Ok(v1::KeyPolicy::Keep) => OnConflict::Keep,
        Ok(v1::KeyPolicy::Replace) => OnConflict::Replace,
        Ok(v1::KeyPolicy::Debounce) => OnConflict::Debounce,
        Err(_) => {
            return Err(Failure::invalid(
                "key_policy",
                reason::FIELD_INVALID,
                format_args!("{policy} is not known to this server; give one of KeyPolicy"),
            ));
        }
    };
    let window = window.map(|span| duration(span, "key_window")).transpose()?.unwrap_or_default();
    Ok(Some(Box::new(Key { name, on_conflict, window })))
}

/// Returns what breaks a limit of the state machine as a failure: its field tells the reason.
fn out_of_limits(invalid: Invalid) -> Failure {
    let reason = match invalid.field {
        "payload" => reason::PAYLOAD_TOO_LARGE,
        "metadata" => reason::METADATA_TOO_LARGE,
        "deliver_at" => reason::TIME_OUT_OF_RANGE,
        "delay" | "ttl" | "key_window" => reason::DURATION_OUT_OF_RANGE,
        "ack.result" => reason::RESULT_TOO_LARGE,
        _ => reason::FIELD_INVALID,
    };
    Failure::invalid(invalid.field, reason, invalid.problem)
}

/// Returns a retry policy, its unset fields by default. Its limits are checked with the task's.
fn retry(policy: v1::RetryPolicy) -> Result<Retry, Failure> {
    let usual = Retry::default();
    let initial = policy.initial_delay.map(|span| duration(span, "retry.initial_delay")).transpose()?;
    let cap = policy.max_delay.map(|span| duration(span, "retry.max_delay")).transpose()?;
    let jitter = policy.jitter_percent.map(|percent| u8::try_from(percent).unwrap_or(u8::MAX));
    Ok(Retry {
        initial: initial.unwrap_or(usual.initial),
        cap: cap.unwrap_or(usual.cap),
        multiplier_percent: policy.multiplier_percent.unwrap_or(usual.multiplier_percent),
        jitter_percent: jitter.unwrap_or(usual.jitter_percent),
    })
}

/// Returns a retry policy as its message.
#[must_use]
pub fn pb_retry(policy: Retry) -> v1::RetryPolicy {
    v1::RetryPolicy {
        initial_delay: Some(pb_duration(policy.initial)),
        max_delay: Some(pb_duration(policy.cap)),
        multiplier_percent: Some(policy.multiplier_percent),
        jitter_percent: Some(u32::from(policy.jitter_percent)),
    }
}

/// Returns one settlement; its failures name the field without the index, which travels in `ItemError`.
///
/// # Errors
/// `Invalid` if the id, the verdict or one of its spans is missing or wrong.
pub fn settlement(word: v1::Settlement) -> Result<Settlement, Failure> {
    use v1::settlement::Verdict as Pb;

    let id = task_id(&word.id, "id")?;
    let verdict = match word.verdict {
        None => {
            let what = "give one of ack, nack, release, extend";
            return Err(Failure::invalid("verdict", reason::FIELD_MISSING, what));
        }
        Some(Pb::Ack(v1::Ack { result })) if result.is_empty() => Verdict::Ack,
        Some(Pb::Ack(v1::Ack { result })) => Verdict::AckWith { result },
        Some(Pb::Nack(v1::Nack { delay: Some(_), dead: true, .. })) => {
            let what = "a task that is dead is not delivered again; give one of delay and dead";
            return Err(Failure::invalid("nack.delay", reason::FIELD_INVALID, what));
        }
        Some(Pb::Nack(v1::Nack { slow_group: Some(_), dead: true, .. })) => {
            let what = "goes with a task that is tried again; give one of slow_group and dead";
            return Err(Failure::invalid("nack.slow_group", reason::FIELD_INVALID, what));
        }
        Some(Pb::Nack(v1::Nack { reason, dead: true, .. })) => {
            Verdict::NackDead { reason: cut(reason, REASON_BYTES_MAX) }
        }
        Some(Pb::Nack(nack)) => Verdict::Nack {
            delay: nack.delay.map(|span| duration(span, "nack.delay")).transpose()?,
            slow_group: nack.slow_group.map(|span| duration(span, "nack.slow_group")).transpose()?,
            reason: cut(nack.reason, REASON_BYTES_MAX),
        },
        Some(Pb::Release(release)) => Verdict::Release {
            delay: release.delay.map_or(Ok(Duration(0)), |span| duration(span, "release.delay"))?,
        },
        Some(Pb::Extend(extend)) => {
            let ttl = lease_wish(extend.lease_duration, "extend.lease_duration")?;
            match extend.progress {
                progress if progress.is_empty() => Verdict::Extend { ttl },
                progress => Verdict::ExtendWith { ttl, progress: cut(progress, PROGRESS_BYTES_MAX) },
            }
        }
    };
    let settlement = Settlement { id, token: Token(word.token), verdict };
    settlement.check().map_err(out_of_limits)?;
    Ok(settlement)
}

/// Cuts a text at its limit, at a character boundary: it goes into the log, so it is bounded at the door.
fn cut(mut text: String, limit: usize) -> String {
    if text.len() > limit {
        let end = (0..=limit).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
        text.truncate(end);
    }
    text
}

/// Returns one settlement as its message, the way back from [`settlement`].
#[must_use]
pub fn pb_settlement(settlement: Settlement) -> v1::Settlement {
    use v1::settlement::Verdict as Pb;

    let extend = |ttl: Duration, progress| {
        let lease_duration = (ttl.0 > 0).then(|| pb_duration(ttl));
        Pb::Extend(v1::Extend { lease_duration, progress })
    };
    let verdict = match settlement.verdict {
        Verdict::Ack => Pb::Ack(v1::Ack::default()),
        Verdict::AckWith { result } => Pb::Ack(v1::Ack { result }),
        Verdict::Nack { delay, slow_group, reason } => Pb::Nack(v1::Nack {
            delay: delay.map(pb_duration),
            slow_group: slow_group.map(pb_duration),
            reason,
            dead: false,
        }),
        Verdict::NackDead { reason } => Pb::Nack(v1::Nack { reason, dead: true, ..Default::default() }),
        Verdict::Release { delay } => Pb::Release(v1::Release { delay: Some(pb_duration(delay)) }),
        Verdict::Extend { ttl } => extend(ttl, String::new()),
        Verdict::ExtendWith { ttl, progress } => extend(ttl, progress),
    };
    v1::Settlement { id: settlement.id.to_string(), token: settlement.token.0, verdict: Some(verdict) }
}

#[cfg(test)]
mod tests;
