//! The bytes of a message between replicas, version 1 (docs/FORMATS.md, "Consensus message").
//!
//! A fixed head, then only the fields that are not zero, in the order of their bits: a heartbeat is 38 bytes. Entries
//! come out as slices of the frame they came in, so their bytes are not copied between socket and log.
//!
//! # Invariants
//! - One message has one encoding: a field that is present is not zero, lists are counted exactly, nothing follows.
//! - Whatever the bytes, decoding returns; and what it returns cannot make the engine panic by a number out of range,
//!   entries out of order or an impossible membership.
//!
//! # Not here
//! - A checksum: the frame around the message has one.

use bytes::Bytes;
use raft::eraftpb::{Entry as RaftEntry, EntryType, Message as RaftMessage, MessageType};
use z4_types::{Index, Term};

use crate::membership::Membership;
use crate::message::{Message, SnapshotMark};

const VERSION: u8 = 1;
/// Version, kind, fields, to, from, term.
const HEAD_BYTES: usize = 28;
/// Index, term, length, kind, three zeros.
const ENTRY_HEAD_BYTES: usize = 24;
/// No index, term or count comes near this one; the engine adds to them without looking.
const NUMBER_MAX: u64 = 1 << 62;

const LOG_TERM: u16 = 1;
const INDEX: u16 = 2;
const COMMIT: u16 = 4;
const COMMIT_TERM: u16 = 8;
const REJECT_HINT: u16 = 16;
const REQUEST_SNAPSHOT: u16 = 32;
const PRIORITY: u16 = 64;
const REJECT: u16 = 128;
const CONTEXT: u16 = 256;
const SNAPSHOT: u16 = 512;
const ENTRIES: u16 = 1024;

/// All kinds that leave a replica, with their byte.
const KINDS: [(u8, MessageType); 10] = [
    (1, MessageType::MsgAppend),
    (2, MessageType::MsgAppendResponse),
    (3, MessageType::MsgRequestVote),
    (4, MessageType::MsgRequestVoteResponse),
    (5, MessageType::MsgRequestPreVote),
    (6, MessageType::MsgRequestPreVoteResponse),
    (7, MessageType::MsgHeartbeat),
    (8, MessageType::MsgHeartbeatResponse),
    (9, MessageType::MsgSnapshot),
    (10, MessageType::MsgTimeoutNow),
];

