//! The command line: `z4t -t HOST:PORT NOUN VERB …`.
//!
//! # Caveats
//! - `-id X` with one dash is an old spelling that must keep working; clap would read it as `-i d`. It becomes
//!   `--id X` before clap sees it, anywhere before a `--`.

mod push;
mod queue;
mod schedule;
mod task;

use std::ffi::OsString;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use z4_client::{TaskId, TaskState};

use crate::output::Format;
use crate::time::{Time, parse_span, parse_time};

pub(crate) use push::Push;
pub(crate) use queue::{
    GroupSet, GroupVerb, PolicyVerb, Purge, PurgeOf, QueueEvents, QueueSet, QueueTop, QueueVerb,
    SettingFlags, Tail, WhichEvents,
};
pub(crate) use schedule::{Named, OverlapFlag, ScheduleFlags, ScheduleSet, ScheduleVerb};
pub(crate) use task::{QueueRedrive, Redrive, Update, Which};

/// Talks to a z4 server: push, look at, consume and cancel tasks.
#[derive(Debug, Parser)]
#[command(name = "z4t", version, subcommand_required = true, arg_required_else_help = true)]
#[command(after_help = "\
Examples:
  z4t -t localhost:6355 info
  z4t task push acme/emails 'hello' --delay 5m
  z4t -q acme/emails consume --count 10
  z4t -t localhost:6355 -p localhost:6456 -id peer2 add-peer

Times are RFC 3339 (2030-01-31T09:30:00Z) or spans from now (+90m); spans are 250ms, 30s, 5m, 2h, 7d, 1h30m.
Exit codes: 0 ok, 1 failed, 2 usage, 3 not found, 4 conflict or precondition, 5 auth, 6 unavailable or timeout.")]
pub(crate) struct Cli {
    /// Address of any host of the cluster; several, with commas, are tried in turn.
    #[arg(
        short,
        long,
        global = true,
        env = "Z4_TARGET",
        default_value = "localhost:6355",
        value_delimiter = ','
    )]
    #[arg(value_name = "HOST:PORT")]
    pub(crate) target: Vec<String>,

    /// The queue to consume, to follow, to look for a key in, or whose tasks --filter is about.
    #[arg(short, long, global = true)]
    pub(crate) queue: Option<String>,

    /// The id a verb is about, instead of its argument; with add-peer and remove-peer, that of the host. Also spelled -id.
    #[arg(long, global = true)]
    pub(crate) id: Option<String>,

    /// The peer address of the host to add; not its gRPC port.
    #[arg(short, long, global = true, value_name = "HOST:PORT")]
    pub(crate) peer: Option<String>,

    /// How data is printed. Unset: whatever suits the verb.
    #[arg(short, long, global = true, value_enum)]
    pub(crate) output: Option<Format>,

    /// Every call ends within this time.
    #[arg(long, global = true, default_value = "5s", value_parser = parse_timeout, value_name = "SPAN")]
    pub(crate) timeout: Duration,

    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Show the host, its cluster and its shards, as JSON.
    #[command(after_help = "Example:\n  z4t -t localhost:6355 info")]
    Info,

    /// Ask whether the host is there, and how far away.
    #[command(after_help = "Example:\n  z4t ping -o json")]
    Ping,

    /// Ask whether the host serves; exit code 6 if it does not. Warns, on stderr, of clocks that differ.
    #[command(after_help = "Example:\n  z4t health && echo up")]
    Health,

    /// Show what the host knows about itself, as JSON.
    #[command(after_help = "Example:\n  z4t diagnostic")]
    Diagnostic,

    /// Add the host at peer address -p, which waits there under the name -id, to the cluster.
    #[command(after_help = "Example:\n  z4t -t localhost:6355 -p localhost:6456 -id peer2 add-peer")]
    AddPeer,

    /// Remove the host named -id from the cluster, for good.
    #[command(after_help = "Example:\n  z4t -t localhost:6355 -id peer2 remove-peer")]
    RemovePeer,

    /// Look at shards: where their replicas are, who leads them, whether they agree.
    #[command(subcommand, after_help = "Example:\n  z4t shard list")]
    Shard(ShardVerb),

    /// Take tasks of the queue given by -q, print each as a line of JSON, and acknowledge it, or fail it.
    #[command(after_help = "\
