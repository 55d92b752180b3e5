//! `z4 bench`: what this machine can do, and how much of it z4 uses.
//!
//! The ceilings come first, in the same run: fdatasync of log-sized writes, and gRPC streams with nothing behind them.
//! Then the benchmarks, each against a fresh server process of its own (or a running host), several times; what is
//! printed are medians over the runs. fsync before OK is not a setting: it is always on.
//!
//! The load generator shares the machine with the server, so it is kept lean: frames are encoded once ([`wire`]),
//! answers are read in place. That makes it faster than a client library; it does not make the server faster.
//!
//! # Caveats
//! - Absolute figures of a shared machine move by a fifth from minute to minute: compare ratios of one run.

mod ceilings;
mod cgroup;
mod echo;
mod hardware;
mod large;
mod link;
mod neighbour;
mod overload;
mod paced;
mod report;
mod schedule;
mod sustained;
mod sync;
mod target;
mod throughput;
mod wire;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::ValueEnum;
use tokio::signal::unix::{SignalKind, signal};

use crate::say::say;
use hardware::Hardware;
use report::{Document, Sample, figures};
use target::{Source, Target};

/// Version of the JSON document.
const FORMAT: u32 = 1;
/// Exit code after SIGINT or SIGTERM, as shells count them.
const INTERRUPTED: u8 = 130;

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum What {
    /// Everything below; takes about twenty minutes and several GB of disk
    All,
    /// fdatasync and gRPC with nothing behind it; always measured first
    Ceilings,
    /// Batches over push streams, tasks/s
    Push,
    /// Consume and ack the backlog that push left, tasks/s
    Consume,
    /// Push, deliver and ack at the same time, backlog bounded, cycles/s
    Cycle,
    /// Push to delivery at a fixed rate, open loop, latency
    E2e,
    /// Tasks due over the next seconds: lateness, none early
    Delayed,
    /// One task a call, many callers and one
    Sync,
    /// Cycle without and with a hundred groups and all limits, side by side
    Groups,
    /// Waits of a hundred small groups, alone and beside one with a million due tasks
    Neighbour,
    /// Ten million tasks: stats, explain, pause; pushes beside their purge
    Large,
    /// Millions of tasks due next month; then kill -9, restart, get and cancel by id
    Sustained,
    /// Producers that ignore back-pressure for a minute
    Overload,
}

impl What {
    /// What is measured when nothing is named: all that ends within minutes.
    const STANDARD: [Self; 6] =
        [Self::Push, Self::Consume, Self::Cycle, Self::E2e, Self::Delayed, Self::Sync];

    /// Returns whether it is run once, whatever `--runs` says: it takes long, and its figures are of a whole.
    fn is_long(self) -> bool {
        matches!(self, Self::Large | Self::Sustained | Self::Overload)
    }
}

/// How figures are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    Table,
    /// One JSON document.
    Json,
}

/// Options of `bench`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  z4 bench                                   the standard set on a child server, about four minutes
  z4 bench push consume --runs 5             these two, median of five
  z4 bench cycle --data /mnt/nvme            on another disk
  z4 bench e2e --rate 5000 -o json           a JSON document on stdout, progress on stderr
  z4 bench push -t db1:6355                  against a running host, in queues of its own
  z4 bench sustained --tasks 1000000         a million instead of five
  z4 bench groups neighbour                  what groups cost, and what they are good for
  z4 bench overload --memory 512M            the child in a memory limit (needs root)

