//! Tasks named by queue and key instead of their id.

use z4_proto::v1;

use crate::call::Again;
use crate::client::{incomplete, per_item, tasks};
use crate::endpoints::About;
use crate::{Client, Error, StoredTask};

impl Client {
    /// Returns the task of a queue that has a key: the open one, or the one that had it last, as long as its window lasts and it
    /// is kept.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn get_by_key(&self, queue: &str, key: &str) -> Result<StoredTask, Error> {
        let request =
            v1::GetTaskRequest { queue: queue.to_owned(), key: key.to_owned(), ..Default::default() };
        let send = |c, r| async move { tasks(c).get_task(r).await };
        let reply = self.call(About::Queue(queue), Again::Always, request, send).await?;
        self.endpoints().leads(About::Queue(queue), &reply.forwarded_to);
        StoredTask::from_pb(reply.task.ok_or_else(|| incomplete("task"))?)
    }

    /// Ends the open tasks of a queue that have these keys; one result each, in order.
    ///
    /// # Errors
    /// As [`Client::cancel`].
    pub async fn cancel_by_key(&self, queue: &str, keys: &[String]) -> Result<Vec<Result<(), Error>>, Error> {
        let request =
            v1::CancelTasksRequest { queue: queue.to_owned(), keys: keys.to_vec(), ..Default::default() };
        let about = About::Queue(queue);
        let send = |c, r| async move { tasks(c).cancel_tasks(r).await };
        let reply = self.call(about, Again::IfNotDone, request, send).await?;
        self.endpoints().leads(about, &reply.forwarded_to);
        Ok(per_item(std::iter::repeat_n((), keys.len()), reply.errors))
    }
}
