//! Queues as their owners see them: settings, pauses, purges, statistics.

use std::time::Duration;

use tonic::transport::Channel;
use z4_proto::v1;
use z4_proto::v1::queues_client::QueuesClient;

use crate::call::Again;
use crate::client::incomplete;
use crate::endpoints::About;
use crate::task::{RetryPolicy, pb_duration};
use crate::{Client, Error};

/// A change of a queue's settings: what it names is set or cleared, the rest stays. Limits are checked by the server, which
/// answers with the field.
///
/// ```
/// # use std::time::Duration;
/// # use z4_client::QueuePatch;
/// let patch = QueuePatch::new().lease_duration(Duration::from_secs(60)).rate(100.0, None).unset("default_ttl");
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
#[must_use]
pub struct QueuePatch {
    settings: v1::QueueSettings,
    /// Paths of all that is set or cleared.
    paths: Vec<String>,
    etag: String,
    allow_missing: bool,
}

impl QueuePatch {
    /// Returns a change of nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns whether it changes nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }

    /// Returns what it sets.
    pub(crate) fn into_settings(self) -> v1::QueueSettings {
        self.settings
    }

    /// Only if the queue's settings still have this etag; else the update fails with reason `ETAG_MISMATCH`.
    pub fn if_etag(mut self, etag: impl Into<String>) -> Self {
        self.etag = etag.into();
        self
    }

    /// An update makes the queue if it is not there.
    pub fn or_create(mut self) -> Self {
        self.allow_missing = true;
        self
    }

    /// Clears a setting, named by its field, such as `rate` or `groups.weight`: it follows policies and defaults again.
    pub fn unset(self, field: impl Into<String>) -> Self {
        self.with(field, |_| {})
    }

    /// How long a lease holds whose consumer names no time, 100 ms to 12 h.
    pub fn lease_duration(self, span: Duration) -> Self {
        self.with("lease_duration", |settings| settings.lease_duration = Some(pb_duration(span)))
    }

    /// How failures are retried where the task does not say.
    pub fn retry(self, policy: RetryPolicy) -> Self {
        self.with("retry", |settings| settings.retry = Some(policy.to_pb()))
    }

    /// Failures until a task is dead, where the task does not say.
    pub fn max_attempts(self, attempts: u32) -> Self {
        self.with("max_attempts", |settings| settings.max_attempts = Some(attempts))
    }

    /// A failure with exactly one of these reasons is the last one of its task.
    pub fn non_retryable_reasons<R: Into<String>>(self, reasons: impl IntoIterator<Item = R>) -> Self {
        let reasons = reasons.into_iter().map(Into::into).collect();
        self.with("non_retryable_reasons", |settings| {
            settings.non_retryable_reasons = Some(v1::ReasonList { reasons });
        })
    }

    /// Finished tasks are kept so long, and at most so many of them.
    pub fn retention(self, age: Duration, count: Option<u64>) -> Self {
        let retention = v1::Retention { age: Some(pb_duration(age)), count };
        self.with("retention", |settings| settings.retention = Some(retention))
    }

    /// TTL of tasks that name none.
    pub fn default_ttl(self, ttl: Duration) -> Self {
        self.with("default_ttl", |settings| settings.default_ttl = Some(pb_duration(ttl)))
    }

    /// Priority of tasks that name none; lower goes first.
    pub fn default_priority(self, priority: u8) -> Self {
        self.with("default_priority", |settings| settings.default_priority = Some(priority.into()))
    }

    /// Tasks to be done beyond which creations are refused with reason `QUEUE_FULL`.
    pub fn max_backlog(self, tasks: u64) -> Self {
        self.with("max_backlog", |settings| settings.max_backlog = Some(tasks))
    }

    /// Deliveries of the whole queue a second, and at once after a pause; None: one second's worth.
    pub fn rate(self, per_second: f64, burst: Option<u32>) -> Self {
        self.with("rate", |settings| settings.rate = Some(v1::Rate { per_second, burst }))
    }

    /// Most leases of the whole queue at a time.
    pub fn concurrency(self, leases: u32) -> Self {
        self.with("concurrency", |settings| settings.concurrency = Some(leases))
    }

    /// Most leases of one group at a time.
    pub fn group_concurrency(self, leases: u32) -> Self {
        self.with_group("groups.concurrency", |groups| groups.concurrency = Some(leases))
    }

