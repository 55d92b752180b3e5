//! Changes of tasks that are there: one by its id, some by their ids, all of a queue that pass a filter; and why one is not
//! running.

use std::time::Duration;

use bytes::Bytes;
use z4_proto::convert::timestamp;
use z4_proto::v1;
use z4_types::{Millis, TaskId};

use crate::call::Again;
use crate::client::{about, incomplete, per_item, tasks};
use crate::endpoints::About;
use crate::task::pb_duration;
use crate::{Client, Error};

/// A change of a task that waits: what it names is set, the rest stays.
///
/// ```
/// # use std::time::Duration;
/// # use z4_client::TaskPatch;
/// let patch = TaskPatch::new().delay(Duration::from_secs(60)).priority(10);
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
#[must_use]
pub struct TaskPatch {
    update: v1::TaskUpdate,
    paths: Vec<String>,
    etag: String,
}

impl TaskPatch {
    /// Returns a change of nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns whether it changes nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }

    /// Due at a point in time.
    pub fn deliver_at(mut self, time: Millis) -> Self {
        self.update.schedule = Some(v1::task_update::Schedule::DeliverAt(timestamp(time)));
        self.named("schedule")
    }

    /// Due so long from now.
    pub fn delay(mut self, delay: Duration) -> Self {
        self.update.schedule = Some(v1::task_update::Schedule::Delay(pb_duration(delay)));
        self.named("schedule")
    }

    /// 0 to 255, lower goes first.
    pub fn priority(mut self, priority: u8) -> Self {
        self.update.priority = Some(priority.into());
        self.named("priority")
    }

    /// What the consumer gets.
    pub fn payload(mut self, payload: impl Into<Bytes>) -> Self {
        self.update.payload = Some(payload.into());
        self.named("payload")
    }

    /// Adds a label to the new ones, which replace all that the task has.
    pub fn metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.update.metadata.insert(key.into(), value.into());
        self.named("metadata")
    }

    /// The task has no labels any more, but those that are given.
    pub fn clear_metadata(self) -> Self {
        self.named("metadata")
    }

    /// Only if the task still has this etag; else the update fails with reason `TASK_CHANGED`.
    pub fn if_etag(mut self, etag: impl Into<String>) -> Self {
        self.etag = etag.into();
        self
    }

    /// Returns the request that makes this change, without the task.
    fn into_pb(self) -> v1::UpdateTaskRequest {
        let Self { update, paths, etag } = self;
        let update_mask = Some(z4_proto::FieldMask { paths });
        v1::UpdateTaskRequest { update: Some(update), update_mask, etag, ..Default::default() }
    }

    fn named(mut self, path: &str) -> Self {
        if !self.paths.iter().any(|known| known == path) {
            self.paths.push(path.to_owned());
        }
        self
    }
}

/// Tasks of a queue that pass a filter, such as `state = dead AND last_error:timeout`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// The queue.
    pub queue: String,
    /// Which of its tasks.
    pub filter: String,
    /// Change nothing, count.
    pub dry_run: bool,
    /// `next` of the call before; empty: the first one.
    pub page_token: String,
}

impl Selection {
    fn to_pb(&self) -> v1::Selection {
        let Self { queue, filter, dry_run, page_token } = self.clone();
        v1::Selection { queue, filter, dry_run, page_token }
    }
}

/// What one call did to the tasks of a [`Selection`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Matched {
    /// Tasks that passed and were changed; in a dry run, that would have been.
    pub changed: u64,
    /// Tasks that passed, and were not there any more as they were listed.
    pub skipped: u64,
    /// Token of the next call; None: all were met.
    pub next: Option<String>,
}

impl Matched {
    fn from_pb(matched: Option<v1::Matched>) -> Result<Self, Error> {
        let v1::Matched { changed, skipped, next_page_token } = matched.ok_or_else(|| incomplete("count"))?;
        Ok(Self { changed, skipped, next: Some(next_page_token).filter(|token| !token.is_empty()) })
    }
}

/// A task after its change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Updated {
    /// Its etag.
    pub etag: String,
    /// When it is due.
    pub deliver_at: Millis,
}

