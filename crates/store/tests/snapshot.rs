//! A snapshot arrives as it left, whatever happens on the way.
#![cfg(not(any(feature = "bug-applied-not-in-checkpoint", feature = "bug-snapshot-keeps-old-rows")))]

mod support;

use support::MemDisk;
use support::replica::{GROUP, Group, LONG, Map, chunks, content, filled, leader, open, stage_all, state};
use z4_env::{Disk, Rng, SeededRng};
use z4_store::{ChunkHead, Error, SnapshotReader, Staged, Staging, Store};
use z4_types::{Index, Kind, Term};

/// Carries a stream over a bad line into a receiver that is started again now and then.
struct Line<'r> {
    rng: &'r mut SeededRng,
    disk: &'r MemDisk,
    stream: u64,
    lost: u64,
    lives: u64,
}

impl Line<'_> {
    fn restart(&mut self, crash: bool) -> (Store, Staging) {
        if crash {
            self.disk.crash(self.rng);
        }
        self.lives += 1;
        let store = open(self.disk);
        let staging = store.stage(GROUP, self.stream).unwrap();
        (store, staging)
    }

    fn offer(&mut self, staging: &mut Staging, chunk: &[u8]) {
        let wanted = staging.next_number();
        let number = ChunkHead::peek(chunk).unwrap().number;
        match self.rng.below(10) {
            0 => self.lost += 1,
            1 => {
                let mut bad = chunk.to_vec();
                bad[self.rng.below(chunk.len() as u64) as usize] ^= 1 << self.rng.below(8);
                assert_eq!(staging.append(&bad).unwrap_err().kind(), Kind::Invalid);
                assert_eq!(staging.next_number(), wanted);
            }
            2 => {
                let cut = &chunk[..self.rng.below(chunk.len() as u64) as usize];
                assert_eq!(staging.append(cut).unwrap_err().kind(), Kind::Invalid);
            }
            twice => {
                for _ in 0..if twice == 3 { 2 } else { 1 } {
                    let wanted = staging.next_number();
                    let result = staging.append(chunk);
                    assert_eq!(result.is_ok(), number <= wanted, "{result:?}");
                    assert_eq!(staging.next_number(), wanted + u32::from(number == wanted));
                }
            }
        }
    }
}

fn journey(seed: u64) -> (u64, u64) {
    let mut rng = SeededRng::new(seed);
    let leader = open(&MemDisk::default());
    let mut group = Group::new(&leader, GROUP);
    for _ in 0..rng.below(4) {
        let count = rng.below(80);
        group.change(&mut rng, count);
        if rng.chance(1, 2) {
            group.checkpoint(&leader);
        }
    }
    let (meta, model) = (group.store.meta().clone(), group.model.clone());
    let mut reader = SnapshotReader::new(group.store.view().unwrap());
    let (disk, mut expected) = filled(seed, LONG);
    let stream = reader.stream();
    let mut line = Line { rng: &mut rng, disk: &disk, stream, lost: 0, lives: 0 };
    let (mut store, mut staging) = line.restart(false);
    while !staging.is_complete() {
        let Some(chunk) = reader.next_chunk().unwrap() else {
            reader.seek(staging.next_number()).unwrap();
            continue;
        };
        line.offer(&mut staging, &chunk);
        match line.rng.below(12) {
            0 => reader.seek(staging.next_number()).unwrap(),
            1 => {
                let any = line.rng.below(u64::from(staging.next_number()) + 1);
                reader.seek(any as u32).unwrap();
            }
            2 => {
                // The receiver ends, in order or not, and asks again for what it has not kept.
                drop((store, staging));
                let crash = line.rng.chance(1, 2);
                (store, staging) = line.restart(crash);
                reader.seek(staging.next_number()).unwrap();
            }
            // The leader goes on meanwhile.
            3..8 => {
                let count = line.rng.below(30);
                group.change(line.rng, count);
            }
            8 => group.checkpoint(&leader),
            _ => {}
        }
    }
    let seen = (line.lost, line.lives);
    let mut follower = store.group(GROUP).unwrap();
    follower.put(b"only in memory", b"1");
    let staged = staging.finish().unwrap();
    assert_eq!((staged.rows(), staged.meta()), (model.len() as u64, &meta));
    assert_eq!(store.install(&staged).unwrap(), meta);
    follower.reset_to_base().unwrap();
    assert_eq!((follower.meta(), follower.digest()), (&meta, meta.digest));
    assert!(content(&follower) == model, "seed {seed}");
    assert_eq!(store.discard_staging().unwrap(), 0, "the staging file is gone");
    expected.insert(GROUP, (meta, model.clone()));
    disk.crash(&mut rng);
    drop((follower, staged));
    let store = open(&disk);
    assert!(state(&store) == expected, "seed {seed}");
    let live: usize = expected.values().flat_map(|(_, rows)| rows).map(|(k, v)| 4 + k.len() + v.len()).sum();
    assert_eq!(store.base_bytes().unwrap().live, live as u64, "the sizes are those of the new rows");
    // Life goes on over the new rows.
    let mut follower = Group::new(&store, GROUP);
    follower.change(&mut rng, 50);
    follower.checkpoint(&store);
    assert!(content(&follower.store) == follower.model, "seed {seed}");
    seen
}

