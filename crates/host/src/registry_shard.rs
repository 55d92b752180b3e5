//! Shard 0 on this host: applies registry commands and publishes the result for routing.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use z4_multiraft::Fault;
use z4_registry::{Command, Registry};
use z4_store::GroupStore;
use z4_types::{ClusterId, Entry, Index, Kind, Millis, Term};

/// Key of the only row of shard 0.
pub(crate) const ROW: &[u8] = b"registry";

/// See the module essay.
pub struct RegistryShard {
    registry: Registry,
    /// What doors route by; replaced whole.
    published: Arc<RwLock<Arc<Registry>>>,
    waiting: VecDeque<Command>,
}

impl RegistryShard {
    /// Reads the registry from shard 0's rows.
    ///
    /// # Errors
    /// `Corrupt` if there is none or it cannot be read.
    pub fn open(store: &GroupStore) -> Result<Self, Fault> {
        let corrupt = |what: String| Fault { kind: Kind::Corrupt, what };
        let row = store.get(ROW)?.ok_or_else(|| corrupt("shard 0 has no registry row".into()))?;
        let registry = Registry::decode(&row).map_err(|e| corrupt(e.to_string()))?;
        registry.check().map_err(|why| corrupt(format!("the registry breaks its own rules: {why}")))?;
        let published = Arc::new(RwLock::new(Arc::new(registry.clone())));
        Ok(Self { registry, published, waiting: VecDeque::new() })
    }

    /// Returns where the newest registry is published.
    #[must_use]
    pub fn published(&self) -> Arc<RwLock<Arc<Registry>>> {
        Arc::clone(&self.published)
    }

    pub(crate) fn write(&mut self, command: Command) {
        self.waiting.push_back(command);
    }

    pub(crate) fn entry(&mut self) -> Option<Bytes> {
        self.waiting.pop_front().map(|command| Bytes::from(command.encode()))
    }

    pub(crate) fn proposed(&mut self, _index: Index, _term: Term) {}

    pub(crate) fn apply(&mut self, store: &mut GroupStore, entry: &Entry) -> Result<(), Fault> {
        let command = Command::decode(&entry.data).map_err(|e| Fault {
            kind: Kind::Corrupt,
            what: format!("shard 0, entry {}: {e}", entry.index),
        })?;
        match self.registry.apply(&command) {
            Ok(true) => {
                store.put(ROW, &self.registry.encode());
                *self.published.write().unwrap_or_else(PoisonError::into_inner) =
                    Arc::new(self.registry.clone());
            }
            Ok(false) => {}
            Err(refusal) => tracing::warn!(?command, %refusal, "a change of the registry was refused"),
        }
        Ok(())
    }

    /// Returns the cluster this registry is of.
    pub(crate) fn cluster(&self) -> ClusterId {
        self.registry.cluster
    }

    pub(crate) fn deadline(&self) -> Option<Millis> {
        (!self.waiting.is_empty()).then_some(Millis(0))
    }
}
