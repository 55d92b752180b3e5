//! A disk in memory that is exactly as treacherous as a real one, and does the same again for the same seed.
//!
//! [`SimDisk`] implements `z4_env::Disk`. What was synced survives; what was not may be lost, kept or torn, sector by
//! sector and name by name (`inode.rs` and `names.rs` draw the rules). Tests hold a second handle to the same disk and
//! use it to cut the power, restart, flip bits, fill the disk up and read the counters.
//!
//! ```
//! use std::path::Path;
//! use z4_env::{Disk, File, OpenMode};
//! use z4_sim::SimDisk;
//!
//! let disk = SimDisk::new(7);
//! disk.create_dir_all(Path::new("data"))?;
//! let file = disk.open(Path::new("data/log"), OpenMode::CreateNew)?;
//! file.write_all_at(b"promised", 0)?;
//! file.sync_data()?;
//! disk.sync_dir(Path::new("data"))?;
//! disk.crash();
//! assert!(file.len().is_err(), "handles from before the crash are dead");
//! disk.restart();
//! assert_eq!(disk.open(Path::new("data/log"), OpenMode::Read)?.len()?, 8);
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! # Not here
//! - Renames across directories (refused), links, permissions: nothing in z4 uses them.
//! - Misdirected writes, stale reads and a sync that lies: outside the contract of a single host.
//!
//! Source: Rebello et al. (ATC 2020) for failed syncs.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use xxhash_rust::xxh3::Xxh3;
use z4_env::{DirLock, Disk, File, OpenMode, Rng};

use crate::clock::SimClock;

mod faults;
mod inode;
mod names;
mod state;
#[cfg(test)]
mod tests;

pub use faults::{Counters, Faults, Injected, Op};
use names::InodeId;
use state::{Fate, State, down, eio, missing};

/// A handle to a simulated disk. Clones are handles to the same disk.
#[derive(Clone)]
pub struct SimDisk(Arc<Mutex<State>>);

/// Where [`SimDisk::rot_random`] struck.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rot {
    /// The file.
    pub path: PathBuf,
    /// The byte.
    pub offset: u64,
}

