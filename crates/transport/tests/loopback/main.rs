//! Transports on loopback, with real sockets: what arrives, what is refused, what is survived.

mod common;
mod damage;
mod lanes;
mod questions;
mod refusals;
