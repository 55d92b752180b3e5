//! The receiver's side: chunks, checked and kept in a file until all are there.
//!
//! The file holds the chunks as they came, one behind the other. It is not synced on the way: opening it again reads it
//! through and cuts it behind the last chunk that is whole and fits.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use z4_env::{Disk, File, OpenMode};
use z4_types::ShardId;

use super::chunk::{CHUNK_BYTES_MAX, Chunk, PREFIX, Refusal, VERSION, prefix};
use super::stream::Stream;
use crate::base::Health;
use crate::{Error, Meta};

/// A stream on its way in. Dropping it keeps the file; [`Store::stage`](crate::Store::stage) finds it again.
pub struct Staging {
    place: Place,
    /// `None` before the first chunk, and after the disk was full.
    file: Option<Arc<dyn File>>,
    /// Bytes of the file that hold accepted chunks.
    end: u64,
    stream: Stream,
}

/// A whole stream, durable, ready for [`Store::install`](crate::Store::install).
pub struct Staged {
    place: Place,
    file: Arc<dyn File>,
    end: u64,
    stream: Stream,
    meta: Meta,
}

/// Where a staging file lies.
struct Place {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    path: PathBuf,
    health: Health,
}

impl Place {
    fn remove(&self) -> Result<(), Error> {
        self.disk.remove(&self.path).map_err(|error| self.health.io(&error))
    }

    fn refused(&self, stream: &Stream, detail: impl Into<String>) -> Error {
        Error::ChunkRefused { file: self.path.clone(), chunk: stream.at.number, detail: detail.into() }
    }
}

impl Staging {
    /// Opens the file `path` in `dir`, if it is there, and goes on behind its last good chunk.
    pub(super) fn open(
        disk: &Arc<dyn Disk>,
        dir: &Path,
        path: PathBuf,
        group: ShardId,
        stream: u64,
    ) -> Result<Self, Error> {
        let health = Health::new(path.clone());
        let place = Place { disk: Arc::clone(disk), dir: dir.to_owned(), path, health };
        let mut this = Self { place, file: None, end: 0, stream: Stream::new(group, stream) };
        if disk.exists(&this.place.path).map_err(|error| this.place.health.io(&error))? {
            this.resume()?;
        }
        Ok(this)
    }

    fn resume(&mut self) -> Result<(), Error> {
        let health = &self.place.health;
        let io = |error: std::io::Error| health.io(&error);
        let file = self.place.disk.open(&self.place.path, OpenMode::Write).map_err(io)?;
        let length = file.len().map_err(io)?;
        let stream = Stream::new(self.stream.group, self.stream.number);
        let mut chunks = Chunks::new(&*file, &self.place, length, stream);
        let torn = loop {
            match chunks.next() {
                Ok(Some(_)) => {}
                Ok(None) => break false,
                Err(Error::ChunkRefused { .. } | Error::NewerFormat { .. }) => break true,
                Err(error) => return Err(error),
            }
        };
        (self.end, self.stream) = (chunks.at, chunks.stream);
        if torn {
            tracing::info!(
                file = %self.place.path.display(), chunks = self.stream.at.number, "a snapshot on its way in was torn; going on behind its last good chunk"
            );
            file.set_len(self.end).map_err(io)?;
        }
        self.file = Some(file);
        Ok(())
    }

    /// Returns the group.
    #[must_use]
    pub fn group(&self) -> ShardId {
        self.stream.group
    }

    /// Returns the number of the stream.
    #[must_use]
    pub fn stream(&self) -> u64 {
        self.stream.number
    }

    /// Returns the number of the chunk wanted next: what to ask the sender for.
    #[must_use]
    pub fn next_number(&self) -> u32 {
        self.stream.at.number
    }

    /// Returns the bytes received, and about how many there will be once the first chunk is here.
    #[must_use]
    pub fn progress(&self) -> (u64, Option<u64>) {
        (self.end, self.stream.first.as_ref().map(|first| first.bytes_about))
    }