impl SimDisk {
    /// Returns an empty, healthy disk whose every accident comes from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State::new(seed))))
    }

    /// Returns another disk with the same contents, pending writes included, and the dice of `seed`. Handles and
    /// locks stay with the first. Lets a test try many crashes from one point.
    #[must_use]
    pub fn copy(&self, seed: u64) -> Self {
        let mut state = self.state().clone();
        state.generation += 1;
        state.locks.clear();
        state.reseed(seed);
        Self(Arc::new(Mutex::new(state)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panicking test may still want to read the counters.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Cuts the power. Unsynced sectors, lengths and names each take their chance; every open handle and lock dies,
    /// and every call fails until [`Self::restart`]. Without power already, nothing happens.
    pub fn crash(&self) {
        let mut state = self.state();
        if state.up {
            state.crash();
        }
    }

    /// Ends the process as kill -9 does: handles and locks die, but the page cache keeps every write.
    pub fn kill(&self) {
        let mut state = self.state();
        if state.up {
            state.kill();
        }
    }

    /// Gives the power back. Old handles stay dead; a crash scheduled earlier is forgotten.
    pub fn restart(&self) {
        let mut state = self.state();
        state.up = true;
        state.crash_at = None;
    }

    /// Returns whether calls work: false between a crash or kill and the restart.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.state().up
    }

    /// Replaces the chances of faults.
    pub fn set_faults(&self, faults: Faults) {
        self.state().faults = faults;
    }

    /// Returns the chances of faults now in force.
    #[must_use]
    pub fn faults(&self) -> Faults {
        self.state().faults.clone()
    }

    /// Lets stalls move `clock`. Without a clock no call stalls.
    pub fn attach_clock(&self, clock: &SimClock) {
        self.state().clock = Some(clock.clone());
    }

    /// Makes the `nth` call of kind `op` from now fail with EIO; 1 is the next one.
    pub fn fail_nth(&self, op: Op, nth: u64) {
        let mut state = self.state();
        let at = state.counters.op(op) + nth;
        state.eio_at.insert((op, at));
    }

    /// Cuts the power at call number `op_count` of this disk's life (see [`Counters::ops`]), after some part of that
    /// call took effect. If that call has passed already, the next one is it.
    pub fn crash_at(&self, op_count: u64) {
        self.state().crash_at = Some(op_count);
    }

    /// Cuts the power at the `nth` call from now; 1 is the next one.
    pub fn crash_after(&self, nth: u64) {
        let mut state = self.state();
        state.crash_at = Some(state.counters.ops() + nth);
    }

    /// Forgets every fault that was scheduled and has not fired. Chances stay.
    pub fn disarm(&self) {
        let mut state = self.state();
        state.eio_at.clear();
        state.crash_at = None;
    }

    /// Limits the disk to `bytes`, counted in 4 KiB blocks of all files; `None` takes the limit away. Past it, writes
    /// write what fits and fail with ENOSPC.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state().set_capacity(bytes);
    }

    /// Returns the bytes that all files take, in whole blocks.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.state().used_bytes()
    }

    /// Flips one bit of the byte at `offset` of `path`, also in the cache. Works with the power off.
    ///
    /// # Errors
    /// `NotFound` without such a file; `UnexpectedEof` if it is not longer than `offset`.
    pub fn rot(&self, path: &Path, offset: u64) -> io::Result<()> {
        let mut state = self.state();
        let id = state.find(path).ok_or_else(|| missing(path))?;
        if offset >= state.inode(id).len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let bit = u32::try_from(state.rot.below(8)).expect("below 8");
        state.inode_mut(id).rot(offset, bit);
        state.counters.fired(Injected::Rot);
        Ok(())
    }

    /// Flips one random bit in the files that `filter` accepts, each byte being as likely as any other. Returns where,
    /// or `None` if those files are empty.
    pub fn rot_random(&self, filter: impl Fn(&Path) -> bool) -> Option<Rot> {
        let files: Vec<_> = self.files().into_iter().filter(|(path, _)| filter(path)).collect();
        let total: u64 = files.iter().map(|(_, len)| len).sum();
        if total == 0 {
            return None;
        }
        let mut at = self.state().rot.below(total);
        for (path, len) in files {
            if at < len {
                self.rot(&path, at).expect("the file was there a moment ago");
                return Some(Rot { path, offset: at });
            }
            at -= len;
        }
        unreachable!("the offset is below the sum of the lengths")
    }

    /// Returns every file with its length, in path order. Works with the power off, and counts no call.
    #[must_use]
    pub fn files(&self) -> Vec<(PathBuf, u64)> {
        self.state().files().map(|(path, inode)| (path, inode.len())).collect()
    }

    /// Returns a hash of every name, length and byte a reader would see. Equal runs have equal digests.
    #[must_use]
    pub fn digest(&self) -> u64 {
        let mut hash = Xxh3::new();
        for (path, inode) in self.state().files() {
            hash.update(path.as_os_str().as_encoded_bytes());
            hash.update(&[0]);
            hash.update(&inode.len().to_le_bytes());
            inode.visit(|bytes| hash.update(bytes));
        }
        hash.digest()
    }

    /// Returns how often each call was made and each fault fired.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.state().counters.clone()
    }
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.files()).finish()
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let mut state = self.state();
        let fate = state.begin(Op::Open)?;
        if fate == Fate::Eio {
            return Err(eio());
        }
        let found = state.find(path);
        let opened = match (mode, found) {
            (OpenMode::CreateNew, Some(_)) => {
                Err(io::Error::new(io::ErrorKind::AlreadyExists, path.display().to_string()))
            }
            (_, Some(id)) => Ok(id),
            (OpenMode::CreateNew | OpenMode::CreateOrOpen, None) if fate == Fate::Crash && !state.coin() => {
                Err(down())
            }
            (OpenMode::CreateNew | OpenMode::CreateOrOpen, None) => state.create(path),
            (OpenMode::Read | OpenMode::Write, None) => Err(missing(path)),
        };
        if fate == Fate::Crash {
            state.crash();
            return Err(down());
        }
        let inode = opened?;
        state.inode_mut(inode).handles += 1;
        let generation = state.generation;
        drop(state);
        Ok(Arc::new(SimFile { disk: self.clone(), inode, generation, writable: mode != OpenMode::Read }))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        match state.begin(Op::SyncDir)? {
            Fate::Go => state.make_dirs(path),
            Fate::Eio => Err(eio()),
            Fate::Crash => {
                if state.coin() {
                    // A file in the way would be the caller's next error; now the crash is.
                    let _ = state.make_dirs(path);
                }
                state.crash();
                Err(down())
            }
        }
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut state = self.state();
        state.begin_whole(Op::Look)?;
        state.list(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        let fate = state.begin(Op::Rename)?;
        if fate == Fate::Eio {
            return Err(eio());
        }
        let done = if fate == Fate::Go || state.coin() { rename(&mut state, from, to) } else { Ok(()) };
        if fate == Fate::Crash {
            state.crash();
            return Err(down());
        }
        done
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        let fate = state.begin(Op::Remove)?;
        if fate == Fate::Eio {
            return Err(eio());
        }
        let done = if fate == Fate::Go || state.coin() { remove(&mut state, path) } else { Ok(()) };
        if fate == Fate::Crash {
            state.crash();
            return Err(down());
        }
        done
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.begin_whole(Op::SyncDir)?;
        state.directory(dir)?.sync();
        state.collect();
        Ok(())
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        let mut state = self.state();
        state.begin_whole(Op::Look)?;
        Ok(state.find(path).is_some() || state.is_dir(path))
    }

    fn free_bytes(&self, _path: &Path) -> io::Result<u64> {
        let mut state = self.state();
        state.begin_whole(Op::Look)?;
        Ok(state.free_bytes())
    }

    fn lock_dir(&self, dir: &Path) -> io::Result<Box<dyn DirLock>> {
        let mut state = self.state();
        state.begin_whole(Op::Open)?;
        state.directory(dir)?;
        let path = dir.join("LOCK");
        if !state.locks.insert(dir.to_owned()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        if state.find(&path).is_none() {
            state.create(&path)?;
        }
        let generation = state.generation;
        drop(state);
        Ok(Box::new(SimLock { disk: self.clone(), dir: dir.to_owned(), generation }))
    }
}

