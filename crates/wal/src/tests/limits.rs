//! A full disk refuses and harms nothing; a failed sync ends the log; sizes are kept.

use z4_types::Kind;

use super::*;

#[test]
fn a_full_disk_refuses_the_batch_and_nothing_else() {
    for spares in [false, true] {
        let disk = TestDisk::default();
        let (mut wal, _) = open(&disk, 8192).expect("a new log");
        let maker = wal.spare_maker();
        while spares && maker.make().expect("the disk is healthy") {}
        commit(&mut wal, &entries(1, 1, 2, 100));
        disk.limit(disk.used() + 2000);
        let mut next = 2;
        let error = loop {
            match wal.append(&entries(1, next, next + 1, 700)) {
                Ok(()) => wal.sync().expect("syncs need no space"),
                Err(error) => break error,
            }
            next += 1;
        };
        assert_eq!(error.kind(), Kind::Overloaded, "{error}");
        assert!(wal.room() < 700, "what has room is never refused");
        assert!(wal.append(&entries(1, next, next + 1, 9000)).is_err(), "still full");
        assert!(maker.make().is_err() || wal.stats().spares == 2, "no space for spares either");
        let (_, recovered) = open(&disk.copied(), 8192).expect("nothing of the refused batch is there");
        assert_eq!(indexes(&recovered, 1), (1..next).collect::<Vec<_>>());

        disk.limit(0);
        commit(&mut wal, &entries(1, next, next + 1, 700));
        let (_, recovered) = open(&disk, 8192).expect("the log went on");
        assert_eq!(indexes(&recovered, 1), (1..=next).collect::<Vec<_>>());
    }
}

#[test]
fn a_failed_sync_ends_the_log() {
    let disk = TestDisk::default();
    let (mut wal, _) = open(&disk, 8192).expect("a new log");
    wal.append(&entries(1, 1, 2, 100)).expect("written");
    disk.fail_syncs();
    assert_eq!(wal.sync().expect_err("injected").kind(), Kind::Internal);
    assert!(matches!(wal.sync(), Err(Error::Poisoned)), "a sync is never tried again");
    assert!(matches!(wal.append(&entries(1, 2, 3, 100)), Err(Error::Poisoned)));
    assert!(matches!(wal.recycle(), Err(Error::Poisoned)));
}

#[test]
fn a_batch_larger_than_a_segment_extends_one_and_is_cut_back() {
    let disk = TestDisk::default();
    let (mut wal, _) = open(&disk, 8192).expect("a new log");
    let maker = wal.spare_maker();
    while maker.make().expect("the disk is healthy") {}
    commit(&mut wal, &entries(1, 1, 2, 100));
    commit(&mut wal, &entries(1, 2, 4, 50_000));
    commit(&mut wal, &entries(1, 4, 5, 100));
    let (again, recovered) = open(&disk.copied(), 8192).expect("whole");
    assert_eq!(indexes(&recovered, 1), [1, 2, 3, 4]);
    assert_eq!(again.stats().bytes, wal.stats().bytes);
    let before = disk.used();
    wal.release(ShardId(1), Index(3));
    assert!(wal.recycle().expect("the disk is healthy") >= 2);
    assert!(disk.used() < before - 80_000, "{} of {before} bytes are still used", disk.used());
}

#[test]
fn the_largest_entry_and_the_smallest_segment_work() {
    let disk = TestDisk::default();
    let (mut wal, _) = open(&disk, 4096).expect("room for a header");
    let maker = wal.spare_maker();
    for at in 0..4 {
        while maker.make().expect("the disk is healthy") {}
        commit(&mut wal, &entries(1, at + 1, at + 2, 1 << 20));
    }
    let (_, recovered) = open(&disk, 4096).expect("whole");
    assert_eq!(indexes(&recovered, 1), [1, 2, 3, 4]);
    let error = open(&disk, 4095).map(|_| ()).expect_err("no room for a header");
    assert_eq!(error.kind(), Kind::Invalid, "{error}");
}

#[test]
#[should_panic(expected = "only after the one before was synced")]
fn a_second_batch_before_the_sync_is_a_bug() {
    let (mut wal, _) = open(&TestDisk::default(), 8192).expect("a new log");
    wal.append(&entries(1, 1, 2, 1)).expect("written");
    drop(wal.append(&entries(1, 2, 3, 1)));
}

#[test]
#[should_panic(expected = "leaves a gap")]
fn a_gap_without_a_release_is_a_bug() {
    let (mut wal, _) = open(&TestDisk::default(), 8192).expect("a new log");
    commit(&mut wal, &entries(1, 1, 4, 1));
    drop(wal.append(&entries(1, 5, 6, 1)));
}

#[test]
#[should_panic(expected = "the commit index went from 3 to 2")]
fn a_commit_index_never_decreases() {
    let (mut wal, _) = open(&TestDisk::default(), 8192).expect("a new log");
    let record = |commit| Record {
        group: ShardId(1),
        hard_state: Some(state(1, 1, commit)),
        truncate: None,
        entries: Vec::new(),
    };
    commit(&mut wal, &Batch { records: vec![record(3)] });
    drop(wal.append(&Batch { records: vec![record(2)] }));
}

#[test]
fn a_batch_costs_one_sync_and_an_empty_one_none() {
    let disk = TestDisk::default();
    let (mut wal, _) = open(&disk, 1 << 16).expect("a new log");
    let maker = wal.spare_maker();
    maker.make().expect("the disk is healthy");
    commit(&mut wal, &entries(1, 1, 2, 100));
    let syncs = disk.syncs();
    for at in 2..12 {
        let mut batch = entries(1, at, at + 1, 100);
        batch.records.extend(entries(2, at - 1, at, 100).records);
        commit(&mut wal, &batch);
    }
    commit(&mut wal, &Batch::default());
    assert_eq!(disk.syncs(), syncs + 10);
    assert_eq!(wal.stats().syncs, 11);
}
