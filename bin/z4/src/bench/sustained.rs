//! Millions of tasks for next month, created as fast as possible; then kill -9, and how it feels afterwards.
//!
//! The due times are spread over 30 days without order, the hard case for a tree on disk. Burst and sustained rates
//! are told apart: the first seconds go to memory and log, in the long run the base must keep up.
//!
//! # Not here
//! - The restart on a running host: only a server of our own is killed.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use z4_client::{Client, TaskId};
use z4_env::{Rng as _, SeededRng};

use super::link::{Batch, Producer, Pushed};
use super::report::{Micros, Sample, micros, record};
use super::target::Target;
use super::wire::{self, ID_BYTES};
use super::{Plan, throughput};
use crate::child::disk_bytes;

const TASKS_DEFAULT: u64 = 5_000_000;
/// The burst.
const BURST: Duration = Duration::from_secs(5);
const DAY_MS: u64 = 24 * 3_600 * 1_000;
/// The first task is due in 30 days, the last in 60.
const DUE_FROM_MS: u64 = 30 * DAY_MS;
const DUE_OVER_MS: u64 = 30 * DAY_MS;
/// Gets, and cancels, each of another task.
const LOOKUPS: usize = 2_000;
/// Seed of due times and of the choice of ids: the same load in every run.
const SEED: u64 = 0x5eed;
const MIB: f64 = 1_048_576.0;

/// Runs the load, and on a child server the kill and the look-ups.
///
/// # Errors
/// A refusal, a broken stream, or tasks that are missing.
pub(crate) async fn run(plan: &Plan, target: &mut Target) -> Result<Vec<Sample>> {
    let queue = target.queue("sustained").await?;
    let total = plan.tasks.unwrap_or(TASKS_DEFAULT);
    let (mut samples, pushed) = create(plan, target, &queue, total).await?;
    let mut ids = pushed.samples;
    let mut rng = SeededRng::new(SEED);
    for last in (1..ids.len()).rev() {
        ids.swap(last, usize::try_from(rng.below(last as u64 + 1)).expect("an index"));
    }
    let ids = ids.iter().map(parse).collect::<Result<Vec<_>>>()?;
    if target.child().is_some() {
        samples.push(restart(target, ids[0]).await?);
    }
    let client = target.client()?;
    let waiting = client.get_queue(&queue).await?.waiting;
    ensure!(waiting == pushed.tasks, "{waiting} tasks are there, {} were acknowledged", pushed.tasks);
    let (gets, cancels) = ids.split_at(ids.len() / 2);
    samples.push(look(&client, &gets[..gets.len().min(LOOKUPS)]).await?);
    samples.push(cancel(&client, &cancels[..cancels.len().min(LOOKUPS)]).await?);
    Ok(samples)
}

/// Reads an id.
pub(super) fn parse(id: &[u8; ID_BYTES]) -> Result<TaskId> {
    Ok(std::str::from_utf8(id)?.parse()?)
}