fn rename(state: &mut State, from: &Path, to: &Path) -> io::Result<()> {
    if from.parent() != to.parent() {
        return Err(io::Error::new(
            io::ErrorKind::CrossesDevices,
            "the simulated disk renames within a directory",
        ));
    }
    if state.find(from).is_none() {
        return Err(missing(from));
    }
    if state.is_dir(to) {
        return Err(io::Error::new(io::ErrorKind::IsADirectory, to.display().to_string()));
    }
    let (_, new) = state.entry(to)?;
    let (directory, old) = state.entry(from)?;
    directory.rename(old, new);
    Ok(())
}

fn remove(state: &mut State, path: &Path) -> io::Result<()> {
    if state.find(path).is_none() {
        return Err(missing(path));
    }
    let (directory, name) = state.entry(path)?;
    directory.unlink(name);
    Ok(())
}

struct SimFile {
    disk: SimDisk,
    inode: InodeId,
    generation: u64,
    writable: bool,
}

impl SimFile {
    fn begin(&self, op: Op) -> io::Result<(MutexGuard<'_, State>, Fate)> {
        let mut state = self.disk.state();
        if state.generation != self.generation {
            return Err(down());
        }
        let fate = state.begin(op)?;
        Ok((state, fate))
    }

    fn check_writable(&self) -> io::Result<()> {
        if self.writable {
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::PermissionDenied, "the file was opened for reading"))
    }
}

impl File for SimFile {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let (mut state, fate) = self.begin(Op::Read)?;
        match fate {
            Fate::Go => {
                let inode = state.inode(self.inode);
                if offset.saturating_add(buffer.len() as u64) > inode.len() {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                inode.read(buffer, offset);
                Ok(())
            }
            Fate::Eio => Err(eio()),
            Fate::Crash => {
                state.crash();
                Err(down())
            }
        }
    }

    fn write_all_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.check_writable()?;
        let (mut state, fate) = self.begin(Op::Write)?;
        match fate {
            Fate::Go => state.write(self.inode, data, offset),
            Fate::Eio => {
                state.write_partly(self.inode, data, offset);
                Err(eio())
            }
            Fate::Crash => {
                state.write_partly(self.inode, data, offset);
                state.crash();
                Err(down())
            }
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        let (mut state, fate) = self.begin(Op::Sync)?;
        match fate {
            Fate::Go => {
                state.inode_mut(self.inode).sync();
                Ok(())
            }
            Fate::Eio => {
                state.fail_sync(self.inode);
                Err(eio())
            }
            Fate::Crash => {
                state.crash();
                Err(down())
            }
        }
    }

    fn len(&self) -> io::Result<u64> {
        let (mut state, fate) = self.begin(Op::Look)?;
        if fate == Fate::Crash {
            state.crash();
            return Err(down());
        }
        Ok(state.inode(self.inode).len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.check_writable()?;
        let (mut state, fate) = self.begin(Op::SetLen)?;
        match fate {
            Fate::Go => state.set_len(self.inode, len),
            Fate::Eio => Err(eio()),
            Fate::Crash => {
                if state.coin() {
                    let _ = state.set_len(self.inode, len);
                }
                state.crash();
                Err(down())
            }
        }
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        let mut state = self.disk.state();
        if state.generation != self.generation {
            return;
        }
        let inode = state.inode_mut(self.inode);
        inode.handles -= 1;
        if inode.handles == 0 {
            state.collect();
        }
    }
}

struct SimLock {
    disk: SimDisk,
    dir: PathBuf,
    generation: u64,
}

impl DirLock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut state = self.disk.state();
        if state.generation == self.generation {
            state.locks.remove(&self.dir);
        }
    }
}
