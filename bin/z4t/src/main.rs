//! `z4t`, the client tool of z4: flags in, one verb, data on stdout, talk on stderr, and an exit code.
//!
//! One verb, one file, in `verbs/`. Times, spans and tables are read and written in `time.rs` and `output.rs`; what
//! an error means for a script is decided in `failure.rs`, once.
//!
//! # Not here
//! - Retrying, following the leader, deadlines: `z4-client`.

mod args;
mod failure;
mod output;
mod schedules;
mod settings;
mod time;
mod verbs;

use std::process::ExitCode;

use clap::Parser as _;

use crate::args::Cli;
use crate::failure::Failure;

fn main() -> ExitCode {
    let cli = match Cli::try_parse_from(args::with_long_id(std::env::args_os())) {
        Ok(cli) => cli,
        Err(message) => {
            // A closed pipe is no reason to complain; help goes to stdout with 0, complaints to stderr with 2.
            let _ = message.print();
            return ExitCode::from(u8::try_from(message.exit_code()).unwrap_or(2));
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = match runtime {
        Ok(runtime) => {
            let result = runtime.block_on(verbs::run(cli));
            // Not dropped, which would wait for a thread that writes to a reader that does not read.
            runtime.shutdown_background();
            result
        }
        Err(error) => Err(Failure::Failed(format!("cannot start: {error}"))),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
