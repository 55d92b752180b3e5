//! Opening a log: replay every segment, cut off a torn tail, refuse damage.
//!
//! Segments are replayed in order, batch by batch; a batch counts when all of its records check, up to the one flagged
//! last. In all segments but the newest, batches must reach up to the next segment's first: anything else is damage. In
//! the newest, the first record that does not check is either the end, or a write that a crash tore, or damage:
//!
//! ```text
//!   ... N-1 | N-1 | N | ?????? | N | zeros, stale bytes         torn: N was never synced, so never acknowledged
//!   ... N-1 | N-1 | N | ?????? | N+1 | ...                      damage: N+1 is written only after N was synced
//! ```
//!
//! So the rest of the newest segment is searched, at every place a record could start, for one that checks and carries a
//! higher batch number. None: the incomplete batch is dropped whole, and what is left of it is written over, since
//! the next batch will carry the same number. Some: nothing is changed and the error names the place.
//!
//! What was accepted last may be in the page cache only (the process died, or a sync failed, after writing it), so it is
//! written again and synced before anybody can build on it.
//!
//! # Invariants
//! - A group's recovered entries are consecutive and start right behind its floor, or the log is damaged.
//! # Caveats
//! - Damage to the last batch looks like a torn write, unless the log was sealed. See the crate's essay.
//! - A segment is read whole: recovery takes one segment's size in memory, besides the entries above the floor.

use std::collections::BTreeMap;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use z4_env::{Disk, File, OpenMode};
use z4_types::{Entry, HardState, Index, ShardId};

use crate::error::Error;
use crate::format::{RECORD_HEADER, RecordKind, SEGMENT_HEADER, SegmentHeader, VERSION, View, search};
use crate::index::{Log, Segment, parse_name, segment_path};
use crate::wal::{Active, Config};

/// What a group persisted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GroupLog {
    /// The newest one; the default if there never was one.
    pub hard_state: HardState,
    /// The entries above the floor: consecutive, the first one right behind it.
    pub entries: Vec<Entry>,
}

/// What the log held at start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Every group with a record left in the log. One that is missing has neither hard state nor entries.
    pub groups: BTreeMap<ShardId, GroupLog>,
}

/// All that opening found out.
pub(crate) struct Found {
    pub(crate) log: Log,
    pub(crate) recovered: Recovered,
    pub(crate) spares: Vec<u64>,
    /// The newest segment, none if there is no log yet.
    pub(crate) active: Option<Active>,
    pub(crate) next_batch: u64,
    pub(crate) sealed: bool,
}

/// A segment whose header was read.
struct Headed {
    path: PathBuf,
    file: Arc<dyn File>,
    header: SegmentHeader,
}

pub(crate) fn recover(
    disk: &dyn Disk,
    config: &Config,
    floor: &BTreeMap<ShardId, Index>,
) -> Result<Found, Error> {
    let dir = &config.dir;
    disk.create_dir_all(dir).map_err(io_error("create", dir))?;
    let (sequences, spares) = sort_names(disk, config)?;
    let segments = read_headers(disk, dir, &sequences)?;
    // What a crash left in the directory may be there in memory only.
    disk.sync_dir(dir).map_err(io_error("sync", dir))?;

    let mut replay = Replay { log: Log::default(), tails: BTreeMap::new(), floor, batch: 1, sealed: false };
    if let Some(oldest) = segments.first() {
        replay.batch = oldest.header.first_batch;
    }
    let mut active = None;
    let mut bytes = Vec::new();
    for (at, segment) in segments.iter().enumerate() {
        let Headed { path, file, header } = segment;
        let length = file.len().map_err(io_error("measure", path))?;
        bytes.resize(usize::try_from(length).expect("a segment stays below 4 GiB"), 0);
        file.read_exact_at(&mut bytes, 0).map_err(io_error("read", path))?;
        replay.log.segments.insert(header.sequence, Segment { file: file.clone(), bytes: length });
        match segments.get(at + 1) {
            Some(next) => replay.older(&bytes, segment, next.header.first_batch)?,
            None => active = Some(replay.newest(config, &mut bytes, segment)?),
        }
    }
    let (next_batch, sealed) = (replay.batch, replay.sealed);
    let (log, recovered) = replay.finish(dir)?;
    Ok(Found { log, recovered, spares, active, next_batch, sealed })
}

