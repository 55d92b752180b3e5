//! The bytes of one chunk. See `docs/FORMATS.md`, "Snapshot stream".
//!
//! A chunk that decodes has good checksums and a sound inside: rows ascend, and all counts and lengths agree. Whether it
//! fits to the chunks before it is `stream`'s business.

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};
use z4_types::limits::FRAME_BYTES_MAX;
use z4_types::{Index, ShardId, Term};

use super::stream::Progress;
use crate::Meta;

/// The newest chunk version this program reads.
pub(super) const VERSION: u8 = 1;
/// Bytes of rows in a chunk, at most, unless a single row has more: few enough that a lost chunk costs little and other
/// traffic finds gaps, enough that headers, calls and cursors do not count.
pub(super) const ROWS_BYTES: usize = 256 << 10;
/// Longest chunk: it must fit a frame between hosts. Rows are much shorter than that.
pub(super) const CHUNK_BYTES_MAX: usize = FRAME_BYTES_MAX;
/// Bytes of length and checksum, which begin a chunk in all versions.
pub(super) const PREFIX: usize = 8;
const HEAD: usize = 48;
const FIRST: u8 = 1;
const LAST: u8 = 2;

/// Which chunk of which stream some bytes claim to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkHead {
    /// The group.
    pub group: ShardId,
    /// The stream's number; see [`SnapshotReader::stream`](crate::SnapshotReader::stream).
    pub stream: u64,
    /// Counted from 0.
    pub number: u32,
    /// Whether it is the stream's last one.
    pub last: bool,
}

impl ChunkHead {
    /// Returns what `bytes` claim to be, to find the place they belong to; `None` if they are no chunk of a version we
    /// know. Nothing is verified.
    #[must_use]
    pub fn peek(bytes: &[u8]) -> Option<Self> {
        let mut read = Reader(bytes.get(PREFIX..HEAD)?);
        let (version, flags, _) = (read.byte()?, read.byte()?, read.take(2)?);
        let this = Self {
            group: ShardId(read.u32()?),
            stream: read.u64()?,
            number: read.u32()?,
            last: flags & LAST != 0,
        };
        (version == VERSION).then_some(this)
    }
}

/// What the first chunk says of the whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct First {
    pub(super) meta: Meta,
    /// About how many bytes keys and values have together.
    pub(super) bytes_about: u64,
}

/// A chunk that was found sound.
#[derive(Debug)]
pub(super) struct Chunk<'b> {
    pub(super) head: ChunkHead,
    /// Rows in it.
    pub(super) count: u32,
    /// What comes before it.
    pub(super) before: Progress,
    pub(super) first: Option<First>,
    pub(super) last_key: Option<&'b [u8]>,
    /// Rows and hash of the whole stream, in the last chunk.
    pub(super) totals: Option<(u64, u64)>,
    rows: &'b [u8],
}

/// Why bytes are no chunk.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    Newer(u8),
    Damaged(&'static str),
}

impl<'b> Chunk<'b> {
    pub(super) fn decode(bytes: &'b [u8]) -> Result<Self, Refusal> {
        let (length, crc) = prefix(bytes).ok_or(Refusal::Damaged("it is cut short"))?;
        if length != bytes.len() {
            return Err(Refusal::Damaged("its length is another"));
        }
        if checksum(bytes) != crc {
            return Err(Refusal::Damaged("its checksum does not match"));
        }
        match bytes.get(PREFIX) {
            Some(&version) if version > VERSION => return Err(Refusal::Newer(version)),
            _ => {}
        }
        // The checksum is good, so what does not parse was never right.
        Self::parse(bytes).ok_or(Refusal::Damaged("it is malformed"))
    }

    fn parse(bytes: &'b [u8]) -> Option<Self> {
        let head = ChunkHead::peek(bytes)?;
        let flags = bytes[PREFIX + 1];
        if flags & !(FIRST | LAST) != 0 || (flags & FIRST != 0) != (head.number == 0) {
            return None;
        }
        let mut read = Reader(&bytes[28..]);
        let count = read.u32()?;
        let before = Progress { number: head.number, rows: read.u64()?, hash: read.u64()? };
        let first = if flags & FIRST != 0 { Some(take_first(&mut read)?) } else { None };
        let totals = if head.last {
            let (rest, trailer) = read.0.split_at_checked(read.0.len().checked_sub(16)?)?;
            read = Reader(rest);
            let mut trailer = Reader(trailer);
            Some((trailer.u64()?, trailer.u64()?))
        } else {
            None
        };
        let rows = read.0;
        let mut last_key = None;
        let mut found = 0;
        while !read.0.is_empty() {
            let (key, _) = read.row()?;
            if last_key.is_some_and(|last| last >= key) {
                return None;
            }
            last_key = Some(key);
            found += 1;
        }
        (found == count).then_some(Self { head, count, before, first, last_key, totals, rows })
    }

    /// Returns the rows, ascending.
    pub(super) fn rows(&self) -> impl Iterator<Item = (&'b [u8], &'b [u8])> {
        let mut read = Reader(self.rows);
        std::iter::from_fn(move || read.row())
    }

