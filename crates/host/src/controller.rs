//! Makes what is equal to what the registry wants: which replicas live here, where mail goes, who belongs to the groups
//! led here.
//!
//! A value, called between two passes of the driver, some ten times a second: it looks at the groups, gives them their
//! routes and takes the next step of each group led here ([`z4_registry::next_step`]). What needs the disk or other hosts
//! it hands out as [`Errand`]s, again and again until it sees them done; whoever runs them does one pass's errands before
//! the next pass.
//!
//! ```text
//! registry wants a replica here ──> Create ──> seat and empty group on disk ──> it lives; its leader sends a snapshot
//! registry no longer lists it ────> Bury ────> seat taken away on disk ───────> its group is removed
//! a group let a replica go ───────> Command(Left) ──> the registry strikes it off
//! ```
//!
//! **Leaders at home.** Elections leave the leaders wherever they fall. Each shard has a home, one of its voters, so that
//! the shards of a cluster are led by all its hosts alike ([`home`]); a leader elsewhere hands over when all is quiet, and
//! at once if its clock is the odd one.
//!
//! # Invariants
//! - A replica is created only under an id newer than any this host has buried for the shard, and buried only by a
//!   registry that knows its id: one of before it was placed says nothing about it.
//! - A group is changed only when its membership is the newest there is ([`Members::settled`]).
//! # Not here
//! - Which replicas there shall be: `z4-registry`. Doing errands: `cluster.rs`; the simulator does its own.

use std::collections::{BTreeMap, BTreeSet};

use z4_consensus::{Change, Error};
use z4_multiraft::{Driver, Members};
use z4_registry::{Command, Registry, Step, departed, next_step};
use z4_types::{HostId, ShardId};

use crate::machine::HostMachine;
use crate::seats::Seats;

/// A member that lacks at most so many entries of what is committed has caught up: it gets them within a moment. Under
/// load one is always a few behind. One that has never acknowledged an entry has not, however few there are: it may not
/// be there, and a voter that is not there is a vote that is lost.
const CAUGHT_UP_ENTRIES: u64 = 64;
/// Passes for which a group must need nothing before its leadership goes to where it is at home: some seconds, so that
/// a host that comes back has caught up, and one that comes and goes costs few hand-overs.
const HOME_PASSES: u32 = 50;

/// What this host says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announcement {
    /// Its name.
    pub host: HostId,
    /// Its directories' instance.
    pub instance: u64,
    /// host:port of its peer port.
    pub address: String,
    /// host:port of its gRPC door; empty if others do not reach it.
    pub service: String,
}

/// What the controller wants done that needs the disk or other hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Errand {
    /// Give this replica a seat and an empty group, durably; then let it live.
    Create(ShardId, u64),
    /// Take this replica's seat away, durably; then remove its group.
    Bury(ShardId, u64),
    /// Change the registry, through the leader of shard 0.
    Command(Command),
}

/// The groups of this host: the driver, or a script in tests.
pub trait Groups {
    /// Returns what a replica knows of its group's members; None if the shard has no replica here.
    fn members(&self, shard: ShardId) -> Option<Members>;
    /// Says where the replicas of a shard stand.
    fn set_routes(&mut self, shard: ShardId, routes: &BTreeMap<u64, HostId>);
    /// Proposes a change of a group's members.
    ///
    /// # Errors
    /// If it cannot be taken now.
    fn change_members(&mut self, shard: ShardId, change: &Change) -> Result<(), Error>;
    /// Hands leadership to another replica.
    ///
    /// # Errors
    /// If it cannot be handed over now.
    fn transfer_leader(&mut self, shard: ShardId, to: u64) -> Result<(), Error>;
    /// Returns whether the group of a replica that was buried is not gone yet.
    fn is_removing(&self, shard: ShardId) -> bool;
}

/// See the module essay.
pub struct Controller {
    own: Announcement,
    /// The routes each group has.
    routes: BTreeMap<ShardId, BTreeMap<u64, HostId>>,
    /// For how many passes each group led here has needed nothing.
    quiet: BTreeMap<ShardId, u32>,
    /// Hosts that had better not lead: their clocks are off.
    astray: BTreeSet<HostId>,
}

impl Controller {
    /// Returns the controller of a host that says this of itself.
    #[must_use]
    pub fn new(own: Announcement) -> Self {
        Self { own, routes: BTreeMap::new(), quiet: BTreeMap::new(), astray: BTreeSet::new() }
    }

    /// Sets whose clocks are off: they are handed no leadership, and this host hands its own over if it is among them.
    pub fn set_astray(&mut self, hosts: BTreeSet<HostId>) {
        self.astray = hosts;
    }

    /// Looks at everything once. Nothing is done while no registry is known.
    pub fn pass(&mut self, groups: &mut dyn Groups, registry: &Registry, seats: &Seats) -> Vec<Errand> {
        let mut errands = Vec::new();
        if !registry.is_known() {
            return errands;
        }
        errands.extend(self.announce(registry));
        for shard in &registry.shards {
            let seat = seats.get(&shard.id);
            let living = seat.map_or(0, |seat| seat.replica);
            let buried = seat.map_or(0, |seat| seat.buried);
            let placed = shard.on(&self.own.host).map(|replica| replica.id);
            if living > 0 && placed != Some(living) && living < registry.next_replica {
                errands.push(Errand::Bury(shard.id, living));
                self.routes.remove(&shard.id);
                continue;
            }
            if living == 0 {
                let new = placed.filter(|id| *id > buried && !groups.is_removing(shard.id));
                errands.extend(new.map(|id| Errand::Create(shard.id, id)));
                self.routes.remove(&shard.id);
                continue;
            }
            // A replica with a seat may not live yet.
            let Some(members) = groups.members(shard.id) else { continue };
            self.route(groups, shard);
            let quiet = self.quiet.entry(shard.id).or_default();
            errands.extend(lead(groups, shard, &members, quiet, &self.astray));
        }
        errands
    }

