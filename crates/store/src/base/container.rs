//! The container: redb's blocks with a sum beside each, verified on every read. Bytes: `docs/FORMATS.md`, "Container".
//!
//! redb addresses logical bytes; the container places a block of 512 sums before each 512 data blocks. Sums of written
//! blocks wait in memory and reach the file at the next sync, before it.
//!
//! redb rewrites its header in place and commits by flipping a bit in it: a rotten bit there would resurrect an old
//! commit. So the header has a check, and because a crash may tear the sector that is being written, a second copy in
//! another sector, written and synced after the first one is durable. A torn first copy falls back to the second, which
//! is the header before a sync that never returned; a rotten copy falls back to its equal.
//!
//! # Invariants
//! - After a sync, the sum of every block written before it is in the file.
//! - Sums of blocks that belong to a commit do not change until redb frees them; so writing a sum block again, torn
//!   anywhere, cannot harm a committed block.
//! # Caveats
//! - A lost write that took its sum along is not detected.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use xxhash_rust::xxh3::xxh3_64;
use z4_env::File;

use super::Health;
use crate::Error;

const BLOCK: usize = 4096;
const BLOCK_BYTES: u64 = BLOCK as u64;
const MAGIC: &[u8; 8] = b"z4 base\n";
/// The newest container version this program reads.
const VERSION: u32 = 1;
/// Data blocks of an extent: as many as sums fit a block.
const EXTENT: u64 = BLOCK_BYTES / 8;
/// Physical blocks before the first extent: super block and redb header.
const PREFIX: u64 = 2;
/// Bytes of redb's header; its check follows.
const HEADER: usize = 320;
/// Bytes of a header with its check.
const CHECKED: usize = HEADER + 8;
/// Where the two copies of the header lie: in sectors of their own.
const COPIES: [u64; 2] = [BLOCK_BYTES, BLOCK_BYTES + 2048];
/// Sum blocks kept in memory: 16 MiB, the sums of 8 GiB of base. Past it all are dropped and read again.
const SUM_BLOCKS_MAX: usize = 4096;

/// The file below redb. Clones share it.
#[derive(Clone)]
pub(crate) struct Container(Arc<Inner>);

struct Inner {
    file: Arc<dyn File>,
    health: Arc<Health>,
    /// By extent.
    sums: Mutex<BTreeMap<u64, SumBlock>>,
    /// A header whose first copy is written and whose second waits for the next sync.
    header: Mutex<Option<[u8; CHECKED]>>,
}

struct SumBlock {
    sums: Box<[u64; EXTENT as usize]>,
    dirty: bool,
}

impl SumBlock {
    /// Returns the block as the file holds it.
    fn bytes(&self) -> [u8; BLOCK] {
        let mut bytes = [0; BLOCK];
        for (bytes, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(self.sums.iter()) {
            *bytes = word.to_le_bytes();
        }
        bytes
    }
}

/// Consecutive data blocks of one extent.
struct Run {
    logical: u64,
    count: usize,
}

impl Run {
    fn extent(&self) -> u64 {
        (self.logical - 1) / EXTENT
    }

    fn slot(&self) -> usize {
        ((self.logical - 1) % EXTENT) as usize
    }

    fn physical(&self) -> u64 {
        (sum_block(self.extent()) + 1 + self.slot() as u64) * BLOCK_BYTES
    }
}

/// Returns the physical block of an extent's sums.
fn sum_block(extent: u64) -> u64 {
    PREFIX + extent * (EXTENT + 1)
}

/// Splits `count` logical blocks at extent bounds.
fn runs(logical: u64, count: usize) -> impl Iterator<Item = Run> {
    let end = logical + count as u64;
    let mut at = logical;
    std::iter::from_fn(move || {
        (at < end).then(|| {
            let bound = ((at - 1) / EXTENT + 1) * EXTENT + 1;
            let run = Run { logical: at, count: (bound.min(end) - at) as usize };
            at += run.count as u64;
            run
        })
    })
}

fn physical_blocks(logical: u64) -> u64 {
    match logical {
        0 => 1,
        n => PREFIX + (n - 1) + (n - 1).div_ceil(EXTENT),
    }
}

fn logical_blocks(physical: u64) -> u64 {
    if physical < PREFIX {
        return 0;
    }
    let (extents, rest) = ((physical - PREFIX) / (EXTENT + 1), (physical - PREFIX) % (EXTENT + 1));
    1 + extents * EXTENT + rest.saturating_sub(1)
}

fn sum(block: &[u8], logical: u64) -> u64 {
    // The block number takes part, so that a block written to the wrong place does not check.
    (xxh3_64(block) ^ logical.wrapping_mul(0x9E37_79B9_7F4A_7C15)).max(1)
}

impl Container {
    /// Makes an empty container in `file`, replacing what it held.
    pub(crate) fn create(file: Arc<dyn File>, health: Arc<Health>) -> Result<Self, Error> {
        let mut block = [0; BLOCK];
        block[..8].copy_from_slice(MAGIC);
        block[8..12].copy_from_slice(&VERSION.to_le_bytes());
        block[12..16].copy_from_slice(&(BLOCK as u32).to_le_bytes());
        let check = xxh3_64(&block[..16]);
        block[16..24].copy_from_slice(&check.to_le_bytes());
        file.set_len(0).and_then(|()| file.write_all_at(&block, 0)).map_err(|error| health.io(&error))?;
        Ok(Self(Arc::new(Inner { file, health, sums: Mutex::default(), header: Mutex::default() })))
    }

