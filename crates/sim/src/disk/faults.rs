//! What can go wrong with the simulated disk, and how often it did.
//!
//! Faults come in three ways: by chance ([`Faults`], drawn from the disk's own generator), by schedule (the n-th
//! call of a kind, the n-th call of all), and by hand (rot, crash). Every one that fires is counted, so that a
//! batch of seeds can prove that each fault really happened.
//!
//! # Invariants
//! - Counting draws no random number and changes no decision: reading [`Counters`] never changes a run.
//! - A chance of zero draws nothing, so switching a fault off leaves the numbers of the others where they were.

/// Chances and sizes of the faults of a disk. All chances are per million calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faults {
    /// A read fails with EIO.
    pub read_eio_ppm: u32,
    /// A write or a change of length fails with EIO, after writing some prefix.
    pub write_eio_ppm: u32,
    /// A sync fails with EIO; the sectors it did not write are clean in the cache and will never be durable.
    pub sync_eio_ppm: u32,
    /// Creating, renaming, removing or syncing a name fails with EIO, before it did anything.
    pub name_eio_ppm: u32,
    /// A write makes some older, unsynced sectors of the same file durable, as the kernel's flusher does at any
    /// time. This is how a sector can hold neither its synced nor its last bytes after a crash.
    pub writeback_ppm: u32,
    /// A call stalls: the attached clock moves, up to `stall_ms_max`.
    pub stall_ppm: u32,
    /// The longest stall, milliseconds.
    pub stall_ms_max: u32,
}

impl Default for Faults {
    /// Returns a healthy disk: only the flusher is at work.
    fn default() -> Self {
        Self {
            read_eio_ppm: 0,
            write_eio_ppm: 0,
            sync_eio_ppm: 0,
            name_eio_ppm: 0,
            writeback_ppm: 50_000,
            stall_ppm: 0,
            stall_ms_max: 0,
        }
    }
}

impl Faults {
    /// Returns the chance of EIO for `op`.
    pub(crate) fn eio_ppm(&self, op: Op) -> u32 {
        match op {
            Op::Read => self.read_eio_ppm,
            Op::Write | Op::SetLen => self.write_eio_ppm,
            Op::Sync => self.sync_eio_ppm,
            Op::Open | Op::Rename | Op::Remove | Op::SyncDir => self.name_eio_ppm,
            Op::Look => 0,
        }
    }
}

/// A kind of call on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Op {
    /// `Disk::open`, and the file behind `Disk::lock_dir`.
    Open,
    /// `File::read_exact_at`.
    Read,
    /// `File::write_all_at`.
    Write,
    /// `File::set_len`.
    SetLen,
    /// `File::sync_data`.
    Sync,
    /// `Disk::rename`.
    Rename,
    /// `Disk::remove`.
    Remove,
    /// `Disk::sync_dir`, and `Disk::create_dir_all` once.
    SyncDir,
    /// Everything that only asks: `len`, `list`, `exists`, `free_bytes`.
    Look,
}

impl Op {
    const ALL: [(Self, &str); 9] = [
        (Self::Open, "open"),
        (Self::Read, "read"),
        (Self::Write, "write"),
        (Self::SetLen, "set_len"),
        (Self::Sync, "sync"),
        (Self::Rename, "rename"),
        (Self::Remove, "remove"),
        (Self::SyncDir, "sync_dir"),
        (Self::Look, "look"),
    ];
}

/// A fault that fired, or a way in which a crash damaged something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Injected {
    /// Power was lost.
    Crash,
    /// The process was killed; nothing on the disk changed.
    Kill,
    /// An unsynced sector went back to its durable bytes.
    SectorLost,
    /// An unsynced sector survived a crash.
    SectorKept,
    /// A sector holds a prefix of its new bytes and a rest of its old ones.
    SectorTorn,
    /// An unsynced length was lost, in whole or in part.
    LengthLost,
    /// An unsynced directory operation was undone.
    NameLost,
    /// An unsynced directory operation survived a crash.
    NameKept,
    /// A read failed.
    ReadEio,
    /// A write or change of length failed.
    WriteEio,
    /// A sync failed.
    SyncEio,
    /// A directory operation failed.
    NameEio,
    /// The capacity was met.
    DiskFull,
    /// A bit was flipped.
    Rot,
    /// The flusher made some sectors of a block durable on its own.
    Writeback,
    /// A call stalled.
    Stall,
}

impl Injected {
    const ALL: [(Self, &str); 16] = [
        (Self::Crash, "crash"),
        (Self::Kill, "kill"),
        (Self::SectorLost, "sector_lost"),
        (Self::SectorKept, "sector_kept"),
        (Self::SectorTorn, "sector_torn"),
        (Self::LengthLost, "length_lost"),
        (Self::NameLost, "name_lost"),
        (Self::NameKept, "name_kept"),
        (Self::ReadEio, "read_eio"),
        (Self::WriteEio, "write_eio"),
        (Self::SyncEio, "sync_eio"),
        (Self::NameEio, "name_eio"),
        (Self::DiskFull, "disk_full"),
        (Self::Rot, "rot"),
        (Self::Writeback, "writeback"),
        (Self::Stall, "stall"),
    ];

    /// Returns the fault that an EIO of `op` is.
    pub(crate) fn eio(op: Op) -> Self {
        match op {
            Op::Read | Op::Look => Self::ReadEio,
            Op::Write | Op::SetLen => Self::WriteEio,
            Op::Sync => Self::SyncEio,
            Op::Open | Op::Rename | Op::Remove | Op::SyncDir => Self::NameEio,
        }
    }
}

/// How often each kind of call was made, and each fault fired, since the disk was made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    ops: [u64; Op::ALL.len()],
    injected: [u64; Injected::ALL.len()],
}

impl Counters {
    /// Returns how many calls of kind `op` were made, failed ones included.
    #[must_use]
    pub fn op(&self, op: Op) -> u64 {
        self.ops[op as usize]
    }

    /// Returns how many calls of any kind were made.
    #[must_use]
    pub fn ops(&self) -> u64 {
        self.ops.iter().sum()
    }

    /// Returns how often `fault` fired.
    #[must_use]
    pub fn injected(&self, fault: Injected) -> u64 {
        self.injected[fault as usize]
    }

    /// Returns every count with its name, calls first, always in the same order.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        let ops = Op::ALL.iter().map(|(op, name)| (*name, self.op(*op)));
        ops.chain(Injected::ALL.iter().map(|(fault, name)| (*name, self.injected(*fault))))
    }

    /// Adds the counts of another disk, for totals over many seeds.
    pub fn add(&mut self, other: &Self) {
        for (sum, more) in self.ops.iter_mut().zip(other.ops) {
            *sum += more;
        }
        for (sum, more) in self.injected.iter_mut().zip(other.injected) {
            *sum += more;
        }
    }

    pub(crate) fn called(&mut self, op: Op) {
        self.ops[op as usize] += 1;
    }

    pub(crate) fn fired(&mut self, fault: Injected) {
        self.injected[fault as usize] += 1;
    }
}
