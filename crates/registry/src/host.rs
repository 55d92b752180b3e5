//! A host as the registry knows it: its name, how it is reached, and which disk may speak for it.
//!
//! The operator's name of a host outlives its disk. Each data directory draws an *instance* number when it is formed;
//! the registry records the first that announces itself under a name and refuses every other, so that neither a
//! forgotten disk nor an empty one is taken for the host that promised something.

use std::collections::BTreeMap;
use std::fmt;

use z4_types::HostId;

use crate::limits::FORMER_INSTANCES_MAX;

/// One server of the cluster, or the memory of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// The operator's stable name.
    pub id: HostId,
    /// host:port by which other hosts reach it. Invariant: of no two members the same.
    pub address: String,
    /// host:port of its gRPC door, to which calls are forwarded; empty until it has announced it.
    pub service: String,
    /// What the operator says of it, such as its zone.
    pub tags: BTreeMap<String, String>,
    /// The data directory that speaks for it; 0 until one has announced itself.
    pub instance: u64,
    /// Whether it may hold replicas.
    pub status: HostStatus,
    /// Instances that had this name before and are refused, oldest first. Invariant: at most
    /// [`FORMER_INSTANCES_MAX`], none zero, none twice, none the present one.
    pub former: Vec<u64>,
}

/// Whether a host may hold replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum HostStatus {
    /// A member that holds replicas.
    Active,
    /// A member that gives its replicas away; it keeps a learner of the registry, to route by.
    Draining,
    /// No member any more. Its name is kept, so that its disk is told so for ever.
    Removed,
}

impl Host {
    /// Returns an active host that has not announced itself.
    #[must_use]
    pub fn new(id: HostId, address: impl Into<String>) -> Self {
        Self {
            id,
            address: address.into(),
            service: String::new(),
            tags: BTreeMap::new(),
            instance: 0,
            status: HostStatus::Active,
            former: Vec::new(),
        }
    }

    /// Returns whether it belongs to the cluster: active or draining.
    #[must_use]
    pub fn is_member(&self) -> bool {
        self.status != HostStatus::Removed
    }

    /// Returns whether new replicas may be placed on it.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.status == HostStatus::Active
    }

    /// Returns whether `instance` spoke for this host once and may not again.
    #[must_use]
    pub fn is_former(&self, instance: u64) -> bool {
        self.former.contains(&instance) || !self.is_member() && instance != 0 && self.instance == instance
    }

    /// Lets no instance speak for this host until one is recorded; the present one never again.
    pub(crate) fn bury_instance(&mut self) {
        if self.instance != 0 {
            if self.former.len() == FORMER_INSTANCES_MAX {
                self.former.remove(0);
            }
            self.former.push(self.instance);
            self.instance = 0;
        }
    }
}

impl fmt::Display for HostStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Active => "active",
            Self::Draining => "draining",
            Self::Removed => "removed",
        })
    }
}
