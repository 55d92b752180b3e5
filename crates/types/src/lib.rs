//! The plain values every room of z4 speaks: ids, units, limits, and the kind of an error.
//!
//! A type is born beside its interface and moves here when a second crate needs it. Nothing here does IO,
//! reads a clock or allocates without bound.
//!
//! # Not here
//! - Encodings on disk and wire: those belong to the crate that owns the bytes (`docs/FORMATS.md`).
//! - Protobuf messages: `z4-proto` converts at the doors.

mod id;
mod kind;
pub mod limits;
mod log;
mod queue;
mod time;
mod units;

pub use id::{ClusterId, HostId, ParseIdError, RequestId, ShardId, TaskId, Token};
pub use kind::Kind;
pub use log::{Entry, EntryKind, HardState};
pub use queue::{InvalidQueueName, QueueName};
pub use time::{Duration, Millis};
pub use units::{Index, Priority, Term};
