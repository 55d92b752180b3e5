//! What the log promises, tested over a disk that forgets whatever was not synced.

mod corruption;
mod disk;
mod golden;
mod limits;
mod model;
mod readback;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use z4_types::{Entry, EntryKind, HardState, Index, ShardId, Term};

use crate::{Batch, Config, Error, Record, Recovered, Wal};
use disk::TestDisk;

const DIR: &str = "/data/wal";

fn config(segment_bytes: u64) -> Config {
    Config { segment_bytes, spares: 2, ..Config::new(DIR) }
}

fn open(disk: &TestDisk, segment_bytes: u64) -> Result<(Wal, Recovered), Error> {
    open_above(disk, segment_bytes, &BTreeMap::new())
}

fn open_above(
    disk: &TestDisk,
    segment_bytes: u64,
    floor: &BTreeMap<ShardId, Index>,
) -> Result<(Wal, Recovered), Error> {
    Wal::open(Arc::new(disk.clone()), config(segment_bytes), floor)
}

fn entry(index: u64, term: u64, data: &[u8]) -> Entry {
    Entry {
        index: Index(index),
        term: Term(term),
        kind: EntryKind::Normal,
        data: Bytes::copy_from_slice(data),
    }
}

fn state(term: u64, vote: u64, commit: u64) -> HardState {
    HardState { term: Term(term), vote, commit: Index(commit) }
}

/// A batch of one record of entries `from..to` of `size` bytes each, in term 1.
fn entries(group: u32, from: u64, to: u64, size: usize) -> Batch {
    let entries = (from..to).map(|i| entry(i, 1, &vec![i as u8; size])).collect();
    Batch { records: vec![Record { group: ShardId(group), hard_state: None, truncate: None, entries }] }
}

fn commit(wal: &mut Wal, batch: &Batch) {
    wal.append(batch).expect("the disk is healthy");
    wal.sync().expect("the disk is healthy");
}

/// Returns the indexes recovered of a group.
fn indexes(recovered: &Recovered, group: u32) -> Vec<u64> {
    recovered
        .groups
        .get(&ShardId(group))
        .map_or(Vec::new(), |g| g.entries.iter().map(|e| e.index.0).collect())
}
