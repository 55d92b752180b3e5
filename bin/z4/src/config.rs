//! The configuration of a host: where each setting comes from, and what it means.
//!
//! Settings are rows of one table ([`keys`]); flags, environment variables, the file and `--help` are made from it, so
//! that they cannot disagree. Precedence: flag > environment > file > default. [`resolve`] is pure: it takes what was
//! read and returns each setting with its source; [`Settings`] are the typed result.
//!
//! # Invariants
//! - Nothing is ignored: a key, a variable `Z4_*` or a value that is not understood is an error with one clear line.
//! # Not here
//! - Reading the environment and the file, and exit codes: `server.rs`.
//! # Caveats
//! - An empty environment variable is as if it was not set: compose files set variables to nothing.
//! - Variables that Kubernetes makes for a service named `z4` are passed over, except `Z4_SERVICE_PORT`, which is ours.

mod error;
mod file;
mod flags;
mod keys;
mod resolve;
mod settings;
#[cfg(test)]
mod tests;
mod value;

pub(crate) use error::Error;
pub(crate) use file::parse_file;
pub(crate) use flags::Flags;
pub(crate) use resolve::{Resolved, resolve};
pub(crate) use settings::Settings;
