//! z4, the program: flags, configuration, wiring; no logic.
//!
//! One verb, one file with its `Arguments` and `run`; this is the dispatch.

mod bench;
mod child;
mod cluster;
mod config;
mod demo;
mod say;
mod server;

use std::io::Write as _;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

/// A distributed database for tasks: on a majority of disks before you hear OK, delivered on time.
#[derive(Debug, Parser)]
#[command(name = "z4", version, arg_required_else_help = true, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run one host
    Server(server::Arguments),
    /// Watch a server lose nothing: push, consume, kill -9 half-way, count
    Demo(demo::Arguments),
    /// Measure the machine's ceilings, then z4 against them
    Bench(bench::Arguments),
    /// Print the completion script of a shell; for example: z4 completions bash > /etc/bash_completion.d/z4
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

fn main() -> ExitCode {
    let Cli { verb } = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(message) => {
            // A closed pipe is no reason to complain; help goes to stdout with 0, complaints to stderr with 2.
            let _ = message.print();
            return ExitCode::from(u8::try_from(message.exit_code()).unwrap_or(2));
        }
    };
    let (name, result) = match verb {
        Verb::Server(arguments) => ("server", server::run(&arguments)),
        Verb::Demo(arguments) => ("demo", demo::run(&arguments)),
        Verb::Bench(arguments) => ("bench", bench::run(&arguments)),
        Verb::Completions { shell } => ("completions", completions(shell)),
    };
    result.unwrap_or_else(|error| {
        eprintln!("z4 {name}: {error:#}");
        ExitCode::FAILURE
    })
}

fn completions(shell: clap_complete::Shell) -> anyhow::Result<ExitCode> {
    // Into memory first: the generator panics when its output is closed.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "z4", &mut script);
    // A reader that left early has what it wanted.
    let _ = std::io::stdout().write_all(&script);
    Ok(ExitCode::SUCCESS)
}
