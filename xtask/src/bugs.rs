//! `cargo xtask bugs`: builds the simulator once for each planted bug and counts the seeds until it is found.
//!
//! A checker that never failed proves nothing. Each planted bug is a feature of one crate that breaks one promise the
//! way real systems have broken it; the simulator must find every one of them within a bounded number of seeds. One
//! needs a story that chance does not tell; the group's own tests tell it.
//!
//! # Caveats
//! - One build in the `sim` profile for each bug: minutes, not seconds.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::workspace::{self, cargo};

/// Every planted bug the simulator finds by itself, named as its feature of `z4-sim`.
const BUGS: &[&str] = &[
    "bug-ok-before-fsync",
    "bug-applied-not-in-checkpoint",
    "bug-torn-tail-accepted",
    "bug-recycle-early",
    "bug-dedup-lost-at-restart",
    "bug-group-limits-forgotten",
    "bug-serial-group-overlaps",
    "bug-fire-takes-any-slot",
    "bug-blocked-task-runs",
    "bug-vote-forgotten",
    "bug-stale-read",
    "bug-snapshot-keeps-old-rows",
    "bug-snapshot-without-hard-state",
    "bug-snapshot-record-before-rows",
    "bug-lease-granted-twice",
];

/// The one that needs a story told on purpose, figure 8 of the Raft paper: its feature of `z4-consensus`, and the test
/// that is there only with the feature and passes if the bug is caught.
const STORY: (&str, &str) =
    ("bug-commit-old-term", "a_commit_by_counting_entries_of_an_earlier_term_is_caught");

/// Builds and runs each; prints the table.
///
/// # Errors
/// If a build fails, or a bug is not found.
pub(crate) fn run() -> Result<()> {
    let mut missed = Vec::new();
    for bug in BUGS {
        if !found_by_seeds(bug)? {
            missed.push(*bug);
        }
    }
    if !found_by_story(STORY)? {
        missed.push(STORY.0);
    }
    if !missed.is_empty() {
        bail!("not found: {}", missed.join(", "));
    }
    println!("bugs: all {} found", BUGS.len() + 1);
    Ok(())
}

fn found_by_seeds(bug: &str) -> Result<bool> {
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
    Ok(output.status.success())
}

fn found_by_story((bug, test): (&str, &str)) -> Result<bool> {
    let output = Command::new(cargo())
        .args(["test", "--quiet", "--package", "z4-consensus", "--features", bug, "--lib", test])
        .current_dir(workspace::root())
        .output()
        .with_context(|| format!("the tests of consensus with {bug} do not start"))?;
    let said = String::from_utf8_lossy(&output.stdout);
    // A name that matches no test would pass as well.
    let found = output.status.success() && said.contains("1 passed");
    println!("{bug}: {}", if found { "found by its story (figure 8)" } else { "not found" });
    Ok(found)
}
