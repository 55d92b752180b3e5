//! The fast path of consumption: credits and settlements in, leased tasks and answers out.
//!
//! ```text
//!   requests ──► Session ──settle──► handle ──► answers ──┐
//!                   │ credit                               ├──► Replies ──► socket
//!                   ▼                                      │
//!                shard ──leased tasks──► Sink ─► Arrivals ─┘
//! ```
//!
//! Leased tasks go from the driver's thread straight to the stream that HTTP/2 polls: nothing stands between, so what
//! was not written is known exactly and released. When the server stops, or the client closes its side, the credit
//! is void: `Replies` hands out no more tasks, answers go on.
//!
//! A stream for a shard that another host leads is passed on to it when it is opened, and needs no more of this file
//! (`forward/pipe.rs`).
//!
//! # Invariants
//! - The first message opens the consumer; credit and settlements before it, and a second one, end the stream.
//! - After Draining no tasks are sent.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio::time::{sleep, timeout};
use tokio_stream::Stream;
use tonic::Status;
use z4_host::Consumer;
use z4_proto::convert::{consumer_name, lease_wish, pb_duration, queue_name};
use z4_proto::reason;
use z4_proto::status::Failure;
use z4_proto::v1;
use z4_proto::v1::pull_reply::{Draining, Message as Out, Opened, Settled, Tasks};
use z4_proto::v1::pull_request::{Credit, Message as In, Open, Settle};
use z4_types::limits::{CONSUMER_CREDIT_BYTES_MAX, CONSUMER_CREDIT_TASKS_MAX};
use z4_types::{Kind, QueueName};

use super::settle::settle;
use crate::arrivals::{Arrivals, Sink, Unused, arrivals};
use crate::call::Call;
use crate::deadline::CALL_DEFAULT;
use crate::door::Door;
use crate::forward::{Leader, Pauses, Piped, Splice, leader, pipe};
use crate::messages::leased_task;
use crate::meter::Broken;
use crate::requests::Requests;
use crate::status;

/// Settlement frames of one stream under way; past it the stream is not read.
const SETTLES_MAX: usize = 64;
/// Settlements are answered so long after the server was told to stop.
const DRAIN_GRACE: Duration = Duration::from_secs(5);

type Reply = Result<v1::PullReply, Status>;

/// What the socket polls.
pub(crate) struct Replies {
    door: Door,
    answers: mpsc::Receiver<Reply>,
    arrivals: Arrivals,
    /// Set when no more tasks are to be sent.
    void: Arc<AtomicBool>,
    ended: bool,
}

/// The reading half of one stream.
struct Session {
    door: Door,
    /// Takes the leader's answer, if the shard is led elsewhere.
    splice: Option<Splice>,
    /// Another host has passed the stream on.
    forwarded: bool,
    answers: mpsc::Sender<Reply>,
    settles: Arc<Semaphore>,
    unused: Arc<Unused>,
    void: Arc<AtomicBool>,
    /// Taken when the stream is opened.
    sink: Option<Sink>,
    consumer: Option<Consumer>,
}

/// Where a stream was opened.
#[derive(Debug, PartialEq, Eq)]
enum Begun {
    Here,
    /// And it is over.
    Elsewhere,
}

/// Serves one stream, in a task of its own.
pub(super) fn pull(
    door: &Door,
    requests: Requests<v1::PullRequest>,
    splice: Option<Splice>,
    forwarded: bool,
) -> Replies {
    let (answers, receiver) = mpsc::channel(SETTLES_MAX);
    let unused = Arc::new(Unused::default());
    let void = Arc::new(AtomicBool::new(false));
    let (sink, arrivals) = arrivals(door.handle().clone(), Arc::clone(&unused));
    let session = Session {
        door: door.clone(),
        splice,
        forwarded,
        answers,
        settles: Arc::new(Semaphore::new(SETTLES_MAX)),
        unused,
        void: Arc::clone(&void),
        sink: Some(sink),
        consumer: None,
    };
    tokio::spawn(session.run(requests));
    Replies { door: door.clone(), answers: receiver, arrivals, void, ended: false }
}

