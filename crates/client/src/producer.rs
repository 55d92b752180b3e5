//! The producer: single pushes in, frames of a stream out, every one answered within its time.
//!
//! **Batching without linger.** The first task goes out at once. While few frames are under way the next one fills;
//! it goes when one is answered, or when it is full. So an idle producer has the latency of one call, and a busy one
//! full frames, and nothing ever waits for company.
//!
//! **Retries.** Each frame carries a random 128-bit request id and keeps it, over retries, reconnects and hosts. So a
//! frame whose answer was lost can be sent again and makes no second task (P6).
//!
//! **The leader.** A reply that came from another host names it. The stream then takes no new frame, and when the last
//! one under way is answered the next stream is opened there.
//!
//! One task owns the stream and all frames; handles send it jobs. What no frame can carry they refuse themselves.
//!
//! # Invariants
//! - A frame is in exactly one of `buffer` (not yet formed), `flying`, `again`, or answered.
//! - A frame weighs at most `FRAME_BYTES`, or is one task of at most `BATCH_BYTES_MAX`: the server can read it.
//! - Bytes held, answered or not, stay within the budget: each job holds its permits until it is answered.

mod frame;
mod weight;

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout_at};
use z4_proto::convert;
use z4_proto::{reason, v1};
use z4_types::limits::{BATCH_BYTES_MAX, BATCH_TASKS_MAX};
use z4_types::{Kind, TaskId};

use crate::backoff::Backoff;
use crate::call::{ATTEMPT_MIN, HOPS_MAX, SPAN_MAX, learn, named};
use crate::client::{created, tasks};
use crate::duplex::{Duplex, NotSent};
use crate::endpoints::About;
use crate::{Client, Error, NewTask, random};
use frame::{Frame, Job, Waiters};
use weight::{refusal, weight};

/// Frames that may be under way before the next waits until it is full. Two, so that the server has one to work on
/// while the answer of the other is on its way.
const PARTIAL_FRAMES_MAX: usize = 2;
/// Tasks of a full frame unless set: about a millisecond of a server's work.
const FRAME_TASKS_DEFAULT: usize = 1_000;
/// Weight of its tasks after which a frame is full, bytes: far below the batch limit, one log entry.
const FRAME_BYTES: usize = 1 << 20;
/// Frames under way unless set.
const WINDOW_DEFAULT: usize = 8;
/// Bytes a producer holds before `push` waits, unless set.
const BUFFER_BYTES_DEFAULT: usize = 32 << 20;
/// The budget is counted in blocks of this size, because a semaphore counts to 2^29 only; what a small task costs.
const BLOCK_BYTES: usize = 256;
/// Pause when the stream takes no more, which has no other wake-up.
const QUEUE_FULL_PAUSE: Duration = Duration::from_millis(20);
/// From push to answer unless set. Long enough for the election of a new leader.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);

/// Sets up a [`Producer`].
#[derive(Debug, Clone)]
#[must_use]
pub struct ProducerBuilder {
    client: Client,
    queue: String,
    window: usize,
    frame_tasks: usize,
    buffer_bytes: usize,
    timeout: Duration,
}

impl ProducerBuilder {
    pub(crate) fn new(client: Client, queue: String) -> Self {
        Self {
            client,
            queue,
            window: WINDOW_DEFAULT,
            frame_tasks: FRAME_TASKS_DEFAULT,
            buffer_bytes: BUFFER_BYTES_DEFAULT,
            timeout: TIMEOUT_DEFAULT,
        }
    }

    /// Most frames under way; 8 unless set.
    pub fn window(mut self, frames: usize) -> Self {
        self.window = frames.max(1);
        self
    }

    /// Most tasks of a frame, at most 8,192; 1,000 unless set.
    pub fn frame_tasks(mut self, tasks: usize) -> Self {
        self.frame_tasks = tasks.clamp(1, BATCH_TASKS_MAX);
        self
    }

    /// Bytes held before `push` waits for room; 32 MiB unless set, 8 MiB at least.
    pub fn buffer_bytes(mut self, bytes: usize) -> Self {
        self.buffer_bytes = bytes.clamp(BATCH_BYTES_MAX, Semaphore::MAX_PERMITS);
        self
    }

