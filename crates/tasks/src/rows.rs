//! The rows of a task shard: keys and values (`docs/FORMATS.md`, "Task rows").
//!
//! # Not here
//! - Which rows exist when: `index` moves a task between its rows, `check` says what must hold.

mod config;
mod event;
mod group;
pub(crate) mod key;
mod queue;
mod request;
mod schedule;
mod state;

pub(crate) use config::{Config, read_policies, write_policies};
pub(crate) use event::{Remains, StreamRow, read_event, read_event_head, write_event};
pub(crate) use group::{read_group_settings, write_group_settings};
pub(crate) use queue::{Counted, Meta, QueueRecord, Served, read_queue_id};
pub(crate) use request::{Remembered, write_list, write_run};
pub(crate) use schedule::{Definition, Progress, read_fate, write_definition, write_fate};
pub(crate) use state::{
    Defaults, Member, OwnedTexts, Phase, Scheduled, State, Texts, read_body, read_defaults, write_body,
};