impl Stream for Replies {
    type Item = Reply;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Reply>> {
        if self.ended {
            return Poll::Ready(None);
        }
        // Answers first: they are few, bounded by the tasks that went out, and free credit.
        match self.answers.poll_recv(cx) {
            Poll::Ready(Some(answer)) => {
                self.ended = answer.is_err();
                return Poll::Ready(Some(answer));
            }
            Poll::Ready(None) => {
                self.ended = true;
                return Poll::Ready(None);
            }
            Poll::Pending => {}
        }
        if self.void.load(Relaxed) {
            self.arrivals.release();
            return Poll::Pending;
        }
        match self.arrivals.poll_next(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(Ok(tasks))) => {
                let tasks = tasks.into_iter().map(leased_task).collect();
                Poll::Ready(Some(Ok(reply(Out::Tasks(Tasks { tasks })))))
            }
            Poll::Ready(Some(Err(why))) => {
                self.ended = true;
                Poll::Ready(Some(Err(self.door.failure(&why).into())))
            }
            // The sink goes with the consumer; answers may still come.
            Poll::Ready(None) => Poll::Pending,
        }
    }
}

impl Session {
    async fn run(mut self, mut requests: Requests<v1::PullRequest>) {
        let result = self.converse(&mut requests).await;
        self.close();
        // A client that is gone hears nothing: its leases stand until they are settled or expire.
        if let Err(Broken::Refused(failure)) = result {
            drop(self.answers.send(Err(failure.into())).await);
        }
    }

    /// Reads until the client closes its side or is gone, or the server has stopped.
    ///
    /// # Errors
    /// What the client is to hear, or that it is gone.
    async fn converse(&mut self, requests: &mut Requests<v1::PullRequest>) -> Result<(), Broken> {
        let refused = |what| Err(Broken::Refused(status::protocol(what)));
        match timeout(CALL_DEFAULT, requests.next()).await {
            Ok(first) => match first? {
                Some((v1::PullRequest { message: Some(In::Open(open)) }, _)) => {
                    if self.begin(open, requests).await? == Begun::Elsewhere {
                        return Ok(());
                    }
                }
                Some(_) => return refused("the first message of a pull stream is `open`"),
                None => return Ok(()),
            },
            Err(_) => return refused("`open` did not come within ten seconds of opening the stream"),
        }
        let door = self.door.clone();
        let gone = self.answers.clone();
        let mut stopping = pin!(door.stopping());
        loop {
            let message = tokio::select! {
                message = requests.next() => message?,
                () = gone.closed() => return Ok(()),
                () = &mut stopping => break,
            };
            let Some((request, _share)) = message else { return Ok(()) };
            self.take(request).await?;
        }
        self.close();
        drop(self.answers.send(Ok(reply(Out::Draining(Draining {})))).await);
        let mut grace = pin!(sleep(DRAIN_GRACE));
        loop {
            let message = tokio::select! {
                message = requests.next() => message?,
                () = gone.closed() => return Ok(()),
                () = &mut grace => return Err(Broken::Refused(status::draining())),
            };
            let Some((request, _share)) = message else { return Ok(()) };
            // Credit that was on its way buys nothing any more.
            if !matches!(request.message, Some(In::Credit(_))) {
                self.take(request).await?;
            }
        }
    }

    /// Opens the consumer where its shard is led. If that is elsewhere, returns when the stream is over.
    async fn begin(&mut self, open: Open, requests: &mut Requests<v1::PullRequest>) -> Result<Begun, Broken> {
        let queue = queue_name(&open.queue, "open.queue")?;
        consumer_name(&open.consumer, "open.consumer")?;
        let lease = lease_wish(open.lease_duration, "open.lease_duration")?;
        if self.door.is_stopping() {
            return Err(status::draining().into());
        }
        let door = self.door.clone();
        let (call, shard) = (Call::of_stream(&door, self.forwarded), door.handle().shard_of(&queue));
        let first = v1::PullRequest { message: Some(In::Open(open.clone())) };
        let mut pauses = Pauses::default();
        loop {
            let failure = match leader(call, shard)? {
                Leader::Here => {
                    self.open(open, queue, lease).await?;
                    return Ok(Begun::Here);
                }
                Leader::Nobody(failure) => failure,
                Leader::At(host, service) => {
                    let Some(splice) = &self.splice else {
                        return Err(status::defect("a pull stream has no place for another's answer").into());
                    };
                    let gone = self.answers.closed();
                    match pipe(call, (&host, &service), &first, requests, splice, gone).await {
                        Ok(()) => return Ok(Begun::Elsewhere),
                        Err(Piped::Broken(broken)) => return Err(broken),
                        Err(Piped::Refused(failure)) => failure,
                    }
                }
            };
            // Nothing was done, so whatever it was may be tried again; unless it can never succeed.
            if !matches!(failure.kind, Kind::Unavailable | Kind::OutcomeUnknown) {
                return Err(failure.into());
            }
            pauses.wait(call, failure).await?;
        }
    }

