//! What happened to clusters: states reached, faults that fired, totals over many seeds, and the table that shows them.
//!
//! # Invariants
//! - [`REACHED`] names every state a batch of seeds must reach; one that stays at zero fails the batch.

use std::fmt::Write as _;

use crate::checks::Violation;
use crate::disk::Counters;
use crate::lively::draw::Manners;
use crate::net::NetCounters;
use crate::report::{Reached, Seeded, Tally};

/// States that a batch of seeds must reach, each at least once.
pub const REACHED: &[&str] = &[
    "election",
    "leader died",
    "leader cut off",
    "leader stood still",
    "leadership handed over",
    "partition",
    "one-way partition",
    "bridge partition",
    "slow disk",
    "clock runs wrong",
    "wall clock jumped",
    "snapshot installed",
    "log cut below a follower",
    "members changed",
    "joint membership",
    "replica created",
    "replica buried",
    "host joined",
    "disk lost",
    "host with a lost disk replaced",
    "host removed",
    "removed host restarted",
    "removed host emptied",
    "removed host added again",
    "removed directories refused",
    "removed hosts talked on",
    "host that asks to join refused",
    "answer to a host that joins lost",
    "joining went wrong",
    "frame refused",
    "wish of a removed host's controller refused",
    "stopped",
    "stopped, all handed over",
    "restart",
    "a start went wrong",
    "power loss of all hosts",
    "crash at a disk call",
    "crash with a batch under way",
    "crash during a checkpoint",
    "crash during a snapshot",
    "EIO ended a host",
    "full disk held a batch",
    "full disk failed a checkpoint",
    "clients cut off from a host",
    "answer lost on its way to a client",
    "a call was given up",
    "answer after it was given up",
    "told by a host that it does not lead",
    "outcome unknown after a change of leader",
    "unknown create retried",
    "repeat answered as before",
    "read served",
    "lease expired",
    "redelivered",
    "stale settlement refused",
    "unknown ack found done",
    "task dead",
    "task expired",
    "task cancelled",
    "delayed task delivered",
    "converged",
    "drained",
];

/// What one seed did.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// Hash of everything clients saw and of the disks at the end.
    pub digest: u64,
    /// The first broken promise.
    pub violation: Option<Violation>,
    /// States.
    pub reached: Reached,
    /// Calls and faults of all disks.
    pub disk: Counters,
    /// What became of frames.
    pub net: NetCounters,
    /// Simulated milliseconds.
    pub simulated_ms: u64,
    /// Hosts.
    pub hosts: u64,
    /// Calls of clients.
    pub calls: u64,
    /// Answers and deliveries that were judged.
    pub facts: u64,
    /// Tasks created for sure.
    pub tasks: u64,
    /// Entries applied first anywhere, and applied again by another replica or life.
    pub entries: (u64, u64),
    /// Starts of hosts.
    pub boots: u64,
    /// How long the healed cluster needed to agree, milliseconds.
    pub converged_ms: u64,
}

impl Seeded for Outcome {
    type Totals = Totals;

    fn run(seed: u64, trace: bool) -> Self {
        super::run(seed, trace)
    }

    fn describe(seed: u64) -> String {
        format!("{}\n  {:?}", super::Swarm::draw(seed), Manners::of(seed))
    }

    fn again(seed: u64) -> String {
        format!("cluster --seed {seed} --trace")
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
    sum: Outcome,
    seeds: u64,
    slowest: (u64, u64),
    violations: Vec<(u64, Violation)>,
    twice: u64,
    differed: Vec<u64>,
}

impl Tally<Outcome> for Totals {
    fn add(&mut self, outcome: &Outcome) {
        self.seeds += 1;
        let sum = &mut self.sum;
        sum.simulated_ms += outcome.simulated_ms;
        sum.hosts += outcome.hosts;
        sum.calls += outcome.calls;
        sum.facts += outcome.facts;
        sum.tasks += outcome.tasks;
        sum.entries.0 += outcome.entries.0;
        sum.entries.1 += outcome.entries.1;
        sum.boots += outcome.boots;
        sum.disk.add(&outcome.disk);
        sum.net.add(&outcome.net);
        sum.reached.add(&outcome.reached);
        sum.digest = sum.digest.wrapping_add(outcome.digest);
        self.slowest = self.slowest.max((outcome.converged_ms, outcome.seed));
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
        all.filter(|state| self.sum.reached.count(state) == 0).collect()
    }

    fn seeds(&self) -> u64 {
        self.seeds
    }

    fn table(&self, seconds: f64) -> String {
        let Outcome { simulated_ms, hosts, calls, facts, tasks, entries, boots, net, digest, .. } = &self.sum;
        let mut out = String::new();
        let mut line = |text: String| {
            out.push_str(&text);
            out.push('\n');
        };
        line(format!(
            "clusters {}  hosts {hosts}  in {seconds:.1} s ({:.0} ms each)  simulated {:.1} h  digest of all {digest:016x}",
            self.seeds,
            seconds * 1e3 / self.seeds.max(1) as f64,
            *simulated_ms as f64 / 3_600_000.0
        ));
        line(format!(
            "calls {calls}  facts judged {facts}  tasks {tasks}  entries {} ({} applied again)  starts {boots}",
            entries.0, entries.1
        ));
        line(format!(
            "frames: sent {}  delivered {}  lost {}  doubled {}  cut {}  full {}",
            net.sent, net.delivered, net.lost, net.duplicated, net.cut, net.full
        ));
        let mut row = String::new();
        for (name, count) in self.sum.disk.iter() {
            let _ = write!(row, "  {name} {count}");
        }
        line(format!("disks:{row}"));
        line(format!("slowest to agree: {} ms (seed {})", self.slowest.0, self.slowest.1));
        line("reached:".into());
        for pair in REACHED.chunks(2).chain(crate::lively::REACHED.chunks(2)) {
            let cells: Vec<String> = pair
                .iter()
                .map(|state| format!("  {state:<44}{:>9}", self.sum.reached.count(state)))
                .collect();
            line(cells.concat());
        }
        line(format!("run twice {}  differed {}", self.twice, self.differed.len()));
        line(format!("violations {}", self.violations.len()));
        out
    }
}
