//! What a group must offer to be driven: a state machine and its leader's half.
//!
//! `apply` runs on every replica and is deterministic. Everything else runs on the leader only and never changes
//! rows: it gathers writes, packs them into entries when the driver asks, and answers callers once they are applied.
//!
//! # Not here
//! - Reply channels: writes and reads carry their own, as values of the implementor's types.

use bytes::Bytes;
use z4_store::GroupStore;
use z4_types::{Entry, Index, Kind, Millis, ShardId, Term};

/// The replica must stop: storage failed, or an entry cannot be understood. Never the caller's fault.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{what}")]
pub struct Fault {
    /// What to tell the operator.
    pub kind: Kind,
    /// What happened, with the remedy.
    pub what: String,
}

impl From<z4_store::Error> for Fault {
    fn from(error: z4_store::Error) -> Self {
        Self { kind: error.kind(), what: error.to_string() }
    }
}

impl From<z4_consensus::Error> for Fault {
    fn from(error: z4_consensus::Error) -> Self {
        Self { kind: error.kind(), what: error.to_string() }
    }
}

/// Why a write or read was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// This host does not lead the shard; nothing was proposed.
    NotLeader,
    /// No such shard on this host.
    NoSuchShard,
    /// The host is stopping; nothing was proposed.
    Stopping,
}

/// A call that can answer its caller without having been done.
pub trait Refuse: Send {
    /// Answers the caller. `shard` is where the call went.
    fn refuse(self, shard: ShardId, why: Refused);
}

/// What the host can take right now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Admission {
    /// Everything.
    #[default]
    All,
    /// The disk is nearly full: only what frees space (acks, cancels), not what takes more.
    FreeingOnly,
}

/// One group's state machine with its leader's half.
pub trait StateMachine: Send {
    /// Something a caller wants changed, with the means to answer it.
    type Write: Refuse;
    /// Something a caller wants to know, with the means to answer it.
    type Read: Refuse;

    /// Takes a write. The machine keeps it for the next entry, or refuses it at once.
    fn write(&mut self, write: Self::Write, admission: Admission);

    /// Packs what waits into one entry, None if nothing does. `now` never decreases.
    ///
    /// # Errors
    /// If storage fails.
    fn entry(&mut self, store: &GroupStore, now: Millis) -> Result<Option<Bytes>, Fault>;

    /// Says where the entry packed last stands in the log.
    fn proposed(&mut self, index: Index, term: Term);

    /// Applies a committed entry; never an empty one. `leading`: effects and answers are this replica's to give.
    ///
    /// # Errors
    /// If storage fails or the entry cannot be understood: the replica stops.
    fn apply(&mut self, store: &mut GroupStore, entry: &Entry, leading: bool) -> Result<(), Fault>;

    /// Serves a linearizable read.
    ///
    /// # Errors
    /// If storage fails.
    fn read(&mut self, store: &mut GroupStore, now: Millis, read: Self::Read) -> Result<(), Fault>;

    /// Says that all rows were replaced by those of a snapshot: whatever was read from them is void. This replica does
    /// not lead.
    ///
    /// # Errors
    /// If storage fails or the rows cannot be understood.
    fn reload(&mut self, store: &GroupStore) -> Result<(), Fault>;

    /// Says that this replica began to lead: rebuild deadlines from rows.
    fn lead(&mut self);

    /// Says that this replica stopped leading: tell the callers of what is in flight that its outcome is unknown.
    fn follow(&mut self);

    /// Says that the host stops: close whoever waits for more, keep what is in flight.
    fn stop(&mut self);

    /// Returns when [`StateMachine::entry`] must be asked again although no write arrived; `now` is as it would be told.
    ///
    /// # Errors
    /// If storage fails.
    fn deadline(&mut self, store: &GroupStore, now: Millis) -> Result<Option<Millis>, Fault>;

    /// Returns the shard time of the last applied entry.
    fn now(&self) -> Millis;
}
