//! One real server process: built, started on ports of its own choosing, killed without warning.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tonic::transport::{Channel, Endpoint};
use z4_proto::v1;
use z4_proto::v1::admin_client::AdminClient;

use crate::workspace::{self, cargo};

/// Longest wait for the line with the ports, and then for the first answer to a ping.
const START_MAX: Duration = Duration::from_secs(60);
/// Lines of the log shown when the server does not start.
const LOG_LINES_SHOWN: usize = 20;

/// A server process. Killed when dropped.
pub(crate) struct Server {
    child: Child,
    log: PathBuf,
    address: String,
}

/// Builds `program` in `profile` and returns its path.
pub(crate) fn build(program: &str, profile: &str) -> Result<PathBuf> {
    let arguments = ["build", "--package", program, "--bin", program, "--profile", profile];
    println!("building: cargo {}", arguments.join(" "));
    let status = Command::new(cargo()).args(arguments).current_dir(workspace::root()).status()?;
    if !status.success() {
        bail!("{program} does not build in profile {profile}");
    }
    let folder = if ["dev", "test"].contains(&profile) { "debug" } else { profile };
    Ok(workspace::target_dir()?.join(folder).join(program))
}

impl Server {
    /// Starts `binary` on the data in `dir` and returns as soon as it has told its ports; it may still recover.
    pub(crate) fn start(binary: &Path, dir: &Path) -> Result<Self> {
        let log = dir.join("server.log");
        let stderr = File::options().create(true).append(true).open(&log)?;
        let mut command = Command::new(binary);
        // The server is ours alone: what is exported for another must not reach it.
        for (key, _) in std::env::vars_os().filter(|(key, _)| key.to_string_lossy().starts_with("Z4_")) {
            command.env_remove(key);
        }
        let mut child = command
            .args(["server", "--print-ports"])
            .env("Z4_PEER_ID", "crash1")
            .env("Z4_BOOTSTRAP_CLUSTER", "true")
            .env("Z4_SERVICE_PORT", "0")
            .env("Z4_PEER_PORT", "0")
            .env("Z4_METRICS_PORT", "0")
            .env("Z4_SQL_PORT", "0")
            .env("Z4_DB_DATA_DIR", dir.join("db"))
            .env("Z4_PEER_DATA_DIR", dir.join("peer"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .with_context(|| format!("{} does not start", binary.display()))?;
        let stdout = child.stdout.take().expect("stdout is piped");
        let mut server = Self { child, log, address: String::new() };
        let (sender, lines) = mpsc::channel();
        // Read to the end, so that the server never blocks on a full pipe or dies of a closed one.
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let begin = Instant::now();
        let port = loop {
            match lines.recv_timeout(START_MAX.saturating_sub(begin.elapsed())) {
                Ok(line) => {
                    let ports: Option<Value> = serde_json::from_str(&line).ok();
                    if let Some(port) = ports.and_then(|ports| ports["service_port"].as_u64()) {
                        break port;
                    }
                }
                Err(_) => bail!("the server printed no ports as JSON on stdout\n{}", server.explain()),
            }
        };
        server.address = format!("http://127.0.0.1:{port}");
        Ok(server)
    }

    /// Connects and waits until the server answers a ping.
    pub(crate) async fn ready(&mut self) -> Result<Channel> {
        let begin = Instant::now();
        let endpoint = Endpoint::from_shared(self.address.clone())?.connect_timeout(Duration::from_secs(5));
        loop {
            let last = match endpoint.connect().await {
                Ok(channel) => {
                    let ping = AdminClient::new(channel.clone()).ping(v1::PingRequest {}).await;
                    match ping {
                        Ok(_) => return Ok(channel),
                        Err(status) => status.to_string(),
                    }
                }
                Err(error) => error.to_string(),
            };
            if let Some(status) = self.child.try_wait()? {
                bail!("the server ended by itself ({status})\n{}", self.explain());
            }
            if begin.elapsed() > START_MAX {
                bail!("the server does not answer: {last}\n{}", self.explain());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Returns where it serves clients, as host:port.
    pub(crate) fn address(&self) -> &str {
        self.address.trim_start_matches("http://")
    }

    /// Kills the process (SIGKILL) and waits for its end.
    ///
    /// # Errors
    /// If it had ended by itself before: a server does not stop because of its clients.
    pub(crate) fn kill(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("the server ended by itself ({status})\n{}", self.explain());
        }
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Returns the last lines of the log.
    fn explain(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let tail = &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..];
        format!("last lines of its log:\n  {}", tail.join("\n  "))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
