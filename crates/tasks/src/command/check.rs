//! The checks a new task passes before it is encoded: every limit, with the field and the remedy.
//!
//! Run once, where requests are converted. The machine itself clamps what it must and refuses nothing here: an entry in
//! the log was checked by its proposer, and all replicas must take it the same way.
//!
//! # Not here
//! - Queue names: a `QueueName` is valid by construction. Sizes of batches, spans of leases: where they are converted.

use z4_types::limits::{
    AFTER_TASKS_MAX, GROUP_NAME_BYTES_MAX, KEY_BYTES_MAX, METADATA_BYTES_MAX, METADATA_KEYS_MAX,
    PAYLOAD_BYTES_MAX, RESULT_BYTES_MAX, SLOW_GROUP_MS_MAX,
};
use z4_types::{Duration, Millis};

use super::{Due, NewTask, Retry, SetMode, SetQueue, Settlement, Target, UpdateTask, Verdict, Which};

/// Longest span a caller may name, the whole nameable calendar: longer ones are slips of unit, not wishes.
const SPAN_MAX: Duration = Duration(Millis::MAX_NAMEABLE.0);

/// Largest factor between retries, in hundredths: a hundredfold.
const MULTIPLIER_PERCENT_MAX: u32 = 10_000;

/// Why a command is refused: which field, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct Invalid {
    /// The field, in the words of the API: `payload`, `retry.max_delay`, …
    pub field: &'static str,
    /// What is wrong and what would be right.
    pub problem: String,
}

pub(crate) fn invalid(field: &'static str, problem: String) -> Result<(), Invalid> {
    Err(Invalid { field, problem })
}

impl NewTask {
    /// Returns the bytes that count against `BATCH_BYTES_MAX`: payload, metadata keys and values, its key.
    #[must_use]
    pub fn weight(&self) -> usize {
        let key = self.key.as_ref().map_or(0, |key| key.name.len());
        self.payload.len() + self.metadata_bytes() + key
    }

    fn metadata_bytes(&self) -> usize {
        self.metadata.iter().map(|(key, value)| key.len() + value.len()).sum()
    }

    /// Checks the task against every limit.
    ///
    /// # Errors
    /// `Invalid`, with the field and the remedy.
    pub fn check(&self) -> Result<(), Invalid> {
        if self.payload.len() > PAYLOAD_BYTES_MAX {
            return invalid(
                "payload",
                format!(
                    "has {} bytes, the limit is {PAYLOAD_BYTES_MAX}; store large data elsewhere and push its address",
                    self.payload.len()
                ),
            );
        }
        self.check_metadata()?;
        if let Some(group) = &self.group {
            check_group("group", group)?;
        }
        if let Some(key) = &self.key {
            check_key("key", &key.name)?;
            check_span("key_window", key.window)?;
        }
        if self.after.len() > AFTER_TASKS_MAX {
            let count = self.after.len();
            return invalid(
                "after",
                format!(
                    "names {count} tasks, the limit is {AFTER_TASKS_MAX}; let tasks between come after some of them each"
                ),
            );
        }
        match self.due {
            Due::Now => {}
            Due::At(at) if at > Millis::MAX_NAMEABLE => {
                return invalid(
                    "deliver_at",
                    "lies after 9999-12-31T23:59:59.999Z, the last time that can be named; give an earlier one".into(),
                );
            }
            Due::At(_) => {}
            Due::After(delay) => check_span("delay", delay)?,
        }
        if self.max_attempts == Some(0) {
            return invalid("max_attempts", "is 0; give 1 or more, or leave it out for the default".into());
        }
        if let Some(retry) = &self.retry {
            check_retry(retry)?;
        }
        if let Some(ttl) = self.ttl {
            check_span("ttl", ttl)?;
            if ttl.0 == 0 {
                return invalid(
                    "ttl",
                    "is 0, the task would expire at once; give a longer one or leave it out".into(),
                );
            }
            if let Due::After(delay) = self.due
                && delay >= ttl
            {
                return invalid(
                    "ttl",
                    format!(
                        "of {ttl} ends before the task is due, after {delay}; make it longer than the delay"
                    ),
                );
            }
        }
        Ok(())
    }

