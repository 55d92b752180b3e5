//! Who belongs to a group, and its bytes (kept in the base beside the applied index).

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
        Self { voters: vec![replica], ..Self::default() }
    }

    /// Returns the bytes kept in the base: version, flag, then four counted lists.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION, u8::from(self.auto_leave)];
        for list in [&self.voters, &self.learners, &self.voters_outgoing, &self.learners_next] {
            out.extend_from_slice(&u32::try_from(list.len()).expect("a group has few members").to_le_bytes());
            for id in list {
                out.extend_from_slice(&id.to_le_bytes());
            }
        }
        out
    }

    /// Reads what [`Membership::encode`] wrote; None if the bytes are not that.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (&[version, auto_leave], mut rest) = bytes.split_first_chunk::<2>()?;
        if version != VERSION || auto_leave > 1 {
            return None;
        }
        let mut list = || -> Option<Vec<u64>> {
            let (count, tail) = rest.split_first_chunk::<4>()?;
            let len = usize::try_from(u32::from_le_bytes(*count)).ok()?.checked_mul(8)?;
            let (ids, tail) = tail.split_at_checked(len)?;
            rest = tail;
            Some(
                ids.chunks_exact(8)
                    .map(|id| u64::from_le_bytes(id.try_into().expect("chunks of 8")))
                    .collect(),
            )
        };
        let membership = Self {
            voters: list()?,
            learners: list()?,
            voters_outgoing: list()?,
            learners_next: list()?,
            auto_leave: auto_leave == 1,
        };
        rest.is_empty().then_some(membership)
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn membership_survives_its_bytes_and_other_bytes_are_refused() {
        let full = Membership {
            voters: vec![1, 2, 3],
            learners: vec![4],
            voters_outgoing: vec![1, 5],
            learners_next: vec![5],
            auto_leave: true,
        };
        let bytes = full.encode();
        assert_eq!(Membership::decode(&bytes), Some(full));
        for cut in 0..bytes.len() {
            assert_eq!(Membership::decode(&bytes[..cut]), None, "cut at {cut}");
        }
        assert_eq!(Membership::decode(&[9, 0]), None);
    }
}
