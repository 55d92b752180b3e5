//! The load of a crash run: producers and consumers on real streams, writing down all they see.
//!
//! A producer keeps a window of batches; those without an answer when the server dies are sent again to the next one
//! under the same request ids, as a real client does. A consumer acks what it gets, leaves a few leases to expire,
//! and gives a few tasks back. Both speak the generated client, so that no retry of a library hides a lost answer.
//!
//! # Invariants
//! - What may count from now on is written down before it is sent; what was promised, after it was read.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use z4_env::{Rng, SeededRng};
use z4_proto::v1;
use z4_proto::v1::pull_reply::Message as Reply;
use z4_proto::v1::pull_request::{Credit, Message as Request, Open, Settle};
use z4_proto::v1::settlement::Verdict;
use z4_proto::v1::tasks_client::TasksClient;
use z4_types::TaskId;

use super::history::{Delivery, History};

/// Queues of the load; with four shards most runs use several.
pub(crate) const QUEUES: [&str; 6] = ["crash/a", "crash/b", "crash/c", "crash/d", "crash/e", "crash/f"];
/// Unanswered batches of a producer.
const WINDOW: usize = 8;
/// Tasks of a batch.
const BATCH_MAX: u64 = 64;
/// Credit of a consumer, renewed as it is used.
const CREDIT_TASKS: u32 = 500;
/// Lease of a consumer: short, so that expiry and redelivery happen within a cycle and the drain ends soon.
const LEASE: Duration = Duration::from_secs(2);
/// Leases that end without an ack count as failures; a task must outlive all of them.
const MAX_ATTEMPTS: u32 = 100_000;
const PAYLOAD_BYTES: usize = 200;
/// Status codes after which a batch is sent again: ABORTED is not among them.
const RETRY_CODES: [i32; 3] = [
    tonic::Code::Unavailable as i32,
    tonic::Code::ResourceExhausted as i32,
    tonic::Code::DeadlineExceeded as i32,
];

/// The history, shared by all producers and consumers of a run.
#[derive(Clone, Default)]
pub(crate) struct Shared(Arc<Mutex<History>>);

impl Shared {
    pub(crate) fn lock(&self) -> MutexGuard<'_, History> {
        self.0.lock().expect("no producer or consumer panics with the history in hand")
    }
}

/// One batch on its way, sent again until it is answered.
#[derive(Debug, Clone)]
pub(crate) struct Batch {
    request_id: String,
    queue: &'static str,
    numbers: Vec<u64>,
    tasks: Vec<v1::NewTask>,
}

/// A producer, alive across servers.
pub(crate) struct Producer {
    name: usize,
    rng: SeededRng,
    batches: u64,
    /// Unanswered batches, oldest first.
    waiting: VecDeque<Batch>,
}

impl Producer {
    pub(crate) fn new(name: usize, rng: SeededRng) -> Self {
        Self { name, rng, batches: 0, waiting: VecDeque::new() }
    }

    /// Returns whether some batch still has no answer.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Pushes until the stream breaks; with `fresh` false it only sends again what has no answer yet.
    ///
    /// # Errors
    /// An answer no server may give to this load.
    pub(crate) async fn produce(&mut self, channel: Channel, shared: &Shared, fresh: bool) -> Result<()> {
        let (sender, receiver) = mpsc::channel(WINDOW);
        let mut under_way: BTreeMap<u64, Batch> = BTreeMap::new();
        let mut seq = 0;
        let mut client = TasksClient::new(channel).max_decoding_message_size(z4_proto::MESSAGE_BYTES_MAX);
        let replies = client.push(ReceiverStream::new(receiver));
        let Ok(replies) = replies.await else { return Ok(()) };
        let mut replies = replies.into_inner();
        let mut again: VecDeque<Batch> = std::mem::take(&mut self.waiting);
        let outcome = loop {
            let pause = Duration::from_millis(2 + self.rng.below(12));
            let room = under_way.len() < WINDOW;
            if !fresh && again.is_empty() && under_way.is_empty() {
                break Ok(());
            }
            tokio::select! {
                reply = replies.message() => {
                    let Ok(Some(reply)) = reply else { break Ok(()) };
                    let Some(batch) = under_way.remove(&reply.seq) else {
                        break Err(anyhow::anyhow!("an answer to batch {}, which waits for none", reply.seq));
                    };
                    match answer(&batch, &reply, shared) {
                        Ok(true) => {}
                        Ok(false) => again.push_back(batch),
                        Err(error) => break Err(error),
                    }
                }
                () = tokio::time::sleep(pause), if room && (fresh || !again.is_empty()) => {
                    let batch = again.pop_front().unwrap_or_else(|| self.new_batch(shared));
                    seq += 1;
                    let request = v1::PushRequest {
                        seq,
                        queue: batch.queue.to_owned(),
                        tasks: batch.tasks.clone(),
                        request_id: batch.request_id.clone(),
                    };
                    under_way.insert(seq, batch);
                    if sender.send(request).await.is_err() {
                        break Ok(());
                    }
                }
            }
        };
        self.waiting = under_way.into_values().chain(again).collect();
        outcome
    }