/// Creates the tasks, as fast as possible.
///
/// # Errors
/// A refusal or a broken stream.
pub(super) async fn create(
    plan: &Plan,
    target: &mut Target,
    queue: &str,
    total: u64,
) -> Result<(Vec<Sample>, Pushed)> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let first_ms = u64::try_from(now).context("a clock past all time")? + DUE_FROM_MS;
    let (left, progress) = (Arc::new(AtomicU64::new(total)), Arc::new(AtomicU64::new(0)));
    let channels = target.channels(plan.producers).await?;
    let (begin, cpu) = (Instant::now(), target.cpu_seconds());
    let mut producers = Vec::new();
    for (name, channel) in channels.into_iter().enumerate() {
        let (left, body, payload, batch) =
            (Arc::clone(&left), wire::push_body(queue, &[]), vec![b'x'; plan.payload], u64::from(plan.batch));
        let mut rng = SeededRng::new(SEED).fork(name as u64 + 1);
        let frame = move || {
            let take = |left: u64| (left > 0).then(|| left - left.min(batch));
            let count = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).ok()?.min(batch);
            let (mut fresh, mut scratch) =
                (Vec::with_capacity(count as usize * (payload.len() + 24)), Vec::new());
            for _ in 0..count {
                wire::put_task(&mut fresh, &mut scratch, &payload, Some(first_ms + rng.below(DUE_OVER_MS)));
            }
            Some(Batch { count: u32::try_from(count).expect("a batch"), fresh, body: body.clone() })
        };
        let progress = Arc::clone(&progress);
        let producer = Producer { channel, window: plan.window, gate: None, progress, sample: true };
        producers.push(tokio::spawn(producer.run(plan.batch, frame)));
    }
    let over = Arc::new(AtomicBool::new(false));
    let watcher = tokio::spawn(watch_rate(begin, Arc::clone(&progress), Arc::clone(&over)));
    let pushed = throughput::join(producers).await;
    let elapsed = begin.elapsed().as_secs_f64();
    over.store(true, Ordering::Relaxed);
    let (pushed, watched) = (pushed.context("sustained")?, watcher.await?);
    let mut sample = Sample::new("sustained create", pushed.tasks as f64 / elapsed, "tasks/s")
        .latency("frame sent to OK", &pushed.latency)
        .detail("tasks", pushed.tasks as f64)
        .detail("burst_tasks_per_s", watched.burst.unwrap_or(pushed.tasks as f64 / elapsed))
        .detail("slowest_second_tasks", watched.slowest.unwrap_or(pushed.tasks) as f64)
        .detail("refused_frames", pushed.refusals as f64)
        .detail("server_cpu_s_per_million", (target.cpu_seconds() - cpu) * 1e6 / pushed.tasks as f64);
    if let Some(child) = target.child() {
        let memory = child.memory();
        sample = sample
            .detail("rss_mib", memory.now as f64 / MIB)
            .detail("rss_peak_mib", memory.peak as f64 / MIB);
    }
    if let Some(folder) = target.folder() {
        sample = sample.detail("disk_bytes_per_task", disk(folder) / pushed.tasks as f64);
    }
    Ok((vec![sample], pushed))
}

fn disk(folder: &Path) -> f64 {
    (disk_bytes(&folder.join("db")) + disk_bytes(&folder.join("peer"))) as f64
}

/// How the rate went.
#[derive(Debug, Default)]
struct Watched {
    /// Tasks a second over the burst, if it lasted that long.
    burst: Option<f64>,
    /// Tasks of the slowest whole second.
    slowest: Option<u64>,
}

async fn watch_rate(begin: Instant, progress: Arc<AtomicU64>, over: Arc<AtomicBool>) -> Watched {
    let (mut watched, mut last) = (Watched::default(), 0);
    let mut seconds = tokio::time::interval(Duration::from_secs(1));
    seconds.tick().await;
    loop {
        seconds.tick().await;
        if over.load(Ordering::Relaxed) {
            return watched;
        }
        let done = progress.load(Ordering::Relaxed);
        watched.slowest = Some(watched.slowest.unwrap_or(u64::MAX).min(done - last));
        last = done;
        if watched.burst.is_none() && begin.elapsed() >= BURST {
            watched.burst = Some(done as f64 / begin.elapsed().as_secs_f64());
        }
    }
}

async fn restart(target: &mut Target, known: TaskId) -> Result<Sample> {
    let begin = Instant::now();
    target.kill_and_restart().await?;
    target.client()?.get(known).await.context("a task that was acknowledged before the kill")?;
    let seconds = begin.elapsed().as_secs_f64();
    let memory = target.child().context("it was just started")?.memory();
    Ok(Sample::new("restart after kill -9", seconds, "s to serving")
        .detail("rss_mib", memory.now as f64 / MIB)
        .detail("rss_peak_mib", memory.peak as f64 / MIB))
}

async fn look(client: &Client, ids: &[TaskId]) -> Result<Sample> {
    let mut times = micros();
    let begin = Instant::now();
    for id in ids {
        let since = Instant::now();
        let task = client.get(*id).await.with_context(|| format!("task {id}, which was acknowledged"))?;
        record(&mut times, since.elapsed());
        ensure!(task.id == *id, "asked for {id}, got {}", task.id);
    }
    Ok(finished("get by id, x1", begin, &times))
}

async fn cancel(client: &Client, ids: &[TaskId]) -> Result<Sample> {
    let mut times = micros();
    let begin = Instant::now();
    for id in ids {
        let since = Instant::now();
        for answer in client.cancel(&[*id]).await? {
            answer.with_context(|| format!("cancel of {id}, which was acknowledged"))?;
        }
        record(&mut times, since.elapsed());
    }
    Ok(finished("cancel by id, x1", begin, &times))
}

fn finished(name: &str, begin: Instant, times: &Micros) -> Sample {
    Sample::new(name, times.len() as f64 / begin.elapsed().as_secs_f64(), "calls/s")
        .latency("call to answer", times)
}
