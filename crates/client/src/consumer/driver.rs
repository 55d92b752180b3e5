//! The consumer's one task: stream, handlers, leases and settlements in one loop.
//!
//! Two phases. While serving, it keeps a Pull stream open with credit, at the leader if it can be reached: a stream that
//! was passed on names it, and is left before anything was asked of it. While draining, the stream is closed on our
//! side, which voids the credit; what is left is settled by unary calls, so nothing depends on one connection.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, sleep_until};
use z4_proto::reason;
use z4_proto::v1::{self, pull_reply};
use z4_types::limits::LEASE_MS_DEFAULT;
use z4_types::{Kind, TaskId, Token};

use super::outbox::{Extended, Outbox};
use super::{ConsumerBuilder, Counts, HandlerError};
use crate::backoff::Backoff;
use crate::call::{HOPS_MAX, learn, named};
use crate::client::tasks;
use crate::duplex::Duplex;
use crate::endpoints::About;
use crate::pull::{Pull, credit, lease_of, settle};
use crate::{Error, Settlement, Task, Verdict};

/// Settlement frames under way before the next waits until it is full.
const PARTIAL_FRAMES_MAX: usize = 2;
/// Settlement frames under way.
const FRAMES_MAX: usize = 4;
/// Requests queued towards the server: the frames, credit between them, and room to spare.
const REQUESTS_QUEUED_MAX: usize = 32;
/// Pause when the stream takes no more, which has no other wake-up.
const QUEUE_FULL_PAUSE: Duration = Duration::from_millis(20);
/// A stream that stood so long was no failure: the wait before the next one starts anew. Longer than the longest wait.
const STEADY: Duration = Duration::from_secs(10);
/// After the drain timeout, unconfirmed settlements are given up after this many client deadlines.
const DRAIN_DEADLINES: u32 = 2;

type Handled = Result<(), HandlerError>;
type Settling = Pin<Box<dyn Future<Output = Result<Vec<Result<(), Error>>, Error>> + Send>>;

/// A task in our hands. Invariant: it is in `ready` or in `running`, until its verdict is in the outbox.
struct Held {
    id: TaskId,
    token: Token,
    bytes: i64,
    /// When to extend its lease next: its place in `extensions`.
    extend_at: Instant,
    /// An extension is in the outbox, and another one would add nothing.
    extending: bool,
}

struct Link {
    address: String,
    since: Instant,
    /// The server serves the stream. Nothing is asked of it before: it may be at the wrong host.
    opened: bool,
    stream: Duplex<v1::PullRequest, v1::PullReply>,
    /// The server has said that it goes away.
    draining: bool,
    /// Credit the server has and has not used. Bytes may be overdrawn.
    tasks: u32,
    bytes: i64,
}

impl Link {
    /// Since when the server owes an answer: the opening, or the oldest settlements.
    fn waiting_since(&self, outbox: &Outbox) -> Option<Instant> {
        if self.opened { outbox.oldest() } else { Some(self.since) }
    }
}

pub(super) struct Driver<H> {
    rules: ConsumerBuilder,
    handler: Arc<H>,
    stop: watch::Receiver<bool>,
    queue: Arc<str>,
    /// What the server grants, learned when the stream opens.
    lease: Duration,
    link: Option<Link>,
    backoff: Backoff,
    paused_until: Instant,
    held: BTreeMap<u64, Held>,
    /// Payload bytes of `held`.
    held_bytes: i64,
    next_key: u64,
    /// Not begun, by key: in the order of delivery.
    ready: BTreeMap<u64, Task>,
    running: JoinSet<Handled>,
    keys: HashMap<Id, u64>,
    /// When to extend what. Invariant: only what is in `held`, once each.
    extensions: BTreeSet<(Instant, u64)>,
    outbox: Outbox,
    counts: Counts,
    /// Streams left for another leader since one stayed.
    hops: u32,
}

