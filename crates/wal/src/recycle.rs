//! Giving segments back: what is released, what pins, and how a quiet group is kept from pinning for ever.
//!
//! A group pins the segment of its newest hard state, and the one of its first entry that is not released (not yet durable
//! in the base). Everything older than the oldest pin is given back, oldest first, so that live segments never have
//! gaps and a missing file is always noticed.
//!
//! A group that falls quiet would pin its last segment for as long as it says nothing. When that lies more than
//! [`CARRY_AFTER_SEGMENTS`] back, its hard state, and its unreleased tail if small, are repeated in the next batch, as an
//! ordinary record: replaying it twice gives the same log. That costs some hundred bytes a group and round. A *large*
//! unreleased tail is never copied: it means that the base is behind, and the answer is a checkpoint.
//!
//! # Invariants
//! - A file is renamed only after what replaces its contents was synced: nothing is given back while a batch is pending.
//! - The directory is synced after each rename: no crash leaves a gap, or one file under two names.
//! # Caveats
//! - [`Wal::recycle`] looks at every group: call it after checkpoints, not after batches.

use std::path::PathBuf;

use z4_types::{Index, ShardId};

use crate::error::Error;
use crate::index::{GroupIndex, segment_path};
use crate::wal::{Record, Wal};

/// A group whose oldest pin is more than this many segments behind the newest is copied forward.
const CARRY_AFTER_SEGMENTS: u64 = 4;
/// Largest unreleased tail that is copied forward, bytes; with tiny segments, a quarter of one.
const CARRY_TAIL_BYTES_MAX: u64 = 64 << 10;
/// Bytes copied forward in one batch, so that ten thousand quiet groups do not stall it; the rest waits for the next
/// round. A record of a hard state alone counts with [`CARRY_RECORD_BYTES`].
const CARRY_BYTES_MAX: u64 = 4 << 20;
/// See [`CARRY_BYTES_MAX`].
const CARRY_RECORD_BYTES: u64 = 64;

impl Wal {
    /// Says that entries of `group` up to `through` are durable in the base and need not be kept here. A lower index
    /// than before changes nothing. After a snapshot, release its index before appending behind it.
    pub fn release(&mut self, group: ShardId, through: Index) {
        if let Some(reborn) = self.forgets.get_mut(&group) {
            *reborn = through.max(*reborn);
            return;
        }
        let mut log = self.write_log();
        let released = &mut log.groups.entry(group).or_default().released;
        *released = through.max(*released);
    }

    /// Forgets all of `group`, which was removed from this host. Takes effect with the next batch and is durable with
    /// its sync; only then delete the group's data in the base. Until then a restart brings the group back.
    /// A later record of the same id starts a new log. A restart that finds such data in the base, and no log of the
    /// group, forgets it again before it deletes the data.
    pub fn forget(&mut self, group: ShardId) {
        self.carried.retain(|r| r.group != group);
        self.forgets.entry(group).or_default();
    }

    /// Gives back the segments that no group needs: as spares, or, if there are enough, to the system. Returns how
    /// many. Also picks the quiet groups to copy forward in the next batch. Does nothing between append and sync.
    ///
    /// # Errors
    /// `Internal` for any error of the system: end the process. `Corrupt` if an entry to be copied forward does not
    /// read back.
    pub fn recycle(&mut self) -> Result<usize, Error> {
        self.usable()?;
        if self.pending {
            return Ok(0);
        }
        let end = self.oldest_pin();
        let mut given_back = 0;
        loop {
            let oldest = *self.read().segments.keys().next().expect("the newest segment is live");
            if oldest >= end {
                break;
            }
            self.give_back(oldest)?;
            given_back += 1;
        }
        self.counters.recycled += given_back as u64;
        self.pick_carried()?;
        Ok(given_back)
    }

    /// Returns the oldest segment that must stay.
    fn oldest_pin(&self) -> u64 {
        let log = self.read();
        log.groups.values().filter_map(oldest_pin).fold(self.active.sequence, u64::min)
    }

    fn give_back(&mut self, sequence: u64) -> Result<(), Error> {
        let path = segment_path(&self.config.dir, sequence);
        let segment = self.read().segments[&sequence].clone();
        // One that grew never reached its full length: the sync of each batch would have to change metadata again.
        let spare = (segment.bytes >= self.config.segment_bytes && self.spares.wanted())
            .then(|| self.spares.new_name());
        let done = match spare {
            Some(name) => self.disk.rename(&path, &self.spares.path(name)),
            None => self.disk.remove(&path),
        };
        self.or_poison("recycle", path, done)?;
        let dir: PathBuf = self.config.dir.clone();
        let synced = self.disk.sync_dir(&dir);
        self.or_poison("sync", dir, synced)?;
        self.write_log().drop_segment(sequence);
        if let Some(name) = spare {
            // Only now: a crash in between must not leave a live segment cut short. Recovery cuts it as well.
            if segment.bytes > self.config.segment_bytes {
                let cut = segment.file.set_len(self.config.segment_bytes);
                self.or_poison("cut", self.spares.path(name), cut)?;
            }
            self.spares.put(name);
        }
        Ok(())
    }

    fn pick_carried(&mut self) -> Result<(), Error> {
        self.carried.clear();
        let Some(behind) = self.active.sequence.checked_sub(CARRY_AFTER_SEGMENTS) else { return Ok(()) };
        let tail_max = CARRY_TAIL_BYTES_MAX.min(self.config.segment_bytes / 4);
        let mut picked = Vec::new();
        let mut total = 0;
        for (group, index) in &self.read().groups {
            if self.forgets.contains_key(group) || oldest_pin(index).is_none_or(|pin| pin >= behind) {
                continue;
            }
            let from = index.unreleased().filter(|from| index.get(*from).is_some_and(|l| l.segment < behind));
            let bytes = from.map_or(0, |from| tail_bytes(index, from, tail_max));
            if bytes > tail_max {
                continue;
            }
            total += bytes + CARRY_RECORD_BYTES;
            if total > CARRY_BYTES_MAX {
                break;
            }
            let to = index.last().unwrap_or_default().next();
            picked.push((*group, index.hard_state.map(|(state, _)| state), from, to));
        }
        let reader = self.reader();
        for (group, hard_state, from, to) in picked {
            let entries = match from {
                Some(from) => reader.entries(group, from, to, usize::MAX)?,
                None => Vec::new(),
            };
            self.carried.push(Record { group, hard_state, truncate: None, entries });
        }
        Ok(())
    }
}

/// Returns the oldest segment `group` needs, if it needs any.
fn oldest_pin(group: &GroupIndex) -> Option<u64> {
    let state = group.hard_state.map(|(_, segment)| segment);
    let entries = group.unreleased().and_then(|from| group.get(from)).map(|l| l.segment);
    // The planted bug: entries that the base does not hold yet pin nothing.
    let entries = if cfg!(feature = "bug-recycle-early") { None } else { entries };
    [state, entries].into_iter().flatten().min()
}

/// Returns the bytes of the entries at `from` and above; stops counting past `enough`.
fn tail_bytes(group: &GroupIndex, from: Index, enough: u64) -> u64 {
    let mut bytes = 0;
    let mut at = from;
    while let Some(location) = group.get(at) {
        bytes += location.bytes() as u64;
        if bytes > enough {
            break;
        }
        at = at.next();
    }
    bytes
}
