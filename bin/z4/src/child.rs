//! A server of our own: this very program as a child process on a folder of its own, killed without warning.
//!
//! The demo and the bench measure and kill what a user would run, not something wired together in their own process:
//! the child is `z4 server`, its ports are the kernel's choice, its settings come from here alone, whatever the
//! user's environment says.
//!
//! # Invariants
//! - The child ends with its [`Child`]: dropped, it is killed and waited for, so its folder can be removed after it.
//! - Only our own process id is ever signalled.
//! # Caveats
//! - If this program itself is killed with SIGKILL, the child stays behind.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tokio::sync::mpsc;
use z4_client::Client;

/// Longest wait for the line with the ports.
const PORTS_MAX: Duration = Duration::from_secs(60);
/// Pause between two questions whether it serves: short against the restart times that are measured with it.
const ASK_EVERY: Duration = Duration::from_millis(2);
/// Longest wait for one such question.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);
/// Lines of the log shown when the server does not start.
const LOG_LINES_SHOWN: usize = 20;
/// Kernel ticks a second in `/proc/PID/stat`: 100 on every Linux architecture Rust has a target for.
const TICKS_PER_SECOND: f64 = 100.0;

/// Ports of a server; 0 lets the kernel choose.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Ports {
    /// gRPC.
    pub(crate) service: u16,
    /// Other hosts.
    pub(crate) peer: u16,
    /// `/metrics` and health.
    pub(crate) metrics: u16,
}

/// What a server is started with.
#[derive(Debug, Clone)]
pub(crate) struct Start {
    /// Where its data and its log are; made if missing.
    pub(crate) dir: PathBuf,
    /// `Z4_PEER_ID`.
    pub(crate) id: String,
    /// Its ports.
    pub(crate) ports: Ports,
    /// `Z4_INITIAL_PEERS`; None: it forms a cluster of its own.
    pub(crate) initial_peers: Option<String>,
    /// The folder of the control group in which it lives from its first instruction.
    pub(crate) cgroup: Option<PathBuf>,
}

impl Start {
    /// Returns how a cluster of one host is started, on ports the kernel chooses.
    pub(crate) fn lone(dir: &Path) -> Self {
        let (dir, ports) = (dir.to_owned(), Ports::default());
        Self { dir, id: "z4".into(), ports, initial_peers: None, cgroup: None }
    }
}

/// A running server process.
#[derive(Debug)]
pub(crate) struct Child {
    process: std::process::Child,
    log: PathBuf,
    start: Start,
}

