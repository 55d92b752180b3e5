//! Damage to what was synced is never mistaken for a torn write; a torn write is never mistaken for damage.

use std::path::{Path, PathBuf};

use z4_env::{Disk, SeededRng};
use z4_types::Kind;

use super::*;

fn segment(sequence: u64) -> PathBuf {
    Path::new(DIR).join(format!("{sequence:016x}.wal"))
}

/// Returns the file a refusal to open names, and checks the rest of it.
fn refusal(disk: &TestDisk, segment_bytes: u64) -> Option<(PathBuf, u64)> {
    match open(disk, segment_bytes) {
        Ok(_) => None,
        Err(error) => {
            assert_eq!(error.kind(), Kind::Corrupt, "{error}");
            assert!(error.to_string().contains("restore its data directory"), "it says what to do: {error}");
            let Error::Corrupt { file, offset, .. } = error else { panic!("{error}") };
            Some((file, offset))
        }
    }
}

#[test]
fn any_flipped_byte_before_the_last_batch_is_damage_and_names_the_file() {
    let disk = TestDisk::default();
    let (mut wal, _) = open(&disk, 8192).expect("a new log");
    // Three segments: two that are full, and one with two batches.
    for at in 0..12 {
        let mut batch = entries(1, at * 3 + 1, at * 3 + 4, 200);
        batch.records[0].hard_state = Some(state(1, 1, at));
        batch.records.extend(entries(2, at + 1, at + 2, 40).records);
        commit(&mut wal, &batch);
    }
    let before_last = wal.active.end;
    let last_of = |sequence: u64| {
        let bytes = disk.bytes(&segment(sequence));
        bytes.iter().rposition(|b| *b != 0).expect("a header at least") + 1
    };
    assert_eq!(wal.active.sequence, 3);
    commit(&mut wal, &entries(1, 37, 38, 10));
    for (sequence, end) in [(1, last_of(1)), (2, last_of(2)), (3, before_last as usize)] {
        for offset in 0..end {
            let copy = disk.copied();
            copy.flip(&segment(sequence), offset, 1 << (offset % 8));
            let (file, at) = refusal(&copy, 8192).unwrap_or_else(|| panic!("{sequence}: {offset} accepted"));
            assert_eq!(file, segment(sequence));
            assert!(at <= offset as u64, "the first bad place is not behind the flip");
        }
    }
}

#[test]
fn a_sealed_log_notices_damage_to_its_last_batch() {
    let disk = TestDisk::default();
    let (mut wal, _) = open(&disk, 8192).expect("a new log");
    commit(&mut wal, &entries(1, 1, 2, 100));
    let unsealed = disk.copied();
    unsealed.flip(&segment(1), 4096 + 60, 1);
    let (_, recovered) = open(&unsealed, 8192).expect("it looks like a torn write");
    assert_eq!(recovered, Recovered::default());

    wal.seal().expect("the disk is healthy");
    let syncs = disk.syncs();
    wal.seal().expect("a sealed log stays as it is");
    assert_eq!(disk.syncs(), syncs, "a second seal would prove nothing new");
    disk.flip(&segment(1), 4096 + 60, 1);
    assert_eq!(refusal(&disk, 8192), Some((segment(1), 4096)));
}

#[test]
fn a_missing_segment_is_damage() {
    let disk = TestDisk::default();
    let (mut wal, _) = open(&disk, 8192).expect("a new log");
    for at in 0..4 {
        commit(&mut wal, &entries(1, at + 1, at + 2, 3000));
    }
    assert_eq!(wal.active.sequence, 4);
    let copy = disk.copied();
    copy.remove(&segment(2)).expect("in memory");
    assert_eq!(refusal(&copy, 8192), Some((segment(2), 0)));
    let copy = disk.copied();
    copy.remove(&segment(1)).expect("in memory");
    let (file, _) = refusal(&copy, 8192).expect("entry 2 does not follow an empty base");
    assert_eq!(file, segment(2));
}

#[test]
fn a_segment_named_but_never_used_is_no_damage() {
    let disk = TestDisk::default();
    let (mut wal, _) = open(&disk, 8192).expect("a new log");
    commit(&mut wal, &entries(1, 1, 4, 100));
    disk.put(&segment(2), &[0; 8192]);
    let (mut wal, recovered) = open(&disk, 8192).expect("nothing is lost");
    assert_eq!(indexes(&recovered, 1), [1, 2, 3]);
    commit(&mut wal, &entries(1, 4, 5, 100));
    let (_, recovered) = open(&disk, 8192).expect("the log went on");
    assert_eq!(indexes(&recovered, 1), [1, 2, 3, 4]);
}

#[test]
fn a_newer_format_is_refused_as_such() {
    let disk = TestDisk::default();
    drop(open(&disk, 8192).expect("a new log"));
    let mut bytes = disk.bytes(&segment(1));
    bytes[8] = 2;
    let crc = crc32c::crc32c(&bytes[..4092]);
    bytes[4092..4096].copy_from_slice(&crc.to_le_bytes());
    disk.put(&segment(1), &bytes);
    let error = open(&disk, 8192).map(|_| ()).expect_err("version 2 is from the future");
    assert_eq!(error.kind(), Kind::Unsupported, "{error}");
}

#[test]
fn stale_bytes_of_a_recycled_file_never_count() {
    let disk = TestDisk::default();
    let (mut wal, _) = open(&disk, 8192).expect("a new log");
    let maker = wal.spare_maker();
    while maker.make().expect("the disk is healthy") {}
    let mut rng = SeededRng::new(1);
    let mut next = 1;
    for _ in 0..200 {
        commit(&mut wal, &entries(1, next, next + 4, 300));
        next += 4;
        wal.release(ShardId(1), Index(next - 1));
        wal.recycle().expect("the disk is healthy");
        let floor = BTreeMap::from([(ShardId(1), Index(next - 1))]);
        let (again, recovered) =
            open_above(&disk.crashed(&mut rng), 8192, &floor).expect("only stale bytes follow");
        assert_eq!(indexes(&recovered, 1), Vec::<u64>::new());
        assert_eq!(again.reader().last_index(ShardId(1)), Some(Index(next - 1)));
    }
    assert!(wal.stats().recycled > 60, "files were reused: {:?}", wal.stats());
    assert!(wal.stats().segments <= 2);
}

#[test]
fn what_is_left_of_a_torn_batch_never_counts_later() {
    // A batch of many records; one of the first is destroyed, the others stay valid.
    let disk = TestDisk::default();
    let (mut wal, _) = open(&disk, 1 << 16).expect("a new log");
    let maker = wal.spare_maker();
    maker.make().expect("the disk is healthy");
    commit(&mut wal, &entries(1, 1, 2, 10));
    let torn_at = wal.active.end as usize;
    let mut batch = Batch::default();
    for group in 2..12 {
        batch.records.extend(entries(group, 1, 2, 100).records);
    }
    wal.append(&batch).expect("the disk is healthy");
    disk.flip(&segment(wal.active.sequence), torn_at + 40, 1);
    let (mut wal, recovered) = open(&disk, 1 << 16).expect("torn");
    assert_eq!(recovered.groups.len(), 1);
    // The same batch number again, and of the same length as the destroyed record: the old second one follows it.
    commit(&mut wal, &entries(2, 1, 2, 100));
    let (_, recovered) = open(&disk, 1 << 16).expect("clean");
    assert_eq!(recovered.groups.keys().map(|g| g.0).collect::<Vec<_>>(), [1, 2]);
}