/// Lists the directory: sequences of segments, names of spares. Removes what was never finished.
fn sort_names(disk: &dyn Disk, config: &Config) -> Result<(Vec<u64>, Vec<u64>), Error> {
    let dir = &config.dir;
    let (mut sequences, mut spares) = (Vec::new(), Vec::new());
    for name in disk.list(dir).map_err(io_error("list", dir))? {
        let path = dir.join(&name);
        if name.ends_with(".tmp") {
            disk.remove(&path).map_err(io_error("remove", &path))?;
        } else if let Some(sequence) = parse_name(&name, "wal") {
            sequences.push(sequence);
        } else if let Some(spare) = parse_name(&name, "spare") {
            let file = disk.open(&path, OpenMode::Write).map_err(io_error("open", &path))?;
            let length = file.len().map_err(io_error("measure", &path))?;
            if length < config.segment_bytes {
                disk.remove(&path).map_err(io_error("remove", &path))?;
                continue;
            }
            if length > config.segment_bytes {
                file.set_len(config.segment_bytes).map_err(io_error("cut", &path))?;
            }
            spares.push(spare);
        }
    }
    sequences.sort_unstable();
    Ok((sequences, spares))
}

fn read_headers(disk: &dyn Disk, dir: &Path, sequences: &[u64]) -> Result<Vec<Headed>, Error> {
    let mut segments = Vec::new();
    for (at, &sequence) in sequences.iter().enumerate() {
        if at > 0 && sequences[at - 1] + 1 != sequence {
            let why = format!("this segment is missing, but {sequence:016x}.wal is there");
            return Err(Error::Corrupt { file: segment_path(dir, sequences[at - 1] + 1), offset: 0, why });
        }
        let path = segment_path(dir, sequence);
        let file = disk.open(&path, OpenMode::Write).map_err(io_error("open", &path))?;
        let length = file.len().map_err(io_error("measure", &path))?;
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(usize::MAX).min(SEGMENT_HEADER)];
        file.read_exact_at(&mut bytes, 0).map_err(io_error("read", &path))?;
        match SegmentHeader::parse(&bytes, sequence) {
            Ok(Ok(header)) => segments.push(Headed { path, file, header }),
            Ok(Err(found)) => return Err(Error::Version { file: path, found, supported: VERSION }),
            // The newest one may have a bad header if it was never used: then nothing is lost with it. A lone one may
            // not, unless it is the very first: its elders were recycled because it holds what they held.
            Err(why) => {
                let newest = at + 1 == sequences.len() && (at > 0 || sequence == 1);
                if !newest || was_used(&*file, &path, length, sequence)? {
                    return Err(Error::Corrupt { file: path, offset: 0, why: why.to_owned() });
                }
                disk.remove(&path).map_err(io_error("remove", &path))?;
            }
        }
    }
    Ok(segments)
}

/// Returns whether any record of this segment checks.
fn was_used(file: &dyn File, path: &Path, length: u64, sequence: u64) -> Result<bool, Error> {
    let mut bytes = vec![0; usize::try_from(length).expect("a segment stays below 4 GiB")];
    file.read_exact_at(&mut bytes, 0).map_err(io_error("read", path))?;
    let starts = (SEGMENT_HEADER..bytes.len().saturating_sub(RECORD_HEADER - 1)).step_by(8);
    Ok(starts.into_iter().any(|at| View::parse(&bytes, at, sequence, true).is_ok()))
}

/// The state of a replay.
struct Replay<'a> {
    log: Log,
    /// The entries above the floor.
    tails: BTreeMap<ShardId, Vec<Entry>>,
    floor: &'a BTreeMap<ShardId, Index>,
    /// Number of the next batch.
    batch: u64,
    /// Whether the last batch ended with a seal.
    sealed: bool,
}

/// Where a replay stopped.
struct Stop {
    /// Start of the batch that is not complete.
    batch_at: usize,
    /// Start of the last complete batch, or the same if this segment has none.
    last_batch_at: usize,
    /// The first record that does not check.
    at: usize,
    why: &'static str,
}

