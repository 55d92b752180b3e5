//! `-q QUEUE consume`: prints each task as a line of JSON and acknowledges it once the line is out.
//!
//! A line is written and flushed before its task is acked, so what a reader saw may come again after a crash, but
//! nothing is acked that nobody saw. When the reader goes away, or on Ctrl-C, tasks that were not printed are given
//! back at once. A broken stream is opened again for as long as `--timeout`; acks without an answer are sent again.

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep};
use z4_client::{Client, Error, Kind, Pull, PullStream, Settlement, Task, TaskId, Verdict};

use crate::args::Consume;
use crate::failure::Failure;
use crate::output::{self, DeliveryJson};

/// Tasks held at a time: enough to hide the way, few enough to lose little when we die.
const HELD: u32 = 100;
/// Pause between attempts to open the stream again.
const REOPEN_PAUSE: Duration = Duration::from_millis(200);

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
    let signals = Signals::listen()?;
    let mut verb =
        Verb { client, left: consume.count, idle: consume.idle, last: Instant::now(), lost: 0, signals };
    let mut patient = false;
    let mut unanswered: Vec<Settlement> = Vec::new();
    loop {
        let pull =
            Pull { consumer: consume.name.clone(), tasks: HELD, total: verb.left, ..Pull::new(&queue) };
        let mut stream = open(client, &pull, timeout, patient).await?;
        patient = true;
        verb.settle_again(std::mem::take(&mut unanswered)).await?;
        match verb.take(&mut stream).await {
            Ok(End::Done) => {
                verb.finish(stream).await?;
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
                verb.finish(stream).await?;
                return Err(failure);
            }
        }
        if verb.left == Some(0) {
            verb.settle_again(std::mem::take(&mut unanswered)).await?;
            break;
        }
    }
    if verb.lost == 0 { Ok(()) } else { Err(Failure::Partly(4)) }
}

struct Verb<'a> {
    client: &'a Client,
    /// Tasks still to print; None: no end.
    left: Option<u64>,
    idle: Option<Duration>,
    /// When the last task came, or consuming began.
    last: Instant,
    /// Printed tasks whose ack was refused.
    lost: u64,
    signals: Signals,
}

impl Verb<'_> {
    /// Prints and acks until there is a reason to end.
    async fn take(&mut self, stream: &mut PullStream) -> Result<End, Failure> {
        while self.left != Some(0) {
            let idle_until = self.idle.map(|idle| self.last + idle);
            let batch = tokio::select! {
                batch = stream.next_batch() => batch,
                () = at(idle_until) => return Ok(End::Done),
                () = self.signals.stop() => return Ok(End::Done),
            };
            self.report(stream.take_refused());
            let batch = match batch {
                Ok(Some(batch)) => batch,
                Ok(None) => return Ok(End::Broken(over())),
                Err(error) => return Ok(End::Broken(error)),
            };
            self.last = Instant::now();
            let printed = batch.iter().map(|task| output::json(&DeliveryJson::new(task)));
            let (count, failure) = count_until_error(printed);
            self.left = self.left.map(|left| left.saturating_sub(count as u64));
            if let Err(error) = stream.ack_batch(&batch[..count]).await {
                return Ok(End::Broken(error));
            }
            if let Some(failure) = failure {
                release(self.client, &batch[count..]).await;
                return Err(failure);
            }
        }
        Ok(End::Done)
    }

    /// Waits for the answers to all acks, and gives back what was on its way.
    async fn finish(&mut self, mut stream: PullStream) -> Result<(), Failure> {
        if let Err(error) = stream.flush().await {
            if !error.is_retryable() {
                return Err(error.into());
            }
            self.report(stream.take_refused());
            return self.settle_again(left_over(stream)).await;
        }
        self.report(stream.take_refused());
        match stream.close().await {
            Ok(stray) => release(self.client, &stray).await,
            // They come back when their leases end.
            Err(error) => output::talk(format_args!("the stream did not end in good order: {error}")),
        }
        Ok(())
    }

    /// Sends acks again whose answers were lost. One that was done already is over, which is no loss.
    async fn settle_again(&mut self, words: Vec<Settlement>) -> Result<(), Failure> {
        if words.is_empty() {
            return Ok(());
        }
        let answers = self.client.settle(&words).await?;
        let printed = words.iter().zip(answers).filter(|(word, _)| word.verdict == Verdict::Ack);
        let refused = printed.filter_map(|(word, answer)| Some((word.id, answer.err()?)));
        self.report(refused.filter(|(_, error)| error.kind() != Kind::NotFound).collect());
        Ok(())
    }

    fn report(&mut self, refused: Vec<(TaskId, Error)>) {
        self.lost += refused.len() as u64;
        for (id, error) in refused {
            output::talk(format_args!("warning: task {id} was printed and not acknowledged: {error}"));
        }
    }
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

/// Returns how many succeeded before the first failure, and that failure.
fn count_until_error(results: impl Iterator<Item = Result<(), Failure>>) -> (usize, Option<Failure>) {
    let mut count = 0;
    for result in results {
        if let Err(failure) = result {
            return (count, Some(failure));
        }
        count += 1;
    }
    (count, None)
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// Ctrl-C and SIGTERM, heard from the start: one that comes while a line is printed must not be missed.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn listen() -> Result<Self, Failure> {
        let listen = || {
            Ok(Self {
                interrupt: signal(SignalKind::interrupt())?,
                terminate: signal(SignalKind::terminate())?,
            })
        };
        listen()
            .map_err(|error: std::io::Error| Failure::Failed(format!("cannot listen for signals: {error}")))
    }

    async fn stop(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
