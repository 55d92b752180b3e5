//! `cargo xtask check`: everything that must be green before sharing, in the order that fails soonest.
//!
//! Each step is one child process whose command line is printed, so that a failing step can be run again by hand.
//! Only the test and the `sim` profile are built: release builds belong to releases.

use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::workspace::{self, cargo};
use crate::{arrows, essays, guide};

/// Options of `check`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Seeds of the short simulation; 0 skips it. From 200 on, a fault or state that was never reached fails it.
    #[arg(long, default_value_t = 200)]
    seeds: u64,
    /// Seeds of the simulation of clusters; as above.
    #[arg(long, default_value_t = 200)]
    clusters: u64,
}

/// Runs every step.
///
/// # Errors
/// The first step that fails.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let begin = Instant::now();
    arrows::check(&workspace::load()?)?;
    println!("arrows: every dependency points inward");
    println!("{}", essays::check()?);
    step("format", &["fmt", "--all", "--", "--check"])?;
    step("clippy", &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])?;
    tests()?;
    println!("── examples of the guide: cargo xtask guide");
    guide::run(&guide::Arguments::default())?;
    simulation("simulation", "run", arguments.seeds)?;
    simulation("simulation of clusters", "cluster", arguments.clusters)?;
    licences()?;
    println!("check: all green in {:.0} s", begin.elapsed().as_secs_f64());
    Ok(())
}

fn tests() -> Result<()> {
    if installed("nextest") {
        step("tests", &["nextest", "run", "--workspace", "--no-fail-fast"])?;
    } else {
        println!("cargo-nextest is not installed: cargo test runs the tests, a little slower");
        step("tests", &["test", "--workspace", "--lib", "--bins", "--tests", "--no-fail-fast"])?;
    }
    step("examples in the documentation", &["test", "--doc", "--workspace"])
}

/// Runs a few seeds of the simulator, in the profile that has release speed and assertions both.
fn simulation(name: &str, command: &str, seeds: u64) -> Result<()> {
    const BINARY: &str = "z4-sim";
    let has_binary = workspace::load()?.iter().any(|each| each.binaries.iter().any(|name| name == BINARY));
    if seeds == 0 || !has_binary {
        println!("{name}: skipped ({})", if seeds == 0 { "no seeds asked for" } else { "no z4-sim binary" });
        return Ok(());
    }
    let seeds = seeds.to_string();
    let run = ["run", "--profile", "sim", "--package", "z4-sim", "--bin", BINARY];
    step(name, &[run.as_slice(), &["--", command, "--seeds", &seeds]].concat())
}

fn licences() -> Result<()> {
    if !installed("deny") {
        println!("licences: SKIPPED, cargo-deny is not installed (deny.toml says what it would check)");
        return Ok(());
    }
    step("licences", &["deny", "--offline", "check", "licenses", "bans", "sources"])
}

/// Returns whether cargo has the subcommand.
fn installed(subcommand: &str) -> bool {
    let mut command = Command::new(cargo());
    command.args([subcommand, "--version"]).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn step(name: &str, arguments: &[&str]) -> Result<()> {
    let shown = format!("cargo {}", arguments.join(" "));
    println!("── {name}: {shown}");
    let begin = Instant::now();
    let mut command = Command::new(cargo());
    // `cargo run` tells us about its own package; the children must not take it for theirs.
    for (key, _) in
        std::env::vars().filter(|(key, _)| key.starts_with("CARGO_PKG_") || key == "CARGO_MANIFEST_DIR")
    {
        command.env_remove(key);
    }
    let status = command.args(arguments).current_dir(workspace::root()).status();
    let status = status.with_context(|| format!("{shown} does not start"))?;
    if !status.success() {
        bail!("{name} failed ({status}); run it again with: {shown}");
    }
    println!("── {name}: green in {:.0} s", begin.elapsed().as_secs_f64());
    Ok(())
}
