//! Who may talk to whom, and how a host with empty directories becomes a member.
//!
//! ```text
//! Empty ──asks──> leader of shard 0 ── AddHost or ReplaceHost ──> its log ──> applied: the registry, as it is there
//!   ^ asks again: refused, nobody leads, question or answer lost                                      │
//!   └──── the disk failed: all over again ──── directories with shard 0's empty replica <─────────────┘ ──> starts
//! ```
//! The registry's commands, what it says to them, and the start from these directories are the host's own code. What
//! stands in `z4-host` between sockets (`cluster/joining.rs`, `cluster/answers.rs`) is said again here: which command
//! the asker is worth, whose frames are taken, what is written before a member is one.
//!
//! # Not here
//! - Finding a leader: whoever asks meets one that leads, or believes so. Hosts that look around whether there is a
//!   cluster already: who lost a disk knows that there is one.
//! - A host that becomes a member while it runs: here it starts once more, which opens the same replicas.
//! - Old directories that come back while their successors live.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use z4_consensus::Membership;
use z4_env::{Disk, OpenMode, Rng};
use z4_host::{Config, Error};
use z4_registry::{Command, Refusal, Registry};
use z4_store::Store;
use z4_types::{HostId, ShardId};
use z4_wal::Wal;

use super::node::Directories;
use super::{SPOIL_EVERY, World};
use crate::checks::{Checked, ensure};
use crate::disk::Faults as DiskFaults;
use crate::faults;
use crate::net::Delivery;

/// Between two questions of a host that wants to join.
const ASK_AGAIN_NS: u64 = 300_000_000;
/// A question is lost once in so many, and so is an answer, while things go wrong.
const LOST_EVERY: u64 = 8;
/// The registry's own shard.
const REGISTRY: ShardId = ShardId(0);
/// The rows of [`LOCAL`] (`docs/FORMATS.md`, "Local group").
const LOCAL: ShardId = ShardId(u32::MAX);
const TOLD: &[u8] = b"registry";

/// What the registry was asked for, from outside its log.
#[derive(Debug, Clone, Copy)]
pub(super) enum Wish {
    /// To join, with these directories.
    Join(u64),
    /// To be removed.
    Remove,
    /// To be added with the directories it has.
    Add,
}

/// What its leader said.
struct Answer {
    /// For which host.
    host: usize,
    wish: Wish,
    /// Which host said it, in which of its lives.
    by: usize,
    life: u64,
    said: Result<(), Error>,
}

/// Answers on their way.
#[derive(Default)]
pub(super) struct Answers {
    given: Arc<Mutex<Vec<Answer>>>,
    /// Held by each question that is not answered yet.
    awaited: Arc<()>,
}

impl World {
    /// Returns whether a frame gets through to its receiver: each end of a connection asks its own registry whether the
    /// directories at the other may speak for their host. A host that the registry does not know yet is newer than it.
    pub(super) fn is_admitted(&self, to: usize, delivery: &Delivery) -> bool {
        if self.swarm.turns.lax {
            return true;
        }
        let admits = |own: usize, other: &HostId, instance: u64| {
            let registry = self.nodes[own].registry();
            let refusal = registry.and_then(|registry| registry.admit(other, instance).err());
            matches!(refusal, None | Some(Refusal::NotFound(_)))
        };
        let from = self.node_of(&delivery.from);
        let (sender, receiver) = (&self.nodes[from], &self.nodes[to]);
        // Who has another disk by now said it before.
        let knows = sender.is_up() && sender.instance == delivery.instance;
        admits(to, &delivery.from, delivery.instance)
            && (!knows || admits(from, &delivery.to, receiver.instance))
    }

    /// Returns the position of a host.
    pub(super) fn node_of(&self, name: &HostId) -> usize {
        self.nodes.iter().position(|node| node.name == *name).expect("a host of this world")
    }

    /// Gives a host empty directories, with which it asks to join.
    pub(super) fn begin_empty(&mut self, at: usize, joins_as: &'static str) {
        let (seed, instance) = (self.dice.next_u64(), self.dice.next_u64().max(1));
        let node = &mut self.nodes[at];
        if node.directories != Directories::Absent {
            self.consensus.lost(node.disk_id());
            node.lose_disk(seed);
            node.disks += 1;
            node.disk.set_faults(DiskFaults { writeback_ppm: 20_000, ..DiskFaults::default() });
        }
        (node.directories, node.instance, node.joins_as) = (Directories::Empty, instance, joins_as);
    }

