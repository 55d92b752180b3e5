//! The sender's side: a view, cut into chunks.

use super::chunk::{Builder, First, stream_of};
use super::stream::Progress;
use crate::{Error, Meta, View};

/// Reads one view as a stream of chunks. `Send`: read it on a thread that nobody waits for. It holds the view, and with it
/// pages of the base, until it is dropped.
pub struct SnapshotReader {
    view: View,
    first: First,
    stream: u64,
    /// Where each chunk begins, as far as that is known. Invariant: never empty; `places[n].before.number == n`.
    places: Vec<Place>,
    /// Chunk to read next.
    next: usize,
    /// Chunks of the whole stream, once that is known.
    chunks: Option<usize>,
}

/// The start of a chunk.
struct Place {
    before: Progress,
    /// Key of its first row; the chunk may have none only if it is the first.
    from: Vec<u8>,
}

impl SnapshotReader {
    /// Returns a reader that stands before the first chunk.
    #[must_use]
    pub fn new(view: View) -> Self {
        let first = First { meta: view.meta().clone(), bytes_about: view.bytes_about() };
        let stream = stream_of(view.group(), &first.meta);
        let places = vec![Place { before: Progress::default(), from: Vec::new() }];
        Self { view, first, stream, places, next: 0, chunks: None }
    }

    /// Returns the number of the stream. It follows from group and meta: equal numbers mean equal chunks.
    #[must_use]
    pub fn stream(&self) -> u64 {
        self.stream
    }

    /// Returns the meta that the receiver will have.
    #[must_use]
    pub fn meta(&self) -> &Meta {
        &self.first.meta
    }

    /// Returns about how many bytes keys and values of all rows have.
    #[must_use]
    pub fn bytes_about(&self) -> u64 {
        self.first.bytes_about
    }

    /// Returns the number of the chunk that is read next.
    #[must_use]
    pub fn next_number(&self) -> u32 {
        u32::try_from(self.next).expect("chunks are numbered by u32")
    }

    /// Returns the next chunk, about 256 KiB; `None` behind the last one. An empty group has one chunk.
    ///
    /// # Errors
    /// `Unavailable` if the base was opened again under the view: take a new view and start again. `Corrupt` or
    /// `Internal` if it cannot be read.
    pub fn next_chunk(&mut self) -> Result<Option<Vec<u8>>, Error> {
        if self.at_end() {
            return Ok(None);
        }
        let place = &self.places[self.next];
        let first = (self.next == 0).then_some(&self.first);
        let mut builder = Builder::new(self.view.group(), self.stream, place.before, first);
        let mut following: Option<Vec<u8>> = None;
        self.view.scan_to_end(&place.from, &mut |key, value| {
            let fits = builder.push(key, value);
            if !fits {
                following = Some(key.to_vec());
            }
            fits
        })?;
        let (chunk, before) = builder.finish(following.is_none());
        self.next += 1;
        match following {
            Some(from) if self.next == self.places.len() => self.places.push(Place { before, from }),
            Some(_) => {}
            None => self.chunks = Some(self.next),
        }
        Ok(Some(chunk))
    }

    /// Makes chunk `number` the next one, as the receiver asks after a lost connection. Going back costs nothing; going
    /// forward reads what lies between. After an error the reader stands where it stood.
    ///
    /// # Errors
    /// `Invalid` if the stream has no such chunk; else as [`SnapshotReader::next_chunk`].
    pub fn seek(&mut self, number: u32) -> Result<(), Error> {
        let (wanted, stood) = (number as usize, self.next);
        self.next = wanted.min(self.places.len() - 1);
        while self.next < wanted {
            let read = self.next_chunk();
            if let Ok(Some(_)) = read {
                continue;
            }
            self.next = stood;
            read?;
            return Err(Error::ChunkRefused {
                file: self.view.file().to_owned(),
                chunk: number,
                detail: format!("the stream has only {}", self.chunks.unwrap_or_default()),
            });
        }
        Ok(())
    }

    fn at_end(&self) -> bool {
        self.chunks == Some(self.next)
    }
}

impl std::fmt::Debug for SnapshotReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SnapshotReader")
            .field("group", &self.view.group())
            .field("meta", &self.first.meta)
            .field("next", &self.next)
            .finish_non_exhaustive()
    }
}
