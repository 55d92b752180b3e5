//! What `task push` may say of a task.

use std::time::Duration;

use clap::{Args, ValueEnum};
use z4_client::TaskId;

use super::{parse_id, parse_pair};
use crate::time::{Time, parse_span, parse_time};

#[derive(Debug, Args)]
pub(crate) struct Push {
    /// The queue; first use creates it.
    #[arg(value_name = "QUEUE")]
    pub(crate) into: String,

    /// The text itself, @FILE for the bytes of a file, or - for stdin.
    #[arg(allow_hyphen_values = true)]
    pub(crate) payload: String,

    /// Due at this time.
    #[arg(long, value_parser = parse_time, value_name = "TIME", conflicts_with = "delay", allow_hyphen_values = true)]
    pub(crate) deliver_at: Option<Time>,

    /// Due so long after its creation.
    #[arg(long, value_parser = parse_span, value_name = "SPAN", allow_hyphen_values = true)]
    pub(crate) delay: Option<Duration>,

    /// 0 to 255, lower goes first.
    #[arg(long, allow_negative_numbers = true)]
    pub(crate) priority: Option<u8>,

    /// Failures until the task is dead.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_attempts: Option<u32>,

    /// Expires so long after its creation unless it is finished by then.
    #[arg(long, value_parser = parse_span, value_name = "SPAN")]
    pub(crate) ttl: Option<Duration>,

    /// A label; may be given several times.
    #[arg(long, value_parser = parse_pair, value_name = "KEY=VALUE")]
    pub(crate) meta: Vec<(String, String)>,

    /// Its tenant, customer or document: groups take turns, and each has limits of its own.
    #[arg(long)]
    pub(crate) group: Option<String>,

    /// Unique in the queue while the task is open.
    #[arg(long)]
    pub(crate) key: Option<String>,

    /// What becomes of the new task if an open one has its key: it fails (exit code 4); it is not made, and the id is that of
    /// the other; it replaces the other; or the other takes its payload, labels and later due time.
    #[arg(long, value_enum, default_value_t, requires = "key", value_name = "POLICY")]
    pub(crate) key_policy: KeyPolicy,

    /// Nobody else takes the key so long after the end of the task.
    #[arg(long, value_parser = parse_span, requires = "key", value_name = "SPAN")]
    pub(crate) key_window: Option<Duration>,

    /// Wait until this task has ended; may be given several times.
    #[arg(long, value_parser = parse_id, value_name = "ID")]
    pub(crate) after: Vec<TaskId>,

    /// What becomes of the new task if one that it comes after fails.
    #[arg(long, value_enum, default_value_t, requires = "after", value_name = "POLICY")]
    pub(crate) on_failure: OnFailure,

    /// Equal ids within ten minutes make one task.
    #[arg(long, conflicts_with = "repeat")]
    pub(crate) request_id: Option<String>,

    /// Create so many of it.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) repeat: u64,
}

/// As in the client library.
#[derive(Debug, Clone, Copy, Default, ValueEnum)]
pub(crate) enum OnFailure {
    #[default]
    Cancel,
    Run,
}

impl From<OnFailure> for z4_client::OnFailure {
    fn from(policy: OnFailure) -> Self {
        match policy {
            OnFailure::Cancel => Self::Cancel,
            OnFailure::Run => Self::Run,
        }
    }
}

/// As in the client library.
#[derive(Debug, Clone, Copy, Default, ValueEnum)]
pub(crate) enum KeyPolicy {
    #[default]
    Fail,
    Keep,
    Replace,
    Debounce,
}

impl From<KeyPolicy> for z4_client::KeyPolicy {
    fn from(policy: KeyPolicy) -> Self {
        match policy {
            KeyPolicy::Fail => Self::Fail,
            KeyPolicy::Keep => Self::Keep,
            KeyPolicy::Replace => Self::Replace,
            KeyPolicy::Debounce => Self::Debounce,
        }
    }
}
