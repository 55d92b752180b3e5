//! The write-ahead log: one per host, for the Raft logs of all groups, made durable by one sync per batch.
//!
//! A [`Batch`] carries the hard states and entries of every group that has something to persist. [`Wal::append`]
//! encodes it once and writes it with one call, [`Wal::sync`] makes it durable with one fdatasync. The bytes go into
//! *segments*: files prewritten with zeros and reused by renaming, so that a sync touches data only, not metadata
//! (2.5 times the syncs per second of a growing file at 256 entries).
//!
//! ```text
//!   append ──► newest segment ── full ──► next: a spare, renamed    spares ◄── SpareMaker (background thread)
//!   Reader ──► any segment                                             ▲
//!   recycle ─► oldest segments that no group needs ────────────────────┘
//! ```
//!
//! The Raft log is the only write-ahead log (ADR-0001), and a base checkpoint makes the applied index of *every* group
//! durable at once. So a segment is given back as soon as it lies below all of them: there is no rewriting of live
//! data, except for quiet groups (see `recycle`).
//!
//! # Invariants
//! - Batch N+1 is written only after batch N was synced. Hence whatever carries a higher number proves that
//!   everything before it was durable; recovery rests on this (see `recover`).
//! - A batch is recovered whole or not at all.
//! - Live segments have consecutive sequences; only the oldest is ever given back.
//! - The newest hard state of a group, and its entries above the released index, are always in a live segment.
//! - The commit index in a group's newest hard state never decreases.
//! # Not here
//! - Threads, timers, measuring: the caller decides when to sync and on which thread.
//! - The meaning of an entry: bytes to us. Snapshots: after one, the log starts anew behind it.
//! - The lock on the directory, the cluster id in it: `z4-host`.
//! # Caveats
//! - The *last* batch has no successor to prove that it was synced: damage to it looks like a torn write. [`Wal::seal`]
//!   gives it one when the log falls idle, and at a clean stop.
//! - Assumed of the disk: writing over part of a sector leaves its other bytes as they were ("powersafe overwrite").
//! - A checksum is no signature: who can write to the directory can forge the log.
//!
//! Sources: ADR-0001, ADR-0003; `docs/FORMATS.md`, "WAL segment and record"; Rebello et al., "Can applications recover from
//! fsync failures?" (ATC 2020); etcd's wal package, the model in size.

pub mod body;
mod error;
mod format;
mod index;
mod reader;
mod recover;
mod recycle;
mod spare;
mod wal;

#[cfg(test)]
mod tests;

pub use error::Error;
pub use reader::Reader;
pub use recover::{GroupLog, Recovered};
pub use spare::SpareMaker;
pub use wal::{Batch, Config, Record, Stats, Wal};
