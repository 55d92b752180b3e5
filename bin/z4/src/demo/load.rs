//! The load of the demo: producers and consumers as a user would write them, on the client library, over the crash.
//!
//! A producer pushes batches and waits for their receipts; the library sends a batch without an answer again under
//! the same request id. A consumer enters what it gets, acks it, and waits for the OK; if the stream breaks first, it
//! sends the same acks again to the next server: what had been done then answers `TASK_NOT_FOUND`.
//!
//! # Invariants
//! - What is intended is entered before it is sent; what was answered, after it was read.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use anyhow::Result;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use z4_client::{Client, Kind, Millis, NewTask, Producer, Pull, PullStream, Settlement, Task};
use z4_env::{Clock as _, RealClock};

use super::ledger::{Counts, Ledger, Report};

/// The queue of the demo.
pub(crate) const QUEUE: &str = "demo";
const PRODUCERS: u64 = 4;
const CONSUMERS: usize = 4;
/// Tasks of one push.
const BATCH: u64 = 250;
/// The pushing is spread over about this time for each kill, so that there is a half-way to kill at.
pub(crate) const PUSH_TIME: Duration = Duration::from_millis(3_000);
/// The delayed half is due from so long after the start, over the time of the pushing and this.
const DUE_FROM_MS: u64 = 500;
const DUE_BEYOND_MS: u64 = 5_000;
/// Tasks a consumer holds at most: what the crash may cut off.
const CREDIT: u32 = 500;
const PAYLOAD_BYTES: usize = 200;
/// Leases that end in the crash count as failures; a task must outlive them.
const MAX_ATTEMPTS: u32 = 1_000;
/// A server that came back is not expected to be on time at once: it has a backlog first.
const CATCH_UP_MS: u64 = 1_000;
/// Pause after a failed stream.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// The ledger, shared by all workers.
#[derive(Debug)]
pub(crate) struct Shared {
    ledger: Mutex<Ledger>,
    clock: RealClock,
    total: u64,
    down_at: Mutex<Millis>,
    gap: Mutex<Gap>,
}

/// Time without an OK for a push.
#[derive(Debug, Default)]
struct Gap {
    last: Option<Instant>,
    longest: Duration,
}

impl Gap {
    fn ok(&mut self) {
        let now = Instant::now();
        if let Some(last) = self.last.replace(now) {
            self.longest = self.longest.max(now - last);
        }
    }
}

impl Shared {
    /// Returns the empty ledger of `total` tasks.
    pub(crate) fn new(total: u64) -> Self {
        let ledger = Mutex::new(Ledger::new(total));
        Self { ledger, clock: RealClock::new(), total, down_at: Mutex::default(), gap: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().expect("no worker panics with the ledger in hand")
    }

    fn now(&self) -> Millis {
        self.clock.wall()
    }

    /// Returns the numbers so far.
    pub(crate) fn counts(&self) -> Counts {
        self.lock().counts()
    }

    /// Returns whether something was found that no waiting will heal.
    pub(crate) fn has_failed(&self) -> bool {
        self.lock().has_failed()
    }

    /// Returns the judgement.
    pub(crate) fn report(&self) -> Report {
        self.lock().report()
    }

    fn gap(&self) -> MutexGuard<'_, Gap> {
        self.gap.lock().expect("nobody panics here")
    }

    /// Returns the longest time without an OK for a push since the server went down.
    pub(crate) fn longest_gap(&self) -> Duration {
        self.gap().longest
    }

    /// The server is about to be killed: what comes due from now on will be late, and that is no fault.
    pub(crate) fn server_is_down(&self) {
        let now = self.now();
        *self.gap() = Gap { last: Some(Instant::now()), longest: Duration::ZERO };
        *self.down_at.lock().expect("nobody panics here") = now;
        self.lock().outage(now, Millis::NEVER);
    }

    /// It serves again.
    pub(crate) fn server_is_back(&self) {
        let from = *self.down_at.lock().expect("nobody panics here");
        self.lock().outage(from, Millis(self.now().0 + CATCH_UP_MS));
    }
}

/// What the workers share.
#[derive(Debug, Clone)]
pub(crate) struct Load {
    /// Of the server that will be killed.
    pub(crate) client: Client,
    /// The ledger.
    pub(crate) shared: Arc<Shared>,
    /// How long a consumer holds a task.
    pub(crate) lease: Duration,
    /// Every push is answered within this.
    pub(crate) limit: Duration,
    /// The pushing is spread over this.
    pub(crate) push_time: Duration,
}

impl Load {
    /// Starts producers and consumers. Producers end by themselves, consumers when `stopped` becomes true.
    ///
    /// # Errors
    /// None that a constant queue name gives.
    pub(crate) fn spawn(self, workers: &mut JoinSet<()>, stopped: &watch::Receiver<bool>) -> Result<()> {
        let start = (Instant::now(), self.shared.now());
        for name in 0..PRODUCERS {
            let producer = self.client.producer(QUEUE).timeout(self.limit).build()?;
            workers.spawn(produce(Arc::clone(&self.shared), producer, name, start, self.push_time));
        }
        for name in 0..CONSUMERS {
            workers.spawn(consume(self.clone(), format!("demo-{name}"), stopped.clone()));
        }
        Ok(())
    }
}

