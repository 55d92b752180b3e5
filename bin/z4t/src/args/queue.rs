//! The arguments of `z4t queue …`: one flag for every setting.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use z4_client::{Breaker, EventType, EventsFrom, PurgeState, RetryPolicy, TaskId};

use super::QueueRedrive;
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

    /// Say what holds a queue back now.
    #[command(after_help = "Example:\n  z4t queue explain acme/emails")]
    Explain {
        /// The queue.
        #[arg(value_name = "QUEUE")]
        name: String,
    },

    /// Give the dead tasks of a queue all their attempts again; print how many.
    #[command(after_help = "\
Examples:
  z4t queue redrive acme/emails --dry-run
  z4t queue redrive acme/emails --filter 'last_error:timeout' --rate 100/s")]
    Redrive(QueueRedrive),

    /// Look at the groups of a queue, and set their limits and shares.
    #[command(
        subcommand,
        after_help = "Example:\n  z4t queue group set acme/emails customer-7 --concurrency 2"
    )]
    Group(GroupVerb),

    /// Show what a queue counts: what is due now and soon, totals, and rates over the last minute.
    #[command(after_help = "Example:\n  z4t queue stats acme/emails -o json")]
    Stats {
        /// The queue.
        #[arg(value_name = "QUEUE")]
        name: String,
    },

    /// Show what happened to the tasks of a queue, oldest first; the queue must keep events.
    #[command(after_help = "\
Examples:
  z4t queue set acme/emails --events-kept 100000
  z4t queue events acme/emails --type dead,failed
  z4t queue events acme/emails --from TOKEN --limit 1000 -o json")]
    Events(QueueEvents),

    /// Show the queues with the largest backlogs, again and again: what waits, what is leased, how fast it goes.
    #[command(after_help = "\
Examples:
  z4t queue top
  z4t queue top --interval 5s --count 3 > backlog.txt")]
    Top(QueueTop),

    /// Settings of all queues whose names match a pattern.
    #[command(subcommand, after_help = "Example:\n  z4t queue policy set 'acme/*' --max-attempts 5")]
    Policy(PolicyVerb),
}

#[derive(Debug, Args)]
pub(crate) struct QueueEvents {
    /// The queue.
    #[arg(value_name = "QUEUE")]
    pub(crate) name: String,

    #[command(flatten)]
    pub(crate) which: WhichEvents,

    /// Begin with the oldest that is kept (earliest), or behind what a resume token came with.
    #[arg(long, default_value = "earliest", value_parser = parse_from, value_name = "earliest|TOKEN")]
    pub(crate) from: EventsFrom,

    /// Show at most so many.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) limit: u64,
}

/// Which events to show.
#[derive(Debug, Args)]
pub(crate) struct WhichEvents {
    /// Only those of this task.
    #[arg(long, value_parser = super::parse_id, value_name = "ID")]
    pub(crate) task: Option<TaskId>,

    /// Only events of these types.
    #[arg(long = "type", value_enum, value_delimiter = ',', value_name = "TYPE")]
    pub(crate) types: Vec<EventOf>,
}

#[derive(Debug, Args)]
pub(crate) struct Tail {
    #[command(flatten)]
    pub(crate) which: WhichEvents,

    /// Begin with the oldest that is kept, with what happens from now on, or behind what a resume token came with.
    #[arg(long, default_value = "now", value_parser = parse_from, value_name = "earliest|now|TOKEN")]
    pub(crate) from: EventsFrom,

    /// End after so many events.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,

    /// End after so long without an event.
    #[arg(long, value_parser = parse_span, value_name = "SPAN")]
    pub(crate) idle: Option<Duration>,
}

#[derive(Debug, Args)]
pub(crate) struct QueueTop {
    /// Look so often.
    #[arg(long, default_value = "2s", value_parser = parse_interval, value_name = "SPAN")]
    pub(crate) interval: Duration,

    /// End after so many looks.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,

    /// Show so many queues.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=200))]
    pub(crate) rows: u16,
}

fn parse_from(text: &str) -> Result<EventsFrom, String> {
    match text {
        "earliest" => Ok(EventsFrom::Earliest),
        "now" => Ok(EventsFrom::Now),
        token if token.len() > 16 && token.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            Ok(EventsFrom::Token(token.to_owned()))
        }
        _ => Err("give earliest, now, or a resume token as an event has it".to_owned()),
    }
}