    /// Every push is answered within this time, over all retries; 30 s unless set, 24 h at most.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout.min(SPAN_MAX);
        self
    }

    /// Starts the producer. It ends when all its handles are dropped and every push is answered.
    ///
    /// # Errors
    /// `Invalid` if the queue's name is none.
    pub fn build(self) -> Result<Producer, Error> {
        convert::queue_name(&self.queue, "queue")?;
        let (jobs, inbox) = mpsc::unbounded_channel();
        let producer = Producer {
            jobs,
            budget: Arc::new(Semaphore::new(self.buffer_bytes / BLOCK_BYTES)),
            frame_tasks: self.frame_tasks,
            timeout: self.timeout,
        };
        tokio::spawn(Driver::new(self, inbox).run());
        Ok(producer)
    }
}

/// Pushes tasks into one queue. Cheap to clone; clones share the stream.
#[derive(Debug, Clone)]
pub struct Producer {
    /// Not bounded by itself: every job in it holds permits of the budget.
    jobs: mpsc::UnboundedSender<Job>,
    budget: Arc<Semaphore>,
    frame_tasks: usize,
    timeout: Duration,
}

/// The answer to one push, when it comes. Dropping it does not take the push back.
#[derive(Debug)]
#[must_use = "a push can fail; await its receipt"]
pub struct Receipt(oneshot::Receiver<Result<TaskId, Error>>);

impl Future for Receipt {
    type Output = Result<TaskId, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(|answer| answer.unwrap_or_else(|_| Err(gone())))
    }
}

impl Producer {
    /// Pushes one task and waits for its answer: durable on a majority.
    ///
    /// # Errors
    /// Any kind; after `OutcomeUnknown` the task may exist. `Invalid` concerns this task alone.
    pub async fn push(&self, task: NewTask) -> Result<TaskId, Error> {
        self.enqueue(task).await?.await
    }

    /// Hands over one task, waiting only for room in the buffer; the receipt brings its answer.
    ///
    /// # Errors
    /// `Overloaded` if there was no room in time; `Invalid` if the task is larger than a batch may be.
    pub async fn enqueue(&self, task: NewTask) -> Result<Receipt, Error> {
        if let Some(error) = refusal(&task.0) {
            return Err(error);
        }
        let since = Instant::now();
        let permit = self.room(weight(&task.0), since).await?;
        let (waiter, receipt) = oneshot::channel();
        self.jobs.send(Job::One { task: Box::new(task.0), waiter, permit, since }).map_err(|_| gone())?;
        Ok(Receipt(receipt))
    }

    /// Pushes many tasks and waits for all answers, one each, in order. They go out in frames of their own.
    pub async fn push_batch(&self, batch: Vec<NewTask>) -> Vec<Result<TaskId, Error>> {
        let mut results = Vec::with_capacity(batch.len());
        let mut receipts = Vec::new();
        let mut rest = batch.into_iter().map(|task| task.0).peekable();
        while let Some(first) = rest.peek() {
            if let Some(error) = refusal(first) {
                rest.next();
                receipts.push((1, Err(error)));
                continue;
            }
            let (mut chunk, mut bytes) = (Vec::with_capacity(self.frame_tasks.min(rest.len())), 0);
            // One that no frame can carry does not fit here either.
            while let Some(task) = rest.next_if(|t| chunk.is_empty() || bytes + weight(t) <= FRAME_BYTES) {
                bytes += weight(&task);
                chunk.push(task);
                if chunk.len() >= self.frame_tasks {
                    break;
                }
            }
            let since = Instant::now();
            let count = chunk.len();
            let sent = match self.room(bytes, since).await {
                Ok(permit) => {
                    let (waiter, receipt) = oneshot::channel();
                    let job = Job::Many { tasks: chunk, waiter, permit, since };
                    self.jobs.send(job).map(|()| receipt).map_err(|_| gone())
                }
                Err(error) => Err(error),
            };
            receipts.push((count, sent));
        }
        for (count, sent) in receipts {
            match sent {
                Ok(receipt) => match receipt.await {
                    Ok(answers) => results.extend(answers),
                    Err(_) => results.extend(std::iter::repeat_n(Err(gone()), count)),
                },
                Err(error) => results.extend(std::iter::repeat_n(Err(error), count)),
            }
        }
        results
    }

