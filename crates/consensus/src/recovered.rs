//! What a replica is and what it finds on its disk.
//!
//! The base says what is applied, the log what came after. Normally they overlap or touch. After a crash in the middle
//! of a snapshot's installation the base is ahead of a log that tells an older story: [`Fit`] is the rule for what
//! counts then.

use z4_types::{Entry, HardState, Index, ShardId, Term};

use crate::log::ReadBack;
use crate::membership::Membership;

/// What one replica is.
#[derive(Debug, Clone)]
pub struct Config {
    /// The group.
    pub group: ShardId,
    /// This replica's id, unique in the cluster, never zero, never reused.
    pub replica: u64,
    /// Decides who campaigns first, together with group, replica and term. Replicas may share it.
    pub election_seed: u64,
}

/// What a replica finds on its disk.
pub struct Recovered {
    /// From the log; the default if there is none.
    pub hard_state: HardState,
    /// From the base; empty for a replica that was created by a message and has not got its snapshot yet: it never
    /// campaigns and learns the membership from the snapshot.
    pub membership: Membership,
    /// Applied and durable in the base: index and term.
    pub applied: (Index, Term),
    /// Entries after `applied`, contiguous: [`Fit::entries`].
    pub entries: Vec<Entry>,
    /// Reads older entries back.
    pub read_back: Box<dyn ReadBack>,
}

/// The entries of a log that continue a base.
#[derive(Debug, PartialEq, Eq)]
pub struct Fit {
    /// Entries after the applied index: for [`Recovered::entries`].
    pub entries: Vec<Entry>,
    /// The log tells another story than the base: the next record written for the group must forget everything from this
    /// index on *before* it appends. Otherwise what is appended would look like a continuation of that story, and the
    /// next restart would throw it away although it had been promised to a leader.
    pub forget_from: Option<Index>,
}

impl Fit {
    /// Returns what counts of the entries `found` in the log, in order and without gaps, over a base that has applied
    /// `applied`.
    ///
    /// What follows the applied index counts if the log's own entry at that index has the base's term, or if the log
    /// begins right after it (it was cut there, or started anew after a snapshot). Else the base came from a snapshot
    /// and the log does not know of it yet: nothing in it counts, because nothing after the snapshot was written.
    #[must_use]
    pub fn new(applied: (Index, Term), found: Vec<Entry>) -> Self {
        let (index, term) = applied;
        let fits = match found.first() {
            None => true,
            Some(first) if first.index > index => first.index == index.next(),
            Some(_) => found.iter().find(|e| e.index == index).is_none_or(|e| e.term == term),
        };
        if !fits {
            return Self { entries: Vec::new(), forget_from: Some(index) };
        }
        Self { entries: found.into_iter().filter(|e| e.index > index).collect(), forget_from: None }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use z4_types::EntryKind;

    use super::*;

    fn log(entries: &[(u64, u64)]) -> Vec<Entry> {
        let entry = |&(index, term)| Entry {
            index: Index(index),
            term: Term(term),
            kind: EntryKind::Normal,
            data: Bytes::new(),
        };
        entries.iter().map(entry).collect()
    }

    #[track_caller]
    fn check(applied: (u64, u64), found: &[(u64, u64)], left: &[u64], forget: Option<u64>) {
        let fit = Fit::new((Index(applied.0), Term(applied.1)), log(found));
        assert_eq!(fit.entries.iter().map(|e| e.index.0).collect::<Vec<_>>(), left);
        assert_eq!(fit.forget_from, forget.map(Index));
    }

    #[test]
    fn entries_count_only_if_they_continue_the_base() {
        check((5, 2), &[], &[], None);
        check((5, 2), &[(4, 2), (5, 2), (6, 2), (7, 3)], &[6, 7], None);
        check((5, 2), &[(6, 2), (7, 3)], &[6, 7], None);
        // Another story at the applied index: the base came from a snapshot.
        check((5, 3), &[(4, 2), (5, 2), (6, 2)], &[], Some(5));
        // A gap after the applied index.
        check((5, 2), &[(7, 3)], &[], Some(5));
        // The base is ahead of everything in the log: the next entry leaves a gap there, which starts it anew.
        check((5, 2), &[(2, 1), (3, 1)], &[], None);
    }
}