impl Child {
    /// Starts a server and returns once it has told its ports; it may still recover.
    ///
    /// # Errors
    /// It does not start, or ends before it tells its ports; the message has the end of its log.
    pub(crate) async fn start(start: Start) -> Result<Self> {
        let Start { dir, ports, .. } = &start;
        fs::create_dir_all(dir)?;
        let log = dir.join("server.log");
        let stderr = File::options().create(true).append(true).open(&log)?;
        let program = std::env::current_exe().context("this program does not know its own path")?;
        let mut command = match &start.cgroup {
            None => Command::new(&program),
            Some(group) => {
                // The shell enters the group and then becomes the server: same process id, no moment outside.
                let mut shell = Command::new("/bin/sh");
                shell.args(["-c", "echo $$ > \"$0\"/cgroup.procs && exec \"$@\""]).arg(group).arg(&program);
                shell
            }
        };
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("Z4_")) {
            command.env_remove(name);
        }
        command
            .args(["server", "--print-ports"])
            .env("Z4_PEER_ID", &start.id)
            .env("Z4_SERVICE_PORT", ports.service.to_string())
            .env("Z4_PEER_PORT", ports.peer.to_string())
            .env("Z4_METRICS_PORT", ports.metrics.to_string())
            .env("Z4_SQL_PORT", "0")
            .env("Z4_DB_DATA_DIR", dir.join("db"))
            .env("Z4_PEER_DATA_DIR", dir.join("peer"))
            // No configuration file of the folder we happen to stand in.
            .current_dir(dir)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr);
        if ports.peer != 0 {
            command.env("Z4_PEER_ADVERTISE_ADDR", format!("127.0.0.1:{}", ports.peer));
        }
        match &start.initial_peers {
            None => command.env("Z4_BOOTSTRAP_CLUSTER", "true"),
            Some(peers) => command.env("Z4_INITIAL_PEERS", peers),
        };
        let mut process = command.spawn().with_context(|| format!("{} does not start", program.display()))?;
        let stdout = process.stdout.take().expect("stdout is piped");
        let mut child = Self { process, log, start };
        let (sender, mut lines) = mpsc::unbounded_channel();
        // Read to the end, so that the server never blocks on a full pipe or dies of a closed one.
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                drop(sender.send(line));
            }
        });
        let told = async {
            while let Some(line) = lines.recv().await {
                if let Some(ports) = serde_json::from_str(&line).ok().as_ref().and_then(read_ports) {
                    return Some(ports);
                }
            }
            None
        };
        match tokio::time::timeout(PORTS_MAX, told).await {
            Ok(Some(ports)) => child.start.ports = ports,
            _ => bail!("the server did not tell its ports\n{}", child.explain()),
        }
        Ok(child)
    }

    /// Returns `host:port` of its gRPC port.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.start.ports.service)
    }

    /// Returns how it was started, with the ports it has got: for the next one on the same data.
    pub(crate) fn again(&self) -> Start {
        self.start.clone()
    }

    /// Returns its name.
    pub(crate) fn id(&self) -> &str {
        &self.start.id
    }

    /// Returns its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Waits until it leads its shards and answers.
    ///
    /// # Errors
    /// It ended, or does not serve in time; the message has the end of its log.
    pub(crate) async fn serving(&mut self, within: Duration) -> Result<()> {
        let client = Client::builder([self.address()]).timeout(ASK_TIMEOUT).fail_fast(true).build()?;
        let begin = Instant::now();
        loop {
            // Asks every shard: it answers when all of them have a leader that has applied its log.
            let last = match client.list_queues(1, "").await {
                Ok(_) => return Ok(()),
                Err(error) => error,
            };
            if let Some(status) = self.ended()? {
                bail!("the server ended by itself ({status})\n{}", self.explain());
            }
            if begin.elapsed() > within {
                bail!("the server does not serve after {within:?}: {last}\n{}", self.explain());
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
    }

    /// Returns how it ended, if it did.
    ///
    /// # Errors
    /// The kernel does not know.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.process.try_wait()?)
    }

    /// Kills it (SIGKILL) and waits for its end.
    ///
    /// # Errors
    /// It had ended by itself before: a server does not stop because of its clients.
    pub(crate) fn kill(&mut self) -> Result<()> {
        if let Some(status) = self.ended()? {
            bail!("the server ended by itself ({status})\n{}", self.explain());
        }
        self.process.kill()?;
        self.process.wait()?;
        Ok(())
    }

    /// Stops it (SIGTERM) and waits for its end.
    ///
    /// # Errors
    /// It had ended by itself before, or its exit code is not zero.
    pub(crate) fn stop(&mut self) -> Result<()> {
        if let Some(status) = self.ended()? {
            bail!("the server ended by itself ({status})\n{}", self.explain());
        }
        // The standard library only knows SIGKILL.
        let told = Command::new("kill").args(["-TERM", &self.pid().to_string()]).status()?;
        let status = self.process.wait()?;
        if !told.success() || !status.success() {
            bail!("the server did not stop well ({status})\n{}", self.explain());
        }
        Ok(())
    }

    /// Returns the last lines of its log.
    pub(crate) fn explain(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let tail = &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..];
        format!("last lines of its log:\n  {}", tail.join("\n  "))
    }

    /// Returns memory in RAM now and at most so far, bytes; zeros once it is gone.
    pub(crate) fn memory(&self) -> Memory {
        let text = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap_or_default();
        Memory { now: status_bytes(&text, "VmRSS:"), peak: status_bytes(&text, "VmHWM:") }
    }

    /// Returns the CPU time it has used, seconds; zero once it is gone.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        let text = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap_or_default();
        stat_cpu_seconds(&text).unwrap_or_default()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // Fails only if it is gone already.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// Memory of a process in RAM, bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Memory {
    /// Now.
    pub(crate) now: u64,
    /// At most so far.
    pub(crate) peak: u64,
}

/// Returns the bytes that files below `dir` take on the disk, holes not counted.
pub(crate) fn disk_bytes(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;

    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    let sizes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => disk_bytes(&entry.path()),
        // `st_blocks` counts 512 bytes whatever the file system's block is.
        Ok(meta) => meta.blocks() * 512,
        Err(_) => 0,
    });
    sizes.sum()
}

fn status_bytes(status: &str, key: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
    line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or_default() * 1024
}

/// User and system time, fields 14 and 15; counted after the name, which may hold spaces and brackets.
fn stat_cpu_seconds(stat: &str) -> Option<f64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS_PER_SECOND)
}

/// Reads what `z4 server --print-ports` prints.
fn read_ports(line: &Value) -> Option<Ports> {
    let port = |name: &str| line.get(name).and_then(Value::as_u64).and_then(|port| u16::try_from(port).ok());
    Some(Ports {
        service: port("service_port")?,
        peer: port("peer_port").unwrap_or_default(),
        metrics: port("metrics_port").unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ports_are_read_from_the_line_that_has_them() {
        let line = serde_json::json!({"service_port": 4711, "peer_port": 12, "metrics_port": 13});
        assert_eq!(read_ports(&line), Some(Ports { service: 4711, peer: 12, metrics: 13 }));
        assert_eq!(read_ports(&serde_json::json!({"level": "info"})), None);
    }

    #[test]
    fn the_kernels_figures_are_read_whatever_the_program_is_called() {
        assert_eq!(status_bytes("Name:\tz4\nVmHWM:\t  2048 kB\nVmRSS:\t    12 kB\n", "VmRSS:"), 12 * 1024);
        let stat = "77 (a b) c) S 1 77 77 0 -1 4194304 100 0 0 0 150 50 0 0 20 0 4 0 100 1 1";
        assert_eq!(stat_cpu_seconds(stat), Some(2.0));
        assert_eq!(stat_cpu_seconds(""), None);
    }
}
