//! The whole simulated disk behind its one lock: directories, files, locks, the schedule of faults, power.
//!
//! Every call comes through [`State::begin`], which counts it, lets it stall, and tells its [`Fate`]. A call that is
//! to crash performs some part of its effect first, then calls [`State::crash`]: that is the moment a real power
//! loss leaves half a write behind.
//!
//! # Invariants
//! - While the power is off no call does anything; handles and locks of an older generation never work again.
//! - `free_blocks` is the capacity less the blocks of all files, unnamed open ones included.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use z4_env::{Rng, SeededRng};

use super::faults::{Counters, Faults, Injected, Op};
use super::inode::{BLOCK, Inode};
use super::names::{Directory, InodeId};
use crate::clock::SimClock;

/// The capacity of a disk nobody gave one: 1 TiB.
const CAPACITY_DEFAULT: u64 = 1 << 40;
/// The largest file, bytes: a stray offset is an error, not gigabytes of block table.
const FILE_BYTES_MAX: u64 = 16 << 30;
const PPM: u64 = 1_000_000;

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Go,
    Eio,
    Crash,
}

#[derive(Debug, Clone)]
pub(crate) struct State {
    /// Grows at every crash and kill.
    pub(crate) generation: u64,
    pub(crate) up: bool,
    dirs: BTreeMap<PathBuf, Directory>,
    inodes: BTreeMap<InodeId, Inode>,
    next_inode: InodeId,
    pub(crate) locks: BTreeSet<PathBuf>,
    capacity_blocks: u64,
    free_blocks: u64,
    pub(crate) faults: Faults,
    /// The n-th call of a kind, counted since the disk was made, fails with EIO.
    pub(crate) eio_at: BTreeSet<(Op, u64)>,
    /// The call of any kind at which the power goes.
    pub(crate) crash_at: Option<u64>,
    pub(crate) counters: Counters,
    pub(crate) clock: Option<SimClock>,
    chance: SeededRng,
    damage: SeededRng,
    pub(crate) rot: SeededRng,
}

impl State {
    pub(crate) fn new(seed: u64) -> Self {
        let rng = SeededRng::new(seed);
        let capacity_blocks = CAPACITY_DEFAULT / BLOCK as u64;
        Self {
            generation: 0,
            up: true,
            dirs: BTreeMap::new(),
            inodes: BTreeMap::new(),
            next_inode: 1,
            locks: BTreeSet::new(),
            capacity_blocks,
            free_blocks: capacity_blocks,
            faults: Faults::default(),
            eio_at: BTreeSet::new(),
            crash_at: None,
            counters: Counters::default(),
            clock: None,
            chance: rng.fork(1),
            damage: rng.fork(2),
            rot: rng.fork(3),
        }
    }

    /// Gives the disk new dice; what is on it stays.
    pub(crate) fn reseed(&mut self, seed: u64) {
        let rng = SeededRng::new(seed);
        (self.chance, self.damage, self.rot) = (rng.fork(1), rng.fork(2), rng.fork(3));
    }

    /// Counts a call and decides its fate.
    pub(crate) fn begin(&mut self, op: Op) -> io::Result<Fate> {
        if !self.up {
            return Err(down());
        }
        self.counters.called(op);
        if self.crash_at.is_some_and(|at| self.counters.ops() >= at) {
            self.crash_at = None;
            return Ok(Fate::Crash);
        }
        if self.draw(self.faults.stall_ppm)
            && let Some(clock) = &self.clock
        {
            clock.step(self.chance.below(u64::from(self.faults.stall_ms_max) * 1_000_000 + 1));
            self.counters.fired(Injected::Stall);
        }
        let scheduled = self.eio_at.remove(&(op, self.counters.op(op)));
        if scheduled || self.draw(self.faults.eio_ppm(op)) {
            self.counters.fired(Injected::eio(op));
            return Ok(Fate::Eio);
        }
        Ok(Fate::Go)
    }