    async fn open(&mut self, open: Open, queue: QueueName, lease: z4_types::Duration) -> Result<(), Failure> {
        let consumer = self.door.consumer_name(open.consumer);
        // For the whole stream: its client extends leases by it.
        let lease = if lease.0 > 0 { lease } else { self.lease_of(&queue).await? };
        let opened = Opened {
            consumer: consumer.clone(),
            lease_duration: Some(pb_duration(lease)),
            // The host in between passes this on as it is.
            forwarded_to: if self.forwarded { self.door.service() } else { String::new() },
        };
        // Before the consumer exists: tasks come after `opened`.
        drop(self.answers.send(Ok(reply(Out::Opened(opened)))).await);
        let sink = self.sink.take().expect("a stream is opened once");
        let consumer = self.door.handle().consume(queue, consumer, lease, Box::new(sink));
        self.consumer = Some(consumer.map_err(|error| self.door.failure(&error))?);
        Ok(())
    }

    /// Returns how long a lease of `queue` holds if nobody names a time.
    async fn lease_of(&self, queue: &QueueName) -> Result<z4_types::Duration, Failure> {
        let call = Call::of_stream(&self.door, self.forwarded);
        call.read(self.door.handle().lease_duration(queue.clone())).await
    }

    async fn take(&mut self, request: v1::PullRequest) -> Result<(), Failure> {
        match request.message {
            Some(In::Credit(credit)) => self.credit(&credit),
            Some(In::Settle(words)) => {
                self.settle(words).await;
                Ok(())
            }
            Some(In::Open(_)) => {
                Err(status::protocol("the stream is open already; open another for another queue"))
            }
            None => Err(status::protocol(
                "a message holds nothing that this version knows; give credit or settle",
            )),
        }
    }

    fn credit(&self, credit: &Credit) -> Result<(), Failure> {
        let bytes = i64::try_from(credit.bytes).unwrap_or(i64::MAX);
        let tasks = i64::from(credit.tasks);
        // Deliveries may take some off meanwhile, never add.
        let tasks_unused = self.unused.tasks.load(Relaxed).saturating_add(tasks);
        let bytes_unused = self.unused.bytes.load(Relaxed).saturating_add(bytes);
        let too_large = |field, sum: i64, limit| {
            let what = format_args!("unused credit would be {sum}; the limit is {limit}");
            Err(Failure::invalid(field, reason::CREDIT_TOO_LARGE, what))
        };
        if tasks_unused > i64::from(CONSUMER_CREDIT_TASKS_MAX) {
            return too_large("credit.tasks", tasks_unused, u64::from(CONSUMER_CREDIT_TASKS_MAX));
        }
        if bytes_unused > CONSUMER_CREDIT_BYTES_MAX.cast_signed() {
            return too_large("credit.bytes", bytes_unused, CONSUMER_CREDIT_BYTES_MAX);
        }
        self.unused.tasks.fetch_add(tasks, Relaxed);
        self.unused.bytes.fetch_add(bytes, Relaxed);
        if let Some(consumer) = &self.consumer {
            consumer.credit(credit.tasks, credit.bytes);
        }
        Ok(())
    }

    /// Sends settlements to their shards; a task of their own waits for the answer.
    async fn settle(&self, words: Settle) {
        let Ok(place) = Arc::clone(&self.settles).acquire_owned().await else { return };
        let (door, answers, forwarded) = (self.door.clone(), self.answers.clone(), self.forwarded);
        let mut answer = Box::pin(async move {
            let Settle { seq, settlements } = words;
            let mut settled = Settled { seq, ..Settled::default() };
            // Of any tasks: those of other shards may be led elsewhere, unless the stream itself was passed on.
            let call = Call::of_stream(&door, forwarded);
            match settle(call, v1::SettleRequest { settlements }).await {
                Ok(reply) => settled.errors = reply.errors,
                Err(failure) => settled.failure = Some(failure.to_pb()),
            }
            drop(answers.send(Ok(reply(Out::Settled(settled)))).await);
            drop(place);
        });
        // Sent in the order of the stream; see `push.rs`.
        let done = poll_fn(|cx| Poll::Ready(answer.as_mut().poll(cx).is_ready())).await;
        if !done {
            tokio::spawn(answer);
        }
    }

    /// Ends the consumer: what was leased for it and not sent goes back.
    fn close(&mut self) {
        self.void.store(true, Relaxed);
        self.consumer = None;
    }
}

fn reply(message: Out) -> v1::PullReply {
    v1::PullReply { message: Some(message) }
}
