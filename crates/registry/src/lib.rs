//! Shard 0: the registry. Which hosts and shards the cluster has, and which shard holds a queue. Pure.
//!
//! The whole registry is one small value, encoded into one row of shard 0; every change is a [`Command`] through
//! that shard's log. Every host reads its own copy to route.
//!
//! # Invariants
//! - Shard and replica ids are never reused; shard 0 is the registry itself; a shard has at most one replica a host.
//!   See [`Registry::check`].
//! # Not here
//! - Making actual replicas equal to these: the host controller. Placement over several hosts: not yet offered,
//!   a cluster has one host.

mod codec;
mod registry;

pub use codec::Malformed;
pub use registry::{Command, Host, Registry, Replica, Shard};
