//! A model of the groups: whatever the registry is told, the steps of the leaders bring the members there, and on the
//! way no group loses its quorum.
//!
//! Each group is its members, its leader, the replicas whose disk was lost and those that have caught up. Leaders take
//! steps in any order between commands; a leader knows the registry as it is, or as it was some commands ago.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::{command, registry};
use crate::{Command, Members, Registry, Role, Shard, Step, departed, next_step};

/// Steps after which everything should long be in place.
const ROUNDS_MAX: usize = 200;

struct Group {
    members: Members,
    leader: u64,
    up: BTreeSet<u64>,
    lost: BTreeSet<u64>,
}

impl Group {
    fn of(shard: &Shard) -> Self {
        let leader = shard.replicas[0].id;
        let members = Members { voters: [leader].into(), ..Members::default() };
        Self { members, leader, up: [leader].into(), lost: BTreeSet::new() }
    }

    fn has_quorum(&self, voters: &BTreeSet<u64>) -> bool {
        2 * voters.intersection(&self.up).count() > voters.len()
    }

    /// Every replica that can catches up.
    fn catch_up(&mut self) {
        let members = self.members.voters.union(&self.members.learners);
        self.up = members.copied().filter(|id| !self.lost.contains(id)).collect();
    }

    /// The disks of `ids` are lost; false if the group would not survive that.
    fn survives(&self, ids: &BTreeSet<u64>) -> bool {
        let left: BTreeSet<u64> = self.up.difference(ids).copied().collect();
        2 * self.members.voters.intersection(&left).count() > self.members.voters.len()
    }

    fn lose(&mut self, ids: &BTreeSet<u64>) {
        self.up.retain(|id| !ids.contains(id));
        self.lost.extend(ids);
        if self.lost.contains(&self.leader) {
            self.leader = *self.members.voters.intersection(&self.up).next().expect("it survived");
        }
    }

    /// Takes one step; false if there is nothing to do but wait.
    fn step(&mut self, desired: &Shard) -> bool {
        let step = next_step(desired, &self.members, &self.up, self.leader);
        let before = self.members.clone();
        let members = &mut self.members;
        match step {
            Step::Nothing | Step::Wait => return false,
            Step::AddLearner(id) => {
                assert!(!members.voters.contains(&id) && members.learners.insert(id), "a member is added");
            }
            Step::TransferTo(id) => {
                assert!(members.voters.contains(&id) && self.up.contains(&id) && id != self.leader);
                self.leader = id;
            }
            Step::Change { promote, demote, remove } => {
                assert!(!(promote.is_empty() && demote.is_empty() && remove.is_empty()));
                for id in promote {
                    assert!(members.learners.remove(&id) && self.up.contains(&id), "{id} cannot vote");
                    members.voters.insert(id);
                }
                for id in demote {
                    assert!(members.voters.remove(&id) && members.learners.insert(id));
                }
                for id in remove {
                    assert!(members.voters.remove(&id) != members.learners.remove(&id));
                    self.up.remove(&id);
                }
                assert!(members.voters.contains(&self.leader), "a leader cannot let itself go");
            }
        }
        let joint = Members { joint: true, ..self.members.clone() };
        assert_eq!(next_step(desired, &joint, &self.up, self.leader), Step::Wait);
        let wanted = desired.voters().count();
        assert!(self.members.voters.len() >= before.voters.len().min(wanted), "fewer than before and wanted");
        assert!(self.has_quorum(&self.members.voters), "{before:?} -> {:?} of {:?}", self.members, self.up);
        true
    }
}

struct Cluster {
    registry: Registry,
    groups: BTreeMap<u32, Group>,
}

impl Cluster {
    fn of(registry: Registry) -> Self {
        let groups = registry.shards.iter().map(|shard| (shard.id.0, Group::of(shard))).collect();
        Self { registry, groups }
    }

