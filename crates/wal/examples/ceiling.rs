//! How fast the log can go on a real directory: `cargo run --release -p z4-wal --example ceiling -- DIRECTORY`.
//!
//! Appends and syncs batches of 1, 64 and 1,024 entries of 256 bytes, about a second each, and recycles as a running host
//! does. The directory is made if missing; use an empty one on the disk in question, and remove it afterwards.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use z4_env::{Clock, RealClock, RealDisk};
use z4_types::{Entry, EntryKind, HardState, Index, ShardId, Term};
use z4_wal::{Batch, Config, Record, Wal};

const ENTRY_BYTES: usize = 256;
const NANOS_PER_SIZE: u64 = 1_000_000_000;

fn main() -> Result<(), Box<dyn Error>> {
    let dir = std::env::args_os().nth(1).map(PathBuf::from).ok_or("usage: ceiling DIRECTORY")?;
    let (mut wal, recovered) = Wal::open(Arc::new(RealDisk), Config::new(dir), &BTreeMap::new())?;
    if !recovered.groups.is_empty() {
        return Err("the directory holds a log already: use an empty one".into());
    }
    let maker = wal.spare_maker();
    while maker.make()? {}
    println!(
        "{:>8} {:>10} {:>12} {:>9} {:>16}",
        "entries", "syncs/s", "entries/s", "MB/s", "append us/batch"
    );
    let mut next = 1;
    for size in [1, 64, 1024] {
        next = measure(&mut wal, next, size)?;
        while maker.make()? {}
    }
    wal.seal()?;
    Ok(())
}

/// Appends batches of `size` entries from index `next` on; returns the index behind them.
fn measure(wal: &mut Wal, mut next: u64, size: u64) -> Result<u64, Box<dyn Error>> {
    let clock = RealClock::new();
    let group = ShardId(1);
    let data = Bytes::from(vec![b'x'; ENTRY_BYTES]);
    let before = wal.stats();
    let mut appending = 0;
    while clock.monotonic_ns() < NANOS_PER_SIZE {
        let entry =
            |index| Entry { index: Index(index), term: Term(1), kind: EntryKind::Normal, data: data.clone() };
        let hard_state = Some(HardState { term: Term(1), vote: 1, commit: Index(next - 1) });
        let entries = (next..next + size).map(entry).collect();
        let batch = Batch { records: vec![Record { group, hard_state, truncate: None, entries }] };
        let start = clock.monotonic_ns();
        wal.append(&batch)?;
        appending += clock.monotonic_ns() - start;
        wal.sync()?;
        next += size;
        if wal.stats().segments > 2 {
            wal.release(group, Index(next - 1));
            wal.recycle()?;
        }
    }
    let seconds = clock.monotonic_ns() as f64 / 1e9;
    let syncs = (wal.stats().syncs - before.syncs) as f64;
    let bytes = (wal.stats().written_bytes - before.written_bytes) as f64;
    println!(
        "{size:>8} {:>10.0} {:>12.0} {:>9.1} {:>16.1}",
        syncs / seconds,
        syncs * size as f64 / seconds,
        bytes / 1e6 / seconds,
        appending as f64 / 1e3 / syncs,
    );
    Ok(next)
}
