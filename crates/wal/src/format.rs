//! Segment headers and records as bytes.
//!
//! Pure functions over buffers. A record is encoded without its place first ([`Encoder`]), since only its size decides
//! in which segment it goes; [`stamp`] then fills in batch and checksum, which depend on the place.
//!
//! # Invariants
//! - A record checks only at the offset and in the segment it was written for. Within one file a CRC always
//!   notices a change of the sequence by less than 2^32, so stale bytes of a recycled file never check, not even
//!   by chance.
//!
//! Layout: FORMATS.md, "WAL segment and record".

use std::ops::ControlFlow;

use z4_types::{Entry, HardState, Index, ShardId, Term};

use crate::body::{self, u32_at, u64_at};

/// The format version this program writes, and the newest it reads.
pub(crate) const VERSION: u32 = 1;
/// Bytes of a segment before its first record: one page, so that records never share it with the header.
pub(crate) const SEGMENT_HEADER: usize = 4096;
/// Bytes every record starts with; also the smallest record.
pub(crate) const RECORD_HEADER: usize = 24;
/// Records start at multiples of this.
pub(crate) const ALIGN: usize = 8;

const MAGIC: &[u8; 8] = b"Z4WAL\r\n\0";
const HEADER_CRC: usize = SEGMENT_HEADER - 4;

const LAST: u8 = 1;
const HARD_STATE: u8 = 2;
const TRUNCATE: u8 = 4;
const BODY: u8 = 8;

/// What a segment says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) sequence: u64,
    pub(crate) first_batch: u64,
}

impl SegmentHeader {
    pub(crate) fn encode(self) -> Vec<u8> {
        let mut bytes = vec![0; SEGMENT_HEADER];
        bytes[0..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.first_batch.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..HEADER_CRC]);
        bytes[HEADER_CRC..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads a header. `Ok(Err(version))`: a sound header of another format version.
    pub(crate) fn parse(bytes: &[u8], sequence: u64) -> Result<Result<Self, u32>, &'static str> {
        let Some(bytes) = bytes.get(..SEGMENT_HEADER) else {
            return Err("the file is shorter than a header");
        };
        if bytes[0..8] != MAGIC[..] {
            return Err("the header does not start like a z4 log segment");
        }
        if crc32c::crc32c(&bytes[..HEADER_CRC]) != u32_at(bytes, HEADER_CRC) {
            return Err("the header's checksum does not hold");
        }
        let version = u32_at(bytes, 8);
        if version != VERSION {
            return Ok(Err(version));
        }
        let found = Self { sequence: u64_at(bytes, 16), first_batch: u64_at(bytes, 24) };
        if found.sequence != sequence {
            return Err("the header is that of another segment");
        }
        Ok(Ok(found))
    }
}

/// What a record is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RecordKind {
    /// Hard state, truncation, entries of a group.
    Log,
    /// Nothing before counts for the group.
    Forget,
    /// Proves that the batch before was synced.
    Seal,
}

/// A record as it lies in a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct View<'a> {
    /// Bytes from this record to the next.
    pub(crate) length: usize,
    pub(crate) batch: u64,
    pub(crate) group: ShardId,
    pub(crate) kind: RecordKind,
    pub(crate) last: bool,
    pub(crate) hard_state: Option<HardState>,
    pub(crate) truncate: Option<Index>,
    pub(crate) entries: Option<body::Views<'a>>,
    /// Where the entries start, from the start of the record.
    pub(crate) entries_at: usize,
}

impl<'a> View<'a> {
    /// Reads the record at `at` of a segment's bytes, or says why there is none. `verify` is always true but for
    /// bytes that were encoded a moment ago (and for a planted bug).
    pub(crate) fn parse(
        segment: &'a [u8],
        at: usize,
        sequence: u64,
        verify: bool,
    ) -> Result<Self, &'static str> {
        let rest = segment.get(at..).unwrap_or_default();
        if rest.len() < RECORD_HEADER {
            return Err("no room for a record");
        }
        let length = u32_at(rest, 0) as usize;
        if length < RECORD_HEADER || !length.is_multiple_of(ALIGN) || length > rest.len() {
            return Err("a record of impossible length");
        }
        let record = &rest[..length];
        if verify && u32_at(record, 4) != checksum(record, sequence, at as u64) {
            return Err("a record's checksum does not hold");
        }
        let kind = match record[20] {
            1 => RecordKind::Log,
            2 => RecordKind::Forget,
            3 => RecordKind::Seal,
            _ => return Err("a record of unknown kind"),
        };
        let flags = record[21];
        if flags & !(LAST | HARD_STATE | TRUNCATE | BODY) != 0 || record[22..24] != [0; 2] {
            return Err("a record with reserved bits in use");
        }
        let mut parts = Parts { record, at: RECORD_HEADER };
        let hard_state = if flags & HARD_STATE != 0 {
            Some(HardState { term: Term(parts.u64()?), vote: parts.u64()?, commit: Index(parts.u64()?) })
        } else {
            None
        };
        let truncate = if flags & TRUNCATE != 0 { Some(Index(parts.u64()?)) } else { None };
        let entries = if flags & BODY != 0 { Some(body::views(&record[parts.at..])?) } else { None };
        let entries_at = parts.at + body::HEADER;
        let (batch, group) = (u64_at(record, 8), ShardId(u32_at(record, 16)));
        let last = flags & LAST != 0;
        Ok(Self { length, batch, group, kind, last, hard_state, truncate, entries, entries_at })
    }
}

