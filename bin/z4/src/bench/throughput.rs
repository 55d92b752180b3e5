//! How much goes through: push, consume of what was pushed, and both at once.
//!
//! `push` and `consume` are one pass: the backlog of the one is the load of the other, and nothing stays behind.
//! `cycle` keeps the backlog bounded: a gate lets as many tasks in as were acked, so that what is measured is the
//! steady state of push, delivery and ack together.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use z4_client::{Kind, QueuePatch};

use super::Plan;
use super::ceilings::{PULL_ECHO, PUSH_ECHO};
use super::link::{
    Batch, Consumer, Goal, PATIENCE, Producer, Pushed, body, grouped_body, now_ns, stamp_of, stamped,
};
use super::report::{Micros, Sample, micros, record};
use super::target::Target;

/// Tasks pushed, then consumed.
const TASKS_DEFAULT: u64 = 1_000_000;
/// Length of the cycle measurement.
const SECONDS_DEFAULT: u64 = 10;
/// Groups of [`groups`].
const GROUPS: usize = 100;
/// Before it, so that connections, buffers and the first segments are there.
const WARM_UP: Duration = Duration::from_secs(1);

/// Waits for producers and adds up what they did.
///
/// # Errors
/// The first of theirs.
pub(crate) async fn join(producers: Vec<JoinHandle<Result<Pushed>>>) -> Result<Pushed> {
    let mut sum = Pushed::default();
    for producer in producers {
        sum.add(producer.await.context("a producer panicked")??)?;
    }
    Ok(sum)
}

async fn join_consumers(consumers: Vec<JoinHandle<Result<Micros>>>) -> Result<Micros> {
    let mut sum = micros();
    for consumer in consumers {
        let one =
            tokio::time::timeout(PATIENCE * 4, consumer).await.context("the consumers do not finish")?;
        sum.add(one.context("a consumer panicked")??)?;
    }
    Ok(sum)
}

