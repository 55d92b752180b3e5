//! The client of z4: finds a host, follows the leader, retries with request ids, batches without waiting.
//!
//! A [`Client`] knows one address or several, learns the cluster's other hosts from any that answers, and holds one lazy
//! connection to each that it needs. Calls go to the leader where it is known, and elsewhere when a host fails. A [`Producer`]
//! turns single pushes into frames of a stream; a [`Consumer`] runs a handler for each task and settles in batches;
//! a [`PullStream`] is the consumer's stream without the handler, for those who want every batch. Every call ends
//! within its deadline with an [`Error`] whose [`kind`](Error::kind) says what to do next.
//!
//! ```no_run
//! use std::time::Duration;
//! use z4_client::{Client, HandlerError, NewTask, Task};
//!
//! # async fn example() -> Result<(), z4_client::Error> {
//! let client = Client::connect(["localhost:6355"])?;
//!
//! // OK means: on the disks of a majority. Retries carry a request id, so they create nothing twice.
//! let producer = client.producer("acme/emails").build()?;
//! let id = producer.push(NewTask::new("hello").delay(Duration::from_secs(60))).await?;
//! println!("created {id}");
//!
//! let consumer = client.consumer("acme/emails").name("worker-1").concurrency(8).run(|task: Task| async move {
//!     if task.payload.is_empty() {
//!         return Err(HandlerError::new("nothing to send").retry_in(Duration::from_secs(5)));
//!     }
//!     println!("send {:?}, delivery {}", task.payload, task.deliveries);
//!     Ok(())
//! })?;
//!
//! // Later: finish what runs, give back what does not, and count.
//! let counts = consumer.drain().await?;
//! println!("{} acknowledged", counts.acked);
//! # Ok(())
//! # }
//! ```
//!
//! # Not here
//! - TLS and tokens.
//! - The route from queue to shard: any host forwards, and the client then asks the host that answered.
//!
//! # Caveats
//! - A tokio runtime must be running where producers and consumers are built and calls are awaited.

mod backoff;
mod call;
mod changes;
mod client;
mod consumer;
mod duplex;
mod endpoints;
mod error;
mod events;
#[cfg(test)]
mod fake;
mod groups;
mod keys;
mod policies;
mod producer;
mod pull;
mod queues;
mod random;
mod schedules;
mod stored;
mod task;

pub use changes::{Matched, Selection, TaskPatch, Updated};
pub use client::{Client, ClientBuilder, Health, Lease, ListTasks, Page, Ping};
pub use consumer::{Consumer, ConsumerBuilder, Counts, HandlerError};
pub use error::Error;
pub use events::{Event, EventBatch, EventStream, EventsFrom, WatchEvents};
pub use groups::GroupPatch;
pub use producer::{Producer, ProducerBuilder, Receipt};
pub use pull::{Pull, PullStream};
pub use queues::{PurgedPart, QueuePatch};
pub use random::request_id;
pub use schedules::{SchedulePatch, ScheduleRun};
pub use stored::{Freshness, Queue, StoredTask, TaskState};
pub use task::{Created, KeyPolicy, NewTask, OnFailure, RetryPolicy, Settlement, Task, Verdict};

pub use z4_proto::v1::EventType;
pub use z4_proto::v1::shard_verdict::Result as Verified;
pub use z4_proto::v1::{
    Breaker, ExplainQueueResponse, Explanation, Group, GroupSettings, Obstacle, Policy, PurgeState,
    QueueConfig, QueueSettings, QueueStats,
};
pub use z4_proto::v1::{
    InfoResponse as Info, Member, ReplicaDigest, ReplicaPlacement, ReplicaRole, Shard, ShardPlacement,
    ShardVerdict,
};
pub use z4_proto::v1::{OverlapPolicy, Schedule, ScheduleCounts, ScheduleStatus, SlotFate, SlotRecord};
pub use z4_types::{Kind, Millis, TaskId, Token};
