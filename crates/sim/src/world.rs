//! One seed, one world: a host, its disk and clock, its clients, and everything that happens to them.
//!
//! The world draws one event after the other. Between two events the host is in a state in which a real one could be
//! caught by anything: a batch written and not synced, a checkpoint half way, answers in the mail. After each event
//! the letters are read and held against the model. When the host dies, by whatever cause, it is started again.
//!
//! Phases: faults → heal → everything asked again → drain (each accepted task is delivered in time) → loss of power → scan.
//!
//! # Invariants
//! - A start may fail only if something was done to it; so may a running host end only then.

use std::fmt::Write as _;

use xxhash_rust::xxh3::Xxh3;
use z4_env::{Clock, Rng, SeededRng};
use z4_host::{Config, Error};
use z4_multiraft::Fault;
use z4_tasks::QueueStats;
use z4_tasks::outcome::Settled;
use z4_types::{Kind, Millis};

use crate::checks::{Checked, Digests, Progress, Violation, check_machines, ensure};
use crate::client::Clients;
use crate::clock::SimClock;
use crate::disk::{Faults, Injected, SimDisk};
use crate::faults::{self, Stopped};
use crate::lively::Lively;
use crate::model::Model;
use crate::report::{Outcome, Reached};
use crate::shell::{Shell, Stage, Step};
use crate::swarm::Swarm;

mod drain;
mod letters;
mod lively;

/// Failed starts in a row, each with a cause, after which causes are no longer made.
const BAD_STARTS_MAX: u32 = 6;
/// Walking all rows after an event, once in so many.
const CHECK_EVERY: u64 = 24;

/// What can happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it; `World::act` does it")]
pub enum Event {
    Create,
    Retry,
    Open,
    Close,
    Credit,
    Settle,
    Cancel,
    Get,
    List,
    Pass,
    Time,
    Persist,
    Checkpoint,
    WantCheckpoint,
    Abandon,
    Spare,
    Seal,
    Kill,
    PowerLoss,
    CrashSoon,
    Eio,
    FullDisk,
    Stop,
    WallJump,
}

/// How the last life ended.
#[derive(Debug, Clone, Copy, Default)]
struct Death {
    /// The log was sealed.
    sealed: bool,
    /// A batch was written and not synced when the power went.
    torn: bool,
}

/// See the module essay.
pub struct World {
    swarm: Swarm,
    config: Config,
    rng: SeededRng,
    disk: SimDisk,
    clock: SimClock,
    shell: Option<Shell>,
    clients: Clients,
    model: Model,
    lively: Lively,
    digests: Digests,
    progress: Progress,
    reached: Reached,
    hash: Xxh3,
    trace: bool,
    life: u64,
    /// Replay is over in this life.
    recovered: bool,
    formed: bool,
    healed: bool,
    /// Errors of the disk when this life began.
    errors_before: u64,
    /// As above, without those of a full disk: a host lives on with that.
    eios_before: u64,
    last_death: Death,
    /// Sum of the counters asked for.
    counted: QueueStats,
    /// While draining: nothing that was due before this may still be delivered.
    none_due_before: Option<Millis>,
}

/// Runs a seed. `trace` prints what happens.
#[must_use]
pub fn run(seed: u64, trace: bool) -> Outcome {
    let mut world = World::new(Swarm::draw(seed), trace);
    let violation = world.live().err();
    world.finish(violation)
}

impl World {
    fn new(swarm: Swarm, trace: bool) -> Self {
        let rng = SeededRng::new(swarm.seed);
        let (disk, clock) = (SimDisk::new(rng.fork(2).next_u64()), SimClock::new());
        disk.attach_clock(&clock);
        disk.set_faults(Faults {
            writeback_ppm: swarm.faults.writeback_ppm,
            stall_ppm: swarm.faults.stall_ppm,
            stall_ms_max: 2_000,
            ..Faults::default()
        });
        let config = swarm.config("sim".as_ref());
        let digests = Digests::default();
        let lively = Lively::new(swarm.seed, &swarm.work, &digests.tap);
        Self {
            config,
            lively,
            clients: Clients::new(&swarm.work, rng.fork(3), &clock),
            rng: rng.fork(4),
            swarm,
            disk,
            clock,
            shell: None,
            model: Model::default(),
            digests,
            progress: Progress::default(),
            reached: Reached::default(),
            hash: Xxh3::new(),
            trace,
            life: 0,
            recovered: false,
            formed: false,
            healed: false,
            errors_before: 0,
            eios_before: 0,
            last_death: Death::default(),
            counted: QueueStats::default(),
            none_due_before: None,
        }
    }