impl Replay<'_> {
    /// Replays a segment that has a successor: it must hold every batch below `until`.
    fn older(&mut self, bytes: &[u8], segment: &Headed, until: u64) -> Result<(), Error> {
        match self.batches(bytes, segment.header.sequence, true, Some(until)) {
            None => Ok(()),
            Some(stop) => {
                let why = format!("{}, yet batches up to {} were synced", stop.why, until - 1);
                Err(Error::Corrupt { file: segment.path.clone(), offset: stop.at as u64, why })
            }
        }
    }

    /// Replays the newest segment and makes its end clean and durable.
    fn newest(&mut self, config: &Config, bytes: &mut [u8], segment: &Headed) -> Result<Active, Error> {
        let sequence = segment.header.sequence;
        // The planted bug: at the tail, whatever can be read is taken.
        let verify = !cfg!(feature = "bug-torn-tail-accepted");
        let stop =
            self.batches(bytes, sequence, verify, None).expect("without a bound it ends at a bad record");
        let mut damage = None;
        let mut leftover = stop.at;
        search(bytes, stop.batch_at, sequence, self.batch, |at, view| {
            if view.batch > self.batch {
                damage = Some(view.batch);
                return ControlFlow::Break(());
            }
            leftover = leftover.max(at + view.length);
            ControlFlow::Continue(())
        });
        let Headed { path, file, .. } = segment;
        if let Some(later) = damage {
            let why = format!("{} in batch {}, yet batch {later} follows it", stop.why, self.batch);
            return Err(Error::Corrupt { file: path.clone(), offset: stop.at as u64, why });
        }
        let end = stop.batch_at;
        let grows = (bytes.len() as u64) < config.segment_bytes;
        if grows {
            file.set_len(end as u64).map_err(io_error("cut", path))?;
        } else {
            bytes[end..leftover].fill(0);
        }
        let dirty = stop.last_batch_at..if grows { end } else { leftover };
        if !dirty.is_empty() {
            file.write_all_at(&bytes[dirty.clone()], dirty.start as u64).map_err(io_error("write", path))?;
        }
        file.sync_data().map_err(io_error("sync", path))?;
        let allocated = if grows { end } else { bytes.len() } as u64;
        self.log.segments.get_mut(&sequence).expect("inserted before").bytes = allocated;
        Ok(Active { sequence, file: file.clone(), end: end as u64, allocated })
    }

    /// Replays complete batches until number `until`, or a record that does not check.
    fn batches(&mut self, bytes: &[u8], sequence: u64, verify: bool, until: Option<u64>) -> Option<Stop> {
        let mut records = Vec::new();
        let mut batch_at = SEGMENT_HEADER;
        let mut last_batch_at = batch_at;
        while until != Some(self.batch) {
            records.clear();
            let mut at = batch_at;
            loop {
                let stop = |why| Some(Stop { batch_at, last_batch_at, at, why });
                let view = match View::parse(bytes, at, sequence, verify) {
                    Err(why) => return stop(why),
                    Ok(view) if view.batch != self.batch => return stop("a record out of order"),
                    Ok(view) => view,
                };
                records.push((at, view));
                at += view.length;
                if view.last {
                    break;
                }
            }
            for (at, view) in &records {
                self.learn(view, sequence, *at as u64);
                self.sealed = view.kind == RecordKind::Seal;
            }
            (last_batch_at, batch_at) = (batch_at, at);
            self.batch += 1;
        }
        None
    }

    fn learn(&mut self, view: &View<'_>, sequence: u64, offset: u64) {
        self.log.learn(view, sequence, offset);
        if view.kind == RecordKind::Forget {
            self.tails.remove(&view.group);
        }
        if view.kind != RecordKind::Log {
            return;
        }
        let floor = self.floor.get(&view.group).copied().unwrap_or_default();
        let tail = self.tails.entry(view.group).or_default();
        if let Some(from) = view.truncate {
            tail.truncate(tail.partition_point(|e| e.index < from));
        }
        let Some(mut entries) = view.entries else { return };
        if let Some(first) = entries.clone().next() {
            tail.truncate(tail.partition_point(|e| e.index < first.index));
            if tail.last().is_some_and(|last| last.index.next() != first.index) {
                tail.clear();
            }
        }
        tail.extend(entries.by_ref().filter(|e| e.index > floor).map(|e| e.to_entry()));
    }

    /// Hands out what was replayed, if it fits the floor.
    fn finish(self, dir: &Path) -> Result<(Log, Recovered), Error> {
        let Self { mut log, mut tails, floor, .. } = self;
        let mut recovered = Recovered::default();
        for (group, index) in &log.groups {
            let entries = tails.remove(group).unwrap_or_default();
            let floor = floor.get(group).copied().unwrap_or_default();
            if let Some(first) = entries.first().map(|e| e.index)
                && first > floor.next()
            {
                let at = index.get(first).expect("the index has what the tail has");
                let why = format!(
                    "the log of group {group} starts with entry {first}, but the base holds it only up to {floor}: \
                     what lies between is missing"
                );
                return Err(Error::Corrupt {
                    file: segment_path(dir, at.segment),
                    offset: at.offset.into(),
                    why,
                });
            }
            let hard_state = index.hard_state.map(|(state, _)| state).unwrap_or_default();
            recovered.groups.insert(*group, GroupLog { hard_state, entries });
        }
        for (group, floor) in floor {
            log.groups.entry(*group).or_default().released = *floor;
        }
        Ok((log, recovered))
    }
}

fn io_error(what: &'static str, file: &Path) -> impl FnOnce(io::Error) -> Error {
    let file = file.to_owned();
    move |source| Error::Io { what, file, source }
}