/// Returns ids and etags as requests name them.
fn names(targets: &[(TaskId, Option<&str>)]) -> (Vec<String>, Vec<String>) {
    let ids = targets.iter().map(|(id, _)| id.to_string()).collect();
    let any = targets.iter().all(|(_, etag)| etag.is_none());
    let etags = targets.iter().map(|(_, etag)| etag.unwrap_or_default().to_owned());
    (ids, if any { Vec::new() } else { etags.collect() })
}

fn about_first(targets: &[(TaskId, Option<&str>)]) -> About<'static> {
    targets.first().map_or(About::Nothing, |(id, _)| about(*id))
}

impl Client {
    /// Changes a task that waits.
    ///
    /// # Errors
    /// `NotFound`; `Conflict`, reason `TASK_LEASED` if a consumer holds it, `TASK_STATE` if it is dead, `TASK_CHANGED` if it has
    /// another etag than the patch names; `Invalid` with the field; any other kind.
    pub async fn update(&self, id: TaskId, patch: TaskPatch) -> Result<Updated, Error> {
        let request = v1::UpdateTaskRequest { id: id.to_string(), ..patch.into_pb() };
        self.update_one(about(id), request).await
    }

    /// Changes the open task of a queue that has this key, if it waits.
    ///
    /// # Errors
    /// As [`Client::update`].
    pub async fn update_by_key(&self, queue: &str, key: &str, patch: TaskPatch) -> Result<Updated, Error> {
        let request = v1::UpdateTaskRequest { queue: queue.into(), key: key.into(), ..patch.into_pb() };
        self.update_one(About::Queue(queue), request).await
    }

    async fn update_one(&self, about: About<'_>, request: v1::UpdateTaskRequest) -> Result<Updated, Error> {
        let send = |c, r| async move { tasks(c).update_task(r).await };
        let reply = self.call(about, Again::IfNotDone, request, send).await?;
        self.endpoints().leads(about, &reply.forwarded_to);
        let deliver_at = reply.deliver_at.ok_or_else(|| incomplete("time"))?;
        let deliver_at = z4_proto::convert::millis(deliver_at, "deliver_at")?;
        Ok(Updated { etag: reply.etag, deliver_at })
    }

    /// Changes the tasks of a selection that wait, as many as one call has time for.
    ///
    /// # Errors
    /// `NotFound` if there is no such queue; `Invalid` with the field; any other kind. What was changed stays changed.
    pub async fn update_all(&self, selection: &Selection, patch: TaskPatch) -> Result<Matched, Error> {
        let TaskPatch { update, paths, .. } = patch;
        let request = v1::UpdateTasksRequest {
            selection: Some(selection.to_pb()),
            update: Some(update),
            update_mask: Some(z4_proto::FieldMask { paths }),
        };
        let about = About::Queue(&selection.queue);
        let send = |c, r| async move { tasks(c).update_tasks(r).await };
        let reply = self.call(about, Again::IfNotDone, request, send).await?;
        self.endpoints().leads(about, &reply.forwarded_to);
        Matched::from_pb(reply.matched)
    }

    /// Ends tasks, whatever their state, those with an etag only if they still have it; one result each, in order.
    ///
    /// # Errors
    /// Any kind, for the whole batch of at most 8,192.
    pub async fn cancel_if(
        &self,
        targets: &[(TaskId, Option<&str>)],
    ) -> Result<Vec<Result<(), Error>>, Error> {
        let (ids, etags) = names(targets);
        let request = v1::CancelTasksRequest { ids, etags, ..Default::default() };
        let about = about_first(targets);
        let send = |c, r| async move { tasks(c).cancel_tasks(r).await };
        let reply = self.call(about, Again::IfNotDone, request, send).await?;
        self.endpoints().leads(about, &reply.forwarded_to);
        Ok(per_item(std::iter::repeat_n((), targets.len()), reply.errors))
    }