    fn finish(mut self, violation: Option<Violation>) -> Outcome {
        drop(self.shell.take());
        self.hash.update(&self.disk.digest().to_le_bytes());
        if let Some(violation) = &violation {
            self.hash.update(violation.what.as_bytes());
        }
        let mut disk = self.disk.counters();
        // Damage strikes copies, which count for themselves.
        for _ in 0..self.reached.count("damage refused") + self.reached.count("damage without effect") {
            disk.fired(Injected::Rot);
        }
        Outcome {
            seed: self.swarm.seed,
            digest: self.hash.digest(),
            violation,
            reached: self.reached,
            disk,
            simulated_ms: self.clock.monotonic_ns() / 1_000_000,
            calls: self.clients.calls + self.lively.counts().0,
            tasks: self.model.created() + self.lively.counts().2,
            entries: (self.digests.entries(), self.digests.repeated()),
            boots: self.life,
        }
    }

    /// Remembers `line` for the digest, and prints it if asked to.
    fn note(&mut self, line: std::fmt::Arguments<'_>) {
        let mut text = String::new();
        let _ = write!(text, "{line}");
        self.hash.update(text.as_bytes());
        if self.trace {
            println!(
                "{:>12} life {} ops {:>6}  {text}",
                self.clock.monotonic_ns() / 1_000_000,
                self.life,
                self.disk.counters().ops()
            );
        }
    }

    fn live(&mut self) -> Checked {
        self.start()?;
        let registry = self.shell().registry();
        self.lively.place(|queue| registry.shard_of(queue));
        for _ in 0..self.swarm.events {
            let event = self.draw_event();
            self.note(format_args!("{event:?}"));
            let result = self.act(event);
            self.after(result)?;
            self.act_lively();
            if self.rng.chance(self.swarm.work.eager, 100) {
                let result = self.shell().pass();
                self.after(result)?;
            }
        }
        self.drain()
    }

    fn draw_event(&mut self) -> Event {
        let weights = &self.swarm.work.weights;
        let mut at = self.rng.below(weights.iter().map(|(_, weight)| weight).sum());
        for (event, weight) in weights {
            if at < *weight {
                return *event;
            }
            at -= weight;
        }
        unreachable!("drawn below the sum of the weights")
    }

    fn shell(&mut self) -> &mut Shell {
        self.shell.as_mut().expect("a host that died was started again")
    }

    fn act(&mut self, event: Event) -> Result<(), Fault> {
        let Self { clients, model, reached, rng, .. } = self;
        let shell = self.shell.as_mut().expect("a host that died was started again");
        match event {
            Event::Create => clients.create(shell, model, self.life, reached),
            Event::Retry => clients.retry(shell, model, reached),
            Event::Open => {
                let id = clients.open(shell, None);
                clients.credit(shell, Some(id), None);
            }
            Event::Close => clients.close(shell),
            Event::Credit => clients.credit(shell, None, None),
            Event::Settle => clients.settle(shell),
            Event::Cancel => clients.cancel(shell, model),
            Event::Get => clients.get(shell, model, None),
            Event::List => clients.list(shell, None),
            Event::Pass => {
                shell.pass()?;
                if shell.driver.is_stalled() {
                    reached.reach("stalled by a full working set");
                }
            }
            Event::Time => {
                let bits = rng.below(self.swarm.work.step_bits + 1);
                self.clock.step_ms(1 + rng.below(1 << bits));
            }
            Event::Persist => {
                for _ in 0..=rng.below(3) {
                    if shell.log_step()? == Step::Full {
                        reached.reach("full disk held a batch");
                    }
                }
            }
            Event::Checkpoint => {
                if shell.checkpoint_step()? == Step::Full {
                    reached.reach("full disk failed a checkpoint");
                }
            }
            Event::WantCheckpoint => shell.driver.want_checkpoint(),
            Event::Abandon => {
                if shell.abandon_checkpoint()? {
                    reached.reach("checkpoint abandoned");
                }
            }
            Event::Spare => shell.make_spare(),
            Event::Seal => shell.seal()?,
            Event::Kill => self.disk.kill(),
            Event::PowerLoss => self.disk.crash(),
            Event::CrashSoon => faults::crash_soon(&self.disk, rng),
            Event::Eio => faults::eio_soon(&self.disk, rng),
            Event::FullDisk => {
                let room = rng.below(2 * self.swarm.host.reserve_bytes);
                let full = rng.chance(2, 3);
                self.disk.set_capacity(full.then(|| self.disk.used_bytes() + room));
            }
            Event::Stop => {
                shell.stop()?;
                reached.reach("clean stop");
                // What a clean stop leaves survives both.
                if rng.chance(1, 2) { self.disk.crash() } else { self.disk.kill() }
            }
            Event::WallJump => {
                let ms = rng.below(7_200_000).cast_signed() - 3_600_000;
                self.clock.jump_wall_ms(ms);
                reached.reach("wall clock jumped");
            }
        }
        match event {
            Event::Kill => reached.reach("kill while running"),
            Event::PowerLoss => reached.reach("power loss while running"),
            _ => {}
        }
        Ok(())
    }

