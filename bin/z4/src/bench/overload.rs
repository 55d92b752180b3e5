//! Far more than fits: many producers that ignore every refusal, for a minute; then, is everything still there?
//!
//! Each producer keeps its window full and sends a refused frame again at once, whatever delay the server asks for.
//! What must hold (promise P10): the server lives, every refusal is RESOURCE_EXHAUSTED with a delay, every accepted
//! task is there afterwards, and a lone caller soon waits no longer than before.
//!
//! # Invariants
//! - A frame without an answer is sent again under its request id until it has one, also over a broken stream; so
//!   the count of accepted tasks is exact.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use tonic::transport::Channel;
use tonic::{Code, Status};
use z4_client::{Client, NewTask};
use z4_proto::status::Failure;

use super::Plan;
use super::link::{Link, PUSH, body};
use super::report::{Latency, Micros, Sample, micros, record};
use super::target::Target;
use super::wire::{PushAnswer, push_frame};

const SECONDS_DEFAULT: u64 = 60;
const PRODUCERS: usize = 64;
const CONNECTIONS: usize = 8;
/// How long latency is looked at before the load.
const BEFORE: Duration = Duration::from_secs(2);
/// Latency after the load is judged by windows of this length.
const AFTER: Duration = Duration::from_secs(1);
/// Longest wait for normal latency; the promise is 10 s.
const NORMAL_MAX: Duration = Duration::from_secs(60);
/// p99 is normal again when it is at most twice what it was, or this: a short window is noisy.
const NORMAL_MS: f64 = 5.0;
/// Longest wait for the answers under way when the load ends.
const DRAIN_MAX: Duration = Duration::from_secs(60);
/// How often the server is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Pause before a broken stream is opened again.
const REOPEN_PAUSE: Duration = Duration::from_millis(50);
const MIB: f64 = 1_048_576.0;

#[derive(Debug, Default)]
struct Counts {
    accepted: AtomicU64,
    exhausted: AtomicU64,
    without_delay: AtomicU64,
    other: AtomicU64,
    broken: AtomicU64,
}

