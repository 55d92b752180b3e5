//! `-q QUEUE consume`: prints each task as a line of JSON and acknowledges it once the line is out; with --nack, fails it.
//!
//! A line is written and flushed before its task is acked, so what a reader saw may come again after a crash, but
//! nothing is acked that nobody saw. When the reader goes away, or on Ctrl-C, tasks that were not printed are given
//! back at once. A broken stream is opened again for as long as `--timeout`; acks without an answer are sent again.
//!
//! Ctrl-C and SIGTERM are heard at every step: while a stream is opened, and while the reader does not read, which is
//! why another thread writes. A second one ends the good order of ending, too.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, timeout};
use z4_client::{Client, Error, Kind, Pull, PullStream, Settlement, Task, TaskId, Verdict};

use crate::args::Consume;
use crate::failure::{Failure, code_of};
use crate::output::{self, DeliveryJson};

/// Tasks held at a time: enough to hide the way, few enough to lose little when we die.
const HELD: u32 = 100;
/// Pause between attempts to open the stream again.
const REOPEN_PAUSE: Duration = Duration::from_millis(200);
/// A line that is being written when we are told to stop gets this time. Longer, and the reader does not read.
const LINE_GRACE: Duration = Duration::from_millis(200);

/// Why the loop ended.
enum End {
    /// As asked for: enough tasks, idle long enough, or told to stop.
    Done,
    /// The stream broke; go on with another.
    Broken(Error),
}

pub(super) async fn run(
    client: &Client,
    timeout: Duration,
    queue: Option<String>,
    consume: Consume,
) -> Result<(), Failure> {
    let queue =
        queue.ok_or_else(|| Failure::Usage("give the queue to consume: -q QUEUE consume".to_owned()))?;
    let mut signals = Signals::listen()?;
    let verdict = verdict(&consume);
    let mut verb = Verb { client, verdict, left: consume.count, idle: consume.idle, lost: 0 };
    let mut patient = false;
    let mut unanswered: Vec<Settlement> = Vec::new();
    while verb.left != Some(0) {
        let pull =
            Pull { consumer: consume.name.clone(), tasks: HELD, total: verb.left, ..Pull::new(&queue) };
        let opened = tokio::select! {
            biased;
            () = signals.stop() => break,
            opened = open(client, &pull, timeout, patient) => opened,
        };
        let mut stream = opened?;
        patient = true;
        let end = match verb.settle_again(std::mem::take(&mut unanswered), &mut signals).await {
            Ok(()) => verb.take(&mut stream, &mut signals).await,
            Err(failure) => Err(failure),
        };
        match end {
            Ok(End::Done) => {
                verb.finish(stream, &mut signals).await?;
                break;
            }
            Ok(End::Broken(error)) if error.is_retryable() => {
                output::talk(format_args!("{error}; connecting again"));
                verb.report(stream.take_refused());
                unanswered = left_over(stream);
            }
            Ok(End::Broken(error)) => return Err(error.into()),
            Err(failure) => {
                // Nobody reads any more: what was printed is acked, the rest was released.
                verb.finish(stream, &mut signals).await?;
                return Err(failure);
            }
        }
    }
    verb.settle_again(unanswered, &mut signals).await?;
    if verb.lost == 0 { Ok(()) } else { Err(Failure::Partly(4)) }
}

/// Returns what is said of each task.
fn verdict(consume: &Consume) -> Verdict {
    match &consume.nack {
        None => Verdict::Ack,
        Some(reason) if consume.dead => Verdict::NackDead { reason: reason.clone() },
        Some(reason) => Verdict::Nack { delay: None, slow_group: consume.slow_group, reason: reason.clone() },
    }
}

struct Verb<'a> {
    client: &'a Client,
    /// What is said of each task that was printed.
    verdict: Verdict,
    /// Tasks still to print; None: no end.
    left: Option<u64>,
    idle: Option<Duration>,
    /// Printed tasks whose ack was refused.
    lost: u64,
}

