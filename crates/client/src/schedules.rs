//! Schedules: tasks that are made by the calendar.

use std::time::Duration;

use bytes::Bytes;
use tonic::transport::Channel;
use z4_proto::convert::{self, timestamp};
use z4_proto::v1;
use z4_proto::v1::schedules_client::SchedulesClient;
use z4_types::{Millis, TaskId};

use crate::call::Again;
use crate::client::incomplete;
use crate::endpoints::About;
use crate::task::{NewTask, RetryPolicy, pb_duration};
use crate::{Client, Error, random};

/// A new schedule, or a change of one: what it names is set or cleared, the rest stays. Limits, expressions and zones are
/// checked by the server, which answers with the field.
///
/// ```
/// # use std::time::Duration;
/// # use z4_client::{NewTask, OverlapPolicy, SchedulePatch};
/// let nightly = SchedulePatch::new()
///     .cron("30 2 * * MON-FRI")
///     .time_zone("Europe/Berlin")
///     .overlap(OverlapPolicy::BufferOne)
///     .task(NewTask::new("report").ttl(Duration::from_secs(3_600)));
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
#[must_use]
pub struct SchedulePatch {
    schedule: v1::Schedule,
    /// Paths of all that is set or cleared.
    paths: Vec<String>,
    etag: String,
    allow_missing: bool,
}

impl SchedulePatch {
    /// Returns a change of nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns whether it changes nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }

    /// Only if the schedule still has this etag; else the update fails with reason `ETAG_MISMATCH`.
    pub fn if_etag(mut self, etag: impl Into<String>) -> Self {
        self.etag = etag.into();
        self
    }

    /// An update makes the schedule if it is not there.
    pub fn or_create(mut self) -> Self {
        self.allow_missing = true;
        self
    }

    /// Gives a field its default again, named as in the API: `start_at`, `jitter`, `task.ttl`.
    pub fn unset(self, field: impl Into<String>) -> Self {
        self.with(field, |_| {})
    }

    /// When it fires: `0 9 * * MON-FRI`, with seconds `*/10 * * * * *`, `@daily`, `@every 90s`.
    pub fn cron(self, expression: impl Into<String>) -> Self {
        let expression = expression.into();
        self.with("cron", |schedule| schedule.cron = expression)
    }

    /// The zone whose clock it is read by, such as `Europe/Berlin`; UTC unless set.
    pub fn time_zone(self, zone: impl Into<String>) -> Self {
        let zone = zone.into();
        self.with("time_zone", |schedule| schedule.time_zone = zone)
    }

    /// No slot lies before it, and `@every` counts from it.
    pub fn start_at(self, time: Millis) -> Self {
        self.with("start_at", |schedule| schedule.start_at = Some(timestamp(time)))
    }

    /// No slot lies after it.
    pub fn end_at(self, time: Millis) -> Self {
        self.with("end_at", |schedule| schedule.end_at = Some(timestamp(time)))
    }

    /// What happens while the last task is open; it is skipped unless set.
    pub fn overlap(self, policy: v1::OverlapPolicy) -> Self {
        self.with("overlap", |schedule| schedule.overlap = policy.into())
    }

    /// A slot that is later than this makes no task; an hour unless set.
    pub fn catch_up_window(self, span: Duration) -> Self {
        self.with("catch_up_window", |schedule| schedule.catch_up_window = Some(pb_duration(span)))
    }

    /// Tasks are due up to so long after their slot.
    pub fn jitter(self, span: Duration) -> Self {
        self.with("jitter", |schedule| schedule.jitter = Some(pb_duration(span)))
    }

    /// The task of every slot, with all that is said of it.
    pub fn task(self, task: NewTask) -> Self {
        self.with("task", |schedule| schedule.task = Some(task.0))
    }

    /// What the consumer gets.
    pub fn payload(self, payload: impl Into<Bytes>) -> Self {
        let payload = payload.into();
        self.with_task("task.payload", |task| task.payload = payload)
    }

    /// The task's labels, all of them.
    pub fn metadata(self, pairs: impl IntoIterator<Item = (String, String)>) -> Self {
        let pairs = pairs.into_iter().collect();
        self.with_task("task.metadata", |task| task.metadata = pairs)
    }

    /// The task's order among due ones.
    pub fn priority(self, priority: u8) -> Self {
        self.with_task("task.priority", |task| task.priority = Some(priority.into()))
    }

    /// Failures until the task is dead.
    pub fn max_attempts(self, attempts: u32) -> Self {
        self.with_task("task.max_attempts", |task| task.max_attempts = Some(attempts))
    }

    /// How failures of the task are retried.
    pub fn retry(self, policy: RetryPolicy) -> Self {
        self.with_task("task.retry", |task| task.retry = Some(policy.to_pb()))
    }

    /// The task's group.
    pub fn group(self, group: impl Into<String>) -> Self {
        let group = group.into();
        self.with_task("task.group", |task| task.group = group)
    }

