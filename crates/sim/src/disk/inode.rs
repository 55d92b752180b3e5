//! One simulated file: the bytes a reader sees, the bytes a crash would leave, and everything in between.
//!
//! A file is a sparse row of 4 KiB blocks. A block that is clean holds its bytes once. The first write after a
//! sync keeps the durable bytes aside (`old`) and marks the written 512-byte sectors `dirty`; a sync forgets `old`.
//! A write therefore costs its memcpy and at most one more block copy, and a sync costs the blocks it touches.
//!
//! ```text
//!   write        sync ok         sync fails (EIO)               crash
//!   clean ─────► dirty ─────────► clean                 dirty ─► old | new | prefix of new + rest of old
//!                  └────────────► written, or `lost`    lost ──► old
//! ```
//!
//! # Invariants
//! - `dirty & lost == 0`; `old` means something only while `dirty | lost != 0`, and `None` stands for zeros.
//! - Bytes at and beyond `len` are zeros in every block, so growing a file shows zeros.
//! - `min_len <= len`; `min_len < durable_len` says that a cut is not durable yet.
//!
//! # Caveats
//! - A cut of the length survives a crash as a whole or not at all, like a journalled metadata change. Where it is
//!   undone, everything written at or behind the cut since then is undone with it.
//!
//! Sources: Rebello et al., "Can Applications Recover from fsync Failures?" (ATC 2020) for the failed sync: the
//! cache keeps the new bytes, calls them clean, and never writes them.

use std::collections::BTreeSet;
use std::ops::Range;

use z4_env::{Rng, SeededRng};

use super::faults::{Counters, Injected};

pub(crate) const SECTOR: usize = 512;
pub(crate) const BLOCK: usize = 4096;
const SECTORS: usize = BLOCK / SECTOR;
static ZEROS: [u8; BLOCK] = [0; BLOCK];

#[derive(Debug, Clone, Default)]
struct Block {
    /// What a reader sees. `None` is a hole: zeros that take no space.
    data: Option<Box<[u8]>>,
    /// What a crash would leave of the marked sectors.
    old: Option<Box<[u8]>>,
    /// Sectors written since the last sync.
    dirty: u8,
    /// Sectors whose sync failed: readers see the new bytes, no later sync will write them.
    lost: u8,
}

/// What a crash does with one unsynced sector.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Lost,
    Kept,
    Torn,
}

/// How one crash treats the unsynced sectors of one file. Some crashes are all or nothing: those find a
/// forgotten sync soonest. Some keep a prefix, as an interrupted append does. The rest decide sector by sector.
enum Damage {
    LoseAll,
    KeepAll,
    /// The sectors before this one (counted in file order) are kept, it is torn, the rest are lost.
    Prefix(u64),
    Mixed,
}

impl Block {
    fn sector(sector: usize) -> Range<usize> {
        sector * SECTOR..(sector + 1) * SECTOR
    }

    fn data(&self) -> &[u8] {
        self.data.as_deref().unwrap_or(&ZEROS)
    }

    fn data_mut(&mut self) -> &mut [u8] {
        self.data.get_or_insert_with(|| ZEROS.as_slice().into())
    }

    fn write(&mut self, within: usize, bytes: &[u8]) {
        let mask = sector_mask(within, bytes.len());
        if self.dirty | self.lost == 0 {
            if bytes.len() == BLOCK {
                self.old = self.data.replace(bytes.into());
                self.dirty = mask;
                return;
            }
            self.old.clone_from(&self.data);
        }
        self.data_mut()[within..within + bytes.len()].copy_from_slice(bytes);
        self.dirty |= mask;
        self.lost &= !mask;
    }

    /// Makes one marked sector durable as it is now.
    fn settle(&mut self, sector: usize) {
        let range = Self::sector(sector);
        let Self { data, old, .. } = self;
        let now = data.as_deref().unwrap_or(&ZEROS);
        let old = old.get_or_insert_with(|| ZEROS.as_slice().into());
        old[range.clone()].copy_from_slice(&now[range]);
        self.dirty &= !(1 << sector);
    }

