//! An install replaces a group's rows as one, whatever fails and whatever is under way.
#![cfg(not(any(feature = "bug-applied-not-in-checkpoint", feature = "bug-snapshot-keeps-old-rows")))]

mod support;

use support::MemDisk;
use support::replica::{GROUP, Group, LONG, chunks, content, filled, leader, open, stage_all, state};
use z4_env::{Disk, SeededRng};
use z4_store::{Error, Frozen, Meta, SnapshotReader};
use z4_types::{Kind, ShardId};

#[test]
fn a_crash_at_any_point_of_an_install_leaves_all_old_or_all_new() {
    let (mut old, mut new) = (0, 0);
    for seed in 0..8 {
        let (_leader, mut group) = leader(seed, 3_000);
        let mut reader = SnapshotReader::new(group.store.view().unwrap());
        let stream = reader.stream();
        let (full, before) = filled(seed, 3_000);
        drop(stage_all(&open(&full), &mut reader));
        let mut after = before.clone();
        after.insert(GROUP, (group.store.meta().clone(), group.model.clone()));
        let mut rng = SeededRng::new(seed);
        for calls in 1.. {
            let disk = full.fork();
            let store = open(&disk);
            // The whole file is there already.
            let staged = store.stage(GROUP, stream).unwrap().finish().unwrap();
            disk.die_after(calls);
            let installed = store.install(&staged);
            let (died, promised) = (disk.died(), installed.is_ok());
            drop((staged, store));
            disk.crash(&mut rng);
            let store = open(&disk);
            let found = state(&store);
            if found == after {
                new += 1;
            } else {
                assert!(!promised, "seed {seed}, call {calls}: an acknowledged install is durable");
                assert!(found == before, "seed {seed}, call {calls}");
                old += 1;
            }
            // Whatever was left of the file is of use, or goes.
            let staging = store.stage(GROUP, stream).unwrap();
            assert!(staging.is_complete() || staging.next_number() == 0);
            drop(staging);
            store.discard_staging().unwrap();
            assert!(disk.list("/data/snapshots".as_ref()).unwrap().is_empty());
            if !died {
                assert!(promised);
                break;
            }
        }
    }
    assert!(old > 200 && new > 20, "{old} old, {new} new");
}

#[test]
fn a_full_disk_gives_the_space_back_while_staging_and_lets_an_install_be_repeated() {
    let (_leader, mut group) = leader(3, LONG);
    let mut reader = SnapshotReader::new(group.store.view().unwrap());
    let (disk, before) = filled(4, LONG);
    let store = open(&disk);
    let mut staging = store.stage(GROUP, reader.stream()).unwrap();
    staging.append(&reader.next_chunk().unwrap().unwrap()).unwrap();
    disk.set_full(true);
    let error = staging.append(&reader.next_chunk().unwrap().unwrap()).unwrap_err();
    assert_eq!(error.kind(), Kind::Overloaded, "{error}");
    assert!(disk.list("/data/snapshots".as_ref()).unwrap().is_empty());
    assert_eq!(staging.next_number(), 0);
    disk.set_full(false);
    reader.seek(0).unwrap();
    for chunk in chunks(&mut reader) {
        staging.append(&chunk).unwrap();
    }
    let staged = staging.finish().unwrap();
    let mut follower = store.group(GROUP).unwrap();
    follower.put(b"of before", b"1");
    disk.set_full(true);
    for _ in 0..2 {
        assert_eq!(store.install(&staged).unwrap_err().kind(), Kind::Overloaded);
        assert!(follower.freeze().is_none(), "nothing of the old store is written any more");
    }
    disk.set_full(false);
    assert!(state(&store) == before);
    store.install(&staged).unwrap();
    follower.reset_to_base().unwrap();
    assert_eq!(follower.meta(), group.store.meta());
    assert!(content(&follower) == group.model);
}

#[test]
fn a_damaged_staging_file_is_refused_and_the_group_goes_on_as_it_was() {
    let (_leader, mut group) = leader(4, LONG);
    let mut reader = SnapshotReader::new(group.store.view().unwrap());
    let (disk, before) = filled(5, LONG);
    let store = open(&disk);
    let staged = stage_all(&store, &mut reader);
    let mut follower = Group::new(&store, GROUP);
    follower.change(&mut SeededRng::new(9), 20);
    let name = disk.list("/data/snapshots".as_ref()).unwrap().remove(0);
    let path = std::path::Path::new("/data/snapshots").join(name);
    disk.flip(&path, disk.read(&path).len() / 2);
    assert!(matches!(store.install(&staged), Err(Error::ChunkRefused { .. })));
    assert!(state(&store) == before);
    follower.checkpoint(&store);
    assert!(state(&store)[&GROUP].1 == follower.model);
    // Opened again, it is cut before the damage.
    let staging = store.stage(GROUP, reader.stream()).unwrap();
    assert!(!staging.is_complete() && staging.next_number() > 0);
}

#[test]
fn what_was_frozen_before_an_install_or_a_removal_is_never_written_after_it() {
    let (_leader, mut group) = leader(5, LONG);
    let (meta, model) = (group.store.meta().clone(), group.model.clone());
    let (disk, before) = filled(6, LONG);
    let store = open(&disk);
    let mut rng = SeededRng::new(1);
    let (mut follower, mut other) = (Group::new(&store, GROUP), Group::new(&store, ShardId(1)));
    follower.change(&mut rng, 20);
    other.change(&mut rng, 20);
    let sets = [follower.store.freeze().unwrap(), other.store.freeze().unwrap()];
    store.install(&stage_all(&store, &mut SnapshotReader::new(group.store.view().unwrap()))).unwrap();
    follower.store.reset_to_base().unwrap();
    let done = store.checkpoint(&sets).unwrap();
    assert_eq!(done.frozen().iter().map(Frozen::group).collect::<Vec<_>>(), [ShardId(1)]);
    follower.store.installed(&done);
    other.store.installed(&done);
    assert_eq!(follower.store.meta(), &meta);
    assert!(content(&follower.store) == model);
    assert!(content(&other.store) == other.model);
    // The same with a checkpoint that failed.
    follower.model = model;
    follower.change(&mut rng, 5);
    let set = follower.store.freeze().unwrap();
    store.delete_group(GROUP).unwrap();
    follower.store.reset_to_base().unwrap();
    follower.store.abandoned(set.clone());
    assert_eq!(follower.store.meta(), &Meta::default());
    assert!(content(&follower.store).is_empty());
    // And with nobody left to be told: the group is gone, its checkpoint still under way.
    drop(follower);
    assert_eq!(store.checkpoint(&[set]).unwrap().frozen().len(), 0);
    assert_eq!(store.groups().unwrap().keys().copied().collect::<Vec<_>>(), [ShardId(1), ShardId(3)]);
    assert!(state(&store)[&ShardId(3)] == before[&ShardId(3)]);
    // A new replica of the group starts empty and is written.
    let mut anew = Group::new(&store, GROUP);
    anew.change(&mut rng, 5);
    anew.checkpoint(&store);
    drop((anew.store, other));
    drop(store);
    assert!(state(&open(&disk))[&GROUP].1 == anew.model);
}

#[test]
#[should_panic(expected = "the changes still count")]
fn a_store_whose_rows_nobody_replaced_is_not_reset() {
    let store = open(&MemDisk::default());
    let _ = store.group(GROUP).unwrap().reset_to_base();
}
