//! What snapshots need the disk for. The runner has a thread for it, the simulator runs it when it likes.

use bytes::Bytes;
use z4_store::{Error, SnapshotReader, Staged, Staging, Store};
use z4_types::{Kind, ShardId};

/// Something to do with the base or a staging file.
pub enum SnapshotWork {
    /// Read up to `count` chunks for a replica.
    #[expect(missing_docs, reason = "the line above says them")]
    Read { shard: ShardId, to: u64, reader: SnapshotReader, seek: Option<u32>, count: u32 },
    /// Open the staging file of a stream.
    #[expect(missing_docs, reason = "the line above says them")]
    Stage { shard: ShardId, stream: u64 },
    /// Write chunks to it.
    #[expect(missing_docs, reason = "the line above says them")]
    Append { staging: Staging, chunks: Vec<Bytes> },
    /// Replace the group's rows by what was staged.
    Install(Staged),
    /// Remove a staging file that nobody needs.
    Discard(Staged),
    /// Remove the rows of a group that was removed from this host and forgotten by the log.
    Delete(ShardId),
}

/// How it went: for [`crate::Driver::snapshot_done`].
pub struct SnapshotDone(pub(crate) Outcome);

pub(crate) enum Outcome {
    Read {
        shard: ShardId,
        to: u64,
        reader: SnapshotReader,
        chunks: Vec<Vec<u8>>,
        at_end: bool,
    },
    /// The view is lost, or the chunk does not exist: the snapshot is begun anew.
    NotRead {
        shard: ShardId,
        to: u64,
    },
    Staged {
        shard: ShardId,
        stream: u64,
        appended: Appended,
    },
    /// The staging file cannot be opened now.
    NotStaged {
        shard: ShardId,
    },
    Installed(Staged),
    /// The disk is full: to be tried again.
    NotInstalled(Staged),
    Deleted(ShardId),
    /// The disk is full: to be tried again.
    NotDeleted(ShardId),
    Nothing,
    Failed(Error),
}

/// What became of a staging file.
pub(crate) enum Appended {
    /// All rows are here and durable.
    Complete(Staged),
    /// `again`: a chunk was damaged or missing, those behind it are asked for again.
    More { staging: Staging, again: bool },
    /// The disk is full; the file was emptied.
    Full { staging: Staging },
}

impl SnapshotWork {
    /// Does it. Takes long.
    #[must_use]
    pub fn run(self, store: &Store) -> SnapshotDone {
        SnapshotDone(match self {
            Self::Read { shard, to, reader, seek, count } => read(shard, to, reader, seek, count),
            Self::Stage { shard, stream } => match store.stage(shard, stream) {
                Ok(staging) => finish(shard, stream, staging, true),
                Err(error) if error.kind() == Kind::Overloaded => Outcome::NotStaged { shard },
                Err(error) => Outcome::Failed(error),
            },
            Self::Append { staging, chunks } => append(staging, &chunks),
            Self::Install(staged) => match store.install(&staged) {
                Ok(_) => Outcome::Installed(staged),
                Err(error) if error.kind() == Kind::Overloaded => Outcome::NotInstalled(staged),
                Err(error) => Outcome::Failed(error),
            },
            Self::Discard(staged) => {
                staged.discard();
                Outcome::Nothing
            }
            Self::Delete(shard) => match store.delete_group(shard) {
                Ok(()) => Outcome::Deleted(shard),
                Err(error) if error.kind() == Kind::Overloaded => Outcome::NotDeleted(shard),
                Err(error) => Outcome::Failed(error),
            },
        })
    }
}

fn read(shard: ShardId, to: u64, mut reader: SnapshotReader, seek: Option<u32>, count: u32) -> Outcome {
    let mut chunks = Vec::new();
    let mut at_end = false;
    let mut all = || {
        if let Some(number) = seek {
            reader.seek(number)?;
        }
        for _ in 0..count {
            match reader.next_chunk()? {
                Some(chunk) => chunks.push(chunk),
                None => {
                    at_end = true;
                    break;
                }
            }
        }
        Ok(())
    };
    match all() {
        Ok(()) => Outcome::Read { shard, to, reader, chunks, at_end },
        Err(error) => match Error::kind(&error) {
            Kind::Unavailable | Kind::Invalid => Outcome::NotRead { shard, to },
            _ => Outcome::Failed(error),
        },
    }
}

fn append(mut staging: Staging, chunks: &[Bytes]) -> Outcome {
    let (shard, stream) = (staging.group(), staging.stream());
    for chunk in chunks {
        match staging.append(chunk) {
            Ok(()) => {}
            Err(error) => match error.kind() {
                Kind::Overloaded => {
                    return Outcome::Staged { shard, stream, appended: Appended::Full { staging } };
                }
                Kind::Invalid | Kind::Unsupported => {
                    tracing::warn!(%error, "a chunk of a snapshot was not taken");
                    return finish(shard, stream, staging, true);
                }
                _ => return Outcome::Failed(error),
            },
        }
    }
    finish(shard, stream, staging, false)
}

fn finish(shard: ShardId, stream: u64, staging: Staging, again: bool) -> Outcome {
    if !staging.is_complete() {
        return Outcome::Staged { shard, stream, appended: Appended::More { staging, again } };
    }
    match staging.finish() {
        Ok(staged) => Outcome::Staged { shard, stream, appended: Appended::Complete(staged) },
        Err(error) => Outcome::Failed(error),
    }
}