/// Reads one part of a record after the other.
struct Parts<'a> {
    record: &'a [u8],
    at: usize,
}

impl Parts<'_> {
    fn u64(&mut self) -> Result<u64, &'static str> {
        if self.record.len() < self.at + 8 {
            return Err("a record's parts are cut off");
        }
        self.at += 8;
        Ok(u64_at(self.record, self.at - 8))
    }
}

/// Encodes the records of one batch, one behind the other, without their place.
pub(crate) struct Encoder<'a> {
    out: &'a mut Vec<u8>,
    last_at: Option<usize>,
}

impl<'a> Encoder<'a> {
    /// Starts over in `out`, keeping its memory.
    pub(crate) fn new(out: &'a mut Vec<u8>) -> Self {
        out.clear();
        Self { out, last_at: None }
    }

    pub(crate) fn log(
        &mut self,
        group: ShardId,
        hard_state: Option<&HardState>,
        truncate: Option<Index>,
        entries: &[Entry],
    ) {
        let at = self.begin(group, 1);
        if let Some(hard_state) = hard_state {
            self.out[at + 21] |= HARD_STATE;
            for part in [hard_state.term.0, hard_state.vote, hard_state.commit.0] {
                self.out.extend_from_slice(&part.to_le_bytes());
            }
        }
        if let Some(truncate) = truncate {
            self.out[at + 21] |= TRUNCATE;
            self.out.extend_from_slice(&truncate.0.to_le_bytes());
        }
        if !entries.is_empty() {
            self.out[at + 21] |= BODY;
            body::encode(group, entries, self.out);
        }
        self.end(at);
    }

    pub(crate) fn forget(&mut self, group: ShardId) {
        let at = self.begin(group, 2);
        self.end(at);
    }

    pub(crate) fn seal(&mut self) {
        let at = self.begin(ShardId(0), 3);
        self.end(at);
    }

    /// Flags the last record as such. Returns false if there is none.
    pub(crate) fn finish(self) -> bool {
        if let Some(at) = self.last_at {
            self.out[at + 21] |= LAST;
        }
        self.last_at.is_some()
    }

    fn begin(&mut self, group: ShardId, kind: u8) -> usize {
        let at = self.out.len();
        self.out.extend_from_slice(&[0; RECORD_HEADER]);
        self.out[at + 16..at + 20].copy_from_slice(&group.0.to_le_bytes());
        self.out[at + 20] = kind;
        self.last_at = Some(at);
        at
    }

    fn end(&mut self, at: usize) {
        self.out.resize(self.out.len().next_multiple_of(ALIGN), 0);
        let length =
            u32::try_from(self.out.len() - at).expect("a body stays below 4 GiB, and a record with it");
        self.out[at..at + 4].copy_from_slice(&length.to_le_bytes());
    }
}

/// Gives the records in `records` their batch number, and the checksum of their place: `offset` in segment `sequence`.
pub(crate) fn stamp(records: &mut [u8], sequence: u64, offset: u64, batch: u64) {
    let mut at = 0;
    while at < records.len() {
        let length = u32_at(records, at) as usize;
        let record = &mut records[at..at + length];
        record[8..16].copy_from_slice(&batch.to_le_bytes());
        let crc = checksum(record, sequence, offset + at as u64);
        record[4..8].copy_from_slice(&crc.to_le_bytes());
        at += length;
    }
}

/// Calls `see` with every record behind `at` that checks and belongs to batch `least` or a later one, wherever it
/// starts: behind a damaged record the lengths cannot be trusted.
pub(crate) fn search<'a>(
    segment: &'a [u8],
    at: usize,
    sequence: u64,
    least: u64,
    mut see: impl FnMut(usize, View<'a>) -> ControlFlow<()>,
) {
    // Every batch takes at least one record, so no honest number in here is larger. The cheap test on the number
    // spares the checksum of nearly all stale records.
    let most = least + (segment.len() / RECORD_HEADER) as u64;
    for at in (at..segment.len().saturating_sub(RECORD_HEADER - 1)).step_by(ALIGN) {
        if (least..=most).contains(&u64_at(segment, at + 8))
            && let Ok(view) = View::parse(segment, at, sequence, true)
            && see(at, view).is_break()
        {
            return;
        }
    }
}

fn checksum(record: &[u8], sequence: u64, offset: u64) -> u32 {
    let mut place = [0; 20];
    place[0..8].copy_from_slice(&sequence.to_le_bytes());
    place[8..16].copy_from_slice(&offset.to_le_bytes());
    place[16..20].copy_from_slice(&record[0..4]);
    crc32c::crc32c_append(crc32c::crc32c(&place), &record[8..])
}
