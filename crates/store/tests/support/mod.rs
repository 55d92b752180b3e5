//! A disk in memory that forgets, keeps or tears what was not synced, and fails when told to.
//!
//! At a crash each unsynced sector of 512 bytes is kept, lost or torn (new bytes, then old ones) by a coin; an unsynced
//! length and names that no directory sync made durable are kept or lost.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part")]

pub mod replica;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use z4_env::{DirLock, Disk, File, OpenMode, Rng, SeededRng};

const SECTOR: usize = 512;

#[derive(Clone, Default)]
pub struct MemDisk(Arc<Mutex<State>>);

#[derive(Default, Clone)]
struct State {
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    files: Vec<Content>,
    /// Handles of an older epoch are dead.
    epoch: u64,
    /// Calls that write until the next one fails and every later call too: the machine dies.
    calls_left: Option<u64>,
    /// Whether writes find no space.
    full: bool,
    fail_sync: bool,
}

#[derive(Default, Clone)]
struct Content {
    bytes: Vec<u8>,
    durable: Vec<u8>,
    /// Sectors that differ from the durable state.
    dirty: std::collections::BTreeSet<usize>,
}

struct Handle {
    disk: MemDisk,
    file: usize,
    epoch: u64,
}

impl MemDisk {
    /// Makes the machine die after `calls` more writing calls.
    pub fn die_after(&self, calls: u64) {
        self.0.lock().unwrap().calls_left = Some(calls);
    }

    pub fn died(&self) -> bool {
        self.0.lock().unwrap().calls_left == Some(0)
    }

    pub fn set_full(&self, full: bool) {
        self.0.lock().unwrap().full = full;
    }

    pub fn set_fail_sync(&self, fail: bool) {
        self.0.lock().unwrap().fail_sync = fail;
    }

    /// Power loss: what was not synced is kept or lost, sector by sector. All open handles die.
    pub fn crash(&self, rng: &mut SeededRng) {
        let mut state = self.0.lock().unwrap();
        state.epoch += 1;
        state.calls_left = None;
        if rng.chance(1, 2) {
            state.names = state.durable_names.clone();
        }
        state.durable_names = state.names.clone();
        // From "all lost" to "all kept", and everything between.
        let kept = rng.below(5);
        for file in &mut state.files {
            let mut bytes = file.durable.clone();
            if rng.chance(kept, 4) {
                bytes.resize(file.bytes.len(), 0);
            }
            for sector in &file.dirty {
                let torn = if rng.chance(1, 4) { rng.below(SECTOR as u64) as usize } else { SECTOR };
                let at = sector * SECTOR..sector * SECTOR + torn;
                if rng.chance(kept, 4) && at.end <= bytes.len() && at.end <= file.bytes.len() {
                    bytes[at.clone()].copy_from_slice(&file.bytes[at]);
                }
            }
            *file = Content { durable: bytes.clone(), bytes, dirty: Default::default() };
        }
    }

    /// Returns a copy that goes its own way.
    pub fn fork(&self) -> Self {
        Self(Arc::new(Mutex::new(self.0.lock().unwrap().clone())))
    }

    pub fn read(&self, path: &Path) -> Vec<u8> {
        let state = self.0.lock().unwrap();
        state.files[state.names[path]].bytes.clone()
    }

    /// Changes a bit under whoever has the file open.
    pub fn flip(&self, path: &Path, at: usize) {
        let mut state = self.0.lock().unwrap();
        let file = state.names[path];
        state.files[file].bytes[at] ^= 1;
    }

    pub fn replace(&self, path: &Path, bytes: &[u8]) {
        let mut state = self.0.lock().unwrap();
        state.epoch += 1;
        let file = state.names[path];
        state.files[file] =
            Content { bytes: bytes.to_vec(), durable: bytes.to_vec(), dirty: Default::default() };
    }
}

impl State {
    fn write_call(&mut self) -> io::Result<()> {
        match &mut self.calls_left {
            None => Ok(()),
            Some(0) => Err(io::Error::other("the machine is dead")),
            Some(left) => {
                *left -= 1;
                if *left == 0 { Err(io::Error::other("the machine dies")) } else { Ok(()) }
            }
        }
    }
}

