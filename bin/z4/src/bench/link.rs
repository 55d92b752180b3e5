//! Streams of the load generator: producers that keep a window full, consumers that ack every batch.
//!
//! Each producer and consumer has a connection of its own, as separate processes would. A producer is a closed loop:
//! it waits for an answer when its window is full. What is refused for a time (RESOURCE_EXHAUSTED, UNAVAILABLE) is
//! sent again under the same request id after the delay the server asks for; anything else ends the bench.
//!
//! # Invariants
//! - A producer's queue never fills: its capacity is above the window.
//! - Nothing waits longer than [`PATIENCE`] for an answer that must come.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status, Streaming};
use z4_proto::v1;
use z4_proto::v1::pull_request::{Credit, Message, Open};

use super::report::{Micros, micros, record};
use super::wire::{self, Frame, ID_BYTES, Leases, PullAnswer, PushAnswer, Raw, Reply};

/// Longest wait for an answer that must come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// Requests a consumer may have queued: above two for every task of its credit, so that it never waits.
const CONSUMER_QUEUE: usize = 32_768;
/// Payload bytes of a consumer's credit: the most there is.
const CREDIT_BYTES: u64 = z4_types::limits::CONSUMER_CREDIT_BYTES_MAX;
/// Wait after a refusal that names no delay.
const RETRY_DEFAULT: Duration = Duration::from_millis(10);
/// Flow-control windows: several full frames.
const STREAM_WINDOW_BYTES: u32 = 8 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 32 << 20;

/// Returns nanoseconds since the program first asked: for stamps that producer and consumer compare.
pub(crate) fn now_ns() -> u64 {
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    u64::try_from(ORIGIN.get_or_init(Instant::now).elapsed().as_nanos()).expect("584 years")
}

/// Connects to `host:port`.
///
/// # Errors
/// It is no address, or nobody listens there.
pub(crate) async fn connect(address: &str) -> Result<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .with_context(|| format!("{address:?} is no host:port"))?
        .connect_timeout(Duration::from_secs(5))
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
    endpoint.connect().await.with_context(|| format!("cannot reach {address}; is the server running there?"))
}

type Opening<R> = Pin<Box<dyn Future<Output = Result<Response<Streaming<R>>, Status>> + Send>>;

/// One stream of frames and replies.
pub(crate) struct Link<R> {
    sender: mpsc::Sender<Frame>,
    opening: Option<Opening<R>>,
    replies: Option<Streaming<R>>,
}

impl<R: Reply + Sync> Link<R> {
    /// Returns the stream of a method of the task service, opened by the first `next`.
    pub(crate) fn open(channel: Channel, method: &'static str, capacity: usize) -> Self {
        let (sender, requests) = mpsc::channel(capacity);
        let opening = async move {
            let mut grpc = Grpc::new(channel).max_decoding_message_size(z4_proto::MESSAGE_BYTES_MAX);
            grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
            let path = PathAndQuery::from_static(method);
            grpc.streaming(Request::new(ReceiverStream::new(requests)), path, Raw::<R>::default()).await
        };
        Self { sender, opening: Some(Box::pin(opening)), replies: None }
    }

    /// Queues a frame.
    ///
    /// # Errors
    /// `UNAVAILABLE` if the stream is over or the queue is full.
    pub(crate) fn send(&self, frame: Frame) -> Result<(), Status> {
        self.sender
            .try_send(frame)
            .map_err(|error| Status::unavailable(format!("the stream takes no frame: {error}")))
    }

    /// Returns a handle that queues frames from elsewhere.
    pub(crate) fn sender(&self) -> mpsc::Sender<Frame> {
        self.sender.clone()
    }

    /// Waits for the next reply. Cancel safe.
    ///
    /// # Errors
    /// The status of the stream; `UNAVAILABLE` if it ended without one.
    pub(crate) async fn next(&mut self) -> Result<R, Status> {
        if let Some(opening) = &mut self.opening {
            let opened = opening.as_mut().await;
            self.opening = None;
            self.replies = Some(opened?.into_inner());
        }
        match &mut self.replies {
            Some(replies) => match replies.message().await? {
                Some(reply) => Ok(reply),
                None => Err(Status::unavailable("the server ended the stream")),
            },
            None => Err(Status::unavailable("the stream is over")),
        }
    }

