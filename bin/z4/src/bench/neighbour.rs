//! One tenant with a million due tasks, and a hundred with a hundred each: how long do the small ones wait?
//!
//! Consumers work a millisecond on each task, so that the queue is what is waited for. First the small tenants are alone;
//! then, in a queue of its own, the large one's backlog is there before they come. A task's wait is from the moment its
//! push was sent to its delivery. With fair turns the large tenant costs the small ones one turn in a hundred and one.
//!
//! # Caveats
//! - What a consumer holds already is not taken back: `--credit` is set low here, whatever the option says.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::link::{Batch, Consumer, Goal, Producer, grouped_body, now_ns, stamp_of, stamped_payload};
use super::report::{Micros, Sample, micros, record};
use super::target::Target;
use super::{Plan, throughput, wire};

/// Tasks of the large tenant.
const NOISE_DEFAULT: u64 = 1_000_000;
/// Small tenants, and the tasks of each.
const TENANTS: u64 = 100;
const TASKS_EACH: u64 = 100;
const CONSUMERS: usize = 8;
/// Tasks a consumer holds.
const CREDIT: u32 = 16;
/// Its work on one.
const WORK: Duration = Duration::from_millis(1);
/// The small ones are delivered by then, or never.
const WITHIN: Duration = Duration::from_secs(120);

/// Measures the waits of the small tenants, alone and beside the large one.
///
/// # Errors
/// A refusal, a broken stream, or tasks that are missing.
pub(crate) async fn run(plan: &Plan, target: &Target) -> Result<Vec<Sample>> {
    let noise = plan.tasks.unwrap_or(NOISE_DEFAULT);
    let (quiet, quiet_rate) = waits(plan, target, 0).await.context("the small tenants alone")?;
    let (loud, loud_rate) = waits(plan, target, noise).await.context("beside the large tenant")?;
    let p99 = |waits: &Micros| waits.value_at_quantile(0.99) as f64;
    let alone =
        Sample::new("100 small tenants alone", quiet_rate, "tasks/s").latency("push to delivery", &quiet);
    let beside = Sample::new("100 small tenants beside a large one", loud_rate, "tasks/s")
        .latency("push to delivery", &loud)
        .detail("large_tenant_tasks", noise as f64)
        .detail("p99_of_alone", p99(&loud) / p99(&quiet));
    Ok(vec![alone, beside])
}

/// Returns the waits of the small tenants' tasks, and how many were delivered a second.
async fn waits(plan: &Plan, target: &Target, noise: u64) -> Result<(Micros, f64)> {
    let queue = target.queue("neighbour").await?;
    push_noise(plan, target, &queue, noise).await?;
    let (total, goal) = (TENANTS * TASKS_EACH, Goal::new(u64::MAX));
    let seen = Arc::new(AtomicU64::new(0));
    let mut consumers = Vec::new();
    for channel in target.channels(CONSUMERS).await? {
        let (queue, goal, seen) = (queue.clone(), Arc::clone(&goal), Arc::clone(&seen));
        let consumer =
            Consumer { channel, queue, credit: CREDIT, goal: Arc::clone(&goal), gate: None, work: WORK };
        consumers.push(tokio::spawn(async move {
            let mut times = micros();
            let work = consumer.run(|leases| {
                let now = now_ns();
                for task in leases.iter() {
                    let Some(stamp) = stamp_of(task?.payload) else { continue };
                    record(&mut times, Duration::from_nanos(now.saturating_sub(stamp)));
                    if seen.fetch_add(1, Ordering::Relaxed) + 1 == total {
                        // All there is to see: everybody may go.
                        goal.set(0);
                    }
                }
                Ok(())
            });
            work.await?;
            anyhow::Ok(times)
        }));
    }
    let begin = Instant::now();
    push_small(plan, target, &queue).await?;
    let mut times = micros();
    let until = tokio::time::Instant::now() + WITHIN;
    for consumer in consumers {
        let ended = tokio::time::timeout_at(until, consumer).await;
        times.add(ended.context("small tenants still wait")?.context("a consumer panicked")??)?;
    }
    Ok((times, total as f64 / begin.elapsed().as_secs_f64()))
}

/// Pushes the large tenant's tasks.
async fn push_noise(plan: &Plan, target: &Target, queue: &str, noise: u64) -> Result<()> {
    let body = grouped_body(queue, plan.batch, plan.payload, 1);
    let left = Arc::new(AtomicU64::new(noise.div_ceil(u64::from(plan.batch))));
    let mut producers = Vec::new();
    for channel in target.channels(plan.producers).await? {
        let (left, body, count) = (Arc::clone(&left), body.clone(), plan.batch);
        let next = move || {
            let more = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
            more.ok().map(|_| Batch { count, fresh: Vec::new(), body: body.clone() })
        };
        let progress = Arc::new(AtomicU64::new(0));
        let producer = Producer { channel, window: plan.window, gate: None, progress, sample: false };
        producers.push(tokio::spawn(producer.run(count, next)));
    }
    throughput::join(producers).await.context("push of the large tenant").map(drop)
}

/// Pushes the small tenants' tasks, one of each tenant in every frame.
async fn push_small(plan: &Plan, target: &Target, queue: &str) -> Result<()> {
    let (payload, body) = (plan.payload, wire::push_body(queue, &[]));
    let mut left = TASKS_EACH;
    let next = move || {
        left = left.checked_sub(1)?;
        let (mut fresh, mut scratch) = (Vec::new(), Vec::new());
        for tenant in 0..TENANTS {
            let payload = stamped_payload(now_ns(), payload);
            wire::put_grouped(&mut fresh, &mut scratch, &payload, &format!("small-{tenant}"));
        }
        Some(Batch { count: TENANTS as u32, fresh, body: body.clone() })
    };
    let channel = target.channels(1).await?.remove(0);
    let progress = Arc::new(AtomicU64::new(0));
    let producer = Producer { channel, window: plan.window, gate: None, progress, sample: false };
    producer.run(TENANTS as u32, next).await.context("push of the small tenants").map(drop)
}
