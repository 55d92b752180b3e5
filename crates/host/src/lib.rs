//! One running host: opens its directories, starts its groups, routes calls to them.
//!
//! [`boot`] turns directories into a [`z4_multiraft::Driver`] (no threads: the simulator does the same);
//! [`Host::start`] puts threads around it; [`Handle`] is what doors hold. A shard's leader half ([`TaskShard`])
//! turns calls into log entries and outcomes into answers and deliveries.
//!
//! # Not here
//! - Protocols: the doors convert. The state machines: `z4-tasks`, `z4-registry`.

mod ask;
mod boot;
mod budget;
mod clocks;
mod cluster;
mod config;
mod controller;
mod error;
mod handle;
mod identity;
mod machine;
mod open;
mod registry_shard;
mod rows;
mod running;
mod seats;
mod shard;
mod times;

pub use boot::{Boot, boot};
pub use budget::{Budget, Permit};
pub use clocks::PeerClock;
pub use config::{Config, Sizes};
pub use controller::{Announcement, Controller, Errand, Groups};
pub use error::{BootError, Error};
pub use handle::{
    Consumer, Freshness, Handle, ListRequest, Route, ScheduleChange, SchedulePause, Snapshot, Test, Watcher,
    next_slots, preview_slots,
};
pub use identity::Identity;
pub use machine::{HostMachine, HostRead, HostWrite};
pub use open::Opener;
pub use registry_shard::{Published, RegistryChange, RegistryShard};
pub use rows::{Rows, RowsRef, ViewRows};
pub use running::{Host, Network};
pub use seats::{Origin, Seat, Seats};
pub use z4_tasks::{DueCounts, QueueStats};

pub use shard::{
    Bell, ConsumerId, Deliver, Delivery, EventsRequest, Explained, Held, QueueCounts, QueueSetup, Rates,
    Read, Reply, TaskMetrics, TaskShard, Waiters, WatcherId, Write,
};
