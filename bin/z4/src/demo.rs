//! `z4 demo`: watch z4 lose nothing. A real server on a temporary folder, real gRPC, kill -9 half-way, and a count.
//!
//! ```text
//!   start server ─ push and consume ─ kill -9 ─ start again on the same data ─ push and consume ─ count
//! ```
//!
//! Half of the tasks are due at once, the others spread over the next seconds. The pushing is paced, so that the kill
//! hits pushes, leases and acks alike while they are under way. What was pushed without an answer is pushed again
//! under the same request id, what was acked without an answer is acked again; the leases that were out come back when
//! they expire. Every push, delivery and ack is entered in a [`ledger`], which alone decides how the run ended.
//!
//! # Not here
//! - kill -9 keeps the page cache, so this shows recovery and the order of answers, not fdatasync: the simulator and
//!   `z4 bench` look at that.
//! # Caveats
//! - The pushing is paced: the rates shown are what this load asked for, not what the server could do. `z4 bench`
//!   measures that.

mod ledger;
mod load;
mod screen;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use z4_client::{Client, Kind};

use crate::child::{Child, Ports};
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
/// Ids of lost tasks that are printed; the count is printed in full.
const IDS_SHOWN: usize = 20;
/// How often the screen is redrawn and the state looked at.
const TICK: Duration = Duration::from_millis(50);
/// Exit code after SIGINT or SIGTERM, as shells count them.
const INTERRUPTED: u8 = 130;

/// Options of `demo`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  z4 demo                       100,000 tasks, about a quarter of a minute
  z4 demo --tasks 1000000       ten times as many
  z4 demo --data /mnt/disk      on another disk than the temporary folder's
  NO_COLOR=1 z4 demo | cat      plain lines, at most one a second

Exit code: 0 nothing lost, 1 a task is missing or came back after its ack (its id is printed), 130 interrupted.")]
pub(crate) struct Arguments {
    /// Tasks to push: half due at once, half over the next 8 seconds. Example: --tasks 20000
    #[arg(long, value_name = "COUNT", default_value_t = 100_000,
          value_parser = clap::value_parser!(u64).range(100..=10_000_000))]
    tasks: u64,
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
    let limit = LIMIT + Duration::from_secs(arguments.tasks / TASKS_PER_SECOND_MIN);
    screen.say(&format!("one host, data in {}, every OK after fdatasync", folder.path().display()));

    let begin = Instant::now();
    let mut server = Child::start(folder.path(), Ports::default(), None).await?;
    server.serving(SERVE_MAX).await?;
    let ports = server.ports();
    let text =
        format!("server {} serves on {} after {} ms", server.pid(), server.address(), ms(begin.elapsed()));
    screen.say(&text);

    let shared = Arc::new(Shared::new(arguments.tasks));
    let client = Client::connect([server.address()])?;
    let (stop, stopped) = watch::channel(false);
    let mut workers = JoinSet::new();
    Load { client: client.clone(), shared: Arc::clone(&shared), lease: LEASE, limit }
        .spawn(&mut workers, &stopped)?;
    let begin = Instant::now();

    // Half-way, while pushes, leases and acks are under way.
    let half = |shared: &Shared| shared.counts().pushed >= arguments.tasks / 2;
    watch_until(&shared, &mut screen, &mut workers, &mut server, Phase::Running, begin + limit, half).await?;
    let killed = Instant::now();
    shared.server_is_down();
    server.kill()?;
    let counts = shared.counts();
    screen.say(&format!(
        "kill -9 {}: {} pushed, {} acked so far; the rest is on disk, on its way or in nobody's hands",
        server.pid(),
        screen::thousands(counts.pushed),
        screen::thousands(counts.acked),
    ));
    screen.draw(Phase::Down, &shared.counts());
    // It is dead and waited for; a new one takes its folder and its ports.
    server = Child::start(folder.path(), ports, None).await?;
    server.serving(SERVE_MAX).await?;
    shared.server_is_back();
    let restart = killed.elapsed();
    screen.say(&format!(
        "server {} serves again after {} ms, same data, same port",
        server.pid(),
        ms(restart)
    ));

    let all = |shared: &Shared| shared.counts().is_complete() || shared.has_failed();
    let until = begin + limit;
    watch_until(&shared, &mut screen, &mut workers, &mut server, Phase::Running, until, all).await?;
    let worked = begin.elapsed();
    // A task whose ack was forgotten would come back when the lease it had at the kill ends; wait for that.
    let quiet = (killed + restart + LEASE + LISTEN).max(Instant::now() + LISTEN).min(until + LEASE);
    let over = |_: &Shared| Instant::now() >= quiet;
    watch_until(&shared, &mut screen, &mut workers, &mut server, Phase::Listening, quiet, over).await?;

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
    print_summary(&report, left, worked, restart, screen.color());
    Ok(report.is_clean() && left == 0)
}

/// Redraws until `done` or the time is up; the count at the end says which.
async fn watch_until(
    shared: &Shared,
    screen: &mut Screen,
    workers: &mut JoinSet<()>,
    server: &mut Child,
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
        if let Some(status) = server.ended()? {
            bail!("the server ended by itself ({status})\n{}", server.explain());
        }
    }
    screen.draw(phase, &shared.counts());
    Ok(())
}

fn ms(time: Duration) -> u128 {
    time.as_millis()
}

fn print_summary(report: &Report, left: u64, worked: Duration, restart: Duration, color: bool) {
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
    say!("  restart       {} ms from kill -9 to serving", ms(restart));
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
