//! Hosts as processes on loopback, each with a folder of its own.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use super::fleet::Fleet;
use super::tool::Tool;

/// Lines of a log that are shown.
const LOG_LINES_SHOWN: usize = 12;

/// How the hosts become a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Forming {
    /// The first forms one, the others wait to be added.
    ByHand,
    /// All name each other.
    Together,
}

struct Host {
    id: String,
    service: u16,
    peer: u16,
    metrics: u16,
    child: Option<Child>,
}

/// See the module essay. All processes end with it.
pub(crate) struct Processes {
    binary: PathBuf,
    tool: Tool,
    forming: Forming,
    hosts: Vec<Host>,
    /// Declared last: removed after the processes have ended.
    folder: tempfile::TempDir,
}

impl Processes {
    /// Draws ports for `count` hosts; none is started.
    pub(crate) fn new(binaries: &Path, count: usize, forming: Forming) -> Result<Self> {
        // Held until all are drawn, so that none is drawn twice.
        let drawn =
            (0..3 * count).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<Vec<_>, _>>()?;
        let ports = drawn.iter().map(|drawn| Ok(drawn.local_addr()?.port())).collect::<Result<Vec<u16>>>()?;
        let host = |(at, ports): (usize, &[u16])| Host {
            id: format!("peer{}", at + 1),
            service: ports[0],
            peer: ports[1],
            metrics: ports[2],
            child: None,
        };
        Ok(Self {
            binary: binaries.join("z4"),
            tool: Tool::new(binaries),
            forming,
            hosts: ports.chunks(3).enumerate().map(host).collect(),
            folder: tempfile::Builder::new().prefix("z4-cluster-").tempdir()?,
        })
    }

    fn folder(&self, at: usize) -> PathBuf {
        self.folder.path().join(&self.hosts[at].id)
    }

    fn log(&self, at: usize) -> PathBuf {
        self.folder.path().join(format!("{}.log", self.hosts[at].id))
    }
}

impl Fleet for Processes {
    fn len(&self) -> usize {
        self.hosts.len()
    }

    fn id(&self, at: usize) -> String {
        self.hosts[at].id.clone()
    }

    fn service(&self, at: usize) -> String {
        format!("127.0.0.1:{}", self.hosts[at].service)
    }

    fn peer(&self, at: usize) -> String {
        format!("127.0.0.1:{}", self.hosts[at].peer)
    }

    fn start(&mut self, at: usize) -> Result<()> {
        let dir = self.folder(at);
        fs::create_dir_all(&dir)?;
        let log = File::options().create(true).append(true).open(self.log(at))?;
        let mut command = Command::new(&self.binary);
        for (key, _) in std::env::vars_os().filter(|(key, _)| key.to_string_lossy().starts_with("Z4_")) {
            command.env_remove(key);
        }
        let host = &self.hosts[at];
        command
            .arg("server")
            .env("Z4_PEER_ID", &host.id)
            .env("Z4_PEER_ADVERTISE_ADDR", self.peer(at))
            .env("Z4_SERVICE_PORT", host.service.to_string())
            .env("Z4_PEER_PORT", host.peer.to_string())
            .env("Z4_METRICS_PORT", host.metrics.to_string())
            .env("Z4_SQL_PORT", "0")
            // Whatever the number of hosts, any minority may be lost.
            .env("Z4_REPLICATION", self.len().to_string())
            .env("Z4_DB_DATA_DIR", dir.join("db"))
            .env("Z4_PEER_DATA_DIR", dir.join("peer"))
            .current_dir(&dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        match self.forming {
            Forming::ByHand if at == 0 => drop(command.env("Z4_BOOTSTRAP_CLUSTER", "true")),
            Forming::ByHand => {}
            Forming::Together => {
                let peers: Vec<String> =
                    (0..self.len()).map(|at| format!("{}={}", self.id(at), self.peer(at))).collect();
                command.env("Z4_INITIAL_PEERS", peers.join(","));
            }
        }
        let child = command.spawn().with_context(|| format!("{} does not start", self.binary.display()))?;
        self.hosts[at].child = Some(child);
        Ok(())
    }

    fn stop(&mut self, at: usize) -> Result<()> {
        let mut child = self.hosts[at].child.take().context("it does not run")?;
        ensure!(child.try_wait()?.is_none(), "{} had ended by itself\n{}", self.id(at), self.explain(at));
        let told = Command::new("kill").args(["-TERM", &child.id().to_string()]).status()?;
        let status = child.wait()?;
        ensure!(
            told.success() && status.success(),
            "{} did not stop well: {status}\n{}",
            self.id(at),
            self.explain(at)
        );
        Ok(())
    }

    fn tool(&self) -> &Tool {
        &self.tool
    }

    fn explain(&self, at: usize) -> String {
        let text = fs::read_to_string(self.log(at)).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let tail = &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..];
        format!("last lines of its log:\n  {}", tail.join("\n  "))
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        for child in self.hosts.iter_mut().filter_map(|host| host.child.as_mut()) {
            // Fails only if it is gone already.
            drop(child.kill());
            drop(child.wait());
        }
    }
}
