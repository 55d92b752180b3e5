//! The arguments of `z4t queue …`: one flag for every setting.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use z4_client::{Breaker, PurgeState, RetryPolicy};

use crate::settings::{parse_breaker, parse_rate, parse_retry};
use crate::time::parse_span;

#[derive(Debug, Subcommand)]
pub(crate) enum QueueVerb {
    /// List the queues with their counts.
    #[command(after_help = "Example:\n  z4t queue list -o json")]
    List,

    /// Show one queue: its counts and what was set of it.
    #[command(after_help = "Examples:\n  z4t queue get acme/emails\n  z4t queue get acme/emails --effective")]
    Get {
        /// The queue.
        #[arg(value_name = "QUEUE")]
        name: String,

        /// Show all settings that hold, and where each comes from.
        #[arg(long)]
        effective: bool,
    },

    /// Make a queue before its first task; exit code 4 if it is there.
    #[command(after_help = "\
Examples:
  z4t queue create acme/emails
  z4t queue create acme/emails --lease 1m --retry 1s:1h --max-attempts 5 --retention 7d")]
    Create {
        /// The queue.
        #[arg(value_name = "QUEUE")]
        name: String,

        #[command(flatten)]
        settings: Box<SettingFlags>,
    },

    /// Change settings of a queue; those that are not named stay.
    #[command(after_help = "\
Examples:
  z4t queue set acme/emails --max-backlog 100000 --retention 7d --retention-count 1000
  z4t queue set acme/emails --unset ttl --if-etag 0000000000000002")]
    Set(Box<QueueSet>),

    /// Stop deliveries from a queue; tasks may still be pushed and settled.
    #[command(after_help = "Example:\n  z4t queue pause acme/emails --note 'the relay is down'")]
    Pause {
        /// The queue.
        #[arg(value_name = "QUEUE")]
        name: String,

        /// Why, for whoever wonders.
        #[arg(long, default_value = "")]
        note: String,

        /// Who. Unset: the name you are logged in by.
        #[arg(long)]
        author: Option<String>,
    },

    /// Deliver from a queue again.
    #[command(after_help = "Example:\n  z4t queue resume acme/emails")]
    Resume {
        /// The queue.
        #[arg(value_name = "QUEUE")]
        name: String,
    },

    /// End the tasks that are in a queue now: those that wait, or those in the states given.
    #[command(after_help = "\
Examples:
  z4t queue purge acme/emails
  z4t queue purge acme/emails --state dead,finished --yes
  z4t queue purge acme/emails --all --yes")]
    Purge(Purge),

    /// Remove a queue that holds no task; exit code 4 if it holds one.
    #[command(after_help = "Example:\n  z4t queue purge acme/emails --all && z4t queue delete acme/emails")]
    Delete {
        /// The queue.
        #[arg(value_name = "QUEUE")]
        name: String,

        /// Only if its settings still have this etag.
        #[arg(long, value_name = "ETAG")]
        if_etag: Option<String>,
    },

