//! One host of a cluster: its disk, clock and plug, which outlive it, and its present life.
//!
//! The node runs a life's shell as the runner's threads would, each with its own chance to be on time, and does the
//! errands of the host's controller. It decides nothing: the world says when, and judges what comes of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use z4_env::{Clock, Disk, Rng, SeededRng};
use z4_host::{
    Announcement, BootError, Config, Controller, Errand, HostWrite, Identity, RegistryChange, Reply, boot,
};
use z4_multiraft::{Fault, GroupStatus, Input};
use z4_registry::{Command, Registry};
use z4_types::{HostId, Index, Kind, Millis, ShardId, Term};

use super::consensus::DiskId;
use super::letters::{Letter, Letters};
use super::swarm::Swarm;
use crate::checks::Digests;
use crate::clock::SimClock;
use crate::disk::{Counters, SimDisk};
use crate::faults;
use crate::net::SimNet;
use crate::report::Reached;
use crate::shell::{Shell, Step};

/// Between two looks of the controller, nanoseconds of the host's own clock.
const CONTROL_NS: u64 = 100_000_000;

/// What the directories of a host are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Directories {
    /// None: it was never switched on.
    Absent,
    /// Of a host that forms the cluster together with others, with its first start.
    Formed,
    /// Empty: it asks to join.
    Empty,
    /// Of a host that joined.
    Joined,
}

/// A stop that was asked for.
#[derive(Debug, Clone, Copy)]
pub struct Stop {
    /// True time, nanoseconds, until which leadership is handed over.
    pub until: u64,
    /// It led something then.
    pub led: bool,
}

/// See the module essay.
pub struct Node {
    /// Its number.
    pub at: usize,
    /// Its name.
    pub name: HostId,
    /// Survives it, unless it is lost.
    pub disk: SimDisk,
    /// The how manyth disk of this host that is.
    pub disks: u64,
    /// What disks that were lost have seen.
    pub lost: Counters,
    /// What is on the disk.
    pub directories: Directories,
    /// The number its directories have drawn, 0 while they have none.
    pub instance: u64,
    /// What a batch of seeds has reached when it joins.
    pub joins_as: &'static str,
    /// True time, nanoseconds, at which it asks again.
    pub ask_at: u64,
    /// It is to stop.
    pub stop: Option<Stop>,
    /// Until then clients do not reach it, nor it them.
    pub cut_off_until: u64,
    /// Its own.
    pub clock: SimClock,
    /// How much faster than true time its clocks run, ppm.
    pub rate_ppm: i64,
    /// None while it is down.
    pub shell: Option<Shell>,
    /// What it says to clients, in this life.
    pub letters: Letters,
    /// Lives so far.
    pub lives: u64,
    /// True time, nanoseconds, until which it stands still.
    pub paused_until: u64,
    /// Until which its disk does.
    pub slow_until: u64,
    /// At which it is started again.
    pub down_until: u64,
    /// The entry applied last of each group, as its letters tell.
    pub placed: BTreeMap<ShardId, Index>,
    pub(super) config: Config,
    controller: Option<Controller>,
    controlled_ns: u64,
    /// What its controller wants the registry to hear.
    pub commands: Vec<Command>,
    rng: SeededRng,
    /// Errors of the disk when this life began: all, and those other than a full disk.
    errors_before: (u64, u64),
}

impl Node {
    /// Returns a host that was never started.
    #[must_use]
    pub fn new(swarm: &Swarm, at: usize, rng: &SeededRng) -> Self {
        let rng = rng.fork(100 + at as u64);
        Self {
            at,
            name: Swarm::host(at),
            disk: SimDisk::new(rng.fork(1).next_u64()),
            disks: 0,
            lost: Counters::default(),
            directories: if at < swarm.hosts { Directories::Formed } else { Directories::Absent },
            instance: 0,
            joins_as: "host joined",
            ask_at: 0,
            stop: None,
            cut_off_until: 0,
            clock: SimClock::new(),
            rate_ppm: 0,
            shell: None,
            letters: Letters::default(),
            lives: 0,
            paused_until: 0,
            slow_until: 0,
            down_until: 0,
            placed: BTreeMap::new(),
            config: swarm.config(at),
            controller: None,
            controlled_ns: 0,
            commands: Vec::new(),
            rng: rng.fork(2),
            errors_before: (0, 0),
        }
    }

