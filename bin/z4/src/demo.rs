//! `z4 demo`: watch z4 lose nothing. Real servers on a temporary folder, real gRPC, kill -9 half-way, and a count.
//!
//! ```text
//!   start three hosts ─ push and consume ─ kill -9 the leader ─ the others go on ─ start it again ─ count
//! ```
//!
//! The host that is killed is the one that leads the demo's queue: everything under way is cut off. Half of the tasks
//! are due at once, the others spread over the next seconds. The pushing is paced, so that the kill
//! hits pushes, leases and acks alike while they are under way. What was pushed without an answer is pushed again
//! under the same request id, what was acked without an answer is acked again; the leases that were out go on with
//! the next leader and come back when they expire. Every push, delivery and ack is entered in a [`ledger`], which alone
//! decides how the run ended. With one host (`--hosts 1`) there is nobody to go on: the outage is its restart.
//!
//! # Not here
//! - kill -9 keeps the page cache, so this shows recovery and the order of answers, not fdatasync: the simulator and
//!   `z4 bench` look at that.
//! # Caveats
//! - The pushing is paced: the rates shown are what this load asked for, not what the servers could do. `z4 bench`
//!   measures that.

mod ledger;
mod load;
mod screen;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use z4_client::{Client, Kind};

use crate::cluster::Cluster;
use crate::say::say;
use ledger::Report;
use load::{Load, Shared};
use screen::{Phase, Screen};

/// Longest wait for a server to serve.
const SERVE_MAX: Duration = Duration::from_secs(30);
/// Lease of the consumers: short, so that tasks in flight at the kill come back soon.
const LEASE: Duration = Duration::from_secs(5);
/// How long after the last lease of the dead server could have ended we still listen for what must not come.
const LISTEN: Duration = Duration::from_millis(500);
/// A run ends after this and a second for so many tasks, whatever happens.
const LIMIT: Duration = Duration::from_secs(60);
const TASKS_PER_SECOND_MIN: u64 = 2_000;
/// How long a killed host of several stays down, so that the others are seen to go on without it.
const DOWN: Duration = Duration::from_secs(2);
/// Longest wait for the others to go on.
const FAILOVER_MAX: Duration = Duration::from_secs(15);
/// Ids of lost tasks that are printed; the count is printed in full.
const IDS_SHOWN: usize = 20;
/// How often the screen is redrawn and the state looked at.
const TICK: Duration = Duration::from_millis(50);
/// Exit code after SIGINT or SIGTERM, as shells count them.
const INTERRUPTED: u8 = 130;

/// Options of `demo`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  z4 demo                       three hosts, 100,000 tasks, about a quarter of a minute
  z4 demo --hosts 1             one host, which is killed and started again
  z4 demo --tasks 1000000       ten times as many
  z4 demo --kills 20            twenty leaders killed, one after the other
  z4 demo --data /mnt/disk      on another disk than the temporary folder's
  NO_COLOR=1 z4 demo | cat      plain lines, at most one a second

Exit code: 0 nothing lost, 1 a task is missing or came back after its ack (its id is printed), 130 interrupted.")]
pub(crate) struct Arguments {
    /// Tasks to push: half due at once, half over the next seconds. Example: --tasks 20000
    #[arg(long, value_name = "COUNT", default_value_t = 100_000,
          value_parser = clap::value_parser!(u64).range(100..=10_000_000))]
    tasks: u64,
    /// Hosts of the cluster: 1, or an odd number. Example: --hosts 5
    #[arg(long, value_name = "COUNT", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=7))]
    hosts: u64,
    /// How often the leader goes, one time after the other has come back. Example: --kills 20
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    kills: u32,
    /// Stop leaders with SIGTERM, which hands leadership over, instead of kill -9.
    #[arg(long)]
    gracefully: bool,
    /// Where to make the temporary folder; it is removed at the end. Example: --data /mnt/disk
    #[arg(long, value_name = "DIR")]
    data: Option<std::path::PathBuf>,
}

/// Runs the demo and prints its summary.
///
/// # Errors
/// The server does not start or serve; what was lost is no error but exit code 1.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let ended = runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        // Whichever arm ends, the other is dropped, and with it the server and then its folder.
        tokio::select! {
            report = play(arguments) => report.map(Some),
            _ = interrupt.recv() => Ok(None),
            _ = terminate.recv() => Ok(None),
        }
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
    match ended? {
        Some(true) => Ok(ExitCode::SUCCESS),
        Some(false) => Ok(ExitCode::FAILURE),
        None => {
            say!("\ninterrupted: the server is stopped and its folder removed");
            Ok(ExitCode::from(INTERRUPTED))
        }
    }
}