impl Verb<'_> {
    /// Prints and acks until there is a reason to end.
    async fn take(&mut self, stream: &mut PullStream, signals: &mut Signals) -> Result<End, Failure> {
        // Idle is a queue without a task: not the time before there was a stream, and not that of a slow reader.
        let mut idle_since = Instant::now();
        while self.left != Some(0) {
            let idle_until = self.idle.map(|idle| idle_since + idle);
            let batch = tokio::select! {
                biased;
                () = signals.stop() => return Ok(End::Done),
                batch = stream.next_batch() => batch,
                () = at(idle_until) => return Ok(End::Done),
            };
            self.report(stream.take_refused());
            let batch: Arc<[Task]> = match batch {
                Ok(Some(batch)) => batch.into(),
                Ok(None) => return Ok(End::Broken(over())),
                Err(error) => return Ok(End::Broken(error)),
            };
            let (count, printed) = print(&batch, signals).await;
            idle_since = Instant::now();
            self.left = self.left.map(|left| left.saturating_sub(count as u64));
            let printed_ones = &batch[..count];
            let words: Vec<_> = printed_ones.iter().map(|task| task.settle(self.verdict.clone())).collect();
            let bytes = printed_ones.iter().map(|task| task.payload.len() as u64).sum();
            let acked = stream.settle(&words, bytes).await;
            match printed {
                Ok(Printed::All) => {}
                Ok(Printed::Stopped) => {
                    release(self.client, &batch[count..]).await;
                    // A stream that broke now is found broken again by the flush, which sends its acks elsewhere.
                    return Ok(End::Done);
                }
                Err(failure) => {
                    release(self.client, &batch[count..]).await;
                    return Err(failure);
                }
            }
            if let Err(error) = acked {
                return Ok(End::Broken(error));
            }
        }
        Ok(End::Done)
    }

    /// Waits for the answers to all acks, and gives back what was on its way. Told to stop once more, it does not.
    async fn finish(&mut self, stream: PullStream, signals: &mut Signals) -> Result<(), Failure> {
        tokio::select! {
            biased;
            () = signals.stop_again() => Err(cut_short()),
            finished = self.finish_in_order(stream) => finished,
        }
    }

    async fn finish_in_order(&mut self, mut stream: PullStream) -> Result<(), Failure> {
        if let Err(error) = stream.flush().await {
            if !error.is_retryable() {
                return Err(error.into());
            }
            self.report(stream.take_refused());
            return self.settle_left_over(left_over(stream)).await;
        }
        self.report(stream.take_refused());
        match stream.close().await {
            Ok(stray) => release(self.client, &stray).await,
            // They come back when their leases end.
            Err(error) => output::talk(format_args!("the stream did not end in good order: {error}")),
        }
        Ok(())
    }

    /// Sends acks again whose answers were lost. Told to stop once more, it does not wait for the answers.
    async fn settle_again(&mut self, words: Vec<Settlement>, signals: &mut Signals) -> Result<(), Failure> {
        tokio::select! {
            biased;
            () = signals.stop_again() => Err(cut_short()),
            settled = self.settle_left_over(words) => settled,
        }
    }

    /// Sends acks on another connection. One that was done already is over, which is no loss.
    async fn settle_left_over(&mut self, words: Vec<Settlement>) -> Result<(), Failure> {
        if words.is_empty() {
            return Ok(());
        }
        let answers = self.client.settle(&words).await?;
        let printed =
            words.iter().zip(answers).filter(|(word, _)| !matches!(word.verdict, Verdict::Release { .. }));
        let refused = printed.filter_map(|(word, answer)| Some((word.id, answer.err()?)));
        self.report(refused.filter(|(_, error)| error.kind() != Kind::NotFound).collect());
        Ok(())
    }

    fn report(&mut self, refused: Vec<(TaskId, Error)>) {
        self.lost += refused.len() as u64;
        for (id, error) in refused {
            output::talk(format_args!("warning: task {id} was printed and not settled: {error}"));
        }
    }
}

/// Returns the end of one who was told to stop twice.
fn cut_short() -> Failure {
    output::talk(format_args!("stopped before every ack was answered; the last tasks may come again"));
    Failure::Partly(code_of(&over()))
}