    /// Like `next`, for a reply that must come.
    ///
    /// # Errors
    /// As `next`; `DEADLINE_EXCEEDED` if nothing came.
    pub(crate) async fn must_come(&mut self) -> Result<R, Status> {
        match tokio::time::timeout(PATIENCE, self.next()).await {
            Ok(reply) => reply,
            Err(_) => Err(Status::deadline_exceeded(format!("the server was silent for {PATIENCE:?}"))),
        }
    }
}

/// Path of the push stream.
pub(crate) const PUSH: &str = "/z4.v1.Tasks/Push";
/// Path of the pull stream.
pub(crate) const PULL: &str = "/z4.v1.Tasks/Pull";

/// Tasks that go out in one frame.
#[derive(Debug, Clone)]
pub(crate) struct Batch {
    /// How many.
    pub(crate) count: u32,
    /// Encoded tasks that are new.
    pub(crate) fresh: Vec<u8>,
    /// The queue, and encoded tasks that are the same in every frame.
    pub(crate) body: Bytes,
}

/// What a producer did.
#[derive(Debug)]
pub(crate) struct Pushed {
    /// Tasks answered OK.
    pub(crate) tasks: u64,
    /// Frames that were refused for a time and sent again.
    pub(crate) refusals: u64,
    /// From sending a frame to its OK, refusals included.
    pub(crate) latency: Micros,
    /// An id of each frame.
    pub(crate) samples: Vec<[u8; ID_BYTES]>,
}

impl Default for Pushed {
    fn default() -> Self {
        Self { tasks: 0, refusals: 0, latency: micros(), samples: Vec::new() }
    }
}

impl Pushed {
    /// Adds what another producer did.
    ///
    /// # Errors
    /// Never: both histograms grow by themselves.
    pub(crate) fn add(&mut self, other: Self) -> Result<()> {
        self.tasks += other.tasks;
        self.refusals += other.refusals;
        self.latency.add(other.latency).context("histograms of one shape add up")?;
        self.samples.extend(other.samples);
        Ok(())
    }
}

/// A producer.
#[derive(Debug, Clone)]
pub(crate) struct Producer {
    /// Its connection.
    pub(crate) channel: Channel,
    /// Unanswered frames.
    pub(crate) window: usize,
    /// Tasks that may be out; a frame takes as many as it has.
    pub(crate) gate: Option<Arc<Semaphore>>,
    /// Counts tasks answered OK, for those who watch.
    pub(crate) progress: Arc<AtomicU64>,
    /// Whether ids are kept.
    pub(crate) sample: bool,
}

struct Flying {
    since: Instant,
    count: u32,
    frame: Frame,
}

impl Producer {
    /// Pushes what `next` gives until it gives None, and waits for all answers.
    ///
    /// # Errors
    /// A refusal that waiting does not heal, or a stream that broke.
    pub(crate) async fn run(
        self,
        frame_tasks: u32,
        mut next: impl FnMut() -> Option<Batch>,
    ) -> Result<Pushed> {
        let mut link = Link::<PushAnswer>::open(self.channel.clone(), PUSH, self.window + 8);
        let mut flying: BTreeMap<u64, Flying> = BTreeMap::new();
        let (mut pushed, mut seq, mut more) = (Pushed::default(), 0, true);
        while more || !flying.is_empty() {
            let room = more && flying.len() < self.window;
            tokio::select! {
                biased;
                () = self.pass(frame_tasks), if room => {
                    let Some(batch) = next() else {
                        more = false;
                        continue;
                    };
                    seq += 1;
                    let frame = wire::push_frame(seq, &z4_client::request_id(), &batch.fresh, &batch.body);
                    link.send(frame.clone())?;
                    flying.insert(seq, Flying { since: Instant::now(), count: batch.count, frame });
                }
                answer = link.must_come(), if !flying.is_empty() => {
                    let answer = answer.context("push stream")?;
                    let sent = flying.remove(&answer.seq).context("an answer to a frame nobody sent")?;
                    if let Some(failure) = &answer.failure {
                        tokio::time::sleep(delay_of(failure)?).await;
                        pushed.refusals += 1;
                        link.send(sent.frame.clone())?;
                        flying.insert(answer.seq, sent);
                        continue;
                    }
                    if let Some(failure) = answer.refused.first() {
                        bail!("a task was refused: {} {}", failure.reason, failure.message);
                    }
                    ensure!(answer.created == sent.count, "{} ids for {} tasks", answer.created, sent.count);
                    record(&mut pushed.latency, sent.since.elapsed());
                    pushed.tasks += u64::from(sent.count);
                    self.progress.fetch_add(u64::from(sent.count), Ordering::Relaxed);
                    if self.sample {
                        pushed.samples.extend(answer.sample);
                    }
                }
            }
        }
        Ok(pushed)
    }