impl<H, F> Driver<H>
where
    H: Fn(Task) -> F + Send + Sync + 'static,
    F: Future<Output = Handled> + Send + 'static,
{
    pub(super) fn new(rules: ConsumerBuilder, handler: H, stop: watch::Receiver<bool>) -> Self {
        Self {
            queue: rules.queue.as_str().into(),
            // Until the stream says how long it is.
            lease: rules.lease.unwrap_or(Duration::from_millis(LEASE_MS_DEFAULT)),
            rules,
            handler: Arc::new(handler),
            stop,
            link: None,
            backoff: Backoff::default(),
            paused_until: Instant::now(),
            held: BTreeMap::new(),
            held_bytes: 0,
            next_key: 0,
            ready: BTreeMap::new(),
            running: JoinSet::new(),
            keys: HashMap::new(),
            extensions: BTreeSet::new(),
            outbox: Outbox::default(),
            counts: Counts::default(),
            hops: 0,
        }
    }

    pub(super) async fn run(mut self) -> Result<Counts, Error> {
        loop {
            let now = Instant::now();
            self.start_handlers();
            self.extend(now);
            self.leave_stalled(now)?;
            self.connect(now);
            self.send(now);
            let timer = self.timer(now);
            tokio::select! {
                reply = receive(&mut self.link), if self.link.is_some() => match reply {
                    Ok(Some(reply)) => self.replied(reply),
                    Ok(None) => self.link_failed(None)?,
                    Err(error) => self.link_failed(Some(error))?,
                },
                Some(done) = self.running.join_next_with_id(), if !self.running.is_empty() => self.handled(done),
                // An error means that the handle was dropped: drain as well.
                () = stopped(&mut self.stop) => return Ok(self.drain().await),
                () = sleep_until(timer.unwrap_or(now)), if timer.is_some() => {}
            }
        }
    }

    fn start_handlers(&mut self) {
        while self.running.len() < self.rules.concurrency
            && let Some((key, task)) = self.ready.pop_first()
        {
            let handler = Arc::clone(&self.handler);
            // Called inside the spawned task, so that a handler that panics before its first await ends only that.
            let handle = self.running.spawn(async move { handler(task).await });
            self.keys.insert(handle.id(), key);
        }
    }

    /// A handler has ended: what it said becomes the verdict.
    fn handled(&mut self, done: Result<(Id, Handled), JoinError>) {
        let (id, verdict) = match done {
            Ok((id, Ok(()))) => (id, Verdict::Ack),
            Ok((id, Err(error))) if error.for_good => (id, Verdict::NackDead { reason: error.reason }),
            Ok((id, Err(error))) => {
                (id, Verdict::Nack { delay: error.delay, slow_group: error.slow_group, reason: error.reason })
            }
            // Cut off by the drain timeout: nobody's fault.
            Err(error) if error.is_cancelled() => (error.id(), Verdict::Release { delay: Duration::ZERO }),
            Err(error) => (
                error.id(),
                Verdict::Nack { delay: None, slow_group: None, reason: "the handler panicked".to_owned() },
            ),
        };
        let key = self.keys.remove(&id).expect("every handler was entered when it started");
        self.settle(key, verdict);
    }

    fn settle(&mut self, key: u64, verdict: Verdict) {
        let Held { id, token, .. } = self.let_go(key).expect("a task is held until its one verdict");
        self.outbox.push(key, Settlement { id, token, verdict });
    }

    /// Takes a task out of our hands.
    fn let_go(&mut self, key: u64) -> Option<Held> {
        let held = self.held.remove(&key)?;
        self.held_bytes -= held.bytes;
        self.extensions.remove(&(held.extend_at, key));
        Some(held)
    }

    /// Extends what is still held at half of its lease: early enough to try again before it ends. While nobody answers,
    /// one word of each lease waits, not one more for every half.
    fn extend(&mut self, now: Instant) {
        while let Some(&(at, key)) = self.extensions.first()
            && at <= now
        {
            self.extensions.pop_first();
            let held = self.held.get_mut(&key).expect("an extension goes with its task");
            held.extend_at = now + self.lease / 2;
            self.extensions.insert((held.extend_at, key));
            if !held.extending {
                held.extending = true;
                let verdict = Verdict::Extend { lease: self.lease };
                self.outbox.push(key, Settlement { id: held.id, token: held.token, verdict });
            }
        }
    }

    /// Takes the answers to a frame of settlements.
    fn answered(&mut self, seq: u64, failure: impl FnMut(usize) -> Option<Error>) {
        for Extended { key, over } in self.outbox.answered(seq, failure, &mut self.counts) {
            // None: its verdict is on the way, and will find out by itself.
            let Some(held) = self.held.get_mut(&key) else { continue };
            held.extending = false;
            if !over {
                continue;
            }
            self.extensions.remove(&(held.extend_at, key));
            // Somebody else may run it, so no handler of ours begins. One that did begin finds out by its verdict.
            if self.ready.remove(&key).is_some() {
                self.let_go(key);
                self.counts.lost += 1;
            }
        }
    }

    /// Gives up a stream that does not answer in time, and one that the server is leaving once nothing binds us to it.
    fn leave_stalled(&mut self, now: Instant) -> Result<(), Error> {
        let Some(link) = &self.link else { return Ok(()) };
        let timeout = self.rules.client.timeout();
        if link.waiting_since(&self.outbox).is_some_and(|since| since + timeout <= now) {
            let error = unanswered(&link.address, timeout);
            return self.link_failed(Some(error));
        }
        if link.draining && self.held.is_empty() && self.outbox.is_empty() {
            return self.link_failed(None);
        }
        Ok(())
    }

    fn connect(&mut self, now: Instant) {
        if self.link.is_some() || now < self.paused_until {
            return;
        }
        let (address, channel) = self.rules.client.endpoints().to(About::Queue(&self.rules.queue));
        let open = |requests| async move { tasks(channel).pull(requests).await };
        let stream = Duplex::new(REQUESTS_QUEUED_MAX, open);
        let pull = Pull {
            queue: self.rules.queue.clone(),
            consumer: self.rules.name.clone(),
            lease: self.rules.lease,
            tasks: 0,
            bytes: 0,
            total: None,
        };
        stream.try_send(pull.open_request()).expect("the queue of a new stream is empty");
        self.link =
            Some(Link { address, since: now, opened: false, stream, draining: false, tasks: 0, bytes: 0 });
    }

    /// Sends settlements, and credit for what is no longer held.
    fn send(&mut self, now: Instant) {
        let Some(link) = self.link.as_mut().filter(|link| link.opened) else { return };
        if now < self.paused_until {
            return;
        }
        let mut settled = false;
        while let Some((seq, words)) = self.outbox.next(PARTIAL_FRAMES_MAX, FRAMES_MAX, now) {
            if link.stream.try_send(settle(seq, words)).is_err() {
                self.outbox.unsent(seq);
                self.paused_until = now + QUEUE_FULL_PAUSE;
                return;
            }
            settled = true;
        }
        if link.draining {
            return;
        }
        let max = self.rules.held_max();
        // Credit for a task goes behind its settlement, never before.
        let held = u32::try_from(self.held.len()).unwrap_or(u32::MAX).saturating_add(self.outbox.ending());
        let missing = max.saturating_sub(held).saturating_sub(link.tasks);
        let max_bytes = i64::try_from(self.rules.credit_bytes).expect("bounded by the builder");
        let missing_bytes = (max_bytes - self.held_bytes - link.bytes).max(0);
        // Credit travels with settlements, or once it is worth a message of its own.
        let worth = settled || missing >= max.div_ceil(4) || link.tasks == 0 || link.bytes <= 0;
        if (missing == 0 && missing_bytes == 0) || !worth {
            return;
        }
        if link.stream.try_send(credit(missing, missing_bytes.unsigned_abs())).is_err() {
            self.paused_until = now + QUEUE_FULL_PAUSE;
            return;
        }
        link.tasks += missing;
        link.bytes += missing_bytes;
    }

    fn timer(&self, now: Instant) -> Option<Instant> {
        let pause = (self.paused_until > now).then_some(self.paused_until);
        let extension = self.extensions.first().map(|(at, _)| *at);
        let waiting = self.link.as_ref().and_then(|link| link.waiting_since(&self.outbox));
        let answer = waiting.map(|since| since + self.rules.client.timeout());
        [pause, extension, answer].into_iter().flatten().min()
    }

    fn replied(&mut self, reply: v1::PullReply) {
        match reply.message {
            Some(pull_reply::Message::Opened(opened)) => {
                // No reason to reset the backoff: a stream that dies of what we send opens every time.
                self.lease = lease_of(&opened, self.lease);
                self.opened(&opened.forwarded_to);
            }
            Some(pull_reply::Message::Tasks(batch)) => {
                for task in batch.tasks {
                    self.delivered(task);
                }
            }
            Some(pull_reply::Message::Settled(settled)) => self.settled(settled),
            Some(pull_reply::Message::Draining(_)) => {
                if let Some(link) = &mut self.link {
                    link.draining = true;
                    self.rules.client.endpoints().failed(&link.address);
                }
            }
            None => {}
        }
    }

    /// The stream is served; if it was passed on, by `leader`. Nothing was sent on it, so it can be left for that one.
    fn opened(&mut self, leader: &str) {
        let Some(link) = &mut self.link else { return };
        link.opened = true;
        let (client, about) = (&self.rules.client, About::Queue(&self.rules.queue));
        client.look_around();
        client.endpoints().leads(about, leader);
        let elsewhere = !leader.is_empty() && client.endpoints().to(about).0 != link.address;
        if elsewhere && self.hops < HOPS_MAX {
            self.hops += 1;
            self.link = None;
        } else {
            self.hops = 0;
        }
    }

    fn delivered(&mut self, task: v1::LeasedTask) {
        let bytes = i64::try_from(task.payload.len()).expect("a frame is bounded");
        if let Some(link) = &mut self.link {
            link.tasks = link.tasks.saturating_sub(1);
            link.bytes -= bytes;
        }
        let task = match Task::from_pb(task, &self.queue) {
            Ok(task) => task,
            // It comes again when its lease ends; there is no id to settle it by.
            Err(error) => return tracing::warn!(%error, "delivery cannot be read"),
        };
        self.counts.delivered += 1;
        let key = self.next_key;
        self.next_key += 1;
        let extend_at = Instant::now() + self.lease / 2;
        self.held.insert(key, Held { id: task.id, token: task.token, bytes, extend_at, extending: false });
        self.held_bytes += bytes;
        self.extensions.insert((extend_at, key));
        self.ready.insert(key, task);
    }

    fn settled(&mut self, settled: pull_reply::Settled) {
        let Some(failure) = settled.failure else {
            self.backoff.reset();
            let mut errors: BTreeMap<usize, Error> = settled
                .errors
                .into_iter()
                .map(|item| (item.index as usize, item.failure.unwrap_or_default().into()))
                .collect();
            return self.answered(settled.seq, |index| errors.remove(&index));
        };
        self.not_settled(settled.seq, Error::from(failure));
    }

    /// A whole frame failed: send it again if that can help.
    fn not_settled(&mut self, seq: u64, error: Error) {
        if error.is_retryable() {
            tracing::debug!(%error, "settlements will be sent again");
            match error.kind() {
                Kind::OutcomeUnknown => self.outbox.lost(seq),
                _ => self.outbox.unsent(seq),
            }
            let asked = self.rules.client.endpoints().asked_to_wait(&error);
            self.paused_until = Instant::now() + self.backoff.next(asked);
        } else {
            self.answered(seq, |_| Some(error.clone()));
        }
    }

    /// The stream is over. What is held stays held.
    fn link_failed(&mut self, error: Option<Error>) -> Result<(), Error> {
        let Some(link) = self.take_link(error.as_ref()) else { return Ok(()) };
        let error = error.map(|error| named(error, &link.address));
        let asked = error.as_ref().and_then(Error::retry_after);
        if let Some(error) = &error
            && matches!(error.kind(), Kind::Invalid | Kind::Unsupported)
        {
            return Err(error.clone());
        }
        let (endpoints, about) = (self.rules.client.endpoints(), About::Queue(&self.rules.queue));
        let led = error.as_ref().is_some_and(|error| learn(endpoints, about, &link.address, error));
        let shard_moved = error.as_ref().is_some_and(is_about_leaders);
        if !link.draining && !shard_moved {
            endpoints.failed(&link.address);
        }
        tracing::debug!(address = link.address, "pull stream ended; opening another");
        let now = Instant::now();
        if led && self.hops < HOPS_MAX {
            self.hops += 1;
            return Ok(());
        }
        if link.since + STEADY <= now {
            self.backoff.reset();
        }
        self.paused_until = now + self.backoff.next(asked);
        Ok(())
    }

    /// Gives up the stream, because of `error` if there is one. What was sent and not answered is in doubt.
    fn take_link(&mut self, error: Option<&Error>) -> Option<Link> {
        let link = self.link.take()?;
        let sent = error.is_none_or(|error| error.reason() != reason::UNREACHABLE);
        self.outbox.all_back(sent);
        Some(link)
    }

    /// Stops taking, finishes what runs, gives back the rest, settles everything.
    async fn drain(mut self) -> Counts {
        let cut_off = Instant::now() + self.rules.drain_timeout;
        let give_up = cut_off + self.rules.client.timeout() * DRAIN_DEADLINES;
        let link_until = Instant::now() + self.rules.client.timeout();
        if let Some(link) = &mut self.link {
            link.stream.close();
        }
        let mut settling: Option<(u64, Settling)> = None;
        loop {
            let now = Instant::now();
            while let Some((key, _)) = self.ready.pop_first() {
                self.settle(key, Verdict::Release { delay: Duration::ZERO });
            }
            if now >= cut_off {
                self.running.abort_all();
            }
            self.extend(now);
            if now >= link_until {
                self.take_link(None);
            }
            // Frames of the stream that are under way count as such: words of one lease keep their order.
            if settling.is_none() && self.link.is_none() && now >= self.paused_until {
                settling = self.outbox.next(1, 1, now).map(|(seq, words)| {
                    let client = self.rules.client.clone();
                    (seq, Box::pin(async move { client.settle_pb(words).await }) as Settling)
                });
            }
            let all_done = self.running.is_empty() && self.outbox.is_empty() && self.link.is_none();
            if all_done || now >= give_up {
                self.counts.unsettled = self.outbox.unsettled();
                return self.counts;
            }
            let mut timers = vec![give_up];
            timers.extend((now < cut_off && !self.running.is_empty()).then_some(cut_off));
            timers.extend(self.link.is_some().then_some(link_until));
            timers.extend((self.paused_until > now).then_some(self.paused_until));
            timers.extend(self.extensions.first().map(|(at, _)| *at));
            let timer = timers.into_iter().min().expect("it holds give_up");
            tokio::select! {
                reply = receive(&mut self.link), if self.link.is_some() => match reply {
                    Ok(Some(reply)) => self.replied(reply),
                    Ok(None) => drop(self.take_link(None)),
                    Err(error) => drop(self.take_link(Some(&error))),
                },
                Some(done) = self.running.join_next_with_id(), if !self.running.is_empty() => self.handled(done),
                answer = answer(&mut settling), if settling.is_some() => {
                    let (seq, _) = settling.take().expect("just polled");
                    match answer {
                        Ok(answers) => {
                            let mut answers = answers.into_iter();
                            self.answered(seq, |_| answers.next()?.err());
                        }
                        Err(error) => self.not_settled(seq, error),
                    }
                }
                () = sleep_until(timer) => {}
            }
        }
    }
}

