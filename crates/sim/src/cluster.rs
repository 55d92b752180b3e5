//! One seed, one cluster: hosts with disks and clocks of their own, a network, clients, and everything that happens to them.
//!
//! The world moves in small steps of time. In each, frames arrive, every host's threads run or are late, clients call,
//! and now and then something goes wrong. Hosts are the same code as in the world of one host (`shell.rs`), opened by
//! `z4_host::boot` from their initial peers, and led by `z4_host::Controller`.
//!
//! ```text
//! seed ──> Swarm ──> World ──step──> Node × 1…7 (Shell, Controller) ──frames──> SimNet ──> Node
//!                      │               ├──records, groups──> Consensus (C1…C10)
//!                      │               └──letters, with places in the log──> Clients, History ──> Model: fits, or Violation
//!                      ├──faults──> SimNet, SimDisk, SimClock, the registry
//!                      └──turns──> hosts join, lose their disks, are removed, added again, stop
//! ```
//!
//! A seed draws its *turns*, what becomes of hosts, from a stream of their own; two in five have none.
//!
//! Phases: faults → heal → everything converges in bounded time → all is asked again → drain → loss of power of all hosts
//! → convergence → scan → judgement.
//!
//! # Invariants
//! - A start may fail only if something was done to it; so may a running host end only then.
//! # Not here
//! - What stands between sockets in the real host: how a host finds a cluster to join (`joining.rs` says what is done
//!   instead), and calls forwarded from host to host: clients go to the leader themselves.
//! - Damaged disks: the world of one host tries those.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use xxhash_rust::xxh3::Xxh3;
use z4_env::{Clock, Rng, SeededRng};
use z4_multiraft::{Fault, GroupStatus};
use z4_registry::{Refusal, Registry};
use z4_tasks::QueueStats;
use z4_types::{Kind, Millis, ShardId};

use crate::checks::{Checked, Digests, Violation, check_machines, ensure};
use crate::clock::SimClock;
use crate::disk::Faults as DiskFaults;
use crate::faults as disk_faults;
use crate::lively::Lively;
use crate::net::SimNet;
use crate::report::Reached;

mod calm;
pub mod clients;
pub mod consensus;
mod faults;
pub mod history;
mod hosts;
mod joining;
pub mod letters;
mod lively;
mod losses;
mod mail;
pub mod node;
mod report;
pub mod swarm;

use clients::{Clients, Scene};
use consensus::Consensus;
use history::History;
use joining::Answers;
use node::Node;

pub use report::{Outcome, REACHED, Totals};
pub use swarm::Swarm;

/// Walking all rows of a host, once in so many steps of it.
const CHECK_EVERY: u64 = 200;
/// How fast shard time may run: a clock that runs as wrong as it may, slewed by a twentieth.
const SHARD_TIME_PPM: u128 = 1_000_000 * 126 / 100;
/// A start is spoilt once in so many while things go wrong.
const SPOIL_EVERY: u64 = 8;

/// See the module essay.
pub struct World {
    swarm: Swarm,
    rng: SeededRng,
    /// Of all that has to do with turns.
    dice: SeededRng,
    /// What the registry said of turns.
    answers: Answers,
    time: SimClock,
    net: SimNet,
    nodes: Vec<Node>,
    clients: Clients,
    history: History,
    lively: Lively,
    consensus: Consensus,
    digests: Digests,
    reached: Reached,
    hash: Xxh3,
    trace: bool,
    /// True time at which cuts are mended.
    mend_at: u64,
    /// Shard time has not passed this anywhere.
    latest: Millis,
    /// The same, nanoseconds.
    latest_ns: u128,
    healed: bool,
    /// All that is left is being counted: answers so far.
    scanning: bool,
    scanned: usize,
    counted: BTreeMap<ShardId, QueueStats>,
    /// What the trace has said of each group.
    shown: BTreeMap<(usize, ShardId), String>,
    tasks: u64,
    /// How long convergence took, milliseconds.
    converged_ms: u64,
}

/// Runs a seed. `trace` prints what happens.
#[must_use]
pub fn run(seed: u64, trace: bool) -> Outcome {
    let mut world = World::new(Swarm::draw(seed), trace);
    let lived = world.live();
    world.clients.end(&mut world.history);
    let judged = world.history.judge(&mut world.reached);
    // What clients were told says more than that something never ended.
    let violation = match (lived, judged) {
        (Err(lived), Err(judged)) if lived.promise == "LIVE" => Some(judged),
        (Err(lived), _) => Some(lived),
        (Ok(()), Err(judged)) => Some(judged),
        (Ok(()), Ok(tasks)) => {
            world.tasks = tasks;
            None
        }
    };
    world.finish(violation)
}

