//! Spares: files written with zeros ahead of time, so that an append neither allocates nor changes metadata.
//!
//! `fallocate` alone gets only half-way (its extents stay unwritten until the first write), so every byte is written
//! once. That takes long, hence [`SpareMaker`]: the caller runs it on a background thread.
//!
//! # Invariants
//! - A file named `.spare` has its full length on disk: it is written and synced under `.tmp` first, or was a segment.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use z4_env::{Disk, OpenMode};

/// Zeros written per call.
const CHUNK: usize = 1 << 20;

/// The spares of a log directory.
pub(crate) struct Spares {
    dir: PathBuf,
    segment_bytes: u64,
    target: usize,
    pool: Mutex<Pool>,
}

#[derive(Default)]
struct Pool {
    ready: VecDeque<u64>,
    /// Names are used once per process. They mean nothing; the segment's header is written when it is taken.
    next: u64,
}

impl Spares {
    pub(crate) fn new(dir: &Path, segment_bytes: u64, target: usize, found: Vec<u64>) -> Self {
        let next = found.iter().max().map_or(1, |n| n + 1);
        let pool = Mutex::new(Pool { ready: found.into(), next });
        Self { dir: dir.to_owned(), segment_bytes, target, pool }
    }

    /// Returns the path of a spare.
    pub(crate) fn path(&self, name: u64) -> PathBuf {
        self.dir.join(format!("{name:016x}.spare"))
    }

    pub(crate) fn take(&self) -> Option<u64> {
        self.lock().ready.pop_front()
    }

    pub(crate) fn put(&self, name: u64) {
        self.lock().ready.push_back(name);
    }

    pub(crate) fn new_name(&self) -> u64 {
        let mut pool = self.lock();
        pool.next += 1;
        pool.next - 1
    }

    pub(crate) fn ready(&self) -> usize {
        self.lock().ready.len()
    }

    pub(crate) fn wanted(&self) -> bool {
        self.ready() < self.target
    }

    fn lock(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes spares, one per call. Clones share the pool.
#[derive(Clone)]
pub struct SpareMaker {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) spares: Arc<Spares>,
}

impl SpareMaker {
    /// Prewrites one spare and makes it durable. Returns false, doing nothing, if there are enough. Call it when a
    /// segment was taken or recycled, from one background thread: two at once may make one more than configured.
    ///
    /// # Errors
    /// Any error of the system, `StorageFull` above all; what was begun is removed. The log itself is unharmed.
    pub fn make(&self) -> io::Result<bool> {
        if !self.spares.wanted() {
            return Ok(false);
        }
        let name = self.spares.new_name();
        let unfinished = self.spares.dir.join(format!("{name:016x}.spare.tmp"));
        let made = self.write(&unfinished, name);
        match made {
            Ok(()) => self.spares.put(name),
            // The error that matters is the first one; a leftover is removed at the next start.
            Err(_) => drop(self.disk.remove(&unfinished)),
        }
        made.map(|()| true)
    }

    fn write(&self, unfinished: &Path, name: u64) -> io::Result<()> {
        let file = self.disk.open(unfinished, OpenMode::CreateNew)?;
        let zeros = vec![0; CHUNK.min(usize::try_from(self.spares.segment_bytes).unwrap_or(CHUNK))];
        let mut at = 0;
        while at < self.spares.segment_bytes {
            let n = (zeros.len() as u64).min(self.spares.segment_bytes - at);
            file.write_all_at(&zeros[..n as usize], at)?;
            at += n;
        }
        file.sync_data()?;
        self.disk.rename(unfinished, &self.spares.path(name))?;
        self.disk.sync_dir(&self.spares.dir)
    }
}
