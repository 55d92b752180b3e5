//! What can go wrong with the log, and what to do about it.

use std::io;
use std::path::PathBuf;

use z4_types::{Index, Kind, ShardId};

/// An error of the log.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Stored bytes do not check although they were synced once. Nothing was changed.
    #[error(
        "the log is damaged: {}, offset {offset}: {why}. Writes that were acknowledged would be lost by cutting it \
         here, so z4 refuses to. Do not delete or edit the file: check the disk, then rebuild this host from its \
         peers, or restore its data directory from a backup",
        file.display()
    )]
    Corrupt {
        /// The damaged (or missing) segment.
        file: PathBuf,
        /// Byte offset of the first thing that does not check.
        offset: u64,
        /// What does not check.
        why: String,
    },
    /// A newer program wrote this log.
    #[error(
        "{} has log format {found}, this program reads up to {supported}: start the newer z4 that wrote it",
        file.display()
    )]
    Version {
        /// The segment.
        file: PathBuf,
        /// Its format version.
        found: u32,
        /// The newest version this program reads.
        supported: u32,
    },
    /// The disk is full. Nothing was written and the log stays usable.
    #[error("no space left for {needed} bytes of log in {}: free disk space, or wait for the next checkpoint", dir.display())]
    Full {
        /// Where the log lives.
        dir: PathBuf,
        /// Bytes the refused batch takes.
        needed: u64,
    },
    /// One batch is larger than a segment's 32-bit offsets can address. Nothing was written.
    #[error("a batch of {bytes} bytes is more than one log segment can address: write it in smaller batches")]
    TooLarge {
        /// Bytes the refused batch takes.
        bytes: u64,
    },
    /// The configuration cannot work.
    #[error("log segments of {segment_bytes} bytes do not work: configure {least} to {most}")]
    SegmentBytes {
        /// As configured.
        segment_bytes: u64,
        /// The least that works.
        least: u64,
        /// The most that works.
        most: u64,
    },
    /// The entry was recycled or overwritten: a follower that needs it gets a snapshot.
    #[error("entry {index} of group {group} is not in the log any more: send a snapshot instead")]
    Gone {
        /// Whose entry.
        group: ShardId,
        /// Which entry.
        index: Index,
    },
    /// The system failed. After a failed write or sync the log takes nothing more (see [`Error::Poisoned`]).
    #[error("cannot {what} {}: {source}", file.display())]
    Io {
        /// What was tried, as a verb.
        what: &'static str,
        /// On which file or directory.
        file: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// An earlier write or sync failed: what the disk holds is unknown until the process starts again.
    #[error(
        "the log takes nothing more since an earlier write or sync failed: restart the process to recover"
    )]
    Poisoned,
}

impl Error {
    /// Returns what the caller should do.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Error::Corrupt { .. } => Kind::Corrupt,
            Error::Version { .. } => Kind::Unsupported,
            Error::Full { .. } => Kind::Overloaded,
            Error::TooLarge { .. } | Error::SegmentBytes { .. } => Kind::Invalid,
            Error::Gone { .. } => Kind::NotFound,
            Error::Io { .. } | Error::Poisoned => Kind::Internal,
        }
    }
}

/// Returns whether `error` says that the disk, or the user's share of it, is full.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