/// Pushes every `PRODUCERS`-th batch at its time, and enters the answers.
async fn produce(
    shared: Arc<Shared>,
    producer: Producer,
    name: u64,
    start: (Instant, Millis),
    push_time: Duration,
) {
    let total = shared.total;
    let due_over = u64::try_from(push_time.as_millis()).unwrap_or(u64::MAX) + DUE_BEYOND_MS;
    let mut pushes = JoinSet::new();
    for batch in (0..total.div_ceil(BATCH)).filter(|batch| batch % PRODUCERS == name) {
        let numbers = batch * BATCH..(batch * BATCH + BATCH).min(total);
        tokio::time::sleep_until(start.0 + part(push_time, numbers.start, total)).await;
        let mut tasks = Vec::with_capacity(numbers.end as usize - numbers.start as usize);
        for number in numbers.clone() {
            let mut task = NewTask::new(payload(number)).max_attempts(MAX_ATTEMPTS);
            // Odd ones later; in the order of their numbers, so that some are due around the crash and most after.
            if number % 2 == 1 {
                let due = Millis(start.1.0 + DUE_FROM_MS + due_over * number / total);
                task = task.deliver_at(due);
                shared.lock().intended(number, due);
            }
            tasks.push(task);
        }
        let (shared, producer) = (Arc::clone(&shared), producer.clone());
        pushes.spawn(async move {
            let answers = producer.push_batch(tasks).await;
            let now = shared.now();
            if answers.iter().any(Result::is_ok) {
                shared.gap().ok();
            }
            let mut ledger = shared.lock();
            for (number, answer) in numbers.zip(answers) {
                match answer {
                    Ok(id) => ledger.pushed(number, id, now),
                    Err(error) => ledger.error(format!("push of task {number}: {error}")),
                }
            }
        });
    }
    while pushes.join_next().await.is_some() {}
}

fn part(whole: Duration, number: u64, total: u64) -> Duration {
    whole.mul_f64(number as f64 / total as f64)
}

/// Consumes until stopped, opening a new stream whenever one breaks.
async fn consume(load: Load, name: String, mut stopped: watch::Receiver<bool>) {
    // Acks without an answer, of a stream that broke.
    let mut in_doubt: Vec<(u64, Settlement)> = Vec::new();
    while !*stopped.borrow() {
        let turn = async {
            settle_again(&load, &mut in_doubt).await?;
            let mut pull = Pull::new(QUEUE);
            (pull.consumer, pull.lease, pull.tasks) = (name.clone(), Some(load.lease), CREDIT);
            let mut stream = load.client.pull(pull).await?;
            stream_until_broken(&load, &mut stream, &mut in_doubt).await
        };
        tokio::select! {
            ended = turn => if let Err(error) = ended && !error.is_retryable() {
                load.shared.lock().error(format!("consumer {name}: {error}"));
                return;
            },
            _ = stopped.changed() => return,
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

async fn stream_until_broken(
    load: &Load,
    stream: &mut PullStream,
    in_doubt: &mut Vec<(u64, Settlement)>,
) -> Result<(), z4_client::Error> {
    let shared = &load.shared;
    while let Some(batch) = stream.next_batch().await? {
        let now = shared.now();
        {
            let mut ledger = shared.lock();
            for task in &batch {
                ledger.delivered(number(task), task.id, task.token, task.deliveries, now);
            }
        }
        in_doubt.extend(batch.iter().map(|task| (number(task), task.settle(z4_client::Verdict::Ack))));
        stream.ack_batch(&batch).await?;
        stream.flush().await?;
        let refused = stream.take_refused();
        let now = shared.now();
        {
            let mut ledger = shared.lock();
            in_doubt.retain(|(number, word)| {
                let refused = refused.iter().find(|(id, _)| *id == word.id);
                stays_in_doubt(&mut ledger, *number, refused.map(|(_, error)| error), now)
            });
        }
        if !in_doubt.is_empty() {
            // Asked again before anything else is taken.
            return Ok(());
        }
    }
    Ok(())
}

/// Sends the acks of a broken stream again.
async fn settle_again(load: &Load, in_doubt: &mut Vec<(u64, Settlement)>) -> Result<(), z4_client::Error> {
    if in_doubt.is_empty() {
        return Ok(());
    }
    let words: Vec<Settlement> = in_doubt.iter().map(|(_, word)| word.clone()).collect();
    let answers = load.client.settle(&words).await?;
    let now = load.shared.now();
    let mut ledger = load.shared.lock();
    let mut answers = answers.into_iter();
    in_doubt.retain(|(number, _)| {
        let error = answers.next().and_then(Result::err);
        stays_in_doubt(&mut ledger, *number, error.as_ref(), now)
    });
    Ok(())
}

/// Takes the answer to an ack. Returns whether nobody knows yet what became of it: it is sent again.
fn stays_in_doubt(ledger: &mut Ledger, number: u64, refused: Option<&z4_client::Error>, now: Millis) -> bool {
    let Some(error) = refused else {
        ledger.acked(number, now);
        return false;
    };
    match error.kind() {
        // The lease ended first: the task comes back.
        Kind::Conflict => {}
        // Nobody else ends tasks here: it is gone because an ack that got no answer was done.
        Kind::NotFound => ledger.acked(number, now),
        _ if error.is_retryable() => return true,
        _ => ledger.error(format!("ack of task {number}: {error}")),
    }
    false
}

fn payload(number: u64) -> Vec<u8> {
    let mut bytes = vec![b'.'; PAYLOAD_BYTES];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    bytes
}

/// Returns the number in a payload; one that nobody pushed if it has none.
fn number(task: &Task) -> u64 {
    task.payload.first_chunk().map_or(u64::MAX, |bytes| u64::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pushing_is_spread_evenly() {
        assert_eq!(part(PUSH_TIME, 0, 100), Duration::ZERO);
        assert_eq!(part(PUSH_TIME, 50, 100), PUSH_TIME / 2);
    }

    #[test]
    fn a_payload_has_its_number_and_its_size() {
        assert_eq!(payload(70_000).len(), PAYLOAD_BYTES);
        assert_eq!(payload(70_000).first_chunk().map(|bytes| u64::from_le_bytes(*bytes)), Some(70_000));
    }
}