impl Handle {
    fn with<T>(&self, run: impl FnOnce(&mut State, usize) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.disk.0.lock().unwrap();
        if state.epoch != self.epoch {
            return Err(io::Error::other("a handle from before the crash"));
        }
        run(&mut state, self.file)
    }
}

impl File for Handle {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.with(|state, file| {
            let at = offset as usize;
            let from =
                state.files[file].bytes.get(at..at + buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
            buffer.copy_from_slice(from);
            Ok(())
        })
    }

    fn write_all_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.with(|state, file| {
            state.write_call()?;
            if state.full {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let at = offset as usize;
            let file = &mut state.files[file];
            if file.bytes.len() < at + data.len() {
                file.bytes.resize(at + data.len(), 0);
            }
            file.bytes[at..at + data.len()].copy_from_slice(data);
            file.dirty.extend(at / SECTOR..(at + data.len()).div_ceil(SECTOR));
            Ok(())
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.with(|state, file| {
            state.write_call()?;
            if state.fail_sync {
                return Err(io::Error::other("sync fails"));
            }
            let file = &mut state.files[file];
            let dirty = std::mem::take(&mut file.dirty);
            file.durable.resize(file.bytes.len(), 0);
            for sector in dirty {
                let at = sector * SECTOR..((sector + 1) * SECTOR).min(file.bytes.len());
                if at.start < at.end {
                    file.durable[at.clone()].copy_from_slice(&file.bytes[at]);
                }
            }
            Ok(())
        })
    }

    fn len(&self) -> io::Result<u64> {
        self.with(|state, file| Ok(state.files[file].bytes.len() as u64))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.with(|state, file| {
            state.write_call()?;
            let file = &mut state.files[file];
            let old = file.bytes.len();
            file.bytes.resize(len as usize, 0);
            if (len as usize) < old {
                file.dirty.extend(len as usize / SECTOR..old.div_ceil(SECTOR));
            }
            Ok(())
        })
    }
}

struct NoLock;
impl DirLock for NoLock {}

impl Disk for MemDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let mut state = self.0.lock().unwrap();
        let file = match (state.names.get(path).copied(), mode) {
            (Some(_), OpenMode::CreateNew) => return Err(io::ErrorKind::AlreadyExists.into()),
            (Some(file), _) => file,
            (None, OpenMode::Read | OpenMode::Write) => return Err(io::ErrorKind::NotFound.into()),
            (None, _) => {
                state.write_call()?;
                state.files.push(Content::default());
                let file = state.files.len() - 1;
                state.names.insert(path.into(), file);
                file
            }
        };
        Ok(Arc::new(Handle { disk: self.clone(), file, epoch: state.epoch }))
    }

    fn create_dir_all(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let state = self.0.lock().unwrap();
        let names = state.names.keys().filter(|path| path.parent() == Some(dir));
        Ok(names.map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        state.write_call()?;
        let file = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.names.insert(to.into(), file);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        state.write_call()?;
        state.names.remove(path).map(drop).ok_or(io::ErrorKind::NotFound.into())
    }

    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        state.write_call()?;
        state.durable_names = state.names.clone();
        Ok(())
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        Ok(self.0.lock().unwrap().names.contains_key(path))
    }

    fn free_bytes(&self, _path: &Path) -> io::Result<u64> {
        Ok(u64::MAX)
    }

    fn lock_dir(&self, _dir: &Path) -> io::Result<Box<dyn DirLock>> {
        Ok(Box::new(NoLock))
    }
}

/// Returns all rows of a group.
pub fn rows(
    scan: impl FnOnce(&[u8], &[u8], &mut z4_store::Visit<'_>) -> Result<(), z4_store::Error>,
) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, z4_store::Error> {
    let mut rows = BTreeMap::new();
    let mut last: Option<Vec<u8>> = None;
    scan(&[], &[255; 100], &mut |key, value| {
        assert!(last.as_deref().is_none_or(|last| last < key), "rows come in order, once");
        last = Some(key.to_vec());
        rows.insert(key.to_vec(), value.to_vec());
        true
    })?;
    Ok(rows)
}
