//! What one voter promises: nothing is handed out as committed before it is durable.

use bytes::Bytes;
use z4_types::{Entry, EntryKind, HardState, Index, ShardId, Term};

use crate::{Config, Group, Membership, ReadBack, Recovered};

struct Nothing;

impl ReadBack for Nothing {
    fn entries(&self, _: ShardId, _: Index, _: Index, _: usize) -> Option<Vec<Entry>> {
        None
    }
    fn term(&self, _: ShardId, _: Index) -> Option<Term> {
        None
    }
}

fn open(hard_state: HardState, applied: (Index, Term), entries: Vec<Entry>) -> Group {
    let config = Config { group: ShardId(1), replica: 1, election_seed: 0 };
    let membership = Membership::single(1);
    Group::open(&config, Recovered { hard_state, membership, applied, entries, read_back: Box::new(Nothing) })
        .expect("a consistent disk opens")
}

fn fresh() -> Group {
    open(HardState::default(), (Index(0), Term(0)), Vec::new())
}

/// Persists and applies everything there is; returns the applied entries' data.
fn settle(group: &mut Group) -> Vec<Bytes> {
    let mut applied = Vec::new();
    while let Some(ready) = group.ready() {
        if let Some(number) = ready.number {
            group.persisted(number);
        }
        for entry in ready.committed {
            group.applied(entry.index);
            applied.push(entry.data);
        }
    }
    applied
}

#[test]
fn one_voter_leads_after_its_first_write_is_durable() {
    let mut group = fresh();
    let ready = group.ready().expect("the election must be persisted");
    assert_eq!(ready.hard_state.map(|h| (h.term, h.vote)), Some((Term(1), 1)));
    assert!(ready.committed.is_empty());
    group.persisted(ready.number.expect("a vote is persisted"));
    settle(&mut group);
    assert!(group.is_leader());
    assert_eq!(group.commit(), Index(1));
}

#[test]
fn nothing_commits_before_it_is_durable_and_persisting_overlaps_proposing() {
    let mut group = fresh();
    settle(&mut group);
    group.propose(Bytes::from_static(b"one")).expect("leads");
    let first = group.ready().expect("an entry to persist");
    assert_eq!(first.entries.len(), 1);
    group.propose(Bytes::from_static(b"two")).expect("leads");
    let second = group.ready().expect("a second entry while the first is under way");
    assert!(first.committed.is_empty() && second.committed.is_empty());
    assert!(group.ready().is_none());
    group.persisted(first.number.expect("persist"));
    let ready = group.ready().expect("the first entry is committed");
    assert_eq!(ready.committed.iter().map(|e| e.data.clone()).collect::<Vec<_>>(), ["one"]);
    group.applied(Index(2));
    group.persisted(second.number.expect("persist"));
    assert_eq!(settle(&mut group), ["two"]);
}

#[test]
fn a_restart_replays_what_the_base_does_not_hold() {
    let entry = |index, data: &'static [u8]| Entry {
        index: Index(index),
        term: Term(1),
        kind: EntryKind::Normal,
        data: Bytes::from_static(data),
    };
    let hard_state = HardState { term: Term(1), vote: 1, commit: Index(5) };
    let mut group = open(hard_state, (Index(4), Term(1)), vec![entry(5, b"five"), entry(6, b"six")]);
    let applied = settle(&mut group);
    assert_eq!(applied, [&b"five"[..], b"six", b""]);
    assert_eq!(group.term(), Term(2));
}

#[test]
fn a_hole_after_the_applied_index_is_refused() {
    let config = Config { group: ShardId(1), replica: 1, election_seed: 0 };
    let hole =
        Entry { index: Index(9), term: Term(1), kind: EntryKind::Normal, data: Bytes::from_static(b"x") };
    let recovered = Recovered {
        hard_state: HardState::default(),
        membership: Membership::single(1),
        applied: (Index(4), Term(1)),
        entries: vec![hole],
        read_back: Box::new(Nothing),
    };
    assert!(Group::open(&config, recovered).is_err());
}

#[test]
fn a_read_waits_for_the_first_commit_of_the_term_then_is_answered() {
    let mut group = fresh();
    assert!(!group.read_index(7), "before the first commit the read must wait");
    settle(&mut group);
    assert!(group.read_index(7));
    let ready = group.ready().expect("the read is confirmed");
    assert_eq!(ready.reads.iter().map(|r| (r.context, r.index)).collect::<Vec<_>>(), [(7, Index(1))]);
}
