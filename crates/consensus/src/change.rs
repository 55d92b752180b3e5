//! A change of the membership: what may be proposed, what a committed one does, and its bytes in the log.
//!
//! A new replica comes as a learner, is promoted when it has caught up, and one that is not wanted is removed. Promotions
//! and removals of voters in one change are one joint change: from the entry that starts it until the entry that ends it,
//! which the leader appends by itself, both the old and the new voters must agree.
//!
//! The entry holds our bytes, not the engine's. The engine would parse them where it takes proposals; so a change does not
//! go through there: [`Group::propose_membership`](crate::Group::propose_membership) repeats its checks and appends.
//! What an entry does is computed here, from the membership before it, equally on all replicas; the engine's own answer is
//! compared with it.
//!
//! # Invariants
//! - A committed entry has the same effect everywhere. A part that does not apply (any more) is left out; a change that
//!   would remove the last voter does nothing.
//!
//! Sources: Ongaro's thesis §4; raft-rs 0.7 `confchange/changer.rs`.

use bytes::Bytes;
use raft::eraftpb::{ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2};

use crate::membership::{Membership, decode_ids, encode_ids};

const VERSION: u8 = 1;

/// What shall become of a group's members. Replica ids may stand in one list only.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// New members; they receive the log and do not count.
    pub add_learners: Vec<u64>,
    /// Learners that count from now on.
    pub promote: Vec<u64>,
    /// Voters that go on as learners; not the leader itself.
    pub demote: Vec<u64>,
    /// Members that leave; not the leader itself, which hands leadership over first.
    pub remove: Vec<u64>,
}

/// What a membership entry asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The end of a joint change: no bytes.
    Leave,
    /// A change.
    Change(Change),
}

impl Step {
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let Some((&version, mut rest)) = bytes.split_first() else { return Some(Self::Leave) };
        if version != VERSION {
            return None;
        }
        let change = Change {
            add_learners: decode_ids(&mut rest)?,
            promote: decode_ids(&mut rest)?,
            demote: decode_ids(&mut rest)?,
            remove: decode_ids(&mut rest)?,
        };
        rest.is_empty().then_some(Self::Change(change))
    }

    /// Returns the membership after this step over `before`, and what to tell the engine, in order.
    pub(crate) fn over(self, before: &Membership) -> (Membership, Vec<ConfChangeV2>) {
        match self {
            Self::Leave if before.is_joint() => (leave(before), vec![ConfChangeV2::default()]),
            Self::Change(change) if !before.is_joint() => change.over(before),
            // Never proposed; doing nothing is what every replica can do.
            Self::Leave | Self::Change(_) => (before.clone(), Vec::new()),
        }
    }
}