    /// Judges what came of an event, and starts the host again if it died of it.
    fn after(&mut self, result: Result<(), Fault>) -> Checked {
        self.read_letters()?;
        self.digests.check()?;
        match result {
            Ok(()) if self.disk.is_up() => return self.look(),
            Ok(()) => {}
            Err(fault) if self.disk.is_up() => {
                self.note(format_args!("ended: {fault}"));
                let full = fault.kind == Kind::Overloaded
                    && faults::errors(&self.disk.counters()) > self.errors_before;
                ensure!(full || self.has_eio(), "FAULT", "the host ended for no reason: {}", fault.what);
                self.reached.reach("EIO ended the host");
            }
            Err(fault) => {
                self.note(format_args!("crashed: {fault}"));
                self.reached.reach("crash at a disk call");
            }
        }
        self.bury();
        self.start()
    }

    /// Looks at a running host.
    fn look(&mut self) -> Checked {
        let shell = self.shell.as_mut().expect("it runs");
        self.recovered = self.recovered || shell.is_recovered();
        self.progress.check(&shell.driver.status(), self.recovered)?;
        if self.rng.chance(1, CHECK_EVERY) {
            self.check_rows()?;
        }
        Ok(())
    }

    fn check_rows(&mut self) -> Checked {
        let shell = self.shell.as_mut().expect("it runs");
        match check_machines(&mut shell.driver) {
            // An armed EIO may have struck this very walk, or the power have gone at one of its reads.
            Err(_) if !self.disk.is_up() || self.has_eio() => return Ok(()),
            result => result.map_err(|what| Violation::new("STATE", what))?,
        }
        self.compare_lively()
    }

    /// Returns whether the disk failed in this life, other than by being full.
    fn has_eio(&self) -> bool {
        faults::eios(&self.disk.counters()) > self.eios_before
    }

    /// Ends the life that is over.
    fn bury(&mut self) {
        let shell = self.shell.take().expect("it lived");
        let mut lost_power = !self.disk.is_up();
        if self.disk.is_up() {
            lost_power = self.rng.chance(self.swarm.faults.power_after_fault, 100);
            if lost_power { self.disk.crash() } else { self.disk.kill() }
        }
        match shell.stage() {
            Some(Stage::Written) => self.reached.reach("crash with an unsynced batch"),
            Some(Stage::Synced) => self.reached.reach("crash between sync and reply"),
            _ => {}
        }
        if shell.is_checkpointing() {
            self.reached.reach("crash during a checkpoint");
        }
        if shell.recycled() > 0 {
            self.reached.reach("segment recycled, then crash");
        }
        self.last_death = Death { sealed: shell.is_sealed(), torn: lost_power && shell.stage().is_some() };
        drop(shell);
        self.clients.host_died(&mut self.model);
        self.lively.host_died(0);
    }

    /// Starts the host, as often as it takes.
    fn start(&mut self) -> Checked {
        let mut bad_starts = 0;
        loop {
            self.disk.restart();
            let calm = self.healed || bad_starts >= BAD_STARTS_MAX;
            if self.formed && !calm && self.rng.chance(self.swarm.faults.rot, 100) {
                self.try_damage()?;
            }
            let tail = if self.last_death.torn { faults::newest_segment(&self.disk) } else { None };
            if !calm && self.rng.chance(self.swarm.faults.bad_boots, 100) {
                faults::spoil_start(&self.disk, &mut self.rng);
            }
            let counters = self.disk.counters();
            (self.errors_before, self.eios_before) = (faults::errors(&counters), faults::eios(&counters));
            let Self { swarm, config, disk, clock, digests, model, .. } = self;
            match Shell::start(swarm, config, disk, clock, digests, true, model.latest()) {
                Ok(shell) => {
                    if shell.replayed > 0 {
                        self.reached.reach("replayed entries");
                    }
                    self.shell = Some(shell);
                    if tail.is_some() && faults::newest_segment(&self.disk) != tail {
                        self.reached.reach("torn tail cut");
                    }
                    break;
                }
                Err(refusal) => {
                    bad_starts += 1;
                    self.note(format_args!("no start: {refusal}"));
                    self.excuse(&refusal.to_string())?;
                }
            }
            self.last_death = Death::default();
        }
        self.life += 1;
        if self.life > 1 {
            self.reached.reach("restart");
        }
        (self.recovered, self.formed) = (false, true);
        self.note(format_args!("started"));
        Ok(())
    }

    fn excuse(&mut self, refusal: &str) -> Checked {
        if !self.disk.is_up() {
            self.reached.reach(if self.formed { "crash while starting" } else { "crash while forming" });
            return Ok(());
        }
        let counters = self.disk.counters();
        ensure!(
            faults::errors(&counters) > self.errors_before,
            "P8",
            "the host refuses to start from undamaged directories: {refusal}"
        );
        self.disk.set_capacity(None);
        self.reached.reach("EIO refused a start");
        if self.rng.chance(1, 2) {
            self.disk.crash()
        } else {
            self.disk.kill()
        }
        Ok(())
    }

    fn try_damage(&mut self) -> Checked {
        let Self { swarm, config, disk, clock, digests, model, rng, reached, .. } = self;
        let stopped = Stopped { swarm, config, disk, clock, digests, model, sealed: self.last_death.sealed };
        stopped.try_damage(rng, reached)
    }
}
