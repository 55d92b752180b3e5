//! The state of many Raft groups: a write-back working set in memory for each, over one base on disk for all.
//!
//! Apply changes the working set of its group ([`GroupStore`]) and never waits for the disk. Now and then the driver
//! freezes it, and a background thread writes what was frozen, of all groups, sorted, in one durable transaction
//! together with the index of the last entry it contains ([`Store::checkpoint`]). What was created and deleted
//! between two checkpoints never reaches the disk. After a crash the Raft log replays what came after.
//!
//! ```text
//! apply ──> active ──freeze──> frozen ──checkpoint──> base (redb in a checksummed container)
//!             │ rotate            │                     │
//!             └────── view: rotated layers, frozen, base read transaction: one consistent point
//! ```
//!
//! A replica that is too far behind gets the rows themselves: [`SnapshotReader`], [`Staging`], [`Store::install`].
//!
//! # Invariants
//! - A reader sees the newest of active, rotated, frozen, base; moving rows down changes nothing it can see.
//! - A row that is `Fresh` exists in no lower layer. Only such rows may vanish without a tombstone.
//! - The base holds, for each group, exactly the rows that applying its entries up to `Meta::applied` yields.
//! - The digest depends on the mutations and their order alone, not on layers or checkpoints.
//! # Not here
//! - Threads: freezing, writing and installing are calls; who runs them where is the caller's business.
//! - The log, and replay after a restart. Meaning of keys and values: `z4-tasks`.
//! # Caveats
//! - One writer and one file a host. Rotation for views merges layers now and then, on the thread that asks for the view.
//!
//! Sources: `docs/FORMATS.md`, "Base"; ADR-0004.

mod base;
mod delta;
mod error;
mod frozen;
mod gaps;
mod group;
mod merge;
mod meta;
mod snapshot;
mod stack;
mod store;
mod view;

pub use error::Error;
pub use frozen::{Done, Frozen};
pub use group::GroupStore;
pub use meta::Meta;
pub use snapshot::{ChunkHead, SnapshotReader, Staged, Staging};
pub use store::{BaseBytes, Config, Store};
pub use view::View;

/// Visits one row (key, value); returns false to end the scan.
pub type Visit<'v> = dyn FnMut(&[u8], &[u8]) -> bool + 'v;
