//! The follower's side of one snapshot.

use std::collections::VecDeque;

use bytes::Bytes;
use z4_consensus::Message;
use z4_store::{ChunkHead, Staging};
use z4_types::ShardId;

use super::{AGAIN_TICKS, Appended, GIVE_UP_TICKS, SnapshotWork, WINDOW_CHUNKS};
use crate::part::Part;

/// Chunks that wait to be staged; the sender does not send more ahead.
const WAITING_MAX: usize = 2 * WINDOW_CHUNKS as usize;

/// See the module essay.
pub(crate) struct Receiving {
    stream: u64,
    offer: Message,
    /// None while it is being opened or written.
    staging: Option<Staging>,
    /// The next chunk to ask for.
    next: u32,
    waiting: VecDeque<Bytes>,
    idle_ticks: u32,
}

/// What comes of chunks that were staged.
pub(crate) enum Received {
    /// Go on: write what waits, and say this.
    More(Option<SnapshotWork>, Option<Part>),
    /// All rows are durable; the engine may have its message.
    Complete(Message, z4_store::Staged),
}

impl Receiving {
    /// Returns the receiver of an offered stream, and what to do first.
    pub(crate) fn new(shard: ShardId, stream: u64, offer: Message) -> (Self, SnapshotWork) {
        let receiving =
            Self { stream, offer, staging: None, next: 0, waiting: VecDeque::new(), idle_ticks: 0 };
        (receiving, SnapshotWork::Stage { shard, stream })
    }

    /// Returns the stream's number.
    pub(crate) fn stream(&self) -> u64 {
        self.stream
    }

    /// Takes a newer offer of the same stream; asks again unless something is being written.
    pub(crate) fn offered(&mut self, offer: Message) -> Option<Part> {
        self.offer = offer;
        self.staging.is_some().then(|| self.want(true))
    }

    /// Takes a chunk; returns what to write.
    pub(crate) fn chunk(&mut self, shard: ShardId, bytes: Bytes) -> Option<SnapshotWork> {
        let ours = ChunkHead::peek(&bytes).is_some_and(|head| {
            head.group == shard && head.stream == self.stream && head.number >= self.next
        });
        if ours && self.waiting.len() < WAITING_MAX {
            self.idle_ticks = 0;
            self.waiting.push_back(bytes);
        }
        self.append()
    }

    fn append(&mut self) -> Option<SnapshotWork> {
        if self.waiting.is_empty() {
            return None;
        }
        let staging = self.staging.take()?;
        Some(SnapshotWork::Append { staging, chunks: self.waiting.drain(..).collect() })
    }

    /// Takes back the staging file after it was opened or written to.
    pub(crate) fn appended(mut self, appended: Appended) -> (Option<Self>, Received) {
        match appended {
            Appended::Complete(staged) => {
                let offer = self.offer.clone();
                (None, Received::Complete(offer, staged))
            }
            Appended::More { staging, again } => {
                self.next = staging.next_number();
                self.staging = Some(staging);
                if again {
                    self.waiting.clear();
                }
                let work = self.append();
                let want = self.want(again);
                (Some(self), Received::More(work, Some(want)))
            }
            // Asked for again with the next ticks: the disk may have room then.
            Appended::Full { staging } => {
                self.next = staging.next_number();
                self.staging = Some(staging);
                self.waiting.clear();
                (Some(self), Received::More(None, None))
            }
        }
    }

    fn want(&self, again: bool) -> Part {
        Part::Want {
            to: self.offer.from(),
            from: self.offer.to(),
            stream: self.stream,
            next: self.next,
            again,
        }
    }

    /// Lets a tick pass. Returns whether to go on, and what to say.
    pub(crate) fn tick(&mut self) -> (bool, Option<Part>) {
        self.idle_ticks += 1;
        let ask = self.staging.is_some() && self.idle_ticks.is_multiple_of(AGAIN_TICKS);
        (self.idle_ticks < GIVE_UP_TICKS, ask.then(|| self.want(true)))
    }
}
