//! A queue of ten million tasks: what it costs to ask about it and to stop it; and the purge of one of a million.
//!
//! Statistics, explain and pause are asked one call at a time. Then single tasks are pushed at a low rate, open loop, into
//! another queue of the shard of the one that is purged, first in peace and then during the purge: the ratio says what others
//! feel of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::time::{MissedTickBehavior, interval};
use z4_client::{Client, PurgeState, TaskId};

use super::report::{Micros, Sample, micros, record};
use super::sustained;
use super::target::Target;
use super::{Plan, throughput};

const TASKS_DEFAULT: u64 = 10_000_000;
/// The queue that is purged has so many times less.
const PURGED_PART: u64 = 10;
/// Calls of each kind.
const CALLS: usize = 1_000;
/// Between two pushes.
const PUSH_EVERY: Duration = Duration::from_millis(5);
/// Pushing in peace.
const PEACE: Duration = Duration::from_secs(10);

/// Fills a queue, asks and stops it; fills another, and purges it.
///
/// # Errors
/// A refusal, a broken stream, or tasks that are missing.
pub(crate) async fn run(plan: &Plan, target: &mut Target) -> Result<Vec<Sample>> {
    let queue = target.queue("large").await?;
    let total = plan.tasks.unwrap_or(TASKS_DEFAULT);
    let (mut samples, pushed) = sustained::create(plan, target, &queue, total).await?;
    let client = target.client()?;
    let ids = pushed.samples.iter().map(sustained::parse).collect::<Result<Vec<_>>>()?;
    ensure!(!ids.is_empty(), "no task was pushed");
    samples.push(asked("stats", CALLS, async |_| client.queue_stats(&queue).await).await?);
    samples.push(explained(&client, &ids).await?);
    samples.push(
        asked("pause and resume", CALLS, async |_| {
            client.pause_queue(&queue, "measured", "z4 bench").await?;
            client.resume_queue(&queue).await
        })
        .await?,
    );
    let purged = target.queue("purged").await?;
    sustained::create(plan, target, &purged, (total / PURGED_PART).max(1)).await?;
    samples.extend(purge(target, &client, &purged).await?);
    Ok(samples)
}

async fn explained(client: &Client, ids: &[TaskId]) -> Result<Sample> {
    asked("explain", CALLS, async |call| client.explain(ids[call % ids.len()]).await).await
}

/// Times `count` calls, one after the other.
async fn asked<T>(
    name: &str,
    count: usize,
    call: impl AsyncFn(usize) -> Result<T, z4_client::Error>,
) -> Result<Sample> {
    let (mut times, begin) = (micros(), Instant::now());
    for number in 0..count {
        let since = Instant::now();
        call(number).await.with_context(|| name.to_owned())?;
        record(&mut times, since.elapsed());
    }
    let rate = count as f64 / begin.elapsed().as_secs_f64();
    Ok(Sample::new(format!("{name}, x1"), rate, "calls/s").latency("call to answer", &times))
}

/// Pushes single tasks in peace and during the purge.
async fn purge(target: &Target, client: &Client, queue: &str) -> Result<Vec<Sample>> {
    let other = beside(target, client, queue).await?;
    let over = Arc::new(AtomicBool::new(false));
    let peaceful = tokio::spawn(pushes(target.client()?, other.clone(), Arc::clone(&over)));
    tokio::time::sleep(PEACE).await;
    over.store(true, Ordering::Relaxed);
    let peaceful = peaceful.await.context("the pusher panicked")??;
    over.store(false, Ordering::Relaxed);
    let disturbed = tokio::spawn(pushes(target.client()?, other, Arc::clone(&over)));
    let begin = Instant::now();
    let purged = client.purge_queue(queue, &[PurgeState::Waiting]).await.context("purge")?;
    let rate = purged as f64 / begin.elapsed().as_secs_f64();
    over.store(true, Ordering::Relaxed);
    let disturbed = disturbed.await.context("the pusher panicked")??;
    throughput::must_be_empty(target, queue).await?;
    let p99 = |times: &Micros| times.value_at_quantile(0.99) as f64;
    let in_peace = Sample::new("single pushes in peace", per_second(&peaceful, PEACE), "calls/s");
    let beside = Sample::new("purge, beside single pushes", rate, "tasks/s")
        .latency("intended push to OK", &disturbed)
        .detail("tasks", purged as f64)
        .detail("push_p99_of_peace", p99(&disturbed) / p99(&peaceful));
    Ok(vec![in_peace.latency("intended push to OK", &peaceful), beside])
}

fn per_second(times: &Micros, time: Duration) -> f64 {
    times.len() as f64 / time.as_secs_f64()
}

/// Returns another queue of the same shard.
async fn beside(target: &Target, client: &Client, queue: &str) -> Result<String> {
    let shard = client.get_queue(queue).await?.shard;
    loop {
        let other = target.queue("beside").await?;
        client.create(&other, z4_client::NewTask::new("first")).await?;
        if client.get_queue(&other).await?.shard == shard {
            return Ok(other);
        }
    }
}

/// Pushes one task at a time, at its time, until it is over; returns the times from when each should have been sent.
async fn pushes(client: Client, queue: String, over: Arc<AtomicBool>) -> Result<Micros> {
    let mut times = micros();
    let mut ticks = interval(PUSH_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    while !over.load(Ordering::Relaxed) {
        let due = ticks.tick().await;
        client.create(&queue, z4_client::NewTask::new("a single one")).await.context("a single push")?;
        record(&mut times, due.elapsed());
    }
    Ok(times)
}
