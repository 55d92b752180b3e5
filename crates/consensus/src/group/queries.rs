//! What a group can be asked: role, members, progress, places in the log. Nothing here changes anything.

use raft::StateRole;
use z4_types::{Index, Term};

use super::Group;
use crate::membership::Membership;
use crate::progress::PeerProgress;

impl Group {
    /// Returns whether this replica leads.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.node.raft.state == StateRole::Leader
    }

    /// Returns whether this replica alone decides.
    #[must_use]
    pub fn is_only_voter(&self) -> bool {
        self.node.raft.prs().is_singleton() && self.node.raft.promotable()
    }

    /// Returns whether a snapshot was taken that [`Group::ready`] has not handed out yet.
    #[must_use]
    pub fn has_snapshot(&self) -> bool {
        self.node.raft.snap().is_some()
    }

    /// Returns whether a change of the membership is under way: proposed and not applied, or joint.
    #[must_use]
    pub fn is_changing(&self) -> bool {
        self.node.raft.has_pending_conf() || self.membership().is_joint()
    }

    /// Returns whether an entry is committed that was proposed after the last change of the membership was applied here.
    /// Whoever has that entry durably knows durably that the change was committed. Before, a commit index that is only in
    /// memory may be all that says so: the new voters, started again, would ask the old ones for their votes. So those
    /// that left must not be gone until then.
    #[must_use]
    pub fn is_confirmed(&self) -> bool {
        self.commit().0 > self.confirms_after
    }

    /// Returns whether this leader has proposed no such entry, and may.
    #[must_use]
    pub fn wants_confirmation(&self) -> bool {
        self.may_propose() && !self.is_changing() && self.last().0 <= self.confirms_after
    }

    /// Returns whether leadership is being handed over.
    #[must_use]
    pub fn is_transferring(&self) -> bool {
        self.node.raft.lead_transferee.is_some()
    }

    /// Returns this replica's id.
    #[must_use]
    pub fn replica(&self) -> u64 {
        self.replica
    }

    /// Returns the membership as of the applied index.
    #[must_use]
    pub fn membership(&self) -> &Membership {
        &self.node.store().mark().membership
    }

    /// Returns the replica ids that count, those of the old configuration during a joint change included; sorted.
    #[must_use]
    pub fn voters(&self) -> Vec<u64> {
        let membership = self.membership();
        let mut voters: Vec<u64> =
            membership.voters.iter().chain(&membership.voters_outgoing).copied().collect();
        voters.sort_unstable();
        voters.dedup();
        voters
    }

    /// Returns whether this replica receives the log without counting.
    #[must_use]
    pub fn is_learner(&self) -> bool {
        self.membership().is_learner(self.replica)
    }

    /// Returns whether this replica belongs to the group as of the applied index.
    #[must_use]
    pub fn is_member(&self) -> bool {
        self.membership().is_member(self.replica)
    }

    /// Returns what this leader knows of each member, by replica id; nothing if it does not lead.
    #[must_use]
    pub fn progress(&self) -> Vec<PeerProgress> {
        if !self.is_leader() {
            return Vec::new();
        }
        let learners = &self.membership().learners;
        let of = |(id, progress): (&u64, &raft::Progress)| {
            PeerProgress::new(*id, progress, learners.contains(id), *id == self.replica)
        };
        let mut all: Vec<PeerProgress> = self.node.raft.prs().iter().map(of).collect();
        all.sort_unstable_by_key(|p| p.replica);
        all
    }

    /// Returns the known leader's replica id, 0 if none is known.
    #[must_use]
    pub fn leader(&self) -> u64 {
        self.node.raft.leader_id
    }

    /// Returns the current term.
    #[must_use]
    pub fn term(&self) -> Term {
        Term(self.node.raft.term)
    }

    /// Returns the commit index.
    #[must_use]
    pub fn commit(&self) -> Index {
        Index(self.node.raft.raft_log.committed)
    }

    /// Returns the first index the engine can still send as an entry.
    #[must_use]
    pub fn first(&self) -> Index {
        Index(self.node.store().first())
    }

    /// Returns the last index of the log.
    #[must_use]
    pub fn last(&self) -> Index {
        Index(self.node.raft.raft_log.last_index())
    }
}
