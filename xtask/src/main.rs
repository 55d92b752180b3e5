//! The project's own chores, in Rust: `cargo xtask check`, `arrows`, `essays`, `guide`, `crash`, `cluster`,
//! `bugs`.
//!
//! `check` is the one command that must be green before sharing; the others are its parts or its bigger sisters.
//! Everything here runs offline, with the Rust toolchain alone: tools that may be missing are skipped aloud.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod arrows;
mod bugs;
mod check;
mod cluster;
mod crash;
mod essays;
mod guide;
mod workspace;

/// The chores of the z4 workspace.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Format, clippy, tests, arrows, essays, a short simulation, licences: all that must be green.
    Check(check::Arguments),
    /// Fail if a crate depends against the arrows of the architecture.
    Arrows,
    /// Fail if a source file does not open with its essay, or has grown past 600 lines.
    Essays,
    /// Run the examples of docs/guide against a real server and compare what they print.
    Guide(guide::Arguments),
    /// Kill a real server at random moments under load and count what was lost.
    ///
    /// Example: cargo xtask crash --cycles 50
    Crash(crash::Arguments),
    /// Do what a user does with several hosts, in processes or containers, and check it.
    ///
    /// Example: cargo xtask cluster walk --hosts 5
    Cluster(cluster::Arguments),
    /// Count the seeds the simulator needs to find each planted bug.
    Bugs,
}

fn main() -> ExitCode {
    match run(Arguments::parse().chore) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The chain of causes, and no backtrace even where the environment asks for one: the reader of a failed
            // check wants its text.
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(chore: Chore) -> anyhow::Result<()> {
    match chore {
        Chore::Check(arguments) => check::run(&arguments),
        Chore::Arrows => {
            arrows::check(&workspace::load()?)?;
            println!("arrows: every dependency points inward");
            Ok(())
        }
        Chore::Essays => {
            println!("{}", essays::check()?);
            Ok(())
        }
        Chore::Guide(arguments) => guide::run(&arguments),
        Chore::Crash(arguments) => crash::run(&arguments),
        Chore::Cluster(arguments) => cluster::run(&arguments),
        Chore::Bugs => bugs::run(),
    }
}
