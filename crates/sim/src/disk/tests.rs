//! The rules of the simulated disk, one test each, tried over many seeds.
//!
//! A rule that says "may" is shown by finding a seed where it happens and one where it does not; a rule that says
//! "never" must hold for all of them.

use std::collections::BTreeSet;

use super::inode::{BLOCK, SECTOR};
use super::*;

const SEEDS: u64 = 300;

fn dir() -> &'static Path {
    Path::new("d")
}

fn log() -> &'static Path {
    Path::new("d/log")
}

fn new_disk(seed: u64) -> SimDisk {
    let disk = SimDisk::new(seed);
    disk.create_dir_all(dir()).unwrap();
    disk
}

/// Returns a disk with a durable file of `bytes` at `path`.
fn disk_with(seed: u64, path: &Path, bytes: &[u8]) -> (SimDisk, Arc<dyn File>) {
    let disk = new_disk(seed);
    let file = disk.open(path, OpenMode::CreateNew).unwrap();
    file.write_all_at(bytes, 0).unwrap();
    file.sync_data().unwrap();
    disk.sync_dir(dir()).unwrap();
    (disk, file)
}

fn crash(disk: &SimDisk) {
    disk.crash();
    disk.restart();
}

fn read(disk: &SimDisk, path: &Path) -> Vec<u8> {
    let file = disk.open(path, OpenMode::Read).unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

/// Returns what every seed left of `path` after `change` and a crash.
fn outcomes(before: &[u8], change: impl Fn(&SimDisk, &dyn File)) -> BTreeSet<Vec<u8>> {
    let outcome = |seed| {
        let (disk, file) = disk_with(seed, log(), before);
        change(&disk, &*file);
        crash(&disk);
        read(&disk, log())
    };
    (0..SEEDS).map(outcome).collect()
}

#[test]
fn synced_data_survives_every_crash() {
    let bytes: Vec<u8> = (0..20_000u32).map(|n| n as u8).collect();
    assert_eq!(outcomes(&bytes, |_, _| {}), BTreeSet::from([bytes.clone()]));
    let synced = |_: &SimDisk, file: &dyn File| {
        file.write_all_at(b"later", 7_000).unwrap();
        file.set_len(9_000).unwrap();
        file.sync_data().unwrap();
    };
    let mut after = bytes[..9_000].to_vec();
    after[7_000..7_005].copy_from_slice(b"later");
    assert_eq!(outcomes(&bytes, synced), BTreeSet::from([after]));
}

#[test]
fn unsynced_data_may_vanish_and_may_stay() {
    let found = outcomes(&[1; SECTOR], |_, file| file.write_all_at(&[2; SECTOR], 0).unwrap());
    assert!(found.contains(&vec![1; SECTOR]));
    assert!(found.contains(&vec![2; SECTOR]));
}

#[test]
fn a_torn_sector_holds_new_bytes_and_then_old_ones() {
    let found = outcomes(&[1; SECTOR], |_, file| file.write_all_at(&[2; SECTOR], 0).unwrap());
    let torn: Vec<_> = found.iter().filter(|bytes| bytes[0] != bytes[SECTOR - 1]).collect();
    assert!(torn.len() > 10, "many different tears");
    for bytes in torn {
        let new = bytes.iter().take_while(|byte| **byte == 2).count();
        assert!(new >= 1 && bytes[new..].iter().all(|byte| *byte == 1), "a prefix is new");
    }
}

#[test]
fn sectors_of_one_write_fare_independently() {
    let found = outcomes(&[1; 2 * BLOCK], |_, file| file.write_all_at(&[2; 2 * BLOCK], 0).unwrap());
    let later_kept_earlier_lost = |bytes: &&Vec<u8>| bytes[0] == 1 && bytes[BLOCK..].contains(&2);
    assert!(found.iter().any(|bytes| later_kept_earlier_lost(&bytes)));
}

#[test]
fn an_unsynced_length_may_be_lost_and_what_is_kept_of_it_reads_old_zeros_or_new_bytes() {
    let found = outcomes(b"head", |_, file| file.write_all_at(&[2; 3 * SECTOR], 4).unwrap());
    let lens: BTreeSet<_> = found.iter().map(Vec::len).collect();
    assert!(lens.contains(&4) && lens.contains(&(4 + 3 * SECTOR)) && lens.len() > 5, "{lens:?}");
    for bytes in &found {
        assert_eq!(&bytes[..4], b"head");
        assert!(bytes[4..].iter().all(|byte| [0, 2].contains(byte)));
    }
}

#[test]
fn an_unsynced_cut_holds_whole_or_not_at_all() {
    let before = vec![1; 3 * BLOCK];
    let found = outcomes(&before, |_, file| file.set_len(100).unwrap());
    assert_eq!(found, BTreeSet::from([vec![1; 100], before.clone()]));
    let regrown = outcomes(&before, |_, file| {
        file.set_len(100).unwrap();
        file.set_len(2 * BLOCK as u64).unwrap();
    });
    assert!(regrown.contains(&before));
    for bytes in regrown.iter().filter(|bytes| **bytes != before) {
        assert!(bytes[..100].iter().all(|byte| *byte == 1));
        assert!(bytes[100..].iter().all(|byte| *byte == 0), "what a cut removed never comes back");
    }
}

#[test]
fn the_flusher_may_leave_bytes_that_were_neither_synced_nor_last() {
    let found = outcomes(&[1; SECTOR], |disk, file| {
        disk.set_faults(Faults { writeback_ppm: 500_000, ..Faults::default() });
        file.write_all_at(&[2; SECTOR], 0).unwrap();
        file.write_all_at(&[3; SECTOR], 0).unwrap();
    });
    assert!(found.contains(&vec![2; SECTOR]));
}

#[test]
fn a_rename_without_directory_sync_may_be_undone_and_with_it_never() {
    let (from, to) = (Path::new("d/new"), Path::new("d/log"));
    let mut undone = 0;
    for seed in 0..SEEDS {
        for synced in [false, true] {
            let (disk, _file) = disk_with(seed, to, b"old");
            let file = disk.open(from, OpenMode::CreateNew).unwrap();
            file.write_all_at(b"new", 0).unwrap();
            file.sync_data().unwrap();
            disk.rename(from, to).unwrap();
            if synced {
                disk.sync_dir(dir()).unwrap();
            }
            crash(&disk);
            let bytes = read(&disk, to);
            assert!(bytes == b"new" || !synced && bytes == b"old");
            assert!(!(bytes == b"new" && disk.exists(from).unwrap()), "one file, one name");
            undone += u64::from(bytes == b"old");
        }
    }
    assert!((1..SEEDS).contains(&undone));
}

#[test]
fn directory_operations_survive_as_a_prefix() {
    let mut seen = BTreeSet::new();
    for seed in 0..SEEDS {
        let (disk, _file) = disk_with(seed, log(), b"");
        disk.open(Path::new("d/a"), OpenMode::CreateNew).unwrap();
        disk.open(Path::new("d/b"), OpenMode::CreateNew).unwrap();
        disk.remove(log()).unwrap();
        crash(&disk);
        seen.insert(disk.list(dir()).unwrap().join(" "));
    }
    assert_eq!(seen, ["a b", "a b log", "a log", "log"].map(str::to_owned).into());
}

#[test]
fn a_removed_file_comes_back_whole_when_its_removal_was_not_durable() {
    let mut back = 0;
    for seed in 0..SEEDS {
        let (disk, file) = disk_with(seed, log(), &[9; 10_000]);
        disk.remove(log()).unwrap();
        drop(file);
        crash(&disk);
        if disk.exists(log()).unwrap() {
            assert_eq!(read(&disk, log()), [9; 10_000]);
            back += 1;
        }
    }
    assert!((1..SEEDS).contains(&back));
}

#[test]
fn a_crash_kills_handles_frees_locks_and_stops_every_call_until_the_restart() {
    let (disk, file) = disk_with(1, log(), b"x");
    let lock = disk.lock_dir(dir()).unwrap();
    assert_eq!(disk.lock_dir(dir()).err().unwrap().kind(), io::ErrorKind::WouldBlock);
    disk.crash();
    assert!(!disk.is_up());
    assert!(disk.open(log(), OpenMode::Read).is_err());
    disk.restart();
    assert!(file.read_exact_at(&mut [0], 0).is_err() && file.write_all_at(b"y", 0).is_err());
    let again = disk.lock_dir(dir()).unwrap();
    drop(lock); // A lock of the dead process must not free the lock of the living one.
    assert_eq!(disk.lock_dir(dir()).err().unwrap().kind(), io::ErrorKind::WouldBlock);
    drop(again);
    assert!(disk.lock_dir(dir()).is_ok());
}

#[test]
fn a_killed_process_loses_its_handles_but_no_byte() {
    let (disk, file) = disk_with(1, log(), b"old");
    file.write_all_at(b"new!", 0).unwrap();
    disk.kill();
    disk.restart();
    assert!(file.len().is_err());
    assert_eq!(read(&disk, log()), b"new!");
}

#[test]
fn the_nth_call_of_a_kind_fails_with_eio_once() {
    let (disk, file) = disk_with(1, log(), b"abc");
    for (op, call) in [
        (Op::Write, (|file: &dyn File| file.write_all_at(b"x", 0)) as fn(&dyn File) -> io::Result<()>),
        (Op::Read, |file| file.read_exact_at(&mut [0], 0)),
        (Op::Sync, |file| file.sync_data()),
        (Op::SetLen, |file| file.set_len(3)),
    ] {
        disk.fail_nth(op, 3);
        let failed: Vec<bool> = (0..5).map(|_| call(&*file).is_err()).collect();
        assert_eq!(failed, [false, false, true, false, false], "{op:?}");
    }
    let counters = disk.counters();
    assert_eq!(counters.injected(Injected::ReadEio), 1);
    assert_eq!(counters.injected(Injected::WriteEio), 2);
    assert_eq!(counters.injected(Injected::SyncEio), 1);
}

#[test]
fn after_a_failed_sync_readers_see_the_bytes_and_no_later_sync_saves_them() {
    let mut lost = 0;
    for seed in 0..SEEDS {
        let (disk, file) = disk_with(seed, log(), &[1; 4 * SECTOR]);
        disk.set_faults(Faults { writeback_ppm: 0, ..Faults::default() });
        file.write_all_at(&[2; 4 * SECTOR], 0).unwrap();
        disk.fail_nth(Op::Sync, 1);
        assert!(file.sync_data().is_err());
        assert_eq!(read(&disk, log()), [2; 4 * SECTOR]);
        file.sync_data().unwrap();
        crash(&disk);
        let bytes = read(&disk, log());
        lost += bytes.iter().filter(|byte| **byte == 1).count();
        // Written anew they are as good as any.
        let file = disk.open(log(), OpenMode::Write).unwrap();
        file.write_all_at(&[3; 4 * SECTOR], 0).unwrap();
        file.sync_data().unwrap();
        crash(&disk);
        assert_eq!(read(&disk, log()), [3; 4 * SECTOR]);
    }
    let half = SEEDS as usize * 2 * SECTOR;
    assert!((half * 3 / 4..half * 5 / 4).contains(&lost), "{lost} bytes");
}

#[test]
fn a_full_disk_writes_what_fits_refuses_the_rest_and_recovers_when_space_is_freed() {
    let (disk, file) = disk_with(1, log(), &[1; BLOCK]);
    disk.set_capacity(Some(4 * BLOCK as u64));
    assert_eq!(disk.free_bytes(dir()).unwrap(), 3 * BLOCK as u64);
    let error = file.write_all_at(&[2; 5 * BLOCK], BLOCK as u64).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert_eq!(file.len().unwrap(), 4 * BLOCK as u64);
    file.write_all_at(&[3; 4 * BLOCK], 0).unwrap(); // Overwriting takes no space.
    file.set_len(BLOCK as u64).unwrap();
    assert_eq!(disk.free_bytes(dir()).unwrap(), 3 * BLOCK as u64);
    file.write_all_at(&[2; 3 * BLOCK], BLOCK as u64).unwrap();
    assert_eq!(disk.counters().injected(Injected::DiskFull), 1);
    disk.remove(log()).unwrap();
    disk.sync_dir(dir()).unwrap();
    assert_eq!(disk.free_bytes(dir()).unwrap(), 0, "an open file keeps its blocks");
    drop(file);
    assert_eq!(disk.free_bytes(dir()).unwrap(), 4 * BLOCK as u64);
}

#[test]
fn a_crash_at_a_call_fails_that_call_after_part_of_it_and_all_after_it() {
    let mut lens = BTreeSet::new();
    for seed in 0..SEEDS {
        let (disk, file) = disk_with(seed, log(), b"");
        disk.crash_after(2);
        file.write_all_at(b"whole", 0).unwrap();
        assert!(file.write_all_at(&[7; BLOCK], 5).is_err());
        assert!(!disk.is_up() && file.sync_data().is_err());
        disk.restart();
        lens.insert(read(&disk, log()).len());
    }
    assert!(lens.contains(&0) && lens.iter().any(|len| (6..5 + BLOCK).contains(len)));
}

#[test]
fn rot_flips_one_bit_for_every_reader_and_for_ever() {
    let (disk, file) = disk_with(3, log(), &[0; 10_000]);
    disk.rot(log(), 4_321).unwrap();
    let spot = disk.rot_random(|path| path == log()).unwrap();
    assert!(disk.rot_random(|_| false).is_none());
    let ones = |bytes: &[u8]| bytes.iter().map(|byte| byte.count_ones()).sum::<u32>();
    let mut bytes = vec![0; 10_000];
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert!(ones(&bytes) == 2 && bytes[4_321] != 0 && bytes[spot.offset as usize] != 0);
    crash(&disk);
    assert_eq!(read(&disk, log()), bytes);
}

#[test]
fn the_same_seed_does_the_same_damage_and_another_seed_another() {
    let run = |seed| {
        let (disk, file) = disk_with(seed, log(), &[1; 100_000]);
        disk.set_faults(Faults { write_eio_ppm: 100_000, sync_eio_ppm: 100_000, ..Faults::default() });
        for n in 0..200u64 {
            let _ = file.write_all_at(&[n as u8; 1_500], n * 977 % 120_000);
            if n % 17 == 0 {
                let _ = file.sync_data();
            }
        }
        crash(&disk);
        (disk.digest(), disk.counters())
    };
    assert_eq!(run(11), run(11));
    assert_ne!(run(11).0, run(12).0);
}

#[test]
fn a_copy_crashes_alone() {
    let (disk, file) = disk_with(1, log(), &[1; BLOCK]);
    file.write_all_at(&[2; BLOCK], 0).unwrap();
    let digests: BTreeSet<u64> = (0..50)
        .map(|seed| {
            let copy = disk.copy(seed);
            copy.crash();
            copy.digest()
        })
        .collect();
    assert!(digests.len() > 5);
    assert_eq!(read(&disk, log()), [2; BLOCK]);
}

#[test]
fn a_stall_moves_the_clock() {
    use z4_env::Clock;
    let (disk, file) = disk_with(1, log(), b"x");
    let clock = SimClock::new();
    disk.attach_clock(&clock);
    disk.set_faults(Faults { stall_ppm: 1_000_000, stall_ms_max: 1_000, ..Faults::default() });
    (0..10).for_each(|_| file.sync_data().unwrap());
    assert!((1..=10_000_000_000).contains(&clock.monotonic_ns()));
    assert_eq!(disk.counters().injected(Injected::Stall), 10);
}

#[test]
fn wrong_calls_get_the_errors_of_a_real_disk() {
    let (disk, _file) = disk_with(1, log(), b"x");
    let kind = |result: io::Result<()>| result.unwrap_err().kind();
    let open = |path: &str, mode| disk.open(Path::new(path), mode).map(drop);
    assert_eq!(kind(open("d/none", OpenMode::Read)), io::ErrorKind::NotFound);
    assert_eq!(kind(open("none/log", OpenMode::CreateNew)), io::ErrorKind::NotFound);
    assert_eq!(kind(open("d/log", OpenMode::CreateNew)), io::ErrorKind::AlreadyExists);
    assert_eq!(kind(disk.remove(Path::new("d/none"))), io::ErrorKind::NotFound);
    assert_eq!(kind(disk.rename(Path::new("d/none"), log())), io::ErrorKind::NotFound);
    assert_eq!(kind(disk.list(Path::new("none")).map(drop)), io::ErrorKind::NotFound);
    assert_eq!(kind(disk.create_dir_all(Path::new("d/log/x"))), io::ErrorKind::NotADirectory);
    let file = disk.open(log(), OpenMode::Read).unwrap();
    assert_eq!(kind(file.read_exact_at(&mut [0; 2], 0)), io::ErrorKind::UnexpectedEof);
    assert_eq!(kind(file.write_all_at(b"y", 0)), io::ErrorKind::PermissionDenied);
    let file = disk.open(log(), OpenMode::Write).unwrap();
    assert_eq!(kind(file.write_all_at(b"y", u64::MAX - 3)), io::ErrorKind::FileTooLarge);
}

/// A model of what must hold whatever happens: after a crash each sector is one that was written since the last
/// successful sync, or the synced one, or a tear of those; here, over random calls, that reads before the crash
/// always see the last write.
#[test]
fn readers_always_see_the_last_write_over_random_calls() {
    for seed in 0..100 {
        let (disk, file) = disk_with(seed, log(), b"");
        let mut rng = z4_env::SeededRng::new(seed);
        let mut model: Vec<u8> = Vec::new();
        for step in 0..300u32 {
            match rng.below(8) {
                0 => file.sync_data().unwrap(),
                1 => {
                    let len = rng.below(40_000) as usize;
                    file.set_len(len as u64).unwrap();
                    model.resize(len, 0);
                }
                2 => {
                    disk.fail_nth(Op::Sync, 1);
                    assert!(file.sync_data().is_err());
                }
                _ => {
                    let (at, len) = (rng.below(30_000) as usize, 1 + rng.below(9_000) as usize);
                    file.write_all_at(&vec![step as u8; len], at as u64).unwrap();
                    model.resize(model.len().max(at + len), 0);
                    model[at..at + len].fill(step as u8);
                }
            }
        }
        assert_eq!(read(&disk, log()), model, "seed {seed}");
        let used = disk.used_bytes();
        let free = disk.free_bytes(dir()).unwrap();
        assert_eq!(used + free, 1 << 40, "every block is counted once");
    }
}
