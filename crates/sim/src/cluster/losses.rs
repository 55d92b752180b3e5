//! Which disk may be lost: one that z4 promises to survive the loss of, and no other.
//!
//! A disk may go if every shard keeps most of its voters, each with all that is committed, and waits for the successor
//! of no other lost disk. That is a statement about now. What was asked for before may still happen, and whoever leads
//! takes a replica for alive until it has been silent for an election timeout; so a shard of two voters, or one that is
//! to have two, might come to need the lost one. Hence three voters, now and wanted, nothing on its way to the
//! registry, and no other change while the lost one is believed to live. And a host that the registry has not recorded
//! yet loses its disk only if all others are recorded: see [`z4_registry::Command::ReplaceHost`].
//!
//! # Not here
//! - Losing it: `hosts.rs`. What comes after: `joining.rs`.

use z4_multiraft::Members;
use z4_registry::{Registry, Role, Shard};
use z4_types::ShardId;

use super::World;

/// Voters of a shard that loses one, at least.
const VOTERS_MIN: usize = 3;
/// The registry's own shard.
const REGISTRY: ShardId = ShardId(0);

impl World {
    /// Returns the host that led a shard last, and what it knows of the members, if it still leads.
    pub(super) fn newest_leader(&self, shard: ShardId) -> Option<(usize, Members)> {
        let (term, replica) = self.consensus.newest_leader(shard)?;
        self.nodes.iter().find_map(|node| {
            let members = node.shell.as_ref()?.driver.members(shard)?;
            let leads = members.leading && (members.term, members.replica) == (term, replica);
            leads.then_some((node.at, members))
        })
    }

    /// Returns whether the disk of a host may be lost; `registry` is that of its leader.
    pub(super) fn can_be_missed(&self, at: usize, registry: &Registry) -> bool {
        let recorded = registry.members().all(|host| host.instance != 0 || host.id == self.nodes[at].name);
        recorded
            && !self.answers.are_awaited()
            && self.is_registry_at_rest()
            && registry.shards.iter().all(|shard| self.shard_can_miss(at, shard))
    }

    fn is_registry_at_rest(&self) -> bool {
        let Some((leader, _)) = self.newest_leader(REGISTRY) else { return false };
        let shell = self.nodes[leader].shell.as_ref().expect("it leads");
        let groups = shell.driver.status();
        groups.iter().any(|group| group.shard == REGISTRY && group.applied == group.last)
    }

    fn shard_can_miss(&self, at: usize, shard: &Shard) -> bool {
        let Some((_, members)) = self.newest_leader(shard.id) else { return false };
        let (voters, learners) = (&members.membership.voters, &members.membership.learners);
        if !members.settled || members.membership.is_joint() {
            return false;
        }
        if voters.iter().chain(learners).any(|id| self.consensus.is_lost(shard.id, *id) == Some(true)) {
            return false;
        }
        let has_all = |id: &u64| {
            let acked =
                |peer: &z4_consensus::PeerProgress| peer.replica == *id && peer.matched >= members.commit;
            *id == members.replica || members.progress.iter().any(acked)
        };
        let is_here = |id: &u64| self.consensus.host_of(shard.id, *id) == Some(at);
        let lives = |id: &&u64| self.consensus.host_of(shard.id, **id).is_some();
        let kept = voters.iter().filter(lives).filter(|id| !is_here(id) && has_all(id)).count();
        let wanted = shard.on(&self.nodes[at].name).is_some_and(|replica| replica.role == Role::Voter);
        let counts = wanted || voters.iter().any(is_here);
        let least = voters.len().min(shard.voters().count());
        2 * kept > voters.len() && (!counts || least >= VOTERS_MIN)
    }

    /// Returns whether somebody who leads takes a replica for alive whose disk is lost.
    pub(super) fn is_loss_unnoticed(&self) -> bool {
        let shells = self.nodes.iter().filter_map(|node| node.shell.as_ref());
        self.consensus.has_losses()
            && shells.flat_map(|shell| shell.driver.status()).filter(|group| group.leading).any(|group| {
                let is_lost = |id: u64| self.consensus.is_lost(group.shard, id) == Some(true);
                group.progress.iter().any(|peer| peer.recent_active && is_lost(peer.replica))
            })
    }
}
