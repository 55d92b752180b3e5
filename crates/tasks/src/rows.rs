//! The rows of a task shard: keys and values (`docs/FORMATS.md`, "Task rows").
//!
//! # Not here
//! - Which rows exist when: `index` moves a task between its rows, `check` says what must hold.

pub(crate) mod key;
mod queue;
mod request;
mod state;

pub(crate) use queue::{Meta, QueueRecord, read_queue_id};
pub(crate) use request::{Remembered, write_list, write_run};
pub(crate) use state::{Phase, Scheduled, State, Texts, read_body, write_body};