    async fn room(&self, bytes: usize, since: Instant) -> Result<OwnedSemaphorePermit, Error> {
        // It fits: the buffer holds a full batch at least, and what is more than that was refused.
        let blocks = u32::try_from(bytes.div_ceil(BLOCK_BYTES)).expect("a batch is far below 2^32 blocks");
        let budget = Arc::clone(&self.budget);
        if let Ok(permit) = Arc::clone(&budget).try_acquire_many_owned(blocks) {
            return Ok(permit);
        }
        match timeout_at(since + self.timeout, budget.acquire_many_owned(blocks)).await {
            Ok(permit) => permit.map_err(|_| gone()),
            Err(_) => Err(Error::new(
                Kind::Overloaded,
                reason::OVERLOADED,
                format!("the producer's buffer stayed full for {:?}; push less, or later", self.timeout),
            )),
        }
    }
}

fn gone() -> Error {
    let what = "the producer's runtime has shut down; the push may have been sent";
    Error::new(Kind::OutcomeUnknown, reason::OUTCOME_UNKNOWN, what)
}

struct Driver {
    rules: ProducerBuilder,
    inbox: mpsc::UnboundedReceiver<Job>,
    buffer: VecDeque<Job>,
    /// Single tasks in the buffer, and their bytes: a full frame may go at any time.
    buffered: usize,
    buffered_bytes: usize,
    flying: BTreeMap<u64, Frame>,
    again: VecDeque<Frame>,
    link: Option<Link>,
    backoff: Backoff,
    /// Nothing is sent before this: the server asked for it, or the connection just failed.
    paused_until: Instant,
    next_seq: u64,
    /// Why the link failed last, for pushes that were never sent.
    trouble: Option<Error>,
    /// Links left for another leader since the last success.
    hops: u32,
}

struct Link {
    address: String,
    /// Another host leads: when all that is under way is answered, go there.
    leaving: bool,
    stream: Duplex<v1::PushRequest, v1::PushReply>,
}

impl Driver {
    fn new(rules: ProducerBuilder, inbox: mpsc::UnboundedReceiver<Job>) -> Self {
        Self {
            rules,
            inbox,
            buffer: VecDeque::new(),
            buffered: 0,
            buffered_bytes: 0,
            flying: BTreeMap::new(),
            again: VecDeque::new(),
            link: None,
            backoff: Backoff::default(),
            paused_until: Instant::now(),
            next_seq: 1,
            trouble: None,
            hops: 0,
        }
    }

    async fn run(mut self) {
        let mut open = true;
        loop {
            while let Ok(job) = self.inbox.try_recv() {
                self.take(job);
            }
            let now = Instant::now();
            self.expire(now);
            self.send(now);
            if !open && self.buffer.is_empty() && self.flying.is_empty() && self.again.is_empty() {
                return;
            }
            let timer = self.timer(now);
            tokio::select! {
                job = self.inbox.recv(), if open => match job {
                    Some(job) => self.take(job),
                    None => open = false,
                },
                reply = receive(&mut self.link), if self.link.is_some() => match reply {
                    Ok(Some(reply)) => self.replied(reply),
                    Ok(None) => self.link_failed(Error::new(
                        Kind::OutcomeUnknown,
                        reason::OUTCOME_UNKNOWN,
                        "the server ended the stream before it answered",
                    )),
                    Err(error) => self.link_failed(error),
                },
                () = sleep_until(timer.unwrap_or(now)), if timer.is_some() => {}
            }
        }
    }

    fn take(&mut self, job: Job) {
        if let Job::One { task, .. } = &job {
            self.buffered += 1;
            self.buffered_bytes += weight(task);
        }
        self.buffer.push_back(job);
    }

    /// When something happens without a message: a deadline, or the end of a pause.
    fn timer(&self, now: Instant) -> Option<Instant> {
        let frames = self.flying.values().chain(&self.again).map(|frame| frame.deadline);
        let waiting = self.buffer.front().map(|job| job.since() + self.rules.timeout);
        let pause = (self.paused_until > now && !(self.again.is_empty() && self.buffer.is_empty()))
            .then_some(self.paused_until);
        frames.chain(waiting).chain(pause).min()
    }