impl World {
    fn new(swarm: Swarm, trace: bool) -> Self {
        let rng = SeededRng::new(swarm.seed);
        let time = SimClock::new();
        let net = SimNet::new(rng.fork(12).next_u64(), &time);
        net.set_links(swarm.links.clone());
        let founding: Registry = swarm.config(0).founding().expect("the drawn peers can form a cluster");
        let clients = Clients::new(&swarm, rng.fork(13), |queue| founding.shard_of(queue));
        let digests = Digests::default();
        let mut lively = Lively::new(swarm.seed, &swarm.work, &digests.tap);
        lively.place(|queue| founding.shard_of(queue));
        let hosts = swarm.hosts + swarm.turns.more;
        let nodes: Vec<Node> = (0..hosts).map(|at| Node::new(&swarm, at, &rng)).collect();
        for node in &nodes {
            node.disk.set_faults(DiskFaults { writeback_ppm: 20_000, ..DiskFaults::default() });
        }
        Self {
            latest: time.wall(),
            latest_ns: u128::from(time.wall().0) * 1_000_000,
            rng: rng.fork(14),
            dice: rng.fork(15),
            answers: Answers::default(),
            swarm,
            time,
            net,
            nodes,
            clients,
            history: History::default(),
            lively,
            consensus: Consensus::default(),
            digests,
            reached: Reached::default(),
            hash: Xxh3::new(),
            trace,
            mend_at: 0,
            healed: false,
            scanning: false,
            scanned: 0,
            counted: BTreeMap::new(),
            shown: BTreeMap::new(),
            tasks: 0,
            converged_ms: 0,
        }
    }

    fn finish(mut self, violation: Option<Violation>) -> Outcome {
        let mut disk = crate::disk::Counters::default();
        for node in &mut self.nodes {
            drop(node.shell.take());
            self.hash.update(&node.disk.digest().to_le_bytes());
            disk.add(&node.disk.counters());
            disk.add(&node.lost);
        }
        if let Some(violation) = &violation {
            self.hash.update(violation.what.as_bytes());
        }
        let simulated_ms = self.now() / 1_000_000;
        Outcome {
            seed: self.swarm.seed,
            digest: self.hash.digest(),
            violation,
            reached: self.reached,
            disk,
            net: self.net.counters(),
            simulated_ms,
            hosts: self.nodes.iter().filter(|node| node.lives > 0).count() as u64,
            calls: self.clients.calls + self.lively.counts().0,
            facts: self.history.facts_told + self.lively.counts().1,
            tasks: self.tasks + self.lively.counts().2,
            entries: (self.digests.entries(), self.digests.repeated()),
            boots: self.nodes.iter().map(|node| node.lives).sum(),
            converged_ms: self.converged_ms,
        }
    }

    /// Remembers `line` for the digest, and prints it if asked to.
    fn note(&mut self, line: std::fmt::Arguments<'_>) {
        let mut text = String::new();
        let _ = write!(text, "{line}");
        self.hash.update(text.as_bytes());
        if self.trace {
            println!("{:>12.3}  {text}", self.now() as f64 / 1e6);
        }
    }

    /// Returns true time, nanoseconds.
    fn now(&self) -> u64 {
        self.time.monotonic_ns()
    }

    fn live(&mut self) -> Checked {
        for _ in 0..self.swarm.steps {
            self.step()?;
            let Self { clients, nodes, history, reached, time, rng, swarm, .. } = self;
            let mut scene = Scene { nodes, history, reached, now: time.monotonic_ns() };
            for _ in 0..rng.below(swarm.calls_max + 1) {
                clients.act(&mut scene);
            }
            self.act_lively();
            if self.rng.chance(1, self.swarm.fault_every) {
                let fault = swarm::choose(&mut self.rng, &self.swarm.faults.clone());
                self.strike(fault)?;
            }
            self.take_turn()?;
        }
        self.end()
    }

    /// Lets a moment pass: frames arrive, hosts run, calls are given up.
    fn step(&mut self) -> Checked {
        let ns = 1 + self.rng.below(self.swarm.step_ms * 1_000_000);
        self.pass_time(ns);
        let now = self.now();
        if self.mend_at > 0 && now >= self.mend_at {
            self.note(format_args!("mended"));
            self.net.heal();
            self.mend_at = 0;
        }
        self.move_on()?;
        let patience = self.swarm.patience_ms * 1_000_000;
        let now = self.now();
        self.clients.give_up(&mut self.history, now, patience, &mut self.reached);
        Ok(())
    }

