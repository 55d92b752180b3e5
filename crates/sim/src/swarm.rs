//! What a seed switches on: sizes, features and faults of one run, drawn before anything else happens.
//!
//! Swarm testing: a run that leaves out half of all features reaches states that a run with all of them never does
//! (a queue that only fills, a log that is never sealed). Rates are drawn over orders of magnitude and limits are tiny,
//! so that edges which take hours on a real host come every few events.
//!
//! Sources: Groce et al., "Swarm testing" (ISSTA 2012).

use std::fmt;
use std::path::Path;

use z4_env::{Rng, SeededRng};
use z4_host::Config;
use z4_multiraft::{LogMode, Settings};

/// The expanded configuration of one seed. Printed in full when the seed finds something.
#[derive(Debug, Clone)]
pub struct Swarm {
    /// The seed.
    pub seed: u64,
    /// Events of the fault phase.
    pub events: u32,
    /// Sizes, limits and layout of the host.
    pub host: HostSizes,
    /// What clients do.
    pub work: Work,
    /// What goes wrong.
    pub faults: FaultRates,
}

/// Sizes of the host under test.
#[derive(Debug, Clone)]
pub struct HostSizes {
    /// Task shards.
    pub task_shards: u32,
    /// The log is written by a thread of its own: batches are held while the driver goes on.
    pub log_thread: bool,
    /// Bytes of a log segment.
    pub segment_bytes: u64,
    /// Spare segments.
    pub spares: usize,
    /// Page cache of the base, bytes.
    pub cache_bytes: usize,
    /// Budget of requests, bytes.
    pub inbox_bytes: usize,
    /// Budget of deliveries on their way to consumers, bytes.
    pub outbox_bytes: usize,
    /// Working set that starts a checkpoint, bytes.
    pub checkpoint_bytes: usize,
    /// Age of changes that starts one, milliseconds.
    pub checkpoint_age_ms: u64,
    /// Working set that stalls proposals while a checkpoint runs, bytes.
    pub stall_bytes: usize,
    /// Tick, milliseconds.
    pub tick_ms: u64,
    /// Segments beyond which a checkpoint is wanted.
    pub segments_max: usize,
    /// Free bytes below which only freeing work is admitted.
    pub reserve_bytes: u64,
}

/// What clients do. Chances are per hundred of the tasks or calls they concern; zero is off.
#[derive(Debug, Clone)]
pub struct Work {
    /// Queues in use.
    pub queues: u32,
    /// Most tasks of a create.
    pub batch_max: u64,
    /// Most payload bytes beyond the tag.
    pub payload_max: u64,
    /// Creates with a request id for the batch.
    pub batch_requests: u64,
    /// Creates whose tasks have request ids of their own.
    pub task_requests: u64,
    /// Tasks due later.
    pub delayed: u64,
    /// Longest delay, milliseconds.
    pub delay_max_ms: u64,
    /// Tasks with a priority of their own.
    pub priorities: u64,
    /// Tasks with few attempts.
    pub few_attempts: u64,
    /// Tasks with a TTL.
    pub ttls: u64,
    /// Lease times, milliseconds: from and to.
    pub lease_ms: (u64, u64),
    /// Weights of ack, nack, release, extend, and of saying nothing.
    pub verdicts: [u64; 5],
    /// Settlements sent with a token from long ago.
    pub stale: u64,
    /// Weights of the events, in the order of [`crate::world::Event`].
    pub weights: Vec<(crate::world::Event, u64)>,
    /// After an event the driver runs until it rests with this chance; else inputs pile up.
    pub eager: u64,
    /// Largest step of time, milliseconds, as a power of two.
    pub step_bits: u64,
}

/// What goes wrong.
#[derive(Debug, Clone)]
pub struct FaultRates {
    /// A write or sync stalls, ppm of calls.
    pub stall_ppm: u32,
    /// The flusher at work, ppm of writes.
    pub writeback_ppm: u32,
    /// Chance in hundred that a start is cut by a crash at one of its calls, or meets an EIO.
    pub bad_boots: u64,
    /// Chance in hundred that damage is tried on a copy of the stopped host.
    pub rot: u64,
    /// Chance in hundred that a stop by a fault is followed by a loss of power instead of the process alone ending.
    pub power_after_fault: u64,
}

/// Returns a number spread evenly over the orders of magnitude between `low` and `high`.
pub(crate) fn spread(rng: &mut SeededRng, low: u64, high: u64) -> u64 {
    let (from, to) = (low.max(1).ilog2(), high.max(1).ilog2());
    let bits = u64::from(from) + rng.below(u64::from(to - from) + 1);
    ((1 << bits) + rng.below(1 << bits)).clamp(low, high)
}

/// Returns `value` or nothing, evenly.
pub(crate) fn half(rng: &mut SeededRng, value: u64) -> u64 {
    if rng.chance(1, 2) { value } else { 0 }
}

impl Swarm {
    /// Draws the run of `seed`.
    #[must_use]
    pub fn draw(seed: u64) -> Self {
        let mut rng = SeededRng::new(seed).fork(1);
        let host = HostSizes::draw(&mut rng);
        let work = Work::draw(&mut rng);
        let faults = FaultRates {
            stall_ppm: if rng.chance(1, 4) { 20_000 } else { 0 },
            writeback_ppm: if rng.chance(1, 2) { 50_000 } else { 0 },
            bad_boots: half(&mut rng, 30),
            rot: half(&mut rng, 25),
            power_after_fault: 50,
        };
        let events = u32::try_from(spread(&mut rng, 300, 3_000)).expect("a few thousand");
        Self { seed, events, host, work, faults }
    }

