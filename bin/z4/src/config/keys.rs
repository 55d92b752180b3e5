//! The table of settings.
//!
//! A setting has one name, such as `peer_id`: in the file it is that, in the environment `Z4_PEER_ID`, as a flag
//! `--peer-id`.

use z4_host::Config;
use z4_multiraft::LogMode;

use super::value::{Kind, bytes_text};

/// One setting.
#[derive(Debug)]
pub(crate) struct Key {
    /// Its name in the file.
    pub(crate) name: &'static str,
    /// What values it takes.
    pub(crate) kind: Kind,
    /// Its default as text; None: it has none.
    pub(crate) default: fn() -> Option<String>,
    /// For `--help`.
    pub(crate) help: &'static str,
    /// Names its value in `--help`.
    pub(crate) value_name: &'static str,
}

impl Key {
    /// Returns its environment variable.
    pub(crate) fn variable(&self) -> String {
        format!("Z4_{}", self.name.to_ascii_uppercase())
    }

    /// Returns its flag, dashes included.
    pub(crate) fn flag(&self) -> String {
        format!("--{}", self.name.replace('_', "-"))
    }
}

/// All settings, in the order of `--help`.
pub(crate) const KEYS: &[Key] = &[
    Key {
        name: "peer_id",
        help: "Stable name of this host, required",
        value_name: "NAME",
        ..required(Kind::Name)
    },
    Key {
        name: "bootstrap_cluster",
        default: || Some("false".into()),
        help: "Form a new cluster of one host if the data directories are empty; harmless later",
        value_name: "BOOL",
        ..required(Kind::Bool)
    },
    Key {
        name: "cluster_name",
        default: || Some("z4".into()),
        help: "Name of the cluster; data of another one is refused",
        value_name: "NAME",
        ..required(Kind::Name)
    },
    Key {
        name: "db_data_dir",
        default: || Some("z4data".into()),
        help: "Directory of the state machines",
        value_name: "DIR",
        ..required(Kind::Path)
    },
    Key {
        name: "peer_data_dir",
        default: || Some("z4peer".into()),
        help: "Directory of the Raft log and membership",
        value_name: "DIR",
        ..required(Kind::Path)
    },
    Key {
        name: "bind_addr",
        default: || Some("127.0.0.1".into()),
        help: "IP address to listen on, all ports; 0.0.0.0 for every interface. There is no authentication yet",
        value_name: "IP",
        ..required(Kind::Ip)
    },
    Key {
        name: "service_port",
        default: || Some("6355".into()),
        help: "gRPC: tasks and admin; 0 picks a free one",
        value_name: "PORT",
        ..required(Kind::Port)
    },
    Key {
        name: "metrics_port",
        default: || Some("2112".into()),
        help: "HTTP: /metrics, /healthz, /readyz; 0 picks a free one",
        value_name: "PORT",
        ..required(Kind::Port)
    },
    Key {
        name: "peer_port",
        default: || Some("6356".into()),
        help: "Other hosts; 0 picks a free one",
        value_name: "PORT",
        ..required(Kind::Port)
    },
    Key {
        name: "sql_port",
        default: || Some("3306".into()),
        help: "MySQL protocol; accepted, not served by this version",
        value_name: "PORT",
        ..required(Kind::Port)
    },
    Key {
        name: "peer_advertise_addr",
        default: || Some(model().advertise),
        help: "host:port by which other hosts reach the peer port of this one; names are resolved again for each \
               connection. If not set: what Z4_INITIAL_PEERS says of this host, or 127.0.0.1 and the peer port",
        value_name: "ADDR",
        ..required(Kind::Address)
    },
    Key {
        name: "service_advertise_addr",
        help: "host:port by which other hosts reach the gRPC port of this one, to pass calls on. If not set: the host of \
               peer_advertise_addr and the service port",
        value_name: "ADDR",
        ..required(Kind::Address)
    },
    Key {
        name: "initial_peers",
        help: "id=host:port,…: form a cluster together with these hosts, this one included, in any order of starts; the \
               same on each of them; harmless later",
        value_name: "PEERS",
        ..required(Kind::Peers)
    },
    Key {
        name: "join",
        help: "host:port,…: join the cluster of which these are members, by their peer addresses; harmless later",
        value_name: "ADDRS",
        ..required(Kind::Addresses)
    },
    Key {
        name: "debug_logging_enabled",
        default: || Some("false".into()),
        help: "Log at debug level for people; otherwise JSON lines at info level. Logs go to stderr",
        value_name: "BOOL",
        ..required(Kind::Bool)
    },
    Key {
        name: "task_shards",
        default: || Some(model().task_shards.to_string()),
        help: "Task shards of a new cluster, 1 to 1024; an existing one keeps its number",
        value_name: "COUNT",
        ..required(Kind::Count { least: 1, most: 1_024 })
    },
    Key {
        name: "replication",
        default: || Some(model().replication.to_string()),
        help: "Voters of a shard of a new cluster, as far as it has hosts, 1 to 7; 3 survive the loss of one host",
        value_name: "COUNT",
        ..required(Kind::Count { least: 1, most: 7 })
    },
    Key {
        name: "log_mode",
        default: || Some(log_mode_name(model().log_mode).into()),
        help: "Who writes the log: `thread`, or `inline` in the driver's thread, which suits a single core",
        value_name: "MODE",
        ..required(Kind::OneOf(&["thread", "inline"]))
    },
    Key {
        name: "worker_threads",
        default: || Some(workers().to_string()),
        help: "Threads for sockets and doors, besides the driver's",
        value_name: "COUNT",
        ..required(Kind::Count { least: 1, most: 256 })
    },
    Key {
        name: "log_segment_bytes",
        default: || Some(bytes_text(model().sizes.segment_bytes)),
        help: "Size of one file of the log",
        value_name: "BYTES",
        ..required(Kind::Bytes { least: 16 << 20 })
    },
    Key {
        name: "inbox_bytes",
        default: || Some(bytes_text(model().sizes.inbox_bytes as u64)),
        help: "Memory for requests between accept and answer; past it callers are told to wait",
        value_name: "BYTES",
        ..required(Kind::Bytes { least: 16 << 20 })
    },
    Key {
        name: "outbox_bytes",
        default: || Some(bytes_text(model().sizes.outbox_bytes as u64)),
        help: "Memory for tasks on their way to consumers; past it no more are leased",
        value_name: "BYTES",
        ..required(Kind::Bytes { least: 4 << 20 })
    },
    Key {
        name: "cache_bytes",
        default: || Some(bytes_text(model().sizes.cache_bytes as u64)),
        help: "Memory for pages of the base",
        value_name: "BYTES",
        ..required(Kind::Bytes { least: 1 << 20 })
    },
    Key {
        name: "checkpoint_bytes",
        default: || Some(bytes_text(model().sizes.driver.checkpoint_bytes as u64)),
        help: "Changes in memory that start a checkpoint",
        value_name: "BYTES",
        ..required(Kind::Bytes { least: 1 << 20 })
    },
    Key {
        name: "stall_bytes",
        default: || Some(bytes_text(model().sizes.driver.stall_bytes as u64)),
        help: "Changes in memory, beyond those a checkpoint is writing, at which writes wait for it; above checkpoint_bytes",
        value_name: "BYTES",
        ..required(Kind::Bytes { least: 2 << 20 })
    },
];

/// Variables `Z4_*` that other programs read.
pub(crate) const FOREIGN_VARIABLES: &[&str] = &["Z4_TARGET"];

/// Returns the setting of that name.
pub(crate) fn key(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// Returns how the file and the environment name a log mode.
pub(crate) fn log_mode_name(mode: LogMode) -> &'static str {
    match mode {
        LogMode::Thread => "thread",
        LogMode::Inline => "inline",
    }
}

const fn required(kind: Kind) -> Key {
    Key { name: "", kind, default: || None, help: "", value_name: "" }
}

/// The host's own defaults: this table does not repeat them.
fn model() -> Config {
    Config::single("", std::path::Path::new(""))
}

/// Two on small machines; beyond, half the cores: the other half drives, writes the log and checkpoints.
fn workers() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    (cores / 2).clamp(2, 32)
}
