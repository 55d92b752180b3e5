//! A store that holds the machine to its promises about keys.

use std::borrow::Cow;
use std::collections::BTreeSet;

use crate::store::Visit;
use crate::{Fault, MemoryStore, Read, Store};

/// Panics if a key is inserted that was ever used before: real storage would forget such a key without a trace, though
/// its base may still have it.
#[derive(Clone, Default)]
pub(super) struct StrictStore {
    rows: MemoryStore,
    used: BTreeSet<Vec<u8>>,
}

impl StrictStore {
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }
}

impl Read for StrictStore {
    fn get(&self, key: &[u8]) -> Result<Option<Cow<'_, [u8]>>, Fault> {
        self.rows.get(key)
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), Fault> {
        assert!(from <= to, "a scan goes forward");
        self.rows.scan(from, to, visit)
    }

    fn get_many(&self, keys: &[&[u8]], found: &mut dyn FnMut(usize, &[u8])) -> Result<(), Fault> {
        assert!(keys.is_sorted(), "get_many promises sorted keys");
        self.rows.get_many(keys, found)
    }
}

impl Store for StrictStore {
    fn insert(&mut self, key: &[u8], value: &[u8]) {
        assert!(self.used.insert(key.to_vec()), "inserted a key that was used before: {key:?}");
        self.rows.insert(key, value);
    }

    fn put(&mut self, key: &[u8], value: &[u8]) {
        self.used.insert(key.to_vec());
        self.rows.put(key, value);
    }

    fn delete(&mut self, key: &[u8]) {
        assert!(self.used.contains(key), "deleted a key that never was: {key:?}");
        self.rows.delete(key);
    }
}
