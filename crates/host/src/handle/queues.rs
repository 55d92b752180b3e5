//! What is asked of whole queues and their groups: settings, pauses, purges, what they count, what holds them back.

use z4_tasks::command::{Command, Pause, Purge, SetGroup, SetQueue};
use z4_tasks::outcome::{Outcome, Purged, QueueSet, Refusal};
use z4_tasks::{GroupCursor, GroupInfo, GroupPage, GroupSettings, encode};
use z4_types::{Duration, Millis, QueueName, TaskId};

use super::{Handle, REQUEST_OVERHEAD, RETRY_AFTER};
use crate::error::Error;
use crate::shard::{Held, QueueCounts, QueueSetup, Read, Write};

impl Handle {
    /// Makes a queue or changes its settings.
    ///
    /// # Errors
    /// As [`Handle::create`]; after `Unknown`, its settings tell. A refusal is an answer.
    pub async fn set_queue(&self, set: SetQueue) -> Result<Result<QueueSet, Refusal>, Error> {
        let queue = set.queue.clone();
        match self.manage(&queue, &Command::SetQueue(Box::new(set))).await? {
            Outcome::QueueSet(answer) => Ok(answer),
            _ => unreachable!("an outcome is of its command's kind"),
        }
    }

    /// Forgets a queue that holds no task.
    ///
    /// # Errors
    /// As [`Handle::set_queue`].
    pub async fn delete_queue(
        &self,
        queue: QueueName,
        etag: Option<u64>,
    ) -> Result<Result<(), Refusal>, Error> {
        let command = Command::DeleteQueue { queue: queue.clone(), etag };
        match self.manage(&queue, &command).await? {
            Outcome::QueueDeleted(answer) => Ok(answer),
            _ => unreachable!("an outcome is of its command's kind"),
        }
    }

    /// Stops or resumes deliveries of a queue.
    ///
    /// # Errors
    /// As [`Handle::set_queue`].
    pub async fn pause_queue(&self, pause: Pause) -> Result<Result<(), Refusal>, Error> {
        let queue = pause.queue.clone();
        match self.manage(&queue, &Command::Pause(pause)).await? {
            Outcome::QueuePaused(answer) => Ok(answer),
            _ => unreachable!("an outcome is of its command's kind"),
        }
    }

    /// Ends a batch of a queue's tasks.
    ///
    /// # Errors
    /// As [`Handle::set_queue`]; after `Unknown` the batch may be purged, a repeat purges what is left.
    pub async fn purge(&self, purge: Purge) -> Result<Result<Purged, Refusal>, Error> {
        let queue = purge.queue.clone();
        match self.manage(&queue, &Command::Purge(purge)).await? {
            Outcome::Purged(answer) => Ok(answer),
            _ => unreachable!("an outcome is of its command's kind"),
        }
    }

    /// Returns what was set of a queue and what that comes to, and the shard time of the answer. An unknown queue is not
    /// created. Linearizable.
    ///
    /// # Errors
    /// `QueueNotFound`, or as [`Handle::create`].
    pub async fn queue_setup(&self, queue: QueueName) -> Result<(Millis, QueueSetup), Error> {
        let (shard, asked) = (self.shard_of(&queue), queue.clone());
        let (now, setup) = self.read(shard, |reply| Read::Setup { queue: asked, reply }).await?;
        if setup.exists { Ok((now, *setup)) } else { Err(Error::QueueNotFound(queue)) }
    }

    /// Returns how long a lease of `queue` holds whose consumer names no time, by what is set now.
    ///
    /// # Errors
    /// As [`Handle::create`].
    pub async fn lease_duration(&self, queue: QueueName) -> Result<Duration, Error> {
        let shard = self.shard_of(&queue);
        let (_, setup) = self.read(shard, |reply| Read::Setup { queue, reply }).await?;
        Ok(setup.config.effective.lease_duration)
    }

    /// Returns what a queue counts, and the shard time of the answer. Costs the same at any backlog. Linearizable.
    ///
    /// # Errors
    /// As [`Handle::queue_setup`].
    pub async fn queue_counts(&self, queue: QueueName) -> Result<(Millis, QueueCounts), Error> {
        let (shard, asked) = (self.shard_of(&queue), queue.clone());
        let (now, counts) = self.read(shard, |reply| Read::Counts { queue: asked, reply }).await?;
        counts.map(|counts| (now, counts)).ok_or(Error::QueueNotFound(queue))
    }

    /// Sets limits of one group, which need not have tasks; returns what is set of it now.
    ///
    /// # Errors
    /// As [`Handle::set_queue`].
    pub async fn set_group(&self, set: SetGroup) -> Result<Result<GroupSettings, Refusal>, Error> {
        let queue = set.queue.clone();
        match self.manage(&queue, &Command::SetGroup(set)).await? {
            Outcome::GroupSet(answer) => Ok(answer),
            _ => unreachable!("an outcome is of its command's kind"),
        }
    }

    /// Returns a page of a queue's groups, and the shard time of the answer. Linearizable, each page.
    ///
    /// # Errors
    /// As [`Handle::queue_setup`].
    pub async fn groups_of(
        &self,
        queue: QueueName,
        after: Option<GroupCursor>,
        limit: usize,
    ) -> Result<(Millis, GroupPage), Error> {
        let (shard, asked) = (self.shard_of(&queue), queue.clone());
        let (now, page) =
            self.read(shard, |reply| Read::Groups { queue: asked, after, limit, reply }).await?;
        page.map(|page| (now, page)).ok_or(Error::QueueNotFound(queue))
    }

    /// Returns one group, and the shard time of the answer. One that has no tasks and of which nothing is set follows its
    /// queue. Linearizable.
    ///
    /// # Errors
    /// As [`Handle::queue_setup`].
    pub async fn group_of(&self, queue: QueueName, group: String) -> Result<(Millis, GroupInfo), Error> {
        let (shard, asked) = (self.shard_of(&queue), queue.clone());
        let (now, info) = self.read(shard, |reply| Read::Group { queue: asked, group, reply }).await?;
        info.map(|info| (now, info)).ok_or(Error::QueueNotFound(queue))
    }

    /// Returns what holds a queue back, and the shard time of the answer. Linearizable.
    ///
    /// # Errors
    /// As [`Handle::queue_setup`].
    pub async fn explain_queue(&self, queue: QueueName) -> Result<(Millis, Held), Error> {
        let (shard, asked) = (self.shard_of(&queue), queue.clone());
        let (now, held) = self.read(shard, |reply| Read::Held { queue: asked, reply }).await?;
        held.map(|held| (now, held)).ok_or(Error::QueueNotFound(queue))
    }

    /// Returns what the ack of a task left behind; None: nothing, or it is not kept any more. Linearizable.
    ///
    /// # Errors
    /// `NoSuchShard`, or as [`Handle::create`].
    pub async fn result(&self, id: TaskId) -> Result<Option<bytes::Bytes>, Error> {
        let shard = self.task_shard(id)?;
        self.read(shard, |reply| Read::Result { id, reply }).await
    }

    /// Proposes a command about one queue. It is small and people wait for it, so it may use what is reserved.
    pub(super) async fn manage(&self, queue: &QueueName, command: &Command) -> Result<Outcome, Error> {
        self.refuse_if_idle()?;
        let encoded = encode(command);
        let bytes = encoded.len() + REQUEST_OVERHEAD;
        let permit = self.shared.budget.take_freeing(bytes).ok_or(Error::Overloaded(RETRY_AFTER))?;
        self.ask(self.shard_of(queue), |reply| Write::Manage { encoded, grows: false, reply, permit }).await
    }
}
