//! Leased tasks on their way from the driver's thread to one consumer's socket.
//!
//! The driver puts them into a channel through a [`Sink`]; the stream that writes the socket takes them out of
//! [`Arrivals`]. The channel itself has no limit because the consumer's credit is one: what lies here was asked for.
//!
//! # Invariants
//! - A task is taken out for the socket, or released: whatever is left when [`Arrivals`] is dropped goes back to its
//!   queue at once, without counting a failure.
//! - `Unused` is the credit granted less what was delivered for it.
//!
//! # Caveats
//! - Taken out means handed to HTTP/2. A connection that breaks after that leaves a lease to expire.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use z4_host::{Deliver, Delivery, Error, Handle};
use z4_tasks::command::{Settlement, Verdict};
use z4_types::Kind;
use z4_types::limits::SETTLE_BATCH_MAX;

/// Bytes of tasks at which a message is full; it has at least one task. So it stays below the 4 MiB that gRPC clients
/// accept unless they say otherwise, and framing costs nothing.
pub(crate) const MESSAGE_BYTES_TARGET: usize = 2 << 20;
/// Counted for each task besides its payload and metadata: what its other fields take at most, consumer-made names
/// apart. So many empty ones fill a message too.
const TASK_OVERHEAD: usize = 128;
/// Counted for each pair of metadata besides its texts.
const PAIR_OVERHEAD: usize = 8;
/// Tries to give tasks back before their leases are left to expire.
const RELEASE_TRIES: u32 = 5;
const RELEASE_RETRY: Duration = Duration::from_millis(100);

enum Event {
    Tasks(Vec<Delivery>),
    Closed(Error),
}

/// Credit granted and not used. Below zero: a large task took more bytes than were left.
#[derive(Debug, Default)]
pub(crate) struct Unused {
    pub(crate) tasks: AtomicI64,
    pub(crate) bytes: AtomicI64,
}

/// The driver's end.
pub(crate) struct Sink {
    events: UnboundedSender<Event>,
    unused: Arc<Unused>,
}

/// The consumer's end.
pub(crate) struct Arrivals {
    handle: Handle,
    events: UnboundedReceiver<Event>,
    /// Taken from the channel, not yet handed out.
    rest: VecDeque<Delivery>,
}

/// Returns the two ends.
pub(crate) fn arrivals(handle: Handle, unused: Arc<Unused>) -> (Sink, Arrivals) {
    let (sender, receiver) = unbounded_channel();
    (Sink { events: sender, unused }, Arrivals { handle, events: receiver, rest: VecDeque::new() })
}

impl Deliver for Sink {
    fn deliver(&mut self, tasks: Vec<Delivery>) -> bool {
        let bytes: usize = tasks.iter().map(|task| task.body.payload.len()).sum();
        self.unused.tasks.fetch_sub(i64::try_from(tasks.len()).unwrap_or(i64::MAX), Relaxed);
        self.unused.bytes.fetch_sub(i64::try_from(bytes).unwrap_or(i64::MAX), Relaxed);
        self.events.send(Event::Tasks(tasks)).is_ok()
    }

    fn closed(&mut self, why: Error) {
        // A consumer that is gone need not hear it.
        drop(self.events.send(Event::Closed(why)));
    }
}

