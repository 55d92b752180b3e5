//! Rows in memory: what changed since the base was written, in ordered layers.

mod key;
mod layer;
mod slot;

pub(crate) use key::Key;
pub(crate) use layer::{Layer, LayerRef};
pub(crate) use slot::Slot;
