//! From the members a group has to those it shall have, one step at a time. Pure; asked by the leader of the shard.
//!
//! The leader compares the registry's shard with its applied membership and takes the one step [`next_step`] names; when
//! that is done it asks again. New members come as learners and vote once they have caught up, in the same joint
//! change in which others cease to. So at every moment a quorum of the old voters and one of the new overlap, and
//! the voters are never fewer than both the old and the wanted number of them.
//!
//! ```text
//! wanted 2 3 5, members 1 2 3, leader 1:
//!   TransferTo(2) ─> AddLearner(5) ─> Wait … caught up ─> Change{promote 5, remove 1} ─> Nothing ─> departed: 1
//! ```
//!
//! # Invariants
//! - A step leaves a voter; and if most voters had caught up before it, most have after it. So a host that is down is
//!   not made part of a majority that would need it.
//! - If all members catch up, steps end in Nothing. Any wanted state may replace the last one on the way.
//! # Not here
//! - What "caught up" means: the leader says so, from its progress. It counts a voter that it lately heard from and
//!   that is within reach of the commit index.

use std::collections::BTreeSet;

use crate::shard::{Role, Shard};

/// The members of a group, as its applied membership names them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Members {
    /// Replicas that vote.
    pub voters: BTreeSet<u64>,
    /// Replicas that only learn.
    pub learners: BTreeSet<u64>,
    /// Whether a joint change is not over yet.
    pub joint: bool,
}

/// What the leader does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The members are those wanted.
    Nothing,
    /// Adds a replica as learner.
    AddLearner(u64),
    /// One change of the membership, joint if it names more than one replica. Lists are ascending, together not empty.
    Change {
        /// Learners that vote from now on.
        promote: Vec<u64>,
        /// Voters that only learn from now on.
        demote: Vec<u64>,
        /// Voters and learners that are no members from now on.
        remove: Vec<u64>,
    },
    /// Hands leadership over: the leader shall not vote any longer, and another takes the step that lets it go.
    TransferTo(u64),
    /// Somebody has to catch up, or a change has to end.
    Wait,
}

/// Returns the step that brings `actual` nearer to what `desired` wants. `caught_up` are the replicas within reach of
/// the leader `leader`, which always is itself.
#[must_use]
pub fn next_step(desired: &Shard, actual: &Members, caught_up: &BTreeSet<u64>, leader: u64) -> Step {
    if actual.joint || !actual.voters.contains(&leader) {
        return Step::Wait;
    }
    let ids = |role| desired.with_role(role).map(|replica| replica.id).collect::<BTreeSet<u64>>();
    let (voters, learners) = (ids(Role::Voter), ids(Role::Learner));
    let is_up = |id: &u64| *id == leader || caught_up.contains(id);
    // Early, while the leader that shall go is still there to do it.
    if !voters.contains(&leader)
        && let Some(next) = actual.voters.intersection(&voters).copied().find(is_up)
    {
        return Step::TransferTo(next);
    }
    let surplus: Vec<u64> =
        actual.learners.iter().copied().filter(|id| !voters.contains(id) && !learners.contains(id)).collect();
    if !surplus.is_empty() {
        return Step::Change { promote: Vec::new(), demote: Vec::new(), remove: surplus };
    }
    let is_member = |id: &u64| actual.voters.contains(id) || actual.learners.contains(id);
    if let Some(missing) = voters.union(&learners).copied().find(|id| !is_member(id)) {
        return Step::AddLearner(missing);
    }
    let promote: Vec<u64> = actual.learners.intersection(&voters).copied().filter(is_up).collect();
    let (demote, remove): (Vec<u64>, Vec<u64>) =
        may_cease(&voters, actual, &promote, leader, is_up).into_iter().partition(|id| learners.contains(id));
    if !promote.is_empty() || !demote.is_empty() || !remove.is_empty() {
        return Step::Change { promote, demote, remove };
    }
    if actual.voters == voters && actual.learners == learners { Step::Nothing } else { Step::Wait }
}

/// Returns the voters that shall not vote and need not any longer once `promote` do, ascending.
fn may_cease(
    wanted: &BTreeSet<u64>,
    actual: &Members,
    promote: &[u64],
    leader: u64,
    is_up: impl Fn(&u64) -> bool,
) -> BTreeSet<u64> {
    let mut left = actual.voters.len() + promote.len();
    let mut left_up = actual.voters.iter().filter(|id| is_up(id)).count() + promote.len();
    let left_min = actual.voters.len().min(wanted.len());
    let mut unwanted: Vec<u64> =
        actual.voters.iter().copied().filter(|id| !wanted.contains(id) && *id != leader).collect();
    // Those that lag first: they help no quorum.
    unwanted.sort_by_key(|id| (is_up(id), *id));
    let mut ceasing = BTreeSet::new();
    for id in unwanted {
        let up = usize::from(is_up(&id));
        if left > left_min && 2 * (left_up - up) > left - 1 {
            left -= 1;
            left_up -= up;
            ceasing.insert(id);
        }
    }
    ceasing
}

/// Returns the replicas to report with [`crate::Command::Left`]: those that shall leave and are no members.
///
/// The leader reports only from a membership in which an entry of its own term is applied and no change is under way:
/// before, an entry of an earlier leader may still make a member of one that is not yet. And only when an entry behind the
/// last change is committed: before, the new voters might need those that left to learn that it was.
#[must_use]
pub fn departed(desired: &Shard, actual: &Members) -> Vec<u64> {
    if actual.joint {
        return Vec::new();
    }
    let is_member = |id: &u64| actual.voters.contains(id) || actual.learners.contains(id);
    desired.with_role(Role::Leaving).map(|replica| replica.id).filter(|id| !is_member(id)).collect()
}