    /// Asks a leader of the registry, or one that believes so, for a change that concerns `host`.
    pub(super) fn wish(&mut self, host: usize, wish: Wish) {
        let leaders: Vec<usize> =
            self.nodes.iter().filter(|node| node.leads(REGISTRY)).map(|node| node.at).collect();
        if leaders.is_empty() {
            return;
        }
        let by = leaders[self.dice.below(leaders.len() as u64) as usize];
        let name = self.nodes[host].name.clone();
        let command = match wish {
            Wish::Join(instance) => {
                if self.is_lost(host, by) {
                    return;
                }
                let registry = self.nodes[by].registry().expect("it leads");
                registry.admission(&name, instance, self.nodes[host].config.advertise.clone())
            }
            Wish::Remove => Command::RemoveHost { host: name },
            Wish::Add => {
                let instance = Some(self.nodes[host].instance);
                Command::AddHost { host: name, address: self.nodes[host].config.advertise.clone(), instance }
            }
        };
        self.note(format_args!("host {by} is asked for {command:?}"));
        let life = self.nodes[by].lives;
        let (given, awaited) = (Arc::clone(&self.answers.given), self.answers.awaited());
        let reply = move |said| {
            drop(awaited);
            put(&given, Answer { host, wish, by, life, said });
        };
        self.nodes[by].ask(command, Box::new(reply));
    }

    /// What is said beside the frames may be lost, too.
    fn is_lost(&mut self, from: usize, to: usize) -> bool {
        self.net.is_cut(&self.nodes[from].name, &self.nodes[to].name)
            || !self.healed && self.dice.chance(1, LOST_EVERY)
    }

    /// Lets hosts with empty directories ask, and tells them what was said.
    pub(super) fn let_join(&mut self) -> Checked {
        let now = self.now();
        for at in 0..self.nodes.len() {
            let node = &mut self.nodes[at];
            if node.directories == Directories::Empty && now >= node.down_until.max(node.ask_at) {
                node.ask_at = now + ASK_AGAIN_NS;
                let wish = Wish::Join(node.instance);
                self.wish(at, wish);
            }
        }
        for answer in self.answers.take() {
            self.told(answer)?;
        }
        Ok(())
    }

    fn told(&mut self, answer: Answer) -> Checked {
        let Answer { host, wish, by, life, said } = answer;
        self.note(format_args!("host {by} says of host {host}, {wish:?}: {said:?}"));
        match (wish, said) {
            (Wish::Join(instance), Ok(())) => {
                let speaker = &self.nodes[by];
                // One that has died since may have forgotten what it had said.
                let registry = speaker.registry().filter(|_| speaker.lives == life);
                let Some(registry) = registry else { return Ok(()) };
                if self.is_lost(by, host) {
                    self.reached.reach("answer to a host that joins lost");
                    return Ok(());
                }
                let node = &self.nodes[host];
                if (node.directories, node.instance) == (Directories::Empty, instance) {
                    return self.settle(host, &registry);
                }
            }
            (Wish::Join(instance), Err(Error::Registry(refusal))) => {
                self.reached.reach("host that asks to join refused");
                let node = &mut self.nodes[host];
                if matches!(refusal, Refusal::Removed(_))
                    && (node.directories, node.instance) == (Directories::Empty, instance)
                {
                    // Removed before it had joined: the operator does as the refusal says.
                    node.instance = self.dice.next_u64().max(1);
                }
            }
            (Wish::Remove, Ok(())) => self.reached.reach("host removed"),
            (Wish::Add, Err(Error::Registry(Refusal::Removed(_)))) => {
                self.reached.reach("removed directories refused");
            }
            _ => {}
        }
        Ok(())
    }

