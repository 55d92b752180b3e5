//! Reading entries back: for followers that have fallen behind what their leader holds in memory.
//!
//! A reader looks up where the entries lie under a short lock, then reads without it, neighbours in one call. Meanwhile
//! the segment may be recycled and its file written over; the checksums notice, and a second look at the index tells
//! "gone" from "damaged".

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use bytes::Bytes;
use z4_env::File;
use z4_types::{Entry, Index, ShardId, Term};

use crate::body::{self, ENTRY_HEADER};
use crate::error::Error;
use crate::index::{Location, Log, segment_path};

/// Reads entries of any group, from any thread. Clones share the log.
#[derive(Clone)]
pub struct Reader {
    pub(crate) dir: PathBuf,
    pub(crate) log: Arc<RwLock<Log>>,
}

/// Entries that lie side by side in one segment.
struct Run {
    file: Arc<dyn File>,
    segment: u64,
    offset: u32,
    first: Index,
    locations: Vec<Location>,
    bytes: usize,
}

impl Reader {
    /// Returns the entries `from..to`, as many as fit `max_bytes` of log but at least one. Fewer, or none, if the log
    /// ends before `to`. Entries that lie side by side share one allocation.
    ///
    /// # Errors
    /// `NotFound` if `from` lies before the log's first entry or was recycled meanwhile; `Corrupt` if stored bytes do
    /// not check; `Internal` if the system cannot read.
    pub fn entries(
        &self,
        group: ShardId,
        from: Index,
        to: Index,
        max_bytes: usize,
    ) -> Result<Vec<Entry>, Error> {
        let runs = self.plan(group, from, to, max_bytes)?;
        let mut entries = Vec::with_capacity(runs.iter().map(|r| r.locations.len()).sum());
        for run in &runs {
            if let Err(at_fault) = read_run(group, run, &mut entries) {
                return self.explain(group, run, at_fault);
            }
        }
        Ok(entries)
    }

    /// Returns the term of an entry, if the log holds it.
    #[must_use]
    pub fn term(&self, group: ShardId, index: Index) -> Option<Term> {
        self.lock().groups.get(&group)?.get(index).map(|l| l.term)
    }

    /// Returns the first entry of a group the log still holds.
    #[must_use]
    pub fn first_index(&self, group: ShardId) -> Option<Index> {
        self.lock().groups.get(&group)?.first()
    }

    /// Returns the last entry of a group, synced or not.
    #[must_use]
    pub fn last_index(&self, group: ShardId) -> Option<Index> {
        self.lock().groups.get(&group)?.last()
    }

    fn lock(&self) -> RwLockReadGuard<'_, Log> {
        // A panic elsewhere cannot have left the index half changed in a way the checksums would not notice.
        self.log.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn plan(&self, group: ShardId, from: Index, to: Index, max_bytes: usize) -> Result<Vec<Run>, Error> {
        let log = self.lock();
        let gone = Error::Gone { group, index: from };
        let mut runs: Vec<Run> = Vec::new();
        let Some(index) = log.groups.get(&group) else { return Ok(runs) };
        let (Some(first), Some(last)) = (index.first(), index.last()) else {
            return if from <= index.released { Err(gone) } else { Ok(runs) };
        };
        if from < first {
            return Err(gone);
        }
        let mut total = 0;
        for at in from.0..to.0.min(last.0 + 1) {
            let location = index.get(Index(at)).expect("the log has no holes between first and last");
            total += location.bytes();
            if total > max_bytes && at > from.0 {
                break;
            }
            match runs.last_mut() {
                Some(run)
                    if run.segment == location.segment
                        && run.offset as usize + run.bytes == location.offset as usize =>
                {
                    run.bytes += location.bytes();
                    run.locations.push(location);
                }
                _ => runs.push(Run {
                    file: log.segments[&location.segment].file.clone(),
                    segment: location.segment,
                    offset: location.offset,
                    first: Index(at),
                    bytes: location.bytes(),
                    locations: vec![location],
                }),
            }
        }
        Ok(runs)
    }

    /// Says why a run could not be read: recycled under our feet, or damaged.
    fn explain(&self, group: ShardId, run: &Run, fault: Fault) -> Result<Vec<Entry>, Error> {
        let now = self.lock().groups.get(&group).and_then(|g| g.get(fault.index));
        if now != Some(run.locations[(fault.index.0 - run.first.0) as usize]) {
            return Err(Error::Gone { group, index: fault.index });
        }
        let file = segment_path(&self.dir, run.segment);
        Err(match fault.source {
            Some(source) if source.kind() != std::io::ErrorKind::UnexpectedEof => {
                Error::Io { what: "read", file, source }
            }
            _ => Error::Corrupt {
                file,
                offset: fault.offset,
                why: format!("entry {} of group {group} does not read back as it was written", fault.index),
            },
        })
    }
}

/// What stopped a read.
struct Fault {
    index: Index,
    offset: u64,
    source: Option<std::io::Error>,
}

fn read_run(group: ShardId, run: &Run, entries: &mut Vec<Entry>) -> Result<(), Fault> {
    let mut buffer = vec![0; run.bytes];
    let fault = |at: usize, index, source| Fault { index, offset: u64::from(run.offset) + at as u64, source };
    run.file
        .read_exact_at(&mut buffer, u64::from(run.offset))
        .map_err(|source| fault(0, run.first, Some(source)))?;
    let buffer = Bytes::from(buffer);
    let mut at = 0;
    for (index, location) in (run.first.0..).map(Index).zip(&run.locations) {
        let view = body::View::parse(&buffer[at..]).map_err(|_| fault(at, index, None))?;
        let expected = view.index == index && view.term == location.term && view.len() == location.bytes();
        if !expected || !view.checks(group) {
            return Err(fault(at, index, None));
        }
        let data = buffer.slice(at + ENTRY_HEADER..at + view.len());
        entries.push(Entry { index, term: view.term, kind: view.kind, data });
        at += view.len();
    }
    Ok(())
}