Examples:
  z4t -q acme/emails consume --count 10 --idle 5s
  z4t -q acme/emails consume --count 1 --nack 'the relay is down'")]
    Consume(Consume),

    /// Push, look at, change and cancel tasks.
    #[command(
        subcommand,
        after_help = "Example:\n  z4t task push acme/emails hello --deliver-at 2030-01-31T09:30:00Z"
    )]
    Task(TaskVerb),

    /// Look at queues, set them, pause and purge them.
    #[command(subcommand, after_help = "Example:\n  z4t queue set acme/emails --lease 1m --max-attempts 5")]
    Queue(QueueVerb),

    /// Make tasks by the calendar: schedules, when they fire, what became of it.
    #[command(
        subcommand,
        after_help = "Example:\n  z4t schedule create acme/reports nightly --cron '30 2 * * *' --payload report"
    )]
    Schedule(ScheduleVerb),

    /// Print the completions of a shell.
    #[command(after_help = "Example:\n  z4t completions bash > /etc/bash_completion.d/z4t")]
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Consume {
    /// End after so many tasks; no more are taken.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,

    /// End after so long without a task.
    #[arg(long, value_parser = parse_span, value_name = "SPAN")]
    pub(crate) idle: Option<Duration>,

    /// Shown with the tasks it holds.
    #[arg(long, default_value = "")]
    pub(crate) name: String,

    /// Fail each task with this reason instead of acknowledging it.
    #[arg(long, value_name = "REASON")]
    pub(crate) nack: Option<String>,

    /// With --nack: for good, the task is dead.
    #[arg(long, requires = "nack", conflicts_with = "slow_group")]
    pub(crate) dead: bool,

    /// With --nack: nothing of the task's group is delivered for so long.
    #[arg(long, requires = "nack", value_parser = parse_span, value_name = "SPAN")]
    pub(crate) slow_group: Option<Duration>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TaskVerb {
    /// Create tasks and print their ids, one a line.
    #[command(after_help = "\
Examples:
  z4t task push acme/emails hello --delay 5m
  z4t task push acme/emails hello --key order-7 --key-policy keep
  z4t task push acme/emails bill --after 01hq3k5v7n00000400000000ab
  z4t task push acme/emails @mail.json --deliver-at 2030-01-31T09:30:00Z --meta user=u1
  echo hello | z4t task push acme/emails - --repeat 1000")]
    Push(Box<Push>),

    /// Show one task.
    #[command(after_help = "\
Examples:
  z4t task get 01hq3k5v7n00000400000000ab -o json
  z4t task get 01hq3k5v7n00000400000000ab --stale
  z4t -q acme/emails task get --key order-7")]
    Get {
        /// The task.
        #[arg(value_parser = parse_id, value_name = "ID", conflicts_with = "key")]
        task: Option<TaskId>,

        /// The task of the queue given by -q that has this key.
        #[arg(long, conflicts_with = "stale")]
        key: Option<String>,

        /// As any host has it that holds its shard: perhaps behind, and also while no majority can be reached.
        #[arg(long)]
        stale: bool,
    },

    /// List the tasks of a queue by the time they are due; those that have ended, by the time of their end.
    #[command(after_help = "\
Examples:
  z4t task list acme/emails --state scheduled --from +0s --to +1h
  z4t task list acme/emails --state done")]
    List(List),

    /// Follow what happens to the tasks of the queue given by -q: one JSON object a line. The queue must keep events.
    #[command(after_help = "\
Examples:
  z4t task tail -q acme/emails
  z4t task tail -q acme/emails --from earliest --type dead --count 10
  z4t task tail -q acme/emails --from TOKEN

Each line has a resume_token: --from it goes on behind that line. A host that goes, or a leader that changes, is no end.")]
    Tail(Tail),

    /// Say why a task is not running, and what would change that.
    #[command(after_help = "Example:\n  z4t task explain 01hq3k5v7n00000400000000ab")]
    Explain {
        /// The task.
        #[arg(value_parser = parse_id, value_name = "ID")]
        task: Option<TaskId>,
    },

    /// Change tasks that wait; print the ids of those that were changed, or how many passed the filter. Exit code 4 for one
    /// that a consumer holds.
    #[command(after_help = "\
Examples:
  z4t task update 01hq3k5v7n00000400000000ab --deliver-at +2h --if-etag 0000000000000001
  z4t task update -q acme/emails --filter 'metadata.user = \"u1\"' --priority 10")]
    Update(Box<Update>),

    /// Make waiting tasks due at once.
    #[command(after_help = "\
Examples:
  z4t task run 01hq3k5v7n00000400000000ab
  z4t task run -q acme/emails --filter 'state = scheduled AND group = \"acme\"'")]
    Run(Which),

    /// Give dead tasks all their attempts again; see also `queue redrive`.
    #[command(after_help = "Example:\n  z4t task redrive 01hq3k5v7n00000400000000ab")]
    Redrive(Redrive),

    /// End tasks, whatever their state; print the ids of those that ended, or how many passed the filter.
    #[command(after_help = "\
Examples:
  z4t task cancel 01hq3k5v7n00000400000000ab
  z4t -q acme/emails task cancel --key order-7
  z4t task cancel -q acme/emails --filter 'state = dead AND last_error:timeout' --dry-run")]
    Cancel(Which),
}

#[derive(Debug, Args)]
pub(crate) struct List {
    /// The queue.
    #[arg(value_name = "QUEUE")]
    pub(crate) of: String,

    /// Only in this state. Unset: all that have not ended.
    #[arg(long, value_enum)]
    pub(crate) state: Option<State>,

    /// Only due at or after this.
    #[arg(long, value_parser = parse_time, value_name = "TIME")]
    pub(crate) from: Option<Time>,

    /// Only due before this.
    #[arg(long, value_parser = parse_time, value_name = "TIME")]
    pub(crate) to: Option<Time>,

    /// Only such that pass, such as 'failures > 2 AND metadata.user = "u1"'.
    #[arg(long, value_name = "FILTER")]
    pub(crate) filter: Option<String>,

    /// Most tasks; 0 for all.
    #[arg(long, default_value_t = 100)]
    pub(crate) limit: u64,

    /// As any host has them that holds their shard: perhaps behind, and also while no majority can be reached.
    #[arg(long)]
    pub(crate) stale: bool,
}

/// The states a list can be limited to.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum State {
    Scheduled,
    Due,
    Leased,
    Dead,
    Done,
    Cancelled,
    Expired,
    Blocked,
}