/// Returns an error if the queue is not empty at the end.
///
/// # Errors
/// It is not, or the server does not say.
pub(crate) async fn must_be_empty(target: &Target, queue: &str) -> Result<()> {
    match target.client()?.get_queue(queue).await {
        Ok(queue) => {
            let left = queue.waiting + queue.leased + queue.dead;
            ensure!(left == 0, "{left} tasks are left in {}, though all were acked", queue.name);
            Ok(())
        }
        Err(error) if error.kind() == Kind::NotFound => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn per_million(seconds: f64, tasks: u64) -> f64 {
    seconds * 1e6 / tasks.max(1) as f64
}

/// Pushes a backlog, then consumes it.
///
/// # Errors
/// A refusal, a broken stream, or tasks that are missing.
pub(crate) async fn push_and_consume(plan: &Plan, target: &Target) -> Result<Vec<Sample>> {
    let queue = target.queue("push").await?;
    let frames = plan.tasks.unwrap_or(TASKS_DEFAULT).div_ceil(u64::from(plan.batch));
    let frame = body(&queue, plan.batch, plan.payload);
    let left = Arc::new(AtomicU64::new(frames));
    let channels = target.channels(plan.producers).await?;
    let (begin, cpu) = (Instant::now(), target.cpu_seconds());
    let mut producers = Vec::new();
    for channel in channels {
        let (left, body, count) = (Arc::clone(&left), frame.clone(), plan.batch);
        let next = move || {
            let more = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
            more.ok().map(|_| Batch { count, fresh: Vec::new(), body: body.clone() })
        };
        let progress = Arc::new(AtomicU64::new(0));
        let producer = Producer { channel, window: plan.window, gate: None, progress, sample: false };
        producers.push(tokio::spawn(producer.run(count, next)));
    }
    let pushed = join(producers).await.context("push")?;
    let rate = pushed.tasks as f64 / begin.elapsed().as_secs_f64();
    let push = Sample::new("push", rate, "tasks/s")
        .latency("frame sent to OK", &pushed.latency)
        .ceiling(PUSH_ECHO)
        .detail("tasks", pushed.tasks as f64)
        .detail("refused_frames", pushed.refusals as f64)
        .detail("server_cpu_s_per_million", per_million(target.cpu_seconds() - cpu, pushed.tasks));

    let goal = Goal::new(pushed.tasks);
    let channels = target.channels(plan.consumers).await?;
    let (begin, cpu) = (Instant::now(), target.cpu_seconds());
    let mut consumers = Vec::new();
    for channel in channels {
        let (queue, goal, credit) = (queue.clone(), Arc::clone(&goal), plan.credit);
        consumers.push(tokio::spawn(
            Consumer { channel, queue, credit, goal, gate: None, work: Duration::ZERO }.run(|_| Ok(())),
        ));
    }
    let latency = join_consumers(consumers).await.context("consume")?;
    let rate = pushed.tasks as f64 / begin.elapsed().as_secs_f64();
    must_be_empty(target, &queue).await?;
    let consume = Sample::new("consume + ack", rate, "tasks/s")
        .latency("acks sent to OK", &latency)
        .ceiling(PULL_ECHO)
        .detail("tasks", pushed.tasks as f64)
        .detail("server_cpu_s_per_million", per_million(target.cpu_seconds() - cpu, pushed.tasks));
    Ok(vec![push, consume])
}

/// Pushes, delivers and acks at the same time.
///
/// # Errors
/// A refusal, a broken stream, or tasks that are missing.
pub(crate) async fn cycle(plan: &Plan, target: &Target) -> Result<Vec<Sample>> {
    Ok(vec![steady(plan, target, "cycle".to_owned(), 0).await?])
}

/// The same, plain and with a hundred groups whose limits are looked at with every task and never met.
///
/// # Errors
/// As [`cycle`].
pub(crate) async fn groups(plan: &Plan, target: &Target) -> Result<Vec<Sample>> {
    let plain = steady(plan, target, "cycle, plain".to_owned(), 0).await?;
    let grouped = steady(plan, target, format!("cycle, {GROUPS} groups and limits"), GROUPS).await?;
    let part = grouped.value / plain.value;
    Ok(vec![plain, grouped.detail("of_plain", part)])
}

/// Sets limits of a queue that nothing meets.
async fn limit(target: &Target, queue: &str) -> Result<()> {
    let (rate, burst) = (1e6, Some(1 << 30));
    let limits = QueuePatch::new().or_create().concurrency(1 << 20).rate(rate, burst);
    let limits = limits.group_concurrency(1 << 20).group_rate(rate, burst).group_weight(3);
    target.client()?.update_queue(queue, limits).await.context("limits of the queue")?;
    Ok(())
}

/// Measures the steady state, in so many groups; 0: none, and no limits.
async fn steady(plan: &Plan, target: &Target, name: String, groups: usize) -> Result<Sample> {
    let queue = target.queue("cycle").await?;
    if groups > 0 {
        limit(target, &queue).await?;
    }
    let time = Duration::from_secs(plan.seconds.unwrap_or(SECONDS_DEFAULT));
    let over = Arc::new(AtomicBool::new(false));
    let gate = Arc::new(Semaphore::new(plan.outstanding.max(plan.batch) as usize));
    let goal = Goal::new(u64::MAX);
    // Stamps are compared within this window only: what was pushed in the warm-up does not count.
    let from = now_ns() + u64::try_from(WARM_UP.as_nanos()).expect("a second");
    let mut consumers = Vec::new();
    for channel in target.channels(plan.consumers).await? {
        let consumer = Consumer {
            channel,
            queue: queue.clone(),
            credit: plan.credit,
            goal: Arc::clone(&goal),
            gate: Some(Arc::clone(&gate)),
            work: Duration::ZERO,
        };
        consumers.push(tokio::spawn(async move {
            let mut delivery = micros();
            consumer
                .run(|leases| {
                    let now = now_ns();
                    for task in leases.iter() {
                        if let Some(stamp) = stamp_of(task?.payload).filter(|stamp| *stamp >= from) {
                            record(&mut delivery, Duration::from_nanos(now - stamp));
                        }
                    }
                    Ok(())
                })
                .await?;
            Ok(delivery)
        }));
    }
    let rest = match groups {
        0 => body(&queue, plan.batch - 1, plan.payload),
        groups => grouped_body(&queue, plan.batch - 1, plan.payload, groups),
    };
    let mut producers = Vec::new();
    for channel in target.channels(plan.producers).await? {
        let (over, body, count, payload) = (Arc::clone(&over), rest.clone(), plan.batch, plan.payload);
        let next = move || {
            let batch = Batch { count, fresh: stamped(now_ns(), payload), body: body.clone() };
            (!over.load(Ordering::Relaxed)).then_some(batch)
        };
        let (window, progress) = (plan.window, Arc::new(AtomicU64::new(0)));
        let producer = Producer { channel, window, gate: Some(Arc::clone(&gate)), progress, sample: false };
        producers.push(tokio::spawn(producer.run(count, next)));
    }
    tokio::time::sleep(WARM_UP).await;
    let (begin, first, cpu) = (Instant::now(), goal.settled(), target.cpu_seconds());
    tokio::time::sleep(time).await;
    let (elapsed, done) = (begin.elapsed().as_secs_f64(), goal.settled() - first);
    let cpu = target.cpu_seconds() - cpu;
    over.store(true, Ordering::Relaxed);
    let pushed = join(producers).await.context("cycle")?;
    goal.set(pushed.tasks);
    let delivery = join_consumers(consumers).await.context("cycle")?;
    must_be_empty(target, &queue).await?;
    let sample = Sample::new(name, done as f64 / elapsed, "cycles/s")
        .latency("frame sent to delivery", &delivery)
        .ceiling(PUSH_ECHO)
        .detail("refused_frames", pushed.refusals as f64)
        .detail("server_cpu_s_per_million", per_million(cpu, done));
    Ok(sample)
}
