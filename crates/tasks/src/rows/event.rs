//! Values of the event rows: a queue's stream of events, each event, and what a closed stream left behind.

use z4_types::{Millis, Priority, TaskId, Token};

use crate::codec::{Malformed, Reader, put_u32, put_u64};
use crate::events::{Event, EventKind, Facts};

const VERSION: u8 = 1;

const DELIVER_AT: u16 = 1;
const PRIORITY: u16 = 2;
const GROUP: u16 = 4;
const CONSUMER: u16 = 8;
const TOKEN: u16 = 16;
const DELIVERIES: u16 = 32;
const FAILURES: u16 = 64;
const UNTIL: u16 = 128;
const REASON: u16 = 256;
const KEY: u16 = 512;
const ALL: u16 = 1023;

/// The stream row of a queue: which events it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StreamRow {
    /// Names the stream, in the whole shard and for ever; 0: events are off.
    pub(crate) stream: u64,
    /// Sequence of the oldest event that has a row. Invariant: not 0, not above `next`.
    pub(crate) first: u64,
    /// Sequence of the next event. Never goes back while the queue lives.
    pub(crate) next: u64,
    /// Events the queue's settings keep.
    pub(crate) kept: u64,
}

impl StreamRow {
    /// Of a queue that never had events.
    pub(crate) const NEW: Self = Self { stream: 0, first: 1, next: 1, kept: 0 };

    /// Returns the sequence of the oldest event that may be read.
    pub(crate) fn oldest(&self) -> u64 {
        self.first.max(self.next.saturating_sub(self.kept))
    }

    /// Returns how many rows are too many.
    pub(crate) fn surplus(&self) -> u64 {
        self.oldest() - self.first
    }

    pub(crate) fn write(&self) -> [u8; 33] {
        let mut value = [VERSION; 33];
        for (at, field) in (1..).step_by(8).zip([self.stream, self.first, self.next, self.kept]) {
            value[at..at + 8].copy_from_slice(&field.to_le_bytes());
        }
        value
    }

    pub(crate) fn read(value: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(value);
        if reader.u8("stream version")? != VERSION {
            return Err(Malformed("unknown stream version"));
        }
        let row = Self {
            stream: reader.u64("stream number")?,
            first: reader.u64("stream first")?,
            next: reader.u64("stream next")?,
            kept: reader.u64("stream kept")?,
        };
        reader.end("bytes behind a stream")?;
        if row.first == 0 || row.first > row.next {
            return Err(Malformed("stream sequences"));
        }
        Ok(row)
    }
}

/// Events of a stream that was closed, still to be removed: those from `first` up to, not with, `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Remains {
    pub(crate) first: u64,
    pub(crate) end: u64,
}

impl Remains {
    pub(crate) fn write(&self) -> [u8; 17] {
        let mut value = [VERSION; 17];
        value[1..9].copy_from_slice(&self.first.to_le_bytes());
        value[9..].copy_from_slice(&self.end.to_le_bytes());
        value
    }

    pub(crate) fn read(value: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(value);
        if reader.u8("remains version")? != VERSION {
            return Err(Malformed("unknown version of a closed stream"));
        }
        let remains = Self { first: reader.u64("remains first")?, end: reader.u64("remains end")? };
        reader.end("bytes behind a closed stream")?;
        Ok(remains)
    }
}

/// Appends an event row's value.
pub(crate) fn write_event(kind: EventKind, task: TaskId, at: Millis, facts: &Facts<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(&[VERSION, kind as u8]);
    out.extend_from_slice(&task.0.to_le_bytes());
    put_u64(out, at.0);
    let fields = out.len();
    out.extend_from_slice(&[0; 2]);
    let mut set = 0;
    let mut number = |bit: u16, value: Option<u64>, out: &mut Vec<u8>| {
        if let Some(value) = value {
            set |= bit;
            put_u64(out, value);
        }
    };
    number(DELIVER_AT, facts.deliver_at.map(|at| at.0), out);
    number(TOKEN, facts.token.map(|token| token.0), out);
    number(UNTIL, facts.until.map(|until| until.0), out);
    let mut count = |bit: u16, value: Option<u32>, out: &mut Vec<u8>| {
        if let Some(value) = value {
            set |= bit;
            put_u32(out, value);
        }
    };
    count(DELIVERIES, facts.deliveries, out);
    count(FAILURES, facts.failures, out);
    if let Some(priority) = facts.priority {
        set |= PRIORITY;
        out.push(priority.0);
    }
    let texts = [(GROUP, facts.group), (KEY, facts.key), (CONSUMER, facts.consumer), (REASON, facts.reason)];
    for (bit, text) in texts {
        if let Some(text) = text.filter(|text| !text.is_empty()) {
            set |= bit;
            let len = u16::try_from(text.len()).expect("texts are cut far below 64 KiB before they get here");
            out.extend_from_slice(&len.to_le_bytes());
            out.extend_from_slice(text.as_bytes());
        }
    }
    out[fields..fields + 2].copy_from_slice(&set.to_le_bytes());
}

