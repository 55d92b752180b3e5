//! Snapshots between replicas: the rows' way from a leader's view to a follower's base.
//!
//! ```text
//!  leader                                   follower
//!  engine: send a snapshot
//!  view ── Offer(mark, stream) ───────────► stage
//!       ◄─────────────── Want(next) ────────
//!  read ── Chunk … Chunk ─────────────────► append ── Want(next) ──►
//!                                           last one: sync, step the engine's message,
//!                                           engine: install ── base transaction, then the log's record
//!       ◄──────── the engine's answer ───────
//! ```
//! The follower asks, the leader answers: who asks knows what it has, so loss and reordering need no further rule. What
//! is read, staged and installed is [`SnapshotWork`], for a thread that nobody waits for; the states here only
//! decide what is next. A stream's number follows from its contents, so a follower goes on with a stream whose leader
//! began anew at the same place.
//!
//! # Invariants
//! - While a group's rows are being replaced nothing of it is persisted, applied or said.
//! - The engine sees the snapshot's message only once all rows are durable in the staging file.
//!
//! # Not here
//! - Chunks and their checksums: `z4-store`.

mod receive;
mod send;
mod work;

pub(crate) use receive::{Received, Receiving};
pub(crate) use send::Sending;
pub(crate) use work::{Appended, Outcome};
pub use work::{SnapshotDone, SnapshotWork};

/// Chunks on their way: a quarter of a MiB each, so a round trip of 2 ms lets 1 GB/s through.
const WINDOW_CHUNKS: u32 = 8;
/// Snapshots a host sends at a time: each holds a view. Further replicas are asked to wait.
pub(crate) const SENDING_MAX: usize = 4;
/// Ticks without a word after which the receiver asks again, and the sender offers again.
const AGAIN_TICKS: u32 = 10;
/// Ticks without a word after which either side gives up.
const GIVE_UP_TICKS: u32 = 150;