    fn check_metadata(&self) -> Result<(), Invalid> {
        if self.metadata.len() > METADATA_KEYS_MAX {
            return invalid(
                "metadata",
                format!(
                    "has {} keys, the limit is {METADATA_KEYS_MAX}; move the rest to the payload",
                    self.metadata.len()
                ),
            );
        }
        let bytes = self.metadata_bytes();
        if bytes > METADATA_BYTES_MAX {
            return invalid(
                "metadata",
                format!(
                    "has {bytes} bytes of keys and values, the limit is {METADATA_BYTES_MAX}; move some to the payload"
                ),
            );
        }
        if self.metadata.iter().any(|(key, _)| key.is_empty()) {
            return invalid("metadata", "has an empty key; give every key a name".into());
        }
        if let Some(pair) = self.metadata.windows(2).find(|pair| pair[0].0 >= pair[1].0) {
            return invalid(
                "metadata",
                format!("keys must be unique and sorted, but {:?} is followed by {:?}", pair[0].0, pair[1].0),
            );
        }
        Ok(())
    }
}

/// Checks the name of a group.
pub(crate) fn check_group(field: &'static str, group: &str) -> Result<(), Invalid> {
    if group.is_empty() {
        return invalid(field, "is empty; give it a name, or leave it out for no group".into());
    }
    if group.len() > GROUP_NAME_BYTES_MAX {
        return invalid(
            field,
            format!("has {} bytes, the limit is {GROUP_NAME_BYTES_MAX}; give a shorter name", group.len()),
        );
    }
    Ok(())
}

fn check_key(field: &'static str, name: &str) -> Result<(), Invalid> {
    match name.len() {
        0 => invalid(field, "is empty; give it a name or leave it out".into()),
        1..=KEY_BYTES_MAX => Ok(()),
        len => invalid(field, format!("has {len} bytes, the limit is {KEY_BYTES_MAX}; give a shorter one")),
    }
}

impl Target {
    /// Checks the key, if it names one.
    ///
    /// # Errors
    /// `Invalid`, with the field and the remedy.
    pub fn check(&self) -> Result<(), Invalid> {
        match &self.which {
            Which::Id(_) => Ok(()),
            Which::Key { key, .. } => check_key("key", key),
        }
    }
}

pub(crate) fn check_retry(retry: &Retry) -> Result<(), Invalid> {
    check_span("retry.max_delay", retry.cap)?;
    if retry.initial > retry.cap {
        return invalid(
            "retry.initial_delay",
            format!("of {} exceeds retry.max_delay of {}; lower it", retry.initial, retry.cap),
        );
    }
    if !(100..=MULTIPLIER_PERCENT_MAX).contains(&retry.multiplier_percent) {
        return invalid(
            "retry.multiplier_percent",
            format!(
                "of {} % is out of range; give 100 to {MULTIPLIER_PERCENT_MAX}",
                retry.multiplier_percent
            ),
        );
    }
    if retry.jitter_percent > 100 {
        return invalid(
            "retry.jitter_percent",
            format!("of {} % is out of range; give 0 to 100", retry.jitter_percent),
        );
    }
    Ok(())
}

pub(crate) fn check_span(field: &'static str, span: Duration) -> Result<(), Invalid> {
    if span > SPAN_MAX {
        return invalid(field, format!("of {span} is longer than the calendar; give at most {SPAN_MAX}"));
    }
    Ok(())
}

impl UpdateTask {
    /// Checks what is changed as if the task were new.
    ///
    /// # Errors
    /// `Invalid`, with the field and the remedy.
    pub fn check(&self) -> Result<(), Invalid> {
        self.target.check()?;
        let task = NewTask {
            payload: self.payload.clone().unwrap_or_default(),
            metadata: self.metadata.clone().unwrap_or_default(),
            due: self.due.unwrap_or_default(),
            priority: self.priority,
            ..NewTask::default()
        };
        task.check()
    }
}

impl SetQueue {
    /// Checks the settings, and that the mode can be met.
    ///
    /// # Errors
    /// `Invalid`, with the field and the remedy.
    pub fn check(&self) -> Result<(), Invalid> {
        if self.mode == SetMode::Create && self.etag.is_some() {
            return invalid("etag", "names a version of a queue that is to be created; leave it out".into());
        }
        self.patch.check()
    }
}

