//! The consumer: a handler for each task, everything else done for it.
//!
//! ```text
//!   server ──tasks──> ready ──up to `concurrency`──> handlers ──verdicts──> outbox ──batches──> server
//!                       └────── leases of all that is held are extended at half their time ──────┘
//! ```
//! One task, the [`Driver`](driver), owns the stream and all of this. Settlements are batched like pushes: without
//! linger, the next batch fills while one is under way. When the stream breaks it is opened again, elsewhere if there
//! is an elsewhere; tasks that are held stay held, because a lease belongs to its token and not to a connection, and
//! settlements without an answer are sent again.
//!
//! # Invariants
//! - Tasks held and credit not yet used are together at most `credit`.
//! - A task whose handler has begun is settled by what the handler said, or by its lease's end; never released.
//!   (Only a handler cut off by the drain timeout is.)
//!
//! # Caveats
//! - Delivery is at least once: a handler that outlives its lease, because no host could be reached to extend it, may
//!   run beside the next delivery of the same task. Fence with [`Task::token`].

mod driver;
mod outbox;

use std::fmt;
use std::future::Future;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use z4_proto::{convert, reason};
use z4_types::Kind;
use z4_types::limits::{CONSUMER_CREDIT_BYTES_MAX, CONSUMER_CREDIT_TASKS_MAX};

use crate::call::SPAN_MAX;
use crate::{Client, Error, Task};

/// Handlers at a time unless set.
const CONCURRENCY_DEFAULT: usize = 16;
/// Payload bytes held unless set.
const CREDIT_BYTES_DEFAULT: u64 = 16 << 20;
/// Handlers that still run so long after `drain` are cut off.
const DRAIN_TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);

/// Why a handler failed. Made from any error by `?`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandlerError {
    delay: Option<Duration>,
    slow_group: Option<Duration>,
    reason: String,
    for_good: bool,
}

impl HandlerError {
    /// Returns a failure; the task is retried by its policy, until its attempts are used up. Of the reason, 1,024 bytes
    /// are kept.
    #[must_use]
    pub fn new(reason: impl fmt::Display) -> Self {
        let reason = reason.to_string();
        // Cut here already: it waits with thousands of others until it is sent.
        let reason = crate::task::cut(&reason).to_owned();
        Self { delay: None, slow_group: None, reason, for_good: false }
    }

    /// Names the wait before the next delivery, instead of the policy: a Retry-After.
    #[must_use]
    pub fn retry_in(mut self, delay: Duration) -> Self {
        self.delay = Some(delay);
        self
    }

    /// Asks for a rest of the task's whole group: nothing of it is delivered for so long, at most 24 h. What a service says with
    /// Retry-After when it means the customer and not the one request.
    #[must_use]
    pub fn slow_group(mut self, span: Duration) -> Self {
        self.slow_group = Some(span);
        self
    }

    /// Says that it would fail again: the task is dead, whatever attempts it has left.
    #[must_use]
    pub fn for_good(mut self) -> Self {
        self.for_good = true;
        self
    }
}

/// Not `std::error::Error` itself, so that this can be.
impl<E: std::error::Error> From<E> for HandlerError {
    fn from(error: E) -> Self {
        Self::new(error)
    }
}

/// What a consumer did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Deliveries that arrived.
    pub delivered: u64,
    /// Acknowledgements the server confirmed. Durable: none of these comes back.
    pub acked: u64,
    /// Failures the server confirmed.
    pub failed: u64,
    /// Tasks given back.
    pub released: u64,
    /// Deliveries whose lease was over before they were settled; such a task is delivered again.
    pub lost: u64,
    /// Settlements that were not confirmed when the consumer ended; such a task may be delivered again.
    pub unsettled: u64,
}

/// Sets up a [`Consumer`].
#[derive(Debug, Clone)]
#[must_use]
pub struct ConsumerBuilder {
    client: Client,
    queue: String,
    name: String,
    concurrency: usize,
    credit: Option<u32>,
    credit_bytes: u64,
    lease: Option<Duration>,
    drain_timeout: Duration,
}

