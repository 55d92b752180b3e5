//! `cargo xtask bugs`: builds the simulator once for each planted bug and counts the seeds until it is found.
//!
//! A checker that never failed proves nothing. Each planted bug is a feature of one crate that breaks one promise the
//! way real systems have broken it; the simulator must find every one of them within a bounded number of seeds.
//!
//! # Caveats
//! - One build in the `sim` profile for each bug: minutes, not seconds.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::workspace::{self, cargo};

/// Every planted bug, named as its feature of `z4-sim`.
const BUGS: &[&str] = &[
    "bug-ok-before-fsync",
    "bug-applied-not-in-checkpoint",
    "bug-torn-tail-accepted",
    "bug-recycle-early",
    "bug-dedup-lost-at-restart",
    "bug-vote-forgotten",
    "bug-commit-old-term",
    "bug-stale-read",
    "bug-snapshot-keeps-old-rows",
    "bug-snapshot-without-hard-state",
    "bug-snapshot-record-before-rows",
    "bug-lease-granted-twice",
];

/// Builds and runs each; prints the table.
///
/// # Errors
/// If a build fails, or a bug is not found.
pub(crate) fn run() -> Result<()> {
    let mut missed = Vec::new();
    for bug in BUGS {
        let build = ["run", "--quiet", "--profile", "sim", "--package", "z4-sim", "--bin", "z4-sim"];
        let output = Command::new(cargo())
            .args(build)
            .args(["--features", bug, "--", "bugs"])
            .current_dir(workspace::root())
            .stderr(Stdio::inherit())
            .output()
            .with_context(|| format!("the simulator with {bug} does not start"))?;
        let said = String::from_utf8_lossy(&output.stdout);
        if said.trim().is_empty() {
            bail!("the simulator with {bug} cannot be built or said nothing ({})", output.status);
        }
        print!("{said}");
        if !output.status.success() {
            missed.push(*bug);
        }
    }
    if !missed.is_empty() {
        bail!("not found: {}", missed.join(", "));
    }
    println!("bugs: all {} found", BUGS.len());
    Ok(())
}
