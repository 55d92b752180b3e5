//! The store of a host: opens the base, hands out groups, writes checkpoints.
//!
//! # Invariants
//! - One thread writes the base at a time (`writer`). Readers share the snapshot of the last commit (`current`).
//! - After a full disk the base is opened again at its last commit, before the failed call returns.
//! - A checkpoint writes a frozen set only if no install or removal of its group came between: rows of before would lie
//!   over rows they do not belong to, or come back from the dead.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use z4_env::Disk;
use z4_types::ShardId;

use crate::base::{self, Base, GroupRows, Health, Snapshot};
use crate::{Done, Error, Frozen, GroupStore, Meta};

/// Default of [`Config::cache_bytes`].
const CACHE_BYTES: usize = 48 << 20;

/// Where and how a store works.
#[derive(Debug, Clone)]
pub struct Config {
    /// Directory of the base; made if missing. The caller holds its lock.
    pub dir: PathBuf,
    /// Memory for pages of the base, bytes; half of it may hold pages a checkpoint is about to write.
    pub cache_bytes: usize,
}

impl Config {
    /// Returns the defaults for `dir`.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), cache_bytes: CACHE_BYTES }
    }
}

/// Size of the base.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BaseBytes {
    /// Length of the file, bytes. Parts of it may be holes: it grows ahead of need.
    pub file: u64,
    /// Keys and values of all rows, bytes.
    pub live: u64,
}

/// All groups of one host over one base. Clones share it.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    disk: Arc<dyn Disk>,
    config: Config,
    /// `None` while the base could not be opened again.
    writer: Mutex<Option<Base>>,
    current: RwLock<Arc<Snapshot>>,
    next_id: AtomicU64,
    /// How often each group's rows were replaced or removed since the base was opened; absent is 0. Changes only while
    /// `writer` is held.
    generations: Mutex<BTreeMap<ShardId, u64>>,
}

impl Store {
    /// Opens the base in `config.dir`, making an empty one if there is none.
    ///
    /// # Errors
    /// `Corrupt`, `Unsupported` (newer format), or an error of the disk.
    pub fn open(disk: Arc<dyn Disk>, config: Config) -> Result<Self, Error> {
        disk.create_dir_all(&config.dir).map_err(|error| Health::new(base::path(&config.dir)).io(&error))?;
        let base = Base::open(&*disk, &config.dir, config.cache_bytes)?;
        let current = RwLock::new(Arc::new(base.snapshot()?));
        Ok(Self(Arc::new(Inner {
            disk,
            config,
            writer: Mutex::new(Some(base)),
            current,
            next_id: AtomicU64::new(1),
            generations: Mutex::default(),
        })))
    }

    /// Returns the durable meta of every group in the base.
    ///
    /// # Errors
    /// None today; reserved for a base that cannot be read.
    pub fn groups(&self) -> Result<BTreeMap<ShardId, Meta>, Error> {
        Ok(self.current().groups().iter().map(|(group, (meta, _))| (*group, meta.clone())).collect())
    }

    /// Opens the working set of a group over its rows in the base; an unknown group starts empty. The caller keeps at most
    /// one per group.
    ///
    /// # Errors
    /// None today; reserved for a base that cannot be read.
    pub fn group(&self, id: ShardId) -> Result<GroupStore, Error> {
        Ok(GroupStore::open(self.clone(), id, self.generation(id), self.current()))
    }

    /// Writes the frozen sets of several groups and their metas in one durable transaction. Takes long: run it on a
    /// thread that nobody waits for. A set whose group was installed or deleted since it was frozen is left out, and
    /// missing in what is done. On success call [`GroupStore::installed`] on every group of the host; on
    /// `Overloaded` call [`GroupStore::abandoned`] on the frozen ones; on any other error the process should end.
    ///
    /// # Errors
    /// `Overloaded` if the disk is full; `Corrupt` or `Internal` otherwise.
    pub fn checkpoint(&self, frozen: &[Frozen]) -> Result<Done, Error> {
        let (outcome, written) = self.write(|base| {
            let written: Vec<Frozen> =
                frozen.iter().filter(|set| set.generation == self.generation(set.group)).cloned().collect();
            let groups: Vec<_> = written
                .iter()
                .map(|set| GroupRows { group: set.group, layers: &set.layers, meta: &set.meta })
                .collect();
            let before = self.current();
            Ok((base.write(&groups, |group| before.size_of(group))?, written))
        })?;
        Ok(Done { frozen: written, rows: outcome.rows })
    }

