//! The task state machine of one shard: pure, deterministic, without IO, clock or chance.
//!
//! Commands come in from the log, outcomes go out; state lives in a [`Store`] of ordered rows. Applying the same
//! entries to the same rows yields the same rows and outcomes on every replica. A command is a value ([`command`]),
//! travels as bytes ([`EntryBuilder`]), is applied by a [`Machine`], and answers with an [`outcome`]; reads that need no
//! log go straight to the rows ([`get`], [`list`], [`hydrate`]).
//!
//! # Not here
//! - Waking consumers, batching commands into entries, answering callers: `z4-host`, from the outcomes.
//! - Rows on disk: `z4-store`.

mod apply;
mod check;
mod codec;
pub mod command;
mod config;
mod dedup;
mod fair;
mod head;
mod index;
mod keys;
mod machine;
mod memory;
pub mod outcome;
mod queue;
mod reads;
mod retention;
mod retry;
mod rows;
mod settings;
mod stats;
mod steps;
mod store;
#[cfg(test)]
mod tests;

pub use codec::{EntryBuilder, decode_entry, encode, encode_create};
pub use command::Invalid;
pub use config::QueueConfig;
pub use machine::Machine;
pub use memory::MemoryStore;
pub use queue::Paused;
pub use reads::{
    Body, End, ListFilter, Page, PageToken, Phase, QueueInfo, TaskInfo, TaskState, by_key, get, hydrate,
    list, queue, queues, result,
};
pub use settings::{Breaker, Effective, Fields, Patch, Policies, Rate, Retention, Settings};
pub use stats::{DueCounts, QueueStats};
pub use store::{Fault, Read, Store, Visit};
