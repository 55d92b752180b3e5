//! The containers of `make compose_up`.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use super::fleet::Fleet;
use super::tool::Tool;
use crate::workspace;

/// Service ports on this machine, as docker-compose.yml publishes them.
const SERVICES: [u16; 3] = [6355, 6455, 6555];

/// See the module essay. Taken down, volumes and all, at its end.
pub(crate) struct Containers {
    tool: Tool,
    compose: Vec<String>,
}

impl Containers {
    /// Builds the image and starts all three.
    pub(crate) fn up(binaries: &Path) -> Result<Self> {
        let has_plugin = Command::new("docker")
            .args(["compose", "version"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success());
        let compose = if has_plugin { vec!["docker", "compose"] } else { vec!["docker-compose"] };
        let compose = compose.into_iter().map(str::to_owned).collect();
        let fleet = Self { tool: Tool::new(binaries), compose };
        make("compose_purge")?;
        make("compose_up")?;
        Ok(fleet)
    }

    fn compose(&self, arguments: &[&str]) -> Result<()> {
        let status = Command::new(&self.compose[0])
            .args(&self.compose[1..])
            .args(arguments)
            .current_dir(workspace::root())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .context("docker-compose does not start")?;
        ensure!(status.success(), "docker-compose {}: {status}", arguments.join(" "));
        Ok(())
    }
}

fn make(target: &str) -> Result<()> {
    println!("make {target}");
    let status = Command::new("make").arg(target).current_dir(workspace::root()).status()?;
    ensure!(status.success(), "make {target}: {status}");
    Ok(())
}

impl Fleet for Containers {
    fn len(&self) -> usize {
        SERVICES.len()
    }

    fn id(&self, at: usize) -> String {
        format!("peer{}", at + 1)
    }

    fn service(&self, at: usize) -> String {
        format!("127.0.0.1:{}", SERVICES[at])
    }

    fn peer(&self, at: usize) -> String {
        format!("peer{}:6356", at + 1)
    }

    fn start(&mut self, at: usize) -> Result<()> {
        self.compose(&["start", &self.id(at)])
    }

    fn stop(&mut self, at: usize) -> Result<()> {
        self.compose(&["stop", &self.id(at)])
    }

    fn tool(&self) -> &Tool {
        &self.tool
    }

    fn explain(&self, at: usize) -> String {
        let output = Command::new(&self.compose[0])
            .args(&self.compose[1..])
            .args(["logs", "--tail", "12", &self.id(at)])
            .current_dir(workspace::root())
            .output();
        output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
    }
}

impl Drop for Containers {
    fn drop(&mut self) {
        if let Err(error) = self.compose(&["down", "-v"]) {
            eprintln!("the containers are not taken down: {error:#}");
        }
    }
}
