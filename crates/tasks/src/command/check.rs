//! The checks a command passes before it is encoded: every limit, with the field and the remedy.
//!
//! Run once, at the door. The machine itself clamps what it must and refuses nothing here: an entry in the log was
//! checked by its proposer, and all replicas must take it the same way.
//!
//! # Not here
//! - Queue names: a `QueueName` is valid by construction.

use z4_types::limits::{
    BATCH_BYTES_MAX, BATCH_TASKS_MAX, CONSUMER_NAME_BYTES_MAX, LEASE_MS_MAX, LEASE_MS_MIN,
    METADATA_BYTES_MAX, METADATA_KEYS_MAX, PAYLOAD_BYTES_MAX, SETTLE_BATCH_MAX,
};
use z4_types::{Duration, Kind, Millis};

use super::{Command, Due, NewTask, Retry, Settlement, Verdict};

/// Longest span a caller may name, the whole nameable calendar: longer ones are slips of unit, not wishes.
const SPAN_MAX: Duration = Duration(Millis::MAX_NAMEABLE.0);

/// Largest factor between retries, in hundredths: a hundredfold.
const MULTIPLIER_PERCENT_MAX: u32 = 10_000;

/// Why a command is refused: which field, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct Invalid {
    /// The field, in the words of the API: `payload`, `retry.cap`, …
    pub field: &'static str,
    /// What is wrong and what would be right.
    pub problem: String,
}

impl Invalid {
    /// Returns [`Kind::Invalid`].
    #[must_use]
    pub fn kind(&self) -> Kind {
        Kind::Invalid
    }
}

fn invalid(field: &'static str, problem: String) -> Result<(), Invalid> {
    Err(Invalid { field, problem })
}