/// Returns whether nothing was lost.
async fn play(arguments: &Arguments) -> Result<bool> {
    let mut screen = Screen::new();
    let mut prefix = tempfile::Builder::new();
    prefix.prefix("z4-demo-");
    // Declared before the server, so dropped after it.
    let folder = match &arguments.data {
        Some(dir) => {
            prefix.tempdir_in(dir).with_context(|| format!("no folder can be made in {}", dir.display()))?
        }
        None => {
            prefix.tempdir().context("no temporary folder can be made; choose another place with --data")?
        }
    };
    let limit = LIMIT * arguments.kills + Duration::from_secs(arguments.tasks / TASKS_PER_SECOND_MIN);
    let hosts = usize::try_from(arguments.hosts).expect("a few");
    let what = if hosts == 1 { "one host".to_owned() } else { format!("{hosts} hosts") };
    screen.say(&format!("{what}, data in {}, every OK after fdatasync", folder.path().display()));

    let begin = Instant::now();
    let mut cluster = Cluster::start(folder.path(), hosts, None).await?;
    cluster.serving(SERVE_MAX).await?;
    let addresses = cluster.addresses();
    screen.say(&format!("serving on {} after {} ms", addresses.join(", "), ms(begin.elapsed())));

    let shared = Arc::new(Shared::new(arguments.tasks));
    let client = Client::connect(addresses)?;
    let (stop, stopped) = watch::channel(false);
    let mut workers = JoinSet::new();
    // A host of several is back after some seconds; the next one goes under load as well.
    let each = if arguments.kills > 1 { load::PUSH_TIME + DOWN + DOWN } else { load::PUSH_TIME };
    let push_time = each * arguments.kills;
    Load { client: client.clone(), shared: Arc::clone(&shared), lease: LEASE, limit, push_time }
        .spawn(&mut workers, &stopped)?;
    let begin = Instant::now();

    let mut outages = Vec::new();
    let mut last_kill = begin;
    for kill in 0..u64::from(arguments.kills) {
        // Half-way, or at even distances: while pushes, leases and acks are under way.
        let part = arguments.tasks * (2 * kill + 1) / (2 * u64::from(arguments.kills));
        let there = |shared: &Shared| shared.counts().pushed >= part;
        watch_until(&shared, &mut screen, &mut workers, &mut cluster, Phase::Running, begin + limit, there)
            .await?;
        last_kill = Instant::now();
        let stage = Stage { arguments, shared: &shared, limit: begin + limit };
        outages.push(stage.lose_the_leader(&mut screen, &mut workers, &mut cluster).await?);
    }

    let all = |shared: &Shared| shared.counts().is_complete() || shared.has_failed();
    let until = begin + limit;
    watch_until(&shared, &mut screen, &mut workers, &mut cluster, Phase::Running, until, all).await?;
    let worked = begin.elapsed();
    // A task whose ack was forgotten would come back when the lease it had at the kill ends; wait for that.
    let quiet =
        (last_kill + FAILOVER_MAX.min(outages.iter().copied().max().unwrap_or_default()) + LEASE + LISTEN)
            .max(Instant::now() + LISTEN)
            .min(until + LEASE);
    let over = |_: &Shared| Instant::now() >= quiet;
    watch_until(&shared, &mut screen, &mut workers, &mut cluster, Phase::Listening, quiet, over).await?;

    let left = match client.get_queue(load::QUEUE).await {
        Ok(queue) => queue.waiting + queue.leased + queue.dead,
        Err(error) if error.kind() == Kind::NotFound => 0,
        Err(error) => return Err(error).context("the server does not say what is left in the queue"),
    };
    let _ = stop.send(true);
    while let Some(ended) = workers.join_next().await {
        ended.context("a worker of the demo panicked")?;
    }
    let report = shared.report();
    screen.end();
    print_summary(&report, left, worked, &mut outages, screen.color());
    Ok(report.is_clean() && left == 0)
}

/// What the loss of a leader needs to know.
struct Stage<'a> {
    arguments: &'a Arguments,
    shared: &'a Shared,
    /// When the whole run ends.
    limit: Instant,
}