    async fn pass(&self, tasks: u32) {
        if let Some(gate) = &self.gate {
            // Given back when the tasks are acked.
            gate.acquire_many(tasks).await.expect("nobody closes the gate").forget();
        }
    }
}

/// Returns how long to wait before sending again.
fn delay_of(failure: &v1::Failure) -> Result<Duration> {
    let again = [tonic::Code::ResourceExhausted as i32, tonic::Code::Unavailable as i32];
    ensure!(again.contains(&failure.code), "a batch was refused: {} {}", failure.reason, failure.message);
    Ok(failure.retry_delay.and_then(|delay| Duration::try_from(delay).ok()).unwrap_or(RETRY_DEFAULT))
}

/// When consumers are done: shared by all of a queue.
#[derive(Debug)]
pub(crate) struct Goal {
    settled: AtomicU64,
    wanted: AtomicU64,
    reached: watch::Sender<bool>,
}

impl Goal {
    /// Returns a goal of `wanted` acks; `u64::MAX` until it is known.
    pub(crate) fn new(wanted: u64) -> Arc<Self> {
        Arc::new(Self {
            settled: AtomicU64::new(0),
            wanted: AtomicU64::new(wanted),
            reached: watch::Sender::new(false),
        })
    }

    /// Returns the acks answered OK so far.
    pub(crate) fn settled(&self) -> u64 {
        self.settled.load(Ordering::Relaxed)
    }

    /// Says how many it shall be.
    pub(crate) fn set(&self, wanted: u64) {
        self.wanted.store(wanted, Ordering::SeqCst);
        self.add(0);
    }

    fn add(&self, count: u64) {
        let settled = self.settled.fetch_add(count, Ordering::SeqCst) + count;
        if settled >= self.wanted.load(Ordering::SeqCst) {
            self.reached.send_replace(true);
        }
    }
}

/// A consumer.
#[derive(Debug, Clone)]
pub(crate) struct Consumer {
    /// Its connection.
    pub(crate) channel: Channel,
    /// The queue.
    pub(crate) queue: String,
    /// Tasks it holds at most.
    pub(crate) credit: u32,
    /// When it is done.
    pub(crate) goal: Arc<Goal>,
    /// Gets room for every acked task.
    pub(crate) gate: Option<Arc<Semaphore>>,
    /// What it does with each task before it is acked; whole milliseconds.
    pub(crate) work: Duration,
}

impl Consumer {
    /// Consumes and acks until the goal is reached, showing every batch to `seen`. Returns the times from sending acks
    /// to their OK.
    ///
    /// # Errors
    /// A refused ack, or a stream that broke.
    pub(crate) async fn run(self, mut seen: impl FnMut(&Leases) -> Result<()>) -> Result<Micros> {
        let mut link = Link::<PullAnswer>::open(self.channel.clone(), PULL, CONSUMER_QUEUE);
        let open = Open { queue: self.queue.clone(), ..Open::default() };
        let request = |message| wire::message(&v1::PullRequest { message: Some(message) });
        link.send(request(Message::Open(open)))?;
        link.send(request(Message::Credit(Credit { tasks: self.credit, bytes: CREDIT_BYTES })))?;
        let mut reached = self.goal.reached.subscribe();
        let mut flying: BTreeMap<u64, (Instant, u32)> = BTreeMap::new();
        let (mut latency, mut next_seq, mut used, mut used_bytes) = (micros(), 0, 0, 0);
        loop {
            let answer = tokio::select! {
                biased;
                answer = link.next() => answer.context("pull stream")?,
                _ = reached.wait_for(|reached| *reached) => return Ok(latency),
            };
            match answer {
                PullAnswer::Opened => {}
                PullAnswer::Draining => bail!("the server is going away"),
                PullAnswer::Tasks(leases) => {
                    seen(&leases)?;
                    next_seq += 1;
                    let (frame, count, bytes) = leases.acks(next_seq)?;
                    if !self.work.is_zero() {
                        tokio::time::sleep(self.work * count).await;
                    }
                    link.send(frame)?;
                    flying.insert(next_seq, (Instant::now(), count));
                    used += count;
                    used_bytes += bytes;
                    // A quarter at a time: few messages, and the server never waits for credit.
                    if used >= self.credit / 4 {
                        link.send(request(Message::Credit(Credit { tasks: used, bytes: used_bytes })))?;
                        (used, used_bytes) = (0, 0);
                    }
                }
                PullAnswer::Settled { seq, errors, failure } => {
                    let (since, count) = flying.remove(&seq).context("an answer to acks nobody sent")?;
                    let failure =
                        failure.or_else(|| errors.into_iter().next().and_then(|error| error.failure));
                    if let Some(failure) = failure {
                        bail!("an ack was refused: {} {}", failure.reason, failure.message);
                    }
                    record(&mut latency, since.elapsed());
                    if let Some(gate) = &self.gate {
                        gate.add_permits(count as usize);
                    }
                    self.goal.add(u64::from(count));
                }
            }
        }
    }
}

