//! The log itself: append a batch, sync it, seal it.
//!
//! A batch goes at the end of the newest segment, or into the next one if it does not fit. The next one is a spare if
//! there is one; otherwise a file that grows with each batch, which is slower but never waits for 64 MiB of zeros. A
//! growing segment is left for a spare as soon as one is ready. A batch larger than a segment gets one of its own,
//! which it extends.
//!
//! A full disk refuses the batch that would have to allocate, and nothing else: allocating writes go first, beyond the
//! end of the file, and are cut off again when they fail.
//!
//! # Invariants
//! - `pending` batches: none or one. See the crate's essay for what rests on this.
//! - Bytes of the newest segment from `end` on hold no record that checks.
//! - After a failed write or sync nothing is written any more: a page the kernel dropped may look written (Rebello).

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use z4_env::{Disk, File, OpenMode};
use z4_types::{Entry, HardState, Index, ShardId};

use crate::error::{Error, is_full};
use crate::format::{Encoder, SEGMENT_HEADER, SegmentHeader, View, stamp};
use crate::index::{Log, Segment, segment_path};
use crate::reader::Reader;
use crate::recover::{self, Recovered};
use crate::spare::{SpareMaker, Spares};

/// Memory the encoding buffer keeps between batches; a larger batch gives the rest back.
const BUFFER_BYTES_KEPT: usize = 8 << 20;

/// How a log is laid out.
#[derive(Debug, Clone)]
pub struct Config {
    /// The directory; created if missing. Nothing else may live in it but a `LOCK`.
    pub dir: PathBuf,
    /// Length of a segment file in bytes, its 4,096-byte header included. May change between starts.
    pub segment_bytes: u64,
    /// Prewritten segments kept ready.
    pub spares: usize,
}

impl Config {
    /// Returns the configuration of a real host: 64 MiB segments, two spares.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), segment_bytes: 64 << 20, spares: 2 }
    }
}

/// What one group persists in a batch: applied in the order of the fields, atomically.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Whose.
    pub group: ShardId,
    /// The new hard state, if it changed. Neither term nor commit may decrease.
    pub hard_state: Option<HardState>,
    /// Forgets entries at this index and above before appending. Needed only to shorten the log: an entry that is
    /// there already is replaced, with all after it, by appending.
    pub truncate: Option<Index>,
    /// Consecutive entries. The first one follows the log's last entry, replaces one, or, after a snapshot, follows
    /// the released index.
    pub entries: Vec<Entry>,
}

/// One group commit: written with one call, durable with one sync, recovered whole or not at all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    /// Of any groups, in order. A group may occur more than once.
    pub records: Vec<Record>,
}

/// Counters since [`Wal::open`], and sizes now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Live segments.
    pub segments: usize,
    /// Bytes of the live segments' files.
    pub bytes: u64,
    /// Spares ready.
    pub spares: usize,
    /// Batches written, seals included.
    pub batches: u64,
    /// Bytes of records written.
    pub written_bytes: u64,
    /// Syncs of batches.
    pub syncs: u64,
    /// Segments recycled or removed.
    pub recycled: u64,
    /// Records of quiet groups copied forward.
    pub carried: u64,
}

/// The newest segment.
pub(crate) struct Active {
    pub(crate) sequence: u64,
    pub(crate) file: Arc<dyn File>,
    /// Where the next batch goes.
    pub(crate) end: u64,
    /// Length of the file: below it, a write allocates nothing.
    pub(crate) allocated: u64,
}

/// The log of one host. See the crate's essay.
pub struct Wal {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) config: Config,
    pub(crate) log: Arc<RwLock<Log>>,
    pub(crate) spares: Arc<Spares>,
    pub(crate) active: Active,
    /// Number of the next batch.
    next_batch: u64,
    /// Whether a batch was written and not yet synced.
    pub(crate) pending: bool,
    /// Whether the last batch ends with a seal.
    sealed: bool,
    /// Whether a write or sync has failed.
    poisoned: bool,
    /// Groups to forget with the next batch; what was released of their next life.
    pub(crate) forgets: BTreeMap<ShardId, Index>,
    /// Records of quiet groups to repeat in the next batch. Invariant: nothing was appended since they were read.
    pub(crate) carried: Vec<Record>,
    buffer: Vec<u8>,
    pub(crate) counters: Stats,
}