/// Reads kind and task of an event row alone.
pub(crate) fn read_event_head(value: &[u8]) -> Result<(EventKind, TaskId), Malformed> {
    let mut reader = Reader::new(value);
    if reader.u8("event version")? != VERSION {
        return Err(Malformed("unknown event version"));
    }
    Ok((EventKind::from_byte(reader.u8("event kind")?)?, TaskId(reader.u128("event task")?)))
}

/// Reads an event row.
pub(crate) fn read_event(sequence: u64, value: &[u8]) -> Result<Event, Malformed> {
    let (kind, task) = read_event_head(value)?;
    let mut reader = Reader::new(value);
    reader.bytes(18, "event head")?;
    let at = Millis(reader.u64("event time")?);
    let fields = reader.u16("event fields")?;
    if fields & !ALL != 0 {
        return Err(Malformed("unknown event fields"));
    }
    let has = |bit: u16| fields & bit != 0;
    let mut number = |bit, what| if has(bit) { reader.u64(what).map(Some) } else { Ok(None) };
    let deliver_at = number(DELIVER_AT, "event deliver_at")?.map(Millis);
    let token = number(TOKEN, "event token")?.map(Token);
    let until = number(UNTIL, "event until")?.map(Millis);
    let mut count = |bit, what| if has(bit) { reader.u32(what).map(Some) } else { Ok(None) };
    let deliveries = count(DELIVERIES, "event deliveries")?;
    let failures = count(FAILURES, "event failures")?;
    let priority = if has(PRIORITY) { Some(Priority(reader.u8("event priority")?)) } else { None };
    let mut text = |bit, what| {
        if !has(bit) {
            return Ok(None);
        }
        let len = reader.u16(what)?;
        reader.text(len.into(), what).map(|text| Some(text.to_owned()))
    };
    let group = text(GROUP, "event group")?;
    let key = text(KEY, "event key")?;
    let consumer = text(CONSUMER, "event consumer")?;
    let reason = text(REASON, "event reason")?;
    reader.end("bytes behind an event")?;
    Ok(Event {
        sequence,
        at,
        task,
        kind,
        deliver_at,
        priority,
        group,
        key,
        consumer,
        token,
        deliveries,
        failures,
        until,
        reason,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_give_back_what_was_written() {
        let facts = Facts {
            deliver_at: Some(Millis(5)),
            priority: Some(Priority(9)),
            group: Some("acme"),
            key: Some("k"),
            consumer: Some("w"),
            token: Some(Token(3)),
            deliveries: Some(1),
            failures: Some(2),
            until: Some(Millis(8)),
            reason: Some("é"),
        };
        for facts in [Facts::default(), facts, Facts { key: None, token: None, ..facts }] {
            let mut value = Vec::new();
            write_event(EventKind::Failed, TaskId(7), Millis(4), &facts, &mut value);
            let event = read_event(11, &value).expect("reads");
            assert_eq!(
                (event.sequence, event.at, event.task, event.kind),
                (11, Millis(4), TaskId(7), EventKind::Failed)
            );
            assert_eq!(
                (event.deliver_at, event.token, event.until),
                (facts.deliver_at, facts.token, facts.until)
            );
            assert_eq!(
                (event.deliveries, event.failures, event.priority),
                (facts.deliveries, facts.failures, facts.priority)
            );
            assert_eq!((event.group.as_deref(), event.key.as_deref()), (facts.group, facts.key));
            assert_eq!((event.consumer.as_deref(), event.reason.as_deref()), (facts.consumer, facts.reason));
            assert!(
                (0..value.len()).all(|end| read_event(11, &value[..end]).is_err()),
                "cut bytes are refused"
            );
        }
        let row = StreamRow { stream: 4, first: 2, next: 9, kept: 3 };
        assert_eq!(StreamRow::read(&row.write()), Ok(row));
        assert_eq!((row.oldest(), row.surplus()), (6, 4));
        assert!(StreamRow::read(&StreamRow { first: 10, ..row }.write()).is_err());
        let remains = Remains { first: 3, end: 5 };
        assert_eq!(Remains::read(&remains.write()), Ok(remains));
    }
}