impl Change {
    /// Returns the bytes of the entry: version, then four counted lists.
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = vec![VERSION];
        for list in self.lists() {
            encode_ids(list, &mut out);
        }
        out.into()
    }

    fn lists(&self) -> [&Vec<u64>; 4] {
        [&self.add_learners, &self.promote, &self.demote, &self.remove]
    }

    /// Checks that all of this change applies to `before`, proposed by `leader`.
    ///
    /// # Errors
    /// With the reason if it does not.
    pub(crate) fn check(&self, before: &Membership, leader: u64) -> Result<(), &'static str> {
        let mut all: Vec<u64> = self.lists().into_iter().flatten().copied().collect();
        all.sort_unstable();
        if all.is_empty() {
            return Err("the change changes nothing");
        }
        if all[0] == 0 || !all.is_sorted_by(|a, b| a < b) {
            return Err("the change names replica 0, or one twice");
        }
        if self.add_learners.iter().any(|id| before.is_member(*id)) {
            return Err("the change adds a replica that is a member already");
        }
        if !self.promote.iter().all(|id| before.is_learner(*id)) {
            return Err("the change promotes a replica that is not a learner");
        }
        if !self.remove.iter().all(|id| before.is_member(*id)) {
            return Err("the change removes a replica that is not a member");
        }
        if !self.demote.iter().all(|id| before.is_voter(*id)) {
            return Err("the change demotes a replica that is not a voter");
        }
        let ceases = |id: &u64| self.remove.contains(id) || self.demote.contains(id);
        if self.promote.is_empty() && before.voters.iter().all(ceases) {
            return Err("the change removes the last voter");
        }
        if ceases(&leader) {
            return Err("the change removes the leader: hand leadership over first");
        }
        Ok(())
    }

    fn over(self, before: &Membership) -> (Membership, Vec<ConfChangeV2>) {
        let Self { mut add_learners, mut promote, mut demote, mut remove } = self;
        add_learners.retain(|id| *id != 0 && !before.is_member(*id));
        promote.retain(|id| before.is_learner(*id));
        remove.retain(|id| before.is_member(*id) && !promote.contains(id));
        demote.retain(|id| before.is_voter(*id) && !remove.contains(id));
        for list in [&mut add_learners, &mut promote, &mut demote, &mut remove] {
            list.sort_unstable();
            list.dedup();
        }
        let ceases = |id: &u64| remove.contains(id) || demote.contains(id);
        let voters = sorted(before.voters.iter().chain(&promote).filter(|id| !ceases(id)));
        if voters.is_empty() {
            return (before.clone(), Vec::new());
        }
        let learners = before.learners.iter().filter(|id| !promote.contains(id) && !remove.contains(id));
        let mut after =
            Membership { voters, learners: sorted(learners.chain(&add_learners)), ..Membership::default() };
        let mut singles = Vec::new();
        for (ids, kind) in [
            (&add_learners, ConfChangeType::AddLearnerNode),
            (&promote, ConfChangeType::AddNode),
            (&demote, ConfChangeType::AddLearnerNode),
            (&remove, ConfChangeType::RemoveNode),
        ] {
            singles.extend(ids.iter().map(|id| single(*id, kind)));
        }
        let voters_changed =
            promote.len() + demote.len() + remove.iter().filter(|id| before.is_voter(**id)).count();
        if voters_changed > 1 {
            after.voters_outgoing = before.voters.clone();
            // They vote in the old configuration until it ends.
            after.learners_next = demote;
            after.auto_leave = true;
            let mut joint = ConfChangeV2::default();
            joint.set_transition(ConfChangeTransition::Implicit);
            joint.set_changes(singles.into());
            return (after, vec![joint]);
        }
        after.learners = sorted(after.learners.iter().chain(&demote));
        // One voter at most: no two majorities of before and after can miss each other. The engine takes such changes one
        // at a time.
        let simple = singles.into_iter().map(|single| {
            let mut change = ConfChangeV2::default();
            change.set_changes(vec![single].into());
            change
        });
        (after, simple.collect())
    }
}

fn leave(before: &Membership) -> Membership {
    Membership {
        voters: before.voters.clone(),
        learners: sorted(before.learners.iter().chain(&before.learners_next)),
        ..Membership::default()
    }
}

fn sorted<'a>(ids: impl Iterator<Item = &'a u64>) -> Vec<u64> {
    let mut ids: Vec<u64> = ids.copied().collect();
    ids.sort_unstable();
    ids
}

