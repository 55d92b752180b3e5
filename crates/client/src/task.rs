//! Tasks to create, deliveries and settlements in the client's own words, and their messages. What is stored: `stored.rs`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use z4_proto::convert::{self, timestamp};
use z4_proto::v1;
use z4_types::limits::REASON_BYTES_MAX;
use z4_types::{Millis, TaskId, Token};

use crate::Error;
use crate::stored::time;

/// A task to create. Limits are checked by the server, which answers with the field.
///
/// ```
/// # use std::time::Duration;
/// # use z4_client::NewTask;
/// let task = NewTask::new("hello").delay(Duration::from_secs(5)).priority(10).metadata("user", "u1");
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NewTask(pub(crate) v1::NewTask);

impl NewTask {
    /// Returns a task that is due at once.
    #[must_use]
    pub fn new(payload: impl Into<Bytes>) -> Self {
        Self(v1::NewTask { payload: payload.into(), ..Default::default() })
    }

    /// Due at a point in time; replaces a delay.
    #[must_use]
    pub fn deliver_at(mut self, time: Millis) -> Self {
        self.0.schedule = Some(v1::new_task::Schedule::DeliverAt(timestamp(time)));
        self
    }

    /// Due so long after its creation; replaces a point in time.
    #[must_use]
    pub fn delay(mut self, delay: Duration) -> Self {
        self.0.schedule = Some(v1::new_task::Schedule::Delay(pb_duration(delay)));
        self
    }

    /// 0 to 255, lower goes first; 128 unless set.
    #[must_use]
    pub fn priority(mut self, priority: u8) -> Self {
        self.0.priority = Some(u32::from(priority));
        self
    }

    /// Adds a label.
    #[must_use]
    pub fn metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.0.metadata.insert(key.into(), value.into());
        self
    }

    /// Failures until it is dead, at least 1; 20 unless set.
    #[must_use]
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.0.max_attempts = Some(attempts);
        self
    }

    /// How failures are retried; the queue's policy unless set.
    #[must_use]
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.0.retry = Some(policy.to_pb());
        self
    }

    /// Expires so long after its creation unless it is finished by then; never unless set.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.0.ttl = Some(pb_duration(ttl));
        self
    }

    /// Of all open tasks of its queue, at most one has this key; the policy says what becomes of this one if another has it.
    ///
    /// ```
    /// # use z4_client::{KeyPolicy, NewTask};
    /// let task = NewTask::new("reindex").key("document-7", KeyPolicy::Keep);
    /// ```
    #[must_use]
    pub fn key(mut self, key: impl Into<String>, policy: KeyPolicy) -> Self {
        self.0.key = key.into();
        self.0.key_policy = policy.to_pb().into();
        self
    }

    /// It waits until all of these have ended: tasks of its queue that are there, at most 64. Adds to those named before.
    ///
    /// ```
    /// # use z4_client::{NewTask, OnFailure, TaskId};
    /// # let (cut, subtitles) = (TaskId(1), TaskId(2));
    /// let publish = NewTask::new("publish").after([cut, subtitles]);
    /// let report = NewTask::new("report").after([cut, subtitles]).on_failure(OnFailure::Run);
    /// ```
    #[must_use]
    pub fn after(mut self, tasks: impl IntoIterator<Item = TaskId>) -> Self {
        self.0.after.extend(tasks.into_iter().map(|id| id.to_string()));
        self
    }

    /// What becomes of it if one of the tasks it comes after fails; cancelled unless set.
    #[must_use]
    pub fn on_failure(mut self, policy: OnFailure) -> Self {
        self.0.on_failure = match policy {
            OnFailure::Cancel => v1::OnFailure::Cancel,
            OnFailure::Run => v1::OnFailure::Run,
        }
        .into();
        self
    }

    /// Nobody else takes its key so long after its end.
    #[must_use]
    pub fn key_window(mut self, window: Duration) -> Self {
        self.0.key_window = Some(pb_duration(window));
        self
    }

    /// Its tenant, customer or document: groups take turns, and each has limits of its own.
    #[must_use]
    pub fn group(mut self, group: impl Into<String>) -> Self {
        self.0.group = group.into();
        self
    }

    /// Names this task across retries of its creation, also by other programs: equal ids within ten minutes make one
    /// task. Retries inside this client need none; they are named by themselves.
    #[must_use]
    pub fn request_id(mut self, id: impl Into<String>) -> Self {
        self.0.request_id = id.into();
        self
    }
}

