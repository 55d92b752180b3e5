//! The invariants of consensus (C1 to C9) as far as they show from outside, over all hosts of a cluster.
//!
//! After each pass of a host its groups are looked at; what became durable in its log is told. From both follows who
//! led when, what was committed, and which disks held it.
//!
//! C1 one leader a term · C2, C3 one term and one state for each index (the state by digest: `checks::Digests`) · C4 a
//! later leader has what was committed · C5 nothing promised is forgotten by a restart · C6 what a leader counts
//! as committed is durable on a quorum · C7 durable <= applied <= commit <= last · C9 joint changes end: waited for
//! when all is healed. And of hosts that come and go: a replica never leaves the disk it came to life on, so that an
//! empty one does not speak under its id (C5); who was removed begins no term once all know of it (C10).
//!
//! # Caveats
//! - C6 is looked at where the members have not changed since the entry: which of them had to agree is not visible else.

use std::collections::{BTreeMap, BTreeSet};

use z4_consensus::Membership;
use z4_multiraft::GroupStatus;
use z4_types::{Index, ShardId, Term};
use z4_wal::Record;

use crate::checks::{Checked, ensure};
use crate::report::Reached;

/// What is known of one replica's disk and of its present life.
#[derive(Debug, Default)]
struct Replica {
    /// In its log, durably.
    log: BTreeMap<Index, Term>,
    /// In its base, durably.
    durable: Index,
    /// Up to here its log held something when this life began, be it written and never synced: the start made it durable.
    recovered: Index,
    /// The term that is durable in its log.
    promised: Term,
    /// Of this life.
    term: Term,
    commit: Index,
    applied: Index,
    membership: Option<Membership>,
    /// Where the members changed last.
    changed: Index,
}

/// A disk: the number of its host, and the how manyth of that host it is.
pub type DiskId = (usize, u64);

/// See the module essay.
#[derive(Debug, Default)]
pub struct Consensus {
    /// The disk on which each replica came to life. Invariant: it never changes.
    homes: BTreeMap<(ShardId, u64), DiskId>,
    /// Disks that were lost.
    lost: BTreeSet<DiskId>,
    /// The newest term anybody was in.
    newest: BTreeMap<ShardId, Term>,
    /// Hosts that are no members, while everybody knows that.
    outsiders: BTreeSet<usize>,
    leaders: BTreeMap<(ShardId, Term), u64>,
    /// Of entries that were applied.
    terms: BTreeMap<(ShardId, Index), Term>,
    /// What was known as committed, by the term of who knew it first.
    committed: BTreeMap<(ShardId, Term), Index>,
    replicas: BTreeMap<(ShardId, u64), Replica>,
}

impl Consensus {
    /// Takes note of records that became durable on the host whose replicas are those of `replica_of`.
    pub fn synced(&mut self, records: &[Record], replica_of: impl Fn(ShardId) -> Option<u64>) {
        for record in records {
            let Some(id) = replica_of(record.group) else { continue };
            let replica = self.replicas.entry((record.group, id)).or_default();
            if let Some(hard_state) = &record.hard_state {
                replica.promised = replica.promised.max(hard_state.term);
            }
            let first = record.entries.first().map(|entry| entry.index);
            if let Some(from) = record.truncate.into_iter().chain(first).min() {
                replica.log.split_off(&from);
                replica.recovered = replica.recovered.min(Index(from.0.saturating_sub(1)));
            }
            replica.log.extend(record.entries.iter().map(|entry| (entry.index, entry.term)));
        }
    }

    /// A disk is gone, and with it what its replicas have promised: none of them may be heard of again.
    pub fn lost(&mut self, disk: DiskId) {
        self.lost.insert(disk);
    }

    /// Returns whether a disk was ever lost.
    #[must_use]
    pub fn has_losses(&self) -> bool {
        !self.lost.is_empty()
    }

