//! The consumer's stream without a handler: whole batches in, whole batches settled.
//!
//! Credit is kept by the stream: the credit of a task that is acked (or nacked, or released) through it is granted
//! again with the settlement, so that at most [`Pull::tasks`] are held at any time.
//!
//! # Not here
//! - Reconnecting, extending, settling again after a failure: the [`Consumer`](crate::Consumer) does those.
//!
//! # Caveats
//! - A settlement is done when it is confirmed, not when it is sent: see [`PullStream::flush`].

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use z4_proto::v1::{self, pull_reply, pull_request};
use z4_proto::{convert, reason};
use z4_types::{Kind, TaskId};

use crate::call::{HOPS_MAX, deadline, learn, named};
use crate::client::tasks;
use crate::duplex::Duplex;
use crate::endpoints::About;
use crate::task::pb_duration;
use crate::{Client, Error, Settlement, Task, Verdict};

/// Requests queued towards the server; past it sending waits.
const REQUESTS_QUEUED_MAX: usize = 64;

/// What to pull; see [`Client::pull`].
#[derive(Debug, Clone)]
pub struct Pull {
    /// The queue.
    pub queue: String,
    /// Shown with the tasks it holds; empty: the server chooses.
    pub consumer: String,
    /// How long each lease holds, 100 ms to 12 h; None: as long as the queue says.
    pub lease: Option<Duration>,
    /// Most tasks held at a time, at most 10,000.
    pub tasks: u32,
    /// Payload bytes held at a time, at most 64 MiB; one task may overdraw them.
    pub bytes: u64,
    /// Most tasks in all, so that no more are taken than are wanted; None: no end.
    pub total: Option<u64>,
}

impl Pull {
    /// Returns the wish for `queue` with credit for 1,000 tasks and 16 MiB.
    #[must_use]
    pub fn new(queue: impl Into<String>) -> Self {
        Self {
            queue: queue.into(),
            consumer: String::new(),
            lease: None,
            tasks: 1_000,
            bytes: 16 << 20,
            total: None,
        }
    }

    pub(crate) fn open_request(&self) -> v1::PullRequest {
        request(pull_request::Message::Open(pull_request::Open {
            queue: self.queue.clone(),
            consumer: self.consumer.clone(),
            lease_duration: self.lease.map(pb_duration),
        }))
    }
}

pub(crate) fn request(message: pull_request::Message) -> v1::PullRequest {
    v1::PullRequest { message: Some(message) }
}

pub(crate) fn credit(tasks: u32, bytes: u64) -> v1::PullRequest {
    request(pull_request::Message::Credit(pull_request::Credit { tasks, bytes }))
}

pub(crate) fn settle(seq: u64, settlements: Vec<v1::Settlement>) -> v1::PullRequest {
    request(pull_request::Message::Settle(pull_request::Settle { seq, settlements }))
}

/// A stream of deliveries of one queue.
pub struct PullStream {
    link: Duplex<v1::PullRequest, v1::PullReply>,
    queue: Arc<str>,
    consumer: String,
    address: String,
    timeout: Duration,
    /// Batches that arrived while something else was waited for. Bounded by the credit.
    arrived: VecDeque<Vec<Task>>,
    /// Settlement frames the server has not answered.
    unconfirmed: BTreeMap<u64, Vec<Settlement>>,
    /// Tasks that may still be granted.
    left: u64,
    refused: Vec<(TaskId, Error)>,
    confirmed: u64,
    next_seq: u64,
    ended: bool,
}

impl std::fmt::Debug for PullStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PullStream").field("queue", &self.queue).field("consumer", &self.consumer).finish()
    }
}

impl PullStream {
    /// Opens a stream at the leader, if it can be reached: where it is passed on, it is left before anything was asked.
    pub(crate) async fn open(client: &Client, pull: Pull) -> Result<Self, Error> {
        let (endpoints, about) = (client.endpoints(), About::Queue(&pull.queue));
        let mut hops = 0;
        loop {
            let (mut stream, opened) = Self::open_once(client, &pull).await;
            let last = hops >= HOPS_MAX;
            hops += 1;
            let forwarded_to = match opened {
                Ok(opened) => {
                    stream.consumer = opened.consumer;
                    opened.forwarded_to
                }
                Err(error) => {
                    let led = learn(endpoints, about, &stream.address, &error);
                    // The leader that was named cannot be reached from here, so it is asked through the others.
                    let alone = error.reason() == reason::UNREACHABLE && hops > 1;
                    if (led || alone) && !last {
                        continue;
                    }
                    return Err(named(error, &stream.address));
                }
            };
            client.look_around();
            endpoints.leads(about, &forwarded_to);
            if forwarded_to.is_empty() || last || endpoints.to(about).0 == stream.address {
                let first = u64::from(pull.tasks).min(stream.left);
                stream.left -= first;
                let first = u32::try_from(first).expect("it was one");
                stream.send(credit(first, pull.bytes)).await?;
                return Ok(stream);
            }
        }
    }

