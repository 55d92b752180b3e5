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

mod after;
mod apply;
mod breaker;
mod check;
mod codec;
pub mod command;
mod config;
mod dedup;
mod events;
mod fair;
mod groups;
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
mod schedule;
mod settings;
mod slots;
mod stats;
mod steps;
mod store;
#[cfg(test)]
mod tests;

pub use after::BLOCKERS_SHOWN_MAX;
pub use codec::{EntryBuilder, decode_entry, encode, encode_create};
pub use command::Invalid;
pub use config::QueueConfig;
pub use events::{Event, EventKind};
pub use machine::Machine;
pub use memory::MemoryStore;
pub use queue::Paused;
pub use reads::{
    AHEAD_MAX, Body, End, EventFilter, EventPage, Events, GROUPS_COUNTED_MAX, GroupCursor, GroupInfo,
    GroupPage, HeldGroups, Hold, ListFilter, Page, PageToken, Phase, Position, QueueInfo, ResumeToken, Start,
    TaskInfo, TaskState, Why, by_key, events, explain, explain_queue, get, hydrate, list, queue, queues,
    result, schedule, schedule_history, schedules,
};
pub use schedule::{
    DueSlot, LastRun, Overlap, Schedule, ScheduleCounts, ScheduleInfo, SchedulePatch, SlotFate, SlotRecord,
    TemplateField,
};
pub use settings::{
    Breaker, Effective, Fields, GroupFields, GroupPatch, GroupSettings, Patch, Policies, Rate, Retention,
    Settings, check_pattern,
};
pub use stats::{DueCounts, QueueStats};
pub use store::{Fault, Read, Store, Visit};