/// Returns tasks of `payload` bytes for many frames: the queue and `count` tasks.
pub(crate) fn body(queue: &str, count: u32, payload: usize) -> Bytes {
    let (mut tasks, mut scratch) = (Vec::new(), Vec::new());
    let payload = vec![b'x'; payload];
    for _ in 0..count {
        wire::put_task(&mut tasks, &mut scratch, &payload, None);
    }
    wire::push_body(queue, &tasks)
}

/// Returns the same with tasks of so many groups, in turns.
pub(crate) fn grouped_body(queue: &str, count: u32, payload: usize, groups: usize) -> Bytes {
    let (mut tasks, mut scratch) = (Vec::new(), Vec::new());
    let payload = vec![b'x'; payload];
    for task in 0..count as usize {
        wire::put_grouped(&mut tasks, &mut scratch, &payload, &format!("tenant-{}", task % groups));
    }
    wire::push_body(queue, &tasks)
}

/// Returns one task due at once with `stamp` in its payload.
pub(crate) fn stamped(stamp: u64, payload: usize) -> Vec<u8> {
    let (mut task, mut scratch) = (Vec::new(), Vec::new());
    wire::put_task(&mut task, &mut scratch, &stamped_payload(stamp, payload), None);
    task
}

/// Returns a payload that holds `stamp`.
pub(crate) fn stamped_payload(stamp: u64, payload: usize) -> Vec<u8> {
    let mut bytes = vec![b'x'; payload.max(STAMP.len() + 8)];
    bytes[..8].copy_from_slice(&stamp.to_le_bytes());
    bytes[8..8 + STAMP.len()].copy_from_slice(STAMP);
    bytes
}

/// Tells stamped payloads from others.
const STAMP: &[u8] = b"z4-stamp";

/// Returns the stamp of a payload, if it has one.
pub(crate) fn stamp_of(payload: &[u8]) -> Option<u64> {
    let (stamp, rest) = payload.split_first_chunk()?;
    rest.starts_with(STAMP).then(|| u64::from_le_bytes(*stamp))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::wire::push_frame;
    use prost::Message as _;

    #[test]
    fn a_stamp_survives_and_other_payloads_have_none() {
        let frame = push_frame(1, "r", &stamped(77, 200), &body("q", 2, 200));
        let bytes = [frame.head.as_slice(), &frame.body].concat();
        let request = v1::PushRequest::decode(bytes.as_slice()).expect("a message");
        let stamps: Vec<_> = request.tasks.iter().map(|task| stamp_of(&task.payload)).collect();
        assert_eq!(stamps, [Some(77), None, None]);
        assert!(request.tasks.iter().all(|task| task.payload.len() == 200));
    }

    #[test]
    fn only_what_waiting_heals_is_sent_again() {
        let failure = |code: tonic::Code, delay: Option<i32>| v1::Failure {
            code: code as i32,
            retry_delay: delay.map(|ms| z4_proto::Duration { seconds: 0, nanos: ms * 1_000_000 }),
            ..v1::Failure::default()
        };
        let delay = |failure| delay_of(&failure).ok();
        assert_eq!(delay(failure(tonic::Code::ResourceExhausted, Some(50))), Some(Duration::from_millis(50)));
        assert_eq!(delay(failure(tonic::Code::Unavailable, None)), Some(RETRY_DEFAULT));
        assert_eq!(delay(failure(tonic::Code::InvalidArgument, None)), None);
    }

    #[test]
    fn a_goal_that_is_set_late_is_reached_at_once() {
        let goal = Goal::new(u64::MAX);
        goal.add(5);
        assert!(!*goal.reached.borrow());
        goal.set(5);
        assert!(*goal.reached.borrow());
        assert_eq!(goal.settled(), 5);
    }
}