    /// Returns the configuration of the host, which lives below `dir`.
    #[must_use]
    pub fn config(&self, dir: &Path) -> Config {
        let mut config = Config::single("sim1", dir);
        self.host.configure(&mut config);
        config
    }
}

impl HostSizes {
    /// Gives a host these sizes.
    pub(crate) fn configure(&self, config: &mut Config) {
        config.task_shards = self.task_shards;
        config.log_mode = if self.log_thread { LogMode::Thread } else { LogMode::Inline };
        config.sizes.segment_bytes = self.segment_bytes;
        config.sizes.spare_segments = self.spares;
        config.sizes.log_segments_max = self.segments_max as u64;
        config.sizes.cache_bytes = self.cache_bytes;
        config.sizes.inbox_bytes = self.inbox_bytes;
        config.sizes.outbox_bytes = self.outbox_bytes;
        config.sizes.driver = Settings {
            tick_ns: self.tick_ms * 1_000_000,
            checkpoint_bytes: self.checkpoint_bytes,
            checkpoint_age_ns: self.checkpoint_age_ms * 1_000_000,
            stall_bytes: self.stall_bytes,
            reserve_bytes: self.stall_bytes / 4,
        };
    }

    /// Draws sizes so small that edges are common.
    pub(crate) fn draw(rng: &mut SeededRng) -> Self {
        let checkpoint_bytes = spread(rng, 2 << 10, 64 << 10) as usize;
        Self {
            task_shards: 1 + rng.below(4) as u32,
            log_thread: rng.chance(2, 3),
            segment_bytes: spread(rng, 5 << 10, 64 << 10) & !511,
            spares: rng.below(3) as usize,
            cache_bytes: spread(rng, 64 << 10, 1 << 20) as usize,
            inbox_bytes: spread(rng, 4 << 10, 256 << 10) as usize,
            outbox_bytes: spread(rng, 512, 64 << 10) as usize,
            checkpoint_bytes,
            checkpoint_age_ms: spread(rng, 1_000, 3_600_000),
            stall_bytes: checkpoint_bytes + checkpoint_bytes / 2,
            tick_ms: spread(rng, 100, 60_000),
            segments_max: 2 + rng.below(8) as usize,
            reserve_bytes: spread(rng, 32 << 10, 256 << 10),
        }
    }
}

impl Work {
    /// Draws what clients do.
    pub(crate) fn draw(rng: &mut SeededRng) -> Self {
        use crate::world::Event as E;
        let lease_low = spread(rng, 100, 60_000);
        let mut weights = vec![
            (E::Create, 10 + rng.below(30)),
            (E::Retry, half(rng, 8)),
            (E::Open, 4),
            (E::Close, 1 + half(rng, 3)),
            (E::Credit, 5 + rng.below(20)),
            (E::Settle, 10 + rng.below(30)),
            (E::Cancel, half(rng, 4)),
            (E::Get, 3),
            (E::List, half(rng, 3)),
            (E::Pass, 10 + rng.below(20)),
            (E::Time, 2 + rng.below(20)),
            (E::Persist, 20 + rng.below(20)),
            (E::Checkpoint, 1 + rng.below(12)),
            (E::WantCheckpoint, half(rng, 4)),
            (E::Abandon, half(rng, 2)),
            (E::Spare, 2),
            (E::Seal, half(rng, 4)),
        ];
        // At least one way of dying is on: a run without a restart shows little.
        let mut deaths = vec![
            (E::Kill, half(rng, 2)),
            (E::PowerLoss, half(rng, 3)),
            (E::CrashSoon, half(rng, 3)),
            (E::Eio, half(rng, 2)),
            (E::FullDisk, half(rng, 2)),
            (E::Stop, half(rng, 1)),
            (E::WallJump, half(rng, 1)),
        ];
        if deaths[..4].iter().all(|(_, weight)| *weight == 0) {
            deaths[1].1 = 3;
        }
        weights.append(&mut deaths);
        Self {
            queues: 1 + rng.below(5) as u32,
            batch_max: spread(rng, 1, 24),
            payload_max: spread(rng, 1, 2_000),
            batch_requests: half(rng, 50),
            task_requests: half(rng, 40),
            delayed: half(rng, 40),
            delay_max_ms: spread(rng, 1_000, 3 * 86_400_000),
            priorities: half(rng, 50),
            few_attempts: half(rng, 60),
            ttls: half(rng, 20),
            lease_ms: (lease_low, (lease_low * 4).min(600_000)),
            verdicts: [4 + rng.below(20), rng.below(10), half(rng, 5), half(rng, 3), rng.below(8)],
            stale: half(rng, 10),
            weights,
            eager: 20 + rng.below(80),
            step_bits: 6 + rng.below(18),
        }
    }
}

impl fmt::Display for Swarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}: {} events", self.seed, self.events)?;
        writeln!(f, "  {:?}", self.host)?;
        let Work { weights, .. } = &self.work;
        let mut work = self.work.clone();
        work.weights = Vec::new();
        writeln!(f, "  {work:?}")?;
        write!(f, "  events:")?;
        for (event, weight) in weights.iter().filter(|(_, weight)| *weight > 0) {
            write!(f, " {event:?}={weight}")?;
        }
        write!(f, "\n  {:?}", self.faults)
    }
}