    /// The same for calls that have no half effect: anything but `Go` is an error already.
    pub(crate) fn begin_whole(&mut self, op: Op) -> io::Result<()> {
        match self.begin(op)? {
            Fate::Go => Ok(()),
            Fate::Eio => Err(eio()),
            Fate::Crash => {
                self.crash();
                Err(down())
            }
        }
    }

    fn draw(&mut self, ppm: u32) -> bool {
        ppm > 0 && self.chance.chance(u64::from(ppm), PPM)
    }

    /// Cuts the power: every unsynced thing takes its chance.
    pub(crate) fn crash(&mut self) {
        self.counters.fired(Injected::Crash);
        for directory in self.dirs.values_mut() {
            directory.crash(&mut self.damage, &mut self.counters);
        }
        for inode in self.inodes.values_mut() {
            inode.crash(&mut self.damage, &mut self.counters);
        }
        self.stop();
    }

    /// Ends the process only: the page cache lives, so nothing is lost.
    pub(crate) fn kill(&mut self) {
        self.counters.fired(Injected::Kill);
        for inode in self.inodes.values_mut() {
            inode.handles = 0;
        }
        self.stop();
    }

    fn stop(&mut self) {
        self.up = false;
        self.generation += 1;
        self.locks.clear();
        self.collect();
    }

    /// Frees files that no name, no crash and no handle can reach, and counts the free blocks afresh.
    pub(crate) fn collect(&mut self) {
        let dirs = &self.dirs;
        self.inodes.retain(|id, inode| inode.handles > 0 || dirs.values().any(|dir| dir.reaches(*id)));
        let used = self.inodes.values().map(Inode::allocated).sum();
        self.free_blocks = self.capacity_blocks.saturating_sub(used);
    }

    pub(crate) fn set_capacity(&mut self, bytes: Option<u64>) {
        self.capacity_blocks = bytes.unwrap_or(CAPACITY_DEFAULT) / BLOCK as u64;
        self.collect();
    }

    pub(crate) fn free_bytes(&self) -> u64 {
        self.free_blocks * BLOCK as u64
    }

    pub(crate) fn used_bytes(&self) -> u64 {
        self.inodes.values().map(Inode::allocated).sum::<u64>() * BLOCK as u64
    }

    // Names.

