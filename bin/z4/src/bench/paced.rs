//! How long it takes when the server is not the limit: end to end at a fixed rate, and delayed tasks at their time.
//!
//! `e2e` is an open loop: a thread of its own sends each task, alone in its frame, at the time its schedule says, and
//! latency counts from that time to the moment a consumer holds the task. `delayed` pushes tasks due over the next
//! seconds and compares the wall clock at the consumer with `deliver_at`.
//!
//! # Caveats
//! - Lateness compares this machine's clock with the shard's. Against a host elsewhere it shows the clocks' offset too.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use tokio::task::JoinHandle;

use super::link::{Batch, Consumer, Goal, Link, PATIENCE, PUSH, Producer, now_ns, stamp_of, stamped};
use super::report::{Micros, Sample, micros, record};
use super::schedule::Schedule;
use super::target::Target;
use super::wire::{self, Leases, PushAnswer};
use super::{Plan, throughput};

const E2E_SECONDS_DEFAULT: u64 = 10;
/// Before it: connections and first segments.
const WARM_UP_SECONDS: u64 = 1;
/// Frames that may wait to be sent: seconds of any rate this machine can make.
const FRAMES_QUEUED: usize = 1 << 18;

const DELAYED_TASKS_DEFAULT: u64 = 100_000;
const DELAYED_SECONDS_DEFAULT: u64 = 20;
/// From the start of pushing to the first task due: all must be pushed by then.
const LEAD: Duration = Duration::from_secs(3);

fn wall_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).expect("until the year 2554")
}

/// Starts consumers that show each batch to a function of their own histogram.
async fn consumers(
    plan: &Plan,
    target: &Target,
    queue: &str,
    goal: &Arc<Goal>,
    seen: impl Fn(&Leases, &mut Micros) -> Result<()> + Clone + Send + Sync + 'static,
) -> Result<Vec<JoinHandle<Result<Micros>>>> {
    let mut running = Vec::new();
    for channel in target.channels(plan.consumers).await? {
        let (queue, goal, seen) = (queue.to_owned(), Arc::clone(goal), seen.clone());
        let consumer =
            Consumer { channel, queue, credit: plan.credit, goal, gate: None, work: Duration::ZERO };
        running.push(tokio::spawn(async move {
            let mut times = micros();
            consumer.run(|leases| seen(leases, &mut times)).await?;
            Ok(times)
        }));
    }
    Ok(running)
}

async fn join(consumers: Vec<JoinHandle<Result<Micros>>>, within: Duration) -> Result<Micros> {
    let mut sum = micros();
    let until = tokio::time::Instant::now() + within;
    for consumer in consumers {
        let ended = tokio::time::timeout_at(until, consumer).await;
        let times = ended.context("tasks are missing: not all were delivered in time")?;
        sum.add(times.context("a consumer panicked")??)?;
    }
    Ok(sum)
}

/// Measures push to delivery at a fixed rate.
///
/// # Errors
/// A refusal, a broken stream, or tasks that are missing.
pub(crate) async fn e2e(plan: &Plan, target: &Target) -> Result<Vec<Sample>> {
    let queue = target.queue("e2e").await?;
    let seconds = plan.seconds.unwrap_or(E2E_SECONDS_DEFAULT);
    let total = plan.rate * (WARM_UP_SECONDS + seconds);
    let start = now_ns() + 200_000_000;
    let from = start + WARM_UP_SECONDS * 1_000_000_000;
    let goal = Goal::new(total);
    let running = consumers(plan, target, &queue, &goal, move |leases, times| {
        let now = now_ns();
        for task in leases.iter() {
            let stamp = stamp_of(task?.payload).context("a task nobody stamped")?;
            if stamp >= from {
                record(times, Duration::from_nanos(now.saturating_sub(stamp)));
            }
        }
        Ok(())
    })
    .await?;

    let channel = target.channels(1).await?.remove(0);
    let mut link = Link::<PushAnswer>::open(channel, PUSH, FRAMES_QUEUED);
    let sender = link.sender();
    let (schedule, payload, body) =
        (Schedule::new(start, plan.rate), plan.payload, wire::push_body(&queue, &[]));
    // A thread, because the timers of the runtime have a resolution of a millisecond.
    let pacer = std::thread::spawn(move || {
        for n in 0..total {
            let at = schedule.at(n);
            while let Some(wait) = at.checked_sub(now_ns()).filter(|wait| *wait > 0) {
                std::thread::sleep(Duration::from_nanos(wait));
            }
            let frame = wire::push_frame(n + 1, &z4_client::request_id(), &stamped(at, payload), &body);
            if sender.try_send(frame).is_err() {
                bail!("the server takes no frames at {} tasks a second", schedule.per_second());
            }
        }
        Ok(())
    });
    let cpu = target.cpu_seconds();
    for _ in 0..total {
        let answer = link.must_come().await.context("push stream")?;
        if let Some(failure) = answer.failure.as_ref().or(answer.refused.first()) {
            bail!("refused at {} tasks a second: {} {}", plan.rate, failure.reason, failure.message);
        }
    }
    pacer.join().map_err(|_| anyhow::anyhow!("the pacing thread panicked"))??;
    let times = join(running, PATIENCE).await?;
    let cpu = target.cpu_seconds() - cpu;
    throughput::must_be_empty(target, &queue).await?;
    let sample =
        Sample::new(format!("e2e at {}/s", plan.rate), times.len() as f64 / seconds as f64, "tasks/s")
            .latency("intended send to delivery, open loop", &times)
            .detail("server_cpu_s_per_million", cpu * 1e6 / total as f64);
    Ok(vec![sample])
}

