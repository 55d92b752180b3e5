//! A host with its threads.

use std::sync::Arc;
use std::time::Duration;

use z4_env::{Clock, Disk, RealClock, RealDisk, entropy};
use z4_multiraft::{Fault, FreeSpace, Input, NoNet, Runner, RunnerConfig};
use z4_registry::Command;
use z4_types::ShardId;

use crate::boot::boot;
use crate::budget::Budget;
use crate::config::Config;
use crate::error::{BootError, Error};
use crate::handle::Handle;
use crate::machine::{HostMachine, HostWrite};
use crate::registry_shard::RegistryChange;

/// Between two looks at a host that is not serving yet.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// A running host on the real disk and clock. Stop it with [`Host::stop`].
pub struct Host {
    handle: Handle,
    runner: Arc<Runner<HostMachine>>,
    clock: Arc<dyn Clock>,
    /// Given up last, when no thread touches the directories any more.
    _locks: Vec<Box<dyn z4_env::DirLock>>,
}

impl Host {
    /// Opens or forms the host and starts its threads. `ended` is called once, when the host has ended by itself or
    /// by [`Host::stop`].
    ///
    /// # Errors
    /// See [`BootError`].
    pub fn start(
        config: &Config,
        ended: impl FnOnce(&Result<(), Fault>) + Send + 'static,
    ) -> Result<Self, BootError> {
        let clock: Arc<dyn Clock> = Arc::new(RealClock::new());
        let disk = Arc::new(RealDisk);
        let io = |error| BootError::Io { path: "/dev/urandom".into(), error };
        let draw = u128::from_le_bytes(entropy().map_err(io)?);
        let started = clock.monotonic_ns();
        let boot = boot(config, disk.clone(), Arc::clone(&clock), draw)?;
        tracing::info!(
            host = %boot.identity.host,
            cluster = %boot.identity.cluster,
            replayed_entries = boot.replayed,
            ms = (clock.monotonic_ns() - started) / 1_000_000,
            "directories are open"
        );
        let (log_dir, base_dir) = (config.peer_dir.clone(), config.data_dir.clone());
        let runner_config = RunnerConfig {
            log_mode: config.log_mode,
            log_segments_max: config.sizes.log_segments_max,
            free_space: Box::new(move || {
                let (log, base) = (disk.free_bytes(&log_dir)?, disk.free_bytes(&base_dir)?);
                Ok(FreeSpace { log, base })
            }),
            net: Box::new(NoNet),
        };
        let runner = Runner::start(boot.driver, boot.wal, Arc::clone(&clock), runner_config, ended)
            .map_err(|error| BootError::Io { path: "threads".into(), error })?;
        let runner = Arc::new(runner);
        let handle = Handle::new(
            Arc::clone(&runner),
            boot.registry,
            boot.identity,
            boot.metrics,
            Budget::new(config.sizes.inbox_bytes),
            Arc::clone(&clock),
        );
        announce_address(&handle, &runner, config);
        Ok(Self { handle, runner, clock, _locks: boot.locks })
    }

    /// Returns what doors need.
    #[must_use]
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Waits until every shard on this host has a leader that has applied what the log holds; a host just started
    /// refuses calls with `NotLeader` before. Returns false if that takes longer than `patience`.
    #[must_use]
    pub fn wait_until_serving(&self, patience: Duration) -> bool {
        let (sender, answers) = std::sync::mpsc::channel();
        let until =
            self.clock.monotonic_ns().saturating_add(u64::try_from(patience.as_nanos()).unwrap_or(u64::MAX));
        loop {
            let left = Duration::from_nanos(until.saturating_sub(self.clock.monotonic_ns()));
            let reply = sender.clone();
            self.runner.status(move |groups| drop(reply.send(groups)));
            let Ok(groups) = answers.recv_timeout(left) else { return false };
            if groups.iter().all(|g| g.leading && g.applied == g.last) {
                return true;
            }
            if left.is_zero() {
                return false;
            }
            std::thread::park_timeout(LOOK_AGAIN);
        }
    }

    /// Takes no more calls, finishes what is under way, checkpoints, seals the log and ends the threads. Blocks.
    ///
    /// # Errors
    /// What ended the host, if it had ended before.
    pub fn stop(&self) -> Result<(), Fault> {
        self.handle.refuse_new_calls();
        self.runner.stop()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Handles may outlive the host; its threads and locks must not.
        if let Err(fault) = self.stop() {
            tracing::error!(%fault, "the host had ended by itself");
        }
    }
}

/// Tells the registry by which address this host is reached, if that changed since it was formed.
fn announce_address(handle: &Handle, runner: &Runner<HostMachine>, config: &Config) {
    let registry = handle.registry();
    let known = registry.host(&config.host);
    if known.map(|host| host.address.as_str()) != Some(config.advertise.as_str()) {
        let command = Command::SetAddress {
            host: config.host.clone(),
            address: config.advertise.clone(),
            service: known.map(|host| host.service.clone()).unwrap_or_default(),
        };
        let reply = Box::new(|answer: Result<(), Error>| {
            if let Err(error) = answer {
                tracing::warn!(%error, "the cluster was not told by which address this host is reached");
            }
        });
        let change = RegistryChange { command, reply };
        runner.send(Input::Write(ShardId(0), HostWrite::Registry(change)));
    }
}