    /// Ends the tasks of a selection, as many as one call has time for. The selection must name a filter.
    ///
    /// # Errors
    /// As [`Client::update_all`].
    pub async fn cancel_all(&self, selection: &Selection) -> Result<Matched, Error> {
        let request = v1::CancelTasksRequest { selection: Some(selection.to_pb()), ..Default::default() };
        let about = About::Queue(&selection.queue);
        let send = |c, r| async move { tasks(c).cancel_tasks(r).await };
        let reply = self.call(about, Again::IfNotDone, request, send).await?;
        self.endpoints().leads(about, &reply.forwarded_to);
        Matched::from_pb(reply.matched)
    }

    /// Makes waiting tasks due at once; one result each, in order.
    ///
    /// # Errors
    /// As [`Client::cancel_if`].
    pub async fn run(&self, targets: &[(TaskId, Option<&str>)]) -> Result<Vec<Result<(), Error>>, Error> {
        let (ids, etags) = names(targets);
        let request = v1::RunTasksRequest { ids, etags, selection: None };
        let about = about_first(targets);
        let send = |c, r| async move { tasks(c).run_tasks(r).await };
        let reply = self.call(about, Again::IfNotDone, request, send).await?;
        self.endpoints().leads(about, &reply.forwarded_to);
        Ok(per_item(std::iter::repeat_n((), targets.len()), reply.errors))
    }

    /// Makes the scheduled tasks of a selection due, as many as one call has time for.
    ///
    /// # Errors
    /// As [`Client::update_all`].
    pub async fn run_all(&self, selection: &Selection) -> Result<Matched, Error> {
        let request = v1::RunTasksRequest { selection: Some(selection.to_pb()), ..Default::default() };
        let about = About::Queue(&selection.queue);
        let send = |c, r| async move { tasks(c).run_tasks(r).await };
        let reply = self.call(about, Again::IfNotDone, request, send).await?;
        self.endpoints().leads(about, &reply.forwarded_to);
        Matched::from_pb(reply.matched)
    }

    /// Gives dead tasks all their attempts again; one result each, in order. With a rate, each is due so much later than the one
    /// before that it is met; None: all at once.
    ///
    /// # Errors
    /// As [`Client::cancel_if`].
    pub async fn redrive(
        &self,
        targets: &[(TaskId, Option<&str>)],
        per_second: Option<f64>,
    ) -> Result<Vec<Result<(), Error>>, Error> {
        let (ids, etags) = names(targets);
        let rate = per_second.unwrap_or(0.0);
        let request = v1::RedriveTasksRequest { ids, etags, rate, ..Default::default() };
        let about = about_first(targets);
        let send = |c, r| async move { tasks(c).redrive_tasks(r).await };
        let reply = self.call(about, Again::IfNotDone, request, send).await?;
        self.endpoints().leads(about, &reply.forwarded_to);
        Ok(per_item(std::iter::repeat_n((), targets.len()), reply.errors))
    }

    /// Gives the dead tasks of a selection all their attempts again, as many as one call has time for.
    ///
    /// # Errors
    /// As [`Client::update_all`].
    pub async fn redrive_all(
        &self,
        selection: &Selection,
        per_second: Option<f64>,
    ) -> Result<Matched, Error> {
        let (selected, rate) = (Some(selection.to_pb()), per_second.unwrap_or(0.0));
        let request = v1::RedriveTasksRequest { selection: selected, rate, ..Default::default() };
        let about = About::Queue(&selection.queue);
        let send = |c, r| async move { tasks(c).redrive_tasks(r).await };
        let reply = self.call(about, Again::IfNotDone, request, send).await?;
        self.endpoints().leads(about, &reply.forwarded_to);
        Matched::from_pb(reply.matched)
    }

    /// Returns why a task is not running, and what would change that.
    ///
    /// # Errors
    /// `NotFound` if it never was or has ended; any other kind.
    pub async fn explain(&self, id: TaskId) -> Result<v1::Explanation, Error> {
        let request = v1::ExplainTaskRequest { id: id.to_string() };
        let send = |c, r| async move { tasks(c).explain_task(r).await };
        let reply = self.call(about(id), Again::Always, request, send).await?;
        self.endpoints().leads(about(id), &reply.forwarded_to);
        reply.explanation.ok_or_else(|| incomplete("explanation"))
    }
}
