//! What a host needs to know to start. `bin/z4` fills it from flags, environment and file.

use std::path::PathBuf;

use z4_multiraft::{LogMode, Settings};
use z4_registry::{REPLICATION_DEFAULT, Registry};
use z4_types::HostId;
use z4_types::limits::{INBOX_BYTES_MAX, OUTBOX_BYTES_MAX, TASK_SHARDS_DEFAULT};

use crate::error::BootError;

/// See the module essay.
#[derive(Debug, Clone)]
pub struct Config {
    /// Stable name of this host.
    pub host: HostId,
    /// A host of another cluster is refused.
    pub cluster_name: String,
    /// host:port by which other hosts reach this one.
    pub advertise: String,
    /// host:port by which other hosts reach this one's gRPC door; empty if they do not.
    pub service: String,
    /// Form a new one-host cluster if the directories are empty.
    pub bootstrap: bool,
    /// Form a cluster together with these, this host included: id and peer address. Empty: do not.
    pub initial_peers: Vec<(HostId, String)>,
    /// Peer addresses of a cluster to join by itself.
    pub join: Vec<String>,
    /// State machines.
    pub data_dir: PathBuf,
    /// Raft log and membership.
    pub peer_dir: PathBuf,
    /// Task shards of a new cluster; an existing one keeps its number.
    pub task_shards: u32,
    /// Voters of a shard of a new cluster, as far as it has hosts.
    pub replication: u32,
    /// Who writes the log.
    pub log_mode: LogMode,
    /// Sizes that the simulator makes tiny.
    pub sizes: Sizes,
}

/// Sizes of everything that fills up.
#[derive(Debug, Clone)]
pub struct Sizes {
    /// Bytes of one log segment.
    pub segment_bytes: u64,
    /// Prewritten segments kept ready.
    pub spare_segments: usize,
    /// Segments beyond which a checkpoint is wanted.
    pub log_segments_max: u64,
    /// Page cache of the base, bytes.
    pub cache_bytes: usize,
    /// Requests between accept and answer, bytes.
    pub inbox_bytes: usize,
    /// Tasks on their way to consumers, bytes.
    pub outbox_bytes: usize,
    /// Ticks, checkpoints and stalls.
    pub driver: Settings,
}

impl Default for Sizes {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            spare_segments: 2,
            log_segments_max: 4,
            cache_bytes: 48 << 20,
            inbox_bytes: INBOX_BYTES_MAX,
            outbox_bytes: OUTBOX_BYTES_MAX,
            driver: Settings::default(),
        }
    }
}

impl Config {
    /// Returns the configuration of a host named `host` that keeps everything below `dir` and forms a cluster.
    #[must_use]
    pub fn single(host: &str, dir: &std::path::Path) -> Self {
        Self {
            host: HostId(host.into()),
            cluster_name: "z4".into(),
            advertise: "127.0.0.1:6356".into(),
            service: String::new(),
            bootstrap: true,
            initial_peers: Vec::new(),
            join: Vec::new(),
            data_dir: dir.join("data"),
            peer_dir: dir.join("peer"),
            task_shards: TASK_SHARDS_DEFAULT,
            replication: REPLICATION_DEFAULT,
            log_mode: LogMode::Thread,
            sizes: Sizes::default(),
        }
    }

    /// Returns the registry of the cluster that this host forms with its initial peers: the same on each of them.
    ///
    /// # Errors
    /// `Empty` if it has none; `Peers` if they cannot be a cluster, or this host is not among them.
    pub fn founding(&self) -> Result<Registry, BootError> {
        if self.initial_peers.is_empty() {
            return Err(BootError::Empty(self.data_dir.clone()));
        }
        match self.initial_peers.iter().find(|(host, _)| *host == self.host) {
            None => Err(BootError::Peers(format!(
                "this host, {}, is not one of them; name it there as it is named by Z4_PEER_ID",
                self.host
            ))),
            Some(_) => Registry::form_many(
                &self.cluster_name,
                self.initial_peers.clone(),
                self.task_shards,
                self.replication,
            )
            .map_err(|refusal| BootError::Peers(refusal.to_string())),
        }
    }
}
