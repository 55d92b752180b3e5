//! The state of one group on its way from the leader to a replica that is too far behind the log.
//!
//! The leader reads a view in key order and cuts it into chunks ([`SnapshotReader`]); the receiver checks each and
//! appends it to a staging file ([`Staging`]); when all are there, one transaction of the base replaces the group's rows
//! and meta ([`Store::install`](crate::Store::install)). Nothing of the group changes before that.
//!
//! ```text
//! view ── chunk 0 (meta) ── chunk 1 ── … ── chunk n (totals) ──> snapshots/<group>-<stream>.part ──> base
//! ```
//!
//! Where chunks are cut follows from the rows alone, and the stream's number from the meta. So a lost connection goes on
//! at the chunk the receiver wants next, and so does a receiver that was started again. Each chunk carries the hash of
//! all rows before it: a chunk of a stream that differs anywhere before does not fit.
//!
//! # Not here
//! - Who sends what when, and pacing: the driver and the transport.
//! # Caveats
//! - The reader holds its view for the whole transfer: the sender's base grows meanwhile.
//!
//! Sources: ADR-0010, "Snapshots"; `docs/FORMATS.md`, "Snapshot stream".

mod chunk;
mod install;
mod read;
mod stage;
mod stream;

pub use chunk::ChunkHead;
pub use read::SnapshotReader;
pub use stage::{Staged, Staging};