#[test]
fn a_snapshot_arrives_over_a_bad_line_and_many_restarts_as_it_was_when_it_was_taken() {
    let (mut lost, mut lives) = (0, 0);
    for seed in 0..60 {
        let seen = journey(seed);
        (lost, lives) = (lost + seen.0, lives + seen.1);
    }
    assert!(lost > 20 && lives > 90, "the line was bad: {lost} lost, {lives} lives");
}

#[test]
fn equal_rows_make_equal_chunks_however_they_lie_and_seeking_finds_them_again() {
    let (_leader, mut group) = leader(1, LONG);
    let mut reader = SnapshotReader::new(group.store.view().unwrap());
    let whole = chunks(&mut reader);
    assert!(whole.len() > 4 && whole.iter().all(|chunk| chunk.len() < 300 << 10));
    // Another host that got the rows by this very snapshot, all in the base.
    let store = open(&MemDisk::default());
    reader.seek(0).unwrap();
    store.install(&stage_all(&store, &mut reader)).unwrap();
    let mut other = SnapshotReader::new(store.group(GROUP).unwrap().view().unwrap());
    assert_eq!(other.stream(), reader.stream());
    let last = whole.len() as u32 - 1;
    // Forward without having read, then back.
    for number in [last, 1, last - 1, 2] {
        other.seek(number).unwrap();
        assert_eq!(other.next_number(), number);
        assert!(other.next_chunk().unwrap().as_ref() == Some(&whole[number as usize]));
    }
    other.seek(last + 1).unwrap();
    assert_eq!(other.next_chunk().unwrap(), None);
    other.seek(1).unwrap();
    assert_eq!(other.seek(last + 2).unwrap_err().kind(), Kind::Invalid);
    assert_eq!(other.next_number(), 1, "a failed seek does not move");
    assert!(chunks(&mut other) == whole[1..]);
}

#[test]
fn an_empty_group_travels_as_one_chunk() {
    let leader = open(&MemDisk::default());
    let mut group = leader.group(GROUP).unwrap();
    group.set_applied(Index(7), Term(2));
    let mut reader = SnapshotReader::new(group.view().unwrap());
    let (disk, _) = filled(3, LONG);
    let store = open(&disk);
    let staged = stage_all(&store, &mut reader);
    assert_eq!((reader.next_number(), staged.rows()), (1, 0));
    store.install(&staged).unwrap();
    assert_eq!(state(&store)[&GROUP], (group.meta().clone(), Map::new()));
}

#[test]
fn chunks_of_another_stream_and_gaps_are_refused_and_a_new_stream_replaces_the_old_file() {
    let (_leader, mut group) = leader(2, LONG);
    let older = chunks(&mut SnapshotReader::new(group.store.view().unwrap()));
    group.change(&mut SeededRng::new(5), 5);
    let mut reader = SnapshotReader::new(group.store.view().unwrap());
    let newer = chunks(&mut reader);
    let disk = MemDisk::default();
    let store = open(&disk);
    let mut staging = store.stage(GROUP, ChunkHead::peek(&older[0]).unwrap().stream).unwrap();
    staging.append(&older[0]).unwrap();
    for bad in [&older[2], &newer[0], &newer[1]] {
        let error = staging.append(bad).unwrap_err();
        assert!(matches!(error, Error::ChunkRefused { chunk: 1, .. }), "{error}");
    }
    assert_eq!(staging.finish().unwrap_err().kind(), Kind::Invalid, "chunks are missing");
    let mut staging = store.stage(GROUP, reader.stream()).unwrap();
    assert_eq!((staging.next_number(), staging.progress()), (0, (0, None)));
    staging.append(&newer[0]).unwrap();
    assert_eq!(staging.progress(), (newer[0].len() as u64, Some(reader.bytes_about())));
    assert_eq!(disk.list("/data/snapshots".as_ref()).unwrap().len(), 1);
    staging.discard().unwrap();
    assert_eq!(disk.list("/data/snapshots".as_ref()).unwrap().len(), 0);
}

#[test]
fn streams_cross_threads() {
    fn send<T: Send>() {}
    send::<SnapshotReader>();
    send::<Staging>();
    send::<Staged>();
}
