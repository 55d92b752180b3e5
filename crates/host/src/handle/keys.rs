//! What is asked of tasks by their key. A queue is on one shard, so its keys are.

use z4_tasks::TaskInfo;
use z4_tasks::command::{Target, Which};
use z4_tasks::outcome::Refusal;
use z4_types::{Millis, QueueName};

use super::Handle;
use crate::error::Error;
use crate::shard::Read;

impl Handle {
    /// Returns the task of `queue` that has `key`, as [`Handle::get`] does: the open one, or the one that had it last, as long as
    /// its window lasts and it is kept.
    ///
    /// # Errors
    /// `KeyNotFound`, or as [`Handle::create`].
    pub async fn get_by_key(&self, queue: QueueName, key: String) -> Result<(Millis, TaskInfo), Error> {
        let shard = self.shard_of(&queue);
        let (of, named) = (queue.clone(), key.clone());
        let (now, found) = self.read(shard, |reply| Read::GetByKey { queue: of, key: named, reply }).await?;
        found.map(|info| (now, info)).ok_or(Error::KeyNotFound { queue, key })
    }

    /// Ends the open tasks of `queue` that have these keys. Answers are in the order given.
    ///
    /// # Errors
    /// As [`Handle::settle`].
    pub async fn cancel_by_key(
        &self,
        queue: QueueName,
        keys: Vec<String>,
    ) -> Result<Vec<Result<(), Refusal>>, Error> {
        let target = |key| Target { which: Which::Key { queue: queue.clone(), key }, etag: None };
        self.cancel_if(keys.into_iter().map(target).collect()).await
    }
}