impl Arrivals {
    /// Waits for tasks; as many as go into one message. None: the sink is gone, nothing more comes.
    ///
    /// # Errors
    /// Why no more tasks come.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Vec<Delivery>, Error>>> {
        match ready!(self.poll_some(cx)) {
            Some(Ok(())) => {
                let message = self.cut(MESSAGE_BYTES_TARGET, |task| size(task) + framing(task));
                Poll::Ready(Some(Ok(message)))
            }
            Some(Err(why)) => Poll::Ready(Some(Err(why))),
            None => Poll::Ready(None),
        }
    }

    /// Waits until there are tasks to take. None: the sink is gone, nothing more comes. Cancel safe.
    ///
    /// # Errors
    /// Why no more tasks come.
    pub(crate) async fn some(&mut self) -> Option<Result<(), Error>> {
        std::future::poll_fn(|cx| self.poll_some(cx)).await
    }

    fn poll_some(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<(), Error>>> {
        while self.rest.is_empty() {
            match ready!(self.events.poll_recv(cx)) {
                Some(Event::Tasks(tasks)) => self.rest = tasks.into(),
                Some(Event::Closed(why)) => return Poll::Ready(Some(Err(why))),
                None => return Poll::Ready(None),
            }
        }
        Poll::Ready(Some(Ok(())))
    }

    /// Takes what has come and fits into `bytes` of payload and metadata, at least one task if there is one, without
    /// waiting.
    pub(crate) fn take(&mut self, bytes: usize) -> Vec<Delivery> {
        while let Ok(event) = self.events.try_recv() {
            if let Event::Tasks(tasks) = event {
                self.rest.extend(tasks);
            }
        }
        self.cut(bytes, size)
    }

    /// Gives back what was not handed out.
    pub(crate) fn release(&mut self) {
        let tasks = self.take(usize::MAX);
        release(&self.handle, tasks);
    }

    /// Takes the first tasks, as many as fit into `bytes` by their weight, at least one.
    fn cut(&mut self, bytes: usize, weight: impl Fn(&Delivery) -> usize) -> Vec<Delivery> {
        let count = fitting(self.rest.iter().map(weight), bytes);
        if count == self.rest.len() {
            return std::mem::take(&mut self.rest).into();
        }
        self.rest.drain(..count).collect()
    }
}

/// Returns the bytes of a task's payload and metadata.
fn size(task: &Delivery) -> usize {
    let texts = task.body.metadata.iter().map(|(key, value)| key.len() + value.len());
    task.body.payload.len() + texts.sum::<usize>()
}

/// Returns at least what the rest of it takes in a message.
fn framing(task: &Delivery) -> usize {
    TASK_OVERHEAD + task.body.metadata.len() * PAIR_OVERHEAD
}

/// Returns how many of the first tasks go into `bytes`: at least one, if there is one.
fn fitting(weights: impl Iterator<Item = usize>, bytes: usize) -> usize {
    let mut sum = 0_usize;
    let mut first = true;
    weights
        .take_while(|weight| {
            sum = sum.saturating_add(*weight);
            std::mem::take(&mut first) || sum <= bytes
        })
        .count()
}

impl Drop for Arrivals {
    fn drop(&mut self) {
        // Closed first: a delivery that comes later is refused, and the driver releases it itself.
        self.events.close();
        self.release();
    }
}

/// Gives leased tasks back to their queue, in the background.
fn release(handle: &Handle, tasks: Vec<Delivery>) {
    let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
    if tasks.is_empty() {
        return;
    }
    let handle = handle.clone();
    runtime.spawn(async move {
        for chunk in tasks.chunks(SETTLE_BATCH_MAX) {
            for _ in 0..RELEASE_TRIES {
                let words = chunk.iter().map(|task| Settlement {
                    id: task.pick.id,
                    token: task.pick.token,
                    verdict: Verdict::Release { delay: z4_types::Duration(0) },
                });
                match handle.settle(words.collect()).await {
                    Err(error) if error.kind() == Kind::Overloaded => tokio::time::sleep(RELEASE_RETRY).await,
                    Err(error) => {
                        tracing::debug!(%error, tasks = chunk.len(), "undelivered tasks wait for their leases to end");
                        return;
                    }
                    Ok(_) => break,
                }
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_cut_by_weight_and_has_at_least_one_task() {
        assert_eq!(fitting([5, 5, 1].into_iter(), 10), 2);
        assert_eq!(fitting([11, 1].into_iter(), 10), 1, "one that is too large goes alone");
        assert_eq!(fitting([].into_iter(), 10), 0);
    }
}