/// The bytes are not a message of a version this program reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a consensus message: {0}")]
pub struct Malformed(&'static str);

/// Returns whether messages of this type go from replica to replica.
pub(crate) fn travels(kind: MessageType) -> bool {
    KINDS.iter().any(|(_, k)| *k == kind)
}

impl Message {
    /// Returns how many bytes [`Message::encode`] adds.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        let m = &self.0;
        let numbers = [
            m.log_term,
            m.index,
            m.commit,
            m.commit_term,
            m.reject_hint,
            m.request_snapshot,
            m.priority as u64,
        ];
        let mut len = HEAD_BYTES + 8 * numbers.iter().filter(|n| **n != 0).count();
        if !m.context.is_empty() {
            len += 2 + m.context.len();
        }
        if let Some(mark) = self.snapshot() {
            len += 16 + 4 + mark.membership.encoded_len();
        }
        if !m.entries.is_empty() {
            len += 4 + m.entries.iter().map(|e| ENTRY_HEAD_BYTES + e.data.len()).sum::<usize>();
        }
        len
    }

    /// Adds the message's bytes to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let m = &self.0;
        out.reserve(self.encoded_len());
        let kind =
            KINDS.iter().find(|(_, k)| *k == m.get_msg_type()).expect("only these kinds become messages").0;
        out.extend_from_slice(&[VERSION, kind]);
        let fields_at = out.len();
        out.extend_from_slice(&[0, 0]);
        for number in [m.to, m.from, m.term] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        let mut fields = 0;
        for (field, number) in [
            (LOG_TERM, m.log_term),
            (INDEX, m.index),
            (COMMIT, m.commit),
            (COMMIT_TERM, m.commit_term),
            (REJECT_HINT, m.reject_hint),
            (REQUEST_SNAPSHOT, m.request_snapshot),
            (PRIORITY, m.priority as u64),
        ] {
            if number != 0 {
                fields |= field;
                out.extend_from_slice(&number.to_le_bytes());
            }
        }
        if m.reject {
            fields |= REJECT;
        }
        if !m.context.is_empty() {
            fields |= CONTEXT;
            let len = u16::try_from(m.context.len()).expect("the engine's contexts are short");
            out.extend_from_slice(&len.to_le_bytes());
            out.extend_from_slice(&m.context);
        }
        if let Some(mark) = self.snapshot() {
            fields |= SNAPSHOT;
            out.extend_from_slice(&mark.index.0.to_le_bytes());
            out.extend_from_slice(&mark.term.0.to_le_bytes());
            let membership = mark.membership.encode();
            out.extend_from_slice(&u32::try_from(membership.len()).expect("few members").to_le_bytes());
            out.extend_from_slice(&membership);
        }
        if !m.entries.is_empty() {
            fields |= ENTRIES;
            out.extend_from_slice(
                &u32::try_from(m.entries.len()).expect("a message is bounded").to_le_bytes(),
            );
            m.entries.iter().for_each(|entry| encode_entry(entry, out));
        }
        out[fields_at..fields_at + 2].copy_from_slice(&u16::to_le_bytes(fields));
    }

    /// Reads exactly one message; `bytes` is empty afterwards. Entries share its memory.
    ///
    /// # Errors
    /// If the bytes are cut, followed by others, of an unknown version or kind, or no replica would have sent them.
    pub fn decode(bytes: &mut Bytes) -> Result<Self, Malformed> {
        let mut reader = Reader(bytes);
        let [version, kind] = reader.take()?;
        if version != VERSION {
            return Err(Malformed("unknown version"));
        }
        let kind = KINDS.iter().find(|(k, _)| *k == kind).ok_or(Malformed("unknown kind"))?.1;
        let fields = u16::from_le_bytes(reader.take()?);
        let mut m = RaftMessage::default();
        m.set_msg_type(kind);
        m.to = reader.number()?;
        m.from = reader.number()?;
        m.term = reader.counter()?;
        if m.to == 0 || m.from == 0 || m.term == 0 {
            return Err(Malformed("an address or the term is zero"));
        }
        let optional = |field: u16, reader: &mut Reader<'_>| -> Result<u64, Malformed> {
            if fields & field == 0 {
                return Ok(0);
            }
            match reader.counter()? {
                0 => Err(Malformed("a field that is present is zero")),
                number => Ok(number),
            }
        };
        m.log_term = optional(LOG_TERM, &mut reader)?;
        m.index = optional(INDEX, &mut reader)?;
        m.commit = optional(COMMIT, &mut reader)?;
        m.commit_term = optional(COMMIT_TERM, &mut reader)?;
        m.reject_hint = optional(REJECT_HINT, &mut reader)?;
        m.request_snapshot = optional(REQUEST_SNAPSHOT, &mut reader)?;
        if fields & PRIORITY != 0 {
            m.priority = i64::from_le_bytes(reader.take()?);
            if m.priority == 0 {
                return Err(Malformed("a field that is present is zero"));
            }
        }
        m.reject = fields & REJECT != 0;
        if fields & CONTEXT != 0 {
            let len = u16::from_le_bytes(reader.take()?);
            if len == 0 {
                return Err(Malformed("a field that is present is empty"));
            }
            m.context = reader.slice(usize::from(len))?;
        }
        if (fields & SNAPSHOT != 0) != (kind == MessageType::MsgSnapshot) {
            return Err(Malformed("a snapshot and its mark go together"));
        }
        if fields & SNAPSHOT != 0 {
            m.set_snapshot(decode_mark(&mut reader, m.term)?.to_raft());
        }
        if fields & ENTRIES != 0 {
            if kind != MessageType::MsgAppend {
                return Err(Malformed("entries come with appends only"));
            }
            m.set_entries(decode_entries(&mut reader, m.index, m.log_term..=m.term)?.into());
        }
        if fields >= ENTRIES << 1 {
            return Err(Malformed("unknown fields"));
        }
        if !reader.0.is_empty() {
            return Err(Malformed("bytes after its end"));
        }
        Ok(Self(m))
    }
}