impl ConsumerBuilder {
    pub(crate) fn new(client: Client, queue: String) -> Self {
        Self {
            client,
            queue,
            name: String::new(),
            concurrency: CONCURRENCY_DEFAULT,
            credit: None,
            credit_bytes: CREDIT_BYTES_DEFAULT,
            lease: None,
            drain_timeout: DRAIN_TIMEOUT_DEFAULT,
        }
    }

    /// Shown with the tasks it holds; the server chooses one unless set.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Handlers that run at a time; 16 unless set.
    pub fn concurrency(mut self, handlers: usize) -> Self {
        self.concurrency = handlers.clamp(1, CONSUMER_CREDIT_TASKS_MAX as usize);
        self
    }

    /// Most tasks held at a time, running or waiting; twice the concurrency unless set, and never less than it.
    pub fn credit(mut self, tasks: u32) -> Self {
        self.credit = Some(tasks.clamp(1, CONSUMER_CREDIT_TASKS_MAX));
        self
    }

    /// Payload bytes held at a time; 16 MiB unless set. One task may overdraw them.
    pub fn credit_bytes(mut self, bytes: u64) -> Self {
        self.credit_bytes = bytes.clamp(1, CONSUMER_CREDIT_BYTES_MAX);
        self
    }

    /// How long a lease holds before it must be extended, 100 ms to 12 h; as the queue says unless set. The consumer extends by
    /// itself; this is how long a task waits when the consumer dies.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = Some(lease);
        self
    }

    /// Handlers that still run so long after `drain` are cut off and their tasks released; 30 s unless set, 24 h at
    /// most.
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.drain_timeout = timeout.min(SPAN_MAX);
        self
    }

    /// Starts consuming. `Ok` from the handler acknowledges the task; an error, or a panic, fails it.
    ///
    /// # Errors
    /// `Invalid` if a name or the lease is out of bounds.
    pub fn run<H, F>(self, handler: H) -> Result<Consumer, Error>
    where
        H: Fn(Task) -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), HandlerError>> + Send + 'static,
    {
        convert::queue_name(&self.queue, "queue")?;
        convert::consumer_name(&self.name, "consumer")?;
        convert::lease_duration(self.lease.map(crate::task::pb_duration), "lease_duration")?;
        let (stop, stopped) = watch::channel(false);
        let driver = driver::Driver::new(self, handler, stopped);
        Ok(Consumer { stop, driver: tokio::spawn(driver.run()) })
    }

    /// Returns how many tasks may be held.
    fn held_max(&self) -> u32 {
        let concurrency = u32::try_from(self.concurrency).unwrap_or(CONSUMER_CREDIT_TASKS_MAX);
        self.credit.unwrap_or(concurrency * 2).clamp(concurrency, CONSUMER_CREDIT_TASKS_MAX)
    }
}

/// A running consumer. Dropping it drains in the background, as long as the runtime lives.
#[derive(Debug)]
pub struct Consumer {
    stop: watch::Sender<bool>,
    driver: JoinHandle<Result<Counts, Error>>,
}

impl Consumer {
    /// Stops taking, lets the handlers finish, gives back what was not begun, and settles everything.
    ///
    /// # Errors
    /// As [`Consumer::wait`]. Settlements that could not be confirmed are counted, not an error.
    pub async fn drain(self) -> Result<Counts, Error> {
        // An error means that the driver has ended already; its result tells why.
        let _ = self.stop.send(true);
        self.wait().await
    }

    /// Waits until the consumer ends by itself, which it does only if the server refuses it for good.
    ///
    /// # Errors
    /// `Invalid`, `Unsupported`: the server will never serve this consumer.
    pub async fn wait(self) -> Result<Counts, Error> {
        let Self { stop, driver } = self;
        let result = driver.await;
        drop(stop);
        result.unwrap_or_else(|panic| {
            Err(Error::new(Kind::Internal, reason::INTERNAL, format!("the consumer's driver ended: {panic}")))
        })
    }

    /// Returns whether the consumer has ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.driver.is_finished()
    }
}

#[cfg(test)]
mod tests;