/// Measures how late delayed tasks are, and that none is early. Early ones are counted in the detail `early`.
///
/// # Errors
/// A refusal, a broken stream, or tasks that are missing.
pub(crate) async fn delayed(plan: &Plan, target: &Target) -> Result<Vec<Sample>> {
    let queue = target.queue("delayed").await?;
    let total = plan.tasks.unwrap_or(DELAYED_TASKS_DEFAULT);
    let span_ms = plan.seconds.unwrap_or(DELAYED_SECONDS_DEFAULT) * 1_000;
    let first_ms = wall_ns() / 1_000_000 + u64::try_from(LEAD.as_millis()).expect("seconds");
    let (goal, early) = (Goal::new(total), Arc::new(AtomicU64::new(0)));
    let counted = Arc::clone(&early);
    let running = consumers(plan, target, &queue, &goal, move |leases, times| {
        let now = wall_ns();
        for task in leases.iter() {
            match now.checked_sub(task?.due_ns) {
                Some(late) => record(times, Duration::from_nanos(late)),
                None => {
                    counted.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        Ok(())
    })
    .await?;
    let (begin, cpu) = (Instant::now(), target.cpu_seconds());
    let next = Arc::new(AtomicU64::new(0));
    let mut producers = Vec::new();
    for channel in target.channels(plan.producers).await? {
        let (next, body, payload, batch) =
            (Arc::clone(&next), wire::push_body(&queue, &[]), vec![b'x'; plan.payload], plan.batch);
        let frame = move || {
            let from = next.fetch_add(u64::from(batch), Ordering::Relaxed);
            let to = (from + u64::from(batch)).min(total);
            let (mut fresh, mut scratch) = (Vec::new(), Vec::new());
            for n in from..to {
                wire::put_task(&mut fresh, &mut scratch, &payload, Some(first_ms + span_ms * n / total));
            }
            let count = u32::try_from(to.checked_sub(from)?).expect("a batch");
            (count > 0).then(|| Batch { count, fresh, body: body.clone() })
        };
        let progress = Arc::new(AtomicU64::new(0));
        let producer = Producer { channel, window: plan.window, gate: None, progress, sample: false };
        producers.push(tokio::spawn(producer.run(batch, frame)));
    }
    let pushed = throughput::join(producers).await.context("delayed")?;
    let push_time = begin.elapsed();
    ensure!(
        push_time < LEAD,
        "pushing took {push_time:?}, so the first were late when they came; use fewer --tasks"
    );
    let times = join(running, Duration::from_millis(span_ms) + LEAD + PATIENCE).await?;
    let cpu = target.cpu_seconds() - cpu;
    throughput::must_be_empty(target, &queue).await?;
    let sample = Sample::new("delayed", total as f64 * 1_000.0 / span_ms as f64, "tasks/s")
        .latency("deliver_at to delivery", &times)
        .detail("early", early.load(Ordering::Relaxed) as f64)
        .detail("push_s", push_time.as_secs_f64())
        .detail("refused_frames", pushed.refusals as f64)
        .detail("server_cpu_s_per_million", cpu * 1e6 / total as f64);
    Ok(vec![sample])
}