    /// Returns whether all chunks are here.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.stream.complete
    }

    /// Checks a chunk and keeps it. One that is already here is ignored.
    ///
    /// # Errors
    /// `Invalid` if it is damaged, of another stream, or not the one wanted next: ask for that again. `Unsupported` if a
    /// newer program wrote it. `Overloaded` if the disk is full: what was received is removed and chunk 0 is wanted next.
    /// `Internal` if the file cannot be written.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let place = &self.place;
        let chunk = Chunk::decode(bytes).map_err(|why| unreadable(place, &self.stream, why))?;
        if self.stream.knows(&chunk).map_err(|why| place.refused(&self.stream, why))? {
            return Ok(());
        }
        let stream = self.stream.with(&chunk).map_err(|why| place.refused(&self.stream, why))?;
        if let Err(error) = self.write(bytes) {
            let error = self.place.health.io(&error);
            if let Error::Full { .. } = error {
                self.restart()?;
            }
            return Err(error);
        }
        self.end += bytes.len() as u64;
        self.stream = stream;
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        let file = match &self.file {
            Some(file) => file,
            None => self.file.insert(self.place.disk.open(&self.place.path, OpenMode::CreateOrOpen)?),
        };
        file.write_all_at(bytes, self.end)
    }

    /// Gives the space back: on a full disk others need it more.
    fn restart(&mut self) -> Result<(), Error> {
        let existed = self.file.take().is_some();
        self.end = 0;
        self.stream = Stream::new(self.stream.group, self.stream.number);
        if existed { self.place.remove() } else { Ok(()) }
    }

    /// Makes a complete stream durable.
    ///
    /// # Errors
    /// `Invalid` if chunks are missing; the file stays, open it again. `Internal` if syncing failed: the process must end.
    pub fn finish(self) -> Result<Staged, Error> {
        let Self { place, file, end, stream } = self;
        let (Some(file), Some(first), true) = (file, &stream.first, stream.complete) else {
            return Err(place.refused(&stream, "the stream has not ended"));
        };
        file.sync_data().map_err(|error| place.health.sync(&error))?;
        place.disk.sync_dir(&place.dir).map_err(|error| place.health.sync(&error))?;
        let meta = first.meta.clone();
        Ok(Staged { place, file, end, stream, meta })
    }

    /// Gives the stream up and removes the file.
    ///
    /// # Errors
    /// `Internal` if it cannot be removed.
    pub fn discard(mut self) -> Result<(), Error> {
        self.restart()
    }
}

impl Staged {
    /// Returns the group.
    #[must_use]
    pub fn group(&self) -> ShardId {
        self.stream.group
    }

    /// Returns the meta the group will have.
    #[must_use]
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// Returns how many rows the group will have.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.stream.at.rows
    }

    /// Calls `each` with every chunk, checked once more, and makes sure that they are all.
    pub(super) fn each_chunk(
        &self,
        mut each: impl FnMut(&Chunk<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let stream = Stream::new(self.stream.group, self.stream.number);
        let mut chunks = Chunks::new(&*self.file, &self.place, self.end, stream);
        while let Some(chunk) = chunks.next()? {
            each(&chunk)?;
        }
        if !chunks.stream.complete || chunks.stream.at != self.stream.at {
            return Err(self.place.refused(&chunks.stream, "the file has changed"));
        }
        Ok(())
    }

    /// Gives the rows up and removes the file: the group has got further by itself. A leftover does no harm.
    pub fn discard(self) {
        self.remove();
    }

    /// Removes the file. A leftover does no harm: the next start removes it.
    pub(super) fn remove(&self) {
        let removed = self.place.remove().and_then(|()| {
            self.place.disk.sync_dir(&self.place.dir).map_err(|error| self.place.health.io(&error))
        });
        if let Err(error) = removed {
            tracing::warn!(%error, "an installed snapshot's file stays until the next start");
        }
    }
}

impl std::fmt::Debug for Staging {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Staging").field("file", &self.place.path).field("next", &self.next_number()).finish()
    }
}

impl std::fmt::Debug for Staged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Staged").field("file", &self.place.path).field("meta", &self.meta).finish()
    }
}

/// Reads a staging file, one chunk in memory.
struct Chunks<'f> {
    file: &'f dyn File,
    place: &'f Place,
    /// End of the last accepted chunk.
    at: u64,
    end: u64,
    stream: Stream,
    buffer: Vec<u8>,
}

impl<'f> Chunks<'f> {
    fn new(file: &'f dyn File, place: &'f Place, end: u64, stream: Stream) -> Self {
        Self { file, place, at: 0, end, stream, buffer: Vec::new() }
    }

    fn next(&mut self) -> Result<Option<Chunk<'_>>, Error> {
        let place = self.place;
        let left = self.end - self.at;
        if left == 0 {
            return Ok(None);
        }
        let refused = |stream: &Stream, detail| place.refused(stream, detail);
        let mut start = [0; PREFIX];
        if left < PREFIX as u64 {
            return Err(refused(&self.stream, "the file ends inside it"));
        }
        self.file.read_exact_at(&mut start, self.at).map_err(|error| place.health.io(&error))?;
        let (length, _) = prefix(&start).expect("as many bytes as that takes");
        if length > CHUNK_BYTES_MAX || length as u64 > left {
            return Err(refused(&self.stream, "the file ends inside it"));
        }
        self.buffer.resize(length, 0);
        self.file.read_exact_at(&mut self.buffer, self.at).map_err(|error| place.health.io(&error))?;
        let chunk = Chunk::decode(&self.buffer).map_err(|why| unreadable(place, &self.stream, why))?;
        self.stream = self.stream.with(&chunk).map_err(|why| refused(&self.stream, why))?;
        self.at += length as u64;
        Ok(Some(chunk))
    }
}

fn unreadable(place: &Place, stream: &Stream, why: Refusal) -> Error {
    match why {
        Refusal::Damaged(detail) => place.refused(stream, detail),
        Refusal::Newer(version) => {
            Error::NewerFormat { file: place.path.clone(), found: version.into(), supported: VERSION.into() }
        }
    }
}
