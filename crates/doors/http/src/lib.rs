//! The HTTP door of a host: `/metrics` for Prometheus, `/healthz` and `/readyz` for whoever restarts and routes.
//!
//! Plain HTTP/1 on a port of its own, so that it answers while the gRPC port is busy, and can be closed to users.
//!
//! # Not here
//! - The gRPC health service: the api door has it.

mod listener;
mod metrics;
mod process;
mod server;
mod text;

pub use server::serve;