    fn new_batch(&mut self, shared: &Shared) -> Batch {
        self.batches += 1;
        let queue = QUEUES[self.rng.below(QUEUES.len() as u64) as usize];
        let count = 1 + self.rng.below(BATCH_MAX);
        let mut numbers = Vec::new();
        let mut tasks = Vec::new();
        let now = now_ms();
        for _ in 0..count {
            let due_ms = if self.rng.chance(1, 5) { now + self.rng.below(1_500) } else { 0 };
            let number = shared.lock().attempted(due_ms);
            numbers.push(number);
            tasks.push(v1::NewTask {
                payload: payload(number).into(),
                schedule: (due_ms > 0).then(|| v1::new_task::Schedule::DeliverAt(timestamp(due_ms))),
                max_attempts: Some(MAX_ATTEMPTS),
                ..v1::NewTask::default()
            });
        }
        let request_id = format!("crash-{}-{}", self.name, self.batches);
        Batch { request_id, queue, numbers, tasks }
    }
}

/// Writes down what the server said about a batch; false if it must be sent again.
fn answer(batch: &Batch, reply: &v1::PushReply, shared: &Shared) -> Result<bool> {
    if let Some(failure) = &reply.failure {
        if RETRY_CODES.contains(&failure.code) {
            return Ok(false);
        }
        bail!("a batch was refused: {} {}", failure.reason, failure.message);
    }
    if reply.ids.len() != batch.numbers.len() {
        bail!("{} ids for {} tasks", reply.ids.len(), batch.numbers.len());
    }
    let mut history = shared.lock();
    for (number, id) in batch.numbers.iter().zip(&reply.ids) {
        if !id.is_empty() {
            history.created(*number, id.parse::<TaskId>()?.0);
        }
    }
    if reply.errors.is_empty() {
        return Ok(true);
    }
    let failures = || reply.errors.iter().filter_map(|error| error.failure.as_ref());
    match failures().find(|failure| !RETRY_CODES.contains(&failure.code)) {
        Some(failure) => bail!("a task was refused: {} {}", failure.reason, failure.message),
        None => Ok(false),
    }
}

/// What a consumer does besides acking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    /// Leaves some leases to expire and gives some tasks back.
    Careless,
    /// Acks everything.
    Diligent,
}

/// Consumes `queue` until the stream breaks or `stop` changes.
///
/// # Errors
/// An answer no server may give to this load.
pub(crate) async fn consume(
    channel: Channel,
    shared: Shared,
    queue: &'static str,
    run: u32,
    manner: Manner,
    mut rng: SeededRng,
    mut stop: watch::Receiver<bool>,
) -> Result<()> {
    let (sender, receiver) = mpsc::channel(1024);
    let open =
        Open { queue: queue.to_owned(), consumer: String::new(), lease_duration: Some(duration(LEASE)) };
    let send = async |message| sender.send(v1::PullRequest { message: Some(message) }).await.is_ok();
    send(Request::Open(open)).await;
    send(Request::Credit(Credit { tasks: CREDIT_TASKS, bytes: 16 << 20 })).await;
    let mut client = TasksClient::new(channel).max_decoding_message_size(z4_proto::MESSAGE_BYTES_MAX);
    let Ok(replies) = client.pull(ReceiverStream::new(receiver)).await else { return Ok(()) };
    let mut replies = replies.into_inner();
    let mut unsettled: BTreeMap<u64, Vec<(u64, u64, bool)>> = BTreeMap::new();
    let mut seq = 0;
    loop {
        let reply = tokio::select! {
            reply = replies.message() => reply,
            _ = stop.changed() => return Ok(()),
        };
        let Ok(Some(v1::PullReply { message: Some(reply) })) = reply else { return Ok(()) };
        match reply {
            Reply::Tasks(tasks) => {
                let received = u32::try_from(tasks.tasks.len()).expect("never more than the credit");
                let bytes = tasks.tasks.iter().map(|task| task.payload.len() as u64).sum();
                let settlements = receive(tasks.tasks, &shared, run, manner, &mut rng)?;
                if !settlements.is_empty() {
                    seq += 1;
                    let noted = settlements.iter().map(|(number, s)| (*number, s.token, is_ack(s))).collect();
                    unsettled.insert(seq, noted);
                    let settlements = settlements.into_iter().map(|(_, settlement)| settlement).collect();
                    send(Request::Settle(Settle { seq, settlements })).await;
                }
                send(Request::Credit(Credit { tasks: received, bytes })).await;
            }
            Reply::Settled(settled) => {
                let Some(noted) = unsettled.remove(&settled.seq) else {
                    bail!("an answer to settlement {}, which waits for none", settled.seq);
                };
                note_settled(&noted, &settled, &shared, run);
            }
            Reply::Opened(_) | Reply::Draining(_) => {}
        }
    }
}