fn encode_entry(entry: &RaftEntry, out: &mut Vec<u8>) {
    out.extend_from_slice(&entry.index.to_le_bytes());
    out.extend_from_slice(&entry.term.to_le_bytes());
    out.extend_from_slice(&u32::try_from(entry.data.len()).expect("entries are bounded").to_le_bytes());
    out.extend_from_slice(&[u8::from(entry.get_entry_type() != EntryType::EntryNormal), 0, 0, 0]);
    out.extend_from_slice(&entry.data);
}

/// Reads entries that follow `before`; their terms never fall and lie in `terms`.
fn decode_entries(
    reader: &mut Reader<'_>,
    before: u64,
    terms: std::ops::RangeInclusive<u64>,
) -> Result<Vec<RaftEntry>, Malformed> {
    let count = u32::from_le_bytes(reader.take()?);
    if count == 0 {
        return Err(Malformed("a field that is present is empty"));
    }
    // What is left bounds the allocation, whatever the count claims.
    let mut entries = Vec::with_capacity((count as usize).min(reader.0.len() / ENTRY_HEAD_BYTES));
    let mut term_before = (*terms.start()).max(1);
    for position in 1..=u64::from(count) {
        let mut entry =
            RaftEntry { index: reader.counter()?, term: reader.counter()?, ..RaftEntry::default() };
        if entry.index != before + position {
            return Err(Malformed("entries do not follow each other"));
        }
        if entry.term < term_before || entry.term > *terms.end() {
            return Err(Malformed("an entry's term does not fit"));
        }
        term_before = entry.term;
        let len = u32::from_le_bytes(reader.take()?);
        entry.set_entry_type(match reader.take()? {
            [0, 0, 0, 0] => EntryType::EntryNormal,
            [1, 0, 0, 0] => EntryType::EntryConfChangeV2,
            _ => return Err(Malformed("unknown kind of entry")),
        });
        entry.data = reader.slice(len as usize)?;
        entries.push(entry);
    }
    Ok(entries)
}

fn decode_mark(reader: &mut Reader<'_>, term_max: u64) -> Result<SnapshotMark, Malformed> {
    let (index, term) = (reader.counter()?, reader.counter()?);
    if index == 0 || term == 0 || term > term_max {
        return Err(Malformed("a snapshot's place does not fit"));
    }
    let len = u32::from_le_bytes(reader.take()?);
    let membership = reader.slice(len as usize)?;
    let membership = Membership::decode(&membership).ok_or(Malformed("a snapshot's membership"))?;
    if membership.voters.is_empty() || !membership.is_sound() {
        return Err(Malformed("a snapshot's membership is impossible"));
    }
    Ok(SnapshotMark { index: Index(index), term: Term(term), membership })
}

struct Reader<'a>(&'a mut Bytes);

impl Reader<'_> {
    fn slice(&mut self, len: usize) -> Result<Bytes, Malformed> {
        if len > self.0.len() {
            return Err(Malformed("cut short"));
        }
        Ok(self.0.split_to(len))
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let bytes = *self.0.first_chunk::<N>().ok_or(Malformed("cut short"))?;
        bytes::Buf::advance(self.0, N);
        Ok(bytes)
    }

    fn number(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_le_bytes(self.take()?))
    }

    fn counter(&mut self) -> Result<u64, Malformed> {
        match self.number()? {
            number if number < NUMBER_MAX => Ok(number),
            _ => Err(Malformed("a number out of range")),
        }
    }
}
