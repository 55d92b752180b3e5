//! Where every entry lies: the part of the log that is in memory, shared with readers.
//!
//! 24 bytes an entry. Append and recovery learn from the same record views ([`Log::learn`]), so that what a restart
//! will see is what the running log believes.
//!
//! # Invariants
//! - Within a group, the segments of its entries never decrease with the index: entries are appended in order, and what
//!   is copied forward is always a whole tail. So dropping a segment drops a prefix.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use z4_env::File;
use z4_types::{HardState, Index, ShardId, Term};

use crate::body::ENTRY_HEADER;
use crate::format::{RecordKind, View};

/// Where one entry lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Location {
    pub(crate) segment: u64,
    pub(crate) term: Term,
    /// Of the entry's header in the segment. A segment stays below 4 GiB.
    pub(crate) offset: u32,
    /// Bytes of the entry's data.
    pub(crate) length: u32,
}

impl Location {
    /// Returns the bytes the entry takes, header and data.
    pub(crate) fn bytes(&self) -> usize {
        ENTRY_HEADER + self.length as usize
    }
}

/// One group's log.
#[derive(Debug, Default)]
pub(crate) struct GroupIndex {
    /// Index of `locations[0]`; means nothing while that is empty.
    first: Index,
    locations: VecDeque<Location>,
    /// The newest one, and the segment it is in.
    pub(crate) hard_state: Option<(HardState, u64)>,
    /// Entries up to here are durable in the base. Invariant: never decreases.
    pub(crate) released: Index,
}

impl GroupIndex {
    pub(crate) fn first(&self) -> Option<Index> {
        (!self.locations.is_empty()).then_some(self.first)
    }

    pub(crate) fn last(&self) -> Option<Index> {
        (!self.locations.is_empty()).then(|| Index(self.first.0 + self.locations.len() as u64 - 1))
    }

    pub(crate) fn get(&self, index: Index) -> Option<Location> {
        let at = index.0.checked_sub(self.first.0)?;
        self.locations.get(usize::try_from(at).ok()?).copied()
    }

    /// Returns the first entry that is not released.
    pub(crate) fn unreleased(&self) -> Option<Index> {
        let from = Index(self.first()?.0.max(self.released.0 + 1));
        (from <= self.last()?).then_some(from)
    }

    /// Forgets entries at `from` and above.
    fn truncate(&mut self, from: Index) {
        let keep = from.0.saturating_sub(self.first.0);
        self.locations.truncate(usize::try_from(keep).unwrap_or(usize::MAX));
    }

    /// Makes `index` the next one: forgets what is at or above it, and everything if it leaves a gap.
    fn place(&mut self, index: Index) {
        self.truncate(index);
        if self.last().is_none_or(|last| last.next() != index) {
            self.locations.clear();
            self.first = index;
        }
    }

    fn drop_through(&mut self, segment: u64) {
        while self.locations.front().is_some_and(|l| l.segment <= segment) {
            self.locations.pop_front();
            self.first = self.first.next();
        }
    }
}

/// A live segment.
#[derive(Clone)]
pub(crate) struct Segment {
    pub(crate) file: Arc<dyn File>,
    /// Length of the file as last known, bytes.
    pub(crate) bytes: u64,
}

/// The whole log: live segments, and where the groups' entries are in them.
#[derive(Default)]
pub(crate) struct Log {
    pub(crate) segments: BTreeMap<u64, Segment>,
    pub(crate) groups: BTreeMap<ShardId, GroupIndex>,
}

impl Log {
    /// Takes in a record that starts at `offset` of segment `sequence`.
    pub(crate) fn learn(&mut self, view: &View<'_>, sequence: u64, offset: u64) {
        match view.kind {
            RecordKind::Seal => return,
            RecordKind::Forget => {
                self.groups.remove(&view.group);
                return;
            }
            RecordKind::Log => {}
        }
        let group = self.groups.entry(view.group).or_default();
        if let Some(hard_state) = view.hard_state {
            group.hard_state = Some((hard_state, sequence));
        }
        if let Some(from) = view.truncate {
            group.truncate(from);
        }
        let Some(entries) = view.entries else { return };
        let mut offset = u32::try_from(offset + view.entries_at as u64).expect("a segment stays below 4 GiB");
        let mut place = true;
        for entry in entries {
            if place {
                group.place(entry.index);
                place = false;
            }
            let (term, length) = (entry.term, entry.data.len() as u32);
            group.locations.push_back(Location { segment: sequence, term, offset, length });
            offset += entry.len() as u32;
        }
    }

    /// Forgets the oldest segment and the entries in it.
    pub(crate) fn drop_segment(&mut self, sequence: u64) {
        self.segments.remove(&sequence);
        for group in self.groups.values_mut() {
            group.drop_through(sequence);
        }
    }
}

/// Returns the path of segment `sequence`.
pub(crate) fn segment_path(dir: &Path, sequence: u64) -> PathBuf {
    dir.join(format!("{sequence:016x}.wal"))
}

/// Returns the number in a name of 16 hexadecimal digits and `.suffix`, as [`segment_path`] prints them.
pub(crate) fn parse_name(name: &str, suffix: &str) -> Option<u64> {
    let digits = name.strip_suffix(suffix)?.strip_suffix('.')?;
    let number = u64::from_str_radix(digits, 16).ok()?;
    (format!("{number:016x}") == digits).then_some(number)
}
