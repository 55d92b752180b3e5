//! What the store does with snapshots: finds a place for a stream, installs it, cleans up.

use std::io::ErrorKind;
use std::path::PathBuf;

use z4_types::ShardId;

use super::{Staged, Staging};
use crate::base::Health;
use crate::{Error, Meta, Store};

/// Directory of the staging files, below the base's.
const DIR: &str = "snapshots";
const SUFFIX: &str = ".part";

impl Store {
    /// Opens the staging file of a stream, or goes on with it where it was left. A group has at most one: files of other
    /// streams of it are removed.
    ///
    /// # Errors
    /// `Internal` if directory or file cannot be read, made or removed; `Overloaded` if the disk is full.
    pub fn stage(&self, group: ShardId, stream: u64) -> Result<Staging, Error> {
        let (dir, mine) = (self.snapshots(), format!("{:08x}-{stream:016x}{SUFFIX}", group.0));
        let io = |error: std::io::Error| Health::new(dir.clone()).io(&error);
        self.disk().create_dir_all(&dir).map_err(io)?;
        let of_group = format!("{:08x}-", group.0);
        for name in self.disk().list(&dir).map_err(io)? {
            if name.starts_with(&of_group) && name != mine {
                self.disk().remove(&dir.join(name)).map_err(io)?;
            }
        }
        Staging::open(self.disk(), &dir, dir.join(mine), group, stream)
    }

    /// Removes all staging files, at boot: what was on its way in is sent again. Returns how many there were.
    ///
    /// # Errors
    /// `Internal` if they cannot be listed or removed.
    pub fn discard_staging(&self) -> Result<usize, Error> {
        let dir = self.snapshots();
        let io = |error: std::io::Error| Health::new(dir.clone()).io(&error);
        let mut names = match self.disk().list(&dir) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(0),
            names => names.map_err(io)?,
        };
        names.retain(|name| name.ends_with(SUFFIX));
        for name in &names {
            self.disk().remove(&dir.join(name)).map_err(io)?;
        }
        self.disk().sync_dir(&dir).map_err(io)?;
        Ok(names.len())
    }

    /// Replaces all rows and the meta of a group by what was staged, in one durable transaction, and removes the staging
    /// file. Takes long, and checkpoints wait for it; memory is bounded by the cache and one chunk.
    ///
    /// On success the group's [`GroupStore`](crate::GroupStore), if there is one, is void: nothing may be read or changed
    /// through it until [`reset_to_base`](crate::GroupStore::reset_to_base), which must come next. What was frozen of the
    /// group before is never written any more, even if its checkpoint is under way.
    ///
    /// # Errors
    /// `Invalid` if the staging file was damaged: nothing happened, the group goes on as it was, the snapshot is needed
    /// anew. `Overloaded` if the disk is full: all or nothing may have happened and the group's store is void already;
    /// free space and call again with the same `staged` before anything else is done with the group. `Corrupt` or
    /// `Internal` otherwise: the process should end.
    pub fn install(&self, staged: &Staged) -> Result<Meta, Error> {
        let group = staged.group();
        self.write(|base| {
            let old = self.current().size_of(group);
            let replaced = base.replace(group, staged.meta(), old, |sink| {
                staged.each_chunk(|chunk| sink.insert(chunk.rows()))
            });
            // Only then is it certain that the transaction never got as far as its commit.
            if !matches!(replaced, Err(Error::ChunkRefused { .. })) {
                self.end_generation(group);
            }
            replaced
        })?;
        staged.remove();
        Ok(staged.meta().clone())
    }

    fn snapshots(&self) -> PathBuf {
        self.dir().join(DIR)
    }
}
