//! Drives many Raft groups of one host: inbox, ticks, ready loop, persist, apply, checkpoints.
//!
//! ```text
//! doors --Input--> Inbox --> Driver --Batch--> WAL (one fdatasync for all groups)
//!                              |  ^---persisted---'
//!                              |--apply--> StateMachine --> answers
//!                              '--Frozen--> checkpoint --> base
//! ```
//! [`Driver`] is a value: inputs and the time go in, a batch for the log and frozen sets for the base come out.
//! [`Runner`] is the thin shell of threads around it; the simulator calls the same value from one thread.
//!
//! # Not here
//! - What a group means: a [`StateMachine`] says. Which groups exist: `z4-host` opens them.
//! - Sockets. Frames between hosts come with the transport.

mod clock;
mod driver;
mod inbox;
mod machine;
mod metrics;
mod replica;
mod runner;
mod threads;

pub use clock::ShardClock;
pub use driver::{DigestWatch, Driver, Input, Settings};
pub use inbox::Inbox;
pub use machine::{Admission, Fault, Refuse, Refused, StateMachine};
pub use metrics::{Histogram, Metrics};
pub use replica::{GroupStatus, Replica, ReplicaConfig};
pub use runner::{FreeSpace, LogMode, Runner, RunnerConfig};
