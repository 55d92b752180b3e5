//! The arguments of `z4t schedule …`.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use z4_client::RetryPolicy;

use super::parse_pair;
use crate::settings::parse_retry;
use crate::time::{Time, parse_span, parse_time};

/// Names a schedule.
#[derive(Debug, Args)]
pub(crate) struct Named {
    /// Its queue.
    #[arg(value_name = "QUEUE")]
    pub(crate) of: String,

    /// Its name.
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ScheduleVerb {
    /// Make a schedule; exit code 4 if it is there.
    #[command(after_help = "\
Expressions have five fields (minute, hour, day of month, month, day of week), or six with seconds first; or are @hourly, @daily,
@weekly, @monthly, @yearly; or a period, such as @every 90s.

Examples:
  z4t schedule create acme/reports nightly --cron '30 2 * * MON-FRI' --time-zone Europe/Berlin --payload report
  z4t schedule create acme/polls quick --cron '@every 10s' --overlap skip --payload @poll.json --ttl 1m")]
    Create {
        #[command(flatten)]
        named: Named,

        #[command(flatten)]
        flags: Box<ScheduleFlags>,
    },

    /// Change a schedule; what is not named stays.
    #[command(after_help = "\
Examples:
  z4t schedule set acme/reports nightly --cron '0 3 * * *' --jitter 10m
  z4t schedule set acme/reports nightly --unset end-at,ttl --if-etag 0000000000000002")]
    Set(Box<ScheduleSet>),

    /// Show a schedule: when it fires next, and what became of its slots.
    #[command(after_help = "Example:\n  z4t schedule get acme/reports nightly -o json")]
    Get {
        #[command(flatten)]
        named: Named,
    },

    /// List the schedules of a queue.
    #[command(after_help = "Example:\n  z4t schedule list acme/reports")]
    List {
        /// The queue.
        #[arg(value_name = "QUEUE")]
        of: String,
    },

    /// Stop a schedule; slots that pass meanwhile are not made up.
    #[command(
        after_help = "Example:\n  z4t schedule pause acme/reports nightly --note 'the warehouse moves'"
    )]
    Pause {
        #[command(flatten)]
        named: Named,

        /// Why, for whoever wonders.
        #[arg(long, default_value = "")]
        note: String,

        /// Who. Unset: the name you are logged in by.
        #[arg(long)]
        author: Option<String>,
    },

    /// Let a schedule fire again, from its first slot after now.
    #[command(after_help = "Example:\n  z4t schedule resume acme/reports nightly")]
    Resume {
        #[command(flatten)]
        named: Named,
    },

    /// Make a schedule's task now and print its id, paused or not; exit code 4 if the last one is open and the policy skips.
    #[command(after_help = "Example:\n  z4t schedule run acme/reports nightly")]
    Run {
        #[command(flatten)]
        named: Named,
    },

    /// Forget a schedule and its history; its tasks stay.
    #[command(after_help = "Example:\n  z4t schedule delete acme/reports nightly")]
    Delete {
        #[command(flatten)]
        named: Named,

        /// Only if it still has this etag.
        #[arg(long, value_name = "ETAG")]
        if_etag: Option<String>,
    },

    /// Show slots to come, of a schedule or of an expression that is yet to be one.
    #[command(after_help = "\
Examples:
  z4t schedule next acme/reports nightly --count 10
  z4t schedule next --cron '0 9 * * MON#1' --time-zone America/New_York")]
    Next {
        /// Its queue.
        #[arg(value_name = "QUEUE", requires = "name", conflicts_with = "cron")]
        of: Option<String>,

        /// Its name.
        #[arg(value_name = "NAME")]
        name: Option<String>,

        /// Slots of this expression, counted from now.
        #[arg(long, value_name = "CRON", required_unless_present = "of")]
        cron: Option<String>,

        /// The zone it is read in. Unset: UTC.
        #[arg(long, visible_alias = "tz", value_name = "ZONE", requires = "cron", default_value = "UTC")]
        time_zone: String,

        /// How many, at most 100.
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
        count: u32,
    },

    /// Show what became of the last slots, the latest first.
    #[command(after_help = "Example:\n  z4t schedule history acme/reports nightly --limit 20")]
    History {
        #[command(flatten)]
        named: Named,

        /// How many, at most 100.
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100))]
        limit: u32,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ScheduleSet {
    #[command(flatten)]
    pub(crate) named: Named,

    #[command(flatten)]
    pub(crate) flags: ScheduleFlags,

    /// Give these their defaults again, named as their flags.
    #[arg(long, value_delimiter = ',', value_name = "FLAG")]
    pub(crate) unset: Vec<String>,

    /// Only if it still has this etag; else exit code 4.
    #[arg(long, value_name = "ETAG")]
    pub(crate) if_etag: Option<String>,

    /// Make the schedule if it is not there.
    #[arg(long)]
    pub(crate) create: bool,
}

/// What happens at a slot while the last task is open.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum OverlapFlag {
    /// Another task is made all the same.
    Allow,
    /// The slot makes no task.
    Skip,
    /// One slot is remembered until the open task has ended.
    BufferOne,
    /// The open task is cancelled.
    CancelPrevious,
}

#[derive(Debug, Args)]
pub(crate) struct ScheduleFlags {
    /// When it fires.
    #[arg(long, value_name = "CRON")]
    pub(crate) cron: Option<String>,

    /// The zone whose clock it is read by, such as Europe/Berlin. Default UTC.
    #[arg(long, visible_alias = "tz", value_name = "ZONE")]
    pub(crate) time_zone: Option<String>,

    /// No slot before; @every counts from here.
    #[arg(long, value_parser = parse_time, value_name = "TIME", allow_hyphen_values = true)]
    pub(crate) start_at: Option<Time>,

    /// No slot after.
    #[arg(long, value_parser = parse_time, value_name = "TIME", allow_hyphen_values = true)]
    pub(crate) end_at: Option<Time>,

    /// What happens while the last task is open. Default skip.
    #[arg(long, value_enum)]
    pub(crate) overlap: Option<OverlapFlag>,

    /// After an outage, slots later than this make no task: 1s to 31d. Default 1h.
    #[arg(long, value_parser = parse_span, value_name = "SPAN")]
    pub(crate) catch_up: Option<Duration>,

    /// Tasks are due up to so long after their slot, spread by a hash. Default none.
    #[arg(long, value_parser = parse_span, value_name = "SPAN")]
    pub(crate) jitter: Option<Duration>,

    /// The task's payload: the text itself, @FILE for the bytes of a file, or - for stdin.
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) payload: Option<String>,

    /// The task's priority, 0 to 255, lower goes first.
    #[arg(long, allow_negative_numbers = true)]
    pub(crate) priority: Option<u8>,

    /// Failures until the task is dead.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_attempts: Option<u32>,

    /// How its failures are retried: FIRST:LONGEST[:GROWTH%[:JITTER%]].
    #[arg(long, value_parser = parse_retry, value_name = "RETRY")]
    pub(crate) retry: Option<RetryPolicy>,

    /// The task expires so long after its creation.
    #[arg(long, value_parser = parse_span, value_name = "SPAN")]
    pub(crate) ttl: Option<Duration>,

    /// The task's group.
    #[arg(long)]
    pub(crate) group: Option<String>,

    /// A label of the task; may be given several times, and then is all of its labels.
    #[arg(long, value_parser = parse_pair, value_name = "KEY=VALUE")]
    pub(crate) meta: Vec<(String, String)>,
}
