//! `z4-sim`: runs seeds, replays one, counts what a planted bug needs.
//!
//! A seed is one world in one thread, so seeds spread over threads freely; results are put together in the order of the
//! seeds. Seeds that once found a bug (`regressions.txt`) run first, and every fiftieth seed runs twice: the same seed
//! must give the same digest.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use clap::{Parser, Subcommand};
use z4_env::{Clock, RealClock};
use z4_sim::checks::Violation;
use z4_sim::cluster;
use z4_sim::report::{Outcome, Seeded, Tally};

/// Seeds that once found something.
const REGRESSIONS: &str = include_str!("../regressions.txt");
/// Seeds of clusters that once found something.
const CLUSTER_REGRESSIONS: &str = include_str!("../regressions-cluster.txt");
/// One seed in so many runs twice.
const TWICE_EVERY: u64 = 50;
/// Below so many seeds, states that were never reached are no failure.
const REACHED_SEEDS_MIN: u64 = 200;
/// Seeds always run against a planted bug, to tell how easily it is found.
const BUG_SEEDS: u64 = 100;
/// Seeds after which a planted bug counts as not found.
const BUG_SEEDS_MAX: u64 = 2_000;
/// As [`BUG_SEEDS`], of clusters, which take longer.
const CLUSTER_BUG_SEEDS: u64 = 50;
/// As [`BUG_SEEDS_MAX`], of clusters.
const CLUSTER_BUG_SEEDS_MAX: u64 = 3_000;
/// The bug of this build needs a cluster to show.
const IN_CLUSTERS: bool = cfg!(any(
    feature = "bug-vote-forgotten",
    feature = "bug-stale-read",
    feature = "bug-snapshot-keeps-old-rows",
    feature = "bug-snapshot-without-hard-state",
    feature = "bug-snapshot-record-before-rows",
    feature = "bug-commit-old-term",
    feature = "bug-lease-granted-twice"
));
/// Bugs that this build has.
const BUGS: &[&str] = &[
    #[cfg(feature = "bug-ok-before-fsync")]
    "bug-ok-before-fsync",
    #[cfg(feature = "bug-applied-not-in-checkpoint")]
    "bug-applied-not-in-checkpoint",
    #[cfg(feature = "bug-torn-tail-accepted")]
    "bug-torn-tail-accepted",
    #[cfg(feature = "bug-recycle-early")]
    "bug-recycle-early",
    #[cfg(feature = "bug-dedup-lost-at-restart")]
    "bug-dedup-lost-at-restart",
    #[cfg(feature = "bug-group-limits-forgotten")]
    "bug-group-limits-forgotten",
    #[cfg(feature = "bug-serial-group-overlaps")]
    "bug-serial-group-overlaps",
    #[cfg(feature = "bug-fire-takes-any-slot")]
    "bug-fire-takes-any-slot",
    #[cfg(feature = "bug-blocked-task-runs")]
    "bug-blocked-task-runs",
    #[cfg(feature = "bug-vote-forgotten")]
    "bug-vote-forgotten",
    #[cfg(feature = "bug-stale-read")]
    "bug-stale-read",
    #[cfg(feature = "bug-snapshot-keeps-old-rows")]
    "bug-snapshot-keeps-old-rows",
    #[cfg(feature = "bug-snapshot-without-hard-state")]
    "bug-snapshot-without-hard-state",
    #[cfg(feature = "bug-snapshot-record-before-rows")]
    "bug-snapshot-record-before-rows",
    #[cfg(feature = "bug-commit-old-term")]
    "bug-commit-old-term",
    #[cfg(feature = "bug-lease-granted-twice")]
    "bug-lease-granted-twice",
];

/// Simulates hosts under faults, one seed after the other.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Run many seeds and print what they did; fail if a promise was broken.
    Run {
        /// How many.
        #[arg(long, default_value_t = 200)]
        seeds: u64,
        /// The first one.
        #[arg(long, default_value_t = 1)]
        start: u64,
        /// Threads.
        #[arg(long, default_value_t = 2)]
        jobs: usize,
        /// Print the summary only.
        #[arg(long)]
        quiet: bool,
    },
    /// Run one seed twice and compare.
    Replay {
        /// The seed.
        seed: u64,
        /// Print every event and answer.
        #[arg(long)]
        trace: bool,
    },
    /// Run many clusters, or one, and print what they did; fail if a promise was broken.
    Cluster {
        /// How many.
        #[arg(long, default_value_t = 100)]
        seeds: u64,
        /// The first one.
        #[arg(long, default_value_t = 1)]
        start: u64,
        /// Run this one only, twice, and compare.
        #[arg(long)]
        seed: Option<u64>,
        /// With `--seed`: print every event and answer.
        #[arg(long)]
        trace: bool,
        /// Threads.
        #[arg(long, default_value_t = 2)]
        jobs: usize,
    },
    /// Run seeds until the planted bug of this build is found.
    Bugs {
        /// Threads.
        #[arg(long, default_value_t = 2)]
        jobs: usize,
    },
}

thread_local! {
    /// What the last panic of this thread said.
    static PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|info| PANIC.set(info.to_string())));
    let ok = match Arguments::parse().chore {
        Chore::Run { seeds, start, jobs, quiet } => run::<Outcome>(REGRESSIONS, seeds, start, jobs, quiet),
        Chore::Replay { seed, trace } => replay::<Outcome>(seed, trace),
        Chore::Cluster { seed: Some(seed), trace, .. } => replay::<cluster::Outcome>(seed, trace),
        Chore::Cluster { seeds, start, jobs, .. } => {
            run::<cluster::Outcome>(CLUSTER_REGRESSIONS, seeds, start, jobs, false)
        }
        Chore::Bugs { jobs } => bugs(jobs),
    };
    if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs one seed; a panic is a violation too.
