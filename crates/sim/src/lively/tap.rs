//! What the logs of all shards say: each entry once, in order, whichever replica or life applied it first.
//!
//! An entry that was applied anywhere is committed, so it is part of the story, whatever becomes of the host that applied
//! it. Others apply the same later, which equal digests show (P11).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use z4_types::{Entry, EntryKind, Index, ShardId};

use crate::checks::Violation;

/// See the module essay. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Tap(Arc<Mutex<Tapped>>);

#[derive(Debug, Default)]
struct Tapped {
    /// The entry seen last of each shard.
    seen: BTreeMap<ShardId, Index>,
    entries: Vec<(ShardId, Entry)>,
    gap: Option<Violation>,
}

impl Tap {
    fn tapped(&self) -> MutexGuard<'_, Tapped> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A replica has applied `entry`.
    pub fn see(&self, shard: ShardId, entry: &Entry) {
        let tapped = &mut *self.tapped();
        let seen = tapped.seen.entry(shard).or_default();
        if entry.index <= *seen {
            return;
        }
        if entry.index > seen.next() && seen.0 > 0 {
            let what = format!("shard {shard}: entry {} is applied right after {seen}", entry.index);
            tapped.gap.get_or_insert(Violation::new("C5", what));
        }
        *seen = entry.index;
        if entry.kind == EntryKind::Normal && !entry.data.is_empty() {
            tapped.entries.push((shard, entry.clone()));
        }
    }

    /// Takes what came since the last call.
    ///
    /// # Errors
    /// C5 if an entry was left out.
    pub fn take(&self) -> Result<Vec<(ShardId, Entry)>, Violation> {
        let tapped = &mut *self.tapped();
        tapped.gap.take().map_or_else(|| Ok(std::mem::take(&mut tapped.entries)), Err)
    }
}