fn is_ack(settlement: &v1::Settlement) -> bool {
    matches!(settlement.verdict, Some(Verdict::Ack(_)))
}

/// Writes deliveries down and decides what to answer to each.
fn receive(
    tasks: Vec<v1::LeasedTask>,
    shared: &Shared,
    run: u32,
    manner: Manner,
    rng: &mut SeededRng,
) -> Result<Vec<(u64, v1::Settlement)>> {
    let mut history = shared.lock();
    let mut settlements = Vec::new();
    let at_ms = now_ms();
    for task in tasks {
        let Some(number) = read_payload(&task.payload) else {
            history.delivered_garbage();
            continue;
        };
        let delivery = Delivery { id: task.id.parse::<TaskId>()?.0, token: task.token, run, at_ms };
        if !history.delivered(number, delivery) {
            continue;
        }
        let verdict = match (manner, rng.below(100)) {
            (Manner::Careless, 0) => continue, // The lease expires, perhaps under the next server.
            (Manner::Careless, 1) => Verdict::Release(v1::Release { delay: None }),
            _ => {
                history.ack_sent(number, task.token);
                Verdict::Ack(v1::Ack::default())
            }
        };
        settlements.push((number, v1::Settlement { id: task.id, token: task.token, verdict: Some(verdict) }));
    }
    Ok(settlements)
}

fn note_settled(noted: &[(u64, u64, bool)], settled: &v1::pull_reply::Settled, shared: &Shared, run: u32) {
    if settled.failure.is_some() {
        return; // Sent or not, who knows: it stays open.
    }
    let refused: BTreeMap<usize, i32> = settled
        .errors
        .iter()
        .map(|error| (error.index as usize, error.failure.as_ref().map_or(0, |failure| failure.code)))
        .collect();
    let mut history = shared.lock();
    for (index, (number, token, ack)) in noted.iter().enumerate() {
        match refused.get(&index) {
            _ if !ack => {}
            None => history.ack_ok(*number, *token, run),
            // Only a plain no is a no.
            Some(code) if !RETRY_CODES.contains(code) => history.ack_refused(*number, *token),
            Some(_) => {}
        }
    }
}

/// Returns how many open tasks (waiting, leased) and dead ones the queues of the load hold.
///
/// # Errors
/// If the server does not answer.
pub(crate) async fn backlog(channel: Channel) -> Result<(u64, u64)> {
    let mut client = TasksClient::new(channel);
    let (mut open, mut dead) = (0, 0);
    for queue in QUEUES {
        let queue = match client.get_queue(v1::GetQueueRequest { queue: queue.to_owned() }).await {
            Ok(reply) => reply.into_inner().queue.unwrap_or_default(),
            Err(status) if status.code() == tonic::Code::NotFound => continue,
            Err(status) => return Err(status.into()),
        };
        open += queue.waiting + queue.leased;
        dead += queue.dead;
    }
    Ok((open, dead))
}

/// Returns the payload of a task: its number, then bytes that only this number gives.
fn payload(number: u64) -> Vec<u8> {
    let mut rng = SeededRng::new(number);
    let mut bytes = number.to_le_bytes().to_vec();
    while bytes.len() < PAYLOAD_BYTES {
        bytes.extend(rng.next_u64().to_le_bytes());
    }
    bytes
}

/// Returns the number in a payload, if every byte is as it was sent.
fn read_payload(bytes: &[u8]) -> Option<u64> {
    let number = u64::from_le_bytes(bytes.get(..8)?.try_into().ok()?);
    (payload(number) == bytes).then_some(number)
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn timestamp(ms: u64) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds: (ms / 1_000) as i64, nanos: (ms % 1_000) as i32 * 1_000_000 }
}

fn duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration { seconds: duration.as_secs() as i64, nanos: duration.subsec_nanos() as i32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_names_its_task_and_shows_a_single_changed_byte() {
        assert_eq!(read_payload(&payload(77)), Some(77));
        for at in 0..PAYLOAD_BYTES {
            let mut bytes = payload(77);
            bytes[at] ^= 1;
            assert_eq!(read_payload(&bytes), None, "byte {at}");
        }
        assert_eq!(read_payload(b"short"), None);
    }
}