    /// Opens the container in `file`.
    pub(crate) fn open(file: Arc<dyn File>, health: Arc<Health>) -> Result<Self, Error> {
        let mut head = [0; 24];
        file.read_exact_at(&mut head, 0).map_err(|error| health.io(&error))?;
        let word = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("four bytes"));
        if head[..8] != *MAGIC {
            return Err(health.corrupt("the super block does not begin as that of a base".into()));
        }
        if xxh3_64(&head[..16]).to_le_bytes() != head[16..] {
            return Err(health.corrupt("the super block does not match its checksum".into()));
        }
        if word(8) > VERSION {
            let file = health.file().clone();
            return Err(Error::NewerFormat { file, found: word(8), supported: VERSION });
        }
        if word(8) != VERSION || word(12) != BLOCK as u32 {
            return Err(health.corrupt("the super block names a layout that never was".into()));
        }
        let this = Self(Arc::new(Inner { file, health, sums: Mutex::default(), header: Mutex::default() }));
        // redb would take an empty file for a new one.
        if logical_blocks(this.file_bytes()? / BLOCK_BYTES) < 2 {
            return Err(this.0.health.corrupt("the file is cut short".into()));
        }
        Ok(this)
    }

    pub(crate) fn file_bytes(&self) -> Result<u64, Error> {
        self.0.file.len().map_err(|error| self.0.health.io(&error))
    }
}

impl Inner {
    fn sums(&self) -> MutexGuard<'_, BTreeMap<u64, SumBlock>> {
        self.sums.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the sums of an extent, reading them if they are not in memory.
    fn extent<'s>(&self, sums: &'s mut BTreeMap<u64, SumBlock>, extent: u64) -> io::Result<&'s mut SumBlock> {
        if !sums.contains_key(&extent) {
            if sums.len() >= SUM_BLOCKS_MAX {
                self.write_dirty(sums)?;
                sums.clear();
            }
            let mut bytes = [0; BLOCK];
            self.file.read_exact_at(&mut bytes, sum_block(extent) * BLOCK_BYTES)?;
            let mut words = Box::new([0; EXTENT as usize]);
            for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<8>().0) {
                *word = u64::from_le_bytes(*bytes);
            }
            sums.insert(extent, SumBlock { sums: words, dirty: false });
        }
        Ok(sums.get_mut(&extent).expect("inserted just above"))
    }

    fn write_dirty(&self, sums: &mut BTreeMap<u64, SumBlock>) -> io::Result<()> {
        for (extent, block) in sums.iter_mut().filter(|(_, block)| block.dirty) {
            self.file.write_all_at(&block.bytes(), sum_block(*extent) * BLOCK_BYTES)?;
            block.dirty = false;
        }
        Ok(())
    }

    /// Writes all dirty sums without holding up readers, who take the lock for every page. A block stays dirty until it
    /// is written: one that is evicted meanwhile is written twice, and never read back stale. Only the thread that
    /// commits makes blocks dirty.
    fn write_dirty_unlocked(&self) -> io::Result<()> {
        let dirty: Vec<_> =
            self.sums().iter().filter(|(_, b)| b.dirty).map(|(extent, b)| (*extent, b.bytes())).collect();
        for (extent, bytes) in &dirty {
            self.file.write_all_at(bytes, sum_block(*extent) * BLOCK_BYTES)?;
        }
        let mut sums = self.sums();
        for (extent, _) in &dirty {
            if let Some(block) = sums.get_mut(extent) {
                block.dirty = false;
            }
        }
        Ok(())
    }

    fn read_header(&self, out: &mut [u8]) -> io::Result<()> {
        for copy in COPIES {
            let mut bytes = [0; CHECKED];
            self.file.read_exact_at(&mut bytes, copy)?;
            let (header, check) = bytes.split_at(HEADER);
            if xxh3_64(header).to_le_bytes() == check {
                out.copy_from_slice(&header[..out.len()]);
                return Ok(());
            }
        }
        Err(self.damage("neither copy of the database header matches its checksum".into()))
    }

    fn write_header(&self, data: &[u8]) -> io::Result<()> {
        let mut bytes = [0; CHECKED];
        bytes[..HEADER].copy_from_slice(data);
        let check = xxh3_64(&bytes[..HEADER]);
        bytes[HEADER..].copy_from_slice(&check.to_le_bytes());
        self.file.write_all_at(&bytes, COPIES[0])?;
        *self.header.lock().unwrap_or_else(PoisonError::into_inner) = Some(bytes);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data().inspect_err(|error| {
            self.health.sync(error);
        })
    }

    fn read_blocks(&self, logical: u64, out: &mut [u8]) -> io::Result<()> {
        let mut out = out.chunks_mut(BLOCK);
        for run in runs(logical, out.len()) {
            let mut expected = [0; EXTENT as usize];
            {
                let mut sums = self.sums();
                let block = self.extent(&mut sums, run.extent())?;
                expected[..run.count].copy_from_slice(&block.sums[run.slot()..][..run.count]);
            }
            for (nth, expected) in expected[..run.count].iter().enumerate() {
                let (block, at) = (out.next().expect("as many chunks as blocks"), nth as u64);
                let physical = run.physical() + at * BLOCK_BYTES;
                self.file.read_exact_at(block, physical)?;
                let good = match expected {
                    0 => block.iter().all(|byte| *byte == 0),
                    expected => sum(block, run.logical + at) == *expected,
                };
                if !good {
                    return Err(
                        self.damage(format!("the block at byte {physical} does not match its checksum"))
                    );
                }
            }
        }
        Ok(())
    }

    fn write_blocks(&self, logical: u64, data: &[u8]) -> io::Result<()> {
        let mut rest = data;
        for run in runs(logical, data.len() / BLOCK) {
            let (head, tail) = rest.split_at(run.count * BLOCK);
            rest = tail;
            self.file.write_all_at(head, run.physical())?;
            let mut sums = self.sums();
            let block = self.extent(&mut sums, run.extent())?;
            block.dirty = true;
            for (nth, data) in head.chunks_exact(BLOCK).enumerate() {
                block.sums[run.slot() + nth] = sum(data, run.logical + nth as u64);
            }
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let logical = len / BLOCK_BYTES;
        let mut sums = self.sums();
        let kept = runs(1, logical.saturating_sub(1) as usize).last();
        let extents = kept.as_ref().map_or(0, |run| run.extent() + 1);
        let old = logical_blocks(self.file.len()? / BLOCK_BYTES);
        sums.retain(|extent, _| *extent < extents);
        // What is cut off comes back as zeros if the file grows again.
        if let Some(run) = kept.filter(|_| logical < old) {
            let block = self.extent(&mut sums, run.extent())?;
            block.sums[(run.slot() + run.count)..].fill(0);
            block.dirty = true;
        }
        self.file.set_len(physical_blocks(logical) * BLOCK_BYTES)
    }

    fn damage(&self, detail: String) -> io::Error {
        let error = self.health.corrupt(detail);
        io::Error::new(io::ErrorKind::InvalidData, error.to_string())
    }

    /// Remembers what failed, then passes it on.
    fn noted<T>(&self, result: io::Result<T>) -> io::Result<T> {
        if let Err(error) = &result
            && error.kind() != io::ErrorKind::InvalidData
        {
            self.health.io(error);
        }
        result
    }
}