    fn pass_time(&mut self, ns: u64) {
        self.time.step(ns);
        self.nodes.iter().for_each(|node| node.step_clock(ns));
        self.latest_ns += u128::from(ns) * SHARD_TIME_PPM / 1_000_000 + 1;
        self.latest = Millis(u64::try_from(self.latest_ns / 1_000_000).expect("some centuries") + 2);
    }

    /// Starts hosts, delivers frames, runs everybody once.
    fn move_on(&mut self) -> Checked {
        let now = self.now();
        for at in 0..self.nodes.len() {
            let node = &self.nodes[at];
            if !node.is_up() && node.may_start() && now >= node.down_until {
                self.start(at)?;
            }
        }
        self.let_join()?;
        while let Some(delivery) = self.net.deliver() {
            let at = self.node_of(&delivery.to);
            let paused = now < self.nodes[at].paused_until;
            if !self.is_admitted(at, &delivery) {
                self.reached.reach("frame refused");
                continue;
            }
            let Some(shell) = self.nodes[at].shell.as_mut().filter(|_| !paused) else { continue };
            let result = shell.receive(&delivery.from, delivery.frame.body);
            if result.is_err() {
                self.after(at, result)?;
            }
        }
        let first = self.rng.below(self.nodes.len() as u64) as usize;
        let runs = if self.healed { (100, 100) } else { self.swarm.runs };
        for n in 0..self.nodes.len() {
            let at = (first + n) % self.nodes.len();
            let node = &mut self.nodes[at];
            if !node.is_up() || now < node.paused_until {
                continue;
            }
            let slow = now < node.slow_until;
            match node.run(runs, slow, &mut self.reached) {
                Ok(false) if node.disk.is_up() => {}
                result => self.after(at, result.map(drop))?,
            }
            self.carry_commands(at);
            if self.nodes[at].stop.is_some() && self.nodes[at].is_up() {
                self.stop_on(at)?;
            }
        }
        Ok(())
    }

    /// Carries what a host's controller has to say to the registry's leader.
    fn carry_commands(&mut self, at: usize) {
        let commands = std::mem::take(&mut self.nodes[at].commands);
        if commands.is_empty() {
            return;
        }
        if self.trace {
            println!("{:>12.3}  the controller of host {at} wants {commands:?}", self.now() as f64 / 1e6);
        }
        let (name, instance) = (self.nodes[at].name.clone(), self.nodes[at].instance);
        if let Some(leader) = self.nodes.iter_mut().find(|node| node.leads(ShardId(0))) {
            let refusal = leader.registry().and_then(|registry| registry.admit(&name, instance).err());
            match refusal {
                None | Some(Refusal::NotFound(_)) => {
                    commands.into_iter().for_each(|command| leader.change(command));
                }
                Some(_) => self.reached.reach("wish of a removed host's controller refused"),
            }
        }
    }

    /// Judges what came of something done to a host, and buries it if it died of it.
    fn after(&mut self, at: usize, result: Result<(), Fault>) -> Checked {
        if !self.nodes[at].is_up() {
            return Ok(());
        }
        let records = self.nodes[at].shell.as_mut().expect("it is up").take_synced();
        let seats = &self.nodes[at].shell.as_ref().expect("it is up").seats;
        self.consensus.synced(&records, |shard| seats.get(&shard).map(|seat| seat.replica));
        self.read_letters(at)?;
        self.follow_lively()?;
        self.digests.check()?;
        match result {
            Ok(()) if self.nodes[at].disk.is_up() => return self.look(at),
            Ok(()) => {}
            Err(fault) if self.nodes[at].disk.is_up() => {
                self.note(format_args!("host {at} ended: {fault}"));
                let node = &self.nodes[at];
                let full = fault.kind == Kind::Overloaded && node.has_errors();
                ensure!(
                    full || node.has_eio(),
                    "FAULT",
                    "host {} ended for no reason: {}",
                    node.name,
                    fault.what
                );
                self.reached.reach("EIO ended a host");
            }
            Err(fault) => {
                self.note(format_args!("host {at} crashed: {fault}"));
                self.reached.reach("crash at a disk call");
            }
        }
        self.bury(at);
        Ok(())
    }

