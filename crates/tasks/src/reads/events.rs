//! Reading a queue's events, a page at a time, and the tokens by which a reader goes on where it was.
//!
//! A position is the stream and the sequence of the next event. It stays good while that event is kept; then the reader is
//! told what it may go on from, and that it has missed something. Who reads at the end finds nothing and keeps its position.
//!
//! # Invariants
//! - A page holds the events of its span that pass the filter, all of them, in order; the position behind it is the end of
//!   that span. Work is bounded by rows looked at, not by rows that pass.

use z4_types::{QueueName, TaskId};

use super::queue_number;
use crate::codec::{Malformed, Reader, put_u64};
use crate::command::Invalid;
use crate::events::{Event, EventKind};
use crate::rows::{StreamRow, key, read_event, read_event_head};
use crate::{Fault, Read};

/// Rows one page looks at.
const ROWS_MAX: usize = 1_000;

/// Bytes of rows after which a page ends early; it has at least one event.
const PAGE_BYTES_MAX: usize = 128 << 10;

/// Where a reader stands in the events of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    stream: u64,
    next: u64,
}

impl Position {
    /// Returns the sequence of the event that is read next.
    #[must_use]
    pub fn sequence(self) -> u64 {
        self.next
    }

    /// Returns the place behind an event of the page that ended here.
    #[must_use]
    pub fn behind(self, event: &Event) -> Self {
        Self { next: event.sequence + 1, ..self }
    }
}

/// Where to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// With the oldest event that is kept.
    Earliest,
    /// With what happens from now on.
    Now,
    /// Where a reader was.
    At(Position),
}

/// Which events to show.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventFilter {
    /// Only these kinds; empty: all.
    pub kinds: Vec<EventKind>,
    /// Only those of this task.
    pub task: Option<TaskId>,
}

/// One page of events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventPage {
    /// In order.
    pub events: Vec<Event>,
    /// Where to go on.
    pub next: Position,
    /// There are rows behind this page already.
    pub more: bool,
}

/// What asking for events answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Events {
    /// A page, perhaps empty.
    Page(EventPage),
    /// There is no such queue.
    NoQueue,
    /// The queue keeps no events.
    Off,
    /// Events behind the position are gone: they were too many, or events were off, or the queue was deleted and made again.
    Compacted {
        /// The oldest position there is.
        oldest: Position,
    },
    /// The position lies behind the last event: no reader was ever there.
    Ahead,
}

/// A position, and whose it is: what a reader keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResumeToken {
    /// The queue.
    pub queue: QueueName,
    /// The place in its events.
    pub position: Position,
}

impl ResumeToken {
    const VERSION: u8 = 1;

    /// Returns the token as bytes, for a caller to keep.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![Self::VERSION];
        put_u64(&mut bytes, self.position.stream);
        put_u64(&mut bytes, self.position.next);
        bytes.extend_from_slice(self.queue.as_str().as_bytes());
        let check = checksum(&bytes);
        bytes.extend_from_slice(&check.to_le_bytes());
        bytes
    }

    /// Returns the token that `bytes` are.
    ///
    /// # Errors
    /// `Invalid` if these bytes are no token.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Invalid> {
        let read = || {
            let (body, check) = bytes.split_last_chunk::<4>().ok_or(Malformed(""))?;
            let mut reader = Reader::new(body);
            if reader.u8("")? != Self::VERSION || checksum(body) != u32::from_le_bytes(*check) {
                return Err(Malformed(""));
            }
            let position = Position { stream: reader.u64("")?, next: reader.u64("")? };
            let name = reader.text(reader.len(), "")?;
            let queue = QueueName::new(name).map_err(|_| Malformed(""))?;
            Ok(Self { queue, position })
        };
        read().map_err(|_| Invalid {
            field: "resume_token",
            problem: "is not one that came with events; pass one as it was given, or begin anew without it"
                .into(),
        })
    }
}

/// FNV-1a of 64 bits, folded: tells typing errors and cut tokens, not forgeries.
fn checksum(bytes: &[u8]) -> u32 {
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    (hash >> 32) as u32 ^ hash as u32
}

/// Reads up to `limit` events of a queue that pass `filter`, from `start` on. Looks at a bounded number of rows: a page may
/// be empty and have `more`.
///
/// # Errors
/// If storage fails.
pub fn events(
    store: &dyn Read,
    queue: &QueueName,
    start: Start,
    filter: &EventFilter,
    limit: usize,
) -> Result<Events, Fault> {
    let Some(number) = queue_number(store, queue)? else { return Ok(Events::NoQueue) };
    let row = match store.get(&key::stream(number))? {
        Some(value) => StreamRow::read(&value)?,
        None => StreamRow::NEW,
    };
    let stream = row.stream;
    if stream == 0 {
        return Ok(Events::Off);
    }
    let oldest = Position { stream, next: row.oldest() };
    let from = match start {
        Start::Earliest => oldest.next,
        Start::Now => row.next,
        Start::At(position) if position.stream != stream || position.next < oldest.next => {
            return Ok(Events::Compacted { oldest });
        }
        Start::At(position) if position.next > row.next => return Ok(Events::Ahead),
        Start::At(position) => position.next,
    };
    let mut page = EventPage { events: Vec::new(), next: Position { stream, next: from }, more: false };
    let (mut looked, mut bytes, mut malformed) = (0, 0, None);
    store.scan(&key::event(stream, from), &key::event(stream, row.next), &mut |key, value| {
        match key::read_event(key).and_then(|(_, sequence)| show(sequence, value, filter)) {
            Ok(event) => page.events.extend(event),
            Err(error) => malformed = Some(error),
        }
        page.next.next += 1;
        looked += 1;
        bytes += value.len();
        malformed.is_none() && looked < ROWS_MAX && bytes < PAGE_BYTES_MAX && page.events.len() < limit
    })?;
    if let Some(error) = malformed {
        return Err(error.into());
    }
    page.more = page.next.next < row.next;
    Ok(Events::Page(page))
}

/// Reads an event, if the filter shows it.
fn show(sequence: u64, value: &[u8], filter: &EventFilter) -> Result<Option<Event>, Malformed> {
    let (kind, task) = read_event_head(value)?;
    if filter.task.is_some_and(|wanted| wanted != task) {
        return Ok(None);
    }
    if !filter.kinds.is_empty() && !filter.kinds.contains(&kind) {
        return Ok(None);
    }
    read_event(sequence, value).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_their_bytes_and_nothing_else_is_one() {
        let queue = QueueName::new("acme/mail").expect("valid");
        let token = ResumeToken { queue, position: Position { stream: 7, next: 1 << 40 } };
        let bytes = token.to_bytes();
        assert_eq!(ResumeToken::from_bytes(&bytes).as_ref(), Ok(&token));
        for at in 0..bytes.len() {
            let mut other = bytes.clone();
            other[at] ^= 1;
            assert!(ResumeToken::from_bytes(&other).is_err(), "byte {at} counts");
            assert!(ResumeToken::from_bytes(&bytes[..at]).is_err());
        }
    }
}