    fn revert(&mut self, range: Range<usize>) {
        let old = self.old.take();
        let source = old.as_deref().unwrap_or(&ZEROS);
        self.data_mut()[range.clone()].copy_from_slice(&source[range]);
        self.old = old;
    }

    /// Forgets the durable copy once nothing differs from it.
    fn tidy(&mut self) {
        if self.dirty | self.lost == 0 {
            self.old = None;
        }
    }
}

/// Returns the bits of the sectors that `len` bytes from `within` touch.
fn sector_mask(within: usize, len: usize) -> u8 {
    let (first, last) = (within / SECTOR, (within + len - 1) / SECTOR);
    let bits = (1u16 << (last - first + 1)) - 1;
    u8::try_from(bits << first).expect("a block has eight sectors")
}

/// One file, named or not.
#[derive(Debug, Clone, Default)]
pub(crate) struct Inode {
    blocks: Vec<Option<Block>>,
    len: u64,
    durable_len: u64,
    /// The smallest length since the last sync.
    min_len: u64,
    /// Blocks with dirty sectors, in the order they became so. May name a block twice, or a clean one.
    dirty: Vec<usize>,
    /// Blocks with lost sectors.
    lost: BTreeSet<usize>,
    /// Open handles of the present generation. An unnamed file lives as long as one is open.
    pub(crate) handles: u32,
}

impl Inode {
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Returns how many blocks the file takes.
    pub(crate) fn allocated(&self) -> u64 {
        self.blocks.iter().flatten().filter(|block| block.data.is_some()).count() as u64
    }

    /// Fills `buffer`; the caller has checked that the file is long enough.
    pub(crate) fn read(&self, buffer: &mut [u8], offset: u64) {
        let mut done = 0;
        while done < buffer.len() {
            let (index, within) = locate(offset + done as u64);
            let n = (BLOCK - within).min(buffer.len() - done);
            let bytes = match self.blocks.get(index) {
                Some(Some(block)) => &block.data()[within..within + n],
                _ => &ZEROS[..n],
            };
            buffer[done..done + n].copy_from_slice(bytes);
            done += n;
        }
    }

    /// Writes as much of `data` as `free` blocks allow and returns how many bytes that was.
    pub(crate) fn write(&mut self, data: &[u8], offset: u64, free: &mut u64) -> usize {
        let mut done = 0;
        while done < data.len() {
            let (index, within) = locate(offset + done as u64);
            let n = (BLOCK - within).min(data.len() - done);
            if !self.write_block(index, within, &data[done..done + n], free) {
                break;
            }
            done += n;
        }
        if done > 0 {
            self.len = self.len.max(offset + done as u64);
        }
        done
    }

    fn write_block(&mut self, index: usize, within: usize, bytes: &[u8], free: &mut u64) -> bool {
        if self.blocks.len() <= index {
            self.blocks.resize_with(index + 1, || None);
        }
        let slot = &mut self.blocks[index];
        if slot.as_ref().is_none_or(|block| block.data.is_none()) {
            if *free == 0 {
                return false;
            }
            *free -= 1;
        }
        let block = slot.get_or_insert_default();
        if block.dirty == 0 {
            self.dirty.push(index);
        }
        block.write(within, bytes);
        true
    }

    /// Cuts or grows the file; a cut gives its whole blocks back to `free`.
    pub(crate) fn set_len(&mut self, len: u64, free: &mut u64) {
        if len < self.len {
            let (first, within) = locate(len);
            for index in first..self.blocks.len() {
                let start = if index == first { within } else { 0 };
                self.erase(index, start, free);
            }
            self.min_len = self.min_len.min(len);
        }
        self.len = len;
    }

