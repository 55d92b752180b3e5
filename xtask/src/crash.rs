//! `cargo xtask crash`: a real server, real load, kill -9 at random moments, again and again; then the reckoning.
//!
//! Each cycle starts the server on the same data, lets producers and consumers work, and kills it: usually in the
//! middle of the load, sometimes while it still recovers. After the last cycle a server drains every queue, and
//! the judge of `history.rs` compares what was promised with what came out.
//!
//! kill -9 keeps the page cache, so this run tests recovery and the order of answers, not fdatasync: the simulated
//! disk does that, sector by sector.
//!
//! # Not here
//! - Power cuts of a real file system, several hosts, network faults: bigger harnesses build on this one.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::sync::watch;
use tokio::task::JoinSet;
use z4_env::{Rng, SeededRng};

mod history;
mod load;
pub(crate) mod server;

use load::{Manner, Producer, Shared};
use server::Server;

const PRODUCERS: usize = 4;
/// Longest time the streams may take to notice that their server is gone.
const END_MAX: Duration = Duration::from_secs(20);
/// Longest final drain.
const DRAIN_MAX: Duration = Duration::from_secs(120);

/// Options of `crash`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// How often the server is killed.
    #[arg(long, default_value_t = 20)]
    cycles: u32,
    /// Seed of the load and the moments of the kills; random if missing.
    #[arg(long)]
    seed: Option<u64>,
    /// Cargo profile of the server. The default has release speed and keeps the assertions.
    #[arg(long, default_value = "sim")]
    profile: String,
    /// A server to use instead of building one.
    #[arg(long)]
    binary: Option<PathBuf>,
    /// Keep the data directory (it is kept after a violation anyway).
    #[arg(long)]
    keep: bool,
}

/// Runs the cycles, drains, judges, and prints one summary line.
///
/// # Errors
/// A broken promise, or a server that does not start or serve.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let seed = match arguments.seed {
        Some(seed) => seed,
        None => u64::from(u32::from_le_bytes(z4_env::entropy()?[..4].try_into().expect("four bytes"))),
    };
    let binary = match &arguments.binary {
        Some(binary) => binary.clone(),
        None => server::build("z4", &arguments.profile)?,
    };
    let dir = tempfile::Builder::new().prefix("z4-crash-").tempdir()?;
    println!("crash: seed {seed}, {} cycles, data in {}", arguments.cycles, dir.path().display());
    let begin = Instant::now();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let shared = Shared::default();
    let harness =
        Harness { binary, dir: dir.path().to_owned(), rng: SeededRng::new(seed), shared: shared.clone() };
    let ended = runtime.block_on(harness.run(arguments.cycles));
    let report = shared.lock().report();
    // After an early end the queues were not drained: what is missing then is not lost.
    if ended.is_ok() {
        let seconds = begin.elapsed().as_secs_f64();
        println!("crash: seed {seed}, cycles {}, {seconds:.0} s: {report}", arguments.cycles);
    }
    if arguments.keep || ended.is_err() || !report.is_clean() {
        println!("crash: data kept in {}", dir.keep().display());
    }
    ended.with_context(|| format!("crash run with --seed {seed}"))?;
    if !report.is_clean() {
        bail!("promises were broken; run it again with --seed {seed}");
    }
    if report.acked_creates == 0 || report.acked_acks == 0 {
        bail!("nothing was created and acked in {} cycles: this run shows nothing", arguments.cycles);
    }
    Ok(())
}

struct Harness {
    binary: PathBuf,
    dir: PathBuf,
    rng: SeededRng,
    shared: Shared,
}

impl Harness {
    async fn run(mut self, cycles: u32) -> Result<()> {
        let mut producers: Vec<Producer> =
            (0..PRODUCERS).map(|name| Producer::new(name, self.rng.fork(name as u64 + 1))).collect();
        for cycle in 0..cycles {
            let mut server = Server::start(&self.binary, &self.dir)?;
            if self.rng.chance(1, 8) {
                // While it recovers: recovery itself must survive being interrupted.
                tokio::time::sleep(Duration::from_millis(self.rng.below(60))).await;
                server.kill()?;
                println!("cycle {cycle}: killed during its start");
                continue;
            }
            let life = Duration::from_millis(100 + self.rng.below(1_400));
            producers = self.live(cycle, &mut server, producers, life).await?;
            let created = self.shared.lock().created_count();
            println!(
                "cycle {cycle}: killed after {} ms, {created} creates acknowledged so far",
                life.as_millis()
            );
        }
        self.drain(cycles, producers).await
    }

    /// Loads the server for a while, kills it, and waits until every stream has ended.
    async fn live(
        &mut self,
        run: u32,
        server: &mut Server,
        producers: Vec<Producer>,
        life: Duration,
    ) -> Result<Vec<Producer>> {
        let channel = server.ready().await?;
        let (_stop, stopped) = watch::channel(false);
        let mut consuming = self.consume_all(&channel, run, Manner::Careless, &stopped);
        let mut producing = JoinSet::new();
        for mut producer in producers {
            let (channel, shared) = (channel.clone(), self.shared.clone());
            producing.spawn(async move { producer.produce(channel, &shared, true).await.map(|()| producer) });
        }
        tokio::time::sleep(life).await;
        server.kill()?;
        let ended = async {
            let mut producers = Vec::new();
            while let Some(producer) = producing.join_next().await {
                producers.push(producer??);
            }
            while let Some(consumer) = consuming.join_next().await {
                consumer??;
            }
            Ok(producers)
        };
        tokio::time::timeout(END_MAX, ended).await.context("a stream outlives its server")?
    }

    fn consume_all(
        &mut self,
        channel: &tonic::transport::Channel,
        run: u32,
        manner: Manner,
        stopped: &watch::Receiver<bool>,
    ) -> JoinSet<Result<()>> {
        let mut consuming = JoinSet::new();
        for queue in load::QUEUES {
            let rng = SeededRng::new(self.rng.next_u64());
            let consumer =
                load::consume(channel.clone(), self.shared.clone(), queue, run, manner, rng, stopped.clone());
            consuming.spawn(consumer);
        }
        consuming
    }

    /// Resends what has no answer, then consumes until every queue is empty.
    async fn drain(&mut self, run: u32, producers: Vec<Producer>) -> Result<()> {
        let mut server = Server::start(&self.binary, &self.dir)?;
        let channel = server.ready().await?;
        for mut producer in producers {
            let resent = producer.produce(channel.clone(), &self.shared, false);
            tokio::time::timeout(END_MAX, resent).await.context("a resent batch gets no answer")??;
            if producer.is_waiting() {
                bail!("the push stream of a living server ended");
            }
        }
        let (stop, stopped) = watch::channel(false);
        let mut consuming = self.consume_all(&channel, run, Manner::Diligent, &stopped);
        let begin = Instant::now();
        loop {
            let (open, dead) = load::backlog(channel.clone()).await?;
            if dead > 0 {
                bail!("{dead} tasks are dead, though each had attempts left");
            }
            if open == 0 {
                break;
            }
            if begin.elapsed() > DRAIN_MAX {
                bail!("{open} tasks are still open after {} s of draining", DRAIN_MAX.as_secs());
            }
            if let Some(ended) = consuming.try_join_next() {
                ended??;
                bail!("the pull stream of a living server ended");
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        // The last acks are applied; their answers may still be on their way.
        tokio::time::sleep(Duration::from_millis(500)).await;
        stop.send(true).context("the consumers are gone")?;
        while let Some(ended) = consuming.join_next().await {
            ended??;
        }
        server.kill()
    }
}