impl Wal {
    /// Opens the log, or creates an empty one. `floor` is the durable applied index of each group, from the base:
    /// entries up to it count as released and are not loaded, but a [`Reader`] still finds them.
    ///
    /// Cuts off a torn tail; see `recover` for how that is told from damage.
    ///
    /// # Errors
    /// `Corrupt` if bytes that were synced do not check or are missing; `Unsupported` for a log of a newer version;
    /// `Invalid` for segments smaller than 4,096 bytes or of 4 GiB; `Overloaded` if a new log finds no space; `Internal` for any
    /// error of the system.
    pub fn open(
        disk: Arc<dyn Disk>,
        config: Config,
        floor: &BTreeMap<ShardId, Index>,
    ) -> Result<(Self, Recovered), Error> {
        let (least, most) = (SEGMENT_HEADER as u64, u64::from(u32::MAX));
        if config.segment_bytes < least || config.segment_bytes > most {
            return Err(Error::SegmentBytes { segment_bytes: config.segment_bytes, least, most });
        }
        let found = recover::recover(&*disk, &config, floor)?;
        let spares = Spares::new(&config.dir, config.segment_bytes, config.spares, found.spares);
        let (spares, log) = (Arc::new(spares), Arc::new(RwLock::new(found.log)));
        let active = match found.active {
            Some(active) => active,
            None => create_segment(&*disk, &config.dir, &spares, &log, 1, found.next_batch)
                .map_err(|failed| failed.into_error())?,
        };
        let wal = Self {
            disk,
            config,
            log,
            spares,
            active,
            next_batch: found.next_batch,
            pending: false,
            sealed: found.sealed,
            poisoned: false,
            forgets: BTreeMap::new(),
            carried: Vec::new(),
            buffer: Vec::new(),
            counters: Stats::default(),
        };
        Ok((wal, found.recovered))
    }

    /// Writes a batch. It is durable after the next [`Wal::sync`], readable at once. An empty batch writes nothing,
    /// unless something waits for the next batch (see [`Wal::forget`], [`Wal::recycle`]).
    ///
    /// # Errors
    /// `Overloaded` if the disk is full, `Invalid` if the batch takes 4 GiB: nothing was written, the log stays
    /// usable. `Internal` for any other error of the system: end the process.
    ///
    /// # Panics
    /// If the batch before was not synced, or if a record breaks the rules of [`Record`]: the log would not recover.
    pub fn append(&mut self, batch: &Batch) -> Result<(), Error> {
        self.write(batch, false)
    }

    /// Makes the last batch durable with one fdatasync. Does nothing if it is.
    ///
    /// # Errors
    /// `Internal`: whether the batch is durable is unknown, and stays so. Never retry; end the process.
    pub fn sync(&mut self) -> Result<(), Error> {
        self.usable()?;
        if self.pending {
            let synced = self.active.file.sync_data();
            self.or_poison("sync", self.active_path(), synced)?;
            self.pending = false;
            self.counters.syncs += 1;
        }
        Ok(())
    }

    /// Proves that the last batch was synced, by writing and syncing a tiny one behind it: from then on damage to it
    /// is told from a torn write. For when the log falls idle, and for a clean stop. Does nothing on a sealed log.
    ///
    /// # Errors
    /// As [`Wal::append`] and [`Wal::sync`]. `Overloaded` is harmless.
    ///
    /// # Panics
    /// If the last batch was not synced.
    pub fn seal(&mut self) -> Result<(), Error> {
        if !self.sealed || !self.forgets.is_empty() || !self.carried.is_empty() {
            self.write(&Batch::default(), true)?;
        }
        self.sync()
    }

    /// Returns a reader of this log.
    #[must_use]
    pub fn reader(&self) -> Reader {
        Reader { dir: self.config.dir.clone(), log: self.log.clone() }
    }

    /// Returns the maker of this log's spares.
    #[must_use]
    pub fn spare_maker(&self) -> SpareMaker {
        SpareMaker { disk: self.disk.clone(), spares: self.spares.clone() }
    }

    /// Returns the bytes of records that can be appended without allocating: the rest of the newest segment, and the
    /// spares. A batch that does not fit the rest leaves it unused.
    #[must_use]
    pub fn room(&self) -> u64 {
        let rest = self.active.allocated - self.active.end;
        rest + self.spares.ready() as u64 * (self.config.segment_bytes - SEGMENT_HEADER as u64)
    }

