//! Frames between hosts: two lanes to each, over TCP, with a handshake that says who is who.
//!
//! ```text
//!  driver ── Port::send ──> Queue ──> lane's task ══ TCP ══> reader ── Handler::frame ──> driver's inbox
//!            never blocks   bounded   dials, batches         checks, takes room
//! ```
//! **Simplex.** Each host dials the lanes on which it sends: so a pair of hosts has four connections, urgent and bulk in
//! each direction. One connection for both directions would need an agreement on who dials, and a way to break the tie
//! when both do; that is where such transports go wrong, and four sockets a pair cost nothing. A lane has one writer,
//! one reader, one order. Against the stream of frames flow only *beats*: the sign that the reader lives.
//!
//! **Urgent and bulk.** A heartbeat never waits behind a snapshot: the lanes share no queue, no socket and no room.
//!
//! **Loss.** A full lane drops and says so; what was in a broken connection is gone. Raft repeats what matters. What
//! arrives is whole (checksums), in order within its lane, and from a host that the handler has admitted.
//!
//! **Back-pressure.** Each frame comes with a share of its lane's [`Room`]. When the handler holds all of it, the reader
//! stops, TCP slows the sender, its queue fills, and `send` returns false: the sender learns it where it can act.
//!
//! # Invariants
//! - Memory is bounded: queue and one batch per outgoing lane, room per incoming lane, a few kilobytes per handshake.
//! - Nothing that arrives makes a task panic; every wait has an end. Damage closes the connection, is counted and told.
//! - At most one connection reads for a host and lane.
//!
//! # Not here
//! - What is in a frame: `z4-host` packs messages. Who is a member: [`Handler::admit`].
//! - Encryption: [`Wire`] is its place; plain TCP is the only wire so far.
//!
//! Sources: ADR-0010; etcd's rafthttp (streams beside pipelines); Dragonboat's and TiKV's drop-and-report transports.

mod ask;
mod backoff;
mod batch;
mod config;
mod dial;
mod error;
mod foreign;
mod frame;
mod greet;
mod handler;
mod hello;
mod inbound;
mod listen;
mod queue;
mod reader;
mod status;
mod stream;
mod transport;

pub use ask::{Answer, ask};
pub use config::{Config, Sizes, Timing};
pub use error::Error;
pub use foreign::Foreign;
pub use frame::BadFrame;
pub use handler::{Arrival, Handler, Room};
pub use hello::{BadHello, Identity, Lane, NAME_BYTES_MAX, Purpose, Reason, Refusal};
pub use status::{Count, IncomingStatus, ListeningStatus, OutgoingStatus, PeerStatus, Status};
pub use stream::{Boxed, PlainTcp, Stream, Wire};
pub use transport::{Port, Transport};