    /// Tells the registry who this host is and where it is reached, if it says otherwise.
    fn announce(&self, registry: &Registry) -> Option<Errand> {
        let own = &self.own;
        let known = registry.host(&own.host)?;
        let same =
            (known.instance, &known.address, &known.service) == (own.instance, &own.address, &own.service);
        if same || registry.admit(&own.host, own.instance).is_err() {
            return None;
        }
        Some(Errand::Command(Command::Announce {
            host: own.host.clone(),
            instance: own.instance,
            address: own.address.clone(),
            service: own.service.clone(),
            tags: known.tags.clone(),
        }))
    }

    fn route(&mut self, groups: &mut dyn Groups, shard: &z4_registry::Shard) {
        let routes: BTreeMap<u64, HostId> =
            shard.replicas.iter().map(|replica| (replica.id, replica.host.clone())).collect();
        if self.routes.get(&shard.id) != Some(&routes) {
            groups.set_routes(shard.id, &routes);
            self.routes.insert(shard.id, routes);
        }
    }
}

/// Takes the next step of a group, if it is led here. Returns what the registry shall hear.
fn lead(
    groups: &mut dyn Groups,
    shard: &z4_registry::Shard,
    members: &Members,
    quiet: &mut u32,
    astray: &BTreeSet<HostId>,
) -> Option<Errand> {
    let passes = std::mem::take(quiet);
    if !members.leading || !members.settled || members.transferring {
        return None;
    }
    let actual = z4_registry::Members {
        voters: members.membership.voters.iter().copied().collect(),
        learners: members.membership.learners.iter().copied().collect(),
        joint: members.membership.is_joint(),
    };
    let caught_up: BTreeSet<u64> = members
        .progress
        .iter()
        .filter(|peer| peer.recent_active && peer.matched.0 > 0)
        .filter(|peer| peer.matched.0 + CAUGHT_UP_ENTRIES >= members.commit.0)
        .map(|peer| peer.replica)
        .collect();
    let done = match next_step(shard, &actual, &caught_up, members.replica) {
        Step::Wait => Ok(()),
        Step::Nothing => match home(shard, astray) {
            Some(home)
                if home != members.replica
                    && caught_up.contains(&home)
                    && (passes >= HOME_PASSES || is_astray(shard, members.replica, astray)) =>
            {
                groups.transfer_leader(shard.id, home)
            }
            _ => {
                *quiet = passes.saturating_add(1);
                Ok(())
            }
        },
        Step::AddLearner(id) => {
            let change = Change { add_learners: vec![id], ..Change::default() };
            groups.change_members(shard.id, &change)
        }
        Step::Change { promote, demote, remove } => {
            let change = Change { promote, demote, remove, ..Change::default() };
            groups.change_members(shard.id, &change)
        }
        Step::TransferTo(to) => groups.transfer_leader(shard.id, to),
    };
    if let Err(error) = done {
        tracing::debug!(shard = %shard.id, %error, "the group's members are changed later");
    }
    let left = departed(shard, &actual);
    (!left.is_empty()).then_some(Errand::Command(Command::Left { shard: shard.id, replicas: left }))
}

/// Returns the replica that leads `shard` where nothing speaks against it: its voters in the order of their hosts take
/// turns, shard by shard. Those whose clocks are off are left out, unless it is all of them.
fn home(shard: &z4_registry::Shard, astray: &BTreeSet<HostId>) -> Option<u64> {
    let mut voters: Vec<_> = shard.voters().collect();
    if voters.iter().any(|voter| !astray.contains(&voter.host)) {
        voters.retain(|voter| !astray.contains(&voter.host));
    }
    voters.sort_by(|a, b| a.host.cmp(&b.host));
    let turn = shard.id.0 as usize % voters.len().max(1);
    voters.get(turn).map(|replica| replica.id)
}

fn is_astray(shard: &z4_registry::Shard, replica: u64, astray: &BTreeSet<HostId>) -> bool {
    shard.replicas.iter().any(|known| known.id == replica && astray.contains(&known.host))
}

impl Groups for Driver<HostMachine> {
    fn members(&self, shard: ShardId) -> Option<Members> {
        self.members(shard)
    }

    fn set_routes(&mut self, shard: ShardId, routes: &BTreeMap<u64, HostId>) {
        self.set_routes(shard, routes);
    }

    fn change_members(&mut self, shard: ShardId, change: &Change) -> Result<(), Error> {
        self.change_members(shard, change)
    }

    fn transfer_leader(&mut self, shard: ShardId, to: u64) -> Result<(), Error> {
        self.transfer_leader(shard, to)
    }

    fn is_removing(&self, shard: ShardId) -> bool {
        self.is_removing(shard)
    }
}

#[cfg(test)]
mod tests;