    /// Lets `ns` nanoseconds of true time pass.
    pub fn step_clock(&self, ns: u64) {
        let own = i128::from(ns) * i128::from(1_000_000 + self.rate_ppm) / 1_000_000;
        self.clock.step(u64::try_from(own).expect("clocks do not go back"));
    }

    /// Starts it. Shard time has not passed `latest` anywhere.
    ///
    /// # Errors
    /// As `z4_host::boot`.
    pub fn start(
        &mut self,
        swarm: &Swarm,
        net: &SimNet,
        digests: &Digests,
        latest: Millis,
    ) -> Result<(), BootError> {
        let counters = self.disk.counters();
        self.errors_before = (faults::errors(&counters), faults::eios(&counters));
        let booted = (self.clock.monotonic_ns(), self.clock.wall());
        let draw = u128::from(swarm.seed) << 64 | 1;
        let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
        let mut boot = boot(&self.config, disk, Arc::new(self.clock.clone()), draw)?;
        self.instance = boot.identity.instance;
        self.stop = None;
        self.letters = Letters::default();
        let mut compare = digests.watch(true);
        let letters = self.letters.clone();
        boot.driver.watch_digests(Box::new(move |shard, entry, digest| {
            compare(shard, entry, digest);
            letters.put(Letter::Applied(shard, entry.index));
        }));
        self.controller = Some(Controller::new(self.announcement(&boot.identity)));
        self.controlled_ns = 0;
        self.commands.clear();
        self.placed = boot.driver.status().iter().map(|group| (group.shard, group.applied)).collect();
        let (disk, clock) = (&self.disk, &self.clock);
        let mut shell = Shell::around(boot, &swarm.sizes, &self.config, disk, clock, booted, latest);
        shell.connect(net.port_of(self.name.clone(), self.instance));
        self.shell = Some(shell);
        self.lives += 1;
        Ok(())
    }

    fn announcement(&self, identity: &Identity) -> Announcement {
        Announcement {
            host: self.name.clone(),
            instance: identity.instance,
            address: self.config.advertise.clone(),
            service: self.config.service.clone(),
        }
    }

    /// Puts an empty disk in the place of the one it had. It must be down.
    pub fn lose_disk(&mut self, seed: u64) {
        assert!(!self.is_up(), "a running host holds its disk");
        self.lost.add(&self.disk.counters());
        self.disk = SimDisk::new(seed);
    }

    /// Returns the present disk's name.
    #[must_use]
    pub fn disk_id(&self) -> DiskId {
        (self.at, self.disks)
    }

    /// Returns whether its directories can be started from, or make themselves.
    #[must_use]
    pub fn may_start(&self) -> bool {
        matches!(self.directories, Directories::Formed | Directories::Joined)
    }