    /// Deliveries of one group; as [`QueuePatch::rate`].
    pub fn group_rate(self, per_second: f64, burst: Option<u32>) -> Self {
        self.with_group("groups.rate", |groups| groups.rate = Some(v1::Rate { per_second, burst }))
    }

    /// Share of one group among those that have tasks due.
    pub fn group_weight(self, weight: u32) -> Self {
        self.with_group("groups.weight", |groups| groups.weight = Some(weight))
    }

    /// Tasks of one group run one at a time, in order.
    pub fn group_serial(self, serial: bool) -> Self {
        self.with_group("groups.serial", |groups| groups.serial = Some(serial))
    }

    /// A waiting task rises by one priority each such span.
    pub fn ageing(self, span: Duration) -> Self {
        self.with("ageing", |settings| settings.ageing = Some(pb_duration(span)))
    }

    /// When the queue pauses by itself.
    pub fn breaker(self, breaker: v1::Breaker) -> Self {
        self.with("breaker", |settings| settings.breaker = Some(breaker))
    }

    /// Life-cycle events kept; 0: none.
    pub fn events_kept(self, events: u64) -> Self {
        self.with("events_kept", |settings| settings.events_kept = Some(events))
    }

    fn with(mut self, path: impl Into<String>, set: impl FnOnce(&mut v1::QueueSettings)) -> Self {
        set(&mut self.settings);
        self.paths.push(path.into());
        self
    }

    fn with_group(self, path: &str, set: impl FnOnce(&mut v1::GroupSettings)) -> Self {
        self.with(path, |settings| set(settings.groups.get_or_insert_default()))
    }
}

/// A part of a purge; see [`Client::purge_queue_part`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PurgedPart {
    /// Tasks that were ended, or forgotten if they had ended before.
    pub purged: u64,
    /// Token of the next part; None: all is purged.
    pub next: Option<String>,
}

pub(crate) fn queues(channel: Channel) -> QueuesClient<Channel> {
    QueuesClient::new(channel).max_decoding_message_size(z4_proto::MESSAGE_BYTES_MAX)
}

fn config(config: Option<v1::QueueConfig>) -> Result<v1::QueueConfig, Error> {
    config.ok_or_else(|| incomplete("queue"))
}

impl Client {
    /// Makes a queue before its first task. A queue needs no creation: its first task makes it, too.
    ///
    /// # Errors
    /// `AlreadyExists`, reason `QUEUE_EXISTS`; `Invalid` with the field; any other kind.
    pub async fn create_queue(&self, queue: &str, patch: QueuePatch) -> Result<v1::QueueConfig, Error> {
        let request = v1::CreateQueueRequest { queue: queue.into(), settings: Some(patch.settings) };
        let about = About::Queue(queue);
        let send = |c, r| async move { queues(c).create_queue(r).await };
        let reply = self.call(about, Again::IfNotDone, request, send).await?;
        self.endpoints().leads(about, &reply.forwarded_to);
        config(reply.config)
    }

    /// Changes the settings of a queue that the patch names.
    ///
    /// # Errors
    /// `NotFound` unless the patch says [`or_create`](QueuePatch::or_create); `Conflict`, reason `ETAG_MISMATCH`, if it
    /// names another etag; `Invalid` with the field; any other kind.
    pub async fn update_queue(&self, queue: &str, patch: QueuePatch) -> Result<v1::QueueConfig, Error> {
        let request = v1::UpdateQueueRequest {
            queue: queue.into(),
            settings: Some(patch.settings),
            update_mask: Some(z4_proto::FieldMask { paths: patch.paths }),
            etag: patch.etag,
            allow_missing: patch.allow_missing,
        };
        let about = About::Queue(queue);
        let send = |c, r| async move { queues(c).update_queue(r).await };
        let reply = self.call(about, Again::IfNotDone, request, send).await?;
        self.endpoints().leads(about, &reply.forwarded_to);
        config(reply.config)
    }

    /// Removes a queue that holds no task; with an etag, only if its settings still have it.
    ///
    /// # Errors
    /// `Conflict`, reason `QUEUE_NOT_EMPTY` or `ETAG_MISMATCH`; `NotFound`; any other kind.
    pub async fn delete_queue(&self, queue: &str, etag: Option<&str>) -> Result<(), Error> {
        let request = v1::DeleteQueueRequest { queue: queue.into(), etag: etag.unwrap_or_default().into() };
        let about = About::Queue(queue);
        let send = |c, r| async move { queues(c).delete_queue(r).await };
        let reply = self.call(about, Again::IfNotDone, request, send).await?;
        self.endpoints().leads(about, &reply.forwarded_to);
        Ok(())
    }

