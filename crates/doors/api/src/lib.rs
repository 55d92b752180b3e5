//! The gRPC door of a host: services `z4.v1.Tasks`, `Queues`, `Schedules` and `Admin`, health and reflection.
//!
//! A request is checked and converted by `z4_proto::convert`, becomes one call on a [`z4_host::Handle`], and its
//! answer or error is converted back. If another host leads the shard it is about, the request goes to that host's door
//! (`forward.rs`). Nothing is decided here: what a task is, who gets it and when, the rooms behind the handle know.
//!
//! ```no_run
//! # async fn example(handle: z4_host::Handle) -> std::io::Result<()> {
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:6355").await?;
//! let (stop, stopping) = tokio::sync::watch::channel(false);
//! let served = tokio::spawn(z4_api::serve(handle, listener, stopping));
//! // Later: consumers are told, calls under way are answered.
//! stop.send_replace(true);
//! served.await.expect("the server does not panic");
//! # Ok(())
//! # }
//! ```
//!
//! # Not here
//! - Messages and their conversions: `z4-proto`. Which failure has which code: `status.rs`, and only there.
//! - Where a shard is led: the host's registry and replicas know.

mod admin;
mod arrivals;
mod batches;
mod bodies;
mod call;
mod connections;
mod deadline;
mod door;
mod events;
mod explain;
mod filters;
mod forward;
mod messages;
mod meter;
mod queues;
mod requests;
mod schedules;
mod server;
mod status;
mod tasks;

pub use server::serve;
