//! The window in which a create may be repeated safely (P6).
//!
//! A create that bears a request id leaves a record of its answer. A repeat within the window is told that answer and
//! creates nothing, even if the tasks are long acked. The window is shard time, the record is a row: it survives
//! restarts, leader changes and snapshots. Old records are evicted in the order they were made, a bounded number at the end of
//! each entry: more than the entry added, so that a burst is worked off; an Advance takes more.
//!
//! # Invariants
//! - Whether a record counts depends on its age alone, not on whether it was evicted yet.
//! - Every request row has one eviction row, at its time, and the other way around.

use z4_types::limits::REQUEST_WINDOW_MS;
use z4_types::{Duration, Millis, RequestId, TaskId};

use crate::machine::Machine;
use crate::rows::key::{self, Scope};
use crate::rows::{Remembered, write_list, write_run};
use crate::{Fault, Store};

/// How much later than necessary an otherwise idle shard evicts: nobody waits for it, and a wake-up costs a sync.
pub(crate) const EVICTION_SLACK: Duration = Duration::from_secs(60);

/// Records an entry evicts at its end, beside two for each that it made.
const EVICTIONS_PER_ENTRY: u32 = 64;

/// What is known of a request id.
#[derive(Debug)]
pub(crate) enum Memory {
    /// It was answered within the window: so.
    Answered(Remembered),
    /// It was answered before the window, at this time; the row is still there.
    Stale(Millis),
    /// Not known.
    Nothing,
}

impl Machine {
    /// Looks a request id up.
    pub(crate) fn recall(
        &self,
        store: &dyn Store,
        scope: Scope,
        request: RequestId,
    ) -> Result<Memory, Fault> {
        let Some(value) = store.get(&key::request(scope, request))? else {
            return Ok(Memory::Nothing);
        };
        let remembered = Remembered::read(&value)?;
        let stale = remembered.at + Duration(REQUEST_WINDOW_MS) <= self.meta.now;
        #[cfg(feature = "bug-dedup-lost-at-restart")]
        let stale = stale || remembered.at <= self.opened_at;
        Ok(if stale { Memory::Stale(remembered.at) } else { Memory::Answered(remembered) })
    }

    /// Remembers the answer to a request: `ids`, which are `run` if each is the one before plus one.
    pub(crate) fn remember(
        &mut self,
        store: &mut dyn Store,
        scope: Scope,
        request: RequestId,
        stale: Option<Millis>,
        ids: impl ExactSizeIterator<Item = TaskId>,
        run: Option<TaskId>,
    ) {
        let now = self.meta.now;
        if let Some(at) = stale {
            self.forget_eviction(store, at, request, scope);
        }
        self.buffer.clear();
        match run {
            Some(first) => write_run(now, first, ids.len() as u32, &mut self.buffer),
            None => write_list(now, ids, &mut self.buffer),
        }
        // Put: the same request may have been remembered and evicted since the last checkpoint.
        store.put(&key::request(scope, request), &self.buffer);
        let eviction = key::eviction(now, request, scope);
        if stale == Some(now) {
            store.put(&eviction, &[]);
        } else {
            store.insert(&eviction, &[]);
        }
        self.requests.get_mut().inserted((now.0, request.0));
        self.remembered += 1;
    }

    /// Evicts what the current entry owes.
    pub(crate) fn evict_some(&mut self, store: &mut dyn Store) -> Result<(), Fault> {
        let limit = EVICTIONS_PER_ENTRY + 2 * std::mem::take(&mut self.remembered);
        self.evict(store, limit).map(|_| ())
    }

    /// Evicts up to `limit` records that are out of the window; returns how many.
    pub(crate) fn evict(&mut self, store: &mut dyn Store, limit: u32) -> Result<u32, Fault> {
        let mut evicted = 0;
        while evicted < limit && self.evictable(store)? {
            // A few at a time: the scan collects before it deletes.
            let batch = self.collect_requests(store, limit - evicted)?;
            for &(at, request, scope) in &batch {
                store.delete(&key::request(scope, request));
                self.forget_eviction(store, at, request, scope);
            }
            evicted += batch.len() as u32;
        }
        Ok(evicted)
    }

    /// Returns whether a record is out of the window.
    pub(crate) fn evictable(&self, store: &dyn Store) -> Result<bool, Fault> {
        Ok(self.first_request(store)?.is_some_and(|at| at + Duration(REQUEST_WINDOW_MS) <= self.meta.now))
    }

    fn collect_requests(
        &self,
        store: &dyn Store,
        limit: u32,
    ) -> Result<Vec<(Millis, RequestId, Scope)>, Fault> {
        let (at, request) = self.requests.get().low();
        let from = key::eviction(Millis(at), RequestId(request), Scope::Batch);
        let last = self.meta.now - Duration(REQUEST_WINDOW_MS);
        let (mut found, mut malformed) = (Vec::new(), None);
        store.scan(&from, key::EVICTIONS_END, &mut |key, _| match key::read_eviction(key) {
            Ok(row) if row.0 <= last && found.len() < limit as usize => {
                found.push(row);
                true
            }
            Ok(_) => false,
            Err(error) => {
                malformed = Some(error);
                false
            }
        })?;
        malformed.map_or(Ok(found), |error| Err(error.into()))
    }

    fn forget_eviction(&mut self, store: &mut dyn Store, at: Millis, request: RequestId, scope: Scope) {
        store.delete(&key::eviction(at, request, scope));
        self.requests.get_mut().deleted((at.0, request.0));
    }
}
