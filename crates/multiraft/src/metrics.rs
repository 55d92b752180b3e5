//! Counters the threads keep for whoever watches; relaxed atomics, never read by the logic.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Buckets of a [`Histogram`]: powers of two of microseconds, from 1 µs to about 36 minutes.
const BUCKETS: usize = 32;

/// A histogram of durations in powers of two of a microsecond.
#[derive(Debug, Default)]
pub struct Histogram {
    counts: [AtomicU64; BUCKETS],
    sum_ns: AtomicU64,
}

impl Histogram {
    /// Counts one duration.
    pub fn record_ns(&self, ns: u64) {
        let micros = ns / 1_000;
        let bucket = (64 - micros.leading_zeros() as usize).min(BUCKETS - 1);
        self.counts[bucket].fetch_add(1, Relaxed);
        self.sum_ns.fetch_add(ns, Relaxed);
    }

    /// Returns, per bucket, its upper bound in seconds and the count in it.
    pub fn buckets(&self) -> impl Iterator<Item = (f64, u64)> + '_ {
        self.counts.iter().enumerate().map(|(at, count)| ((1u64 << at) as f64 / 1e6, count.load(Relaxed)))
    }

    /// Returns the sum of all durations in seconds.
    #[must_use]
    pub fn sum_seconds(&self) -> f64 {
        self.sum_ns.load(Relaxed) as f64 / 1e9
    }
}

/// What the runner's threads count.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Duration of fdatasync of the log.
    pub fsync: Histogram,
    /// Duration of applying what one pass committed.
    pub apply: Histogram,
    /// Duration of checkpoints.
    pub checkpoint: Histogram,
    /// Bytes written to the log.
    pub log_bytes: AtomicU64,
    /// Checkpoints that failed and will be tried again.
    pub checkpoint_failures: AtomicU64,
    /// Nanoseconds in which no entry was packed because the working set was full.
    pub stalled_ns: AtomicU64,
    /// Bytes in the working sets, all groups.
    pub delta_bytes: AtomicU64,
    /// Bytes of the base's file.
    pub base_bytes: AtomicU64,
    /// Of those, bytes that hold rows.
    pub base_live_bytes: AtomicU64,
    /// 1 while the disk is too full to take anything that needs more of it.
    pub disk_low: AtomicU64,
    /// Bytes the log can take without more of the disk.
    pub log_room_bytes: AtomicU64,
    /// Live segments of the log, spares not included.
    pub log_segments: AtomicU64,
    /// How far the wall clock runs ahead of shard time, milliseconds, as a two's complement number.
    pub wall_ahead_ms: AtomicU64,
}
