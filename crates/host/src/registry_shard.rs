//! Shard 0 on this host: applies registry commands, publishes the result for routing, answers who asked for a change.
//!
//! A replica that has just joined has no row yet: what this host was told when it was admitted stays published until the
//! snapshot has come.
//!
//! # Invariants
//! - Every change is answered exactly once: when it is applied or refused here, or with `Unknown` if leadership was lost.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use z4_multiraft::{Fault, Refused};
use z4_registry::{Command, Registry};
use z4_store::GroupStore;
use z4_types::{ClusterId, Entry, Index, Kind, Millis, ShardId, Term};

use crate::error::Error;
use crate::shard::Reply;

/// Key of the only row of shard 0.
pub(crate) const ROW: &[u8] = b"registry";

/// A change of the registry, with the means to answer it. The answer comes once this host has applied or refused the
/// change: who gets it finds the change in the published registry.
pub struct RegistryChange {
    /// What shall change.
    pub command: Command,
    /// Takes `Error::Registry` for a refusal.
    pub reply: Reply<()>,
}

/// Where the newest registry a host knows is found; replaced whole.
pub type Published = Arc<RwLock<Arc<Registry>>>;

/// See the module essay.
pub struct RegistryShard {
    /// Unknown until the snapshot has come.
    registry: Registry,
    published: Published,
    waiting: VecDeque<RegistryChange>,
    /// Who waits for the entry packed last, until the driver says where it stands.
    packed: Option<Reply<()>>,
    /// Who waits for entries proposed in this leadership, in log order.
    inflight: VecDeque<(Index, Term, Reply<()>)>,
}

impl RegistryShard {
    /// Reads the registry from shard 0's rows and publishes it. A group that waits for its snapshot publishes nothing.
    ///
    /// # Errors
    /// `Corrupt` if there is none or it cannot be read.
    pub fn open(store: &GroupStore, published: &Published) -> Result<Self, Fault> {
        let mut shard = Self {
            registry: Registry::unknown(),
            published: Arc::clone(published),
            waiting: VecDeque::new(),
            packed: None,
            inflight: VecDeque::new(),
        };
        if store.meta().applied > Index(0) || store.get(ROW)?.is_some() {
            shard.reload(store)?;
        }
        Ok(shard)
    }

    /// Reads the registry anew: a snapshot has replaced the rows.
    ///
    /// # Errors
    /// As [`RegistryShard::open`].
    pub(crate) fn reload(&mut self, store: &GroupStore) -> Result<(), Fault> {
        self.registry = read(store)?;
        self.publish();
        Ok(())
    }

    fn publish(&self) {
        *self.published.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(self.registry.clone());
    }

    pub(crate) fn write(&mut self, change: RegistryChange) {
        self.waiting.push_back(change);
    }

    pub(crate) fn entry(&mut self) -> Option<Bytes> {
        assert!(self.packed.is_none(), "the driver says where an entry stands before it asks for the next");
        let RegistryChange { command, reply } = self.waiting.pop_front()?;
        self.packed = Some(reply);
        Some(Bytes::from(command.encode()))
    }

    pub(crate) fn proposed(&mut self, index: Index, term: Term) {
        if let Some(reply) = self.packed.take() {
            self.inflight.push_back((index, term, reply));
        }
    }

    pub(crate) fn apply(
        &mut self,
        store: &mut GroupStore,
        entry: &Entry,
        leading: bool,
    ) -> Result<(), Fault> {
        if !self.registry.is_known() {
            let what = format!("shard 0, entry {}: there is no registry to change", entry.index);
            return Err(Fault { kind: Kind::Corrupt, what });
        }
        let command = Command::decode(&entry.data).map_err(|e| Fault {
            kind: Kind::Corrupt,
            what: format!("shard 0, entry {}: {e}", entry.index),
        })?;
        let result = self.registry.apply(&command);
        match &result {
            Ok(true) => {
                store.put(ROW, &self.registry.encode());
                self.publish();
            }
            Ok(false) => {}
            Err(refusal) => tracing::info!(?command, %refusal, "a change of the registry was refused"),
        }
        let ours = leading
            && self
                .inflight
                .front()
                .is_some_and(|(index, term, _)| (*index, *term) == (entry.index, entry.term));
        if ours {
            let (.., reply) = self.inflight.pop_front().expect("looked at above");
            reply(result.map(|_| ()).map_err(Error::Registry));
        }
        Ok(())
    }

    /// Answers who waits: what was proposed may be applied by another leader, the rest was never proposed.
    pub(crate) fn follow(&mut self) {
        for (.., reply) in self.inflight.drain(..) {
            reply(Err(Error::Unknown));
        }
        for change in self.waiting.drain(..) {
            (change.reply)(Err(Error::from_refused(Refused::NotLeader, ShardId(0))));
        }
    }

    /// Returns the cluster this registry is of; None while the snapshot has not come.
    pub(crate) fn cluster(&self) -> Option<ClusterId> {
        self.registry.is_known().then_some(self.registry.cluster)
    }

    pub(crate) fn deadline(&self) -> Option<Millis> {
        (!self.waiting.is_empty()).then_some(Millis(0))
    }
}

fn read(store: &GroupStore) -> Result<Registry, Fault> {
    let corrupt = |what: String| Fault { kind: Kind::Corrupt, what };
    let row = store.get(ROW)?.ok_or_else(|| corrupt("shard 0 has no registry row".into()))?;
    let registry = Registry::decode(&row).map_err(|e| corrupt(e.to_string()))?;
    registry.check().map_err(|why| corrupt(format!("the registry breaks its own rules: {why}")))?;
    Ok(registry)
}
