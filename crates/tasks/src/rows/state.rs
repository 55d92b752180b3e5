//! Values of the rows a task has: body, schedule and state.

use z4_types::{Millis, TaskId, Token};

use crate::codec::{Item, Malformed, Reader, put_u32, put_u64};

const VERSION: u8 = 1;

const HAS_STATE: u8 = 1;
const HAS_TTL: u8 = 2;

/// Appends a body row.
pub(crate) fn write_body(queue: u32, item: &Item<'_>, out: &mut Vec<u8>) {
    out.push(VERSION);
    put_u32(out, queue);
    out.extend_from_slice(item.raw);
}

/// Reads a body row: the queue, and the item as it stood in the entry.
pub(crate) fn read_body(value: &[u8]) -> Result<(u32, Item<'_>), Malformed> {
    let mut reader = Reader::new(value);
    if reader.u8("body version")? != VERSION {
        return Err(Malformed("unknown body version"));
    }
    let queue = reader.u32("body queue")?;
    let item = Item::read(&mut reader)?;
    reader.end("bytes behind a body")?;
    Ok((queue, item))
}

/// A schedule row's value: all that a lease needs of a task that was never leased.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Scheduled {
    /// A state row exists.
    pub(crate) has_state: bool,
    pub(crate) payload_bytes: u32,
    /// `Millis::NEVER` without a TTL.
    pub(crate) ttl_at: Millis,
}

impl Scheduled {
    /// Writes the value into `out` and returns the part of it that is used.
    pub(crate) fn write<'o>(&self, out: &'o mut [u8; 13]) -> &'o [u8] {
        let has_ttl = self.ttl_at != Millis::NEVER;
        out[0] = if self.has_state { HAS_STATE } else { 0 } | if has_ttl { HAS_TTL } else { 0 };
        out[1..5].copy_from_slice(&self.payload_bytes.to_le_bytes());
        if has_ttl {
            out[5..13].copy_from_slice(&self.ttl_at.0.to_le_bytes());
        }
        if has_ttl { &out[..] } else { &out[..5] }
    }

    pub(crate) fn read(value: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(value);
        let flags = reader.u8("schedule flags")?;
        let payload_bytes = reader.u32("schedule payload length")?;
        let ttl_at = if flags & HAS_TTL != 0 { Millis(reader.u64("schedule ttl")?) } else { Millis::NEVER };
        Ok(Self { has_state: flags & HAS_STATE != 0, payload_bytes, ttl_at })
    }
}

/// Where a task stands. Which index it is in follows from this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// In the schedule.
    Waiting,
    /// Held by a consumer until `State::at`.
    Leased,
    /// Out of attempts since `State::at`.
    Dead,
}

/// The fixed part of a state row. `Copy`, so that it outlives the borrow of the row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) phase: Phase,
    pub(crate) queue: u32,
    pub(crate) priority: u8,
    /// Key of the schedule row while waiting, and what it was while leased or dead.
    pub(crate) deliver_at: Millis,
    pub(crate) deliveries: u32,
    pub(crate) failures: u32,
    pub(crate) payload_bytes: u32,
    /// Of the last lease. Invariant: unique in the shard, grows with every delivery.
    pub(crate) token: Token,
    /// Leased: until. Dead: since. Waiting: 0.
    pub(crate) at: Millis,
    /// `Millis::NEVER` without a TTL, and once dead.
    pub(crate) ttl_at: Millis,
}

/// The texts behind the fixed part.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Texts<'a> {
    /// Who holds the lease, or held the last one.
    pub(crate) consumer: &'a str,
    /// Why the last failure was one; empty before it.
    pub(crate) last_error: &'a str,
}

impl State {
    /// Appends the row's value.
    pub(crate) fn write(&self, texts: Texts<'_>, out: &mut Vec<u8>) {
        out.push(VERSION);
        out.push(match self.phase {
            Phase::Waiting => 1,
            Phase::Leased => 2,
            Phase::Dead => 3,
        });
        put_u32(out, self.queue);
        out.push(self.priority);
        put_u64(out, self.deliver_at.0);
        put_u32(out, self.deliveries);
        put_u32(out, self.failures);
        put_u32(out, self.payload_bytes);
        put_u64(out, self.token.0);
        put_u64(out, self.at.0);
        put_u64(out, self.ttl_at.0);
        for text in [texts.consumer, texts.last_error] {
            let len = u16::try_from(text.len()).expect("texts are cut far below 64 KiB before they get here");
            out.extend_from_slice(&len.to_le_bytes());
            out.extend_from_slice(text.as_bytes());
        }
    }

    /// Reads a state row.
    pub(crate) fn read(value: &[u8]) -> Result<(Self, Texts<'_>), Malformed> {
        let mut reader = Reader::new(value);
        if reader.u8("state version")? != VERSION {
            return Err(Malformed("unknown state version"));
        }
        let phase = match reader.u8("task state")? {
            1 => Phase::Waiting,
            2 => Phase::Leased,
            3 => Phase::Dead,
            _ => return Err(Malformed("unknown task state")),
        };
        let state = Self {
            phase,
            queue: reader.u32("state queue")?,
            priority: reader.u8("state priority")?,
            deliver_at: Millis(reader.u64("state deliver_at")?),
            deliveries: reader.u32("deliveries")?,
            failures: reader.u32("failures")?,
            payload_bytes: reader.u32("state payload length")?,
            token: Token(reader.u64("state token")?),
            at: Millis(reader.u64("state at")?),
            ttl_at: Millis(reader.u64("state ttl")?),
        };
        let mut text = |what| {
            let len = reader.u16(what)?;
            reader.text(len.into(), what)
        };
        let texts = Texts { consumer: text("state consumer")?, last_error: text("state last error")? };
        Ok((state, texts))
    }

    /// Returns the schedule row's value of this task.
    pub(crate) fn scheduled(&self) -> Scheduled {
        Scheduled { has_state: true, payload_bytes: self.payload_bytes, ttl_at: self.ttl_at }
    }

    /// Returns the state of a task that has no state row: what its body and id say.
    pub(crate) fn pristine(id: TaskId, queue: u32, item: &Item<'_>) -> Self {
        Self {
            phase: Phase::Waiting,
            queue,
            priority: item.priority.0,
            deliver_at: item.deliver_at(id.created_at()),
            deliveries: 0,
            failures: 0,
            payload_bytes: item.payload_bytes(),
            token: Token(0),
            at: Millis(0),
            ttl_at: item.ttl_at(id.created_at()),
        }
    }
}
