//! What waits on one outgoing lane: bounded by frames and bytes, filled from any thread, emptied by the lane's task.
//!
//! Pushing never blocks: it takes a lock that is held for a few instructions. Only the push that finds the queue empty
//! wakes the writer; the writer looks again before it sleeps, so no push is missed.
//!
//! While a host cannot be reached its queue holds the frames of the last two attempts at most ([`Queue::age`]): a vote
//! survives a short break, and a host that comes back after an hour does not get an hour's heartbeats.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

use crate::batch::Batch;
use crate::frame::Kind;
use crate::status::Count;

/// Bytes after which no further frame joins a batch; what a lost connection loses is at most this and one frame.
const BATCH_BYTES: usize = 1 << 20;

/// See the module essay.
pub(crate) struct Queue {
    frames_max: usize,
    bytes_max: usize,
    frame_bytes_max: usize,
    state: Mutex<State>,
    /// Told when the first frame comes into an empty queue, and when the queue closes.
    wake: Notify,
}

#[derive(Default)]
struct State {
    frames: VecDeque<Bytes>,
    /// Bytes in `frames`.
    bytes: usize,
    /// How many of the first `frames` were there at the last failure.
    aged: usize,
    closed: bool,
    sent: Count,
    dropped: Count,
}

/// What a queue has seen and holds.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Seen {
    pub sent: Count,
    pub dropped: Count,
    pub waiting: Count,
}

impl Queue {
    /// Returns an empty queue for so many frames and bytes, and frames of at most `frame_bytes_max`.
    pub(crate) fn new(frames_max: usize, bytes_max: usize, frame_bytes_max: usize) -> Self {
        Self { frames_max, bytes_max, frame_bytes_max, state: Mutex::default(), wake: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts `body` in, or drops it and returns false if it does not fit or the lane is closed.
    pub(crate) fn push(&self, body: Bytes) -> bool {
        let mut state = self.state();
        // A single frame is always taken: the bound on bytes may be smaller than the largest frame.
        let full = !state.frames.is_empty()
            && (state.frames.len() >= self.frames_max || state.bytes + body.len() > self.bytes_max);
        if full || state.closed || body.len() > self.frame_bytes_max {
            state.dropped.add(1, body.len());
            return false;
        }
        let first = state.frames.is_empty();
        state.bytes += body.len();
        state.frames.push_back(body);
        drop(state);
        if first {
            self.wake.notify_one();
        }
        true
    }

    /// Moves what waits into `batch`, up to a batch's size, and returns what was moved.
    pub(crate) fn take(&self, batch: &mut Batch) -> Count {
        let mut taken = Count::default();
        let mut bodies = {
            let mut state = self.state();
            let fits = state
                .frames
                .iter()
                .take_while(|body| {
                    let fits = (taken.bytes as usize) < BATCH_BYTES;
                    if fits {
                        taken.add(1, body.len());
                    }
                    fits
                })
                .count();
            let rest = state.frames.split_off(fits);
            state.bytes -= taken.bytes as usize;
            state.aged = state.aged.saturating_sub(fits);
            std::mem::replace(&mut state.frames, rest)
        };
        // Checksums and copies happen outside the lock: the driver may push meanwhile.
        bodies.drain(..).for_each(|body| batch.push(Kind::Data, body));
        taken
    }

    /// Counts frames that were written.
    pub(crate) fn written(&self, frames: Count) {
        let mut state = self.state();
        state.sent.add(frames.frames, frames.bytes as usize);
    }

    /// Counts frames that were taken and then lost with their connection.
    pub(crate) fn lost(&self, frames: Count) {
        let mut state = self.state();
        state.dropped.add(frames.frames, frames.bytes as usize);
    }

    /// An attempt to reach the host has failed: drops what was already waiting when the last one failed.
    pub(crate) fn age(&self) {
        let mut state = self.state();
        for _ in 0..state.aged {
            let body = state.frames.pop_front().expect("`aged` counts frames");
            state.bytes -= body.len();
            state.dropped.add(1, body.len());
        }
        state.aged = state.frames.len();
    }

    /// Waits until something may have been pushed, or the queue was closed.
    pub(crate) async fn wait(&self) {
        self.wake.notified().await;
    }

    /// Takes no more frames; what waits may still be taken.
    pub(crate) fn close(&self) {
        self.state().closed = true;
        self.wake.notify_one();
    }

    /// Returns true once closed.
    pub(crate) fn is_closed(&self) -> bool {
        self.state().closed
    }

    /// Returns what the queue has seen and holds.
    pub(crate) fn seen(&self) -> Seen {
        let state = self.state();
        let waiting = Count { frames: state.frames.len() as u64, bytes: state.bytes as u64 };
        Seen { sent: state.sent, dropped: state.dropped, waiting }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Buf;

    use super::*;

    fn body(len: usize) -> Bytes {
        Bytes::from(vec![0; len])
    }

    #[test]
    fn a_full_queue_drops_by_frames_and_by_bytes_but_takes_any_single_frame() {
        let queue = Queue::new(3, 100, 1_000);
        assert!(queue.push(body(500)));
        assert!(!queue.push(body(1)));
        let mut batch = Batch::default();
        assert_eq!(queue.take(&mut batch), Count { frames: 1, bytes: 500 });
        assert!((0..3).all(|_| queue.push(body(1))));
        assert!(!queue.push(body(1)));
        assert!(!queue.push(body(1_001)));
        let seen = queue.seen();
        assert_eq!(seen.dropped, Count { frames: 3, bytes: 1_003 });
        assert_eq!(seen.waiting, Count { frames: 3, bytes: 3 });
    }

    #[test]
    fn a_batch_is_bounded_and_takes_in_order() {
        let queue = Queue::new(100, 10 << 20, 10 << 20);
        (0..4).for_each(|_| assert!(queue.push(body(BATCH_BYTES / 2))));
        let mut batch = Batch::default();
        assert_eq!(queue.take(&mut batch).frames, 2);
        assert_eq!(queue.take(&mut batch).frames, 2);
        assert_eq!(queue.take(&mut batch).frames, 0);
        batch.seal();
        assert_eq!(batch.remaining(), 2 * BATCH_BYTES + 4 * crate::frame::HEAD_BYTES);
    }

    #[test]
    fn a_frame_survives_one_failure_and_not_two() {
        let queue = Queue::new(100, 1_000, 100);
        assert!(queue.push(body(1)));
        queue.age();
        assert!(queue.push(body(2)));
        queue.age();
        assert_eq!(queue.seen().waiting, Count { frames: 1, bytes: 2 });
        assert_eq!(queue.seen().dropped, Count { frames: 1, bytes: 1 });
        queue.take(&mut Batch::default());
        queue.age();
        assert!(queue.push(body(3)));
        queue.age();
        assert_eq!(queue.seen().waiting, Count { frames: 1, bytes: 3 });
    }

    #[test]
    fn a_closed_queue_gives_out_what_it_has_and_takes_no_more() {
        let queue = Queue::new(100, 1_000, 100);
        assert!(queue.push(body(1)));
        queue.close();
        assert!(!queue.push(body(1)));
        assert!(queue.is_closed());
        assert_eq!(queue.take(&mut Batch::default()).frames, 1);
    }
}