    /// Zeroes a block from `start`, as a cut does; remembers what a crash may bring back.
    fn erase(&mut self, index: usize, start: usize, free: &mut u64) {
        let Some(block) = &mut self.blocks[index] else { return };
        if start > 0 {
            if block.data.is_some() {
                if block.dirty == 0 {
                    self.dirty.push(index);
                }
                block.write(start, &ZEROS[start..]);
            }
            return;
        }
        let data = block.data.take();
        *free += u64::from(data.is_some());
        if block.dirty | block.lost == 0 {
            block.old = data;
        }
        if block.old.is_none() {
            self.blocks[index] = None; // A hole before and a hole now.
            return;
        }
        if block.dirty == 0 {
            self.dirty.push(index);
        }
        block.dirty = u8::MAX;
        block.lost = 0;
    }

    /// Makes everything but the lost sectors durable.
    pub(crate) fn sync(&mut self) {
        for index in self.dirty.drain(..) {
            let Some(block) = &mut self.blocks[index] else { continue };
            if block.lost == 0 {
                block.dirty = 0;
                self.lost.remove(&index);
            }
            for sector in (0..SECTORS).filter(|sector| block.dirty & (1 << sector) != 0).collect::<Vec<_>>() {
                block.settle(sector);
            }
            block.tidy();
            if block.data.is_none() && block.old.is_none() {
                self.blocks[index] = None;
            }
        }
        self.durable_len = self.len;
        self.min_len = self.len;
    }

    /// Fails a sync: each dirty sector was written, or is lost for good while readers still see it.
    pub(crate) fn fail_sync(&mut self, rng: &mut SeededRng) {
        for index in self.dirty.drain(..) {
            let Some(block) = &mut self.blocks[index] else { continue };
            for sector in 0..SECTORS {
                if block.dirty & (1 << sector) != 0 && rng.chance(1, 2) {
                    block.settle(sector);
                }
            }
            block.lost |= block.dirty;
            block.dirty = 0;
            block.tidy();
            if block.lost != 0 {
                self.lost.insert(index);
            }
        }
    }

    /// Lets the flusher write about half of the dirty sectors of one dirty block; returns whether it wrote any.
    pub(crate) fn write_back(&mut self, rng: &mut SeededRng) -> bool {
        // Behind a cut that is not durable there is no place on the disk to write to yet.
        if self.dirty.is_empty() || self.min_len < self.durable_len {
            return false;
        }
        let index = self.dirty[rng.below(self.dirty.len() as u64) as usize];
        let Some(block) = &mut self.blocks[index] else { return false };
        let before = block.dirty;
        for sector in 0..SECTORS {
            if before & (1 << sector) != 0 && rng.chance(1, 2) {
                block.settle(sector);
            }
        }
        let wrote = block.dirty != before;
        block.tidy();
        wrote
    }

    /// Leaves what a power loss leaves, and forgets the rest.
    pub(crate) fn crash(&mut self, rng: &mut SeededRng, counters: &mut Counters) {
        self.handles = 0;
        let mut touched: Vec<usize> = self.dirty.drain(..).chain(std::mem::take(&mut self.lost)).collect();
        touched.sort_unstable();
        touched.dedup();
        let cut = self.min_len < self.durable_len;
        let cut_kept = cut && rng.chance(1, 2);
        let len = if cut && !cut_kept {
            self.durable_len
        } else {
            let base = if cut { self.min_len } else { self.durable_len };
            surviving_len(base, self.len, rng)
        };
        if len != self.len {
            counters.fired(Injected::LengthLost);
        }
        let damage = self.draw_damage(&touched, rng);
        let mut nth = 0;
        for index in touched {
            let Some(block) = &mut self.blocks[index] else { continue };
            let start = (index * BLOCK) as u64;
            if let (true, Some(old)) = (cut_kept, &mut block.old) {
                // The cut is durable, so what it removed cannot come back.
                let from = self.min_len.saturating_sub(start).min(BLOCK as u64) as usize;
                old[from..].fill(0);
            }
            for sector in 0..SECTORS {
                let end = start + ((sector + 1) * SECTOR) as u64;
                let fate = if block.lost & (1 << sector) != 0 {
                    Fate::Lost
                } else if block.dirty & (1 << sector) == 0 {
                    continue;
                } else if cut && !cut_kept && end > self.min_len {
                    Fate::Lost
                } else {
                    nth += 1;
                    damage.fate(nth - 1, rng)
                };
                apply_fate(block, sector, fate, rng, counters);
            }
            (block.dirty, block.lost, block.old) = (0, 0, None);
        }
        (self.len, self.durable_len, self.min_len) = (len, len, len);
        self.zero_beyond_len();
    }

