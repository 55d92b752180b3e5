//! A store in memory: for tests, examples and measurements of this crate alone.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Bound;

use crate::store::Visit;
use crate::{Fault, Read, Store};

/// Ordered rows in a tree. Never fails.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryStore {
    rows: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl MemoryStore {
    /// Returns an empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns how many rows it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Returns whether it holds no row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

impl Read for MemoryStore {
    fn get(&self, key: &[u8]) -> Result<Option<Cow<'_, [u8]>>, Fault> {
        Ok(self.rows.get(key).map(|value| Cow::Borrowed(value.as_slice())))
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), Fault> {
        if from < to {
            for (key, value) in self.rows.range::<[u8], _>((Bound::Included(from), Bound::Excluded(to))) {
                if !visit(key, value) {
                    break;
                }
            }
        }
        Ok(())
    }

    fn get_many(&self, keys: &[&[u8]], found: &mut dyn FnMut(usize, &[u8])) -> Result<(), Fault> {
        for (position, key) in keys.iter().enumerate() {
            if let Some(value) = self.rows.get(*key) {
                found(position, value);
            }
        }
        Ok(())
    }
}

impl Store for MemoryStore {
    fn insert(&mut self, key: &[u8], value: &[u8]) {
        let before = self.rows.insert(key.to_vec(), value.to_vec());
        assert!(before.is_none(), "insert promises an absent key");
    }

    fn put(&mut self, key: &[u8], value: &[u8]) {
        if let Some(old) = self.rows.get_mut(key) {
            old.clear();
            old.extend_from_slice(value);
        } else {
            self.rows.insert(key.to_vec(), value.to_vec());
        }
    }

    fn delete(&mut self, key: &[u8]) {
        self.rows.remove(key);
    }
}