    /// The task expires so long after its creation.
    pub fn ttl(self, ttl: Duration) -> Self {
        self.with_task("task.ttl", |task| task.ttl = Some(pb_duration(ttl)))
    }

    fn with(mut self, path: impl Into<String>, set: impl FnOnce(&mut v1::Schedule)) -> Self {
        set(&mut self.schedule);
        self.paths.push(path.into());
        self
    }

    fn with_task(self, path: &str, set: impl FnOnce(&mut v1::NewTask)) -> Self {
        self.with(path, |schedule| set(schedule.task.get_or_insert_default()))
    }
}

/// What became of a run of a schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScheduleRun {
    /// It made this task.
    Created(TaskId),
    /// It is remembered until this task, which is open, has ended.
    Waits(TaskId),
}

fn schedules(channel: Channel) -> SchedulesClient<Channel> {
    SchedulesClient::new(channel).max_decoding_message_size(z4_proto::MESSAGE_BYTES_MAX)
}

fn status(schedule: Option<v1::ScheduleStatus>) -> Result<v1::ScheduleStatus, Error> {
    schedule.ok_or_else(|| incomplete("schedule"))
}

fn times(slots: Vec<z4_proto::Timestamp>) -> Result<Vec<Millis>, Error> {
    slots.into_iter().map(|slot| Ok(convert::millis(slot, "slots")?)).collect()
}

impl Client {
    /// Makes a schedule in a queue, which is made if it is not there.
    ///
    /// # Errors
    /// `AlreadyExists`, reason `SCHEDULE_EXISTS`; `Invalid`, reason `CRON_INVALID` or `ZONE_UNKNOWN` among others; any other kind.
    pub async fn create_schedule(
        &self,
        queue: &str,
        name: &str,
        patch: SchedulePatch,
    ) -> Result<v1::ScheduleStatus, Error> {
        let schedule = Some(patch.schedule);
        let request = v1::CreateScheduleRequest { queue: queue.into(), name: name.into(), schedule };
        let about = About::Queue(queue);
        let send = |c, r| async move { schedules(c).create_schedule(r).await };
        let reply = self.call(about, Again::IfNotDone, request, send).await?;
        self.endpoints().leads(about, &reply.forwarded_to);
        status(reply.schedule)
    }

    /// Changes what the patch names of a schedule.
    ///
    /// # Errors
    /// `NotFound` unless the patch says [`or_create`](SchedulePatch::or_create); `Conflict`, reason `ETAG_MISMATCH`, if it
    /// names another etag; `Invalid` as [`Client::create_schedule`]; any other kind.
    pub async fn update_schedule(
        &self,
        queue: &str,
        name: &str,
        patch: SchedulePatch,
    ) -> Result<v1::ScheduleStatus, Error> {
        let request = v1::UpdateScheduleRequest {
            queue: queue.into(),
            name: name.into(),
            schedule: Some(patch.schedule),
            update_mask: Some(z4_proto::FieldMask { paths: patch.paths }),
            etag: patch.etag,
            allow_missing: patch.allow_missing,
        };
        let about = About::Queue(queue);
        let send = |c, r| async move { schedules(c).update_schedule(r).await };
        let reply = self.call(about, Again::IfNotDone, request, send).await?;
        self.endpoints().leads(about, &reply.forwarded_to);
        status(reply.schedule)
    }

    /// Returns a schedule with its next slots.
    ///
    /// # Errors
    /// `NotFound`, reason `SCHEDULE_NOT_FOUND`; any other kind.
    pub async fn schedule(&self, queue: &str, name: &str) -> Result<v1::ScheduleStatus, Error> {
        let request = v1::GetScheduleRequest { queue: queue.into(), name: name.into() };
        let about = About::Queue(queue);
        let send = |c, r| async move { schedules(c).get_schedule(r).await };
        let reply = self.call(about, Again::Always, request, send).await?;
        self.endpoints().leads(about, &reply.forwarded_to);
        status(reply.schedule)
    }

    /// Returns a page of a queue's schedules by name: the first without a token, the others with that of the one before.
    /// The second value is the next page's token; None: that was the last.
    ///
    /// # Errors
    /// `NotFound` if there is no such queue; any other kind.
    pub async fn list_schedules(
        &self,
        queue: &str,
        token: Option<&str>,
    ) -> Result<(Vec<v1::ScheduleStatus>, Option<String>), Error> {
        let page_token = token.unwrap_or_default().into();
        let request = v1::ListSchedulesRequest { queue: queue.into(), page_size: 0, page_token };
        let about = About::Queue(queue);
        let send = |c, r| async move { schedules(c).list_schedules(r).await };
        let reply = self.call(about, Again::Always, request, send).await?;
        self.endpoints().leads(about, &reply.forwarded_to);
        Ok((reply.schedules, Some(reply.next_page_token).filter(|token| !token.is_empty())))
    }

