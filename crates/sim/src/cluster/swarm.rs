//! What a seed switches on in a cluster: hosts, shards, sizes, links, work and faults, drawn before anything happens.

use std::fmt;
use std::path::Path;

use z4_env::{Rng, SeededRng};
use z4_host::Config;
use z4_types::HostId;

use crate::net::Links;
use crate::swarm::{HostSizes, Work, half, spread};

/// The dice of [`Turns`]. Any number would do; with this one the seeds of `regressions-cluster.txt` that are older than
/// turns have none.
const TURNS_STREAM: u64 = 5_083;
/// Hosts that there are at most.
const HOSTS_MAX: usize = 7;

/// What goes wrong, or changes, around the hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it; `faults.rs` does it")]
pub enum Fault {
    /// One host hears nobody and is heard by nobody.
    Isolate,
    /// One host is heard, and hears nobody; or the other way round.
    OneWay,
    /// Two halves.
    Split,
    /// Two halves, and one host that both reach.
    Bridge,
    Kill,
    PowerLoss,
    PowerLossOfMany,
    PowerLossOfAll,
    KillLeader,
    CrashSoon,
    Eio,
    FullDisk,
    /// Log, checkpoints and snapshots of one host stand still.
    SlowDisk,
    /// One host stands still, its clock does not.
    Pause,
    WallJump,
    /// One host's clock runs faster or slower.
    ClockRate,
    HandOver,
    /// Replicas move away from a host, or may come back.
    DrainHost,
    /// Another number of replicas is wanted.
    Replication,
}

/// What becomes of hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// One more is switched on, with empty directories: it asks to join.
    Join,
    /// A member's disk is lost: it comes back with an empty one and asks to join.
    LoseDisk,
    /// A member is removed; it is not told, and goes on.
    Remove,
    /// A removed host's directories are emptied: it asks to join.
    Empty,
    /// A host is added with the directories it has, be it a removed one.
    Add,
    /// A host is told to stop: it hands over, finishes, and ends.
    Stop,
    /// Clients do not reach one host.
    CutOff,
}

/// What happens to the hosts of a seed. Drawn, and thrown, apart from all else: a seed without turns has the story that
/// it had before there were any.
#[derive(Debug, Clone, Default)]
pub struct Turns {
    /// Weights; none if nothing happens to hosts.
    pub weights: Vec<(Turn, u64)>,
    /// A step has a turn once in so many.
    pub every: u64,
    /// Hosts that may join.
    pub more: usize,
    /// Frames of a host that the receiver's registry does not admit get through all the same, as on a connection that
    /// was open before.
    pub lax: bool,
}

/// What clients do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it; `clients.rs` does it")]
pub enum Call {
    Create,
    Retry,
    Open,
    Close,
    Credit,
    Settle,
    Cancel,
    Get,
    List,
}

/// The expanded configuration of one seed.
#[derive(Debug, Clone)]
pub struct Swarm {
    /// The seed.
    pub seed: u64,
    /// Steps of the fault phase.
    pub steps: u32,
    /// Hosts that form the cluster.
    pub hosts: usize,
    /// Voters of a shard.
    pub replication: u32,
    /// Sizes of each host.
    pub sizes: HostSizes,
    /// What clients do.
    pub work: Work,
    /// Weights of the calls.
    pub calls: Vec<(Call, u64)>,
    /// Most calls in a step.
    pub calls_max: u64,
    /// Weights of the faults.
    pub faults: Vec<(Fault, u64)>,
    /// A step has a fault once in so many.
    pub fault_every: u64,
    /// What becomes of hosts.
    pub turns: Turns,
    /// What the links do.
    pub links: Links,
    /// Longest step of time, milliseconds.
    pub step_ms: u64,
    /// Chance in hundred that a host runs in a step, and that each of its threads for the disk does.
    pub runs: (u64, u64),
    /// How long a client waits for an answer, milliseconds.
    pub patience_ms: u64,
    /// How long a partition, a stop or a slow disk lasts at most, milliseconds.
    pub trouble_ms: u64,
}

impl Swarm {
    /// Draws the run of `seed`.
    #[must_use]
    pub fn draw(seed: u64) -> Self {
        let mut rng = SeededRng::new(seed).fork(11);
        let rng = &mut rng;
        let hosts = [1, 2, 3, 3, 3, 3, 3, 4, 5, 5, 5, 7][rng.below(12) as usize];
        let mut sizes = HostSizes::draw(rng);
        sizes.tick_ms = [50, 100, 100, 250][rng.below(4) as usize];
        sizes.task_shards = if rng.chance(3, 4) { 1 + rng.below(3) } else { 1 + rng.below(16) } as u32;
        sizes.inbox_bytes = sizes.inbox_bytes.max(32 << 10);
        let mut work = Work::draw(rng);
        work.queues = 1 + rng.below(6) as u32;
        work.payload_max = work.payload_max.min(1_000);
        work.lease_ms.0 = work.lease_ms.0.min(20_000);
        work.lease_ms.1 = work.lease_ms.1.min(60_000);
        let (loss, twice) = (spread(rng, 1_000, 200_000), spread(rng, 1_000, 200_000));
        let (loss, twice) = (half(rng, loss) as u32, half(rng, twice) as u32);
        let delay_min = spread(rng, 50_000, 20_000_000);
        let delay_max = delay_min + spread(rng, 50_000, 800_000_000);
        Self {
            seed,
            steps: spread(rng, 300, 2_000) as u32,
            hosts,
            replication: if hosts >= 5 && rng.chance(1, 2) { 5 } else { 3 },
            calls: Call::draw(rng),
            calls_max: 1 + rng.below(4),
            faults: Fault::draw(rng),
            fault_every: spread(rng, 8, 200),
            turns: Turns::draw(seed, hosts),
            links: Links {
                loss_ppm: loss,
                duplicate_ppm: twice,
                delay_ns_min: delay_min,
                delay_ns_max: delay_max,
            },
            step_ms: spread(rng, 5, 200),
            runs: (50 + rng.below(51), 20 + rng.below(81)),
            patience_ms: spread(rng, 500, 20_000),
            trouble_ms: spread(rng, 500, 40_000),
            sizes,
            work,
        }
    }