    /// Returns whether the disk of a replica that came to life is still there; None if it never did.
    #[must_use]
    pub fn is_lost(&self, shard: ShardId, replica: u64) -> Option<bool> {
        self.homes.get(&(shard, replica)).map(|disk| self.lost.contains(disk))
    }

    /// Returns the host on which a replica came to life.
    #[must_use]
    pub fn host_of(&self, shard: ShardId, replica: u64) -> Option<usize> {
        self.homes.get(&(shard, replica)).map(|disk| disk.0)
    }

    /// Returns the newest term in which somebody led `shard`, and who.
    #[must_use]
    pub fn newest_leader(&self, shard: ShardId) -> Option<(Term, u64)> {
        let led = self.leaders.range((shard, Term(0))..=(shard, Term(u64::MAX))).next_back();
        led.map(|((_, term), id)| (*term, *id))
    }

    /// From now on everybody knows that these hosts are no members; with none, who is one is not looked at.
    pub fn exclude(&mut self, hosts: BTreeSet<usize>) {
        self.outsiders = hosts;
    }

    /// The host of these replicas, which stand on `disk`, was started again.
    ///
    /// # Errors
    /// C5 if one of them has forgotten something.
    pub fn restarted(&mut self, disk: DiskId, groups: &[GroupStatus]) -> Checked {
        for group in groups {
            self.at_home(disk, group.shard, group.replica)?;
            let replica = self.replicas.entry((group.shard, group.replica)).or_default();
            ensure!(
                group.term >= replica.promised,
                "C5",
                "shard {}, replica {}: term {} was durable, it starts with {}",
                group.shard,
                group.replica,
                replica.promised,
                group.term
            );
            ensure!(
                group.applied >= replica.durable,
                "C5",
                "shard {}, replica {}: entry {} was durable in the base, it starts with {}",
                group.shard,
                group.replica,
                replica.durable,
                group.applied
            );
            (replica.term, replica.commit, replica.applied) = (Term(0), Index(0), Index(0));
            replica.membership = None;
            replica.recovered = group.last;
        }
        Ok(())
    }

    fn at_home(&mut self, disk: DiskId, shard: ShardId, id: u64) -> Checked {
        let home = *self.homes.entry((shard, id)).or_insert(disk);
        ensure!(
            home == disk,
            "C5",
            "shard {shard}, replica {id}: it lived on disk {} of host {}, now it speaks from disk {} of host {}",
            home.1,
            home.0,
            disk.1,
            disk.0
        );
        Ok(())
    }

    /// Looks at the groups of a running host, which stand on `disk`. `terms` are those of the applied entries, in the
    /// same order.
    ///
    /// # Errors
    /// Whatever is broken.
    pub fn look(
        &mut self,
        disk: DiskId,
        groups: &[GroupStatus],
        terms: &[Term],
        reached: &mut Reached,
    ) -> Checked {
        for (group, applied_term) in groups.iter().zip(terms) {
            self.at_home(disk, group.shard, group.replica)?;
            // Whoever is seen in a term first has begun it: its frames leave after this.
            let newest = self.newest.entry(group.shard).or_default();
            ensure!(
                group.term <= *newest || !self.outsiders.contains(&disk.0),
                "C10",
                "shard {}, replica {} of host {}, which is no member, begins term {} after {newest}",
                group.shard,
                group.replica,
                disk.0,
                group.term
            );
            *newest = group.term.max(*newest);
            self.look_at(group, *applied_term, reached)?;
        }
        Ok(())
    }