impl std::fmt::Debug for Container {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Container").field(self.0.health.file()).finish()
    }
}

fn aligned(offset: u64, len: usize) -> bool {
    offset >= BLOCK_BYTES && offset.is_multiple_of(BLOCK_BYTES) && len.is_multiple_of(BLOCK)
}

impl redb::StorageBackend for Container {
    fn len(&self) -> io::Result<u64> {
        self.0.noted(self.0.file.len().map(|len| logical_blocks(len / BLOCK_BYTES) * BLOCK_BYTES))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if offset == 0 && out.len() <= HEADER {
            return self.0.noted(self.0.read_header(out));
        }
        assert!(aligned(offset, out.len()), "redb reads its header, or whole pages");
        self.0.noted(self.0.read_blocks(offset / BLOCK_BYTES, out))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        assert!(len.is_multiple_of(BLOCK_BYTES), "redb resizes to whole pages");
        self.0.noted(self.0.set_len(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.noted(self.0.write_dirty_unlocked())?;
        self.0.sync()?;
        let header = self.0.header.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(header) = header {
            self.0.noted(self.0.file.write_all_at(&header, COPIES[1]))?;
            self.0.sync()?;
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if offset == 0 && data.len() == HEADER {
            return self.0.noted(self.0.write_header(data));
        }
        assert!(aligned(offset, data.len()), "redb writes its header, or whole pages");
        self.0.noted(self.0.write_blocks(offset / BLOCK_BYTES, data))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logical_and_physical_lengths_map_one_to_one() {
        for logical in 0..3 * EXTENT {
            assert_eq!(logical_blocks(physical_blocks(logical)), logical);
        }
        assert_eq!(physical_blocks(2), 4, "super block, header, sums, one data block");
        assert_eq!(physical_blocks(1 + EXTENT), 3 + EXTENT);
        assert_eq!(physical_blocks(2 + EXTENT), 5 + EXTENT);
    }

    #[test]
    fn runs_split_at_extent_bounds_and_skip_the_sum_blocks() {
        let split: Vec<_> =
            runs(EXTENT, 3).map(|run| (run.logical, run.count, run.physical() / BLOCK_BYTES)).collect();
        assert_eq!(split, [(EXTENT, 1, EXTENT + 2), (EXTENT + 1, 2, EXTENT + 4)]);
    }
}