    /// Stops a schedule; returns its etag. Slots that pass meanwhile make no tasks and are not made up.
    ///
    /// # Errors
    /// `NotFound`; any other kind. May be repeated.
    pub async fn pause_schedule(
        &self,
        queue: &str,
        name: &str,
        note: &str,
        author: &str,
    ) -> Result<String, Error> {
        let request = v1::PauseScheduleRequest {
            queue: queue.into(),
            name: name.into(),
            note: note.into(),
            author: author.into(),
            etag: String::new(),
        };
        let about = About::Queue(queue);
        let send = |c, r| async move { schedules(c).pause_schedule(r).await };
        let reply = self.call(about, Again::Always, request, send).await?;
        self.endpoints().leads(about, &reply.forwarded_to);
        Ok(reply.etag)
    }

    /// Lets a schedule fire again, from its first slot after now; returns its etag.
    ///
    /// # Errors
    /// As [`Client::pause_schedule`].
    pub async fn resume_schedule(&self, queue: &str, name: &str) -> Result<String, Error> {
        let request =
            v1::ResumeScheduleRequest { queue: queue.into(), name: name.into(), etag: String::new() };
        let about = About::Queue(queue);
        let send = |c, r| async move { schedules(c).resume_schedule(r).await };
        let reply = self.call(about, Again::Always, request, send).await?;
        self.endpoints().leads(about, &reply.forwarded_to);
        Ok(reply.etag)
    }

    /// Makes a schedule's task at once, whether or not it is paused. Retried under one request id.
    ///
    /// # Errors
    /// `Conflict`, reason `SCHEDULE_OVERLAPS`, if the last task is open and the policy skips; `NotFound`; any other kind.
    pub async fn run_schedule(&self, queue: &str, name: &str) -> Result<ScheduleRun, Error> {
        let request_id = random::request_id();
        let request = v1::RunScheduleRequest { queue: queue.into(), name: name.into(), request_id };
        let about = About::Queue(queue);
        // Not repeated once it may be done: a repeat of a run that is remembered would be refused.
        let send = |c, r| async move { schedules(c).run_schedule(r).await };
        let reply = self.call(about, Again::IfNotDone, request, send).await?;
        self.endpoints().leads(about, &reply.forwarded_to);
        Ok(match reply.task_id.as_str() {
            "" => ScheduleRun::Waits(convert::task_id(&reply.open_task_id, "open_task_id")?),
            id => ScheduleRun::Created(convert::task_id(id, "task_id")?),
        })
    }

    /// Forgets a schedule and its history; with an etag, only if it still has it. Its tasks stay.
    ///
    /// # Errors
    /// `NotFound`; `Conflict`, reason `ETAG_MISMATCH`; any other kind.
    pub async fn delete_schedule(&self, queue: &str, name: &str, etag: Option<&str>) -> Result<(), Error> {
        let etag = etag.unwrap_or_default().into();
        let request = v1::DeleteScheduleRequest { queue: queue.into(), name: name.into(), etag };
        let about = About::Queue(queue);
        let send = |c, r| async move { schedules(c).delete_schedule(r).await };
        let reply = self.call(about, Again::IfNotDone, request, send).await?;
        self.endpoints().leads(about, &reply.forwarded_to);
        Ok(())
    }

    /// Returns up to `count` slots of a schedule that are to come, at most 100.
    ///
    /// # Errors
    /// `NotFound`; any other kind.
    pub async fn next_slots(&self, queue: &str, name: &str, count: u32) -> Result<Vec<Millis>, Error> {
        let request =
            v1::ListSlotsRequest { queue: queue.into(), name: name.into(), count, ..Default::default() };
        let about = About::Queue(queue);
        let send = |c, r| async move { schedules(c).list_slots(r).await };
        let reply = self.call(about, Again::Always, request, send).await?;
        self.endpoints().leads(about, &reply.forwarded_to);
        times(reply.slots)
    }

    /// Returns up to `count` slots that an expression would have in a zone (empty: UTC), counted from now.
    ///
    /// # Errors
    /// `Invalid`, reason `CRON_INVALID` or `ZONE_UNKNOWN`; any other kind.
    pub async fn preview_slots(&self, cron: &str, zone: &str, count: u32) -> Result<Vec<Millis>, Error> {
        let request =
            v1::ListSlotsRequest { cron: cron.into(), time_zone: zone.into(), count, ..Default::default() };
        let send = |c, r| async move { schedules(c).list_slots(r).await };
        let reply = self.call(About::Nothing, Again::Always, request, send).await?;
        times(reply.slots)
    }

    /// Returns what became of the last slots of a schedule, the latest first; 0: all that are kept, 100.
    ///
    /// # Errors
    /// `NotFound`; any other kind.
    pub async fn schedule_history(
        &self,
        queue: &str,
        name: &str,
        limit: u32,
    ) -> Result<Vec<v1::SlotRecord>, Error> {
        let request = v1::ListScheduleHistoryRequest { queue: queue.into(), name: name.into(), limit };
        let about = About::Queue(queue);
        let send = |c, r| async move { schedules(c).list_schedule_history(r).await };
        let reply = self.call(about, Again::Always, request, send).await?;
        self.endpoints().leads(about, &reply.forwarded_to);
        Ok(reply.slots)
    }
}
