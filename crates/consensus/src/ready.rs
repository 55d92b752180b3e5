//! What the driver must do now, and when a message may leave.
//!
//! A vote or an ack is a promise; a promise that a crash can forget breaks elections and commits. So what leaves a replica
//! is split in three:
//!
//! * **At once**: a leader's appends, heartbeats and snapshots (a leader may send before its own disk has the entries; it
//!   counts itself only when it has), and everybody's answers to heartbeats, which promise nothing a crash could break.
//! * **With a number** ([`Ready::after_persist`]): everything else, when this `Ready` holds something to persist.
//! * **Held here**, when this `Ready` has nothing to persist but an earlier one is still under way: such messages
//!   may rest on it (an ack for entries that arrived twice). They come out as `messages` after
//!   [`Group::persisted`](crate::Group::persisted) of that earlier number.
//!
//! So the driver's rule is: send `messages` now; send `after_persist` when `number` is durable; nothing else.
//!
//! A leader's messages wait as well while its *term* is not durable. That happens to a lone voter, which wins its election
//! before anything is written: were its appends to reach a learner first, a crash could make it lead the same term
//! again, with other entries at the same places. The engine does not look at this.
//!
//! # Invariants
//! - What leaves before the newest handed-out number is durable leaves only from the first group above.
//! - `after_persist` is empty if `number` is None.
//!
//! Sources: Ongaro's thesis §10.2.1 (a leader writes in parallel); raft-rs 0.7 `raw_node.rs`: `ready`,
//! `advance_append_async`, `on_persist_ready`. After the latter no "light ready" exists in this mode: a commit index that
//! advances by our own write comes with the next `ready`, messages included.

use std::collections::VecDeque;

use raft::eraftpb::{Message as RaftMessage, MessageType};
use z4_types::{Entry, HardState, Index};

use crate::message::{Message, SnapshotMark};

/// What the driver must do now, in this order; see the crate's essay.
#[derive(Debug, Default)]
pub struct Ready {
    /// To send at once.
    pub messages: Vec<Message>,
    /// A snapshot that arrived: install its rows, forget committed entries that were handed out and are not applied, and
    /// let the record of this `Ready` forget the log from the mark's index on. All of it before the number is durable.
    pub snapshot: Option<SnapshotMark>,
    /// Pass to [`Group::persisted`](crate::Group::persisted) once `snapshot`, `hard_state` and `entries` are durable.
    /// None: nothing to persist. Of several taken together, the newest counts for all.
    pub number: Option<u64>,
    /// To persist in one write with `entries`. The commit index in it matters: who has an entry proposed under a new
    /// membership durably must know durably that the membership before it was committed.
    pub hard_state: Option<HardState>,
    /// To persist; they replace any entry at or above the first one's index.
    pub entries: Vec<Entry>,
    /// To send once `number` is durable.
    pub after_persist: Vec<Message>,
    /// To apply, in order; durable here and on a majority.
    pub committed: Vec<Entry>,
    /// Reads that may be served once their index is applied.
    pub reads: Vec<ReadState>,
}

/// A read context that a quorum confirmed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadState {
    /// As given to [`Group::read_index`](crate::Group::read_index).
    pub context: u64,
    /// Serve the reads of this context when this index is applied.
    pub index: Index,
}

/// Decides when a message may leave; see the module essay.
#[derive(Default)]
pub(crate) struct Outbox {
    /// The newest number handed out that is not durable, 0 if none.
    unpersisted: u64,
    /// The newest number whose term or vote is not durable, 0 if none.
    promise: u64,
    /// Messages that wait for the number before them.
    held: VecDeque<(u64, Vec<Message>)>,
    /// May leave with the next `Ready`.
    released: Vec<Message>,
}

impl Outbox {
    /// Sorts the messages of the engine's ready `number` into `out`; `out.number` says whether it is to be persisted.
    pub(crate) fn sort(
        &mut self,
        out: &mut Ready,
        promises: bool,
        at_once: Vec<RaftMessage>,
        after_persist: Vec<RaftMessage>,
    ) {
        if let Some(number) = out.number {
            self.unpersisted = number;
            if promises {
                self.promise = number;
            }
        }
        out.messages = std::mem::take(&mut self.released);
        let mut later = Vec::new();
        for message in at_once {
            let to = if self.promise == 0 { &mut out.messages } else { &mut later };
            to.push(Message(message));
        }
        for message in after_persist {
            let free = self.unpersisted == 0 || message.get_msg_type() == MessageType::MsgHeartbeatResponse;
            let to = if free { &mut out.messages } else { &mut later };
            to.push(Message(message));
        }
        if out.number.is_some() {
            out.after_persist = later;
        } else if !later.is_empty() {
            self.held.push_back((self.unpersisted, later));
        }
    }

    /// Notes that everything up to `number` is durable.
    pub(crate) fn persisted(&mut self, number: u64) {
        assert!(number <= self.unpersisted, "only what was handed out can be durable");
        if number == self.unpersisted {
            self.unpersisted = 0;
        }
        if number >= self.promise {
            self.promise = 0;
        }
        while self.held.front().is_some_and(|(wait, _)| *wait <= number) {
            let (_, messages) = self.held.pop_front().expect("looked at above");
            self.released.extend(messages);
        }
    }

    /// Returns whether everything handed out is durable.
    pub(crate) fn is_persisted(&self) -> bool {
        self.unpersisted == 0
    }

    pub(crate) fn has_released(&self) -> bool {
        !self.released.is_empty()
    }
}
