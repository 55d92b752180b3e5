//! What can go wrong with the base, and what to do about it.

use std::path::PathBuf;

use z4_types::Kind;

/// An error of the store. Every one names its file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Bytes of the base do not match their checksum, or the file is cut short. Nothing is served from it.
    #[error(
        "{}: damaged ({detail}); stop this host, check its disk, then restore the file from a backup, or remove the data \
         directory and let the host rejoin as a new replica", file.display()
    )]
    Corrupt {
        /// The damaged file.
        file: PathBuf,
        /// What did not match.
        detail: String,
    },
    /// The base, or a chunk of a snapshot, was written by a newer program.
    #[error(
        "{}: format version {found}, this program reads up to {supported}; use the program version that wrote it, or a \
         newer one", file.display()
    )]
    NewerFormat {
        /// The file that was found.
        file: PathBuf,
        /// Its version.
        found: u32,
        /// The newest version this program reads.
        supported: u32,
    },
    /// The disk is full. A checkpoint did not happen: what was frozen is still in memory and readable. A staged snapshot
    /// was removed and begins anew.
    #[error("{}: no space left on the disk ({detail}); free some space, it is tried again", file.display())]
    Full {
        /// The file that could not grow.
        file: PathBuf,
        /// What the system said.
        detail: String,
    },
    /// Syncing failed: what the disk holds is unknown. The caller ends the process and replays from the log.
    #[error("{}: sync failed ({detail}); the process must end and recover from its log", file.display())]
    SyncFailed {
        /// The file.
        file: PathBuf,
        /// What the system said.
        detail: String,
    },
    /// Reading or writing failed.
    #[error("{}: {detail}", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// What the system said.
        detail: String,
    },
    /// The base was reopened under a view, after the disk was full. Take a new view.
    #[error("{}: the base was reopened; take a new view", file.display())]
    ViewLost {
        /// The file.
        file: PathBuf,
    },
    /// A chunk of a snapshot is damaged, out of order, of another snapshot, or there is none. Nothing changed.
    #[error("{}: chunk {chunk} of the snapshot is refused ({detail}); it shall be sent again", file.display())]
    ChunkRefused {
        /// The staging file, or the base a chunk was to be read from.
        file: PathBuf,
        /// Number of the chunk that is wanted.
        chunk: u32,
        /// What is wrong with the one that was offered.
        detail: String,
    },
    /// A defect in this program or in redb.
    #[error("{}: internal error: {detail}", file.display())]
    Internal {
        /// The file.
        file: PathBuf,
        /// What happened.
        detail: String,
    },
}

impl Error {
    /// Returns what the caller should do.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Corrupt { .. } => Kind::Corrupt,
            Self::ChunkRefused { .. } => Kind::Invalid,
            Self::NewerFormat { .. } => Kind::Unsupported,
            Self::Full { .. } => Kind::Overloaded,
            Self::ViewLost { .. } => Kind::Unavailable,
            Self::SyncFailed { .. } | Self::Io { .. } | Self::Internal { .. } => Kind::Internal,
        }
    }
}