    /// Returns the name of a host.
    #[must_use]
    pub fn host(at: usize) -> HostId {
        HostId(format!("h{}", at + 1))
    }

    /// Returns the configuration of a host.
    #[must_use]
    pub fn config(&self, at: usize) -> Config {
        let address = |at: usize| format!("{}:4790", Self::host(at));
        let mut config = Config::single(&Self::host(at).0, Path::new("sim"));
        self.sizes.configure(&mut config);
        config.bootstrap = false;
        config.advertise = address(at);
        config.service = format!("{}:4791", Self::host(at));
        config.initial_peers = (0..self.hosts).map(|at| (Self::host(at), address(at))).collect();
        config.replication = self.replication;
        config
    }
}

impl Fault {
    fn draw(rng: &mut SeededRng) -> Vec<(Self, u64)> {
        use Fault as F;
        let mut faults = vec![
            (F::Isolate, half(rng, 6)),
            (F::OneWay, half(rng, 4)),
            (F::Split, half(rng, 4)),
            (F::Bridge, half(rng, 3)),
            (F::Kill, half(rng, 4)),
            (F::PowerLoss, half(rng, 5)),
            (F::PowerLossOfMany, half(rng, 2)),
            (F::PowerLossOfAll, half(rng, 1)),
            (F::KillLeader, half(rng, 4)),
            (F::CrashSoon, half(rng, 4)),
            (F::Eio, half(rng, 2)),
            (F::FullDisk, half(rng, 1)),
            (F::SlowDisk, half(rng, 4)),
            (F::Pause, half(rng, 5)),
            (F::WallJump, half(rng, 1)),
            (F::ClockRate, half(rng, 2)),
            (F::HandOver, half(rng, 4)),
            (F::DrainHost, half(rng, 4)),
            (F::Replication, half(rng, 2)),
        ];
        if faults.iter().all(|(_, weight)| *weight == 0) {
            faults[0].1 = 1;
        }
        faults
    }
}

impl Turns {
    fn draw(seed: u64, hosts: usize) -> Self {
        use Turn as T;
        let mut rng = SeededRng::new(seed).fork(TURNS_STREAM);
        let rng = &mut rng;
        if !rng.chance(3, 5) {
            return Self::default();
        }
        let mut weights = vec![
            (T::Join, half(rng, 4)),
            (T::LoseDisk, half(rng, 8)),
            (T::Remove, half(rng, 5)),
            (T::Empty, 6),
            (T::Add, half(rng, 3)),
            (T::Stop, half(rng, 4)),
            (T::CutOff, half(rng, 3)),
        ];
        if weights.iter().map(|(_, weight)| weight).sum::<u64>() == 6 {
            weights[1].1 = 1;
        }
        let more = if weights[0].1 > 0 { 1 + rng.below(3) as usize } else { 0 };
        Self { weights, every: spread(rng, 8, 100), more: more.min(HOSTS_MAX - hosts), lax: rng.chance(1, 3) }
    }
}

impl Call {
    fn draw(rng: &mut SeededRng) -> Vec<(Self, u64)> {
        vec![
            (Self::Create, 10 + rng.below(30)),
            (Self::Retry, half(rng, 8)),
            (Self::Open, 4),
            (Self::Close, 1 + half(rng, 3)),
            (Self::Credit, 5 + rng.below(20)),
            (Self::Settle, 10 + rng.below(30)),
            (Self::Cancel, half(rng, 4)),
            (Self::Get, 4),
            (Self::List, half(rng, 3)),
        ]
    }
}

/// Draws one of `choices` by its weight.
pub(super) fn choose<T: Copy>(rng: &mut SeededRng, choices: &[(T, u64)]) -> T {
    let mut at = rng.below(choices.iter().map(|(_, weight)| weight).sum());
    for (choice, weight) in choices {
        if at < *weight {
            return *choice;
        }
        at -= weight;
    }
    unreachable!("drawn below the sum of the weights")
}

impl fmt::Display for Swarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.clone();
        writeln!(f, "seed {}: {} hosts, {} steps", self.seed, self.hosts, self.steps)?;
        writeln!(f, "  {:?}", self.sizes)?;
        rest.work.weights.clear();
        writeln!(f, "  {:?}", rest.work)?;
        writeln!(
            f,
            "  replication {}, steps of {} ms, hosts run {:?} %, patience {} ms, trouble {} ms, a fault every {}",
            self.replication, self.step_ms, self.runs, self.patience_ms, self.trouble_ms, self.fault_every
        )?;
        writeln!(f, "  {:?}", self.links)?;
        writeln!(f, "  {:?}", self.turns)?;
        write!(f, "  faults:")?;
        for (fault, weight) in self.faults.iter().filter(|(_, weight)| *weight > 0) {
            write!(f, " {fault:?}={weight}")?;
        }
        Ok(())
    }
}
