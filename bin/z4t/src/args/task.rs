//! The arguments of the verbs that change tasks: which ones, and how.

use std::time::Duration;

use clap::Args;
use z4_client::TaskId;

use super::{parse_id, parse_pair};
use crate::settings::parse_rate;
use crate::time::{Time, parse_span, parse_time};

/// Which tasks: some by their ids or keys, or all of the queue given by -q that pass a filter.
#[derive(Debug, Args)]
pub(crate) struct Which {
    /// The tasks.
    #[arg(value_parser = parse_id, value_name = "ID")]
    pub(crate) tasks: Vec<TaskId>,

    /// The open task of the queue given by -q that has this key; may be given several times.
    #[arg(long, conflicts_with_all = ["tasks", "filter"])]
    pub(crate) key: Vec<String>,

    /// All tasks of the queue given by -q that pass, such as 'state = dead AND metadata.user = "u1"'.
    #[arg(long, conflicts_with = "tasks", value_name = "FILTER")]
    pub(crate) filter: Option<String>,

    /// With --filter: change nothing, print how many there are.
    #[arg(long, requires = "filter")]
    pub(crate) dry_run: bool,

    /// Only if the task still has this etag, as `task get` shows it. With one id.
    #[arg(long, conflicts_with = "filter", value_name = "ETAG")]
    pub(crate) if_etag: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Update {
    #[command(flatten)]
    pub(crate) which: Which,

    /// Due at this time.
    #[arg(long, value_parser = parse_time, value_name = "TIME", conflicts_with = "delay", allow_hyphen_values = true)]
    pub(crate) deliver_at: Option<Time>,

    /// Due so long from now.
    #[arg(long, value_parser = parse_span, value_name = "SPAN", allow_hyphen_values = true)]
    pub(crate) delay: Option<Duration>,

    /// 0 to 255, lower goes first.
    #[arg(long, allow_negative_numbers = true)]
    pub(crate) priority: Option<u8>,

    /// The text itself, @FILE for the bytes of a file, or - for stdin.
    #[arg(long, allow_hyphen_values = true, value_name = "PAYLOAD")]
    pub(crate) payload: Option<String>,

    /// A label; may be given several times. All labels are replaced by those that are given.
    #[arg(long, visible_alias = "meta", value_parser = parse_pair, value_name = "KEY=VALUE")]
    pub(crate) metadata: Vec<(String, String)>,
}

#[derive(Debug, Args)]
pub(crate) struct Redrive {
    #[command(flatten)]
    pub(crate) which: Which,

    /// One after the other, so many a second: 100/s, 30/m, 5/h. Unset: all are due at once.
    #[arg(long, value_parser = parse_rate, value_name = "RATE")]
    pub(crate) rate: Option<f64>,
}

#[derive(Debug, Args)]
pub(crate) struct QueueRedrive {
    /// The queue.
    #[arg(value_name = "QUEUE")]
    pub(crate) name: String,

    /// Only dead tasks that pass, such as 'last_error:timeout'. Unset: all dead ones.
    #[arg(long, default_value = "", value_name = "FILTER")]
    pub(crate) filter: String,

    /// One after the other, so many a second: 100/s, 30/m, 5/h. Unset: all are due at once.
    #[arg(long, value_parser = parse_rate, value_name = "RATE")]
    pub(crate) rate: Option<f64>,

    /// Change nothing, print how many there are.
    #[arg(long)]
    pub(crate) dry_run: bool,
}
