//! What happened: states reached, faults that fired, totals over many seeds, and the table that shows them.
//!
//! # Invariants
//! - Counting changes no decision of a run.
//! - [`REACHED`] names every state a batch of seeds must reach; one that stays at zero means that a part of the system
//!   was never tested, so it fails the batch.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::checks::Violation;
use crate::disk::Counters;
use crate::lively::draw::Manners;

/// States that a batch of seeds must reach, each at least once.
pub const REACHED: &[&str] = &[
    "restart",
    "kill while running",
    "power loss while running",
    "crash with an unsynced batch",
    "crash between sync and reply",
    "crash at a disk call",
    "crash while forming",
    "crash while starting",
    "crash during a checkpoint",
    "torn tail cut",
    "segment recycled, then crash",
    "clean stop",
    "replayed entries",
    "EIO ended the host",
    "EIO refused a start",
    "full disk refused a create",
    "full disk held a batch",
    "full disk failed a checkpoint",
    "ack while the disk is full",
    "budget refused a create",
    "checkpoint abandoned",
    "stalled by a full working set",
    "damage refused",
    "damage without effect",
    "wall clock jumped",
    "unknown create retried",
    "repeat answered as before",
    "repeat answered as before, after a restart",
    "lease expired",
    "task dead",
    "task expired",
    "task cancelled",
    "redelivered",
    "stale settlement refused",
    "unknown ack found done",
    "delayed task delivered",
    "drained",
];

/// How often each state was reached.
#[derive(Debug, Clone, Default)]
pub struct Reached(BTreeMap<&'static str, u64>);

impl Reached {
    /// Counts `state`, which must be one of [`REACHED`], or of that of [`crate::cluster`] or [`crate::lively`].
    pub fn reach(&mut self, state: &'static str) {
        let lists = [REACHED, crate::cluster::REACHED, crate::lively::REACHED];
        let listed = lists.iter().any(|list| list.contains(&state));
        debug_assert!(listed, "{state} is not listed");
        *self.0.entry(state).or_default() += 1;
    }

    /// Returns how often `state` was reached.
    #[must_use]
    pub fn count(&self, state: &str) -> u64 {
        self.0.get(state).copied().unwrap_or(0)
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (state, count) in &other.0 {
            *self.0.entry(state).or_default() += count;
        }
    }
}

/// What one seed did.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// Hash of everything clients saw and of the disk at the end.
    pub digest: u64,
    /// The first broken promise.
    pub violation: Option<Violation>,
    /// States.
    pub reached: Reached,
    /// Calls and faults of the disk.
    pub disk: Counters,
    /// Simulated milliseconds.
    pub simulated_ms: u64,
    /// Calls of clients.
    pub calls: u64,
    /// Tasks created for sure.
    pub tasks: u64,
    /// Entries applied, and applied again.
    pub entries: (u64, u64),
    /// Starts of the host.
    pub boots: u64,
}

/// What a seed of one world did: of one host, or of a cluster.
pub trait Seeded: Default + Send {
    /// Sums over seeds.
    type Totals: Tally<Self>;
    /// Runs a seed. `trace` prints what happens.
    fn run(seed: u64, trace: bool) -> Self;
    /// Returns what a seed switches on.
    fn describe(seed: u64) -> String;
    /// Returns the arguments that run it again.
    fn again(seed: u64) -> String;
    /// Returns what a seed did that ended otherwise.
    fn failed(seed: u64, violation: Violation) -> Self;
    /// Returns the hash of everything that happened.
    fn digest(&self) -> u64;
    /// Returns the first broken promise.
    fn violation(&self) -> Option<&Violation>;
}

/// Sums over seeds of one world.
pub trait Tally<S>: Default {
    /// Adds what one seed did.
    fn add(&mut self, outcome: &S);
    /// Adds that a seed was run twice; `differed` if it did not do the same again.
    fn twice(&mut self, seed: u64, differed: bool);
    /// Returns the states that were never reached.
    fn missing(&self) -> Vec<&'static str>;
    /// Returns the seeds added.
    fn seeds(&self) -> u64;
    /// Returns broken promises with their seeds.
    fn violations(&self) -> &[(u64, Violation)];
    /// Returns seeds whose second run differed.
    fn differed(&self) -> &[u64];
    /// Returns the summary as text. `seconds` is how long it took.
    fn table(&self, seconds: f64) -> String;
}

