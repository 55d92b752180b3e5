//! Drives many Raft groups of one host: inbox, ticks, ready loop, persist, apply, checkpoints.
//!
//! ```text
//! doors --Input--> Inbox --> Driver --Batch--> WAL (one fdatasync for all groups)
//! hosts --Frame-->             |  ^---persisted---'
//!                              |--apply--> StateMachine --> answers
//!                              |--Frame--> other hosts' drivers
//!                              |--Frozen--> checkpoint --> base
//!                              '--SnapshotWork--> base
//! ```
//! [`Driver`] is a value: inputs and the time go in, a batch for the log and frozen sets for the base come out.
//! [`Runner`] is the thin shell of threads around it; the simulator calls the same value from one thread.
//!
//! # Not here
//! - What a group means: a [`StateMachine`] says. Which groups exist: `z4-host` opens them.
//! - Sockets: `z4-transport` carries the frames. Who shall be a member: the registry, and `z4-host`'s controller.

mod clock;
mod digests;
mod driver;
mod inbox;
mod leaders;
mod machine;
mod metrics;
mod part;
mod post;
mod replica;
mod runner;
mod snapshot;
mod threads;

pub use clock::ShardClock;
pub use driver::{DigestWatch, Driver, Input, LogOrder, Settings};
pub use inbox::Inbox;
pub use leaders::{Leader, Leaders};
pub use machine::{Admission, Fault, Refuse, Refused, StateMachine};
pub use metrics::{Histogram, Metrics};
pub use replica::{Applied, GroupStatus, Members, Replica, ReplicaConfig};
pub use runner::{FreeSpace, LogMode, NoNet, Runner, RunnerConfig};
pub use snapshot::{SnapshotDone, SnapshotWork};
