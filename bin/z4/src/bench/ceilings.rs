//! What this machine can do at most, measured in the same minute as z4: the disk's fdatasync, and gRPC with nothing
//! behind it.
//!
//! The disk: one writer, one write and one fdatasync at a time into a file that was written before, as the log is; a
//! growing file would sync up to three times slower. gRPC: the bench's own producers, consumers and callers against
//! the [`Echo`] server.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::Plan;
use super::echo::Echo;
use super::link::{Batch, Consumer, Goal, Producer, body, connect};
use super::report::{Sample, micros, record};
use super::{sync, throughput};

/// Name of the ceiling of push frames.
pub(crate) const PUSH_ECHO: &str = "stream echo, push";
/// Name of the ceiling of deliveries and acks.
pub(crate) const PULL_ECHO: &str = "stream echo, pull + ack";
/// Name of the ceiling of lone callers.
pub(crate) const UNARY_ECHO_1: &str = "unary echo x1";
/// Name of the ceiling of many callers.
pub(crate) const UNARY_ECHO_MANY: &str = "unary echo, many";

/// Sizes of a log write: a lone entry, a group commit, a large one.
const SYNC_SIZES: [(usize, &str); 3] =
    [(4 << 10, "fdatasync 4 KiB"), (64 << 10, "fdatasync 64 KiB"), (256 << 10, "fdatasync 256 KiB")];
/// Size of the file written before: that of a log segment.
const FILE_BYTES: usize = 64 << 20;
const SYNC_TIME: Duration = Duration::from_secs(1);
const ECHO_TIME: Duration = Duration::from_secs(2);

/// Measures all ceilings; the disk in `dir`.
///
/// # Errors
/// The disk cannot be written, or the echo server fails.
pub(crate) async fn run(plan: &Plan, dir: &Path) -> Result<Vec<Sample>> {
    let mut samples = disk(dir).with_context(|| format!("fdatasync in {}", dir.display()))?;
    let echo = Echo::start(plan.payload)?;
    samples.push(push(plan, &echo).await.context("push echo")?);
    samples.push(pull(plan, &echo).await.context("pull echo")?);
    for (callers, name) in [(1, UNARY_ECHO_1), (plan.callers, UNARY_ECHO_MANY)] {
        let (rate, latency) =
            sync::load(&echo.address(), "echo", callers, plan.payload, ECHO_TIME).await.context(name)?;
        samples.push(Sample::new(name, rate, "calls/s").latency("call to answer", &latency));
    }
    Ok(samples)
}

fn disk(dir: &Path) -> Result<Vec<Sample>> {
    let file = tempfile::tempfile_in(dir)?;
    prewrite(&file)?;
    SYNC_SIZES.into_iter().map(|(size, name)| sync_writes(&file, size, name)).collect()
}

fn prewrite(file: &File) -> Result<()> {
    let block = vec![0u8; 1 << 20];
    for at in (0..FILE_BYTES).step_by(block.len()) {
        file.write_all_at(&block, at as u64)?;
    }
    file.sync_all()?;
    Ok(())
}

fn sync_writes(file: &File, size: usize, name: &str) -> Result<Sample> {
    let block = vec![b'z'; size];
    let mut times = micros();
    let begin = Instant::now();
    let mut at = 0;
    while begin.elapsed() < SYNC_TIME {
        let since = Instant::now();
        file.write_all_at(&block, at as u64)?;
        file.sync_data()?;
        record(&mut times, since.elapsed());
        at = (at + size) % FILE_BYTES;
    }
    let rate = times.len() as f64 / begin.elapsed().as_secs_f64();
    let sample = Sample::new(name, rate, "syncs/s").latency("write and fdatasync", &times);
    Ok(sample.detail("megabytes_per_s", rate * size as f64 / 1e6))
}

async fn push(plan: &Plan, echo: &Echo) -> Result<Sample> {
    let over = Arc::new(AtomicBool::new(false));
    let frames = body("echo", plan.batch, plan.payload);
    let mut producers = Vec::new();
    for _ in 0..plan.producers {
        let (over, body, count) = (Arc::clone(&over), frames.clone(), plan.batch);
        let next = move || {
            let batch = Batch { count, fresh: Vec::new(), body: body.clone() };
            (!over.load(Ordering::Relaxed)).then_some(batch)
        };
        let producer = Producer {
            channel: connect(&echo.address()).await?,
            window: plan.window,
            gate: None,
            progress: Arc::new(AtomicU64::new(0)),
            sample: false,
        };
        producers.push(tokio::spawn(producer.run(count, next)));
    }
    let begin = Instant::now();
    tokio::time::sleep(ECHO_TIME).await;
    over.store(true, Ordering::Relaxed);
    let pushed = throughput::join(producers).await?;
    let rate = pushed.tasks as f64 / begin.elapsed().as_secs_f64();
    Ok(Sample::new(PUSH_ECHO, rate, "tasks/s").latency("frame to answer", &pushed.latency))
}

async fn pull(plan: &Plan, echo: &Echo) -> Result<Sample> {
    let goal = Goal::new(u64::MAX);
    let mut consumers = Vec::new();
    for _ in 0..plan.consumers {
        let consumer = Consumer {
            channel: connect(&echo.address()).await?,
            queue: "echo".to_owned(),
            credit: plan.credit,
            goal: Arc::clone(&goal),
            gate: None,
            work: Duration::ZERO,
        };
        consumers.push(tokio::spawn(consumer.run(|_| Ok(()))));
    }
    let begin = Instant::now();
    tokio::time::sleep(ECHO_TIME).await;
    let rate = goal.settled() as f64 / begin.elapsed().as_secs_f64();
    goal.set(0);
    let mut latency = micros();
    for consumer in consumers {
        latency.add(consumer.await??)?;
    }
    Ok(Sample::new(PULL_ECHO, rate, "tasks/s").latency("acks to answer", &latency))
}