    /// Makes a host a member of the cluster of `registry`.
    fn settle(&mut self, at: usize, registry: &Registry) -> Checked {
        let node = &mut self.nodes[at];
        let Some(replica) = registry.replica_on(REGISTRY, &node.name).map(|replica| replica.id) else {
            return Ok(());
        };
        node.disk.restart();
        if !self.healed && self.dice.chance(1, SPOIL_EVERY) {
            faults::spoil_start(&node.disk, &mut self.dice);
        }
        let disk: Arc<dyn Disk> = Arc::new(node.disk.clone());
        match write_directories(&node.config, &disk, registry, replica, node.instance) {
            Ok(()) => {
                node.directories = Directories::Joined;
                let joined = node.joins_as;
                self.reached.reach(joined);
                self.note(format_args!("host {at} has joined"));
            }
            Err(why) => {
                let failed = !node.disk.is_up() || faults::errors(&node.disk.counters()) > 0;
                let seed = self.dice.next_u64();
                // Nobody was promised anything: it is the same disk for all that is checked.
                node.lose_disk(seed);
                self.note(format_args!("host {at} has not joined: {why}"));
                ensure!(failed, "FAULT", "host {at} cannot make its directories: {why}");
                self.reached.reach("joining went wrong");
            }
        }
        Ok(())
    }
}

fn put(given: &Mutex<Vec<Answer>>, answer: Answer) {
    given.lock().unwrap_or_else(PoisonError::into_inner).push(answer);
}

impl Answers {
    /// Returns what a question holds until it is answered, or will never be.
    pub(super) fn awaited(&self) -> Arc<()> {
        Arc::clone(&self.awaited)
    }

    /// Returns whether the registry may still be about to change.
    pub(super) fn are_awaited(&self) -> bool {
        Arc::strong_count(&self.awaited) > 1
    }

    fn take(&self) -> Vec<Answer> {
        std::mem::take(&mut *self.given.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Makes directories of a member with an empty replica of shard 0 and the registry it was told, in the order of a real
/// host: the base, the log, then who it is, the data directory's last.
fn write_directories(
    config: &Config,
    disk: &Arc<dyn Disk>,
    registry: &Registry,
    replica: u64,
    instance: u64,
) -> Result<(), String> {
    let said = |error: io::Error| error.to_string();
    for dir in [&config.data_dir, &config.peer_dir] {
        disk.create_dir_all(dir).map_err(said)?;
    }
    let mut settings = z4_store::Config::new(&config.data_dir);
    settings.cache_bytes = config.sizes.cache_bytes;
    let store = Store::open(Arc::clone(disk), settings).map_err(|error| error.to_string())?;
    take_seat(&store, registry, replica).map_err(|error| error.to_string())?;
    drop(store);
    let log = z4_wal::Config {
        dir: config.peer_dir.join("wal"),
        segment_bytes: config.sizes.segment_bytes,
        spares: config.sizes.spare_segments,
    };
    Wal::open(Arc::clone(disk), log, &BTreeMap::new()).map_err(|error| error.to_string())?;
    let identity = format!(
        "z4 host directory\nformat = 2\ncluster = {}\ncluster_name = {}\nhost = {}\ninstance = {instance:016x}\n",
        registry.cluster, config.cluster_name, config.host
    );
    for dir in [&config.peer_dir, &config.data_dir] {
        write_identity(&**disk, dir, &identity).map_err(said)?;
    }
    Ok(())
}

fn take_seat(store: &Store, registry: &Registry, replica: u64) -> Result<(), z4_store::Error> {
    let mut group = store.group(REGISTRY)?;
    group.set_conf(Membership::default().encode());
    let mut local = store.group(LOCAL)?;
    // Version, the replica, "came later, empty", none buried.
    let seat = [&[1][..], &replica.to_le_bytes(), &[2], &0_u64.to_le_bytes()].concat();
    local.put(&REGISTRY.0.to_be_bytes(), &seat);
    local.put(TOLD, &registry.encode());
    let frozen: Vec<_> = group.freeze().into_iter().chain(local.freeze()).collect();
    store.checkpoint(&frozen).map(drop)
}

fn write_identity(disk: &dyn Disk, dir: &Path, identity: &str) -> io::Result<()> {
    let staged = dir.join("HOST.new");
    let file = disk.open(&staged, OpenMode::CreateOrOpen)?;
    file.set_len(0)?;
    file.write_all_at(identity.as_bytes(), 0)?;
    file.sync_data()?;
    disk.rename(&staged, &dir.join("HOST"))?;
    disk.sync_dir(dir)
}
