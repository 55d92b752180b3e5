//! What travels between a group's driver and the thread that writes checkpoints.

use std::sync::Arc;

use z4_types::ShardId;

use crate::Meta;
use crate::delta::LayerRef;

/// A group's changes at one point, immutable, ready to be written. Cheap to clone.
#[derive(Clone)]
pub struct Frozen {
    pub(crate) group: ShardId,
    /// Of the group's rows it lies over. The base takes it only while that is the newest.
    pub(crate) generation: u64,
    /// Unique in this process.
    pub(crate) id: u64,
    /// Oldest first.
    pub(crate) layers: Arc<[LayerRef]>,
    pub(crate) meta: Meta,
}

impl Frozen {
    /// Returns the group.
    #[must_use]
    pub fn group(&self) -> ShardId {
        self.group
    }

    /// Returns the meta at the moment of freezing: what the base will claim.
    #[must_use]
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// Returns the memory it holds, bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.layers.iter().map(|at| at.layer.bytes()).sum()
    }
}

impl std::fmt::Debug for Frozen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Frozen")
            .field("group", &self.group)
            .field("id", &self.id)
            .field("meta", &self.meta)
            .finish()
    }
}

/// A checkpoint that is durable. Hand it to every group of the host, then drop it away from the drivers: dropping frees
/// what was frozen, which takes a while.
#[derive(Debug)]
pub struct Done {
    pub(crate) frozen: Vec<Frozen>,
    pub(crate) rows: u64,
}

impl Done {
    /// Returns the rows inserted, replaced or removed in the base.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Returns what the checkpoint contained: all that was handed in, but for sets whose group was replaced meanwhile.
    #[must_use]
    pub fn frozen(&self) -> &[Frozen] {
        &self.frozen
    }
}
