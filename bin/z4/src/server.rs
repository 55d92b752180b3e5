//! `z4 server`: one host, from its configuration to its end.
//!
//! Ports are bound before data is touched: a second server started by mistake fails on the port, not on the lock. Then
//! the host starts, then the doors open. A signal ends it in the opposite order: other hosts take over what it leads,
//! consumers are told, calls under way are answered, the host checkpoints and seals its log.
//!
//! A host that belongs to no cluster starts, too: it says in the log what it waits for, and refuses calls until then.
//!
//! Exit codes: 0 stopped by a signal, 1 could not start, 2 wrong configuration, 3 the host ended by itself.
//!
//! # Caveats
//! - The SQL port is configured but not bound: nothing serves it yet.

mod limits;
mod logs;
mod run;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;

use crate::config::{Error, Flags, Resolved, Settings, parse_file, resolve};
use crate::say::say;

/// The configuration is wrong.
const USAGE: u8 = 2;

/// Options of `server`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  z4 server --peer-id a --bootstrap-cluster          a new cluster of one host, data in ./z4data and ./z4peer
  z4 server --peer-id b --join host-a:6356           one more host of the cluster of which host-a is a member
  z4 server --peer-id a --initial-peers a=host-a:6356,b=host-b:6356,c=host-c:6356
                                                     three hosts that form a cluster, each with its own --peer-id
  Z4_PEER_ID=a z4 server -c z4.toml                  settings from a file, lower-case names: service_port = 6355
  z4 server --peer-id a --check-config               what would be in force, and from where
  z4 server --peer-id a --service-port 0 --print-ports

A flag beats an environment variable beats the file beats the default. SIGTERM or SIGINT stops the server in good
order within ten seconds, a second one at once.

Exit code: 0 stopped by a signal, 1 could not start, 2 wrong configuration, 3 ended by itself, see the log.")]
pub(crate) struct Arguments {
    /// Configuration file: TOML, or JSON if its name ends in .json. Example: -c /etc/z4.toml
    #[arg(short = 'c', long = "config", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print the configuration in force as JSON, each setting with its source, and exit
    #[arg(long)]
    check_config: bool,
    /// Print the ports as one line of JSON on stdout once they are bound
    #[arg(long)]
    print_ports: bool,
    #[command(flatten)]
    flags: Flags,
}

/// Runs the server until it is stopped or ends by itself.
///
/// # Errors
/// If it could not start: one line with the remedy.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let loaded =
        load(arguments).and_then(|resolved| Settings::new(&resolved).map(|settings| (resolved, settings)));
    let (resolved, settings) = match loaded {
        Ok(loaded) => loaded,
        Err(error) => {
            eprintln!("z4 server: {error}");
            return Ok(ExitCode::from(USAGE));
        }
    };
    if arguments.check_config {
        say!("{:#}", resolved.to_json());
        return Ok(ExitCode::SUCCESS);
    }
    logs::start(settings.debug);
    limits::raise_open_files();
    run::serve(settings, arguments.print_ports)
}

fn load(arguments: &Arguments) -> Result<Resolved, Error> {
    // Names and values that are no text cannot be ours.
    let environment: BTreeMap<String, String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let Some(path) = &arguments.config else { return resolve(&arguments.flags.0, &environment, None) };
    let shown = path.display().to_string();
    let text = std::fs::read_to_string(path)
        .map_err(|error| Error::File { path: shown.clone(), problem: format!("cannot be read: {error}") })?;
    let table = parse_file(&shown, &text)?;
    resolve(&arguments.flags.0, &environment, Some((&shown, &table)))
}