    /// Returns whether it runs.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.shell.is_some()
    }

    /// Returns whether the disk failed in this life, a full disk aside.
    #[must_use]
    pub fn has_eio(&self) -> bool {
        faults::eios(&self.disk.counters()) > self.errors_before.1
    }

    /// Returns whether the disk failed or was full in this life.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        faults::errors(&self.disk.counters()) > self.errors_before.0
    }

    /// Lets its threads run for a moment, as far as they are on time: `runs` are the chances in hundred of the driver's
    /// and of each thread that waits for the disk. Returns whether its groups may have changed.
    ///
    /// # Errors
    /// What ends the host.
    pub fn run(&mut self, runs: (u64, u64), slow: bool, reached: &mut Reached) -> Result<bool, Fault> {
        let Some(shell) = self.shell.as_mut() else { return Ok(false) };
        let mut ran = false;
        if !slow {
            if shell.snapshot_works() > 0 && self.rng.chance(runs.1, 100) {
                ran = true;
                let before: BTreeMap<ShardId, Index> =
                    shell.driver.status().iter().map(|group| (group.shard, group.applied)).collect();
                if let Some(shard) = shell.snapshot_step()? {
                    reached.reach("snapshot installed");
                    if before.get(&shard).is_some_and(|applied| applied.0 > 0) {
                        reached.reach("log cut below a follower");
                    }
                }
            }
            if shell.is_checkpointing() && self.rng.chance(runs.1, 100) {
                ran = true;
                if shell.checkpoint_step()? == Step::Full {
                    reached.reach("full disk failed a checkpoint");
                }
            }
            if shell.stage().is_some() {
                for _ in 0..3 {
                    if !self.rng.chance(runs.1, 100) {
                        break;
                    }
                    ran = true;
                    if shell.log_step()? == Step::Full {
                        reached.reach("full disk held a batch");
                        break;
                    }
                }
            }
        }
        if shell.driver.idle_ns() == 0 && self.rng.chance(runs.0, 100) {
            ran = true;
            shell.pass()?;
        }
        let now = self.clock.monotonic_ns();
        if now >= self.controlled_ns {
            self.controlled_ns = now + CONTROL_NS;
            ran = true;
            self.control(reached)?;
        }
        Ok(ran)
    }

    fn control(&mut self, reached: &mut Reached) -> Result<(), Fault> {
        let (Some(shell), Some(controller)) = (self.shell.as_mut(), self.controller.as_mut()) else {
            return Ok(());
        };
        let registry = shell.registry();
        let errands = controller.pass(&mut shell.driver, &registry, &shell.seats);
        self.commands.clear();
        for errand in errands {
            let done = match errand {
                Errand::Create(shard, replica) => {
                    self.placed.remove(&shard);
                    shell.create(shard, replica).map(|()| reached.reach("replica created"))
                }
                Errand::Bury(shard, _) => shell.bury(shard).map(|()| reached.reach("replica buried")),
                Errand::Command(command) => {
                    self.commands.push(command);
                    Ok(())
                }
            };
            match done {
                Err(fault) if fault.kind == Kind::Overloaded => {}
                other => other?,
            }
        }
        Ok(())
    }

    /// Returns its groups, and the terms of the entries they applied last.
    pub fn groups(&mut self) -> (Vec<GroupStatus>, Vec<Term>) {
        let Some(shell) = self.shell.as_mut() else { return Default::default() };
        let groups = shell.driver.status();
        let mut terms = Vec::with_capacity(groups.len());
        shell.driver.for_each(|_, _, store| terms.push(store.meta().term));
        (groups, terms)
    }

    /// Returns the registry it knows.
    #[must_use]
    pub fn registry(&self) -> Option<Arc<Registry>> {
        self.shell.as_ref().map(Shell::registry)
    }

    /// Returns whether it leads `shard`.
    #[must_use]
    pub fn leads(&self, shard: ShardId) -> bool {
        let leader = self.shell.as_ref().and_then(|shell| shell.driver.leaders().of(shard));
        leader.is_some_and(|leader| leader.here)
    }

    /// Gives it a command for the registry; what becomes of it shows there.
    pub fn change(&mut self, command: Command) {
        self.ask(command, Box::new(|_| ()));
    }

    /// Gives it a command for the registry, and takes its answer.
    pub fn ask(&mut self, command: Command, reply: Reply<()>) {
        if let Some(shell) = self.shell.as_mut() {
            let change = RegistryChange { command, reply };
            shell.driver.input(Input::Write(ShardId(0), HostWrite::Registry(change)));
        }
    }
}