Exit code: 0 measured, 1 a promise was broken (a task early, missing or miscounted) or a run failed, 130 interrupted.")]
pub(crate) struct Arguments {
    /// What to measure; several may be named. Without a name: push consume cycle e2e delayed sync. Example: z4 bench e2e
    #[arg(value_enum, value_name = "WHAT")]
    what: Vec<What>,
    /// Measure a running host instead of a child server. What sync, neighbour, large, sustained and overload create stays behind in queues z4-bench/…. Example: -t localhost:6355
    #[arg(short = 't', long, value_name = "HOST:PORT")]
    target: Option<String>,
    /// Hosts of the child cluster, all on this machine. Example: --hosts 3
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=7), conflicts_with = "target")]
    hosts: u64,
    /// Where the child server's temporary folder is made; the disk of this folder is measured. Example: --data /mnt/nvme
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// How to print the figures. Example: -o json
    #[arg(short = 'o', long, value_enum, default_value = "table")]
    output: Output,
    /// Runs of each benchmark, of which the median counts; sustained and overload run once. Example: --runs 1
    #[arg(long, value_name = "COUNT", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=100))]
    runs: u64,
    /// Length of cycle (10), e2e (10), sync (5), overload (60), and the time delayed tasks are spread over (20). Example: --seconds 30
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..=3_600))]
    seconds: Option<u64>,
    /// Tasks of push and consume (1,000,000), delayed (100,000), sustained (5,000,000), neighbour (1,000,000), large (10,000,000). Example: --tasks 200000
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1_000..=1_000_000_000))]
    tasks: Option<u64>,
    /// Tasks a second of e2e. Example: --rate 10000
    #[arg(long, value_name = "COUNT", default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    rate: u64,
    /// Bytes of a payload. Example: --payload 1000
    #[arg(long, value_name = "BYTES", default_value_t = 200, value_parser = clap::value_parser!(u64).range(16..=1_000_000))]
    payload: u64,
    /// Tasks of a push frame. Example: --batch 100
    #[arg(long, value_name = "COUNT", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=8_192))]
    batch: u32,
    /// Producers, each with its connection. Example: --producers 1
    #[arg(long, value_name = "COUNT", default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    producers: u64,
    /// Consumers, each with its connection. Example: --consumers 16
    #[arg(long, value_name = "COUNT", default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    consumers: u64,
    /// Unanswered frames of a producer. Example: --window 2
    #[arg(long, value_name = "COUNT", default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    window: u64,
    /// Tasks a consumer holds at most. Example: --credit 1000
    #[arg(long, value_name = "COUNT", default_value_t = 4_000, value_parser = clap::value_parser!(u32).range(4..=10_000))]
    credit: u32,
    /// Callers of sync. Example: --callers 256
    #[arg(long, value_name = "COUNT", default_value_t = 32, value_parser = clap::value_parser!(u64).range(2..=10_000))]
    callers: u64,
    /// Tasks that may be between push and ack in cycle. Example: --outstanding 5000
    #[arg(long, value_name = "COUNT", default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    outstanding: u32,
    /// Memory limit of the child server, by a control group (Linux, root). Example: --memory 512M
    #[arg(long, value_name = "SIZE", value_parser = cgroup::parse_size, conflicts_with = "target")]
    memory: Option<u64>,
}

/// What all benchmarks share.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    seconds: Option<u64>,
    tasks: Option<u64>,
    rate: u64,
    payload: usize,
    batch: u32,
    producers: usize,
    consumers: usize,
    window: usize,
    credit: u32,
    callers: usize,
    outstanding: u32,
}

impl Plan {
    fn new(arguments: &Arguments) -> Self {
        let count = |value: u64| usize::try_from(value).expect("bounded by the options");
        Self {
            seconds: arguments.seconds,
            tasks: arguments.tasks,
            rate: arguments.rate,
            payload: count(arguments.payload),
            batch: arguments.batch,
            producers: count(arguments.producers),
            consumers: count(arguments.consumers),
            window: count(arguments.window),
            credit: arguments.credit,
            callers: count(arguments.callers),
            outstanding: arguments.outstanding,
        }
    }
}