    /// Returns counters and sizes.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let log = self.read();
        let bytes = log.segments.values().map(|s| s.bytes).sum();
        Stats { segments: log.segments.len(), bytes, spares: self.spares.ready(), ..self.counters }
    }

    fn write(&mut self, batch: &Batch, seal: bool) -> Result<(), Error> {
        self.usable()?;
        assert!(!self.pending, "a batch is written only after the one before was synced");
        self.check(batch);
        let mut encoder = Encoder::new(&mut self.buffer);
        for group in self.forgets.keys() {
            encoder.forget(*group);
        }
        // What is carried goes first, so that what is new overrides it.
        for record in self.carried.iter().chain(&batch.records) {
            let Record { group, hard_state, truncate, entries } = record;
            if hard_state.is_some() || truncate.is_some() || !entries.is_empty() {
                encoder.log(*group, hard_state.as_ref(), *truncate, entries);
            }
        }
        if seal {
            encoder.seal();
        }
        if !encoder.finish() {
            return Ok(());
        }
        self.make_place(self.buffer.len() as u64)?;
        stamp(&mut self.buffer, self.active.sequence, self.active.end, self.next_batch);
        self.put()?;
        self.learn();
        self.counters.batches += 1;
        self.counters.written_bytes += self.buffer.len() as u64;
        self.counters.carried += self.carried.len() as u64;
        self.carried.clear();
        self.active.end += self.buffer.len() as u64;
        self.next_batch += 1;
        (self.pending, self.sealed) = (true, seal);
        if self.buffer.capacity() > BUFFER_BYTES_KEPT {
            self.buffer = Vec::new();
        }
        Ok(())
    }

    /// Panics if a record breaks the rules. Before the write: a log with a gap would never open again.
    fn check(&self, batch: &Batch) {
        let log = self.read();
        for (at, record) in batch.records.iter().enumerate() {
            let group = record.group;
            let index = if self.forgets.contains_key(&group) { None } else { log.groups.get(&group) };
            if let (Some(new), Some((old, _))) = (record.hard_state, index.and_then(|i| i.hard_state)) {
                assert!(
                    new.term >= old.term,
                    "group {group}: the term went from {} to {}",
                    old.term,
                    new.term
                );
                assert!(
                    new.commit >= old.commit,
                    "group {group}: the commit index went from {} to {}",
                    old.commit,
                    new.commit
                );
            }
            let Some(first) = record.entries.first() else { continue };
            assert!(first.index > Index(0), "group {group}: a log starts at 1");
            let released =
                self.forgets.get(&group).copied().or(index.map(|i| i.released)).unwrap_or_default();
            let cut = record.truncate.map_or(u64::MAX, |t| t.0.saturating_sub(1));
            let last = Index(index.and_then(|i| i.last()).unwrap_or_default().0.min(cut));
            let follows = first.index <= last.max(released).next();
            let earlier = || {
                let mut same = batch.records[..at].iter().filter(|r| r.group == group);
                same.any(|r| r.entries.last().is_some_and(|e| first.index <= e.index.next()))
            };
            assert!(
                follows || earlier(),
                "group {group}: entry {} leaves a gap behind {last}, and only {released} is released",
                first.index
            );
        }
    }

    /// Makes the newest segment one that takes `length` bytes.
    fn make_place(&mut self, length: u64) -> Result<(), Error> {
        if SEGMENT_HEADER as u64 + length > u64::from(u32::MAX) {
            return Err(Error::TooLarge { bytes: length });
        }
        let Active { end, allocated, .. } = self.active;
        let used = end > SEGMENT_HEADER as u64;
        let fits = end + length <= self.config.segment_bytes.max(allocated);
        let better = allocated < self.config.segment_bytes && self.spares.ready() > 0;
        if (fits || !used) && !better {
            return Ok(());
        }
        let (dir, next) = (&self.config.dir, self.active.sequence + 1);
        match create_segment(&*self.disk, dir, &self.spares, &self.log, next, self.next_batch) {
            Ok(active) => self.active = active,
            Err(Failed { full: true, .. }) => return Err(self.full(length)),
            Err(failed) => {
                self.poisoned = true;
                return Err(failed.into_error());
            }
        }
        Ok(())
    }

    /// Writes the buffer at the end of the newest segment.
    fn put(&mut self) -> Result<(), Error> {
        let Active { ref file, end, allocated, .. } = self.active;
        let behind = end + self.buffer.len() as u64;
        if behind <= allocated {
            let written = file.write_all_at(&self.buffer, end);
            return self.or_poison("write", self.active_path(), written);
        }
        // The part that allocates goes first: as long as it can still be refused, nothing else was touched.
        let inside = (allocated - end) as usize;
        match file.write_all_at(&self.buffer[inside..], allocated) {
            Err(e) if is_full(&e) => {
                // Synced, so that no crash brings back what the caller is told was not written.
                let cut = file.set_len(allocated).and_then(|()| file.sync_data());
                self.or_poison("cut", self.active_path(), cut)?;
                return Err(self.full(self.buffer.len() as u64));
            }
            written => self.or_poison("write", self.active_path(), written)?,
        }
        if inside > 0 {
            let written = self.active.file.write_all_at(&self.buffer[..inside], end);
            self.or_poison("write", self.active_path(), written)?;
        }
        self.active.allocated = behind;
        Ok(())
    }

    /// Takes what was written into the index.
    fn learn(&mut self) {
        let Active { sequence, end, allocated, .. } = self.active;
        let mut log = self.log.write().unwrap_or_else(PoisonError::into_inner);
        let mut at = 0;
        while at < self.buffer.len() {
            let view = View::parse(&self.buffer, at, sequence, false).expect("it was encoded a moment ago");
            log.learn(&view, sequence, end + at as u64);
            at += view.length;
        }
        for (group, released) in std::mem::take(&mut self.forgets) {
            if released > Index(0) {
                log.groups.entry(group).or_default().released = released;
            }
        }
        log.segments.get_mut(&sequence).expect("the newest segment is live").bytes = allocated;
    }

    pub(crate) fn usable(&self) -> Result<(), Error> {
        if self.poisoned { Err(Error::Poisoned) } else { Ok(()) }
    }

    /// Lets nothing more be written if `result` is an error.
    pub(crate) fn or_poison<T>(
        &mut self,
        what: &'static str,
        file: PathBuf,
        result: io::Result<T>,
    ) -> Result<T, Error> {
        result.map_err(|source| {
            self.poisoned = true;
            Error::Io { what, file, source }
        })
    }

    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Log> {
        self.log.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn write_log(&self) -> RwLockWriteGuard<'_, Log> {
        self.log.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn active_path(&self) -> PathBuf {
        segment_path(&self.config.dir, self.active.sequence)
    }

    fn full(&self, needed: u64) -> Error {
        Error::Full { dir: self.config.dir.clone(), needed }
    }
}