enum Printed {
    All,
    /// Told to stop on the way.
    Stopped,
}

/// Prints tasks on another thread, so that a reader that does not read cannot make us deaf. Returns how many were
/// printed, counted from the first.
async fn print(batch: &Arc<[Task]>, signals: &mut Signals) -> (usize, Result<Printed, Failure>) {
    let (count, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let mut writing = spawn_blocking({
        let (batch, count, stop) = (Arc::clone(batch), Arc::clone(&count), Arc::clone(&stop));
        move || {
            for task in &*batch {
                if stop.load(SeqCst) {
                    return Ok(Printed::Stopped);
                }
                output::json(&DeliveryJson::new(task))?;
                count.fetch_add(1, SeqCst);
            }
            Ok(Printed::All)
        }
    });
    let written = tokio::select! {
        written = &mut writing => Some(written),
        () = signals.stop() => {
            stop.store(true, SeqCst);
            timeout(LINE_GRACE, &mut writing).await.ok()
        }
    };
    let printed = match written {
        Some(Ok(result)) => result,
        Some(Err(panic)) => Err(Failure::Failed(format!("cannot write the output: {panic}"))),
        // The line is still in the pipe, so nobody saw its task.
        None => Ok(Printed::Stopped),
    };
    (count.load(SeqCst), printed)
}

/// Opens the stream. When it broke before, `patient`: tries for `timeout`, because the server may be restarting. The
/// first time not: a person does not want to wait for a wrong address.
async fn open(client: &Client, pull: &Pull, timeout: Duration, patient: bool) -> Result<PullStream, Error> {
    let until = Instant::now() + timeout;
    loop {
        let error = match client.pull(pull.clone()).await {
            Ok(stream) => return Ok(stream),
            Err(error) => error,
        };
        let nobody = error.reason() == z4_proto::reason::UNREACHABLE && !patient;
        let pause = error.retry_after().unwrap_or_default().max(REOPEN_PAUSE);
        if nobody || !error.is_retryable() || Instant::now() + pause >= until {
            return Err(error);
        }
        sleep(pause).await;
    }
}

fn over() -> Error {
    z4_proto::status::Failure::new(
        Kind::Unavailable,
        z4_proto::reason::DRAINING,
        "the server has ended the stream",
    )
    .into()
}

/// Returns what has to be said on another connection: the acks without an answer, and a release for the unread.
fn left_over(stream: PullStream) -> Vec<Settlement> {
    let (mut words, unread) = stream.into_parts();
    words.extend(unread.iter().map(|task| task.settle(Verdict::Release { delay: Duration::ZERO })));
    words
}

/// Gives tasks back. If that fails they come back when their leases end, so it is not worth more than a word.
async fn release(client: &Client, tasks: &[Task]) {
    if tasks.is_empty() {
        return;
    }
    let words: Vec<_> =
        tasks.iter().map(|task| task.settle(Verdict::Release { delay: Duration::ZERO })).collect();
    if let Err(error) = client.settle(&words).await {
        output::talk(format_args!("{} tasks come back only when their leases end: {error}", tasks.len()));
    }
}

pub(super) async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// Ctrl-C and SIGTERM, heard from the start: one that comes while a line is printed must not be missed.
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    heard: u32,
}

impl Signals {
    pub(super) fn listen() -> Result<Self, Failure> {
        let listen = || {
            Ok(Self {
                interrupt: signal(SignalKind::interrupt())?,
                terminate: signal(SignalKind::terminate())?,
                heard: 0,
            })
        };
        listen()
            .map_err(|error: std::io::Error| Failure::Failed(format!("cannot listen for signals: {error}")))
    }

    /// Waits for the first one, or returns at once if it has come.
    pub(super) async fn stop(&mut self) {
        self.hear(1).await;
    }

    /// Waits for a second one.
    async fn stop_again(&mut self) {
        self.hear(2).await;
    }

    async fn hear(&mut self, times: u32) {
        while self.heard < times {
            tokio::select! {
                _ = self.interrupt.recv() => {}
                _ = self.terminate.recv() => {}
            }
            self.heard += 1;
        }
    }
}
