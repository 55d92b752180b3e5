//! How far a stream has come, and what may follow.

use z4_types::ShardId;

use super::chunk::{Chunk, First, stream_of};

/// What lies before a chunk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Progress {
    /// Chunks, and so the number of the next one.
    pub(super) number: u32,
    pub(super) rows: u64,
    /// Chain over the rows of all chunks, 0 before the first.
    pub(super) hash: u64,
}

/// The chunks of one stream, accepted one after the other.
#[derive(Debug, Clone)]
pub(super) struct Stream {
    pub(super) group: ShardId,
    pub(super) number: u64,
    pub(super) at: Progress,
    /// Invariant: there from the first chunk on.
    pub(super) first: Option<First>,
    /// Of all rows so far.
    last_key: Option<Vec<u8>>,
    /// Whether the last chunk was accepted.
    pub(super) complete: bool,
}

impl Stream {
    pub(super) fn new(group: ShardId, number: u64) -> Self {
        Self { group, number, at: Progress::default(), first: None, last_key: None, complete: false }
    }

    /// Returns whether `chunk` is of this stream and was accepted before, or why it never will be.
    pub(super) fn knows(&self, chunk: &Chunk<'_>) -> Result<bool, &'static str> {
        if chunk.head.group != self.group || chunk.head.stream != self.number {
            return Err("it belongs to another snapshot");
        }
        Ok(chunk.head.number < self.at.number)
    }

    /// Returns the stream with `chunk` accepted, or why it does not come next.
    pub(super) fn with(&self, chunk: &Chunk<'_>) -> Result<Self, &'static str> {
        self.knows(chunk)?;
        if self.complete {
            return Err("the stream has ended");
        }
        if chunk.before.number != self.at.number {
            return Err("another one comes next");
        }
        if chunk.before != self.at {
            return Err("the rows before it were others");
        }
        if let (Some(last), Some(first)) = (&self.last_key, chunk.first_key())
            && first <= last.as_slice()
        {
            return Err("its rows do not follow");
        }
        if let Some(first) = &chunk.first
            && stream_of(self.group, &first.meta) != self.number
        {
            return Err("its meta is that of another stream");
        }
        let at = chunk.after();
        if chunk.totals.is_some_and(|totals| totals != (at.rows, at.hash)) {
            return Err("the totals are others");
        }
        Ok(Self {
            at,
            first: chunk.first.clone().or_else(|| self.first.clone()),
            last_key: chunk.last_key.map(<[u8]>::to_vec).or_else(|| self.last_key.clone()),
            complete: chunk.head.last,
            ..*self
        })
    }
}
