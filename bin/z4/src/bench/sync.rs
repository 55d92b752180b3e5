//! One task a call, one call at a time: what a web handler does that enqueues a single job and waits for OK.
//!
//! Callers share four connections, as the processes of one machine would.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use z4_proto::v1;
use z4_proto::v1::tasks_client::TasksClient;

use super::Plan;
use super::ceilings::{UNARY_ECHO_1, UNARY_ECHO_MANY};
use super::link::connect;
use super::report::{Micros, Sample, micros, record};
use super::target::Target;

const SECONDS_DEFAULT: u64 = 5;
const CONNECTIONS: usize = 4;

/// Lets `callers` create one task a call in `queue` for `time`; returns calls a second and the time of each.
///
/// # Errors
/// Nobody listens, or a call fails.
pub(crate) async fn load(
    address: &str,
    queue: &str,
    callers: usize,
    payload: usize,
    time: Duration,
) -> Result<(f64, Micros)> {
    let mut channels = Vec::new();
    for _ in 0..CONNECTIONS.min(callers) {
        channels.push(connect(address).await?);
    }
    let over = Arc::new(AtomicBool::new(false));
    let begin = Instant::now();
    let mut running = Vec::new();
    for caller in 0..callers {
        let mut client = TasksClient::new(channels[caller % channels.len()].clone());
        let (over, queue) = (Arc::clone(&over), queue.to_owned());
        let task = v1::NewTask { payload: vec![b'x'; payload].into(), ..v1::NewTask::default() };
        running.push(tokio::spawn(async move {
            let mut times = micros();
            while !over.load(Ordering::Relaxed) {
                let request = v1::CreateTaskRequest {
                    queue: queue.clone(),
                    task: Some(task.clone()),
                    request_id: z4_client::request_id(),
                };
                let since = Instant::now();
                client.create_task(request).await.context("create task")?;
                record(&mut times, since.elapsed());
            }
            anyhow::Ok(times)
        }));
    }
    tokio::time::sleep(time).await;
    over.store(true, Ordering::Relaxed);
    let mut times = micros();
    for caller in running {
        times.add(caller.await.context("a caller panicked")??)?;
    }
    Ok((times.len() as f64 / begin.elapsed().as_secs_f64(), times))
}

/// Measures many callers, and one.
///
/// # Errors
/// A call fails.
pub(crate) async fn run(plan: &Plan, target: &Target) -> Result<Vec<Sample>> {
    let time = Duration::from_secs(plan.seconds.unwrap_or(SECONDS_DEFAULT));
    let mut samples = Vec::new();
    for (callers, ceiling) in [(plan.callers, UNARY_ECHO_MANY), (1, UNARY_ECHO_1)] {
        let queue = target.queue("sync").await?;
        let (rate, times) = load(target.address(), &queue, callers, plan.payload, time).await?;
        let sample = Sample::new(format!("sync x{callers}"), rate, "calls/s");
        samples.push(sample.latency("call to OK", &times).ceiling(ceiling));
    }
    Ok(samples)
}