    /// Show what a queue counts: what is due now and soon, totals, and rates over the last minute.
    #[command(after_help = "Example:\n  z4t queue stats acme/emails -o json")]
    Stats {
        /// The queue.
        #[arg(value_name = "QUEUE")]
        name: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct QueueSet {
    /// The queue.
    #[arg(value_name = "QUEUE")]
    pub(crate) name: String,

    #[command(flatten)]
    pub(crate) settings: SettingFlags,

    /// Clear a setting, named by its flag without dashes, or by its field; it follows policies and defaults again.
    #[arg(long, value_name = "SETTING")]
    pub(crate) unset: Vec<String>,

    /// Only if its settings still have this etag, as `queue get` shows it.
    #[arg(long, value_name = "ETAG")]
    pub(crate) if_etag: Option<String>,

    /// Make the queue if it is not there.
    #[arg(long)]
    pub(crate) create: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Purge {
    /// The queue.
    #[arg(value_name = "QUEUE")]
    pub(crate) name: String,

    /// Tasks in these states; waiting ones if none is given.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "STATE")]
    pub(crate) state: Vec<PurgeOf>,

    /// Tasks in any state.
    #[arg(long, conflicts_with = "state")]
    pub(crate) all: bool,

    /// Do not ask.
    #[arg(short, long)]
    pub(crate) yes: bool,
}

/// States of tasks that a purge can be about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PurgeOf {
    /// Scheduled or due.
    Waiting,
    /// Held by a consumer.
    Leased,
    /// Failed for the last time.
    Dead,
    /// Ended, and kept.
    Finished,
}

impl From<PurgeOf> for PurgeState {
    fn from(state: PurgeOf) -> Self {
        match state {
            PurgeOf::Waiting => Self::Waiting,
            PurgeOf::Leased => Self::Leased,
            PurgeOf::Dead => Self::Dead,
            PurgeOf::Finished => Self::Finished,
        }
    }
}

/// A flag for every setting.
#[derive(Debug, Args)]
#[command(next_help_heading = "Settings")]
pub(crate) struct SettingFlags {
    /// How long a lease holds whose consumer names no time, 100ms to 12h.
    #[arg(long, value_parser = parse_span, value_name = "SPAN")]
    pub(crate) lease: Option<Duration>,

    /// How failures are retried: first wait, longest wait, growth and jitter in percent; such as 1s:1h:200:20.
    #[arg(long, value_parser = parse_retry, value_name = "FIRST:LONGEST[:GROWTH[:JITTER]]")]
    pub(crate) retry: Option<RetryPolicy>,

    /// Failures until a task is dead.
    #[arg(long, value_name = "N")]
    pub(crate) max_attempts: Option<u32>,

    /// A failure with exactly this reason is the last one of its task; may be given several times.
    #[arg(long, value_name = "REASON")]
    pub(crate) non_retryable: Vec<String>,

    /// Keep finished tasks so long; 0s for not at all.
    #[arg(long, value_parser = parse_span, value_name = "SPAN")]
    pub(crate) retention: Option<Duration>,

    /// And at most so many of them.
    #[arg(long, requires = "retention", value_name = "N")]
    pub(crate) retention_count: Option<u64>,

    /// Tasks expire so long after their creation unless they name a time of their own.
    #[arg(long, value_parser = parse_span, value_name = "SPAN")]
    pub(crate) ttl: Option<Duration>,

    /// Priority of tasks that name none; lower goes first.
    #[arg(long, value_name = "0-255")]
    pub(crate) priority: Option<u8>,

    /// Refuse new tasks while so many are to be done.
    #[arg(long, value_name = "N")]
    pub(crate) max_backlog: Option<u64>,

    /// Deliveries of the queue: 100/s, 30/m, 5/h.
    #[arg(long, value_parser = parse_rate, value_name = "RATE")]
    pub(crate) rate: Option<f64>,

    /// Deliveries at once after a rest; one second's worth unless given.
    #[arg(long, requires = "rate", value_name = "N")]
    pub(crate) burst: Option<u32>,

    /// Most leases of the queue at a time.
    #[arg(long, value_name = "N")]
    pub(crate) concurrency: Option<u32>,

    /// Most leases of one group at a time.
    #[arg(long, value_name = "N")]
    pub(crate) group_concurrency: Option<u32>,

    /// Deliveries of one group.
    #[arg(long, value_parser = parse_rate, value_name = "RATE")]
    pub(crate) group_rate: Option<f64>,

    /// As --burst, of one group.
    #[arg(long, requires = "group_rate", value_name = "N")]
    pub(crate) group_burst: Option<u32>,

    /// Share of one group among those that have tasks due, 1 to 1,000.
    #[arg(long, value_name = "N")]
    pub(crate) group_weight: Option<u32>,

    /// Run the tasks of one group one at a time, in order.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "true|false")]
    pub(crate) serial: Option<bool>,

    /// A waiting task rises by one priority each such span.
    #[arg(long, value_parser = parse_span, value_name = "SPAN")]
    pub(crate) ageing: Option<Duration>,

    /// Pause by itself when so many percent of so many deliveries within a window failed; such as 95:20:1m:1m.
    #[arg(long, value_parser = parse_breaker, value_name = "PERCENT[:DELIVERIES[:WINDOW[:COOL_DOWN]]]")]
    pub(crate) breaker: Option<Breaker>,

    /// Life-cycle events kept for watchers; 0 for none.
    #[arg(long, value_name = "N")]
    pub(crate) events: Option<u64>,
}