    fn apply(&mut self, command: &Command) {
        if let Command::ReplaceHost { host, .. } = command {
            let old = self.registry.shards.iter().map(|shard| {
                let id = shard.on(host).map(|replica| replica.id);
                (shard.id.0, id.into_iter().collect::<BTreeSet<u64>>())
            });
            let old: Vec<_> = old.collect();
            // Nobody can help a group whose quorum lost its disks; its registry could not be changed either.
            if old.iter().all(|(shard, ids)| self.groups[shard].survives(ids)) {
                let mut next = self.registry.clone();
                if next.apply(command) == Ok(true) && next.next_replica > self.registry.next_replica {
                    old.iter().for_each(|(shard, ids)| {
                        self.groups.get_mut(shard).expect("a group a shard").lose(ids);
                    });
                }
                self.registry = next;
            }
        } else if !matches!(command, Command::Left { .. }) {
            let _ = self.registry.apply(command);
        }
    }

    /// One step of one group, which may know an older registry; returns whether it did something.
    fn step(&mut self, shard: u32, known: &Registry) -> bool {
        let group = self.groups.get_mut(&shard).expect("a group a shard");
        let desired = &known.shards[shard as usize];
        let moved = group.step(desired);
        let replicas = departed(desired, &group.members);
        let report = Command::Left { shard: desired.id, replicas };
        self.registry.apply(&report).expect("what has left may be reported") || moved
    }

    fn rest(&mut self) {
        for _ in 0..ROUNDS_MAX {
            let mut moved = false;
            for shard in 0..u32::try_from(self.groups.len()).expect("few") {
                self.groups.get_mut(&shard).expect("a group a shard").catch_up();
                moved |= self.step(shard, &self.registry.clone());
            }
            if !moved {
                return self.check_arrived();
            }
        }
        panic!("no rest after {ROUNDS_MAX} rounds");
    }

    fn check_arrived(&self) {
        for shard in &self.registry.shards {
            let members = &self.groups[&shard.id.0].members;
            let ids = |role| shard.with_role(role).map(|replica| replica.id).collect::<BTreeSet<u64>>();
            assert_eq!(members.voters, ids(Role::Voter), "voters of shard {}", shard.id);
            assert_eq!(members.learners, ids(Role::Learner), "learners of shard {}", shard.id);
            assert_eq!(ids(Role::Leaving), BTreeSet::new(), "shard {}", shard.id);
        }
    }
}

#[derive(Debug, Clone)]
enum Act {
    Command(Command),
    /// Of a group, knowing the registry so many commands ago.
    Step(u32, usize),
    CatchUp(u32),
    Rest,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => command().prop_map(Act::Command),
        8 => (0..4u32, prop_oneof![4 => Just(0usize), 1 => 0..4usize]).prop_map(|(at, ago)| Act::Step(at, ago)),
        6 => (0..4u32).prop_map(Act::CatchUp),
        1 => Just(Act::Rest),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_024))]

    #[test]
    fn groups_arrive_where_the_registry_wants_them_and_keep_their_quorum(
        acts in proptest::collection::vec(act(), 0..120),
    ) {
        let mut cluster = Cluster::of(registry(3));
        let mut past = vec![cluster.registry.clone()];
        for act in acts {
            match act {
                Act::Command(command) => {
                    cluster.apply(&command);
                    past.push(cluster.registry.clone());
                }
                Act::Step(shard, ago) => {
                    let known = match ago {
                        0 => cluster.registry.clone(),
                        _ => past[past.len().saturating_sub(1 + ago)].clone(),
                    };
                    cluster.step(shard, &known);
                }
                Act::CatchUp(shard) => cluster.groups.get_mut(&shard).expect("four groups").catch_up(),
                Act::Rest => cluster.rest(),
            }
        }
        cluster.rest();
    }
}

