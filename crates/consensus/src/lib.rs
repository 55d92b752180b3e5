//! One Raft group as a value: inputs in, [`Ready`] out, no IO, no threads, no clock.
//!
//! The engine is raft-rs (ADR-0002); this crate is the only place that names it. What leaves here are the types of
//! `z4-types`, so a change of engine touches this crate and no stored byte. The driver (`z4-multiraft`) persists
//! what a [`Ready`] holds, says so with [`Group::persisted`], applies what is committed and says so with
//! [`Group::applied`].
//!
//! # Not here
//! - Bytes of the log: `z4-wal`. State machines: `z4-tasks` and friends. Threads: `z4-multiraft`.

mod group;
mod log;
mod membership;

pub use group::{Config, Error, Group, ReadState, Ready, Recovered};
pub use log::ReadBack;
pub use membership::Membership;