impl Seeded for Outcome {
    type Totals = Totals;

    fn run(seed: u64, trace: bool) -> Self {
        crate::world::run(seed, trace)
    }

    fn describe(seed: u64) -> String {
        format!("{}\n  {:?}", crate::swarm::Swarm::draw(seed), Manners::of(seed))
    }

    fn again(seed: u64) -> String {
        format!("replay {seed} --trace")
    }

    fn failed(seed: u64, violation: Violation) -> Self {
        Self { seed, violation: Some(violation), ..Self::default() }
    }

    fn digest(&self) -> u64 {
        self.digest
    }

    fn violation(&self) -> Option<&Violation> {
        self.violation.as_ref()
    }
}

/// Sums over seeds.
#[derive(Debug, Default)]
pub struct Totals {
    seeds: u64,
    simulated_ms: u64,
    calls: u64,
    tasks: u64,
    entries: (u64, u64),
    boots: u64,
    disk: Counters,
    reached: Reached,
    violations: Vec<(u64, Violation)>,
    twice: u64,
    differed: Vec<u64>,
    digest: u64,
}

impl Tally<Outcome> for Totals {
    fn add(&mut self, outcome: &Outcome) {
        self.seeds += 1;
        self.simulated_ms += outcome.simulated_ms;
        self.calls += outcome.calls;
        self.tasks += outcome.tasks;
        self.entries.0 += outcome.entries.0;
        self.entries.1 += outcome.entries.1;
        self.boots += outcome.boots;
        self.disk.add(&outcome.disk);
        self.reached.add(&outcome.reached);
        // The sum does not depend on which thread ran what.
        self.digest = self.digest.wrapping_add(outcome.digest);
        if let Some(violation) = &outcome.violation {
            self.violations.push((outcome.seed, violation.clone()));
        }
    }

    fn twice(&mut self, seed: u64, differed: bool) {
        self.twice += 1;
        self.differed.extend(differed.then_some(seed));
    }

    fn violations(&self) -> &[(u64, Violation)] {
        &self.violations
    }

    fn differed(&self) -> &[u64] {
        &self.differed
    }

    fn missing(&self) -> Vec<&'static str> {
        let all = REACHED.iter().chain(crate::lively::REACHED).copied();
        all.filter(|state| self.reached.count(state) == 0).collect()
    }

    fn seeds(&self) -> u64 {
        self.seeds
    }

    fn table(&self, seconds: f64) -> String {
        let mut out = String::new();
        let hours = self.simulated_ms as f64 / 3_600_000.0;
        let mut line = |text: String| {
            out.push_str(&text);
            out.push('\n');
        };
        line(format!(
            "seeds {}  in {seconds:.1} s ({:.1} ms each)  simulated {hours:.1} h  digest of all {:016x}",
            self.seeds,
            seconds * 1e3 / self.seeds.max(1) as f64,
            self.digest
        ));
        line(format!(
            "calls {}  tasks {}  entries {} ({} applied again)  starts {}",
            self.calls, self.tasks, self.entries.0, self.entries.1, self.boots
        ));
        let mut row = String::new();
        for (name, count) in self.disk.iter() {
            let _ = write!(row, "  {name} {count}");
        }
        line(format!("disk:{row}"));
        line("reached:".into());
        for pair in REACHED.chunks(2).chain(crate::lively::REACHED.chunks(2)) {
            let cells: Vec<String> =
                pair.iter().map(|state| format!("  {state:<44}{:>9}", self.reached.count(state))).collect();
            line(cells.concat());
        }
        line(format!("run twice {}  differed {}", self.twice, self.differed.len()));
        line(format!("violations {}", self.violations.len()));
        out
    }
}