    /// Returns what was set of a queue, what is in effect, and why.
    ///
    /// # Errors
    /// `NotFound` if there is no such queue; any other kind.
    pub async fn queue_config(&self, queue: &str) -> Result<v1::QueueConfig, Error> {
        let request = v1::GetQueueSettingsRequest { queue: queue.into() };
        let about = About::Queue(queue);
        let send = |c, r| async move { queues(c).get_queue_settings(r).await };
        let reply = self.call(about, Again::Always, request, send).await?;
        self.endpoints().leads(about, &reply.forwarded_to);
        config(reply.config)
    }

    /// Stops deliveries from a queue. Leases that are out stay valid, and tasks may still be created.
    ///
    /// # Errors
    /// `NotFound` if there is no such queue; any other kind.
    pub async fn pause_queue(&self, queue: &str, note: &str, author: &str) -> Result<(), Error> {
        let request = v1::PauseQueueRequest { queue: queue.into(), note: note.into(), author: author.into() };
        let about = About::Queue(queue);
        let send = |c, r| async move { queues(c).pause_queue(r).await };
        let reply = self.call(about, Again::Always, request, send).await?;
        self.endpoints().leads(about, &reply.forwarded_to);
        Ok(())
    }

    /// Delivers from a queue again.
    ///
    /// # Errors
    /// As [`Client::pause_queue`].
    pub async fn resume_queue(&self, queue: &str) -> Result<(), Error> {
        let request = v1::ResumeQueueRequest { queue: queue.into() };
        let about = About::Queue(queue);
        let send = |c, r| async move { queues(c).resume_queue(r).await };
        let reply = self.call(about, Again::Always, request, send).await?;
        self.endpoints().leads(about, &reply.forwarded_to);
        Ok(())
    }

    /// Ends all tasks of these states that are in the queue now (none named: those that wait), call by call until it is
    /// done; returns how many.
    ///
    /// # Errors
    /// `NotFound` if there is no such queue; any other kind. What was purged stays purged.
    pub async fn purge_queue(&self, queue: &str, states: &[v1::PurgeState]) -> Result<u64, Error> {
        let mut purged = 0;
        let mut token = None;
        loop {
            let part = self.purge_queue_part(queue, states, token.as_deref()).await?;
            purged += part.purged;
            match part.next {
                Some(next) => token = Some(next),
                None => return Ok(purged),
            }
        }
    }

    /// Ends as many tasks as one call has time for: the first part without a token, the others with that of the one before. One
    /// with a token whose answer is lost is asked for again, and what the lost one purged is not counted; the first is not:
    /// it would take tasks that came since.
    ///
    /// # Errors
    /// As [`Client::purge_queue`].
    pub async fn purge_queue_part(
        &self,
        queue: &str,
        states: &[v1::PurgeState],
        token: Option<&str>,
    ) -> Result<PurgedPart, Error> {
        let request = v1::PurgeQueueRequest {
            queue: queue.into(),
            states: states.iter().map(|state| *state as i32).collect(),
            page_token: token.unwrap_or_default().into(),
        };
        let about = About::Queue(queue);
        let send = |c, r| async move { queues(c).purge_queue(r).await };
        let again = if token.is_some() { Again::Always } else { Again::IfNotDone };
        let reply = self.call(about, again, request, send).await?;
        self.endpoints().leads(about, &reply.forwarded_to);
        let next = Some(reply.next_page_token).filter(|token| !token.is_empty());
        Ok(PurgedPart { purged: reply.purged, next })
    }

    /// Returns what a queue counts. Costs the same at any backlog.
    ///
    /// # Errors
    /// `NotFound` if there is no such queue; any other kind.
    pub async fn queue_stats(&self, queue: &str) -> Result<v1::QueueStats, Error> {
        let request = v1::GetQueueStatsRequest { queue: queue.into() };
        let about = About::Queue(queue);
        let send = |c, r| async move { queues(c).get_queue_stats(r).await };
        let reply = self.call(about, Again::Always, request, send).await?;
        self.endpoints().leads(about, &reply.forwarded_to);
        reply.stats.ok_or_else(|| incomplete("stats"))
    }
}