impl From<State> for TaskState {
    fn from(state: State) -> Self {
        match state {
            State::Scheduled => Self::Scheduled,
            State::Due => Self::Due,
            State::Leased => Self::Leased,
            State::Dead => Self::Dead,
            State::Done => Self::Done,
            State::Cancelled => Self::Cancelled,
            State::Expired => Self::Expired,
            State::Blocked => Self::Blocked,
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum ShardVerb {
    /// List the shards with their leaders and replicas.
    #[command(after_help = "Example:\n  z4t shard list -o json")]
    List,

    /// Compare the replicas of shards by the digests of their states; exit code 1 if any differ, 6 if not all could be
    /// compared.
    #[command(after_help = "Examples:\n  z4t shard verify\n  z4t shard verify 1 2 -o json")]
    Verify {
        /// The shards; all if none is named.
        #[arg(value_name = "SHARD")]
        shards: Vec<u32>,
    },

    /// Hand the leadership of a shard to another of its voters.
    #[command(after_help = "Example:\n  z4t shard transfer-leader 1 peer2")]
    TransferLeader {
        /// The shard.
        #[arg(value_name = "SHARD")]
        shard: u32,
        /// The host that shall lead it.
        #[arg(value_name = "HOST")]
        to: String,
    },
}

fn parse_timeout(text: &str) -> Result<Duration, String> {
    match parse_span(text)? {
        Duration::ZERO => Err("a timeout of zero would let nothing happen; give at least 1ms".to_owned()),
        span => Ok(span.min(Duration::from_secs(24 * 3_600))),
    }
}

fn parse_id(text: &str) -> Result<TaskId, String> {
    text.parse().map_err(|why: z4_types::ParseIdError| why.to_string())
}

fn parse_pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("give KEY=VALUE".to_owned()),
    }
}

/// Rewrites `-id X` and `-id=X` as `--id X` and `--id=X`, up to a `--`.
pub(crate) fn with_long_id(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut literal = false;
    args.into_iter()
        .map(|arg| {
            literal |= arg == "--";
            match arg.to_str() {
                Some("-id") if !literal => "--id".into(),
                Some(text) if !literal && text.starts_with("-id=") => format!("-{text}").into(),
                _ => arg,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(with_long_id(line.split(' ').map(OsString::from)))
    }

    #[test]
    fn the_command_line_is_well_formed_and_every_verb_has_an_example() {
        fn walk(command: &clap::Command) {
            assert!(command.get_after_help().is_some(), "{} has no example", command.get_name());
            command.get_subcommands().for_each(walk);
        }
        Cli::command().debug_assert();
        walk(&Cli::command());
    }

    #[test]
    fn id_with_one_dash_is_id_with_two() {
        let after = |line: &str| {
            let args = with_long_id(line.split(' ').map(OsString::from));
            args.iter().map(|arg| arg.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(after("z4t -id peer1 x"), "z4t --id peer1 x");
        assert_eq!(after("z4t -id=peer1 x"), "z4t --id=peer1 x");
        assert_eq!(after("z4t x -- -id peer1"), "z4t x -- -id peer1");
        assert_eq!(after("z4t -idle -i d"), "z4t -idle -i d");
        assert_eq!(parse("z4t -t h:1 -id abc task get").expect("fine").id.as_deref(), Some("abc"));
        let add = parse("z4t -t localhost:6355 -p localhost:6456 -id peer1 add-peer").expect("fine");
        assert_eq!(
            (&*add.target, add.peer.as_deref(), add.id.as_deref()),
            (&["localhost:6355".to_owned()][..], Some("localhost:6456"), Some("peer1"))
        );
    }

    #[test]
    fn the_lines_of_the_manual_are_accepted() {
        for line in [
            "z4t -t localhost:6355 info",
            "z4t -t localhost:6355 -q jobs consume",
            "z4t -t localhost:6355 -q jobs consume --count 3 --idle 250ms",
            "z4t -q jobs consume --count 1 --nack broken --slow-group 5s",
            "z4t -q jobs consume --count 1 --nack broken --dead",
            "z4t -t localhost:6355 -p localhost:6456 -id peer1 add-peer",
            "z4t -t localhost:6355 -id peer1 remove-peer",
            "z4t add-peer --peer peer2:6356 --id peer2",
            "z4t shard list",
            "z4t shard verify -o json",
            "z4t shard verify 0 3",
            "z4t shard transfer-leader 3 peer2",
            "z4t ping",
            "z4t health",
            "z4t task push jobs hello --deliver-at +90m --priority 0 --max-attempts 3 --ttl 7d --meta a=b --meta c=",
            "z4t task push jobs - --delay 30s --repeat 1000 -o json",
            "z4t task push jobs @file --request-id order-7",
            "z4t task list jobs --stale",
            "z4t task get --stale 00000000000000000000000007",
            "z4t task list jobs --state dead --from 2024-01-01T00:00:00Z --to +1h --limit 10",
            "z4t task push jobs x --group acme",
            "z4t task list jobs --filter failures>2",
            "z4t task explain 00000000000000000000000007",
            "z4t -id 00000000000000000000000007 task explain",
            "z4t task update 00000000000000000000000007 --deliver-at +2h --priority 3 --payload @x --metadata a=b --if-etag e",
            "z4t task update -q jobs --filter state=due --delay 5m --dry-run",
            "z4t task run 00000000000000000000000007 00000000000000000000000008",
            "z4t task redrive 00000000000000000000000007 --rate 10/s",
            "z4t task cancel -q jobs --filter group=acme --dry-run",
            "z4t queue redrive jobs --filter last_error:timeout --rate 100/s --dry-run",
            "z4t queue explain jobs",
            "z4t queue group set jobs acme --weight 3 --concurrency 2 --rate 5/s --burst 7 --serial",
            "z4t queue group set jobs acme --serial=false --unset rate",
            "z4t queue group get jobs acme",
            "z4t queue group list jobs -o json",
            "z4t queue list",
            "z4t queue get jobs --timeout 250ms",
            "z4t queue get jobs --effective",
            "z4t queue create jobs --lease 30s --retry 1s:1h:200:20 --max-attempts 3 --retention 7d --retention-count 1000",
            "z4t queue set jobs --ttl 1d --priority 0 --max-backlog 10 --rate 100/s --burst 5 --concurrency 7",
            "z4t queue set jobs --group-concurrency 1 --group-rate 0.5/s --group-weight 3 --serial --ageing 1m",
            "z4t queue set jobs --breaker 95:20:1m:5m --events 1000 --non-retryable gone --non-retryable never",
            "z4t queue set jobs --serial=false --unset rate --unset groups.weight --if-etag 0000000000000001 --create",
            "z4t queue pause jobs --note broken --author ann",
            "z4t queue resume jobs",
            "z4t queue purge jobs --state waiting,dead --yes",
            "z4t queue purge jobs --all",
            "z4t queue delete jobs --if-etag 0000000000000001",
            "z4t queue stats jobs -o json",
            "z4t queue events jobs --type dead,failed --limit 5",
            "z4t queue set jobs --events-kept 1000",
            "z4t queue top --interval 500ms --count 2 --rows 5",
            "z4t task tail -q jobs --from earliest --count 3 --idle 1s --type acked",
            "z4t -q jobs task tail --from 0107000000000000000100000000000000",
            "z4t completions zsh",
        ] {
            assert!(parse(line).is_ok(), "{line}: {:?}", parse(line).err());
        }
    }

    #[test]
    fn what_cannot_be_is_refused_with_code_2() {
        for line in [
            "z4t",
            "z4t nonsense",
            "z4t task push jobs",
            "z4t task push jobs x --priority 256",
            "z4t task push jobs x --priority -1",
            "z4t task push jobs x --delay -5s",
            "z4t task push jobs x --delay 5",
            "z4t task push jobs x --delay 5s --deliver-at +5s",
            "z4t task push jobs x --deliver-at yesterday",
            "z4t task push jobs x --meta novalue",
            "z4t task push jobs x --repeat 0",
            "z4t task cancel 00000000000000000000000007 --filter state=due",
            "z4t task cancel --dry-run",
            "z4t queue redrive jobs --rate 0",
            "z4t queue group set jobs",
            "z4t task push jobs x --request-id r --repeat 2",
            "z4t task get abc",
            "z4t task list jobs --state happy",
            "z4t -q jobs consume --count 0",
            "z4t queue create jobs --rate fast",
            "z4t queue create jobs --rate 0/s",
            "z4t queue create jobs --burst 3",
            "z4t queue create jobs --retry 1s",
            "z4t queue create jobs --retention-count 3",
            "z4t queue create jobs --unset rate",
            "z4t queue create jobs --breaker 0:x",
            "z4t queue purge jobs --all --state dead",
            "z4t -q jobs task tail --from yesterday",
            "z4t queue top --interval 1ms",
            "z4t shard transfer-leader 3",
            "z4t shard verify one",
            "z4t ping --timeout 0s",
        ] {
            assert_eq!(parse(line).expect_err(line).exit_code(), 2, "{line}");
        }
    }
}
