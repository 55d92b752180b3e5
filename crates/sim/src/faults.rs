//! What goes wrong around the host: faults armed on its disk, and damage tried on a copy of it.
//!
//! Damage is tried on the side. The stopped host's disk is copied, one bit of the copy is flipped, and the host is
//! started from it: it must refuse and name the file, or hold exactly what the undamaged one holds. Then the copy is
//! thrown away and the run goes on undamaged, so that one run can try many damages.
//!
//! # Caveats
//! - The log's last batch has no proof of its own (see `z4-wal`): unless the log was sealed, its newest segment is not
//!   damaged here.

use std::path::{Path, PathBuf};

use z4_env::{Disk, OpenMode, Rng, SeededRng};
use z4_host::{Config, HostMachine, RowsRef};
use z4_types::TaskId;

use crate::checks::{Checked, Digests, Violation, check_machines, ensure};
use crate::clock::SimClock;
use crate::disk::{Counters, Faults, Injected, Op, SimDisk};
use crate::model::Model;
use crate::report::Reached;
use crate::shell::Shell;
use crate::swarm::Swarm;

/// Calls within which an armed crash or error strikes a running host.
const SOON: u64 = 120;
/// Calls within which one strikes a starting host.
const SOON_STARTING: u64 = 80;

/// Returns how many errors of the disk, a full disk included, fired so far.
#[must_use]
pub fn errors(counters: &Counters) -> u64 {
    [Injected::ReadEio, Injected::WriteEio, Injected::SyncEio, Injected::NameEio, Injected::DiskFull]
        .iter()
        .map(|fault| counters.injected(*fault))
        .sum()
}

/// Returns how many errors other than a full disk fired so far.
#[must_use]
pub fn eios(counters: &Counters) -> u64 {
    errors(counters) - counters.injected(Injected::DiskFull)
}

/// Cuts the power within the next calls of the disk.
pub fn crash_soon(disk: &SimDisk, rng: &mut SeededRng) {
    // Mostly very soon: the calls of one batch and one checkpoint are the interesting ones.
    let within = if rng.chance(2, 3) { 12 } else { SOON };
    disk.crash_after(1 + rng.below(within));
}

/// Lets one of the next calls fail.
pub fn eio_soon(disk: &SimDisk, rng: &mut SeededRng) {
    let op = [Op::Write, Op::Sync, Op::Sync, Op::Rename, Op::SyncDir, Op::SetLen, Op::Read, Op::Open]
        [rng.below(8) as usize];
    let within = if rng.chance(2, 3) { 3 } else { 20 };
    disk.fail_nth(op, 1 + rng.below(within));
}

/// Makes a start go wrong at one of its calls.
pub fn spoil_start(disk: &SimDisk, rng: &mut SeededRng) {
    if rng.chance(3, 4) {
        disk.crash_after(1 + rng.below(SOON_STARTING));
    } else {
        eio_soon(disk, rng);
    }
}

/// Returns the newest segment of the log and what it holds.
#[must_use]
pub fn newest_segment(disk: &SimDisk) -> Option<(PathBuf, Vec<u8>)> {
    let (path, len) = disk.files().into_iter().rfind(|(path, _)| is_segment(path))?;
    let file = disk.open(&path, OpenMode::Read).ok()?;
    let mut bytes = vec![0; len as usize];
    file.read_exact_at(&mut bytes, 0).ok()?;
    Some((path, bytes))
}

fn is_segment(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "wal")
}

/// Everything a stopped host is.
pub struct Stopped<'a> {
    /// Its run.
    pub swarm: &'a Swarm,
    /// Its configuration.
    pub config: &'a Config,
    /// Its disk.
    pub disk: &'a SimDisk,
    /// Its clock.
    pub clock: &'a SimClock,
    /// Its history.
    pub digests: &'a Digests,
    /// What its clients know.
    pub model: &'a Model,
    /// Whether the log's last batch is sealed.
    pub sealed: bool,
}

impl Stopped<'_> {
    /// Flips a bit of a copy and starts the host from it.
    ///
    /// # Errors
    /// P8 if the damage is neither refused by name nor harmless, and whatever else is broken.
    pub fn try_damage(&self, rng: &mut SeededRng, reached: &mut Reached) -> Checked {
        let copy = self.disk.copy(rng.next_u64());
        copy.set_faults(Faults::default());
        copy.set_capacity(None);
        copy.disarm();
        let newest = copy.files().into_iter().map(|(path, _)| path).rfind(|path| is_segment(path));
        let spared = if self.sealed { None } else { newest };
        let kind = rng.below(10);
        let struck = copy.rot_random(|path| match kind {
            0..4 => path.ends_with("base.redb"),
            4..9 => is_segment(path) && Some(path) != spared.as_deref(),
            _ => path.ends_with("HOST"),
        });
        let Some(struck) = struck else { return Ok(()) };
        let started = Shell::start(
            self.swarm,
            self.config,
            &copy,
            self.clock,
            self.digests,
            false,
            self.model.latest(),
        );
        let refusal = match started {
            Err(refusal) => Some(refusal.to_string()),
            Ok(mut shell) => match shell.rest() {
                Err(fault) => Some(fault.what),
                Ok(()) => self.compare(&mut shell)?,
            },
        };
        let Some(refusal) = refusal else {
            reached.reach("damage without effect");
            return Ok(());
        };
        let directory = struck.path.parent().unwrap_or(Path::new("")).display().to_string();
        // The two `HOST` files contradict each other then: either may be the damaged one.
        let named = refusal.contains(&directory) || struck.path.ends_with("HOST") && refusal.contains("sim/");
        ensure!(
            named,
            "P8",
            "byte {} of {} was damaged; the refusal does not name it: {refusal}",
            struck.offset,
            struck.path.display()
        );
        reached.reach("damage refused");
        Ok(())
    }

    /// Compares what the started copy holds with what it must hold. Returns the refusal if reading it all found the
    /// damage after all.
    fn compare(&self, shell: &mut Shell) -> Result<Option<String>, Violation> {
        self.digests.check()?;
        for group in shell.driver.status() {
            let last = self.digests.last(group.shard);
            ensure!(
                group.applied >= last,
                "P8",
                "shard {}: entry {last} was applied, after damage the host starts silently at {}",
                group.shard,
                group.applied
            );
        }
        if let Err(what) = check_machines(&mut shell.driver) {
            ensure!(what.contains("base.redb"), "P8", "damage is not noticed: {what}");
            return Ok(Some(what));
        }
        let mut wrong = None;
        let certain: Vec<TaskId> = self.model.certain(shell.latest()).collect();
        shell.driver.for_each(|shard, machine, store| {
            if let HostMachine::Tasks(_) = machine {
                let missing = certain
                    .iter()
                    .filter(|id| id.shard() == shard)
                    .find(|id| matches!(z4_tasks::get(&RowsRef(store), **id), Ok(None)));
                wrong = missing.copied().or(wrong);
            }
        });
        match wrong {
            Some(id) => Err(Violation::new("P8", format!("after damage, task {id} is silently missing"))),
            None => Ok(None),
        }
    }
}
