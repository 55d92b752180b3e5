//! Settlements on their way: waiting, under way, in doubt.
//!
//! # Invariants
//! - Each word is in `waiting` or in exactly one frame of `flying`, until the server answers it.
//! - Words in doubt go first and in their old order: an extension must not follow the ack of the same lease.
//! - A frame stays far below what the server reads: at most 1,000 words, and each is bounded, its reason included. A
//!   larger one would end every stream it is sent on.

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
    /// The driver's name of the task.
    key: u64,
    settlement: Settlement,
    /// It was sent once without an answer, so it may have been done.
    in_doubt: bool,
}

impl Word {
    /// 1 if it ends the lease, 0 if it extends it.
    fn ends(&self) -> u32 {
        u32::from(!self.settlement.verdict.extends())
    }

    /// Returns whether `error`, the answer to a word in doubt, tells that the first sending did it.
    fn was_done(&self, error: &Error) -> bool {
        self.in_doubt
            && match self.settlement.verdict {
                // Nothing is left of an acked task. One that is still there was not acked: its lease had ended before.
                Verdict::Ack | Verdict::AckWith { .. } => error.kind() == Kind::NotFound,
                // These end the lease and keep the task, which somebody else may have finished since.
                Verdict::Nack { .. } | Verdict::NackDead { .. } | Verdict::Release { .. } => is_over(error),
                Verdict::Extend { .. } | Verdict::ExtendWith { .. } => false,
            }
    }
}

/// The lease is over, or even the task.
fn is_over(error: &Error) -> bool {
    matches!(error.kind(), Kind::Conflict | Kind::NotFound)
}

/// The answer to an extension.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Extended {
    /// The task, as it was pushed.
    pub(super) key: u64,
    /// The lease is over: somebody else may hold the task.
    pub(super) over: bool,
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
    pub(super) fn push(&mut self, key: u64, settlement: Settlement) {
        let word = Word { key, settlement, in_doubt: false };
        self.ending += word.ends();
        self.waiting.push_back(word);
    }

    /// Returns how many leases end by words that were not sent yet.
    pub(super) fn ending(&self) -> u32 {
        self.ending
    }

    /// Returns how many words that end a lease are not answered.
    pub(super) fn unsettled(&self) -> u64 {
        let flying = self.flying.values().flat_map(|frame| &frame.words);
        self.waiting.iter().chain(flying).map(|word| u64::from(word.ends())).sum()
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

    /// The stream is over, and with it the answers to all frames. Not `in_doubt`: it was never opened, so nothing was
    /// sent.
    pub(super) fn all_back(&mut self, in_doubt: bool) {
        let seqs: Vec<u64> = self.flying.keys().rev().copied().collect();
        for seq in seqs {
            self.back(seq, in_doubt);
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

    /// Takes the answers to a frame, a failure by index where there is one, and counts them. Returns those to
    /// extensions.
    pub(super) fn answered(
        &mut self,
        seq: u64,
        mut failure: impl FnMut(usize) -> Option<Error>,
        counts: &mut Counts,
    ) -> Vec<Extended> {
        let mut extended = Vec::new();
        let Some(frame) = self.flying.remove(&seq) else { return extended };
        for (index, word) in frame.words.into_iter().enumerate() {
            let failure = failure(index);
            let done = failure.as_ref().is_none_or(|error| word.was_done(error));
            match (&word.settlement.verdict, done) {
                (Verdict::Ack | Verdict::AckWith { .. }, true) => counts.acked += 1,
                (Verdict::Nack { .. } | Verdict::NackDead { .. }, true) => counts.failed += 1,
                (Verdict::Release { .. }, true) => counts.released += 1,
                (Verdict::Extend { .. } | Verdict::ExtendWith { .. }, _) => {
                    extended.push(Extended { key: word.key, over: failure.as_ref().is_some_and(is_over) });
                }
                (_, false) => counts.lost += 1,
            }
            if let (Some(error), false) = (failure, done) {
                let Settlement { id, token, .. } = word.settlement;
                tracing::warn!(%id, %token, %error, "settlement refused");
            }
        }
        extended
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use z4_proto::reason;
    use z4_types::{TaskId, Token};

    impl Outbox {
        /// Returns how many words wait, extensions included.
        pub(in crate::consumer) fn waiting(&self) -> usize {
            self.waiting.len()
        }
    }

    #[derive(Clone, Copy, PartialEq)]
    enum First {
        Lost,
        NeverSent,
    }

    /// Sends `verdict` twice, the second time refused by `kind`; returns what is counted.
    fn counted(verdict: Verdict, first: First, kind: Kind) -> Counts {
        let mut outbox = Outbox::default();
        outbox.push(0, Settlement { id: TaskId(1), token: Token(1), verdict });
        let now = Instant::now();
        outbox.next(1, 1, now).expect("the first time");
        outbox.all_back(first == First::Lost);
        assert_eq!(outbox.unsettled(), 1);
        let (seq, _) = outbox.next(1, 1, now).expect("the second time");
        let mut counts = Counts::default();
        outbox.answered(seq, |_| Some(Error::new(kind, reason::LEASE_LOST, "x")), &mut counts);
        assert!(outbox.is_empty());
        counts
    }

    #[test]
    fn only_a_word_that_may_have_been_done_counts_as_done() {
        let nack = || Verdict::Nack { delay: None, slow_group: None, reason: String::new() };
        let release = || Verdict::Release { delay: Duration::ZERO };
        let lost = Counts { lost: 1, ..Counts::default() };
        let acked = Counts { acked: 1, ..Counts::default() };
        let failed = Counts { failed: 1, ..Counts::default() };
        let released = Counts { released: 1, ..Counts::default() };

        assert_eq!(counted(Verdict::Ack, First::Lost, Kind::NotFound), acked);
        assert_eq!(counted(Verdict::Ack, First::Lost, Kind::Conflict), lost, "still there, so not acked");
        for kind in [Kind::NotFound, Kind::Conflict] {
            assert_eq!(counted(nack(), First::Lost, kind), failed);
            assert_eq!(counted(release(), First::Lost, kind), released);
            for verdict in [Verdict::Ack, nack(), release()] {
                assert_eq!(counted(verdict, First::NeverSent, kind), lost);
            }
        }
    }
}
