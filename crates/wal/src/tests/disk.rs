//! A disk in memory that keeps what was synced, and of the rest whatever its seed says.
//!
//! At a crash, every 512-byte sector written since the file's last sync is kept, lost, or torn (the first bytes new, the
//! others old); a changed length is kept or not; so is every change of a name since the directory's last sync.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use z4_env::{DirLock, Disk, File, OpenMode, Rng};

const SECTOR: usize = 512;

#[derive(Clone, Default)]
pub(super) struct TestDisk(Arc<Mutex<State>>);

#[derive(Clone, Default)]
struct State {
    inodes: Vec<Inode>,
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    /// Changes of names since the last sync of the directory, in order.
    changes: Vec<Change>,
    /// Bytes all files may take together; 0 for no limit.
    capacity: usize,
    /// Fails every sync of a file.
    sync_fails: bool,
    syncs: u64,
    /// Changing calls until a photo is taken; 0 for never.
    until_photo: u64,
    /// The disk right before that call.
    photo: Option<Box<State>>,
}

#[derive(Clone)]
enum Change {
    Set(PathBuf, usize),
    Rename(PathBuf, PathBuf, usize),
    Remove(PathBuf),
}

#[derive(Clone, Default)]
struct Inode {
    now: Vec<u8>,
    durable: Vec<u8>,
    dirty: BTreeSet<usize>,
}

struct Handle {
    disk: TestDisk,
    inode: usize,
}

impl TestDisk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no test panics in here")
    }

    /// Returns what a machine finds after losing power now.
    pub(super) fn crashed(&self, rng: &mut dyn Rng) -> Self {
        let mut state = self.state().clone();
        for inode in &mut state.inodes {
            inode.crash(rng);
        }
        let mut names = state.durable_names.clone();
        let keep_all = rng.chance(1, 3);
        for change in std::mem::take(&mut state.changes) {
            if keep_all || rng.chance(1, 2) {
                change.apply(&mut names);
            }
        }
        state.names = names.clone();
        state.durable_names = names;
        (state.capacity, state.sync_fails) = (0, false);
        Self(Arc::new(Mutex::new(state)))
    }

    /// Returns a copy, as it is without a crash.
    pub(super) fn copied(&self) -> Self {
        Self(Arc::new(Mutex::new(self.state().clone())))
    }

    /// Takes a photo of the disk right before the `n`-th changing call from now.
    pub(super) fn arm(&self, n: u64) {
        let mut state = self.state();
        (state.until_photo, state.photo) = (n, None);
    }

    /// Returns the disk as the photo shows it, if there were that many calls.
    pub(super) fn photo(&self) -> Option<Self> {
        let mut state = self.state();
        state.until_photo = 0;
        state.photo.take().map(|p| Self(Arc::new(Mutex::new(*p))))
    }

    /// Returns the state for a call that changes something.
    fn changing(&self) -> MutexGuard<'_, State> {
        let mut state = self.state();
        if state.until_photo > 0 {
            state.until_photo -= 1;
            if state.until_photo == 0 {
                state.photo = Some(Box::new(state.clone()));
            }
        }
        state
    }

    pub(super) fn flip(&self, path: &Path, offset: usize, mask: u8) {
        let mut state = self.state();
        let inode = state.names[path];
        state.inodes[inode].now[offset] ^= mask;
    }

    pub(super) fn bytes(&self, path: &Path) -> Vec<u8> {
        let state = self.state();
        state.inodes[state.names[path]].now.clone()
    }

    pub(super) fn put(&self, path: &Path, bytes: &[u8]) {
        let file = self.open(path, OpenMode::CreateOrOpen).expect("in memory");
        file.set_len(0).expect("in memory");
        file.write_all_at(bytes, 0).expect("in memory");
    }

    pub(super) fn used(&self) -> usize {
        self.state().used()
    }

    pub(super) fn limit(&self, capacity: usize) {
        self.state().capacity = capacity;
    }

    pub(super) fn fail_syncs(&self) {
        self.state().sync_fails = true;
    }

    pub(super) fn syncs(&self) -> u64 {
        self.state().syncs
    }
}

impl State {
    fn used(&self) -> usize {
        self.names.values().map(|i| self.inodes[*i].now.len()).sum()
    }

    fn change(&mut self, change: Change) {
        change.clone().apply(&mut self.names);
        self.changes.push(change);
    }
}