/// Runs the benchmarks and prints their figures on stdout, progress on stderr.
///
/// # Errors
/// No folder, no server, no ceilings. What goes wrong in a benchmark is printed with the figures and exit code 1.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    // Two threads drive any load; more would take cores from the server.
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(2);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
    let measured = runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        // Whichever arm ends, the other is dropped, and with it the server and then its folder.
        tokio::select! {
            document = measure(arguments) => document.map(Some),
            _ = interrupt.recv() => Ok(None),
            _ = terminate.recv() => Ok(None),
        }
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
    let Some(document) = measured? else {
        eprintln!("interrupted: the server is stopped and its folder removed");
        return Ok(ExitCode::from(INTERRUPTED));
    };
    match arguments.output {
        Output::Table => say!("{}", document.table().trim_end_matches('\n')),
        Output::Json => say!("{}", serde_json::to_string_pretty(&document)?),
    }
    Ok(if document.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn measure(arguments: &Arguments) -> Result<Document> {
    let plan = Plan::new(arguments);
    let dir = arguments.data.clone().unwrap_or_else(std::env::temp_dir);
    let source = match &arguments.target {
        Some(address) => Source::Running(address.clone()),
        None => Source::Child(dir.clone(), usize::try_from(arguments.hosts)?),
    };
    let hardware = Hardware::read(&dir);
    let mut warnings = Vec::new();
    if hardware.is_memory_only() {
        let text =
            "the data is on a file system in memory, where fdatasync costs nothing; name a disk with --data";
        warnings.push(text.to_owned());
    }
    if cfg!(debug_assertions) {
        warnings.push("this is a debug build; build with --release".to_owned());
    }
    if hardware.load_1min > hardware.cores as f64 / 2.0 {
        warnings.push(format!("the machine was busy before the bench: load {}", hardware.load_1min));
    }
    let wanted = wanted(&arguments.what);
    if let Source::Running(_) = source {
        // Before anything is measured: a wrong address should not cost the user half a minute.
        Target::open(&source, None).await?;
    }
    eprintln!("ceilings …");
    let ceilings = figures(&ceilings::run(&plan, &dir).await.context("ceilings")?, &[]);
    let (mut samples, mut failures) = (Vec::new(), Vec::new());
    for what in &wanted {
        let runs = if what.is_long() { 1 } else { arguments.runs };
        for run in 1..=runs {
            match one(*what, &plan, &source, arguments.memory).await {
                Ok(found) => {
                    found.iter().for_each(|s| {
                        eprintln!("{}, run {run} of {runs}: {:.0} {}", s.name, s.value, s.unit)
                    });
                    failures.extend(found.iter().filter_map(broken_promise));
                    samples.extend(found);
                }
                Err(error) => {
                    eprintln!("{what:?}, run {run} of {runs}: {error:#}");
                    failures.push(format!("{what:?}, run {run}: {error:#}"));
                }
            }
        }
    }
    Ok(Document {
        format: FORMAT,
        program: concat!("z4 bench ", env!("CARGO_PKG_VERSION")),
        hardware,
        settings: settings(arguments),
        results: figures(&samples, &ceilings),
        ceilings,
        warnings,
        failures,
    })
}

/// Returns the benchmarks to run, each once. `push` and `consume` are one: the backlog of the first is the load of
/// the second.
fn wanted(named: &[What]) -> Vec<What> {
    let long = [What::Groups, What::Neighbour, What::Large, What::Sustained, What::Overload];
    let all = [&What::STANDARD[..], &long].concat();
    let mut wanted = match named {
        [] => What::STANDARD.to_vec(),
        named if named.contains(&What::All) => all,
        named => named.to_vec(),
    };
    wanted.sort_unstable();
    wanted.dedup();
    if wanted.contains(&What::Push) {
        wanted.retain(|what| *what != What::Consume);
    }
    wanted.retain(|what| *what != What::Ceilings);
    wanted
}

async fn one(what: What, plan: &Plan, source: &Source, memory: Option<u64>) -> Result<Vec<Sample>> {
    let mut target = Target::open(source, memory).await?;
    match what {
        What::All | What::Ceilings => Ok(Vec::new()),
        What::Push | What::Consume => throughput::push_and_consume(plan, &target).await,
        What::Cycle => throughput::cycle(plan, &target).await,
        What::E2e => paced::e2e(plan, &target).await,
        What::Delayed => paced::delayed(plan, &target).await,
        What::Sync => sync::run(plan, &target).await,
        What::Groups => throughput::groups(plan, &target).await,
        What::Neighbour => neighbour::run(plan, &target).await,
        What::Large => large::run(plan, &mut target).await,
        What::Sustained => sustained::run(plan, &mut target).await,
        What::Overload => overload::run(plan, &mut target).await,
    }
}

/// Returns what a sample says about a promise that does not hold.
fn broken_promise(sample: &Sample) -> Option<String> {
    let count = |name: &str| sample.details.get(name).copied().filter(|count| *count > 0.0);
    if let Some(early) = count("early") {
        return Some(format!("{early} tasks were delivered before their time"));
    }
    if let Some(frames) = count("without_retry_info_frames") {
        return Some(format!("{frames} frames were refused without a delay"));
    }
    count("other_refusals_frames").map(|frames| format!("{frames} refusals were not RESOURCE_EXHAUSTED"))
}

fn settings(arguments: &Arguments) -> BTreeMap<&'static str, serde_json::Value> {
    let target = arguments.target.clone().unwrap_or_else(|| match arguments.hosts {
        1 => "child server".to_owned(),
        hosts => format!("{hosts} child servers"),
    });
    let mut settings = BTreeMap::from([
        ("target", target.into()),
        ("fsync_before_ok", "always".into()),
        ("payload_bytes", arguments.payload.into()),
        ("batch_tasks", arguments.batch.into()),
        ("producers", arguments.producers.into()),
        ("consumers", arguments.consumers.into()),
        ("window_frames", arguments.window.into()),
        ("credit_tasks", arguments.credit.into()),
        ("outstanding_tasks", arguments.outstanding.into()),
        ("callers", arguments.callers.into()),
        ("rate_per_s", arguments.rate.into()),
        ("runs", arguments.runs.into()),
    ]);
    let optional =
        [("seconds", arguments.seconds), ("tasks", arguments.tasks), ("memory_bytes", arguments.memory)];
    settings.extend(optional.into_iter().filter_map(|(name, value)| Some((name, value?.into()))));
    settings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_named_is_measured_once_and_push_brings_consume() {
        assert_eq!(wanted(&[What::Sync, What::Consume, What::Push, What::Sync]), [What::Push, What::Sync]);
        assert_eq!(wanted(&[What::Consume]), [What::Consume]);
        assert_eq!(wanted(&[What::Ceilings]), []);
        assert!(!wanted(&[]).contains(&What::Overload));
        assert!(wanted(&[What::All]).contains(&What::Overload));
    }

    #[test]
    fn early_tasks_and_refusals_without_delay_break_a_promise() {
        let sample = |name, count| Sample::new("x", 1.0, "/s").detail(name, count);
        assert_eq!(broken_promise(&sample("early", 0.0)), None);
        assert!(broken_promise(&sample("early", 2.0)).is_some());
        assert!(broken_promise(&sample("without_retry_info_frames", 1.0)).is_some());
        assert!(broken_promise(&sample("other_refusals_frames", 1.0)).is_some());
        assert_eq!(broken_promise(&sample("resource_exhausted_frames", 9.0)), None);
    }
}
