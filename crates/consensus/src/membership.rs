//! Who belongs to a group, and its bytes (kept in the base beside the applied index).
//!
//! # Invariants
//! - Every list is sorted and holds an id once; learners are not voters.
//! - Outside a joint change, nobody is outgoing and nobody waits to become a learner.

use raft::prelude::ConfState;

const VERSION: u8 = 1;

/// The members of a group by replica id; ids are unique in the cluster and never reused.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Membership {
    /// Count for elections and commits.
    pub voters: Vec<u64>,
    /// Receive the log, do not count.
    pub learners: Vec<u64>,
    /// Voters of the old configuration during a joint change, else empty.
    pub voters_outgoing: Vec<u64>,
    /// Voters of the old configuration that become learners when the joint change ends.
    pub learners_next: Vec<u64>,
    /// Whether a joint change ends by itself.
    pub auto_leave: bool,
}

impl Membership {
    /// Returns the membership of a group with a single voter.
    #[must_use]
    pub fn single(replica: u64) -> Self {
        Self::of(vec![replica])
    }

    /// Returns the membership of a group with these voters: how a group is formed.
    #[must_use]
    pub fn of(mut voters: Vec<u64>) -> Self {
        voters.sort_unstable();
        voters.dedup();
        Self { voters, ..Self::default() }
    }

    /// Returns whether two sets of voters decide together right now.
    #[must_use]
    pub fn is_joint(&self) -> bool {
        !self.voters_outgoing.is_empty()
    }

    /// Returns whether `replica` counts for elections or commits.
    #[must_use]
    pub fn is_voter(&self, replica: u64) -> bool {
        self.voters.contains(&replica) || self.voters_outgoing.contains(&replica)
    }

    /// Returns whether `replica` receives the log without counting.
    #[must_use]
    pub fn is_learner(&self, replica: u64) -> bool {
        self.learners.contains(&replica)
    }

    /// Returns whether `replica` receives the log.
    #[must_use]
    pub fn is_member(&self, replica: u64) -> bool {
        self.is_voter(replica) || self.is_learner(replica)
    }

    /// Returns the bytes kept in the base: version, flag, then four counted lists.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.encoded_len());
        out.extend_from_slice(&[VERSION, u8::from(self.auto_leave)]);
        self.lists().into_iter().for_each(|list| encode_ids(list, &mut out));
        out
    }

    pub(crate) fn encoded_len(&self) -> usize {
        2 + self.lists().iter().map(|list| 4 + 8 * list.len()).sum::<usize>()
    }

    /// Reads what [`Membership::encode`] wrote; None if the bytes are not that.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (&[version, auto_leave], mut rest) = bytes.split_first_chunk::<2>()?;
        if version != VERSION || auto_leave > 1 {
            return None;
        }
        let membership = Self {
            voters: decode_ids(&mut rest)?,
            learners: decode_ids(&mut rest)?,
            voters_outgoing: decode_ids(&mut rest)?,
            learners_next: decode_ids(&mut rest)?,
            auto_leave: auto_leave == 1,
        };
        rest.is_empty().then_some(membership)
    }

    /// Returns whether a group can have these members; the empty membership of a replica that waits for its snapshot
    /// included.
    pub(crate) fn is_sound(&self) -> bool {
        let sets = self.lists().into_iter().all(|list| list.is_sorted_by(|a, b| a < b) && !list.contains(&0));
        let learners = !self.learners.iter().any(|id| self.is_voter(*id));
        let next = self
            .learners_next
            .iter()
            .all(|id| self.voters_outgoing.contains(id) && !self.voters.contains(id));
        let joint = self.is_joint() || (self.learners_next.is_empty() && !self.auto_leave);
        let decides = !self.voters.is_empty() || *self == Self::default();
        sets && learners && next && joint && decides
    }

    pub(crate) fn to_raft(&self) -> ConfState {
        let mut state = ConfState::default();
        state.set_voters(self.voters.clone());
        state.set_learners(self.learners.clone());
        state.set_voters_outgoing(self.voters_outgoing.clone());
        state.set_learners_next(self.learners_next.clone());
        state.set_auto_leave(self.auto_leave);
        state
    }

    /// The engine keeps sets in the order of their hashes.
    pub(crate) fn from_raft(state: &ConfState) -> Self {
        let sorted = |ids: &[u64]| {
            let mut ids = ids.to_vec();
            ids.sort_unstable();
            ids
        };
        Self {
            voters: sorted(state.get_voters()),
            learners: sorted(state.get_learners()),
            voters_outgoing: sorted(state.get_voters_outgoing()),
            learners_next: sorted(state.get_learners_next()),
            auto_leave: state.get_auto_leave(),
        }
    }

    fn lists(&self) -> [&Vec<u64>; 4] {
        [&self.voters, &self.learners, &self.voters_outgoing, &self.learners_next]
    }
}

/// Adds a list of ids: u32 count, then so many u64.
pub(crate) fn encode_ids(ids: &[u64], out: &mut Vec<u8>) {
    out.extend_from_slice(&u32::try_from(ids.len()).expect("a group has few members").to_le_bytes());
    for id in ids {
        out.extend_from_slice(&id.to_le_bytes());
    }
}

/// Reads a list of ids off the front of `rest`.
pub(crate) fn decode_ids(rest: &mut &[u8]) -> Option<Vec<u64>> {
    let (count, tail) = rest.split_first_chunk::<4>()?;
    let len = usize::try_from(u32::from_le_bytes(*count)).ok()?.checked_mul(8)?;
    let (ids, tail) = tail.split_at_checked(len)?;
    *rest = tail;
    Some(ids.chunks_exact(8).map(|id| u64::from_le_bytes(id.try_into().expect("chunks of 8"))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joint() -> Membership {
        Membership {
            voters: vec![1, 2, 3],
            learners: vec![4],
            voters_outgoing: vec![1, 5],
            learners_next: vec![5],
            auto_leave: true,
        }
    }

    #[test]
    fn membership_survives_its_bytes_and_other_bytes_are_refused() {
        let bytes = joint().encode();
        assert_eq!(bytes.len(), joint().encoded_len());
        assert_eq!(Membership::decode(&bytes), Some(joint()));
        for cut in 0..bytes.len() {
            assert_eq!(Membership::decode(&bytes[..cut]), None, "cut at {cut}");
        }
        assert_eq!(Membership::decode(&[9, 0]), None);
        assert_eq!(Membership::from_raft(&joint().to_raft()), joint());
    }

    #[test]
    fn impossible_memberships_are_noticed() {
        assert!(joint().is_sound() && Membership::default().is_sound() && Membership::single(1).is_sound());
        assert!(!Membership { voters: vec![2, 1], ..Membership::default() }.is_sound());
        assert!(!Membership { voters: vec![0], ..Membership::default() }.is_sound());
        assert!(!Membership { learners: vec![1], ..Membership::single(1) }.is_sound());
        assert!(!Membership { learners: vec![1], ..Membership::default() }.is_sound());
        assert!(!Membership { auto_leave: true, ..Membership::single(1) }.is_sound());
        assert!(!Membership { learners_next: vec![2], ..joint() }.is_sound());
    }
}