fn shard(voters: &[u64], learners: &[u64], leaving: &[u64]) -> Shard {
    let mut replicas = Vec::new();
    for (ids, role) in [(voters, Role::Voter), (learners, Role::Learner), (leaving, Role::Leaving)] {
        replicas.extend(ids.iter().map(|id| crate::Replica {
            id: *id,
            host: z4_types::HostId(format!("peer{id}")),
            role,
        }));
    }
    replicas.sort_by_key(|replica| replica.id);
    Shard { id: z4_types::ShardId(1), epoch: 1, replicas }
}

fn members(voters: &[u64], learners: &[u64]) -> Members {
    Members {
        voters: voters.iter().copied().collect(),
        learners: learners.iter().copied().collect(),
        joint: false,
    }
}

fn check(desired: &Shard, actual: &Members, up: &[u64], leader: u64, expected: &Step) {
    assert_eq!(next_step(desired, actual, &up.iter().copied().collect(), leader), *expected);
}

fn change(promote: &[u64], demote: &[u64], remove: &[u64]) -> Step {
    Step::Change { promote: promote.into(), demote: demote.into(), remove: remove.into() }
}

#[test]
fn a_replica_is_added_catches_up_and_takes_the_place_of_another() {
    let desired = shard(&[2, 3, 5], &[], &[1]);
    check(&desired, &members(&[1, 2, 3], &[]), &[1, 2, 3], 1, &Step::TransferTo(2));
    check(&desired, &members(&[1, 2, 3], &[]), &[1, 2, 3], 2, &Step::AddLearner(5));
    check(&desired, &members(&[1, 2, 3], &[5]), &[1, 2, 3], 2, &Step::Wait);
    check(&desired, &members(&[1, 2, 3], &[5]), &[1, 2, 3, 5], 2, &change(&[5], &[], &[1]));
    check(&desired, &members(&[2, 3, 5], &[]), &[2, 3, 5], 2, &Step::Nothing);
    assert_eq!(departed(&desired, &members(&[1, 2, 3], &[5])), []);
    assert_eq!(departed(&desired, &members(&[2, 3, 5], &[])), [1]);
}

#[test]
fn a_leader_alone_grows_before_it_goes() {
    let desired = shard(&[2], &[], &[1]);
    check(&desired, &members(&[1], &[]), &[], 1, &Step::AddLearner(2));
    check(&desired, &members(&[1], &[2]), &[], 1, &Step::Wait);
    check(&desired, &members(&[1], &[2]), &[2], 1, &change(&[2], &[], &[]));
    check(&desired, &members(&[1, 2], &[]), &[2], 1, &Step::TransferTo(2));
    check(&desired, &members(&[1, 2], &[]), &[1], 2, &change(&[], &[], &[1]));
}

#[test]
fn a_voter_that_is_up_stays_while_the_quorum_needs_it() {
    // 1 shall go, but 3 is down: without 1, nothing could be committed any more.
    let desired = shard(&[2, 3], &[], &[1]);
    check(&desired, &members(&[1, 2, 3], &[]), &[1], 2, &Step::Wait);
    check(&desired, &members(&[1, 2, 3], &[]), &[1, 3], 2, &change(&[], &[], &[1]));
    // The one that is down goes at once.
    check(&shard(&[1, 2], &[], &[3]), &members(&[1, 2, 3], &[]), &[1], 2, &change(&[], &[], &[3]));
}

#[test]
fn voters_become_learners_and_learners_voters_in_one_change() {
    let desired = shard(&[2, 3, 4], &[1], &[]);
    check(&desired, &members(&[1, 2, 3], &[4]), &[1, 3, 4], 2, &change(&[4], &[1], &[]));
    check(&desired, &members(&[2, 3, 4], &[1]), &[1, 3, 4], 2, &Step::Nothing);
}

#[test]
fn learners_nobody_wants_go_first_and_nobody_steps_who_does_not_lead() {
    let desired = shard(&[1, 2], &[], &[9]);
    check(&desired, &members(&[1], &[9]), &[], 1, &change(&[], &[], &[9]));
    check(&desired, &members(&[1], &[9]), &[], 2, &Step::Wait);
}