impl Settlement {
    /// Checks what a consumer sends along.
    ///
    /// # Errors
    /// `Invalid`, with the field and the remedy.
    pub fn check(&self) -> Result<(), Invalid> {
        match &self.verdict {
            Verdict::AckWith { result } if result.len() > RESULT_BYTES_MAX => invalid(
                "ack.result",
                format!(
                    "has {} bytes, the limit is {RESULT_BYTES_MAX}; store it elsewhere and keep its address",
                    result.len()
                ),
            ),
            Verdict::Nack { slow_group: Some(span), .. } if span.0 > SLOW_GROUP_MS_MAX => {
                invalid("nack.slow_group", format!("is {span}; give at most 24 hours"))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Key;
    use bytes::Bytes;

    fn task() -> NewTask {
        NewTask {
            payload: Bytes::from_static(b"x"),
            metadata: vec![("a".into(), "1".into()), ("b".into(), "2".into())],
            ..NewTask::default()
        }
    }

    #[track_caller]
    fn refused(field: &str, change: impl FnOnce(&mut NewTask)) {
        let mut task = task();
        change(&mut task);
        let invalid = task.check().expect_err("the change breaks a limit");
        assert_eq!(invalid.field, field, "{invalid}");
    }

    fn retry(change: impl FnOnce(&mut Retry)) -> Option<Retry> {
        let mut retry = Retry::default();
        change(&mut retry);
        Some(retry)
    }

    #[test]
    fn every_limit_of_a_task_is_checked_and_named() {
        assert_eq!(task().check(), Ok(()));
        refused("payload", |t| t.payload = vec![0; PAYLOAD_BYTES_MAX + 1].into());
        refused("metadata", |t| t.metadata = (0..65).map(|n| (format!("{n:03}"), String::new())).collect());
        refused("metadata", |t| t.metadata[0].1 = "x".repeat(METADATA_BYTES_MAX));
        refused("metadata", |t| t.metadata[0].0.clear());
        refused("metadata", |t| t.metadata[0].0 = "b".into());
        refused("group", |t| t.group = Some(String::new()));
        refused("group", |t| t.group = Some("x".repeat(GROUP_NAME_BYTES_MAX + 1)));
        refused("deliver_at", |t| t.due = Due::At(Millis(Millis::MAX_NAMEABLE.0 + 1)));
        refused("delay", |t| t.due = Due::After(Duration(u64::MAX)));
        refused("max_attempts", |t| t.max_attempts = Some(0));
        refused("retry.initial_delay", |t| t.retry = retry(|r| r.cap = Duration(1)));
        refused("retry.max_delay", |t| t.retry = retry(|r| r.cap = Duration(u64::MAX)));
        refused("retry.multiplier_percent", |t| t.retry = retry(|r| r.multiplier_percent = 99));
        refused("retry.jitter_percent", |t| t.retry = retry(|r| r.jitter_percent = 101));
        let key = |len: usize| Some(Box::new(Key { name: "k".repeat(len), ..Key::default() }));
        refused("key", |t| t.key = key(0));
        refused("key", |t| t.key = key(KEY_BYTES_MAX + 1));
        refused("ttl", |t| t.ttl = Some(Duration(0)));
        refused("ttl", |t| (t.ttl, t.due) = (Some(Duration(5)), Due::After(Duration(5))));
    }

    #[test]
    fn results_and_modes_are_checked() {
        let result = |len| Settlement {
            id: z4_types::TaskId(1),
            token: z4_types::Token(1),
            verdict: Verdict::AckWith { result: vec![0; len].into() },
        };
        assert_eq!(result(RESULT_BYTES_MAX).check(), Ok(()));
        assert_eq!(result(RESULT_BYTES_MAX + 1).check().expect_err("too long").field, "ack.result");
        let queue = z4_types::QueueName::new("q").expect("valid");
        let set = SetQueue { queue, mode: SetMode::Create, etag: Some(1), patch: crate::Patch::default() };
        assert_eq!(set.check().expect_err("an etag of nothing").field, "etag");
    }

    #[test]
    fn the_last_nameable_instant_and_the_exact_limits_are_accepted() {
        let mut task = task();
        task.due = Due::At(Millis::MAX_NAMEABLE);
        task.payload = vec![0; PAYLOAD_BYTES_MAX].into();
        task.max_attempts = Some(1);
        assert_eq!(task.check(), Ok(()));
    }
}