    /// Looks at a running host.
    fn look(&mut self, at: usize) -> Checked {
        let (groups, terms) = self.nodes[at].groups();
        if self.trace {
            self.show(at, &groups);
        }
        let disk = self.nodes[at].disk_id();
        self.consensus.look(disk, &groups, &terms, &mut self.reached)?;
        if self.rng.chance(1, CHECK_EVERY) {
            self.check_rows(at)?;
        }
        Ok(())
    }

    /// Prints what has changed in a host's groups.
    fn show(&mut self, at: usize, groups: &[GroupStatus]) {
        for group in groups {
            let GroupStatus { shard, replica, term, applied, durable, membership, .. } = group;
            let leads = group.leading && group.leader == *replica;
            let line = format!("{replica} term {term} leads {leads} of {membership:?}");
            if self.shown.get(&(at, *shard)) != Some(&line) {
                println!(
                    "{:>12.3}  host {at} shard {shard} replica {line} applied {applied} durable {durable} last {}",
                    self.now() as f64 / 1e6,
                    group.last
                );
                self.shown.insert((at, *shard), line);
            }
        }
    }

    fn check_rows(&mut self, at: usize) -> Checked {
        let Some(shell) = self.nodes[at].shell.as_mut() else { return Ok(()) };
        match check_machines(&mut shell.driver) {
            Err(_) if !self.nodes[at].disk.is_up() || self.nodes[at].has_eio() => return Ok(()),
            result => result.map_err(|what| Violation::new("STATE", what))?,
        }
        self.compare_lively(at)
    }

    /// Ends a life that is over.
    fn bury(&mut self, at: usize) {
        let led = (0..=self.swarm.sizes.task_shards).any(|shard| self.nodes[at].leads(ShardId(shard)));
        if led {
            self.reached.reach("leader died");
        }
        let node = &mut self.nodes[at];
        node.stop = None;
        let shell = node.shell.take().expect("it lived");
        if node.disk.is_up() {
            if self.rng.chance(1, 2) { node.disk.crash() } else { node.disk.kill() }
        }
        if shell.stage().is_some() {
            self.reached.reach("crash with a batch under way");
        }
        if shell.is_checkpointing() {
            self.reached.reach("crash during a checkpoint");
        }
        if shell.snapshot_works() > 0 {
            self.reached.reach("crash during a snapshot");
        }
        drop(shell);
        let name = node.name.clone();
        self.net.forget(&name);
        self.clients.host_died(&mut self.history, at);
        self.lively.host_died(at);
        let trouble = if self.healed || self.rng.chance(1, 3) { 0 } else { self.swarm.trouble_ms };
        self.nodes[at].down_until = self.now() + self.rng.below(trouble + 1) * 1_000_000;
        self.note(format_args!("host {at} is down"));
    }

    /// Starts a host; tries again later if its start was spoilt.
    fn start(&mut self, at: usize) -> Checked {
        let Self { nodes, swarm, net, digests, latest_ns, rng, .. } = self;
        let node = &mut nodes[at];
        node.disk.restart();
        if !self.healed && rng.chance(1, SPOIL_EVERY) {
            disk_faults::spoil_start(&node.disk, rng);
        }
        *latest_ns = (*latest_ns).max(u128::from(node.clock.wall().0 + 1) * 1_000_000);
        self.latest = self.latest.max(Millis((*latest_ns / 1_000_000) as u64 + 2));
        match node.start(swarm, net, digests, self.latest) {
            Ok(()) => {
                if node.lives > 1 {
                    self.reached.reach("restart");
                }
                let (groups, _) = node.groups();
                let (disk, name) = (node.disk_id(), node.name.clone());
                self.note(format_args!("host {at} started"));
                let known =
                    self.newest_registry().and_then(|registry| Some(registry.host(&name)?.is_member()));
                if known == Some(false) {
                    self.reached.reach("removed host restarted");
                }
                self.consensus.restarted(disk, &groups)
            }
            Err(refusal) => {
                let (up, errors, name) = (node.disk.is_up(), node.has_errors(), node.name.clone());
                if up {
                    node.disk.set_capacity(None);
                    if rng.chance(1, 2) { node.disk.crash() } else { node.disk.kill() }
                }
                self.note(format_args!("host {at} does not start: {refusal}"));
                ensure!(
                    !up || errors,
                    "P8",
                    "host {name} refuses to start from undamaged directories: {refusal}"
                );
                self.reached.reach("a start went wrong");
                Ok(())
            }
        }
    }
}
