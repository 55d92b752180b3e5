//! Readers see what was appended, know what is gone, and notice damage; quiet groups do not pin the log.

use std::path::Path;

use z4_types::Kind;

use super::*;

#[test]
fn a_reader_returns_what_was_appended_within_its_limits() {
    let disk = TestDisk::default();
    let (mut wal, _) = open(&disk, 8192).expect("a new log");
    let reader = wal.reader();
    for at in 0..10 {
        commit(&mut wal, &entries(1, at * 5 + 1, at * 5 + 6, 200));
    }
    let read = |from, to, most| {
        let entries = reader.entries(ShardId(1), Index(from), Index(to), most).expect("all of it is there");
        entries.iter().map(|e| e.index.0).collect::<Vec<_>>()
    };
    assert_eq!(read(1, 51, usize::MAX), (1..51).collect::<Vec<_>>(), "across segments");
    assert_eq!(read(7, 9, usize::MAX), [7, 8]);
    assert_eq!(read(7, 51, 3 * 228), [7, 8, 9], "228 bytes an entry");
    assert_eq!(read(7, 51, 0), [7], "one at least, or a follower would never get on");
    assert_eq!(read(50, 99, usize::MAX), [50], "the log ends there");
    assert_eq!(read(51, 99, usize::MAX), Vec::<u64>::new());
    assert_eq!(reader.entries(ShardId(1), Index(9), Index(10), 1).expect("there")[0], entry(9, 1, &[9; 200]));
    assert_eq!(
        (reader.first_index(ShardId(1)), reader.last_index(ShardId(1))),
        (Some(Index(1)), Some(Index(50)))
    );
    assert_eq!(
        (reader.term(ShardId(1), Index(9)), reader.term(ShardId(1), Index(51))),
        (Some(Term(1)), None)
    );

    wal.release(ShardId(1), Index(50));
    wal.recycle().expect("the disk is healthy");
    let gone = reader.entries(ShardId(1), Index(1), Index(2), 1).expect_err("recycled");
    assert_eq!(gone.kind(), Kind::NotFound, "{gone}");
    let first = reader.first_index(ShardId(1)).expect("the newest segment stays");
    assert!(first > Index(1) && reader.entries(ShardId(1), first, first.next(), 1).is_ok());
}

#[test]
fn a_reader_finds_entries_below_the_floor_after_a_restart() {
    let disk = TestDisk::default();
    let (mut wal, _) = open(&disk, 8192).expect("a new log");
    commit(&mut wal, &entries(1, 1, 11, 50));
    let floor = BTreeMap::from([(ShardId(1), Index(8))]);
    let (wal, recovered) = open_above(&disk, 8192, &floor).expect("whole");
    assert_eq!(indexes(&recovered, 1), [9, 10], "only what the base does not hold");
    assert_eq!(wal.reader().entries(ShardId(1), Index(3), Index(11), usize::MAX).expect("on disk").len(), 8);
}

#[test]
fn damage_met_while_reading_is_reported_not_returned() {
    let disk = TestDisk::default();
    let (mut wal, _) = open(&disk, 8192).expect("a new log");
    commit(&mut wal, &entries(1, 1, 4, 100));
    disk.flip(Path::new("/data/wal/0000000000000001.wal"), 4096 + 32 + 128 + 50, 4);
    let reader = wal.reader();
    assert!(reader.entries(ShardId(1), Index(1), Index(2), 1).is_ok());
    let error = reader.entries(ShardId(1), Index(1), Index(4), usize::MAX).expect_err("entry 2 is damaged");
    assert_eq!(error.kind(), Kind::Corrupt, "{error}");
    assert!(error.to_string().contains("entry 2 of group 1"), "{error}");
}

#[test]
fn a_log_restarts_behind_a_snapshot_and_a_forgotten_group_stays_forgotten() {
    let disk = TestDisk::default();
    let (mut wal, _) = open(&disk, 8192).expect("a new log");
    let mut batch = entries(1, 1, 4, 10);
    batch.records.extend(entries(2, 1, 4, 10).records);
    commit(&mut wal, &batch);
    wal.release(ShardId(1), Index(90));
    commit(&mut wal, &entries(1, 91, 93, 10));
    assert_eq!(wal.reader().first_index(ShardId(1)), Some(Index(91)));
    wal.forget(ShardId(2));
    let (_, recovered) =
        open_above(&disk.copied(), 8192, &BTreeMap::from([(ShardId(1), Index(90))])).expect("ok");
    assert_eq!(indexes(&recovered, 2), [1, 2, 3], "forgetting takes effect with the next batch");
    // In its next life the group starts behind a snapshot at once.
    wal.release(ShardId(2), Index(6));
    commit(&mut wal, &entries(2, 7, 8, 10));
    let floor = BTreeMap::from([(ShardId(1), Index(90)), (ShardId(2), Index(6))]);
    let (mut wal, recovered) = open_above(&disk, 8192, &floor).expect("whole");
    assert_eq!((indexes(&recovered, 1), indexes(&recovered, 2)), (vec![91, 92], vec![7]));
    wal.forget(ShardId(2));
    wal.seal().expect("the disk is healthy");
    let (_, recovered) = open_above(&disk, 8192, &BTreeMap::from([(ShardId(1), Index(90))])).expect("whole");
    assert!(!recovered.groups.contains_key(&ShardId(2)));
}

#[test]
fn a_quiet_group_is_carried_forward_and_does_not_pin_the_log() {
    let disk = TestDisk::default();
    let (mut wal, _) = open(&disk, 8192).expect("a new log");
    let mut batch = entries(7, 1, 4, 100);
    batch.records[0].hard_state = Some(state(4, 2, 1));
    commit(&mut wal, &batch);
    let mut next = 1;
    for _ in 0..60 {
        commit(&mut wal, &entries(1, next, next + 5, 200));
        next += 5;
        wal.release(ShardId(1), Index(next - 1));
        wal.recycle().expect("the disk is healthy");
        assert!(wal.stats().segments <= 7, "{:?}", wal.stats());
    }
    assert!(wal.stats().carried > 1, "more than once: {:?}", wal.stats());
    let (_, recovered) =
        open_above(&disk, 8192, &BTreeMap::from([(ShardId(1), Index(next - 1))])).expect("whole");
    let quiet = &recovered.groups[&ShardId(7)];
    assert_eq!(quiet.hard_state, state(4, 2, 1));
    assert_eq!(quiet.entries, (1..4).map(|i| entry(i, 1, &[i as u8; 100])).collect::<Vec<_>>());
}

#[test]
fn a_large_unreleased_tail_is_kept_where_it_is() {
    let disk = TestDisk::default();
    let (mut wal, _) = open(&disk, 8192).expect("a new log");
    commit(&mut wal, &entries(7, 1, 30, 100));
    for at in 0..30 {
        commit(&mut wal, &entries(1, at + 1, at + 2, 2000));
        wal.release(ShardId(1), Index(at + 1));
        wal.recycle().expect("the disk is healthy");
    }
    assert_eq!(wal.stats().carried, 0);
    assert!(wal.stats().segments > 10, "the base is behind: {:?}", wal.stats());
    let (mut wal, recovered) =
        open_above(&disk, 8192, &BTreeMap::from([(ShardId(1), Index(30))])).expect("whole");
    assert_eq!(indexes(&recovered, 7).len(), 29);
    wal.release(ShardId(7), Index(29));
    wal.recycle().expect("the disk is healthy");
    assert_eq!(wal.stats().segments, 1, "a checkpoint frees it");
}