impl Change {
    fn apply(self, names: &mut BTreeMap<PathBuf, usize>) {
        match self {
            Change::Set(path, inode) => drop(names.insert(path, inode)),
            Change::Remove(path) => drop(names.remove(&path)),
            Change::Rename(from, to, inode) => {
                names.remove(&from);
                names.insert(to, inode);
            }
        }
    }
}

impl Inode {
    fn crash(&mut self, rng: &mut dyn Rng) {
        let mut after = self.durable.clone();
        if after.len() != self.now.len() && rng.chance(1, 2) {
            after.resize(self.now.len(), 0);
        }
        // One in three crashes favours a prefix, as an elevator would.
        let prefix = rng.chance(1, 3).then(|| rng.below(self.dirty.len() as u64 + 1));
        for (at, sector) in self.dirty.iter().enumerate() {
            let range = sector * SECTOR..((sector + 1) * SECTOR).min(after.len()).min(self.now.len());
            if range.is_empty() {
                continue;
            }
            let kept = match (prefix, rng.below(4)) {
                (Some(prefix), _) if (at as u64) < prefix => range.len(),
                (Some(_), _) | (None, 0) => 0,
                (None, 1) => rng.below(range.len() as u64 + 1) as usize,
                (None, _) => range.len(),
            };
            let range = range.start..range.start + kept;
            after[range.clone()].copy_from_slice(&self.now[range]);
        }
        self.dirty.clear();
        self.now = after.clone();
        self.durable = after;
    }

    fn touch(&mut self, from: usize, to: usize) {
        self.dirty.extend(from / SECTOR..to.div_ceil(SECTOR));
    }
}

impl Disk for TestDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let mut state = self.changing();
        let inode = match (state.names.get(path), mode) {
            (Some(_), OpenMode::CreateNew) => return Err(ErrorKind::AlreadyExists.into()),
            (Some(inode), _) => *inode,
            (None, OpenMode::Read | OpenMode::Write) => return Err(ErrorKind::NotFound.into()),
            (None, _) => {
                let inode = state.inodes.len();
                state.inodes.push(Inode::default());
                state.change(Change::Set(path.to_owned(), inode));
                inode
            }
        };
        Ok(Arc::new(Handle { disk: self.clone(), inode }))
    }

    fn create_dir_all(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let name = |p: &PathBuf| Some(p.strip_prefix(dir).ok()?.to_str()?.to_owned());
        Ok(self.state().names.keys().filter_map(name).collect())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.changing();
        let inode = *state.names.get(from).ok_or(ErrorKind::NotFound)?;
        state.change(Change::Rename(from.to_owned(), to.to_owned(), inode));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.changing();
        state.names.get(path).ok_or(ErrorKind::NotFound)?;
        state.change(Change::Remove(path.to_owned()));
        Ok(())
    }

    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        let mut state = self.changing();
        state.changes.clear();
        state.durable_names = state.names.clone();
        Ok(())
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        Ok(self.state().names.contains_key(path))
    }

    fn free_bytes(&self, _path: &Path) -> io::Result<u64> {
        Ok(u64::MAX)
    }

    fn lock_dir(&self, _dir: &Path) -> io::Result<Box<dyn DirLock>> {
        Err(ErrorKind::Unsupported.into())
    }
}

impl File for Handle {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let state = self.disk.state();
        let now = &state.inodes[self.inode].now;
        let found =
            now.get(offset as usize..offset as usize + buffer.len()).ok_or(ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(found);
        Ok(())
    }

    fn write_all_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.disk.changing();
        let (used, capacity) = (state.used(), state.capacity);
        let inode = &mut state.inodes[self.inode];
        let (from, mut to) = (offset as usize, offset as usize + data.len());
        let mut full = false;
        if capacity > 0 && to > inode.now.len() {
            // Like a real one, a full disk writes what it can before it complains.
            let most = inode.now.len() + capacity.saturating_sub(used);
            full = to > most;
            to = to.min(most).max(from);
        }
        if to > inode.now.len() {
            inode.now.resize(to, 0);
        }
        inode.now[from..to].copy_from_slice(&data[..to - from]);
        inode.touch(from, to);
        if full { Err(ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.disk.changing();
        if state.sync_fails {
            return Err(io::Error::other("injected"));
        }
        state.syncs += 1;
        let inode = &mut state.inodes[self.inode];
        inode.durable.clone_from(&inode.now);
        inode.dirty.clear();
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.state().inodes[self.inode].now.len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.disk.changing();
        let inode = &mut state.inodes[self.inode];
        let (from, to) = (inode.now.len().min(len as usize), inode.now.len().max(len as usize));
        inode.now.resize(len as usize, 0);
        inode.touch(from, to);
        Ok(())
    }
}
