//! Settlements on their way: waiting, under way, in doubt.
//!
//! # Invariants
//! - Each word is in `waiting` or in exactly one frame of `flying`, until the server answers it.
//! - Words in doubt go first and in their old order: an extension must not follow the ack of the same lease.

use std::collections::{BTreeMap, VecDeque};

use tokio::time::Instant;
use z4_proto::v1;
use z4_types::Kind;
use z4_types::limits::SETTLE_BATCH_MAX;

use crate::consumer::Counts;
use crate::{Error, Settlement, Verdict};

/// Words of one frame; a tenth of what the server takes, so that its answer comes soon.
const FRAME_WORDS_MAX: usize = SETTLE_BATCH_MAX / 10;

/// One word on its way.
#[derive(Debug)]
struct Word {
    settlement: Settlement,
    /// It was sent once without an answer, so "the lease is over" may mean that it was done.
    in_doubt: bool,
}

impl Word {
    /// 1 if it ends the lease, 0 if it extends it.
    fn ends(&self) -> u32 {
        u32::from(!matches!(self.settlement.verdict, Verdict::Extend { .. }))
    }
}

/// Words that were sent together.
#[derive(Debug)]
struct Frame {
    words: Vec<Word>,
    sent_at: Instant,
}

#[derive(Debug, Default)]
pub(super) struct Outbox {
    waiting: VecDeque<Word>,
    /// Words of `waiting` that end a lease: their tasks are still held, as the server sees it.
    ending: u32,
    flying: BTreeMap<u64, Frame>,
    next_seq: u64,
}

impl Outbox {
    pub(super) fn push(&mut self, settlement: Settlement) {
        let word = Word { settlement, in_doubt: false };
        self.ending += word.ends();
        self.waiting.push_back(word);
    }

    /// Returns how many leases end by words that were not sent yet.
    pub(super) fn ending(&self) -> u32 {
        self.ending
    }

    /// Returns how many words are not answered.
    pub(super) fn len(&self) -> usize {
        self.waiting.len() + self.flying.values().map(|frame| frame.words.len()).sum::<usize>()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.flying.is_empty()
    }

    /// Returns the next frame if one may go: at once while fewer than `partial_max` are under way, later only full
    /// ones, and never more than `window`.
    pub(super) fn next(
        &mut self,
        partial_max: usize,
        window: usize,
        now: Instant,
    ) -> Option<(u64, Vec<v1::Settlement>)> {
        let flying = self.flying.len();
        let full = self.waiting.len() >= FRAME_WORDS_MAX;
        if self.waiting.is_empty() || flying >= window || (flying >= partial_max && !full) {
            return None;
        }
        self.next_seq += 1;
        let words: Vec<Word> = self.waiting.drain(..self.waiting.len().min(FRAME_WORDS_MAX)).collect();
        self.ending -= words.iter().map(Word::ends).sum::<u32>();
        let settlements = words.iter().map(|word| word.settlement.to_pb()).collect();
        self.flying.insert(self.next_seq, Frame { words, sent_at: now });
        Some((self.next_seq, settlements))
    }

    /// A frame that could not be queued was never sent.
    pub(super) fn unsent(&mut self, seq: u64) {
        self.back(seq, false);
    }

    /// The answers to a frame are lost.
    pub(super) fn lost(&mut self, seq: u64) {
        self.back(seq, true);
    }

    /// The answers to all frames are lost, together with the stream.
    pub(super) fn all_lost(&mut self) {
        let seqs: Vec<u64> = self.flying.keys().rev().copied().collect();
        for seq in seqs {
            self.back(seq, true);
        }
    }

    fn back(&mut self, seq: u64, in_doubt: bool) {
        let Some(frame) = self.flying.remove(&seq) else { return };
        for mut word in frame.words.into_iter().rev() {
            word.in_doubt |= in_doubt;
            self.ending += word.ends();
            self.waiting.push_front(word);
        }
    }

    /// When the oldest frame under way was sent.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.flying.values().map(|frame| frame.sent_at).min()
    }

    /// Takes the answers to a frame, a failure by index where there is one, and counts them.
    pub(super) fn answered(
        &mut self,
        seq: u64,
        mut failure: impl FnMut(usize) -> Option<Error>,
        counts: &mut Counts,
    ) {
        let Some(frame) = self.flying.remove(&seq) else { return };
        for (index, word) in frame.words.into_iter().enumerate() {
            let failure = failure(index);
            let over = |e: &Error| matches!(e.kind(), Kind::Conflict | Kind::NotFound);
            // Sent twice and now over: the first time did it.
            let done = failure.as_ref().is_none_or(|error| word.in_doubt && over(error));
            match (&word.settlement.verdict, done) {
                (Verdict::Ack, true) => counts.acked += 1,
                (Verdict::Nack { .. }, true) => counts.failed += 1,
                (Verdict::Release { .. }, true) => counts.released += 1,
                // The verdict that follows will find out and be counted.
                (Verdict::Extend { .. }, _) => {}
                (_, false) => counts.lost += 1,
            }
            if let (Some(error), false) = (failure, done) {
                let Settlement { id, token, .. } = word.settlement;
                tracing::warn!(%id, %token, %error, "settlement refused");
            }
        }
    }
}
