//! One Raft group as a value: inputs in, [`Ready`] out, no IO, no threads, no clock, no chance.
//!
//! The engine is raft-rs (ADR-0002); this crate is the only place that names it. What leaves here are the types of
//! `z4-types` and bytes of our own, so a change of engine touches this crate and no stored byte. The driver
//! (`z4-multiraft`) runs one loop per group:
//!
//! ```text
//! step(message) · tick · propose · read_index          what happens to the group
//! ready() ─┬─ messages         send at once
//!          ├─ snapshot         install its rows in the base, forget what was handed out before
//!          ├─ hard_state,      write in one record, then sync, then persisted(number),
//!          │  entries          then send after_persist
//!          ├─ committed        apply in order; apply_membership for its kind; then applied(index)
//!          └─ reads            serve once their index is applied
//! ```
//!
//! Where to read on: `group.rs` for the calls, `ready.rs` for when a message may leave, `change.rs` for membership,
//! `log.rs` for what the engine sees of the log, `codec.rs` for the bytes on the wire.
//!
//! # Not here
//! - Bytes of the log: `z4-wal`. State machines: `z4-tasks` and friends. Threads: `z4-multiraft`.
//! - Rows of a snapshot: the engine carries a [`SnapshotMark`], the driver streams the rows.
//! - Who may speak for a replica: a wiped disk under an old replica id cannot be told from its predecessor here; the
//!   handshake and the registry refuse it (ADR-0010).

mod change;
mod codec;
mod error;
mod group;
mod log;
mod membership;
mod message;
mod progress;
mod ready;
mod recovered;
mod votes;

pub use change::Change;
pub use codec::Malformed;
pub use error::Error;
pub use group::Group;
pub use log::ReadBack;
pub use membership::Membership;
pub use message::{Message, SnapshotMark};
pub use progress::{PeerProgress, Replication};
pub use ready::{ReadState, Ready};
pub use recovered::{Config, Fit, Recovered};

#[cfg(test)]
mod tests;
