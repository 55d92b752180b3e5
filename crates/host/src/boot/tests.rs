//! Starts from directories of every kind.

use z4_env::{RealClock, RealDisk};

use super::*;

fn start(config: &Config, absent: Absent) -> Result<Boot, BootError> {
    boot_as(config, Arc::new(RealDisk), Arc::new(RealClock::new()), 7 << 64 | 9, absent)
}

fn config(dir: &tempfile::TempDir) -> Config {
    let mut config = Config::single("one", dir.path());
    config.task_shards = 2;
    config.sizes.segment_bytes = 1 << 20;
    config
}

#[test]
fn directories_of_format_1_get_seats_and_an_instance() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = config(&dir);
    let formed = start(&config, Absent::Form).expect("forms");
    let (seats, cluster) = (formed.seats.clone(), formed.identity.cluster);
    assert_eq!(seats.keys().copied().collect::<Vec<_>>(), [ShardId(0), ShardId(1), ShardId(2)]);
    formed.opener.store.delete_group(LOCAL).expect("is deleted");
    drop(formed);
    let text = format!("z4 host directory\nformat = 1\ncluster = {cluster}\ncluster_name = z4\nhost = one\n");
    for dir in dirs(&config) {
        std::fs::write(dir.join("HOST"), &text).expect("is written");
    }
    let upgraded = start(&config, Absent::Form).expect("starts");
    let instance = upgraded.identity.instance;
    assert_ne!(instance, 0);
    assert_eq!(upgraded.seats, seats);
    drop(upgraded);
    let text = std::fs::read_to_string(config.data_dir.join("HOST")).expect("is there");
    assert_eq!(
        text,
        format!(
            "z4 host directory\nformat = 2\ncluster = {cluster}\ncluster_name = z4\nhost = one\ninstance = {instance:016x}\n"
        )
    );
    assert_eq!(start(&config, Absent::Form).expect("starts").identity.instance, instance);
}

#[test]
fn a_host_that_waits_keeps_its_instance_and_forms_when_it_is_told_to() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut config = Config { bootstrap: false, ..config(&dir) };
    assert!(matches!(start(&config, Absent::Form), Err(BootError::Empty(_))));
    let waiting = start(&config, Absent::Wait).expect("waits");
    let instance = waiting.identity.instance;
    assert!(!waiting.identity.is_member() && instance != 0);
    assert!(waiting.seats.is_empty() && waiting.driver.shards().next().is_none());
    assert!(!waiting.registry.read().expect("nobody writes").is_known());
    drop(waiting);
    let again = start(&config, Absent::Wait).expect("waits");
    assert_eq!(again.identity.instance, instance);
    drop(again);
    config.bootstrap = true;
    let formed = start(&config, Absent::Wait).expect("forms");
    assert_eq!((formed.identity.instance, formed.driver.shards().count()), (instance, 3));
}

#[test]
fn initial_peers_form_the_same_cluster_with_seats_of_their_own() {
    let peers: Vec<_> =
        ["a", "b", "c"].iter().map(|name| (z4_types::HostId((*name).into()), format!("{name}:1"))).collect();
    let (mut clusters, mut replicas) = (Vec::new(), Vec::new());
    for (host, _) in &peers {
        let dir = tempfile::tempdir().expect("a directory");
        let mut config = Config { bootstrap: false, ..config(&dir) };
        (config.host, config.initial_peers) = (host.clone(), peers.clone());
        let formed = start(&config, Absent::Form).expect("forms");
        clusters.push(formed.identity.cluster);
        replicas.extend(formed.seats.values().map(|seat| seat.replica));
        for status in formed.driver.status() {
            assert_eq!((status.membership.voters.len(), status.applied), (3, Index(1)));
        }
    }
    assert_eq!((clusters[0], clusters[1]), (clusters[1], clusters[2]));
    replicas.sort_unstable();
    assert_eq!(replicas, (1..=9).collect::<Vec<u64>>());
    let stranger = Config { initial_peers: peers, ..Config::single("x", Path::new("/nowhere")) };
    assert!(matches!(stranger.founding(), Err(BootError::Peers(_))));
}

#[test]
fn a_group_whose_replica_was_buried_is_removed_by_the_next_start() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = config(&dir);
    let mut formed = start(&config, Absent::Form).expect("forms");
    let replica = formed.seats[&ShardId(1)].replica;
    seats::bury(&formed.opener.store, &mut formed.seats, ShardId(1)).expect("is written");
    drop(formed);
    let next = start(&config, Absent::Form).expect("starts");
    assert_eq!(next.driver.shards().collect::<Vec<_>>(), [ShardId(0), ShardId(2)]);
    assert_eq!((next.seats[&ShardId(1)].replica, next.seats[&ShardId(1)].buried), (0, replica));
    assert!(!next.opener.store.groups().expect("reads").contains_key(&ShardId(1)));
    drop(next);
    assert!(start(&config, Absent::Form).is_ok());
}

#[test]
fn directories_of_two_times_are_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = config(&dir);
    drop(start(&config, Absent::Form).expect("forms"));
    let text = std::fs::read_to_string(config.peer_dir.join("HOST")).expect("is there");
    let other = |from: &str, to: &str| {
        std::fs::write(config.peer_dir.join("HOST"), text.replace(from, to)).expect("is written");
        start(&config, Absent::Wait).err().expect("is refused").to_string()
    };
    let instance = text.lines().last().expect("an instance").to_owned();
    let refused = other(&instance, "instance = 00000000000000aa");
    assert!(refused.contains("instance 00000000000000aa"), "{refused}");
    let cluster = text.lines().nth(2).expect("a cluster").to_owned();
    let refused = other(&cluster, "cluster = 00000000000000000000000000000000");
    assert!(refused.contains("restore the missing one"), "{refused}");
    assert!(config.data_dir.join(BASE).exists());
}
