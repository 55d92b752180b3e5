//! `z4t`, run as a user runs it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result, bail};

/// The program.
#[derive(Clone)]
pub(crate) struct Tool(PathBuf);

impl Tool {
    /// Returns the tool in `folder`.
    pub(crate) fn new(folder: &Path) -> Self {
        Self(folder.join("z4t"))
    }

    /// Runs it against `target` and returns its output.
    pub(crate) fn run(&self, target: &str, arguments: &[&str]) -> Result<String> {
        let output = self.output(target, arguments)?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            bail!("z4t -t {target} {}: {}: {said}", arguments.join(" "), output.status);
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs it against `target`, whatever comes of it.
    pub(crate) fn output(&self, target: &str, arguments: &[&str]) -> Result<Output> {
        Command::new(&self.0)
            .args(["-t", target])
            .args(arguments)
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("{} does not start", self.0.display()))
    }
}