    fn draw_damage(&self, touched: &[usize], rng: &mut SeededRng) -> Damage {
        let dirty = |index: &usize| self.blocks[*index].as_ref().map_or(0, |block| block.dirty.count_ones());
        let sectors: u64 = touched.iter().map(|index| u64::from(dirty(index))).sum();
        match rng.below(8) {
            0 | 1 => Damage::LoseAll,
            2 => Damage::KeepAll,
            3 | 4 => Damage::Prefix(rng.below(sectors + 1)),
            _ => Damage::Mixed,
        }
    }

    fn zero_beyond_len(&mut self) {
        let (first, within) = locate(self.len);
        if within > 0
            && let Some(Some(block)) = self.blocks.get_mut(first)
            && let Some(data) = &mut block.data
        {
            data[within..].fill(0);
        }
        self.blocks.truncate(first + usize::from(within > 0));
    }

    /// Flips one bit, on the disk and in every cache.
    pub(crate) fn rot(&mut self, offset: u64, bit: u32) {
        let (index, within) = locate(offset);
        if self.blocks.len() <= index {
            self.blocks.resize_with(index + 1, || None);
        }
        let block = self.blocks[index].get_or_insert_default();
        block.data_mut()[within] ^= 1 << bit;
        if let Some(old) = &mut block.old {
            old[within] ^= 1 << bit;
        }
    }

    /// Calls `visit` with the bytes of the file, block by block.
    pub(crate) fn visit(&self, mut visit: impl FnMut(&[u8])) {
        let mut at = 0;
        while at < self.len {
            let n = (self.len - at).min(BLOCK as u64) as usize;
            let block = self.blocks.get(locate(at).0).and_then(Option::as_ref);
            visit(block.map_or(&ZEROS[..n], |block| &block.data()[..n]));
            at += n as u64;
        }
    }
}

impl Damage {
    fn fate(&self, nth: u64, rng: &mut SeededRng) -> Fate {
        match self {
            Self::LoseAll => Fate::Lost,
            Self::KeepAll => Fate::Kept,
            Self::Prefix(until) if nth < *until => Fate::Kept,
            Self::Prefix(until) if nth == *until => Fate::Torn,
            Self::Prefix(_) => Fate::Lost,
            Self::Mixed => [Fate::Lost, Fate::Kept, Fate::Torn][rng.below(3) as usize],
        }
    }
}

fn apply_fate(block: &mut Block, sector: usize, fate: Fate, rng: &mut SeededRng, counters: &mut Counters) {
    let range = Block::sector(sector);
    match fate {
        Fate::Lost => block.revert(range),
        Fate::Kept => {}
        Fate::Torn => {
            let new = 1 + rng.below(SECTOR as u64 - 1) as usize;
            block.revert(range.start + new..range.end);
        }
    }
    counters.fired(match fate {
        Fate::Lost => Injected::SectorLost,
        Fate::Kept => Injected::SectorKept,
        Fate::Torn => Injected::SectorTorn,
    });
}

/// Returns a length between the durable `base` and the last one, the ends being likeliest.
fn surviving_len(base: u64, last: u64, rng: &mut SeededRng) -> u64 {
    assert!(base <= last, "a cut lowers the base with it");
    if base == last {
        return base;
    }
    match rng.below(4) {
        0 => base,
        1 => base + rng.below(last - base + 1),
        _ => last,
    }
}

fn locate(offset: u64) -> (usize, usize) {
    ((offset / BLOCK as u64) as usize, (offset % BLOCK as u64) as usize)
}