fn parse_interval(text: &str) -> Result<Duration, String> {
    match parse_span(text)? {
        span if span < Duration::from_millis(100) => Err("give at least 100ms".to_owned()),
        span => Ok(span.min(Duration::from_secs(24 * 3_600))),
    }
}

/// Types of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum EventOf {
    /// A task was accepted.
    Created,
    /// A consumer got it.
    Leased,
    /// A consumer is done with it.
    Acked,
    /// A delivery failed, and there will be another.
    Failed,
    /// A delivery failed for the last time.
    Dead,
    /// It was cancelled or purged.
    Cancelled,
    /// Its TTL was over.
    Expired,
    /// Somebody changed it.
    Updated,
    /// It was dead, and has all its attempts again.
    Redriven,
    /// A consumer gave it back.
    Released,
}

impl From<EventOf> for EventType {
    fn from(event: EventOf) -> Self {
        match event {
            EventOf::Created => Self::Created,
            EventOf::Leased => Self::Leased,
            EventOf::Acked => Self::Acked,
            EventOf::Failed => Self::Failed,
            EventOf::Dead => Self::Dead,
            EventOf::Cancelled => Self::Cancelled,
            EventOf::Expired => Self::Expired,
            EventOf::Updated => Self::Updated,
            EventOf::Redriven => Self::Redriven,
            EventOf::Released => Self::Released,
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum PolicyVerb {
    /// Set what queues do that match a pattern and do not set it themselves; replaces the pattern's policy.
    #[command(after_help = "\
A pattern is a queue name, or levels that end in *, which stands for one or more further levels. Where several match, each
setting is that of the longest that sets it.

Examples:
  z4t queue policy set 'acme/*' --max-attempts 5 --retention 7d
  z4t queue policy set '*' --lease 1m")]
    Set {
        /// The pattern.
        #[arg(value_name = "PATTERN")]
        pattern: String,

        #[command(flatten)]
        settings: Box<SettingFlags>,
    },

    /// List the policies.
    #[command(after_help = "Example:\n  z4t queue policy list -o json")]
    List,

    /// Forget what was set for a pattern.
    #[command(after_help = "Example:\n  z4t queue policy delete 'acme/*'")]
    Delete {
        /// The pattern.
        #[arg(value_name = "PATTERN")]
        pattern: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum GroupVerb {
    /// Set limits and share of one group; those that are not named stay.
    #[command(after_help = "\
Examples:
  z4t queue group set acme/emails customer-7 --weight 5 --concurrency 2 --rate 10/s
  z4t queue group set acme/emails customer-7 --serial --unset rate")]
    Set(GroupSet),

    /// Show one group.
    #[command(after_help = "Example:\n  z4t queue group get acme/emails customer-7")]
    Get {
        /// The queue.
        #[arg(value_name = "QUEUE")]
        name: String,

        /// The group.
        #[arg(value_name = "GROUP")]
        group: String,
    },

    /// List the groups that have tasks, then those of which only limits are set.
    #[command(after_help = "Example:\n  z4t queue group list acme/emails")]
    List {
        /// The queue.
        #[arg(value_name = "QUEUE")]
        name: String,

        /// Most groups; 0 for all.
        #[arg(long, default_value_t = 1_000)]
        limit: u64,
    },
}

#[derive(Debug, Args)]
pub(crate) struct GroupSet {
    /// The queue.
    #[arg(value_name = "QUEUE")]
    pub(crate) name: String,

    /// The group.
    #[arg(value_name = "GROUP")]
    pub(crate) group: String,

    /// Its share among groups that have tasks due, 1 to 1,000.
    #[arg(long, value_name = "N")]
    pub(crate) weight: Option<u32>,

    /// Most leases of it at a time.
    #[arg(long, value_name = "N")]
    pub(crate) concurrency: Option<u32>,

    /// Its deliveries: 100/s, 30/m, 5/h.
    #[arg(long, value_parser = parse_rate, value_name = "RATE")]
    pub(crate) rate: Option<f64>,

    /// Its deliveries at once after a rest; one second's worth unless given.
    #[arg(long, requires = "rate", value_name = "N")]
    pub(crate) burst: Option<u32>,

    /// Run its tasks one at a time, in order.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "true|false")]
    pub(crate) serial: Option<bool>,

    /// Clear one of these: it follows the queue's settings of its groups again.
    #[arg(long, value_name = "SETTING")]
    pub(crate) unset: Vec<String>,
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
    #[arg(long = "events-kept", alias = "events", value_name = "N")]
    pub(crate) events: Option<u64>,
}
