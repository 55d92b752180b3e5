//! What is measured: a server of our own on a folder of its own, or one that runs already.
//!
//! Every benchmark gets fresh child servers, so that none pays for what another left behind; on a running host each
//! gets queues of its own instead. Of several hosts, the load goes to the one that leads the queue, as the client library's
//! would.
//!
//! # Invariants
//! - The children end before its control group and its folder are removed: the fields are dropped in that order.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;
use z4_client::Client;

use super::cgroup::Cgroup;
use super::link::connect;
use crate::child::Child;
use crate::cluster::{Cluster, leads};

/// Longest wait for a server to serve, also after a restart with much to replay.
const SERVE_MAX: Duration = Duration::from_secs(120);

/// Names drawn until one is led by the host that is asked; with few hosts some are enough.
const NAMES_MAX: usize = 200;

/// Where servers come from.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    /// A running host, `host:port`.
    Running(String),
    /// Children on a folder below this one: so many hosts.
    Child(PathBuf, usize),
}

/// See the essay.
#[derive(Debug)]
pub(crate) struct Target {
    cluster: Option<Cluster>,
    /// Removed when the children have ended.
    _cgroup: Option<Cgroup>,
    folder: Option<TempDir>,
    address: String,
}

impl Target {
    /// Starts a server, or makes sure that the running one answers. `memory` is the child's limit, bytes.
    ///
    /// # Errors
    /// It does not serve, or the limit cannot be set.
    pub(crate) async fn open(source: &Source, memory: Option<u64>) -> Result<Self> {
        match source {
            Source::Running(address) => {
                ensure!(memory.is_none(), "--memory limits a child server; leave out --target");
                let client = Client::builder([address.clone()]).fail_fast(true).build()?;
                client.ping().await?;
                Ok(Self { cluster: None, _cgroup: None, folder: None, address: address.clone() })
            }
            Source::Child(dir, hosts) => {
                let folder = tempfile::Builder::new().prefix("z4-bench-").tempdir_in(dir);
                let folder = folder.with_context(|| format!("no folder can be made in {}", dir.display()))?;
                let cgroup = memory.map(Cgroup::with_memory).transpose()?;
                let mut cluster =
                    Cluster::start(folder.path(), *hosts, cgroup.as_ref().map(Cgroup::path)).await?;
                cluster.serving(SERVE_MAX).await?;
                let address = cluster.addresses().swap_remove(0);
                Ok(Self { cluster: Some(cluster), _cgroup: cgroup, folder: Some(folder), address })
            }
        }
    }

    /// Kills the first child (SIGKILL) and starts it again on the same data and ports; returns once it serves.
    ///
    /// # Errors
    /// It is no child, or does not come back.
    pub(crate) async fn kill_and_restart(&mut self) -> Result<()> {
        let cluster = self.cluster.as_mut().context("a running host is not ours to kill")?;
        cluster.kill(0)?;
        cluster.start_again(0, SERVE_MAX).await
    }

    /// Returns the name of a queue nobody used before, led by the host that is measured.
    ///
    /// # Errors
    /// The host does not answer, or leads no shard.
    pub(crate) async fn queue(&self, what: &str) -> Result<String> {
        for _ in 0..NAMES_MAX {
            let queue = fresh_queue(what);
            if leads(&self.address, &queue).await? {
                return Ok(queue);
            }
        }
        bail!("{} leads no shard; measure another host", self.address)
    }

    /// Returns `host:port`.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Returns the child that is measured, if it is ours.
    pub(crate) fn child(&mut self) -> Option<&mut Child> {
        self.cluster.as_mut().map(|cluster| cluster.host(0))
    }

    /// Returns the CPU time the children have used, seconds; NaN for a running host, where it cannot be known.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        self.cluster.as_ref().map_or(f64::NAN, |cluster| cluster.running().map(Child::cpu_seconds).sum())
    }

    /// Returns the folder of the child's data.
    pub(crate) fn folder(&self) -> Option<&Path> {
        self.folder.as_ref().map(TempDir::path)
    }

    /// Returns a client.
    ///
    /// # Errors
    /// The address is none.
    pub(crate) fn client(&self) -> Result<Client> {
        Ok(Client::connect([self.address.clone()])?)
    }

    /// Returns `count` connections.
    ///
    /// # Errors
    /// Nobody listens.
    pub(crate) async fn channels(&self, count: usize) -> Result<Vec<tonic::transport::Channel>> {
        let mut channels = Vec::with_capacity(count);
        for _ in 0..count {
            channels.push(connect(&self.address).await?);
        }
        Ok(channels)
    }
}

/// Returns the name of a queue nobody used before.
fn fresh_queue(what: &str) -> String {
    format!("z4-bench/{what}/{}", &z4_client::request_id()[..12])
}