    /// Answers what has run out of time.
    fn expire(&mut self, now: Instant) {
        let late: Vec<u64> = self.flying.values().filter(|f| f.deadline <= now).map(|f| f.seq).collect();
        for seq in late {
            let frame = self.flying.remove(&seq).expect("just listed");
            let error = self.too_late(true, frame.last.as_ref());
            frame.fail(&error);
        }
        for _ in 0..self.again.len() {
            let frame = self.again.pop_front().expect("counted");
            if frame.deadline <= now {
                let error = self.too_late(frame.in_doubt, frame.last.as_ref());
                frame.fail(&error);
            } else {
                self.again.push_back(frame);
            }
        }
        while self.buffer.front().is_some_and(|job| job.since() + self.rules.timeout <= now) {
            let error = self.too_late(false, None);
            match self.buffer.pop_front().expect("looked at") {
                Job::One { task, waiter, .. } => {
                    self.buffered -= 1;
                    self.buffered_bytes -= weight(&task);
                    drop(waiter.send(Err(error)));
                }
                Job::Many { tasks, waiter, .. } => drop(waiter.send(vec![Err(error); tasks.len()])),
            }
        }
    }

    fn too_late(&self, in_doubt: bool, last: Option<&Error>) -> Error {
        let time = self.rules.timeout;
        let why = last.or(self.trouble.as_ref()).map(|e| format!("; last failure: {e}")).unwrap_or_default();
        if in_doubt {
            let what = format!("no answer within {time:?}; the push may have been done{why}");
            return Error::new(Kind::OutcomeUnknown, reason::DEADLINE_EXCEEDED, what);
        }
        let kind = last.or(self.trouble.as_ref()).map_or(Kind::Unavailable, Error::kind);
        let kind = if kind == Kind::Overloaded { kind } else { Kind::Unavailable };
        Error::new(kind, reason::DEADLINE_EXCEEDED, format!("not accepted within {time:?}{why}"))
    }

    /// Sends what may be sent.
    fn send(&mut self, now: Instant) {
        if now < self.paused_until {
            return;
        }
        while self.flying.len() < self.rules.window {
            if self.link.as_ref().is_some_and(|link| link.leaving) {
                if !self.flying.is_empty() {
                    return;
                }
                self.link = None;
            }
            let frame = match self.again.pop_front() {
                Some(frame) => Some(frame),
                None if self.flying.len() < PARTIAL_FRAMES_MAX || self.full() => self.form(),
                None => None,
            };
            let Some(frame) = frame else { return };
            if self.link.is_none() && frame.deadline <= now + ATTEMPT_MIN {
                // No time left to connect: let it expire as what it is, not as sent and unanswered.
                return self.again.push_front(frame);
            }
            let link = self.link.get_or_insert_with(|| open(&self.rules));
            let request = v1::PushRequest {
                seq: frame.seq,
                queue: self.rules.queue.clone(),
                tasks: frame.tasks.clone(),
                request_id: frame.request_id.clone(),
            };
            match link.stream.try_send(request) {
                Ok(()) => drop(self.flying.insert(frame.seq, frame)),
                // The stream is over and `recv` will say why; or a late frame still sits in the queue.
                Err(NotSent::Closed(_) | NotSent::Full(_)) => {
                    self.paused_until = now + QUEUE_FULL_PAUSE;
                    return self.again.push_front(frame);
                }
            }
        }
    }

    /// The next frame needs no more company.
    fn full(&self) -> bool {
        matches!(self.buffer.front(), Some(Job::Many { .. }))
            || self.buffered >= self.rules.frame_tasks
            || self.buffered_bytes >= FRAME_BYTES
    }

    /// Makes a frame of what is first in the buffer: one batch, or single tasks up to a full frame.
    fn form(&mut self) -> Option<Frame> {
        let oldest = self.buffer.front()?.since();
        // A frame has the deadline of its oldest task; much younger ones would be cut short by it.
        let (deadline, youngest) = (oldest + self.rules.timeout, oldest + self.rules.timeout / 4);
        let mut joined: Option<OwnedSemaphorePermit> = None;
        let (mut together, mut each, mut bytes) = (Vec::new(), Vec::new(), 0);
        while let Some(job) = self.buffer.pop_front() {
            match job {
                Job::Many { tasks, waiter, permit, .. } if each.is_empty() => {
                    return Some(self.frame(tasks, Waiters::Whole(waiter), permit, deadline));
                }
                Job::One { task, waiter, permit, since }
                    if each.is_empty()
                        || (each.len() < self.rules.frame_tasks
                            && bytes + weight(&task) <= FRAME_BYTES
                            && since <= youngest) =>
                {
                    bytes += weight(&task);
                    together.push(*task);
                    each.push(waiter);
                    match &mut joined {
                        Some(joined) => joined.merge(permit),
                        None => joined = Some(permit),
                    }
                }
                job => {
                    self.buffer.push_front(job);
                    break;
                }
            }
        }
        self.buffered -= each.len();
        self.buffered_bytes -= bytes;
        Some(self.frame(together, Waiters::Each(each), joined?, deadline))
    }

