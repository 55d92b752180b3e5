//! The memory that requests take before they are understood (P10).
//!
//! A message says how long it is in its first five bytes. From then on, and before any of its bytes is kept, it holds
//! so much of one budget for the whole door; when the budget is used up the call is refused with a delay. Behind the
//! door a request is bounded by the host's own budget.
//!
//! # Invariants
//! - What all messages hold together never exceeds `BODIES_BYTES_MAX`: permits are of two semaphores of that sum.
//! - Nobody waits for a permit, so half-read messages cannot wait for each other. Refused at once instead of read half,
//!   those that were admitted get through: a flood costs refusals, not progress.
//!
//! # The bound
//! What clients can make the door hold, at the very worst, with every limit met at once:
//!
//! | what | limit | MiB |
//! |---|---|---|
//! | messages, from their first bytes to their encoded command or answer | `BODIES_BYTES_MAX` | 48 |
//! | bytes no handler reads, in HTTP/2's windows | `CONNECTIONS_MAX` × `CONNECTION_WINDOW_BYTES` = 1,024 × 128 KiB | 128 |
//! | calls under way, about 8 KiB each | `CALLS_MAX` = 8,192 | 64 |
//! | pull streams passed on from other hosts, in HTTP/2's windows | `STREAMS_MAX` × `STREAM_WINDOW_BYTES` = 512 × 16 KiB | 8 |
//! | pages of watched events, one waiting and one on its way | 2 × `WATCHES_MAX` = 512 × 16 KiB | 8 |
//!
//! That is 256 MiB beside the host's working set (112), inbox (48), outbox (48) and page cache (48): 512 MiB, for a
//! process that must live in them. The windows fill only if every client sends what it does not let the server answer.
//!
//! Calls that are passed on to another host are among the messages: a request holds its share until that host has
//! answered, and the answer holds one from its own first bytes until it is decoded (`forward.rs`).
//!
//! # Caveats
//! - Bytes are counted as they come. A client that means harm sends many empty items, and two bytes on the wire then
//!   are some hundred as a decoded value, for the moment until the batch's count is refused.
//! - An answer for which there is no budget is refused like a request. Tasks that were leased by such a call come back
//!   when their leases end.
//! - What goes out is bounded elsewhere: by the host's outbox, pages, and HTTP/2's buffer of each stream.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use z4_proto::reason;
use z4_proto::status::Failure;
use z4_types::Kind;

/// Largest message, bytes: a full batch of 8 MiB and its framing.
pub(crate) const REQUEST_BYTES_MAX: usize = 16 << 20;
/// Bytes of all messages that are being read and understood. Three of the largest; some hundred usual batches.
pub(crate) const BODIES_BYTES_MAX: usize = 48 << 20;
/// Of these only what does not create may use: creates that are refused must not keep consumers from settling.
const RESERVED_BYTES: usize = 8 << 20;
/// Calls and streams under way on all connections. Past it calls are refused.
const CALLS_MAX: usize = 8_192;
/// When a refused caller may come back: most messages are read in less.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// What a message is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// New tasks.
    Create,
    /// Anything else: reading, leasing, settling.
    Other,
}

/// A message's share of the budget, given back when dropped.
pub(crate) type Share = OwnedSemaphorePermit;

/// The door's budgets. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Bodies {
    common: Arc<Semaphore>,
    reserved: Arc<Semaphore>,
    calls: Arc<Semaphore>,
}

impl Bodies {
    pub(crate) fn new() -> Self {
        Self {
            common: Arc::new(Semaphore::new(BODIES_BYTES_MAX - RESERVED_BYTES)),
            reserved: Arc::new(Semaphore::new(RESERVED_BYTES)),
            calls: Arc::new(Semaphore::new(CALLS_MAX)),
        }
    }

    /// Takes a place for a call.
    ///
    /// # Errors
    /// `Overloaded` if there is none.
    pub(crate) fn call(&self) -> Result<OwnedSemaphorePermit, Failure> {
        Arc::clone(&self.calls).try_acquire_owned().map_err(|_| {
            let what = format!("{CALLS_MAX} calls and streams are under way, the limit; back off");
            Failure::new(Kind::Overloaded, reason::OVERLOADED, what).with_retry_after(RETRY_AFTER)
        })
    }

    /// Takes memory for a message of `bytes`.
    ///
    /// # Errors
    /// `Invalid` if no message may be so large, `Overloaded` if the budget is used up.
    pub(crate) fn take(&self, bytes: usize, purpose: Purpose) -> Result<Share, Failure> {
        if bytes > REQUEST_BYTES_MAX {
            let what = format!(
                "the message has {bytes} bytes; the limit is {REQUEST_BYTES_MAX}: split it into smaller batches"
            );
            return Err(Failure::new(Kind::Invalid, reason::BATCH_TOO_LARGE, what));
        }
        let count = u32::try_from(bytes).expect("the limit is far below 4 GiB");
        let from = |semaphore: &Arc<Semaphore>| Arc::clone(semaphore).try_acquire_many_owned(count).ok();
        let share = match purpose {
            Purpose::Create => from(&self.common),
            Purpose::Other => from(&self.common).or_else(|| from(&self.reserved)),
        };
        share.ok_or_else(|| {
            let what = format!(
                "requests being read hold the {BODIES_BYTES_MAX} bytes they may; this one of {bytes} was not taken: \
                 back off"
            );
            Failure::new(Kind::Overloaded, reason::OVERLOADED, what).with_retry_after(RETRY_AFTER)
        })
    }

    /// Returns the calls and streams under way.
    pub(crate) fn calls(&self) -> usize {
        CALLS_MAX - self.calls.available_permits()
    }

    /// Returns the bytes in use.
    pub(crate) fn used(&self) -> usize {
        BODIES_BYTES_MAX - self.common.available_permits() - self.reserved.available_permits()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn creates_are_refused_first_everything_comes_back_and_the_limit_holds() {
        let bodies = Bodies::new();
        let batch = 8 << 20;
        let held: Vec<Share> = std::iter::from_fn(|| bodies.take(batch, Purpose::Create).ok()).collect();
        assert_eq!(held.len(), 5);
        let refused = bodies.take(1, Purpose::Create).expect_err("the common part is used up");
        assert_eq!((refused.kind, refused.retry_after), (Kind::Overloaded, Some(RETRY_AFTER)));
        let settling = bodies.take(batch, Purpose::Other).expect("reserved");
        assert_eq!(bodies.used(), BODIES_BYTES_MAX);
        assert!(bodies.take(1, Purpose::Other).is_err());
        drop((held, settling));
        assert_eq!(bodies.used(), 0);
        let too_large = bodies.take(REQUEST_BYTES_MAX + 1, Purpose::Other).expect_err("over the limit");
        assert_eq!((too_large.kind, &*too_large.reason), (Kind::Invalid, reason::BATCH_TOO_LARGE));
        assert!(too_large.message.contains("16777216"), "{too_large}");
        assert_eq!(bodies.used(), 0);
    }
}
