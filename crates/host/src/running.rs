//! A host with its threads.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use z4_env::{Clock, Disk, Net, RealClock, RealDisk, entropy};
use z4_multiraft::{Driver, Fault, FreeSpace, Input, NoNet, Runner, RunnerConfig};
use z4_registry::Command;
use z4_transport::Transport;
use z4_types::ShardId;

use crate::boot::{Absent, boot_as};
use crate::budget::Budget;
use crate::cluster::{Answers, Cluster, Parts};
use crate::config::Config;
use crate::error::{BootError, Error};
use crate::handle::Handle;
use crate::machine::{HostMachine, HostWrite};
use crate::registry_shard::RegistryChange;

/// Between two looks at a host that is not serving yet.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// How a host reaches others and is reached.
pub struct Network {
    /// Where its sockets are served. It outlives the host.
    pub runtime: tokio::runtime::Handle,
    /// The peer port.
    pub listener: TcpListener,
}

/// A running host on the real disk and clock. Stop it with [`Host::stop`].
pub struct Host {
    handle: Handle,
    runner: Arc<Runner<HostMachine>>,
    clock: Arc<dyn Clock>,
    /// None without a peer port; with the task that keeps it going.
    cluster: Option<(Arc<Cluster>, tokio::task::AbortHandle)>,
    /// Given up last, when no thread touches the directories any more.
    _locks: Vec<Box<dyn z4_env::DirLock>>,
}

impl Host {
    /// Opens or forms a host without others and starts its threads. `ended` is called once, when the host has ended by
    /// itself or by [`Host::stop`].
    ///
    /// # Errors
    /// See [`BootError`].
    pub fn start(
        config: &Config,
        ended: impl FnOnce(&Result<(), Fault>) + Send + 'static,
    ) -> Result<Self, BootError> {
        let host = Self::run(config, None, Arc::new(RealClock::new()), ended)?;
        announce_address(&host.handle, &host.runner, config);
        Ok(host)
    }

    /// Opens or forms a host that speaks with others and starts its threads. One that belongs to no cluster starts, too:
    /// it forms one with its initial peers, joins one, or waits to be added.
    ///
    /// # Errors
    /// See [`BootError`].
    pub fn start_with(
        config: &Config,
        network: Network,
        ended: impl FnOnce(&Result<(), Fault>) + Send + 'static,
    ) -> Result<Self, BootError> {
        Self::run(config, Some(network), Arc::new(RealClock::new()), ended)
    }