/// What becomes of a task if one that it comes after is dead, or was cancelled, purged or ended by its TTL.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnFailure {
    /// It is cancelled.
    #[default]
    Cancel,
    /// It is delivered once the others have ended, too.
    Run,
}

/// The task that a create is answered with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Created {
    /// Its id.
    pub id: TaskId,
    /// It was there before, with the key of the new one, which was not created. The answer to a repeat does not tell: false.
    pub existed: bool,
}

/// What becomes of a new task whose key an open one has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum KeyPolicy {
    /// It fails with `KEY_TAKEN`; [`Error::task`] is the one that has the key.
    #[default]
    Fail,
    /// It is not created: the answer is the id of the one that has the key.
    Keep,
    /// The one that has the key is cancelled; if it is leased, the new one fails with `KEY_TAKEN`.
    Replace,
    /// The one that has the key takes payload, metadata and, if later, the due time of the new one, and is the answer; if it is
    /// leased, the new one fails with `KEY_TAKEN`.
    Debounce,
}

impl KeyPolicy {
    fn to_pb(self) -> v1::KeyPolicy {
        match self {
            Self::Fail => v1::KeyPolicy::Fail,
            Self::Keep => v1::KeyPolicy::Keep,
            Self::Replace => v1::KeyPolicy::Replace,
            Self::Debounce => v1::KeyPolicy::Debounce,
        }
    }
}

/// How failures are retried: wait `initial * multiplier^(failures - 1)`, at most `max`, with jitter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Wait after the first failure.
    pub initial: Duration,
    /// Longest wait.
    pub max: Duration,
    /// Factor between waits in hundredths, 100 to 10,000; 200 doubles.
    pub multiplier_percent: u32,
    /// Part of the wait that is drawn by chance, 0 to 100.
    pub jitter_percent: u32,
}

impl RetryPolicy {
    pub(crate) fn to_pb(self) -> v1::RetryPolicy {
        v1::RetryPolicy {
            initial_delay: Some(pb_duration(self.initial)),
            max_delay: Some(pb_duration(self.max)),
            multiplier_percent: Some(self.multiplier_percent),
            jitter_percent: Some(self.jitter_percent),
        }
    }
}

/// A delivery: a task and the lease under which it was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// Its id.
    pub id: TaskId,
    /// The lease; larger with every delivery, so it can fence writes elsewhere.
    pub token: Token,
    /// Its queue.
    pub queue: Arc<str>,
    /// As created. Shares one allocation with its batch: copy what is kept for long.
    pub payload: Bytes,
    /// As created.
    pub metadata: BTreeMap<String, String>,
    /// Lower goes first.
    pub priority: u8,
    /// When it was due.
    pub deliver_at: Millis,
    /// When it was created.
    pub created_at: Millis,
    /// When the lease ends, by the shard's clock.
    pub lease_until: Millis,
    /// Deliveries so far, this one included.
    pub deliveries: u32,
    /// Failures so far.
    pub failures: u32,
    /// Its key, if it has one.
    pub key: Option<String>,
    /// Its group, if it has one.
    pub group: Option<String>,
}

impl Task {
    pub(crate) fn from_pb(task: v1::LeasedTask, queue: &Arc<str>) -> Result<Self, Error> {
        Ok(Self {
            id: convert::task_id(&task.id, "tasks.id")?,
            token: Token(task.token),
            queue: Arc::clone(queue),
            payload: task.payload,
            metadata: task.metadata,
            priority: u8::try_from(task.priority).unwrap_or(u8::MAX),
            deliver_at: time(task.deliver_at, "tasks.deliver_at")?,
            created_at: time(task.created_at, "tasks.created_at")?,
            lease_until: time(task.lease_until, "tasks.lease_until")?,
            deliveries: task.deliveries,
            failures: task.failures,
            key: Some(task.key).filter(|key| !key.is_empty()),
            group: Some(task.group).filter(|group| !group.is_empty()),
        })
    }

    /// Returns the word that settles this delivery.
    #[must_use]
    pub fn settle(&self, verdict: Verdict) -> Settlement {
        Settlement { id: self.id, token: self.token, verdict }
    }
}

