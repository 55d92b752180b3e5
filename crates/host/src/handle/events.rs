//! Events of queues: pages of them, and waiting for more.
//!
//! A page is bounded work on the driver's thread: whoever reads in order reads what was written last, from memory. A watcher
//! is entered before the page is read that may turn out empty, in one inbox, so that nothing falls between the two.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use z4_tasks::Events;
use z4_types::{QueueName, ShardId};

use super::{Handle, RETRY_AFTER};
use crate::error::Error;
use crate::shard::{Bell, EventsRequest, Read, WatcherId, Write};

/// Watchers of one host, those on behalf of others included. Each is woken with every entry that has events for it.
const WATCHERS_MAX: usize = 4_096;

/// Hears when a queue has new events. Dropping it ends that.
pub struct Watcher {
    handle: Handle,
    id: WatcherId,
    shard: ShardId,
    bell: Arc<Bell>,
}

impl Handle {
    /// Returns a page of a queue's events, perhaps empty. Linearizable.
    ///
    /// # Errors
    /// As [`Handle::create`]. That there are none to be had is an answer.
    pub async fn events(&self, request: EventsRequest) -> Result<Events, Error> {
        let shard = self.shard_of(&request.queue);
        self.read(shard, |reply| Read::Events { request: Box::new(request), reply }).await
    }

    /// Returns what hears of new events of a queue, from now on. Reads behind this call miss none in between.
    ///
    /// # Errors
    /// `Stopping`, `Overloaded`.
    pub fn watch_events(&self, queue: QueueName) -> Result<Watcher, Error> {
        self.refuse_if_idle()?;
        if self.shared.watchers.fetch_add(1, Relaxed) >= WATCHERS_MAX {
            self.shared.watchers.fetch_sub(1, Relaxed);
            return Err(Error::Overloaded(RETRY_AFTER));
        }
        let id = WatcherId(self.shared.next_watcher.fetch_add(1, Relaxed));
        let (shard, bell) = (self.shard_of(&queue), Arc::new(Bell::default()));
        self.send(shard, Write::Watch { watcher: id, queue, bell: Arc::clone(&bell) });
        Ok(Watcher { handle: self.clone(), id, shard, bell })
    }
}

impl Watcher {
    /// Waits until the queue may have new events, or its settings of them have changed. Cancel safe.
    ///
    /// # Errors
    /// `NotLeader`, `Stopping`: nothing more is heard on this host.
    pub async fn happened(&self) -> Result<(), Error> {
        self.bell.rung().await
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.handle.shared.watchers.fetch_sub(1, Relaxed);
        self.handle.send(self.shard, Write::Unwatch { watcher: self.id });
    }
}