    /// Opens a stream where the leader is believed to be, without credit.
    async fn open_once(client: &Client, pull: &Pull) -> (Self, Result<pull_reply::Opened, Error>) {
        let (address, channel) = client.endpoints().to(About::Queue(&pull.queue));
        let link =
            Duplex::new(REQUESTS_QUEUED_MAX, |requests| async move { tasks(channel).pull(requests).await });
        let mut stream = Self {
            link,
            left: pull.total.unwrap_or(u64::MAX),
            queue: pull.queue.as_str().into(),
            consumer: pull.consumer.clone(),
            address,
            timeout: client.timeout(),
            arrived: VecDeque::new(),
            unconfirmed: BTreeMap::new(),
            refused: Vec::new(),
            confirmed: 0,
            next_seq: 1,
            ended: false,
        };
        let opened = async {
            stream.send(pull.open_request()).await?;
            loop {
                match stream.receive().await? {
                    Some(Some(opened)) => return Ok(opened),
                    Some(None) => {}
                    None => return Err(over()),
                }
            }
        };
        let opened = timeout(client.timeout(), opened).await;
        let opened = opened.unwrap_or_else(|_| Err(deadline(&stream.address, client.timeout())));
        (stream, opened)
    }

    /// Returns the name the server knows this consumer by.
    #[must_use]
    pub fn consumer(&self) -> &str {
        &self.consumer
    }

    /// Returns how many settlements were confirmed: durable on a majority.
    #[must_use]
    pub fn confirmed(&self) -> u64 {
        self.confirmed
    }

    /// Returns the settlements that were refused since the last call, each with its task.
    pub fn take_refused(&mut self) -> Vec<(TaskId, Error)> {
        std::mem::take(&mut self.refused)
    }

    /// Ends the stream at once, and returns what is left of it: the settlements that were not answered, to be sent
    /// again by [`Client::settle`] (what was done already then answers `TASK_NOT_FOUND` or `LEASE_LOST`), and the
    /// tasks that arrived and were not read; their leases stand.
    #[must_use]
    pub fn into_parts(self) -> (Vec<Settlement>, Vec<Task>) {
        (self.unconfirmed.into_values().flatten().collect(), self.arrived.into_iter().flatten().collect())
    }

    /// Waits for the next batch. None: the server has ended the stream, or is about to; settle what is held.
    ///
    /// Cancel safe: a dropped call loses nothing, so it may stand in a `select!`.
    ///
    /// # Errors
    /// Any kind; the stream is then over, and the leases stand until settled elsewhere or expired.
    pub async fn next_batch(&mut self) -> Result<Option<Vec<Task>>, Error> {
        loop {
            if let Some(batch) = self.arrived.pop_front() {
                return Ok(Some(batch));
            }
            if self.ended || self.receive().await?.is_none() {
                return Ok(None);
            }
        }
    }

    /// Acknowledges deliveries and grants their credit again. Confirmed later: see [`PullStream::flush`].
    ///
    /// # Errors
    /// Any kind; the stream is then over.
    pub async fn ack_batch(&mut self, batch: &[Task]) -> Result<(), Error> {
        let bytes = batch.iter().map(|task| task.payload.len() as u64).sum();
        let words = batch.iter().map(|task| task.settle(Verdict::Ack)).collect::<Vec<_>>();
        self.settle(&words, bytes).await
    }

    /// Settles deliveries and grants their credit again: one task for each word that is no extension, and `bytes`.
    ///
    /// # Errors
    /// Any kind; the stream is then over.
    pub async fn settle(&mut self, words: &[Settlement], bytes: u64) -> Result<(), Error> {
        if words.is_empty() {
            return Ok(());
        }
        let seq = self.next_seq;
        self.next_seq += 1;
        let ended = words.iter().filter(|word| !word.verdict.extends()).count();
        // Entered first: if sending fails it may still have gone out.
        self.unconfirmed.insert(seq, words.to_vec());
        self.send(settle(seq, words.iter().map(Settlement::to_pb).collect())).await?;
        let again = u32::try_from(self.left.min(ended as u64)).unwrap_or(u32::MAX);
        self.left -= u64::from(again);
        if again > 0 || bytes > 0 {
            self.send(credit(again, bytes)).await?;
        }
        Ok(())
    }

    /// Waits until every settlement sent is answered.
    ///
    /// # Errors
    /// Any kind; `OutcomeUnknown` if the answers do not come within the client's deadline.
    pub async fn flush(&mut self) -> Result<(), Error> {
        let limit = self.timeout;
        let answered = async {
            while !self.unconfirmed.is_empty() {
                if self.receive().await?.is_none() && !self.unconfirmed.is_empty() {
                    return Err(over());
                }
            }
            Ok(())
        };
        match timeout(limit, answered).await {
            Ok(result) => result,
            Err(_) => Err(deadline(&self.address, limit)),
        }
    }

