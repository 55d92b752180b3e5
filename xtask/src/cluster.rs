//! `cargo xtask cluster`: what a user does with several hosts, done by real processes or containers, and checked.
//!
//! * `walk`: form a cluster by hand, lose a host, go on, get it back; every task comes out exactly once.
//! * `starts`: hosts that form a cluster together, in any order, again and again.
//!
//! Hosts are reached as a user reaches them: by `z4t`.
//!
//! # Not here
//! - Leaders that are killed or stopped under load: `z4 demo --kills 20`, and `--gracefully`.
//! - Faults of disk and network: the simulator.

use std::path::PathBuf;

use anyhow::Result;

use crate::crash::server;

mod containers;
mod fleet;
mod processes;
mod starts;
mod tool;
mod walk;

/// Options of `cluster`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    what: What,
    /// A folder with `z4` and `z4t` to use instead of building them.
    #[arg(long, global = true, value_name = "DIR")]
    binaries: Option<PathBuf>,
}

#[derive(clap::Subcommand)]
enum What {
    /// The walk-through of a new user. Example: cargo xtask cluster walk --hosts 5
    Walk {
        /// Hosts of the cluster: 3 or 5.
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(3..=5))]
        hosts: u64,
        /// Use the containers of `make compose_up` (three hosts), which must not be running.
        #[arg(long)]
        containers: bool,
    },
    /// Fresh starts with Z4_INITIAL_PEERS. Example: cargo xtask cluster starts --times 50
    Starts {
        /// How many.
        #[arg(long, default_value_t = 10)]
        times: u32,
        /// Seed of orders and delays; random if missing.
        #[arg(long)]
        seed: Option<u64>,
    },
}

/// Runs one of them.
///
/// # Errors
/// A broken promise, or hosts that do not start or serve.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let folder = match &arguments.binaries {
        Some(folder) => folder.clone(),
        None => {
            server::build("z4t", "release")?;
            let binary = server::build("z4", "release")?;
            binary.parent().map(PathBuf::from).unwrap_or_default()
        }
    };
    match arguments.what {
        What::Walk { containers: true, .. } => walk::run(&mut containers::Containers::up(&folder)?),
        What::Walk { hosts, .. } => walk::run(&mut processes::Processes::new(
            &folder,
            usize::try_from(hosts)?,
            processes::Forming::ByHand,
        )?),
        What::Starts { times, seed } => starts::run(&folder, times, seed),
    }
}
