//! Shard 0: the registry. Which hosts and shards the cluster has, where replicas shall stand, which shard holds a
//! queue. Pure.
//!
//! The whole registry is one small value, encoded into one row of shard 0; every change is a [`Command`] through
//! that shard's log. Every host reads its own copy to route. A command changes hosts; where replicas shall stand
//! follows from that by one rule (`plan.rs`), run at the end of every command.
//!
//! The registry is what is *desired*. What a group's members *are* is the engine's membership; the leader of each
//! shard compares the two and takes one step at a time ([`next_step`]). Of what is, the registry knows one thing: a
//! replica no longer wanted stays listed as [`Role::Leaving`] until its group reports that it has left.
//!
//! ```text
//! command ──> hosts ──plan──> Shard.replicas ──next_step──> AddLearner · Change · TransferTo ──> the group's members
//!                  Leaving: reached, its place kept free ^                                            │
//!                  └──────────────────────────── Command::Left <── departed ──────────────────────────┘
//! ```
//!
//! # Invariants
//! - Shard and replica ids are never reused; shard 0 is the registry itself; a shard has at most one replica a host,
//!   and always a wanted voter. See [`Registry::check`], run after every command in debug builds.
//! # Not here
//! - Making actual replicas equal to these: the host controller, with the engine.
//! - Zones, learners for reading, placement after a host was lost for long: not yet offered.

mod check;
mod codec;
mod command;
mod commands;
mod form;
mod host;
mod limits;
mod plan;
mod refusal;
mod registry;
mod routing;
mod shard;
mod steps;
#[cfg(test)]
mod tests;

pub use codec::Malformed;
pub use command::Command;
pub use host::{Host, HostStatus};
pub use limits::{
    FORMER_INSTANCES_MAX, HOSTS_MAX, POLICIES_BYTES_MAX, POLICY_BYTES_MAX, REPLICATION_DEFAULT,
    REPLICATION_MAX, TAGS_MAX, TEXT_BYTES_MAX,
};
pub use refusal::Refusal;
pub use registry::{Policies, Registry};
pub use shard::{Replica, Role, Shard};
pub use steps::{Members, Step, departed, next_step};
