//! The invariants of consensus, checked after every call on any replica.
//!
//! C1 one leader per term · C2 same index, same entry in committed logs · C3 committed entries never change · C4 a later
//! leader has every committed entry · C5 nothing goes back over a restart, no vote is cast twice · C6 a commit index is
//! durable on a quorum · C7 first - 1 <= applied <= commit <= last · C8 equal applied index, equal digest. (C9, joint
//! changes end, is what `World::settle` waits for.) Also: a read that a leader confirms sees everything that was
//! committed anywhere when it was asked.

use std::collections::BTreeMap;

use raft::eraftpb::MessageType;
use z4_types::{Entry, Index};

use super::world::{Disk, Replica};
use crate::log::from_raft;
use crate::{Group, Message};

#[derive(Default)]
pub(super) struct Checks {
    /// By term.
    leaders: BTreeMap<u64, u64>,
    /// By index.
    committed: BTreeMap<u64, Entry>,
    /// By index: the term of the leader that first knew it committed.
    committed_in: BTreeMap<u64, u64>,
    /// By index and term: entries with the same place are the same, committed or not.
    entries: BTreeMap<(u64, u64), Entry>,
    /// By index.
    digests: BTreeMap<u64, u64>,
    /// By replica and term: who got the vote.
    votes: BTreeMap<(u64, u64), u64>,
    /// By replica: the highest term it promised something in.
    terms: BTreeMap<u64, u64>,
    /// The highest index known committed anywhere.
    pub(super) commit: Index,
    pub(super) elections: u64,
    pub(super) contested: u64,
    /// The most voters a group had, and whether it was joint at some time.
    pub(super) voters: usize,
    pub(super) joint: bool,
}

impl Checks {
    /// `before` is the replica's commit index before the call.
    pub(super) fn observe(&mut self, group: &Group, before: Index, disks: &BTreeMap<u64, Disk>) {
        let (me, term, commit) = (group.replica(), group.term().0, group.commit());
        let applied = Index(group.node.raft.raft_log.applied);
        // While a snapshot is being installed, the log has moved on and the applied index has not.
        assert!(group.first() <= applied.next() || !group.installing.is_empty(), "C7: replica {me}");
        assert!(applied <= commit && commit <= group.last(), "C7: replica {me}");
        if group.is_leader() {
            let new = !self.leaders.contains_key(&term);
            let leader = *self.leaders.entry(term).or_insert(me);
            assert_eq!(leader, me, "C1: two leaders in term {term}");
            if new {
                self.elections += 1;
                self.check_complete(group, term);
            }
            if commit > before {
                for index in before.0 + 1..=commit.0 {
                    let by = self.committed_in.entry(index).or_insert(term);
                    *by = term.min(*by);
                }
                check_quorum(group, commit, disks);
            }
        }
        self.commit = self.commit.max(commit);
        self.voters = self.voters.max(group.membership().voters.len());
        self.joint |= group.membership().is_joint();
    }

    /// C4. A vote that arrives late may still make a leader of a term that is over already: what was committed since,
    /// it need not have.
    fn check_complete(&self, group: &Group, term: u64) {
        let log = &group.node.raft.raft_log;
        for (index, entry) in self.committed.range(group.first().0..) {
            if self.committed_in.get(index).is_some_and(|by| *by < term) {
                assert!(*index <= group.last().0, "C4: the leader of term {term} lacks {index}");
                let found = log.term(*index).expect("readable");
                assert_eq!(found, entry.term.0, "C4: the leader of term {term} has another entry at {index}");
            }
        }
    }

    /// An entry that is on a disk or left in a message: nobody may ever see another one in its place.
    pub(super) fn known(&mut self, entry: &Entry) {
        let before = self.entries.entry((entry.index.0, entry.term.0)).or_insert_with(|| entry.clone());
        assert_eq!(before, entry, "log matching: two entries with one place and term");
    }

    pub(super) fn committed(&mut self, entry: &Entry) {
        let before = self.committed.entry(entry.index.0).or_insert_with(|| entry.clone());
        assert_eq!(before, entry, "C2, C3: two committed entries with one index");
    }

    pub(super) fn applied(&mut self, index: Index, digest: u64) {
        let before = *self.digests.entry(index.0).or_insert(digest);
        assert_eq!(before, digest, "C8: digests differ at {index}");
    }

    pub(super) fn sent(&mut self, message: &Message) {
        let m = &message.0;
        m.entries.iter().for_each(|e| self.known(&from_raft(e)));
        let vote = match m.get_msg_type() {
            // They promise nothing: their term may be forgotten.
            MessageType::MsgRequestPreVote
            | MessageType::MsgRequestPreVoteResponse
            | MessageType::MsgHeartbeatResponse => return,
            MessageType::MsgRequestVote => Some(m.from),
            MessageType::MsgRequestVoteResponse if !m.reject => Some(m.to),
            _ => None,
        };
        let term = self.terms.entry(m.from).or_insert(0);
        *term = m.term.max(*term);
        if let Some(vote) = vote {
            let before = *self.votes.entry((m.from, m.term)).or_insert(vote);
            self.contested += u64::from(vote != m.from);
            // The double vote itself is left to C1, so that the planted bug has to get that far.
            if !cfg!(feature = "bug-vote-forgotten") {
                assert_eq!(before, vote, "C5: replica {} voted twice in term {}", m.from, m.term);
            }
        }
    }

    pub(super) fn restarted(&self, group: &Group) {
        let promised = self.terms.get(&group.replica()).copied().unwrap_or(0);
        assert!(group.term().0 >= promised, "C5: replica {} forgot term {promised}", group.replica());
    }

    pub(super) fn read(asked_at: Index, confirmed: Index) {
        assert!(confirmed >= asked_at, "a read at {confirmed} misses what was committed up to {asked_at}");
    }

    pub(super) fn converged(replicas: &BTreeMap<u64, Replica>, members: &[u64]) -> bool {
        let applied: Vec<_> = members.iter().filter_map(|id| replicas[id].rows()).collect();
        applied.len() == members.len() && applied.iter().all(|rows| *rows == applied[0])
    }
}

/// C6.
fn check_quorum(group: &Group, commit: Index, disks: &BTreeMap<u64, Disk>) {
    let term = group.node.raft.raft_log.term(commit.0).expect("the committed entry is there");
    let membership = group.membership();
    for voters in [&membership.voters, &membership.voters_outgoing] {
        let have = voters.iter().filter(|id| disks[id].has(commit, term)).count();
        assert!(
            voters.is_empty() || have * 2 > voters.len(),
            "C6: {commit} is durable on {have} of {voters:?}"
        );
    }
}