impl Stage<'_> {
    /// Kills or stops the host that leads the queue, waits until work goes on, and starts it again. Returns the longest
    /// time without an OK for a push.
    async fn lose_the_leader(
        &self,
        screen: &mut Screen,
        workers: &mut JoinSet<()>,
        cluster: &mut Cluster,
    ) -> Result<Duration> {
        let Self { arguments, shared, .. } = self;
        let lone = arguments.hosts == 1;
        let leader = cluster.leader_of(load::QUEUE).await?;
        let (name, pid) = (cluster.host(leader).id().to_owned(), cluster.host(leader).pid());
        let lost = Instant::now();
        shared.server_is_down();
        let pushed = shared.counts().pushed;
        if arguments.gracefully {
            cluster.stop(leader)?
        } else {
            cluster.kill(leader)?
        }
        let counts = shared.counts();
        let how = if arguments.gracefully { "SIGTERM" } else { "kill -9" };
        screen.say(&format!(
            "{how} {pid}, {name}, which leads the queue: {} pushed, {} acked so far",
            screen::thousands(counts.pushed),
            screen::thousands(counts.acked),
        ));
        if lone {
            screen.draw(Phase::Down, &counts);
            // It is dead and waited for; a new one takes its folder and its ports.
            cluster.start_again(leader, SERVE_MAX).await?;
            screen.say(&format!("{name} serves again after {} ms, same data, same port", ms(lost.elapsed())));
        }
        let goes_on = |shared: &Shared| shared.counts().pushed > pushed || shared.counts().is_complete();
        let until = (lost + FAILOVER_MAX).min(self.limit);
        watch_until(shared, screen, workers, cluster, Phase::Failover, until, goes_on).await?;
        let down = |_: &Shared| lone || lost.elapsed() >= DOWN;
        watch_until(shared, screen, workers, cluster, Phase::Running, self.limit, down).await?;
        let gap = shared.longest_gap();
        shared.server_is_back();
        if !lone {
            let next = cluster.leader_of(load::QUEUE).await?;
            let next = cluster.host(next).id().to_owned();
            cluster.start_again(leader, SERVE_MAX).await?;
            let text = format!("{next} leads now, {} ms without an OK; {name} is back, a follower", ms(gap));
            screen.say(&text);
        }
        Ok(gap)
    }
}

/// Redraws until `done` or the time is up; the count at the end says which.
async fn watch_until(
    shared: &Shared,
    screen: &mut Screen,
    workers: &mut JoinSet<()>,
    cluster: &mut Cluster,
    phase: Phase,
    until: Instant,
    done: impl Fn(&Shared) -> bool,
) -> Result<()> {
    while !done(shared) && Instant::now() < until {
        screen.draw(phase, &shared.counts());
        tokio::time::sleep(TICK).await;
        if let Some(Err(panic)) = workers.try_join_next() {
            return Err(panic).context("a worker of the demo panicked");
        }
        cluster.check()?;
    }
    screen.draw(phase, &shared.counts());
    Ok(())
}

fn ms(time: Duration) -> u128 {
    time.as_millis()
}

fn print_summary(report: &Report, left: u64, worked: Duration, outages: &mut [Duration], color: bool) {
    let paint =
        |code: &str, text: &str| if color { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() };
    let number = screen::thousands;
    let equal =
        if report.pushed == report.delivered && report.delivered == report.acked { "=" } else { "≠" };
    say!();
    say!(
        "  pushed {} {equal} delivered {} {equal} acked {}",
        number(report.pushed),
        number(report.delivered),
        number(report.acked)
    );
    say!(
        "  redelivered   {} (their leases were cut by the crash; allowed), after their ack: {}",
        number(report.redelivered),
        report.after_ack.len()
    );
    say!(
        "  rates         {}/s pushed (paced), {}/s acked on average, {}/s in the best second; {:.1} s in all",
        number(report.push_rate as u64),
        number((report.acked as f64 / worked.as_secs_f64()) as u64),
        number(report.best_second),
        worked.as_secs_f64()
    );
    say!(
        "  lateness      p50 {} ms, p99 {} ms over the {} delayed tasks due while the server was up; early: {}",
        report.late_p50_ms,
        report.late_p99_ms,
        number(report.late_count),
        report.early.len()
    );
    outages.sort_unstable();
    let at = |percent: usize| ms(outages[(outages.len() - 1) * percent / 100]);
    match outages.len() {
        1 => say!("  write gap     {} ms without an OK for a push", at(0)),
        count => say!(
            "  write gap     p50 {} ms, p99 {} ms, max {} ms over {count} losses of the leader",
            at(50),
            at(99),
            at(100)
        ),
    }
    if report.is_clean() && left == 0 {
        say!("\n  {}", paint("1;32", "nothing lost"));
        return;
    }
    say!();
    let fail = |what: &str, ids: &[String]| {
        if !ids.is_empty() {
            say!("  {}", paint("1;31", &format!("{} {what}:", ids.len())));
            ids.iter().take(IDS_SHOWN).for_each(|id| say!("    {id}"));
            if ids.len() > IDS_SHOWN {
                say!("    … and {} more", ids.len() - IDS_SHOWN);
            }
        }
    };
    fail("tasks pushed with OK, never acked", &report.missing);
    fail("tasks delivered again after their ack was answered OK", &report.after_ack);
    fail("tasks created twice under one request id", &report.doubled);
    fail("tasks delivered before their time", &report.early);
    fail("pushes never answered with OK", &report.unanswered);
    fail("errors of the workers", &report.errors);
    if left > 0 {
        say!("  {}", paint("1;31", &format!("{left} tasks left in the queue")));
    }
}