impl NewTask {
    /// Returns the bytes that count against `BATCH_BYTES_MAX`: payload, metadata keys and values.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.payload.len() + self.metadata.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>()
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
            return invalid(
                "max_attempts",
                "is 0; give 1 or more, or leave it out for the queue's default".into(),
            );
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
        let bytes = self.weight() - self.payload.len();
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

impl Command {
    /// Checks the command against every limit. A batch is checked whole: a door that lets one bad task fail alone
    /// checks each with [`NewTask::check`] first.
    ///
    /// # Errors
    /// `Invalid`, with the field and the remedy.
    pub fn check(&self) -> Result<(), Invalid> {
        match self {
            Self::Create { tasks, .. } => check_batch(tasks),
            Self::Lease { consumer, max, ttl, .. } => {
                if consumer.len() > CONSUMER_NAME_BYTES_MAX {
                    return invalid(
                        "consumer",
                        format!(
                            "has {} bytes, the limit is {CONSUMER_NAME_BYTES_MAX}; shorten the name",
                            consumer.len()
                        ),
                    );
                }
                if *max == 0 {
                    return invalid("max", "is 0; ask for at least one task".into());
                }
                check_lease("lease", *ttl)
            }
            Self::Settle(settlements) => {
                if settlements.len() > SETTLE_BATCH_MAX {
                    return invalid(
                        "settlements",
                        format!(
                            "has {} items, the limit is {SETTLE_BATCH_MAX}; split the batch",
                            settlements.len()
                        ),
                    );
                }
                settlements.iter().try_for_each(Settlement::check)
            }
            Self::Cancel(ids) => {
                if ids.len() > BATCH_TASKS_MAX {
                    return invalid(
                        "ids",
                        format!("has {} items, the limit is {BATCH_TASKS_MAX}; split the batch", ids.len()),
                    );
                }
                Ok(())
            }
            Self::Advance { .. } => Ok(()),
        }
    }
}

impl Settlement {
    /// Checks one settlement. Reasons of any length are fine, they are cut.
    ///
    /// # Errors
    /// `Invalid`, with the field and the remedy.
    pub fn check(&self) -> Result<(), Invalid> {
        match &self.verdict {
            Verdict::Ack | Verdict::Nack { delay: None, .. } => Ok(()),
            Verdict::Nack { delay: Some(delay), .. } | Verdict::Release { delay } => {
                check_span("delay", *delay)
            }
            Verdict::Extend { ttl } => check_lease("lease", *ttl),
        }
    }
}

fn check_batch(tasks: &[NewTask]) -> Result<(), Invalid> {
    if tasks.len() > BATCH_TASKS_MAX {
        return invalid(
            "tasks",
            format!("has {} items, the limit is {BATCH_TASKS_MAX}; split the batch", tasks.len()),
        );
    }
    let bytes: usize = tasks.iter().map(NewTask::weight).sum();
    if bytes > BATCH_BYTES_MAX {
        return invalid(
            "tasks",
            format!("have {bytes} bytes together, the limit is {BATCH_BYTES_MAX}; split the batch"),
        );
    }
    tasks.iter().try_for_each(NewTask::check)
}

fn check_lease(field: &'static str, ttl: Duration) -> Result<(), Invalid> {
    if !(LEASE_MS_MIN..=LEASE_MS_MAX).contains(&ttl.0) {
        return invalid(field, format!("of {ttl} is out of range; give {LEASE_MS_MIN} to {LEASE_MS_MAX} ms"));
    }
    Ok(())
}

fn check_retry(retry: &Retry) -> Result<(), Invalid> {
    check_span("retry.cap", retry.cap)?;
    if retry.initial > retry.cap {
        return invalid(
            "retry.initial",
            format!("of {} exceeds retry.cap of {}; lower it", retry.initial, retry.cap),
        );
    }
    if !(100..=MULTIPLIER_PERCENT_MAX).contains(&retry.multiplier_percent) {
        return invalid(
            "retry.multiplier",
            format!(
                "of {} % is out of range; give 100 to {MULTIPLIER_PERCENT_MAX}",
                retry.multiplier_percent
            ),
        );
    }
    if retry.jitter_percent > 100 {
        return invalid(
            "retry.jitter",
            format!("of {} % is out of range; give 0 to 100", retry.jitter_percent),
        );
    }
    Ok(())
}

fn check_span(field: &'static str, span: Duration) -> Result<(), Invalid> {
    if span > SPAN_MAX {
        return invalid(field, format!("of {span} is longer than the calendar; give at most {SPAN_MAX}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use z4_types::Priority;

    use super::*;

    fn task() -> NewTask {
        NewTask {
            payload: Bytes::from_static(b"x"),
            metadata: vec![("a".into(), "1".into()), ("b".into(), "2".into())],
            due: Due::Now,
            priority: Priority::default(),
            max_attempts: None,
            retry: None,
            ttl: None,
            request: None,
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
        refused("deliver_at", |t| t.due = Due::At(Millis(Millis::MAX_NAMEABLE.0 + 1)));
        refused("delay", |t| t.due = Due::After(Duration(u64::MAX)));
        refused("max_attempts", |t| t.max_attempts = Some(0));
        refused("retry.initial", |t| t.retry = retry(|r| r.cap = Duration(1)));
        refused("retry.cap", |t| t.retry = retry(|r| r.cap = Duration(u64::MAX)));
        refused("retry.multiplier", |t| t.retry = retry(|r| r.multiplier_percent = 99));
        refused("retry.jitter", |t| t.retry = retry(|r| r.jitter_percent = 101));
        refused("ttl", |t| t.ttl = Some(Duration(0)));
        refused("ttl", |t| (t.ttl, t.due) = (Some(Duration(5)), Due::After(Duration(5))));
    }

    #[test]
    fn the_last_nameable_instant_and_the_exact_limits_are_accepted() {
        let mut task = task();
        task.due = Due::At(Millis::MAX_NAMEABLE);
        task.payload = vec![0; PAYLOAD_BYTES_MAX].into();
        task.max_attempts = Some(1);
        assert_eq!(task.check(), Ok(()));
    }

    #[test]
    fn batches_leases_and_settlements_have_limits_too() {
        let queue = z4_types::QueueName::new("q").expect("valid");
        let create = |tasks| Command::Create { queue: queue.clone(), request: None, tasks };
        assert_eq!(create(vec![task(); BATCH_TASKS_MAX]).check(), Ok(()));
        assert_eq!(create(vec![task(); BATCH_TASKS_MAX + 1]).check().expect_err("too many").field, "tasks");
        let large = NewTask { payload: vec![0; PAYLOAD_BYTES_MAX].into(), ..task() };
        assert_eq!(create(vec![large; 9]).check().expect_err("too large").field, "tasks");

        let lease = |consumer: &str, max, ttl| Command::Lease {
            queue: queue.clone(),
            consumer: consumer.into(),
            max,
            max_bytes: 0,
            ttl: Duration(ttl),
        };
        assert_eq!(lease("c", 1, LEASE_MS_MIN).check(), Ok(()));
        assert_eq!(lease(&"c".repeat(256), 1, 1_000).check().expect_err("long name").field, "consumer");
        assert_eq!(lease("c", 0, 1_000).check().expect_err("nothing asked").field, "max");
        assert_eq!(lease("c", 1, LEASE_MS_MAX + 1).check().expect_err("too long").field, "lease");
    }
}