    pub(super) fn first_key(&self) -> Option<&'b [u8]> {
        self.rows().next().map(|(key, _)| key)
    }

    /// Returns what comes before the next chunk.
    pub(super) fn after(&self) -> Progress {
        self.before.after(self.count, self.rows)
    }
}

/// Makes one chunk.
pub(super) struct Builder {
    bytes: Vec<u8>,
    before: Progress,
    rows_at: usize,
    count: u32,
}

impl Builder {
    pub(super) fn new(group: ShardId, stream: u64, before: Progress, first: Option<&First>) -> Self {
        let mut bytes = Vec::with_capacity(ROWS_BYTES + 4096);
        bytes.extend_from_slice(&[0; PREFIX]);
        bytes.extend_from_slice(&[VERSION, if first.is_some() { FIRST } else { 0 }, 0, 0]);
        bytes.extend_from_slice(&group.0.to_le_bytes());
        bytes.extend_from_slice(&stream.to_le_bytes());
        bytes.extend_from_slice(&before.number.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&before.rows.to_le_bytes());
        bytes.extend_from_slice(&before.hash.to_le_bytes());
        debug_assert_eq!(bytes.len(), HEAD);
        if let Some(first) = first {
            put_meta(&mut bytes, &first.meta);
            bytes.extend_from_slice(&first.bytes_about.to_le_bytes());
        }
        let rows_at = bytes.len();
        Self { bytes, before, rows_at, count: 0 }
    }

    /// Adds a row, which follows the last one; false if it belongs into the next chunk.
    pub(super) fn push(&mut self, key: &[u8], value: &[u8]) -> bool {
        let so_far = self.bytes.len() - self.rows_at;
        if self.count > 0 && so_far + PREFIX + key.len() + value.len() > ROWS_BYTES {
            return false;
        }
        put_len(&mut self.bytes, key.len());
        put_len(&mut self.bytes, value.len());
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(value);
        self.count += 1;
        true
    }

    /// Returns the chunk, and what comes before the next one.
    pub(super) fn finish(mut self, last: bool) -> (Vec<u8>, Progress) {
        let after = self.before.after(self.count, &self.bytes[self.rows_at..]);
        if last {
            self.bytes[PREFIX + 1] |= LAST;
            self.bytes.extend_from_slice(&after.rows.to_le_bytes());
            self.bytes.extend_from_slice(&after.hash.to_le_bytes());
        }
        assert!(self.bytes.len() <= CHUNK_BYTES_MAX, "a row is far shorter than a frame");
        let length = self.bytes.len() as u32;
        self.bytes[..4].copy_from_slice(&length.to_le_bytes());
        self.bytes[28..32].copy_from_slice(&self.count.to_le_bytes());
        let crc = checksum(&self.bytes);
        self.bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        (self.bytes, after)
    }
}

impl Progress {
    fn after(self, count: u32, rows: &[u8]) -> Self {
        Self {
            number: self.number + 1,
            rows: self.rows + u64::from(count),
            // A chain: going on in the middle needs no more than this number.
            hash: xxh3_64_with_seed(rows, self.hash),
        }
    }
}

/// Returns length and checksum as a chunk begins with them.
pub(super) fn prefix(bytes: &[u8]) -> Option<(usize, u32)> {
    let mut read = Reader(bytes);
    Some((read.u32()? as usize, read.u32()?))
}

/// Returns the number of the stream that brings `meta`: the same on every host that cuts the same rows.
pub(super) fn stream_of(group: ShardId, meta: &Meta) -> u64 {
    let mut bytes = vec![VERSION];
    bytes.extend_from_slice(&(ROWS_BYTES as u32).to_le_bytes());
    bytes.extend_from_slice(&group.0.to_le_bytes());
    put_meta(&mut bytes, meta);
    xxh3_64(&bytes)
}

fn checksum(chunk: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&chunk[..4]), &chunk[PREFIX..])
}

fn put_meta(to: &mut Vec<u8>, meta: &Meta) {
    for field in [meta.applied.0, meta.term.0, meta.digest] {
        to.extend_from_slice(&field.to_le_bytes());
    }
    put_len(to, meta.conf.len());
    to.extend_from_slice(&meta.conf);
}

fn put_len(to: &mut Vec<u8>, len: usize) {
    let len = u32::try_from(len).expect("keys, values and memberships are far below 4 GiB");
    to.extend_from_slice(&len.to_le_bytes());
}

fn take_first(read: &mut Reader<'_>) -> Option<First> {
    let (applied, term, digest) = (Index(read.u64()?), Term(read.u64()?), read.u64()?);
    let length = read.u32()? as usize;
    let meta = Meta { applied, term, digest, conf: read.take(length)?.to_vec() };
    Some(First { meta, bytes_about: read.u64()? })
}

/// Takes fields off the front of bytes.
struct Reader<'b>(&'b [u8]);

impl<'b> Reader<'b> {
    fn take(&mut self, count: usize) -> Option<&'b [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        Some(self.take(1)?[0])
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().expect("four bytes")))
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().expect("eight bytes")))
    }

    fn row(&mut self) -> Option<(&'b [u8], &'b [u8])> {
        let (key, value) = (self.u32()? as usize, self.u32()? as usize);
        Some((self.take(key)?, self.take(value)?))
    }
}

#[cfg(test)]
mod tests;