    /// Returns the directory and the name of `path`.
    pub(crate) fn entry<'a>(&mut self, path: &'a Path) -> io::Result<(&mut Directory, &'a str)> {
        let name = path.file_name().and_then(OsStr::to_str).ok_or_else(|| invalid(path))?;
        let parent = path.parent().ok_or_else(|| invalid(path))?;
        Ok((self.directory(parent)?, name))
    }

    pub(crate) fn directory(&mut self, path: &Path) -> io::Result<&mut Directory> {
        if is_root(path) {
            return Ok(self.dirs.entry(path.to_owned()).or_default());
        }
        self.dirs.get_mut(path).ok_or_else(|| missing(path))
    }

    pub(crate) fn make_dirs(&mut self, path: &Path) -> io::Result<()> {
        for dir in path.ancestors() {
            if !is_root(dir) && self.find(dir).is_some() {
                return Err(io::Error::new(io::ErrorKind::NotADirectory, dir.display().to_string()));
            }
        }
        for dir in path.ancestors() {
            self.dirs.entry(dir.to_owned()).or_default();
        }
        Ok(())
    }

    /// Returns the file at `path`, if there is one.
    pub(crate) fn find(&self, path: &Path) -> Option<InodeId> {
        let name = path.file_name()?.to_str()?;
        self.dirs.get(path.parent()?)?.names().get(name).copied()
    }

    pub(crate) fn is_dir(&self, path: &Path) -> bool {
        is_root(path) || self.dirs.contains_key(path)
    }

    /// Creates an empty file.
    pub(crate) fn create(&mut self, path: &Path) -> io::Result<InodeId> {
        if self.is_dir(path) {
            return Err(io::Error::new(io::ErrorKind::IsADirectory, path.display().to_string()));
        }
        let id = self.next_inode;
        let (directory, name) = self.entry(path)?;
        directory.link(name, id);
        self.next_inode += 1;
        self.inodes.insert(id, Inode::default());
        Ok(id)
    }

    /// Returns the names of files and directories in `dir`, sorted.
    pub(crate) fn list(&mut self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names: Vec<String> = self.directory(dir)?.names().keys().cloned().collect();
        let children = self.dirs.keys().filter(|path| path.parent() == Some(dir));
        names.extend(children.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())));
        names.sort_unstable();
        Ok(names)
    }

    /// Returns every file a reader can name, in path order.
    pub(crate) fn files(&self) -> impl Iterator<Item = (PathBuf, &Inode)> {
        self.dirs.iter().flat_map(|(dir, entries)| {
            entries.names().iter().map(|(name, id)| (dir.join(name), &self.inodes[id]))
        })
    }

    // Files.

    pub(crate) fn inode(&self, id: InodeId) -> &Inode {
        self.inodes.get(&id).expect("a handle or a name keeps its file")
    }

    pub(crate) fn inode_mut(&mut self, id: InodeId) -> &mut Inode {
        self.inodes.get_mut(&id).expect("a handle or a name keeps its file")
    }

    /// Writes what fits and lets the flusher have its turn.
    pub(crate) fn write(&mut self, id: InodeId, data: &[u8], offset: u64) -> io::Result<()> {
        if offset.saturating_add(data.len() as u64) > FILE_BYTES_MAX {
            return Err(io::Error::from_raw_os_error(EFBIG));
        }
        let inode = self.inodes.get_mut(&id).expect("a handle keeps its file");
        let written = inode.write(data, offset, &mut self.free_blocks);
        if written < data.len() {
            self.counters.fired(Injected::DiskFull);
            return Err(io::Error::from_raw_os_error(ENOSPC));
        }
        if self.faults.writeback_ppm > 0
            && self.chance.chance(u64::from(self.faults.writeback_ppm), PPM)
            && inode.write_back(&mut self.chance)
        {
            self.counters.fired(Injected::Writeback);
        }
        Ok(())
    }

    /// Writes a random prefix of `data`, as a call does that never ends well.
    pub(crate) fn write_partly(&mut self, id: InodeId, data: &[u8], offset: u64) {
        let prefix = self.chance.below(data.len() as u64 + 1) as usize;
        // What the half call answers does not matter: it failed anyway.
        let _ = self.write(id, &data[..prefix], offset);
    }

    pub(crate) fn set_len(&mut self, id: InodeId, len: u64) -> io::Result<()> {
        if len > FILE_BYTES_MAX {
            return Err(io::Error::from_raw_os_error(EFBIG));
        }
        let inode = self.inodes.get_mut(&id).expect("a handle keeps its file");
        inode.set_len(len, &mut self.free_blocks);
        Ok(())
    }

    pub(crate) fn fail_sync(&mut self, id: InodeId) {
        let inode = self.inodes.get_mut(&id).expect("a handle keeps its file");
        inode.fail_sync(&mut self.chance);
    }

    /// Returns true half of the time: whether a call that crashes had done its work before.
    pub(crate) fn coin(&mut self) -> bool {
        self.chance.chance(1, 2)
    }
}

const EIO: i32 = 5;
const EFBIG: i32 = 27;
const ENOSPC: i32 = 28;

/// Returns the error of a medium that cannot be read or written.
pub(crate) fn eio() -> io::Error {
    io::Error::from_raw_os_error(EIO)
}

/// Returns the error of every call on a machine without power, or through a handle from before a crash.
pub(crate) fn down() -> io::Error {
    io::Error::other("the simulated machine is down")
}

pub(crate) fn missing(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("{}: no such file or directory", path.display()))
}

fn invalid(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("{}: not a file name", path.display()))
}

fn is_root(path: &Path) -> bool {
    path.parent().is_none()
}