    /// Is [`Host::start`] or [`Host::start_with`], by `clock`: tests give one that is wrong.
    pub(crate) fn run(
        config: &Config,
        network: Option<Network>,
        clock: Arc<dyn Clock>,
        ended: impl FnOnce(&Result<(), Fault>) + Send + 'static,
    ) -> Result<Self, BootError> {
        let disk = Arc::new(RealDisk);
        let io = |error| BootError::Io { path: "/dev/urandom".into(), error };
        let draw = u128::from_le_bytes(entropy().map_err(io)?);
        let founding = if config.initial_peers.is_empty() { None } else { Some(config.founding()?) };
        let started = clock.monotonic_ns();
        let absent = if network.is_some() { Absent::Wait } else { Absent::Form };
        let boot = boot_as(config, disk.clone(), Arc::clone(&clock), draw, absent)?;
        tracing::info!(
            host = %boot.identity.host,
            cluster = %boot.identity.cluster,
            replayed_entries = boot.replayed,
            ms = (clock.monotonic_ns() - started) / 1_000_000,
            "directories are open"
        );
        let answers = Arc::new(Answers::default());
        let mut net: Box<dyn Net> = Box::new(NoNet);
        let mut connected = None;
        if let Some(Network { runtime, listener }) = network {
            let mut speaks = z4_transport::Config::new(
                z4_transport::Identity {
                    cluster: boot.identity.cluster,
                    cluster_name: config.cluster_name.clone(),
                    host: config.host.clone(),
                    instance: boot.identity.instance,
                    address: config.advertise.clone(),
                },
                draw as u64,
            );
            speaks.clock = Arc::clone(&clock);
            if let Some(founding) = founding {
                speaks.set_cluster(founding.cluster);
            }
            let _inside = runtime.enter();
            let handler = Arc::clone(&answers) as Arc<dyn z4_transport::Handler>;
            let transport = Transport::start(speaks.clone(), listener, handler)?;
            net = Box::new(transport.port());
            connected = Some((runtime, transport, speaks));
        }
        let (log_dir, base_dir) = (config.peer_dir.clone(), config.data_dir.clone());
        let disks = Arc::clone(&disk);
        let runner_config = RunnerConfig {
            log_mode: config.log_mode,
            log_segments_max: config.sizes.log_segments_max,
            free_space: Box::new(move || {
                let (log, base) = (disks.free_bytes(&log_dir)?, disks.free_bytes(&base_dir)?);
                Ok(FreeSpace { log, base })
            }),
            net,
        };
        let runner = Runner::start(boot.driver, boot.wal, Arc::clone(&clock), runner_config, ended)
            .map_err(|error| BootError::Io { path: "threads".into(), error })?;
        let runner = Arc::new(runner);
        let cluster = connected.map(|(runtime, transport, speaks)| {
            let cluster = Arc::new(Cluster::new(Parts {
                config: config.clone(),
                identity: boot.identity.clone(),
                runner: Arc::clone(&runner),
                opener: boot.opener,
                seats: boot.seats,
                disk,
                clock: Arc::clone(&clock),
                transport,
                speaks,
            }));
            answers.attach(&cluster);
            let living = runtime.spawn(Cluster::live(Arc::downgrade(&cluster)));
            (cluster, living.abort_handle())
        });
        let handle = Handle::new(
            Arc::clone(&runner),
            boot.registry,
            boot.identity,
            boot.metrics,
            Budget::new(config.sizes.inbox_bytes),
            Arc::clone(&clock),
            cluster.as_ref().map(|(cluster, _)| Arc::clone(cluster)),
        );
        Ok(Self { handle, runner, clock, cluster, _locks: boot.locks })
    }

    /// Returns what doors need.
    #[must_use]
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Waits until this host belongs to a cluster, every shard on it has a leader, and those it leads have applied what the
    /// log holds; a host just started refuses calls before. Returns false if that takes longer than `patience`.
    #[must_use]
    pub fn wait_until_serving(&self, patience: Duration) -> bool {
        let is_serving = |driver: &mut Driver<HostMachine>| {
            let groups = driver.status();
            groups.iter().all(|g| if g.leading { g.applied == g.last } else { g.leader > 0 })
                && !groups.is_empty()
        };
        self.wait_until(patience, is_serving)
    }

    /// Hands the leadership of every shard over to other hosts, as far as there are any that can take it, so that a stop
    /// interrupts nobody. Gives up after `patience`. Blocks.
    pub fn hand_over(&self, patience: Duration) {
        if !self.wait_until(patience, |driver| driver.hand_over() == 0) {
            tracing::warn!(
                "not every shard could be handed over; its next leader is elected when this host is gone"
            );
        }
    }

    fn wait_until(
        &self,
        patience: Duration,
        holds: impl Fn(&mut Driver<HostMachine>) -> bool + Clone + Send + 'static,
    ) -> bool {
        let (sender, answers) = std::sync::mpsc::channel();
        let until =
            self.clock.monotonic_ns().saturating_add(u64::try_from(patience.as_nanos()).unwrap_or(u64::MAX));
        loop {
            let left = Duration::from_nanos(until.saturating_sub(self.clock.monotonic_ns()));
            let (reply, holds) = (sender.clone(), holds.clone());
            self.runner.look(move |driver| {
                let _ = reply.send(holds(driver));
            });
            match answers.recv_timeout(left) {
                Ok(true) => return true,
                Ok(false) if !left.is_zero() => std::thread::park_timeout(LOOK_AGAIN),
                _ => return false,
            }
        }
    }

    /// Takes no more calls, finishes what is under way, checkpoints, seals the log and ends the threads. Blocks.
    ///
    /// # Errors
    /// What ended the host, if it had ended before.
    pub fn stop(&self) -> Result<(), Fault> {
        self.handle.refuse_new_calls();
        let stopped = self.runner.stop();
        if let Some((cluster, living)) = &self.cluster {
            cluster.stop();
            living.abort();
        }
        stopped
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