    fn look_at(&mut self, group: &GroupStatus, applied_term: Term, reached: &mut Reached) -> Checked {
        let GroupStatus { shard, replica: id, term, commit, applied, durable, last, .. } = group;
        let (shard, id) = (*shard, *id);
        let own = self.replicas.entry((shard, id)).or_default();
        ensure!(
            durable <= applied && applied <= commit && commit <= last,
            "C7",
            "shard {shard}, replica {id}: durable {durable} <= applied {applied} <= commit {commit} <= last {last} does not \
             hold"
        );
        ensure!(
            *term >= own.term && *commit >= own.commit && *applied >= own.applied,
            "C5",
            "shard {shard}, replica {id}: went from term {}, commit {}, applied {} back to {term}, {commit}, {applied}",
            own.term,
            own.commit,
            own.applied
        );
        let grown = *commit > own.commit;
        (own.term, own.commit, own.applied) = (*term, *commit, *applied);
        own.durable = own.durable.max(*durable);
        if own.membership.as_ref() != Some(&group.membership) {
            if own.membership.is_some() {
                reached.reach("members changed");
            }
            if group.membership.is_joint() {
                reached.reach("joint membership");
            }
            own.membership = Some(group.membership.clone());
            own.changed = *applied;
        }
        let changed = own.changed;
        let before = *self.terms.entry((shard, *applied)).or_insert(applied_term);
        ensure!(
            before == applied_term,
            "C2",
            "shard {shard}, entry {applied}: replica {id} applied it with term {applied_term}, another with {before}"
        );
        // It may have heard of a later term and not have acted on it: then it is no leader of that one.
        if group.leading && group.leader == id {
            let first = self.leaders.len();
            let leader = *self.leaders.entry((shard, *term)).or_insert(id);
            ensure!(leader == id, "C1", "shard {shard}, term {term}: replicas {leader} and {id} lead");
            if self.leaders.len() > first {
                self.check_complete(group)?;
                if *term > Term(1) {
                    reached.reach("election");
                }
            }
            if *applied > changed && applied_term == *term {
                self.check_quorum(group)?;
            }
            // Who acknowledged entries in this term has it durably.
            for peer in group.progress.iter().filter(|peer| peer.matched > Index(0) && peer.replica != id) {
                let replica = self.replicas.entry((shard, peer.replica)).or_default();
                replica.promised = replica.promised.max(*term);
            }
        }
        if grown {
            let known = self.committed.entry((shard, *term)).or_default();
            *known = (*known).max(*commit);
        }
        Ok(())
    }

    /// C4.
    fn check_complete(&self, group: &GroupStatus) -> Checked {
        let GroupStatus { shard, term, last, .. } = group;
        let earlier = self.committed.range((*shard, Term(0))..(*shard, *term));
        let most = earlier.map(|(_, index)| *index).max().unwrap_or_default();
        ensure!(
            *last >= most,
            "C4",
            "shard {shard}: the leader of term {term} has entries up to {last}, {most} was committed before"
        );
        Ok(())
    }

    /// C6, for the entry applied last.
    fn check_quorum(&self, group: &GroupStatus) -> Checked {
        let GroupStatus { shard, applied, term, membership, .. } = group;
        for voters in [&membership.voters, &membership.voters_outgoing] {
            let has = |id: &&u64| {
                self.replicas.get(&(*shard, **id)).is_some_and(|replica| {
                    replica.durable.max(replica.recovered) >= *applied
                        || replica.log.get(applied) == Some(term)
                })
            };
            let have = voters.iter().filter(has).count();
            ensure!(
                voters.is_empty() || 2 * have > voters.len(),
                "C6",
                "shard {shard}: entry {applied} of term {term} is applied, but durable on {have} of {voters:?} only: {:?}",
                voters.iter().map(|id| self.disk_of(*shard, *id, *applied)).collect::<Vec<_>>()
            );
        }
        Ok(())
    }

    /// Returns what a replica's disk holds around `index`: durable in the base, term of the entry, newest entry.
    fn disk_of(&self, shard: ShardId, id: u64, index: Index) -> (Index, Option<Term>, Option<Index>) {
        let Some(replica) = self.replicas.get(&(shard, id)) else { return Default::default() };
        let newest = replica.log.last_key_value().map(|(index, _)| *index);
        (replica.durable, replica.log.get(&index).copied(), newest)
    }
}
