//! The leader's side of one snapshot.

use bytes::Bytes;
use z4_consensus::Message;
use z4_store::SnapshotReader;
use z4_types::ShardId;

use super::{AGAIN_TICKS, GIVE_UP_TICKS, SnapshotWork, WINDOW_CHUNKS};
use crate::part::Part;

/// See the module essay.
pub(crate) struct Sending {
    stream: u64,
    offer: Message,
    /// None while it is being read.
    reader: Option<SnapshotReader>,
    /// The next chunk to read.
    next: u32,
    /// Chunks below this may be read.
    until: u32,
    /// The receiver lost what lies at this chunk and above.
    rewind: Option<u32>,
    /// All chunks have been read once.
    at_end: bool,
    idle_ticks: u32,
}

impl Sending {
    /// Returns a snapshot that waits to be asked for; `offer` carries the mark of the reader's view.
    pub(crate) fn new(offer: Message, reader: SnapshotReader) -> Self {
        let stream = reader.stream();
        Self {
            stream,
            offer,
            reader: Some(reader),
            next: 0,
            until: 0,
            rewind: None,
            at_end: false,
            idle_ticks: 0,
        }
    }

    /// Returns the replica it is for.
    pub(crate) fn to(&self) -> u64 {
        self.offer.to()
    }

    /// Returns the stream's number.
    pub(crate) fn stream(&self) -> u64 {
        self.stream
    }

    /// Returns what announces it.
    pub(crate) fn offer(&self) -> Part {
        Part::Offer { stream: self.stream, message: self.offer.clone() }
    }

    /// Takes the receiver's wish; returns what to read for it.
    pub(crate) fn wanted(
        &mut self,
        shard: ShardId,
        stream: u64,
        next: u32,
        again: bool,
    ) -> Option<SnapshotWork> {
        if stream != self.stream {
            return None;
        }
        self.idle_ticks = 0;
        if again {
            self.rewind = Some(next);
            self.at_end = false;
        }
        self.until = next.saturating_add(WINDOW_CHUNKS);
        self.read(shard)
    }

    /// Takes back the reader; returns what to read next.
    pub(crate) fn was_read(
        &mut self,
        shard: ShardId,
        reader: SnapshotReader,
        at_end: bool,
    ) -> Option<SnapshotWork> {
        self.next = reader.next_number();
        self.at_end = at_end;
        self.reader = Some(reader);
        self.read(shard)
    }

    fn read(&mut self, shard: ShardId) -> Option<SnapshotWork> {
        let next = self.rewind.unwrap_or(self.next);
        if self.at_end && self.rewind.is_none() || next >= self.until {
            return None;
        }
        let reader = self.reader.take()?;
        let (seek, count) = (self.rewind.take(), self.until - next);
        Some(SnapshotWork::Read { shard, to: self.to(), reader, seek, count })
    }

    /// Lets a tick pass. Returns whether to go on, and what to say.
    pub(crate) fn tick(&mut self) -> (bool, Option<Part>) {
        self.idle_ticks += 1;
        // Nobody has asked for it yet: the offer may be lost.
        let offer = (self.until == 0 && self.idle_ticks.is_multiple_of(AGAIN_TICKS)).then(|| self.offer());
        (self.idle_ticks < GIVE_UP_TICKS, offer)
    }

    /// Returns the part that carries a chunk.
    pub(crate) fn chunk(&self, bytes: Vec<u8>) -> Part {
        Part::Chunk { to: self.to(), bytes: Bytes::from(bytes) }
    }
}