    fn frame(
        &mut self,
        tasks: Vec<v1::NewTask>,
        waiters: Waiters,
        permit: OwnedSemaphorePermit,
        deadline: Instant,
    ) -> Frame {
        let seq = self.next_seq;
        self.next_seq += 1;
        let request_id = random::request_id();
        Frame { seq, request_id, tasks, waiters, _permit: permit, deadline, in_doubt: false, last: None }
    }

    fn replied(&mut self, reply: v1::PushReply) {
        // None: its time ran out before the answer came.
        let Some(mut frame) = self.flying.remove(&reply.seq) else { return };
        let Some(failure) = reply.failure else {
            self.backoff.reset();
            self.trouble = None;
            self.rules.client.look_around();
            self.hops = 0;
            self.follow(&reply.forwarded_to);
            match created(frame.tasks.len(), reply.ids, reply.errors) {
                Ok(answers) => frame.waiters.answer(answers),
                Err(error) => frame.fail(&error),
            }
            return;
        };
        let error = Error::from(failure);
        if !error.is_retryable() {
            return frame.fail(&error);
        }
        tracing::debug!(%error, seq = frame.seq, "push will be retried");
        frame.in_doubt |= error.kind() == Kind::OutcomeUnknown;
        frame.last = Some(error.clone());
        self.again.push_back(frame);
        // Nothing was done, and it is known who does it: no reason to wait. Unless hosts send us in circles.
        if let Some(leader) = error.leader()
            && self.follow(leader)
            && self.hops <= HOPS_MAX
        {
            return;
        }
        self.pause(&error);
        if error.blames_host() && error.kind() == Kind::Unavailable {
            self.link_failed(error);
        }
    }

    /// Somebody said that `leader` leads; empty means that nobody is named. Returns whether the next stream goes elsewhere.
    fn follow(&mut self, leader: &str) -> bool {
        let Some(link) = self.link.as_mut().filter(|_| !leader.is_empty()) else { return false };
        let (endpoints, about) = (self.rules.client.endpoints(), About::Queue(&self.rules.queue));
        endpoints.leads(about, leader);
        let elsewhere = endpoints.to(about).0 != link.address;
        if elsewhere && !link.leaving {
            link.leaving = true;
            self.hops += 1;
        }
        elsewhere
    }

    fn pause(&mut self, error: &Error) {
        let asked = self.rules.client.endpoints().asked_to_wait(error);
        let until = Instant::now() + self.backoff.next(asked);
        self.paused_until = self.paused_until.max(until);
    }

    /// Everything under way is in doubt: send it again under the same ids, elsewhere if there is an elsewhere.
    fn link_failed(&mut self, error: Error) {
        let Some(link) = self.link.take() else { return };
        let error = named(error, &link.address);
        let (client, about) = (&self.rules.client, About::Queue(&self.rules.queue));
        let led = learn(client.endpoints(), about, &link.address, &error);
        if !led && !error.blames_host() {
            client.endpoints().failed(&link.address);
        }
        if !error.is_retryable() {
            // The server refused the stream itself: none of these can ever succeed.
            for frame in std::mem::take(&mut self.flying).into_values().chain(std::mem::take(&mut self.again))
            {
                frame.fail(&error);
            }
            self.trouble = Some(error.clone());
            return self.pause(&error);
        }
        tracing::debug!(%error, address = link.address, "push stream failed");
        let sent = error.reason() != reason::UNREACHABLE;
        for (_, mut frame) in std::mem::take(&mut self.flying).into_iter().rev() {
            frame.in_doubt |= sent;
            frame.last = Some(error.clone());
            self.again.push_front(frame);
        }
        self.pause(&error);
        self.trouble = Some(error);
    }
}

fn open(rules: &ProducerBuilder) -> Link {
    let (address, channel) = rules.client.endpoints().to(About::Queue(&rules.queue));
    Link {
        address,
        leaving: false,
        stream: Duplex::new(rules.window, |requests| async move { tasks(channel).push(requests).await }),
    }
}

async fn receive(link: &mut Option<Link>) -> Result<Option<v1::PushReply>, Error> {
    match link {
        Some(link) => Ok(link.stream.recv().await?),
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
