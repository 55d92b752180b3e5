//! What a host's controller asks of the groups: who belongs to them, who leads, which live here.
//!
//! # Not here
//! - Which replicas there shall be: the registry. Who decides on the next step: `z4-host`.

use std::collections::BTreeMap;

use z4_consensus::{Change, Error};
use z4_types::{HostId, ShardId};

use super::Driver;
use crate::machine::StateMachine;
use crate::replica::Members;

impl<M: StateMachine> Driver<M> {
    /// Replaces where the replicas of a shard stand. Mail for others is dropped, mail from others is answered.
    pub fn set_routes(&mut self, shard: ShardId, routes: &BTreeMap<u64, HostId>) {
        self.post.set_routes(shard, routes);
    }

    /// Returns the shards with a replica here.
    pub fn shards(&self) -> impl Iterator<Item = ShardId> + '_ {
        self.groups.keys().copied()
    }

    /// Returns the members of a group as this replica knows them; None if it has no replica here.
    #[must_use]
    pub fn members(&self, shard: ShardId) -> Option<Members> {
        self.groups.get(&shard).map(crate::replica::Replica::members)
    }

    /// Proposes a change of a group's members.
    ///
    /// # Errors
    /// `NotLeader`, `Transferring` or `Busy`: ask again later. `Refused` if it does not apply.
    pub fn change_members(&mut self, shard: ShardId, change: &Change) -> Result<(), Error> {
        let group = self.groups.get_mut(&shard).ok_or(Error::NotLeader(shard))?;
        group.consensus.propose_membership(change)?;
        self.dirty.insert(shard);
        Ok(())
    }

    /// Hands leadership to another replica; given up after an election timeout.
    ///
    /// # Errors
    /// `NotLeader`, or `Refused` with the reason.
    pub fn transfer_leader(&mut self, shard: ShardId, replica: u64) -> Result<(), Error> {
        let group = self.groups.get_mut(&shard).ok_or(Error::NotLeader(shard))?;
        group.consensus.transfer_leader(replica)?;
        self.dirty.insert(shard);
        Ok(())
    }

    /// Hands over every group led here to the voter that is furthest, as before a stop. Call it again while the number
    /// returned is not zero: so many groups are led here and could be led elsewhere.
    pub fn hand_over(&mut self) -> usize {
        let mut left = 0;
        for (shard, group) in &mut self.groups {
            let own = group.consensus.replica();
            let voters = group.consensus.voters();
            let furthest = group
                .consensus
                .progress()
                .into_iter()
                .filter(|peer| peer.replica != own && peer.recent_active && voters.contains(&peer.replica))
                .max_by_key(|peer| (peer.matched, peer.replica));
            let Some(furthest) = furthest else { continue };
            left += 1;
            // Refused only if it is gone by now; the next call sees that.
            if !group.consensus.is_transferring() && group.consensus.transfer_leader(furthest.replica).is_ok()
            {
                self.dirty.insert(*shard);
            }
        }
        left
    }

    /// Removes a group from this host: from the log with its next batch, then from the base. Its calls are refused.
    pub fn remove(&mut self, shard: ShardId) {
        let Some(mut group) = self.groups.remove(&shard) else { return };
        group.close();
        self.collected.records.retain(|record| record.group != shard);
        self.collected_promises.retain(|promise| promise.shard != shard);
        self.dirty.remove(&shard);
        self.deadlines.remove(&shard);
        self.post.forget(shard);
        self.leaders.remove(shard);
        self.peers.remove(shard);
    }

    /// Returns whether a removed group is still in the log or the base: its shard cannot have another replica yet.
    #[must_use]
    pub fn is_removing(&self, shard: ShardId) -> bool {
        self.peers.is_removing(shard)
    }
}