/// Why there is no new segment.
struct Failed {
    /// The disk is full, and everything is as it was.
    full: bool,
    what: &'static str,
    file: PathBuf,
    source: io::Error,
}

impl Failed {
    fn into_error(self) -> Error {
        if self.full {
            let dir = self.file.parent().unwrap_or(Path::new("")).to_owned();
            return Error::Full { dir, needed: SEGMENT_HEADER as u64 };
        }
        Error::Io { what: self.what, file: self.file, source: self.source }
    }
}

/// Turns a spare, or a new file, into segment `sequence`. Its name appears only when its header is durable.
fn create_segment(
    disk: &dyn Disk,
    dir: &Path,
    spares: &Spares,
    log: &RwLock<Log>,
    sequence: u64,
    first_batch: u64,
) -> Result<Active, Failed> {
    let spare = spares.take();
    let from = spare.map_or_else(|| dir.join(format!("{sequence:016x}.wal.tmp")), |name| spares.path(name));
    let to = segment_path(dir, sequence);
    let give_back = |what, source: io::Error| {
        let full = is_full(&source);
        match spare {
            Some(name) => spares.put(name),
            None => drop(disk.remove(&from)),
        }
        Failed { full, what, file: from.clone(), source }
    };
    let mode = if spare.is_some() { OpenMode::Write } else { OpenMode::CreateOrOpen };
    let file = disk.open(&from, mode).map_err(|e| give_back("open", e))?;
    let header = SegmentHeader { sequence, first_batch }.encode();
    file.write_all_at(&header, 0).map_err(|e| give_back("write", e))?;
    // Never "full": after a failed sync the header's page is in doubt, whatever the reason.
    let fatal = |what, file: &Path| {
        let file = file.to_owned();
        move |source| Failed { full: false, what, file, source }
    };
    file.sync_data().map_err(fatal("sync", &from))?;
    let allocated = file.len().map_err(fatal("measure", &from))?;
    disk.rename(&from, &to).map_err(|e| give_back("rename", e))?;
    disk.sync_dir(dir).map_err(fatal("sync", dir))?;
    let segment = Segment { file: file.clone(), bytes: allocated };
    log.write().unwrap_or_else(PoisonError::into_inner).segments.insert(sequence, segment);
    Ok(Active { sequence, file, end: SEGMENT_HEADER as u64, allocated })
}
