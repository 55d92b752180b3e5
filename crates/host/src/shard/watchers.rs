//! Who waits for events of which queue, on the leader of its shard.
//!
//! A watcher reads at its own pace and waits only where it has read everything. What wakes it says nothing: it reads
//! again from its place. So any number of events makes one wake, and one that is not needed costs a read.
//!
//! # Invariants
//! - A watcher stands under its queue, and nowhere else, until it is closed or leadership is lost.
//! # Not here
//! - What is read: `z4_tasks::events`. How many may watch: the handle.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;
use z4_types::QueueName;

use crate::error::Error;

/// Names a watcher on one host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct WatcherId(pub u64);

/// Wakes one watcher. A wake that comes before it waits is kept.
#[derive(Debug, Default)]
pub struct Bell {
    rung: Notify,
    closed: Mutex<Option<Error>>,
}

impl Bell {
    /// Something has happened.
    fn ring(&self) {
        self.rung.notify_one();
    }

    /// Nothing will be heard any more.
    pub(crate) fn close(&self, why: Error) {
        *self.closed.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
        self.rung.notify_one();
    }

    /// Waits until something has happened since the last call. Cancel safe.
    ///
    /// # Errors
    /// Why nothing will be heard here any more.
    pub(crate) async fn rung(&self) -> Result<(), Error> {
        self.rung.notified().await;
        match &*self.closed.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(why) => Err(why.clone()),
            None => Ok(()),
        }
    }
}

/// All watchers of one shard on this host.
#[derive(Debug, Default)]
pub(crate) struct Watchers {
    by_queue: BTreeMap<QueueName, BTreeMap<WatcherId, Arc<Bell>>>,
    queues: BTreeMap<WatcherId, QueueName>,
}

impl Watchers {
    pub(crate) fn open(&mut self, id: WatcherId, queue: QueueName, bell: Arc<Bell>) {
        self.queues.insert(id, queue.clone());
        self.by_queue.entry(queue).or_default().insert(id, bell);
    }

    pub(crate) fn close(&mut self, id: WatcherId) {
        let Some(queue) = self.queues.remove(&id) else { return };
        if let Some(watchers) = self.by_queue.get_mut(&queue) {
            watchers.remove(&id);
            if watchers.is_empty() {
                self.by_queue.remove(&queue);
            }
        }
    }

    pub(crate) fn close_all(&mut self, why: &Error) {
        self.queues.clear();
        for bell in std::mem::take(&mut self.by_queue).values().flat_map(BTreeMap::values) {
            bell.close(why.clone());
        }
    }

    /// A queue has new events, or its settings of them have changed.
    pub(crate) fn happened(&self, queue: &QueueName) {
        for bell in self.by_queue.get(queue).into_iter().flat_map(BTreeMap::values) {
            bell.ring();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::{Context, Poll, Waker};

    fn poll(bell: &Bell) -> Poll<Result<(), Error>> {
        std::pin::pin!(bell.rung()).poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn those_of_a_queue_are_woken_once_for_any_number_of_events() {
        let queue = |name| QueueName::new(name).expect("valid");
        let (mut all, bells) = (Watchers::default(), [0, 1, 2].map(|_| Arc::new(Bell::default())));
        for (id, (name, bell)) in (0..).zip(["a", "a", "b"].into_iter().zip(&bells)) {
            all.open(WatcherId(id), queue(name), Arc::clone(bell));
        }
        all.happened(&queue("a"));
        all.happened(&queue("a"));
        all.happened(&queue("c"));
        assert_eq!(bells.each_ref().map(|bell| poll(bell).is_ready()), [true, true, false]);
        assert!(bells.iter().all(|bell| poll(bell).is_pending()), "one wake");
        all.close(WatcherId(0));
        all.happened(&queue("a"));
        assert_eq!(bells.each_ref().map(|bell| poll(bell).is_ready()), [false, true, false]);
        all.close_all(&Error::Stopping);
        assert!(poll(&bells[0]).is_pending(), "it has gone before");
        assert_eq!(poll(&bells[2]), Poll::Ready(Err(Error::Stopping)));
        assert!(all.by_queue.is_empty() && all.queues.is_empty());
    }
}
