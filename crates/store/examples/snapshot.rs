//! What a snapshot costs: reading a view in chunks, staging them, installing them over a group that has rows.
//!
//! The rows are those of tasks: a body (17-byte ascending key, 260 bytes) and a schedule row (30-byte key at a random
//! time of the next month, 6 bytes). Usage: `cargo run --release -p z4-store --example snapshot -- [ROWS [DIR]]`

use std::path::{Path, PathBuf};
use std::sync::Arc;

use z4_env::{Clock, RealClock, RealDisk, Rng, SeededRng};
use z4_store::{Config, GroupStore, SnapshotReader, Store};
use z4_types::{Index, ShardId, Term};

const GROUP: ShardId = ShardId(1);
const MONTH_MS: u64 = 30 * 24 * 3_600_000;
const NOW_MS: u64 = 1_700_000_000_000;
/// Tasks applied before a checkpoint.
const PER_CHECKPOINT: u64 = 200_000;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Outcome<()> {
    let mut arguments = std::env::args().skip(1);
    let tasks: u64 = arguments.next().map_or(Ok(1_000_000), |rows| rows.parse())? / 2;
    let dir = arguments.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = dir.join(format!("z4-snapshot-{}", std::process::id()));
    let outcome = run(&dir, tasks);
    std::fs::remove_dir_all(&dir)?;
    outcome
}

fn run(dir: &Path, tasks: u64) -> Outcome<()> {
    let clock = RealClock::new();
    let leader = Store::open(Arc::new(RealDisk), Config::new(dir.join("leader")))?;
    let mut group = leader.group(GROUP)?;
    // The last tenth stays in memory, as on a leader that serves.
    fill(&leader, &mut group, 0..tasks - tasks / 10)?;
    apply(&mut group, tasks - tasks / 10..tasks);
    let follower = Store::open(Arc::new(RealDisk), Config::new(dir.join("follower")))?;
    let mut old = follower.group(GROUP)?;
    // It missed the newest half and has as many others.
    fill(&follower, &mut old, tasks / 2..tasks + tasks / 2)?;
    // Forgets the peak of the preparations, where the system lets us.
    std::fs::write("/proc/self/clear_refs", "5")?;
    let before = status_mib("VmRSS");

    let mut reader = SnapshotReader::new(group.view()?);
    let mut staging = follower.stage(GROUP, reader.stream())?;
    let (mut reading, mut keeping, mut bytes, mut chunks) = (0, 0, 0, 0);
    loop {
        let since = clock.monotonic_ns();
        let chunk = reader.next_chunk()?;
        reading += clock.monotonic_ns() - since;
        let Some(chunk) = chunk else { break };
        let since = clock.monotonic_ns();
        staging.append(&chunk)?;
        keeping += clock.monotonic_ns() - since;
        (bytes, chunks) = (bytes + chunk.len(), chunks + 1);
    }
    let since = clock.monotonic_ns();
    let staged = staging.finish()?;
    keeping += clock.monotonic_ns() - since;
    let since = clock.monotonic_ns();
    follower.install(&staged)?;
    old.reset_to_base()?;
    let installing = clock.monotonic_ns() - since;
    assert_eq!((old.meta(), staged.rows()), (group.meta(), 2 * tasks));

    println!(
        "{} rows in {chunks} chunks, {} MiB (estimated {} MiB)",
        staged.rows(),
        bytes >> 20,
        reader.bytes_about() >> 20
    );
    for (what, spent) in [("read", reading), ("stage", keeping), ("install", installing)] {
        let seconds = spent as f64 / 1e9;
        println!(
            "  {what:<8} {seconds:7.2} s, {:10.0} rows/s, {:6.0} MiB/s",
            staged.rows() as f64 / seconds,
            bytes as f64 / seconds / f64::from(1 << 20)
        );
    }
    println!("  RSS {before} MiB before, at most {} MiB on the way", status_mib("VmHWM"));
    let (had, has) = (leader.base_bytes()?, follower.base_bytes()?);
    println!("  base of the leader {} MiB, of the follower {} MiB", had.file >> 20, has.file >> 20);
    Ok(())
}

fn fill(store: &Store, group: &mut GroupStore, tasks: std::ops::Range<u64>) -> Outcome<()> {
    let mut from = tasks.start;
    while from < tasks.end {
        let to = tasks.end.min(from + PER_CHECKPOINT);
        apply(group, from..to);
        let frozen = group.freeze().ok_or("there are changes")?;
        group.installed(&store.checkpoint(&[frozen])?);
        from = to;
    }
    Ok(())
}

fn apply(group: &mut GroupStore, tasks: std::ops::Range<u64>) {
    let mut rng = SeededRng::new(tasks.start);
    for task in tasks {
        let id = (u128::from(NOW_MS + task / 100) << 80 | u128::from(task)).to_be_bytes();
        let due = (NOW_MS + rng.below(MONTH_MS)).to_be_bytes();
        group.insert(&[b"B", &id[..]].concat(), &[7; 260]);
        group.insert(&[b"S\0\0\0\x01\x80", &due[..], &id].concat(), &[1; 6]);
        group.set_applied(Index(task + 1), Term(1));
    }
}

/// Returns a field of /proc/self/status, MiB.
fn status_mib(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kb| kb.parse::<u64>().ok()).unwrap_or(0) / 1024
}