fn single(id: u64, kind: ConfChangeType) -> ConfChangeSingle {
    let mut single = ConfChangeSingle::default();
    single.set_node_id(id);
    single.set_change_type(kind);
    single
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(add_learners: &[u64], promote: &[u64], remove: &[u64]) -> Change {
        let (add_learners, promote, remove) = (add_learners.to_vec(), promote.to_vec(), remove.to_vec());
        Change { add_learners, promote, demote: Vec::new(), remove }
    }

    fn members(voters: &[u64], learners: &[u64]) -> Membership {
        Membership { voters: voters.to_vec(), learners: learners.to_vec(), ..Membership::default() }
    }

    #[test]
    fn a_change_survives_its_bytes_and_no_bytes_end_a_joint_change() {
        let full = Change { demote: vec![3], ..change(&[7, 8], &[4], &[1, 2]) };
        let bytes = full.encode();
        assert_eq!(Step::decode(&bytes), Some(Step::Change(full)));
        assert_eq!(Step::decode(&[]), Some(Step::Leave));
        for cut in 1..bytes.len() {
            assert_eq!(Step::decode(&bytes[..cut]), None, "cut at {cut}");
        }
        assert_eq!(Step::decode(&[2, 0, 0, 0, 0]), None);
    }

    #[test]
    fn a_voter_becomes_a_learner_at_once_alone_and_at_the_end_of_a_joint_change() {
        let before = members(&[1, 2, 3], &[4]);
        let alone = Change { demote: vec![3], ..Change::default() };
        assert_eq!(alone.check(&before, 1), Ok(()));
        assert!(alone.check(&before, 3).is_err(), "the leader stays");
        let (after, steps) = Step::Change(alone).over(&before);
        assert_eq!((after, steps.len()), (members(&[1, 2], &[3, 4]), 1));
        let swap = Change { promote: vec![4], demote: vec![3], ..Change::default() };
        let (joint, steps) = Step::Change(swap).over(&before);
        assert_eq!((&joint.voters[..], &joint.learners_next[..]), (&[1, 2, 4][..], &[3][..]));
        assert!(joint.is_sound() && steps.len() == 1);
        let (after, _) = Step::Leave.over(&joint);
        assert_eq!(after, members(&[1, 2, 4], &[3]));
    }

    #[test]
    fn one_voter_changes_simply_and_several_jointly() {
        let before = members(&[1, 2, 3], &[4]);
        let (after, steps) = Step::Change(change(&[5, 6], &[4], &[])).over(&before);
        assert_eq!((after, steps.len()), (members(&[1, 2, 3, 4], &[5, 6]), 3));
        let (joint, steps) = Step::Change(change(&[], &[4], &[1])).over(&before);
        assert_eq!(joint.voters, [2, 3, 4]);
        assert_eq!(joint.voters_outgoing, [1, 2, 3]);
        assert!(joint.auto_leave && joint.is_sound() && steps.len() == 1);
        let (unchanged, steps) = Step::Change(change(&[9], &[], &[])).over(&joint);
        assert_eq!((&unchanged, steps.len()), (&joint, 0));
        let (after, _) = Step::Leave.over(&joint);
        assert_eq!(after, members(&[2, 3, 4], &[]));
    }

    #[test]
    fn what_does_not_apply_is_left_out_and_the_last_voter_stays() {
        let before = members(&[1], &[2]);
        let (after, steps) = Step::Change(change(&[1, 2], &[7], &[1, 9])).over(&before);
        assert_eq!((after, steps.len()), (before.clone(), 0));
        let (after, _) = Step::Change(change(&[3, 0], &[9], &[2])).over(&before);
        assert_eq!(after, members(&[1], &[3]));
    }

    #[test]
    fn only_changes_that_apply_may_be_proposed() {
        let before = members(&[1, 2], &[3]);
        let check =
            |add: &[u64], promote: &[u64], remove: &[u64]| change(add, promote, remove).check(&before, 1);
        assert!(check(&[4], &[3], &[2]).is_ok());
        assert!(check(&[], &[], &[]).is_err());
        assert!(check(&[0], &[], &[]).is_err());
        assert!(check(&[4, 4], &[], &[]).is_err());
        assert!(check(&[3], &[], &[]).is_err());
        assert!(check(&[], &[2], &[]).is_err());
        assert!(check(&[], &[], &[9]).is_err());
        assert!(check(&[], &[], &[1]).is_err(), "the leader stays");
        assert!(change(&[], &[], &[1]).check(&members(&[1], &[3]), 2).is_err(), "the last voter stays");
    }
}
