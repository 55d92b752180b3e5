//! The simulator: the same host code on a virtual clock, a treacherous disk and a lossy network, from one seed.
//!
//! The environment comes first: [`SimDisk`], [`SimClock`] and [`SimNet`] implement the traits of `z4-env`, so that
//! `z4-wal`, `z4-store`, `z4-multiraft`, `z4-tasks` and the start of `z4-host` run unchanged, in one thread. On top of it
//! a [`world::World`] lets clients, time and faults loose on one host, draws everything from the seed (`swarm`), and holds
//! what clients see against what they know (`model`, `checks`).
//!
//! ```text
//! seed ──> Swarm ──> World ──events──> Shell (driver, log, base) ──letters──> Clients ──facts──> Model: fits, or Violation
//!                      └──faults──> SimDisk, SimClock
//! ```
//!
//! [`lively`] adds queues that use every command. [`cluster`] does the same with one to seven hosts and the network between them.
//!
//! # Invariants
//! - The same seed and the same calls give the same run, byte for byte. Nothing here reads a real clock or die.
//! - Nobody depends on this crate.

pub mod checks;
pub mod client;
mod clock;
pub mod cluster;
mod disk;
pub mod faults;
pub mod lively;
pub mod model;
mod net;
pub mod report;
pub mod shell;
pub mod swarm;
pub mod world;

pub use clock::SimClock;
pub use disk::{Counters, Faults, Injected, Op, Rot, SimDisk};
pub use net::{Delivery, Links, NetCounters, SimNet, SimPort};