/// What became of a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Done: forget the task, or keep it as long as its queue's retention says.
    Ack,
    /// Done, with something to keep beside the task, if its queue keeps finished ones.
    AckWith {
        /// At most 64 KiB.
        result: Bytes,
    },
    /// Failed: counts against `max_attempts`.
    Nack {
        /// Wait before the next delivery; None: by the retry policy.
        delay: Option<Duration>,
        /// Nothing of the task's group is delivered for so long: somebody asked for a rest. At most 24 h.
        slow_group: Option<Duration>,
        /// Kept with the task as its last error; what is past 1,024 bytes is cut off.
        reason: String,
    },
    /// Failed, and would fail again: the task is dead, whatever attempts it has left.
    NackDead {
        /// As in `Nack`.
        reason: String,
    },
    /// Given back: nobody's fault, counts no failure.
    Release {
        /// Wait before the next delivery.
        delay: Duration,
    },
    /// Keep it: the lease ends so long from now.
    Extend {
        /// 100 ms to 12 h.
        lease: Duration,
    },
    /// Keep it, and say how far it is.
    ExtendWith {
        /// 100 ms to 12 h.
        lease: Duration,
        /// Kept with the task until another one; what is past 1,024 bytes is cut off.
        progress: String,
    },
}

impl Verdict {
    /// Returns whether the lease goes on.
    pub(crate) fn extends(&self) -> bool {
        matches!(self, Self::Extend { .. } | Self::ExtendWith { .. })
    }
}

/// One word on one lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settlement {
    /// The task.
    pub id: TaskId,
    /// The lease it was delivered under.
    pub token: Token,
    /// What became of it.
    pub verdict: Verdict,
}

impl Settlement {
    pub(crate) fn to_pb(&self) -> v1::Settlement {
        use v1::settlement::Verdict as Pb;

        let extend =
            |lease, progress| Pb::Extend(v1::Extend { lease_duration: Some(pb_duration(lease)), progress });
        let verdict = match &self.verdict {
            Verdict::Ack => Pb::Ack(v1::Ack::default()),
            Verdict::AckWith { result } => Pb::Ack(v1::Ack { result: result.clone() }),
            Verdict::Nack { delay, slow_group, reason } => Pb::Nack(v1::Nack {
                delay: delay.map(pb_duration),
                slow_group: slow_group.map(pb_duration),
                reason: cut(reason).to_owned(),
                dead: false,
            }),
            Verdict::NackDead { reason } => {
                Pb::Nack(v1::Nack { reason: cut(reason).to_owned(), dead: true, ..Default::default() })
            }
            Verdict::Release { delay } => {
                Pb::Release(v1::Release { delay: (!delay.is_zero()).then(|| pb_duration(*delay)) })
            }
            Verdict::Extend { lease } => extend(*lease, String::new()),
            Verdict::ExtendWith { lease, progress } => extend(*lease, cut(progress).to_owned()),
        };
        v1::Settlement { id: self.id.to_string(), token: self.token.0, verdict: Some(verdict) }
    }
}

/// Returns as much of a failure's reason as is kept with a task, cut at a character boundary. The server would cut it
/// too, but a thousand uncut ones may make a frame it does not read at all.
pub(crate) fn cut(reason: &str) -> &str {
    let mut end = reason.len().min(REASON_BYTES_MAX);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    &reason[..end]
}

/// Returns a span as its message; one past 10,000 years is cut there.
pub(crate) fn pb_duration(span: Duration) -> z4_proto::Duration {
    let ms = span.as_nanos().div_ceil(1_000_000);
    convert::pb_duration(z4_types::Duration(u64::try_from(ms).unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_cut_at_a_character_boundary() {
        let check = |text: &str, kept: usize| assert_eq!(cut(text), &text[..kept]);
        check("", 0);
        check(&"x".repeat(REASON_BYTES_MAX), REASON_BYTES_MAX);
        check(&"x".repeat(REASON_BYTES_MAX + 1), REASON_BYTES_MAX);
        // Two bytes each, after an odd one: the limit falls into a character.
        check(&format!("x{}", "é".repeat(REASON_BYTES_MAX)), REASON_BYTES_MAX - 1);
    }
}
