//! Opens one replica: machine, working set and consensus over what base and log hold. At boot, and whenever a replica
//! comes to this host.

use std::sync::Arc;

use z4_consensus::{Fit, ReadBack};
use z4_multiraft::{Fault, Replica, ReplicaConfig};
use z4_store::{Meta, Store};
use z4_types::{Entry, EntryKind, Index, ShardId, Term};
use z4_wal::{GroupLog, Reader};

use crate::budget::Budget;
use crate::machine::HostMachine;
use crate::registry_shard::{Published, RegistryShard};
use crate::seats::{self, Beginning, Seats};
use crate::shard::{TaskMetrics, TaskShard};

/// What the replicas of a host share; opens them.
#[derive(Clone)]
pub struct Opener {
    pub(crate) store: Store,
    pub(crate) log: Reader,
    pub(crate) published: Published,
    pub(crate) metrics: Arc<TaskMetrics>,
    /// Bounds the bytes on their way to consumers.
    pub(crate) outbox: Arc<Budget>,
    /// Decides who campaigns first.
    pub(crate) election_seed: u64,
}

impl Opener {
    /// Opens `replica` of `shard` over `meta`, the base's, and `found`, what the log has behind it. Returns it with the
    /// number of entries to be applied again.
    ///
    /// # Errors
    /// If storage fails, or what was found makes no sense.
    pub(crate) fn open(
        &self,
        shard: ShardId,
        replica: u64,
        meta: &Meta,
        found: GroupLog,
    ) -> Result<(Replica<HostMachine>, usize), Fault> {
        let fit = self.fit(shard, meta, found.entries);
        if let Some(from) = fit.forget_from {
            tracing::info!(%shard, %from, "the log is older than the snapshot in the base; it starts anew");
        }
        let store = self.store.group(shard)?;
        let machine = if shard.0 == 0 {
            HostMachine::Registry(Box::new(RegistryShard::open(&store, &self.published)?))
        } else {
            let (metrics, outbox) = (Arc::clone(&self.metrics), Arc::clone(&self.outbox));
            HostMachine::Tasks(Box::new(TaskShard::open(shard, &store, metrics, outbox)?))
        };
        let replayed = fit.entries.len();
        let config = ReplicaConfig {
            shard,
            replica,
            election_seed: self.election_seed,
            hard_state: found.hard_state,
            entries: fit.entries,
            forget_from: fit.forget_from,
            read_back: Box::new(WalReadBack(self.log.clone())),
        };
        Ok((Replica::open(config, store, machine)?, replayed))
    }

    /// Gives `replica` a seat and an empty group, durably, and opens it. For who drives a host by hand.
    ///
    /// # Errors
    /// If storage fails: `Overloaded` if the disk is full, and nothing has changed then.
    pub fn create(
        &self,
        seats: &mut Seats,
        shard: ShardId,
        replica: u64,
    ) -> Result<Replica<HostMachine>, Fault> {
        seats::take(&self.store, seats, vec![(shard, replica, Beginning::Joined)], None)?;
        let meta = self.store.groups()?.remove(&shard).unwrap_or_default();
        Ok(self.open(shard, replica, &meta, GroupLog::default())?.0)
    }

    /// Takes the seat of a shard's replica away, durably. Its group is to be removed next.
    ///
    /// # Errors
    /// As [`Opener::create`].
    pub fn bury(&self, seats: &mut Seats, shard: ShardId) -> Result<(), Fault> {
        Ok(seats::bury(&self.store, seats, shard)?)
    }

    /// Returns the entries that continue the base. The log hands out those behind the base's index only; whether they
    /// tell its story is seen by the entry at that index, if it is still there.
    fn fit(&self, shard: ShardId, meta: &Meta, entries: Vec<Entry>) -> Fit {
        let at = self.log.term(shard, meta.applied).map(|term| Entry {
            index: meta.applied,
            term,
            kind: EntryKind::Normal,
            data: bytes::Bytes::new(),
        });
        Fit::new((meta.applied, meta.term), at.into_iter().chain(entries).collect())
    }
}

/// The host's log as consensus reads it back.
struct WalReadBack(Reader);

impl ReadBack for WalReadBack {
    fn entries(&self, group: ShardId, from: Index, to: Index, bytes_max: usize) -> Option<Vec<Entry>> {
        self.0.entries(group, from, to, bytes_max).ok()
    }

    fn term(&self, group: ShardId, index: Index) -> Option<Term> {
        self.0.term(group, index)
    }
}