async fn receive(link: &mut Option<Link>) -> Result<Option<v1::PullReply>, Error> {
    match link {
        Some(link) => Ok(link.stream.recv().await?),
        None => std::future::pending().await,
    }
}

async fn answer(settling: &mut Option<(u64, Settling)>) -> Result<Vec<Result<(), Error>>, Error> {
    match settling {
        Some((_, settling)) => settling.as_mut().await,
        None => std::future::pending().await,
    }
}

/// The host is well, and does not lead.
fn is_about_leaders(error: &Error) -> bool {
    [reason::NOT_LEADER, reason::NO_LEADER].contains(&error.reason())
}

/// Waits until `drain` was called or the handle was dropped.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    drop(stop.wait_for(|stop| *stop).await);
}

fn unanswered(address: &str, timeout: Duration) -> Error {
    Error::new(
        Kind::OutcomeUnknown,
        reason::DEADLINE_EXCEEDED,
        format!("{address} did not answer within {timeout:?}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Client;

    /// A task that lives long in front of many short ones must not keep what is over in memory (P10).
    #[tokio::test]
    async fn p10_a_finished_task_leaves_nothing_to_extend() {
        let rules = Client::connect(["h:1"]).expect("address").consumer("q");
        let (_stop, stopped) = watch::channel(false);
        let mut driver = Driver::new(rules, |_| async { Ok(()) }, stopped);
        for number in 0..100 {
            let id = TaskId(number).to_string();
            driver.delivered(v1::LeasedTask { id, ..Default::default() });
        }
        let scheduled =
            |driver: &Driver<_>| driver.extensions.iter().map(|(_, key)| *key).collect::<Vec<_>>();
        assert_eq!(scheduled(&driver), (0..100).collect::<Vec<_>>());
        for key in 1..100 {
            driver.settle(key, Verdict::Ack);
        }
        assert_eq!(scheduled(&driver), [0]);
        // Nobody answers, so however often its half comes it has one word in the outbox.
        for half in 1..10 {
            driver.extend(Instant::now() + driver.lease * half);
        }
        assert_eq!((scheduled(&driver), driver.outbox.waiting()), (vec![0], 99 + 1));
    }
}
