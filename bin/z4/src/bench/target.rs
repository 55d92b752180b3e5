//! What is measured: a server of our own on a folder of its own, or one that runs already.
//!
//! Every benchmark gets a fresh child server, so that none pays for what another left behind; on a running host each
//! gets queues of its own instead.
//!
//! # Invariants
//! - The child ends before its control group and its folder are removed: the fields are dropped in that order.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;
use z4_client::Client;

use super::cgroup::Cgroup;
use super::link::connect;
use crate::child::{Child, Ports};

/// Longest wait for a server to serve, also after a restart with much to replay.
const SERVE_MAX: Duration = Duration::from_secs(120);

/// Where servers come from.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    /// A running host, `host:port`.
    Running(String),
    /// A child on a folder below this one.
    Child(PathBuf),
}

/// See the essay.
#[derive(Debug)]
pub(crate) struct Target {
    child: Option<Child>,
    cgroup: Option<Cgroup>,
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
                Ok(Self { child: None, cgroup: None, folder: None, address: address.clone() })
            }
            Source::Child(dir) => {
                let folder = tempfile::Builder::new().prefix("z4-bench-").tempdir_in(dir);
                let folder = folder.with_context(|| format!("no folder can be made in {}", dir.display()))?;
                let cgroup = memory.map(Cgroup::with_memory).transpose()?;
                let mut target = Self { child: None, cgroup, folder: Some(folder), address: String::new() };
                target.start(Ports::default()).await?;
                Ok(target)
            }
        }
    }

    async fn start(&mut self, ports: Ports) -> Result<()> {
        let folder = self.folder.as_ref().context("a running host is not ours to start")?;
        let child = Child::start(folder.path(), ports, self.cgroup.as_ref().map(Cgroup::path)).await?;
        self.address = child.address();
        self.child.insert(child).serving(SERVE_MAX).await
    }

    /// Kills the child (SIGKILL) and starts it again on the same data and ports; returns once it serves.
    ///
    /// # Errors
    /// It is no child, or does not come back.
    pub(crate) async fn kill_and_restart(&mut self) -> Result<()> {
        let mut child = self.child.take().context("a running host is not ours to kill")?;
        child.kill()?;
        self.start(child.ports()).await
    }

    /// Returns `host:port`.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Returns the child, if it is ours.
    pub(crate) fn child(&mut self) -> Option<&mut Child> {
        self.child.as_mut()
    }

    /// Returns the CPU time the child has used, seconds; NaN for a running host, where it cannot be known.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        self.child.as_ref().map_or(f64::NAN, Child::cpu_seconds)
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
pub(crate) fn fresh_queue(what: &str) -> String {
    format!("z4-bench/{what}/{}", &z4_client::request_id()[..12])
}