    /// Removes all rows and the meta of a group, durable on return. Its [`GroupStore`] must be gone, or be reset next; a
    /// checkpoint of it may still be under way and will leave it out.
    ///
    /// # Errors
    /// `Overloaded` if the disk is full (call again); `Corrupt` or `Internal` otherwise.
    pub fn delete_group(&self, id: ShardId) -> Result<(), Error> {
        self.write(|base| {
            self.end_generation(id);
            base.remove_group(id)
        })
    }

    /// Returns the size of the base.
    ///
    /// # Errors
    /// `Internal` if the file cannot be asked.
    pub fn base_bytes(&self) -> Result<BaseBytes, Error> {
        let live = base::live_bytes(self.current().groups());
        let file = self.writer()?.as_ref().expect("writer() opened it").file_bytes()?;
        Ok(BaseBytes { file, live })
    }

    pub(crate) fn next_id(&self) -> u64 {
        self.0.next_id.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn disk(&self) -> &Arc<dyn Disk> {
        &self.0.disk
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.0.config.dir
    }

    /// Returns how often the rows of `group` were replaced or removed.
    pub(crate) fn generation(&self, group: ShardId) -> u64 {
        self.generations().get(&group).copied().unwrap_or(0)
    }

    /// Makes everything void that was frozen of `group`. The caller holds the writer.
    pub(crate) fn end_generation(&self, group: ShardId) {
        *self.generations().entry(group).or_insert(0) += 1;
    }

    fn generations(&self) -> MutexGuard<'_, BTreeMap<ShardId, u64>> {
        self.0.generations.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the reader of the last commit.
    pub(crate) fn current(&self) -> Arc<Snapshot> {
        Arc::clone(&self.0.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn set_current(&self, snapshot: Snapshot) {
        *self.0.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(snapshot);
    }

    /// Returns the base opened after a full disk broke the one behind `old`, waiting for that to happen; `None` if
    /// `old` is broken for another reason.
    pub(crate) fn reopened_after(&self, old: &Snapshot) -> Option<Arc<Snapshot>> {
        if !matches!(old.health().failure(), Some(Error::Full { .. })) {
            return None;
        }
        drop(self.writer().ok()?);
        let current = self.current();
        (!Arc::ptr_eq(current.health(), old.health())).then_some(current)
    }

    /// Takes the writer, opening the base if the last attempt failed.
    fn writer(&self) -> Result<MutexGuard<'_, Option<Base>>, Error> {
        let mut writer = self.0.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if writer.is_none() {
            let base = Base::open(&*self.0.disk, &self.0.config.dir, self.0.config.cache_bytes)?;
            self.set_current(base.snapshot()?);
            *writer = Some(base);
        }
        Ok(writer)
    }

    /// Runs one commit and publishes what it made.
    pub(crate) fn write<T>(&self, commit: impl FnOnce(&Base) -> Result<T, Error>) -> Result<T, Error> {
        let mut writer = self.writer()?;
        let base = writer.as_ref().expect("writer() opened it");
        let result = commit(base).and_then(|done| Ok((done, base.snapshot()?)));
        match result {
            Ok((done, snapshot)) => {
                self.set_current(snapshot);
                Ok(done)
            }
            Err(error) => {
                if let Error::Full { .. } = error {
                    tracing::warn!(%error, "the base could not grow; opening it again at its last commit");
                    *writer = None;
                    drop(writer);
                    // If this fails too, the next call tries again.
                    self.writer()
                        .map(drop)
                        .or_else(|again| if again.kind() == error.kind() { Ok(()) } else { Err(again) })?;
                }
                Err(error)
            }
        }
    }
}
