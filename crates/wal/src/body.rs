//! Entries as bytes: the part of a record that is the same on disk and on the wire.
//!
//! A body says how long it is and checks itself entry by entry, and does not depend on where it lies. So what was
//! encoded for the log can be sent to a follower as it is, and one entry can be read back without its neighbours. The
//! group takes part in each checksum without being in the bytes: an entry never checks in another group's log.
//!
//! Layout: FORMATS.md, "WAL segment and record", Body.

use bytes::Bytes;
use z4_types::{Entry, EntryKind, Index, ShardId, Term};

/// Bytes before the first entry: count and length.
pub(crate) const HEADER: usize = 8;
/// Bytes of an entry before its data.
pub(crate) const ENTRY_HEADER: usize = 28;
/// Bytes of an entry's header its checksum covers.
const CHECKED: usize = 24;

/// An entry as it lies in a buffer, not yet copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct View<'a> {
    pub(crate) index: Index,
    pub(crate) term: Term,
    pub(crate) kind: EntryKind,
    pub(crate) data: &'a [u8],
    /// As stored; [`View::checks`] compares.
    pub(crate) crc: u32,
}

impl<'a> View<'a> {
    /// Reads the entry at the start of `bytes`, or says why there is none. Does not look at the checksum.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, &'static str> {
        let Some((header, rest)) = bytes.split_at_checked(ENTRY_HEADER) else {
            return Err("an entry's header is cut off");
        };
        let length = u32_at(header, 16) as usize;
        let Some(data) = rest.get(..length) else { return Err("an entry's data is cut off") };
        let kind = match header[20] {
            0 => EntryKind::Normal,
            1 => EntryKind::Membership,
            _ => return Err("an entry of unknown kind"),
        };
        if header[21..24] != [0; 3] {
            return Err("an entry with reserved bytes in use");
        }
        let (index, term) = (Index(u64_at(header, 0)), Term(u64_at(header, 8)));
        Ok(Self { index, term, kind, data, crc: u32_at(header, CHECKED) })
    }

    /// Returns whether the entry is what was once written for `group`.
    pub(crate) fn checks(&self, group: ShardId) -> bool {
        let header = header(self.index, self.term, self.kind, self.data.len());
        self.crc == checksum(group, &header, self.data)
    }

    /// Returns the bytes the entry takes.
    pub(crate) fn len(&self) -> usize {
        ENTRY_HEADER + self.data.len()
    }

    /// Returns the entry with a copy of its data.
    pub(crate) fn to_entry(self) -> Entry {
        Entry { index: self.index, term: self.term, kind: self.kind, data: Bytes::copy_from_slice(self.data) }
    }
}

/// Returns the bytes [`encode`] appends for `entries`.
#[must_use]
pub fn encoded_len(entries: &[Entry]) -> usize {
    HEADER + entries.iter().map(|e| ENTRY_HEADER + e.data.len()).sum::<usize>()
}

/// Appends the body of `entries` of `group` to `out`.
///
/// # Panics
/// If there are no entries, if their indexes are not consecutive, or if they take 4 GiB or more: callers cut their
/// batches far below.
pub fn encode(group: ShardId, entries: &[Entry], out: &mut Vec<u8>) {
    assert!(!entries.is_empty(), "a body has at least one entry");
    let bytes = encoded_len(entries) - HEADER;
    out.reserve(HEADER + bytes);
    out.extend_from_slice(&u32_of(entries.len()).to_le_bytes());
    out.extend_from_slice(&u32_of(bytes).to_le_bytes());
    let mut expected = entries[0].index;
    for entry in entries {
        assert_eq!(entry.index, expected, "the entries of a body have consecutive indexes");
        expected = expected.next();
        let header = header(entry.index, entry.term, entry.kind, entry.data.len());
        out.extend_from_slice(&header);
        out.extend_from_slice(&checksum(group, &header, &entry.data).to_le_bytes());
        out.extend_from_slice(&entry.data);
    }
}

/// Returns the entries of a body and the bytes it took, or why it is none. The entries share `bytes`.
///
/// # Errors
/// A reason, if `bytes` does not start with a whole body of `group` whose checksums hold.
pub fn decode(group: ShardId, bytes: &Bytes) -> Result<(Vec<Entry>, usize), &'static str> {
    let views = views(bytes)?;
    let mut entries = Vec::with_capacity(views.count());
    let mut at = HEADER;
    for view in views {
        if !view.checks(group) {
            return Err("an entry's checksum does not hold");
        }
        let data = bytes.slice(at + ENTRY_HEADER..at + view.len());
        entries.push(Entry { index: view.index, term: view.term, kind: view.kind, data });
        at += view.len();
    }
    Ok((entries, at))
}

/// Checks the structure of the body at the start of `bytes`, and returns its entries.
pub(crate) fn views(bytes: &[u8]) -> Result<Views<'_>, &'static str> {
    if bytes.len() < HEADER {
        return Err("a body's header is cut off");
    }
    let (count, length) = (u32_at(bytes, 0), u32_at(bytes, 4) as usize);
    let Some(entries) = bytes[HEADER..].get(..length) else { return Err("a body is cut off") };
    let mut rest = entries;
    let mut expected = None;
    for _ in 0..count {
        let view = View::parse(rest)?;
        if expected.is_some_and(|e| e != view.index) {
            return Err("a body whose indexes are not consecutive");
        }
        expected = Some(view.index.next());
        rest = &rest[view.len()..];
    }
    if count == 0 || !rest.is_empty() {
        return Err("a body whose count and length disagree");
    }
    Ok(Views { rest: entries })
}

/// The entries of a body that [`views`] has checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Views<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Views<'a> {
    type Item = View<'a>;

    fn next(&mut self) -> Option<View<'a>> {
        if self.rest.is_empty() {
            return None;
        }
        let view = View::parse(self.rest).expect("the structure was checked when the body was opened");
        self.rest = &self.rest[view.len()..];
        Some(view)
    }
}

fn header(index: Index, term: Term, kind: EntryKind, length: usize) -> [u8; CHECKED] {
    let mut header = [0; CHECKED];
    header[0..8].copy_from_slice(&index.0.to_le_bytes());
    header[8..16].copy_from_slice(&term.0.to_le_bytes());
    header[16..20].copy_from_slice(&u32_of(length).to_le_bytes());
    header[20] = match kind {
        EntryKind::Normal => 0,
        EntryKind::Membership => 1,
    };
    header
}

fn checksum(group: ShardId, header: &[u8; CHECKED], data: &[u8]) -> u32 {
    // One call over the small parts: each call has a fixed cost that shows at 300-byte entries.
    let mut start = [0; 4 + CHECKED];
    start[..4].copy_from_slice(&group.0.to_le_bytes());
    start[4..].copy_from_slice(header);
    crc32c::crc32c_append(crc32c::crc32c(&start), data)
}

fn u32_of(n: usize) -> u32 {
    u32::try_from(n).expect("a body stays below 4 GiB")
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
