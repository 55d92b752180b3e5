//! What the base can take: sorted checkpoints of the real row pattern, in one thread, on the disk of DIR.
//!
//! A task is a body (17-byte ascending key, 260 bytes) and a schedule row (30-byte key at a random time of the next
//! month, 6 bytes). Usage: `cargo run --release -p z4-store --example ceiling -- DIR [TASKS] [PER_CHECKPOINT …]`

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use z4_env::{Clock, RealClock, RealDisk, Rng, SeededRng};
use z4_store::{Config, Store};
use z4_types::{Index, ShardId, Term};

const GROUP: ShardId = ShardId(1);
const QUEUES: u64 = 16;
const MONTH_MS: u64 = 30 * 24 * 3_600_000;
const NOW_MS: u64 = 1_700_000_000_000;
const BODY_BYTES: usize = 260;

fn body_key(task: u64) -> [u8; 17] {
    let mut key = [b'B'; 17];
    let id = u128::from(NOW_MS + task / 100) << 80 | u128::from(task);
    key[1..].copy_from_slice(&id.to_be_bytes());
    key
}

fn schedule_key(task: u64, deliver_at: u64) -> [u8; 30] {
    let mut key = [b'S'; 30];
    key[1..5].copy_from_slice(&((task % QUEUES) as u32).to_be_bytes());
    key[5] = 128;
    key[6..14].copy_from_slice(&deliver_at.to_be_bytes());
    key[14..].copy_from_slice(&body_key(task)[1..]);
    key
}

/// Returns a field of /proc/self/status, MiB.
fn status_mib(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kb| kb.parse::<u64>().ok()).unwrap_or(0) / 1024
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let dir = PathBuf::from(arguments.next().ok_or("usage: ceiling DIR [TASKS] [PER_CHECKPOINT …]")?);
    let tasks: u64 = arguments.next().map_or(Ok(5_000_000), |n| n.parse())?;
    let mut sizes: Vec<u64> = arguments.map(|n| n.parse()).collect::<Result<_, _>>()?;
    if sizes.is_empty() {
        sizes = vec![100_000, 200_000, 400_000];
    }
    for per_checkpoint in sizes {
        let dir = dir.join(format!("ceiling-{per_checkpoint}"));
        run(&dir, tasks, per_checkpoint)?;
        std::fs::remove_dir_all(&dir)?;
    }
    Ok(())
}

fn run(dir: &std::path::Path, tasks: u64, per_checkpoint: u64) -> Result<(), Box<dyn std::error::Error>> {
    let clock = RealClock::new();
    let seconds = |since: u64| Duration::from_nanos(clock.monotonic_ns() - since).as_secs_f64();
    let store = Store::open(Arc::new(RealDisk), Config::new(dir))?;
    let mut group = store.group(GROUP)?;
    let mut rng = SeededRng::new(1);
    let value = [7; BODY_BYTES];
    let (mut applying, mut writing, mut last, mut rows) = (0.0, 0.0, 0.0, 0);
    let (mut delta_bytes, mut delta_rss) = (0, 0);
    let mut task = 0;
    while task < tasks {
        let (since, rss) = (clock.monotonic_ns(), status_mib("VmRSS"));
        for _ in 0..per_checkpoint.min(tasks - task) {
            group.insert(&body_key(task), &value);
            group.insert(&schedule_key(task, NOW_MS + rng.below(MONTH_MS)), &[1; 6]);
            task += 1;
        }
        if delta_bytes == 0 {
            (delta_bytes, delta_rss) = (group.bytes(), status_mib("VmRSS").saturating_sub(rss));
        }
        group.set_applied(Index(task), Term(1));
        applying += seconds(since);
        let since = clock.monotonic_ns();
        let frozen = group.freeze().ok_or("there are changes")?;
        let done = store.checkpoint(&[frozen])?;
        group.installed(&done);
        rows += done.rows();
        drop(done);
        last = seconds(since);
        writing += last;
    }
    let size = store.base_bytes()?;
    println!(
        "checkpoints of {per_checkpoint}: {:.0} tasks/s written ({:.0} rows/s; the last one {:.0} tasks/s), {:.2} µs a \
         task to apply, delta {:.0} B a task accounted, {:.0} measured",
        tasks as f64 / writing,
        rows as f64 / writing,
        per_checkpoint as f64 / last,
        applying * 1e6 / tasks as f64,
        delta_bytes as f64 / per_checkpoint as f64,
        delta_rss as f64 * 1048576.0 / per_checkpoint as f64,
    );
    println!(
        "  live {} MiB, peak RSS so far {} MiB, RSS now {} MiB",
        size.live >> 20,
        status_mib("VmHWM"),
        status_mib("VmRSS")
    );
    reads(&group, &clock, tasks, &mut rng)?;
    drop(group);
    let since = clock.monotonic_ns();
    drop(store);
    let closed = seconds(since);
    let since = clock.monotonic_ns();
    let store = Store::open(Arc::new(RealDisk), Config::new(dir))?;
    println!(
        "  close {:.0} ms, file {} MiB after it, open {:.1} ms",
        closed * 1e3,
        store.base_bytes()?.file >> 20,
        seconds(since) * 1e3
    );
    Ok(())
}

fn reads(
    group: &z4_store::GroupStore,
    clock: &RealClock,
    tasks: u64,
    rng: &mut SeededRng,
) -> Result<(), Box<dyn std::error::Error>> {
    let micros = |since: u64, count: u64| (clock.monotonic_ns() - since) as f64 / 1e3 / count as f64;
    let since = clock.monotonic_ns();
    for _ in 0..100_000 {
        let key = body_key(rng.below(tasks));
        group.get(&key)?.ok_or("every body is there")?;
    }
    let get = micros(since, 100_000);
    let neighbours: Vec<_> = (0..1000).map(body_key).collect();
    let keys: Vec<&[u8]> = neighbours.iter().map(|key| &key[..]).collect();
    let (since, mut found) = (clock.monotonic_ns(), 0);
    for _ in 0..100 {
        group.get_many(&keys, &mut |_, _| found += 1)?;
    }
    let many = micros(since, found);
    let (since, mut scanned) = (clock.monotonic_ns(), 0);
    group.scan(b"S", b"T", &mut |_, _| {
        scanned += 1;
        scanned < 1_000_000
    })?;
    let scan = micros(since, scanned);
    let (since, mut head) = (clock.monotonic_ns(), 0);
    for queue in 0..100_000u64 {
        let from = [b"S".as_slice(), &((queue % QUEUES) as u32).to_be_bytes(), &[128]].concat();
        let to = [from.as_slice(), &NOW_MS.to_be_bytes()].concat();
        group.scan(&from, &to, &mut |_, _| {
            head += 1;
            false
        })?;
    }
    let nothing_due = micros(since, 100_000);
    let since = clock.monotonic_ns();
    for task in 0..100_000u64 {
        assert!(group.get(&[b"Z".as_slice(), &task.to_be_bytes()].concat())?.is_none());
    }
    let miss = micros(since, 100_000);
    println!(
        "  random get {get:.2} µs, get_many of neighbours {many:.2} µs a key, schedule scan {:.0} rows/s, scan of a head with \
         nothing due {nothing_due:.2} µs, get of an absent key {miss:.2} µs, RSS {} MiB",
        1e6 / scan,
        status_mib("VmRSS")
    );
    Ok(())
}