    /// Ends the stream in good order: no more credit, all settlements answered. Returns the tasks that were on
    /// their way; their leases stand, release them by [`Client::settle`]. Call [`PullStream::flush`] before it to
    /// learn of refused settlements.
    ///
    /// # Errors
    /// Any kind; `OutcomeUnknown` if the server does not end within the client's deadline.
    pub async fn close(mut self) -> Result<Vec<Task>, Error> {
        self.link.close();
        let limit = self.timeout;
        let ended = async {
            while self.receive().await?.is_some() {}
            Ok::<(), Error>(())
        };
        let Ok(result) = timeout(limit, ended).await else { return Err(deadline(&self.address, limit)) };
        result?;
        Ok(self.arrived.into_iter().flatten().collect())
    }

    /// Sends while receiving: a server that waits for us to read must not wait for ever.
    async fn send(&mut self, request: v1::PullRequest) -> Result<(), Error> {
        let Some(sender) = self.link.sender() else { return Err(over()) };
        loop {
            tokio::select! {
                biased;
                permit = sender.reserve() => {
                    let Ok(permit) = permit else {
                        // The reason is what the other side said last.
                        while self.receive().await?.is_some() {}
                        return Err(over());
                    };
                    permit.send(request);
                    return Ok(());
                }
                received = self.receive() => if received?.is_none() { return Err(over()) },
            }
        }
    }

    /// Takes one reply. None: the stream is over; Some(Some): it was opened.
    async fn receive(&mut self) -> Result<Option<Option<pull_reply::Opened>>, Error> {
        let Some(reply) = self.link.recv().await? else {
            self.ended = true;
            return Ok(None);
        };
        match reply.message {
            Some(pull_reply::Message::Opened(opened)) => return Ok(Some(Some(opened))),
            Some(pull_reply::Message::Tasks(batch)) => {
                let batch = batch.tasks.into_iter().map(|task| Task::from_pb(task, &self.queue));
                self.arrived.push_back(batch.collect::<Result<_, _>>()?);
            }
            Some(pull_reply::Message::Settled(settled)) => self.settled(settled),
            Some(pull_reply::Message::Draining(_)) => self.ended = true,
            None => {}
        }
        Ok(Some(None))
    }

    fn settled(&mut self, settled: pull_reply::Settled) {
        let words = self.unconfirmed.remove(&settled.seq).unwrap_or_default();
        if let Some(failure) = settled.failure {
            let error = Error::from(failure);
            self.refused.extend(words.into_iter().map(|word| (word.id, error.clone())));
            return;
        }
        self.confirmed += words.len() as u64;
        for item in settled.errors {
            if let Some(word) = words.get(item.index as usize) {
                self.confirmed -= 1;
                self.refused.push((word.id, item.failure.unwrap_or_default().into()));
            }
        }
    }
}

fn over() -> Error {
    Error::new(Kind::Unavailable, reason::DRAINING, "the server has ended the stream; open another")
}

/// Returns the lease a stream was opened with, or `asked` if the server does not say.
pub(crate) fn lease_of(opened: &pull_reply::Opened, asked: Duration) -> Duration {
    let span = opened.lease_duration.map(|span| convert::duration(span, "lease_duration"));
    match span {
        Some(Ok(span)) if span.0 > 0 => Duration::from_millis(span.0),
        _ => asked,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{Fake, Pull as Session};

    async fn open(session: &mut Session, forwarded_to: &str) {
        let open = session.next().await.and_then(|request| request.message);
        assert!(matches!(open, Some(pull_request::Message::Open(_))), "{open:?}");
        let opened = pull_reply::Opened { forwarded_to: forwarded_to.into(), ..Default::default() };
        session.reply(v1::PullReply { message: Some(pull_reply::Message::Opened(opened)) }).await;
    }

    #[tokio::test]
    async fn a_stream_is_opened_at_the_leader_that_was_named_and_credit_goes_there_alone() {
        let (mut follower, mut leader) = (Fake::start().await, Fake::start().await);
        let client = Client::connect([follower.address.as_str()]).expect("address");
        let pull = Pull { tasks: 10, total: Some(7), ..Pull::new("q") };
        let opening = tokio::spawn(async move { client.pull(pull).await });
        let mut session = follower.pull().await;
        open(&mut session, &leader.address).await;
        assert!(session.next().await.is_none(), "nothing is asked of the host in between");
        let mut session = leader.pull().await;
        open(&mut session, "").await;
        match session.next().await.and_then(|request| request.message) {
            Some(pull_request::Message::Credit(credit)) => assert_eq!(credit.tasks, 7),
            other => panic!("credit expected, not {other:?}"),
        }
        opening.await.expect("no panic").expect("opened");
    }
}
