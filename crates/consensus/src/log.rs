//! The engine's view of the log: a tail in memory over what the host's log can read back.
//!
//! ```text
//! compacted | on disk only            | cached in memory          | next
//!           ^ first                   ^ cache_start               ^ last + 1
//! ```
//!
//! A snapshot that arrives replaces all of it: the log then begins after the snapshot's mark.
//!
//! # Invariants
//! - `first <= cache_start <= last + 1`; cached entries are contiguous.
//! - What raft-rs was told is stable is in the cache or readable through [`ReadBack`]. An entry that is not readable any
//!   more is *compacted* for the engine: it then sends a snapshot, and does not panic.
//! - `before_first <= mark`; the mark is what a snapshot made now would have.

use std::collections::VecDeque;

use raft::eraftpb::{Entry as RaftEntry, Snapshot};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};
use z4_types::{Entry, EntryKind, Index, ShardId, Term};

use crate::membership::Membership;
use crate::message::SnapshotMark;

/// What a cached entry costs besides its data, bytes: bounds the number of empty ones.
const ENTRY_OVERHEAD_BYTES: usize = 96;

/// Reads entries that left the cache, for followers that are behind.
pub trait ReadBack: Send {
    /// Returns entries of `group` from `from` (inclusive) to `to` (exclusive), stopping after `bytes_max`, at
    /// least one if there is one. None if they are not there any more.
    fn entries(&self, group: ShardId, from: Index, to: Index, bytes_max: usize) -> Option<Vec<Entry>>;
    /// Returns the term of one entry.
    fn term(&self, group: ShardId, index: Index) -> Option<Term>;
}

pub(crate) struct LogTail {
    group: ShardId,
    hard_state: raft::prelude::HardState,
    /// The applied index with its term and membership.
    mark: SnapshotMark,
    /// The entry before the first one: its index and term.
    before_first: (u64, u64),
    cache_start: u64,
    /// Index and term of the entry before `cache_start`, when it left by eviction: the engine asks for the term of
    /// its last entry at every read and election.
    last_evicted: (u64, u64),
    cache: VecDeque<RaftEntry>,
    cached_bytes: usize,
    read_back: Box<dyn ReadBack>,
}

impl LogTail {
    pub(crate) fn new(
        group: ShardId,
        hard_state: raft::prelude::HardState,
        membership: Membership,
        before_first: (Index, Term),
        entries: Vec<Entry>,
        read_back: Box<dyn ReadBack>,
    ) -> Self {
        let mut tail = Self {
            group,
            hard_state,
            mark: SnapshotMark { index: before_first.0, term: before_first.1, membership },
            before_first: (before_first.0.0, before_first.1.0),
            cache_start: before_first.0.0 + 1,
            last_evicted: (0, 0),
            cache: VecDeque::new(),
            cached_bytes: 0,
            read_back,
        };
        let entries: Vec<RaftEntry> = entries.into_iter().map(to_raft).collect();
        tail.append(&entries);
        tail
    }

    /// Takes over entries that raft-rs is about to consider stable, replacing any conflicting tail.
    pub(crate) fn append(&mut self, entries: &[RaftEntry]) {
        let Some(first) = entries.first() else { return };
        assert!(first.index > self.before_first.0, "the compacted log never changes");
        assert!(first.index <= self.last() + 1, "the log has no holes");
        if first.index < self.cache_start {
            self.cache.clear();
            self.cached_bytes = 0;
            self.cache_start = first.index;
        }
        while self.last_cached() >= first.index {
            let dropped = self.cache.pop_back().expect("the cache holds its last index");
            self.cached_bytes -= cost(&dropped);
        }
        for entry in entries {
            self.cached_bytes += cost(entry);
            self.cache.push_back(entry.clone());
        }
    }

    /// Forgets everything up to and including `through`: applied, durable in the base, needed by no follower.
    pub(crate) fn compact(&mut self, through: u64, term: u64) {
        if through <= self.before_first.0 {
            return;
        }
        self.evict(through, 0);
        self.before_first = (through, term);
        self.cache_start = self.cache_start.max(through + 1);
    }

    /// Drops the oldest cached entries up to `through` until at most `keep` bytes are cached; they stay readable
    /// through the host's log.
    pub(crate) fn evict(&mut self, through: u64, keep: usize) {
        while self.cache_start <= through && self.cached_bytes > keep {
            let Some(dropped) = self.cache.pop_front() else { break };
            self.cached_bytes -= cost(&dropped);
            self.cache_start = dropped.index + 1;
            self.last_evicted = (dropped.index, dropped.term);
        }
    }

