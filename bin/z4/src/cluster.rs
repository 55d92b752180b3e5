//! A cluster of our own: servers as child processes on loopback, formed together, killed and started one by one.
//!
//! # Invariants
//! - All hosts end with the [`Cluster`].
//! # Caveats
//! - Peer ports are drawn before the servers start, since each must know all: another program may take one in between.

use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use z4_proto::v1;
use z4_proto::v1::tasks_client::TasksClient;

use crate::child::{Child, Ports, Start};

/// Between two looks at who leads.
const ASK_EVERY: Duration = Duration::from_millis(5);
/// Longest wait for an answer about who leads.
const ASK_MAX: Duration = Duration::from_secs(5);

/// One host: its process, or how to start it again.
#[derive(Debug)]
struct Host {
    start: Start,
    child: Option<Child>,
}

/// See the module essay.
#[derive(Debug)]
pub(crate) struct Cluster {
    hosts: Vec<Host>,
}

impl Cluster {
    /// Starts `count` hosts on folders below `dir`, and returns once all have told their ports. A single one forms a
    /// cluster of its own.
    ///
    /// # Errors
    /// One does not start; the message has the end of its log.
    pub(crate) async fn start(dir: &Path, count: usize, cgroup: Option<&Path>) -> Result<Self> {
        let cgroup = cgroup.map(Path::to_owned);
        let starts = if count == 1 {
            vec![Start { cgroup, ..Start::lone(dir) }]
        } else {
            // Held until all are drawn, so that none is drawn twice.
            let drawn = (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<Vec<_>, _>>();
            let drawn = drawn.context("no free ports")?;
            let ports =
                drawn.iter().map(|drawn| Ok(drawn.local_addr()?.port())).collect::<Result<Vec<_>>>()?;
            let id = |at: usize| format!("z4-{}", at + 1);
            let peers: Vec<String> =
                ports.iter().enumerate().map(|(at, port)| format!("{}=127.0.0.1:{port}", id(at))).collect();
            let peers = peers.join(",");
            let start = |(at, port): (usize, &u16)| Start {
                dir: dir.join(id(at)),
                id: id(at),
                ports: Ports { peer: *port, ..Ports::default() },
                initial_peers: Some(peers.clone()),
                cgroup: cgroup.clone(),
            };
            ports.iter().enumerate().map(start).collect()
        };
        let mut cluster = Self { hosts: Vec::new() };
        for start in starts {
            let child = Child::start(start).await?;
            cluster.hosts.push(Host { start: child.again(), child: Some(child) });
        }
        Ok(cluster)
    }

    /// Waits until every running host serves.
    ///
    /// # Errors
    /// One ended, or does not serve in time.
    pub(crate) async fn serving(&mut self, within: Duration) -> Result<()> {
        for child in self.hosts.iter_mut().filter_map(|host| host.child.as_mut()) {
            child.serving(within).await?;
        }
        Ok(())
    }

    /// Returns `host:port` of every host's gRPC port, also of those that do not run.
    pub(crate) fn addresses(&self) -> Vec<String> {
        self.hosts.iter().map(|host| format!("127.0.0.1:{}", host.start.ports.service)).collect()
    }

    /// Returns the running host that leads the shard of `queue`: its position, for the calls below.
    ///
    /// # Errors
    /// Nobody says so in time.
    pub(crate) async fn leader_of(&self, queue: &str) -> Result<usize> {
        let begin = Instant::now();
        loop {
            for (at, host) in self.hosts.iter().enumerate() {
                let Some(child) = &host.child else { continue };
                if let Ok(Ok(true)) = tokio::time::timeout(ASK_MAX, leads(&child.address(), queue)).await {
                    return Ok(at);
                }
            }
            if begin.elapsed() > ASK_MAX {
                bail!("no host says that it leads the shard of queue {queue}");
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
    }

    /// Returns the running host at `at`.
    ///
    /// # Panics
    /// If it does not run.
    pub(crate) fn host(&mut self, at: usize) -> &mut Child {
        self.hosts[at].child.as_mut().expect("the caller has not killed it")
    }

    /// Returns every running host.
    pub(crate) fn running(&self) -> impl Iterator<Item = &Child> {
        self.hosts.iter().filter_map(|host| host.child.as_ref())
    }

    /// Kills a host (SIGKILL) and waits for its end.
    ///
    /// # Errors
    /// It had ended by itself before.
    pub(crate) fn kill(&mut self, at: usize) -> Result<()> {
        let mut child = self.hosts[at].child.take().context("it does not run")?;
        child.kill()
    }

    /// Stops a host as an operator does (SIGTERM) and waits for its end.
    ///
    /// # Errors
    /// It had ended by itself before, or ends badly.
    pub(crate) fn stop(&mut self, at: usize) -> Result<()> {
        let mut child = self.hosts[at].child.take().context("it does not run")?;
        child.stop()
    }

    /// Starts a killed host again, on the same data and ports, and waits until it serves.
    ///
    /// # Errors
    /// It does not start, or does not serve in time.
    pub(crate) async fn start_again(&mut self, at: usize, within: Duration) -> Result<()> {
        let host = &mut self.hosts[at];
        let child = host.child.insert(Child::start(host.start.clone()).await?);
        child.serving(within).await
    }

    /// Makes sure that no host has ended by itself.
    ///
    /// # Errors
    /// One has; the message has the end of its log.
    pub(crate) fn check(&mut self) -> Result<()> {
        for child in self.hosts.iter_mut().filter_map(|host| host.child.as_mut()) {
            if let Some(status) = child.ended()? {
                bail!("host {} ended by itself ({status})\n{}", child.id(), child.explain());
            }
        }
        Ok(())
    }
}

/// Asks the host at `address` whether it leads the shard of `queue`.
///
/// # Errors
/// It does not answer, or knows no leader.
pub(crate) async fn leads(address: &str, queue: &str) -> Result<bool> {
    let mut tasks = TasksClient::connect(format!("http://{address}")).await?;
    let forwarded_to = match tasks.get_queue(v1::GetQueueRequest { queue: queue.into() }).await {
        Ok(answer) => answer.into_inner().forwarded_to,
        // Errors do not say who gave them; of a queue that is not there nothing can be leased.
        Err(status) if status.code() == tonic::Code::NotFound => {
            let request = v1::LeaseTasksRequest { queue: queue.into(), max_tasks: 1, ..Default::default() };
            tasks.lease_tasks(request).await?.into_inner().forwarded_to
        }
        Err(status) => return Err(status.into()),
    };
    Ok(forwarded_to.is_empty())
}