fn run_seed<S: Seeded>(seed: u64, trace: bool) -> S {
    catch_unwind(AssertUnwindSafe(|| S::run(seed, trace)))
        .unwrap_or_else(|_| S::failed(seed, Violation::new("PANIC", PANIC.take())))
}

/// Runs `seeds` on `jobs` threads until `enough` says so; returns the outcomes by position, and the repeats.
fn run_all<S: Seeded>(
    seeds: &[u64],
    jobs: usize,
    twice: bool,
    enough: impl Fn(&S) -> bool + Sync,
) -> BTreeMap<usize, (u64, S, Option<S>)> {
    let (next, done) = (AtomicUsize::new(0), AtomicBool::new(false));
    let outcomes = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(&seed) = seeds.get(at) else { break };
                    let outcome = run_seed::<S>(seed, false);
                    let again = (twice && seed % TWICE_EVERY == 0).then(|| run_seed(seed, false));
                    if enough(&outcome) {
                        done.store(true, Ordering::Relaxed);
                    }
                    outcomes
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .insert(at, (seed, outcome, again));
                }
            });
        }
    });
    outcomes.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn run<S: Seeded>(old: &str, seeds: u64, start: u64, jobs: usize, quiet: bool) -> bool {
    let clock = RealClock::new();
    let old = old.lines().filter_map(|line| line.split_whitespace().next()?.parse().ok());
    let all: Vec<u64> = old.chain(start..start + seeds).collect();
    let mut totals = S::Totals::default();
    for (seed, outcome, again) in run_all::<S>(&all, jobs, true, |_| false).into_values() {
        totals.add(&outcome);
        if let Some(again) = again {
            totals.twice(seed, again.digest() != outcome.digest());
        }
    }
    for (seed, violation) in totals.violations().iter().take(if quiet { 0 } else { 5 }) {
        print_violation::<S>(*seed, violation);
    }
    println!("{}", totals.table(clock.monotonic_ns() as f64 / 1e9));
    let mut ok = true;
    for (seed, violation) in totals.violations() {
        ok = false;
        println!("FAILED seed {seed}: {violation}");
    }
    for seed in totals.differed() {
        ok = false;
        println!("FAILED seed {seed}: its second run differed");
    }
    let missing = totals.missing();
    if !missing.is_empty() && totals.seeds() >= REACHED_SEEDS_MIN {
        ok = false;
        println!("FAILED: never reached: {}", missing.join(", "));
    }
    ok
}

fn replay<S: Seeded>(seed: u64, trace: bool) -> bool {
    println!("{}", S::describe(seed));
    let first = run_seed::<S>(seed, trace);
    let second = run_seed::<S>(seed, false);
    if let Some(violation) = first.violation() {
        print_violation::<S>(seed, violation);
    }
    let mut totals = S::Totals::default();
    totals.add(&first);
    println!("{}", totals.table(0.0));
    println!("digests {:016x} {:016x}", first.digest(), second.digest());
    first.violation().is_none() && first.digest() == second.digest()
}

fn bugs(jobs: usize) -> bool {
    if BUGS.is_empty() {
        println!("this build has no planted bug; build it with --features bug-…");
        return false;
    }
    let names = BUGS.join(", ");
    if IN_CLUSTERS {
        bugs_of::<cluster::Outcome>(&names, CLUSTER_BUG_SEEDS, CLUSTER_BUG_SEEDS_MAX, jobs)
    } else {
        bugs_of::<Outcome>(&names, BUG_SEEDS, BUG_SEEDS_MAX, jobs)
    }
}

fn bugs_of<S: Seeded>(names: &str, few: u64, most: u64, jobs: usize) -> bool {
    let sample: Vec<u64> = (1..=few).collect();
    let mut found = found_by(run_all::<S>(&sample, jobs, false, |_| false));
    let share = found.len();
    if found.is_empty() {
        let rest: Vec<u64> = (few + 1..=most).collect();
        found = found_by(run_all::<S>(&rest, jobs, false, |outcome| outcome.violation().is_some()));
    }
    match found.first() {
        Some((seed, violation)) => {
            println!(
                "{names}: found after {seed} seeds, by {share} of the first {few}; first as {violation}"
            );
        }
        None => println!("{names}: NOT found in {most} seeds"),
    }
    !found.is_empty()
}

/// Returns the seeds that found something, in order.
fn found_by<S: Seeded>(outcomes: BTreeMap<usize, (u64, S, Option<S>)>) -> Vec<(u64, Violation)> {
    outcomes
        .into_values()
        .filter_map(|(seed, outcome, _)| Some((seed, outcome.violation()?.clone())))
        .collect()
}

fn print_violation<S: Seeded>(seed: u64, violation: &Violation) {
    let commit = Command::new("git").args(["rev-parse", "--short", "HEAD"]).output();
    let commit =
        commit.map_or_else(|_| String::new(), |out| String::from_utf8_lossy(&out.stdout).trim().to_owned());
    println!("violation of {violation}");
    println!("{}", S::describe(seed));
    println!(
        "  commit {commit}; again: cargo run --profile sim -p z4-sim --bin z4-sim -- {}\n",
        S::again(seed)
    );
}