impl Counts {
    /// Enters a refusal of whole frames or single tasks.
    fn refused(&self, failure: &Failure) {
        if z4_proto::status::code_of(failure.kind) != Code::ResourceExhausted {
            self.other.fetch_add(1, Ordering::Relaxed);
        } else {
            self.exhausted.fetch_add(1, Ordering::Relaxed);
            if failure.retry_after.is_none() {
                self.without_delay.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// Runs the load and judges what is left.
///
/// # Errors
/// The server ends, tasks are missing, or calls fail for good.
pub(crate) async fn run(plan: &Plan, target: &mut Target) -> Result<Vec<Sample>> {
    let queue = target.queue("overload").await?;
    let lone = target.queue("lone").await?;
    let client = target.client()?;
    let before = lone_caller(&client, &lone, BEFORE).await;
    let before = Latency::new("call to OK before", &before);

    let time = Duration::from_secs(plan.seconds.unwrap_or(SECONDS_DEFAULT));
    let (counts, over) = (Arc::new(Counts::default()), Arc::new(AtomicBool::new(false)));
    let frame = body(&queue, plan.batch, plan.payload);
    let channels = target.channels(CONNECTIONS).await?;
    let mut producers = tokio::task::JoinSet::new();
    for name in 0..PRODUCERS {
        let channel = channels[name % CONNECTIONS].clone();
        producers.spawn(produce(channel, plan.window, frame.clone(), Arc::clone(&counts), Arc::clone(&over)));
    }
    let begin = Instant::now();
    let mut peak = 0;
    while begin.elapsed() < time {
        tokio::time::sleep(LOOK_EVERY).await;
        peak = peak.max(look_at(target)?);
    }
    over.store(true, Ordering::Relaxed);
    let (elapsed, accepted_in_time) =
        (begin.elapsed().as_secs_f64(), counts.accepted.load(Ordering::Relaxed));

    let (limit, ended) = ((2.0 * before.p99_ms).max(NORMAL_MS), Instant::now());
    let (normal_s, after) = loop {
        let window = Latency::new("call to OK after", &lone_caller(&client, &lone, AFTER).await);
        peak = peak.max(look_at(target)?);
        if window.count > 0 && window.p99_ms <= limit {
            // Normal since the beginning of this window.
            break (ended.elapsed().saturating_sub(AFTER).as_secs_f64(), window);
        }
        let p99 = window.p99_ms;
        ensure!(
            ended.elapsed() < NORMAL_MAX,
            "p99 is {p99:.1} ms {NORMAL_MAX:?} after the load; {limit:.1} ms is normal"
        );
    };
    let drained = async {
        while let Some(producer) = producers.join_next().await {
            producer.context("a producer panicked")??;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(DRAIN_MAX, drained).await.context("the answers under way do not come")??;
    let accepted = counts.accepted.load(Ordering::Relaxed);
    let waiting = client.get_queue(&queue).await?.waiting;
    ensure!(waiting == accepted, "{waiting} tasks are there, {accepted} were accepted");

    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed) as f64;
    let mut sample = Sample::new("overload", accepted_in_time as f64 / elapsed, "tasks/s")
        .detail("accepted_tasks", accepted as f64)
        .detail("found_tasks", waiting as f64)
        .detail("resource_exhausted_frames", count(&counts.exhausted))
        .detail("without_retry_info_frames", count(&counts.without_delay))
        .detail("other_refusals_frames", count(&counts.other))
        .detail("broken_streams", count(&counts.broken))
        .detail("before_p99_ms", before.p99_ms)
        .detail("after_p99_ms", after.p99_ms)
        .detail("seconds_to_normal", normal_s);
    if peak > 0 {
        sample = sample.detail("rss_peak_mib", peak as f64 / MIB);
    }
    sample.latency = Some(after);
    Ok(vec![sample])
}

/// Returns the child's highest memory, or an error with its log if it ended.
fn look_at(target: &mut Target) -> Result<u64> {
    let Some(child) = target.child() else { return Ok(0) };
    if let Some(status) = child.ended()? {
        bail!("the server ended under the load ({status})\n{}", child.explain());
    }
    Ok(child.memory().peak)
}

/// Creates one task after the other; a call that fails counts as long as it took, and a second at least.
async fn lone_caller(client: &Client, queue: &str, time: Duration) -> Micros {
    let begin = Instant::now();
    let mut times = micros();
    while begin.elapsed() < time {
        let since = Instant::now();
        let took = match client.create(queue, NewTask::new("x")).await {
            Ok(_) => since.elapsed(),
            Err(_) => since.elapsed().max(Duration::from_secs(1)),
        };
        record(&mut times, took);
    }
    times
}

/// Keeps its window full until the load is over, then collects the answers under way.
async fn produce(
    channel: Channel,
    window: usize,
    frame: Bytes,
    counts: Arc<Counts>,
    over: Arc<AtomicBool>,
) -> Result<()> {
    // Frames without an answer: sequence number and request id.
    let mut flying: BTreeMap<u64, String> = BTreeMap::new();
    let mut seq = 0;
    loop {
        let mut link = Link::<PushAnswer>::open(channel.clone(), PUSH, window * 2);
        let turn = async {
            for (seq, request_id) in &flying {
                link.send(push_frame(*seq, request_id, &[], &frame))?;
            }
            loop {
                while flying.len() < window && !over.load(Ordering::Relaxed) {
                    seq += 1;
                    let request_id = z4_client::request_id();
                    link.send(push_frame(seq, &request_id, &[], &frame))?;
                    flying.insert(seq, request_id);
                }
                if flying.is_empty() {
                    return Ok(());
                }
                let answer = link.must_come().await?;
                counts.accepted.fetch_add(u64::from(answer.created), Ordering::Relaxed);
                let refused = answer.failure.iter().chain(&answer.refused);
                refused.for_each(|failure| counts.refused(&Failure::from_pb(failure.clone())));
                let request_id = flying.remove(&answer.seq);
                // Back-pressure is ignored: at once again.
                if let (Some(request_id), Some(_), false) =
                    (request_id, &answer.failure, over.load(Ordering::Relaxed))
                {
                    link.send(push_frame(answer.seq, &request_id, &[], &frame))?;
                    flying.insert(answer.seq, request_id);
                }
            }
        };
        let ended: Result<(), Status> = turn.await;
        match ended {
            Ok(()) => return Ok(()),
            Err(status) => {
                counts.broken.fetch_add(1, Ordering::Relaxed);
                if status.code() == Code::ResourceExhausted {
                    counts.refused(&Failure::from_status(&status));
                }
            }
        }
        tokio::time::sleep(REOPEN_PAUSE).await;
    }
}
