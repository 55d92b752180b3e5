//! Groups of a queue: limits of one, what one has, all of them; and what holds a whole queue back.

use z4_proto::v1;

use crate::call::Again;
use crate::client::incomplete;
use crate::endpoints::About;
use crate::queues::queues;
use crate::{Client, Error, Page};

/// A change of what is set of one group: what it names is set or cleared, the rest stays and follows the queue.
///
/// ```
/// # use z4_client::GroupPatch;
/// let patch = GroupPatch::new().weight(5).concurrency(2).unset("rate");
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
#[must_use]
pub struct GroupPatch {
    settings: v1::GroupSettings,
    paths: Vec<String>,
}

impl GroupPatch {
    /// Returns a change of nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns whether it changes nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }

    /// Clears a setting, named by its field: `weight`, `serial`, `concurrency` or `rate`.
    pub fn unset(self, field: impl Into<String>) -> Self {
        self.with(field, |_| {})
    }

    /// Its share among groups that have tasks due, 1 to 1,000.
    pub fn weight(self, weight: u32) -> Self {
        self.with("weight", |settings| settings.weight = Some(weight))
    }

    /// Its tasks run one at a time, in order.
    pub fn serial(self, serial: bool) -> Self {
        self.with("serial", |settings| settings.serial = Some(serial))
    }

    /// Most leases of it at a time.
    pub fn concurrency(self, leases: u32) -> Self {
        self.with("concurrency", |settings| settings.concurrency = Some(leases))
    }

    /// Its deliveries a second, and at once after a pause; None: one second's worth.
    pub fn rate(self, per_second: f64, burst: Option<u32>) -> Self {
        self.with("rate", |settings| settings.rate = Some(v1::Rate { per_second, burst }))
    }

    fn with(mut self, path: impl Into<String>, set: impl FnOnce(&mut v1::GroupSettings)) -> Self {
        set(&mut self.settings);
        self.paths.push(path.into());
        self
    }
}

impl Client {
    /// Changes limits and share of one group, which need not have tasks yet.
    ///
    /// # Errors
    /// `NotFound` if there is no such queue; `Invalid` with the field; `Overloaded`, reason `TOO_MANY_GROUPS`; any other kind.
    pub async fn set_group(&self, queue: &str, group: &str, patch: GroupPatch) -> Result<v1::Group, Error> {
        let request = v1::SetGroupRequest {
            queue: queue.into(),
            group: group.into(),
            settings: Some(patch.settings),
            update_mask: Some(z4_proto::FieldMask { paths: patch.paths }),
        };
        let about = About::Queue(queue);
        let send = |c, r| async move { queues(c).set_group(r).await };
        let reply = self.call(about, Again::Always, request, send).await?;
        self.endpoints().leads(about, &reply.forwarded_to);
        reply.group.ok_or_else(|| incomplete("group"))
    }

    /// Returns one group; one that has no tasks and of which nothing is set follows its queue.
    ///
    /// # Errors
    /// `NotFound` if there is no such queue; any other kind.
    pub async fn get_group(&self, queue: &str, group: &str) -> Result<v1::Group, Error> {
        let request = v1::GetGroupRequest { queue: queue.into(), group: group.into() };
        let about = About::Queue(queue);
        let send = |c, r| async move { queues(c).get_group(r).await };
        let reply = self.call(about, Again::Always, request, send).await?;
        self.endpoints().leads(about, &reply.forwarded_to);
        reply.group.ok_or_else(|| incomplete("group"))
    }

    /// Returns one page of a queue's groups: those with tasks, then those of which only limits are set. `page_size` 0 means
    /// 100; the first page has an empty token.
    ///
    /// # Errors
    /// As [`Client::get_group`].
    pub async fn list_groups(
        &self,
        queue: &str,
        page_size: u32,
        page_token: &str,
    ) -> Result<Page<v1::Group>, Error> {
        let request = v1::ListGroupsRequest { queue: queue.into(), page_size, page_token: page_token.into() };
        let about = About::Queue(queue);
        let send = |c, r| async move { queues(c).list_groups(r).await };
        let reply = self.call(about, Again::Always, request, send).await?;
        self.endpoints().leads(about, &reply.forwarded_to);
        let next = Some(reply.next_page_token).filter(|token| !token.is_empty());
        Ok(Page { items: reply.groups, next, freshness: None })
    }

    /// Returns what holds a queue back now: the obstacles, in the order in which they must go. None: consumers get tasks.
    ///
    /// # Errors
    /// As [`Client::get_group`].
    pub async fn explain_queue(&self, queue: &str) -> Result<v1::ExplainQueueResponse, Error> {
        let request = v1::ExplainQueueRequest { queue: queue.into() };
        let about = About::Queue(queue);
        let send = |c, r| async move { queues(c).explain_queue(r).await };
        let reply = self.call(about, Again::Always, request, send).await?;
        self.endpoints().leads(about, &reply.forwarded_to);
        Ok(reply)
    }
}