    /// Starts anew after a snapshot that arrived.
    pub(crate) fn install(&mut self, mark: SnapshotMark) {
        assert!(mark.index > self.mark.index, "a snapshot never goes back");
        self.before_first = (mark.index.0, mark.term.0);
        self.cache_start = mark.index.0 + 1;
        self.last_evicted = (0, 0);
        self.cache.clear();
        self.cached_bytes = 0;
        self.mark = mark;
    }

    /// Moves the mark to an applied entry; stays where a snapshot went further.
    pub(crate) fn applied(&mut self, index: u64) {
        if index > self.mark.index.0 {
            self.mark.term = Term(self.term_of(index).expect("an applied entry is in the log"));
            self.mark.index = Index(index);
        }
    }

    /// Moves the mark to a membership entry that is being applied.
    pub(crate) fn set_mark(&mut self, mark: SnapshotMark) {
        assert!(mark.index > self.mark.index, "apply goes forward");
        self.mark = mark;
    }

    pub(crate) fn mark(&self) -> &SnapshotMark {
        &self.mark
    }

    pub(crate) fn first(&self) -> u64 {
        self.before_first.0 + 1
    }

    pub(crate) fn set_hard_state(&mut self, hard_state: &raft::prelude::HardState) {
        self.hard_state = hard_state.clone();
    }

    fn last_cached(&self) -> u64 {
        self.cache.back().map_or(0, |e| e.index)
    }

    fn last(&self) -> u64 {
        self.cache.back().map_or(self.cache_start - 1, |e| e.index)
    }

    fn term_of(&self, index: u64) -> Option<u64> {
        if index == self.before_first.0 {
            return Some(self.before_first.1);
        }
        if index >= self.cache_start {
            return self.cache.get(usize::try_from(index - self.cache_start).ok()?).map(|e| e.term);
        }
        if index < self.before_first.0 {
            return None;
        }
        if index == self.last_evicted.0 && index + 1 == self.cache_start {
            return Some(self.last_evicted.1);
        }
        self.read_back.term(self.group, Index(index)).map(|t| t.0)
    }
}

impl Storage for LogTail {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(self.hard_state.clone(), self.mark.membership.to_raft()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<RaftEntry>> {
        if low <= self.before_first.0 {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        assert!(high <= self.last() + 1, "raft-rs asks for entries that exist");
        let budget = max_size.into().map_or(usize::MAX, |b| usize::try_from(b).unwrap_or(usize::MAX));
        if low < self.cache_start {
            let to = Index(high.min(self.cache_start));
            return match self.read_back.entries(self.group, Index(low), to, budget) {
                Some(entries) if !entries.is_empty() => Ok(entries.into_iter().map(to_raft).collect()),
                // Cut since: whoever needs it gets a snapshot.
                _ => Err(raft::Error::Store(StorageError::Compacted)),
            };
        }
        let (from, to) = ((low - self.cache_start) as usize, (high - self.cache_start) as usize);
        let mut bytes = 0usize;
        let mut out = Vec::with_capacity(to - from);
        for entry in self.cache.range(from..to) {
            bytes = bytes.saturating_add(entry.data.len());
            if bytes > budget && !out.is_empty() {
                break;
            }
            out.push(entry.clone());
        }
        Ok(out)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        match self.term_of(index) {
            Some(term) => Ok(term),
            None if index > self.last() => Err(raft::Error::Store(StorageError::Unavailable)),
            None => Err(raft::Error::Store(StorageError::Compacted)),
        }
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.before_first.0 + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<Snapshot> {
        let mark = &self.mark;
        // The receiver would ignore a snapshot of a group it does not belong to.
        if mark.index.0 == 0 || mark.index.0 < request_index || !mark.membership.is_member(to) {
            return Err(raft::Error::Store(StorageError::SnapshotTemporarilyUnavailable));
        }
        Ok(mark.to_raft())
    }
}

fn cost(entry: &RaftEntry) -> usize {
    ENTRY_OVERHEAD_BYTES + entry.data.len()
}

pub(crate) fn to_raft(entry: Entry) -> RaftEntry {
    let mut out = RaftEntry::default();
    out.set_index(entry.index.0);
    out.set_term(entry.term.0);
    out.set_entry_type(match entry.kind {
        EntryKind::Normal => raft::eraftpb::EntryType::EntryNormal,
        EntryKind::Membership => raft::eraftpb::EntryType::EntryConfChangeV2,
    });
    out.set_data(entry.data);
    out
}

pub(crate) fn from_raft(entry: &RaftEntry) -> Entry {
    Entry {
        index: Index(entry.index),
        term: Term(entry.term),
        kind: match entry.get_entry_type() {
            raft::eraftpb::EntryType::EntryNormal => EntryKind::Normal,
            raft::eraftpb::EntryType::EntryConfChange | raft::eraftpb::EntryType::EntryConfChangeV2 => {
                EntryKind::Membership
            }
        },
        data: entry.data.clone(),
    }
}
