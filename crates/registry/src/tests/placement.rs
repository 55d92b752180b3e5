//! Properties of the plan, after any sequence of commands.

use std::collections::BTreeMap;

use proptest::prelude::*;
use z4_types::{HostId, ShardId};

use super::{address, command, host, registry, settle};
use crate::{Command, Registry, Role};

/// Voters of task shards on each active host.
fn loads(registry: &Registry) -> BTreeMap<HostId, usize> {
    let mut loads: BTreeMap<HostId, usize> =
        registry.active_hosts().map(|host| (host.id.clone(), 0)).collect();
    for replica in registry.shards[1..].iter().flat_map(crate::Shard::voters) {
        *loads.get_mut(&replica.host).expect("voters stand on active hosts") += 1;
    }
    loads
}

fn add(n: u8) -> Command {
    Command::AddHost { host: host(n), address: address(n), instance: None }
}

/// A cluster of `hosts` at rest.
fn grown(hosts: u8, task_shards: u32, replication: u32) -> Registry {
    let mut registry = registry(task_shards);
    registry.apply(&Command::SetReplication { replication }).expect("within its range");
    for n in 1..hosts {
        registry.apply(&add(n)).expect("a new host");
        settle(&mut registry);
    }
    registry
}

/// Wanted replicas of task shards: shard, id, host.
fn wanted(registry: &Registry) -> Vec<(ShardId, u64, HostId)> {
    let of = |shard: &crate::Shard| {
        let id = shard.id;
        shard.voters().map(|each| (id, each.id, each.host.clone())).collect::<Vec<_>>()
    };
    registry.shards[1..].iter().flat_map(of).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn after_any_commands_the_registry_is_sound_and_at_rest_it_is_whole_and_even(
        task_shards in 1..9u32,
        commands in proptest::collection::vec((command(), any::<bool>()), 0..40),
    ) {
        let mut registry = registry(task_shards);
        let mut born: BTreeMap<u64, (ShardId, HostId)> = BTreeMap::new();
        for (command, rest) in &commands {
            let before = registry.clone();
            let outcome = registry.apply(command);
            prop_assert_eq!(registry.check(), Ok(()), "after {:?}", command);
            prop_assert_eq!(outcome == Ok(true), registry != before, "{:?} said {:?}", command, outcome);
            for (shard, old) in registry.shards.iter().zip(&before.shards) {
                prop_assert_eq!(shard.epoch > old.epoch, shard.replicas != old.replicas);
                for replica in &shard.replicas {
                    let place = (shard.id, replica.host.clone());
                    prop_assert_eq!(born.entry(replica.id).or_insert(place.clone()), &place, "an id was reused");
                }
                for left in old.with_role(Role::Leaving) {
                    let now = shard.replicas.iter().find(|replica| replica.id == left.id);
                    prop_assert!(now.is_none_or(|now| now.role == Role::Leaving), "it was wanted again");
                }
            }
            // The same again changes nothing, whatever it says.
            let once = registry.clone();
            let again = registry.apply(command);
            prop_assert!(again != Ok(true), "{:?} twice", command);
            prop_assert_eq!(&registry, &once);
            if *rest {
                settle(&mut registry);
                let loads = loads(&registry);
                let spread = loads.values().max().zip(loads.values().min()).map(|(max, min)| max - min);
                prop_assert!(spread.is_some_and(|spread| spread <= 1), "{:?}", loads);
                let voters = loads.len().min(registry.replication as usize);
                prop_assert!(registry.shards.iter().all(|shard| shard.voters().count() == voters));
            }
        }
    }

    #[test]
    fn a_host_more_moves_only_what_evenness_needs(
        hosts in 1..6u8,
        task_shards in 1..30u32,
        replication in 1..=5u32,
    ) {
        let before = grown(hosts, task_shards, replication);
        let mut after = before.clone();
        after.apply(&add(hosts)).expect("a new host");
        let kept = wanted(&before).iter().filter(|each| wanted(&after).contains(each)).count();
        let moved = wanted(&before).len() - kept;
        if u32::from(hosts) < replication {
            prop_assert_eq!(moved, 0, "there was room for one more voter of each shard");
        } else {
            // The new host takes its share and not one more.
            let share = wanted(&before).len() / (usize::from(hosts) + 1);
            prop_assert_eq!(moved, share);
        }
    }

    #[test]
    fn a_host_less_moves_what_it_held_and_nothing_else_if_that_can_be_even(
        hosts in 2..6u8,
        task_shards in 1..9u32,
        replication in 1..=4u32,
    ) {
        let before = grown(hosts, task_shards, replication);
        let mut after = before.clone();
        after.apply(&Command::RemoveHost { host: host(0) }).expect("others are there");
        let kept: Vec<_> = wanted(&before).into_iter().filter(|(.., on)| *on != host(0)).collect();
        if can_be_even(&after, &kept) {
            for each in &kept {
                prop_assert!(wanted(&after).contains(each), "{:?} moved without need", each);
            }
        }
    }
}

/// Tries all places for what is missing beside `kept`.
fn can_be_even(registry: &Registry, kept: &[(ShardId, u64, HostId)]) -> bool {
    let hosts: Vec<HostId> = registry.active_hosts().map(|host| host.id.clone()).collect();
    let voters = hosts.len().min(registry.replication as usize);
    let load = |host: &HostId| kept.iter().filter(|(.., on)| on == host).count();
    let short = registry.shards[1..]
        .iter()
        .find(|shard| kept.iter().filter(|(id, ..)| *id == shard.id).count() < voters);
    let Some(shard) = short else {
        let loads = || hosts.iter().map(load);
        return loads().max() <= loads().min().map(|min| min + 1);
    };
    let holds = |host: &HostId| kept.iter().any(|(id, _, on)| *id == shard.id && on == host);
    hosts.iter().filter(|host| !holds(host)).any(|host| {
        let more = [kept, &[(shard.id, 0, host.clone())]].concat();
        can_be_even(registry, &more)
    })
}

#[test]
fn two_hosts_have_two_voters_and_the_third_makes_three() {
    for (hosts, voters) in [(1, 1), (2, 2), (3, 3), (4, 3)] {
        let registry = grown(hosts, 4, 3);
        assert!(registry.shards.iter().all(|shard| shard.voters().count() == voters), "{registry:?}");
        assert_eq!(registry.shards[0].replicas.len(), usize::from(hosts));
    }
}

#[test]
fn a_drained_registry_voter_learns_on_under_its_id() {
    let mut registry = grown(4, 2, 3);
    let before = registry.shards[0].clone();
    registry.apply(&Command::DrainHost { host: host(0) }).expect("others are active");
    let roles = |shard: &crate::Shard| shard.replicas.iter().map(|each| each.role).collect::<Vec<_>>();
    assert_eq!(roles(&before), [Role::Voter, Role::Voter, Role::Voter, Role::Learner]);
    assert_eq!(roles(&registry.shards[0]), [Role::Learner, Role::Voter, Role::Voter, Role::Voter]);
    let ids = |shard: &crate::Shard| shard.replicas.iter().map(|each| each.id).collect::<Vec<_>>();
    assert_eq!(ids(&before), ids(&registry.shards[0]));
}
