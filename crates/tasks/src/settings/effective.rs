//! What holds for a queue, with nothing left open.

use z4_types::limits::{LEASE_MS_DEFAULT, MAX_ATTEMPTS_DEFAULT};
use z4_types::{Duration, Priority};

use super::{Breaker, Rate, Retention, Settings};
use crate::command::Retry;

/// The settings a queue goes by: its own, else those of policies, else z4's. None: no limit, or off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effective {
    /// Lease of a consumer that names none.
    pub lease_duration: Duration,
    /// How failures are retried.
    pub retry: Retry,
    /// Failures until a task is dead.
    pub max_attempts: u32,
    /// Reasons of nacks after which a task is dead at once.
    pub non_retryable: Vec<String>,
    /// How long finished tasks are kept.
    pub retention: Retention,
    /// Ends a task so long after it was first due.
    pub ttl: Option<Duration>,
    /// Order among due tasks.
    pub priority: Priority,
    /// Creates are refused while so many tasks are to be done.
    pub max_backlog: Option<u64>,
    /// Deliveries of the whole queue.
    pub rate: Option<Rate>,
    /// Tasks of the whole queue that are leased at once.
    pub concurrency: Option<u32>,
    /// Tasks of one group that are leased at once.
    pub group_concurrency: Option<u32>,
    /// Deliveries of one group.
    pub group_rate: Option<Rate>,
    /// Share of one group where several have due tasks.
    pub group_weight: u32,
    /// Tasks of one group run one at a time, in order.
    pub group_serial: bool,
    /// A waiting task gains a step of priority each such span.
    pub ageing: Option<Duration>,
    /// When the queue pauses by itself.
    pub breaker: Option<Breaker>,
    /// Life-cycle events kept.
    pub events: u64,
}

impl From<Settings> for Effective {
    fn from(settings: Settings) -> Self {
        Self {
            lease_duration: settings.lease_duration.unwrap_or(Duration(LEASE_MS_DEFAULT)),
            retry: settings.retry.unwrap_or_default(),
            max_attempts: settings.max_attempts.unwrap_or(MAX_ATTEMPTS_DEFAULT),
            non_retryable: settings.non_retryable.unwrap_or_default(),
            retention: settings.retention.unwrap_or(Retention { age: Duration(0), count: None }),
            ttl: settings.ttl,
            priority: settings.priority.unwrap_or_default(),
            max_backlog: settings.max_backlog,
            rate: settings.rate,
            concurrency: settings.concurrency,
            group_concurrency: settings.group_concurrency,
            group_rate: settings.group_rate,
            group_weight: settings.group_weight.unwrap_or(1),
            group_serial: settings.group_serial.unwrap_or(false),
            ageing: settings.ageing,
            breaker: settings.breaker,
            events: settings.events.unwrap_or(0),
        }
    }
}
