//! New clusters, and where queues go.

use z4_types::{HostId, QueueName, ShardId};

use super::{address, host, registry};
use crate::{REPLICATION_MAX, Refusal, Registry, Role};

fn peers(count: u8) -> Vec<(HostId, String)> {
    (1..=count).map(|n| (host(n), address(n))).collect()
}

fn form(count: u8, task_shards: u32) -> Registry {
    Registry::form_many("z4", peers(count), task_shards, 3).expect("these can form a cluster")
}

#[test]
fn a_cluster_of_one_gives_replica_n_plus_one_to_shard_n() {
    for task_shards in [1, 4, 1000] {
        let registry = registry(task_shards);
        assert_eq!(registry.check(), Ok(()));
        assert_eq!(Registry::decode(&registry.encode()), Ok(registry.clone()));
        for shard in &registry.shards {
            let [replica] = &shard.replicas[..] else { panic!("{shard:?}") };
            assert_eq!((replica.id, replica.role), (u64::from(shard.id.0) + 1, Role::Voter));
        }
    }
}

#[test]
fn hosts_that_form_together_compute_the_same_registry_in_any_order() {
    let registry = form(3, 4);
    let turned = peers(3).into_iter().rev().collect();
    assert_eq!(Registry::form_many("z4", turned, 4, 3), Ok(registry.clone()));
    assert!(registry.shards.iter().all(|shard| shard.voters().count() == 3));
}

#[test]
fn shard_zero_is_on_every_host_and_task_shards_are_spread() {
    let registry = form(5, 5);
    assert_eq!(registry.shards[0].voters().count(), 3);
    assert_eq!(registry.shards[0].with_role(Role::Learner).count(), 2);
    for n in 1..=5 {
        let held = registry.shards[1..].iter().filter(|shard| shard.on(&host(n)).is_some()).count();
        assert_eq!(held, 3, "15 voters on 5 hosts");
    }
}

#[test]
fn a_cluster_id_is_that_of_everything_the_registry_depends_on() {
    // Computed by another program from the bytes in docs/FORMATS.md: a change here is a change of format.
    assert_eq!(form(2, 4).cluster.0, CLUSTER_OF_TWO);
    let id = |name: &str, peers, task_shards, replication| {
        Registry::form_many(name, peers, task_shards, replication).expect("forms").cluster
    };
    let mut ids = vec![
        id("z4", peers(3), 4, 3),
        id("z5", peers(3), 4, 3),
        id("z4", peers(4), 4, 3),
        id("z4", peers(3), 5, 3),
        id("z4", peers(3), 4, 1),
    ];
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 5);
}

/// Of `peer1@peer1:6356` and `peer2@peer2:6356`, named z4, with 4 task shards and replication 3.
const CLUSTER_OF_TWO: u128 = 0x94ad_1cf1_25d1_ad6b_0776_e035_c774_7396;

#[test]
fn peers_that_cannot_form_a_cluster_are_refused() {
    let refused = |peers: Vec<(HostId, String)>, replication| {
        Registry::form_many("z4", peers, 4, replication).expect_err("cannot form").reason()
    };
    assert_eq!(refused(Vec::new(), 3), "INVALID");
    assert_eq!(refused(peers(2), 0), "INVALID");
    assert_eq!(refused(peers(2), REPLICATION_MAX + 1), "INVALID");
    assert_eq!(refused(vec![(host(1), address(1)), (host(1), address(2))], 3), "INVALID");
    assert_eq!(refused(vec![(host(1), address(1)), (host(2), address(1))], 3), "ADDRESS_IN_USE");
    assert_eq!(refused(vec![(host(1), "peer1".into())], 3), "INVALID");
    assert_eq!(refused(vec![(HostId(" peer1".into()), address(1))], 3), "INVALID");
    assert_eq!(refused(vec![(HostId(String::new()), address(1))], 3), "INVALID");
}

#[test]
fn routes_lead_to_the_replica_and_back() {
    let registry = form(3, 2);
    for shard in &registry.shards {
        assert_eq!(registry.replicas_of(shard.id), &shard.replicas);
        for replica in &shard.replicas {
            let found = registry.host_of_replica(shard.id, replica.id).expect("it stands somewhere");
            assert_eq!(found.id, replica.host);
            assert_eq!(registry.replica_on(shard.id, &found.id), Some(replica));
        }
    }
    assert_eq!(registry.host_of_replica(ShardId(1), 1), None, "that one is of shard 0");
    assert_eq!(registry.replicas_of(ShardId(3)), &[]);
    assert_eq!(registry.replica_on(ShardId(0), &host(9)), None);
    let shards = [0, 1, 2, 3].map(|shard| registry.has_task_shard(ShardId(shard)));
    assert_eq!(shards, [false, true, true, false]);
}

#[test]
fn queues_spread_over_all_task_shards_and_never_fall_on_the_registry() {
    let registry = registry(4);
    let mut seen = [0u32; 5];
    for n in 0..4_000 {
        let queue = QueueName::new(&format!("team-{n}/mail")).expect("a valid name");
        seen[registry.shard_of(&queue).0 as usize] += 1;
    }
    assert_eq!(seen[0], 0);
    assert!(seen[1..].iter().all(|n| (800..1_200).contains(n)), "{seen:?}");
}

#[test]
fn only_the_recorded_directory_may_speak_for_a_host() {
    let mut registry = form(3, 1);
    let admit = |registry: &Registry, n, instance| registry.admit(&host(n), instance);
    assert_eq!(admit(&registry, 1, 71), Ok(()), "none is recorded yet");
    let announce = crate::Command::Announce {
        host: host(1),
        instance: 71,
        address: address(1),
        service: String::new(),
        tags: [].into(),
    };
    assert_eq!(registry.apply(&announce), Ok(true));
    assert_eq!(admit(&registry, 1, 71), Ok(()));
    assert_eq!(admit(&registry, 1, 72), Err(Refusal::WrongInstance(host(1))));
    assert_eq!(admit(&registry, 9, 71), Err(Refusal::NotFound(host(9))));
    assert_eq!(registry.apply(&crate::Command::RemoveHost { host: host(1) }), Ok(true));
    assert_eq!(admit(&registry, 1, 71), Ok(()), "its replicas have not left yet");
    assert_eq!(admit(&registry, 1, 72), Err(Refusal::Removed(host(1))));
    super::settle(&mut registry);
    assert_eq!(admit(&registry, 1, 71), Err(Refusal::Removed(host(1))));
}

#[test]
fn a_name_forgets_its_oldest_instances_only_and_keeps_a_bound() {
    let mut registry = form(3, 1);
    let replace = |instance| crate::Command::ReplaceHost { host: host(1), instance, address: address(1) };
    for instance in 1..=100 {
        assert_eq!(registry.apply(&replace(instance)), Ok(true));
    }
    assert_eq!(registry.apply(&replace(99)), Err(Refusal::Removed(host(1))));
    let known = registry.host(&host(1)).expect("a member");
    assert_eq!(known.former, (36..=99).collect::<Vec<_>>());
}
