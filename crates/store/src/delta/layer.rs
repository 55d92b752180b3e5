//! One ordered layer of changes, and how a newer one lies over an older one.

use std::collections::BTreeMap;
use std::collections::btree_map::{Entry, Iter, Range};
use std::ops::Bound;
use std::sync::Arc;

use super::{Key, Slot};

/// Bytes one row costs besides its heap parts: 72 of key and slot, at the fill B-tree nodes reach, and the headers of
/// its allocations. Measured with `examples/ceiling.rs`.
const ROW_OVERHEAD: usize = 112;

/// Changes of one group, newest word per key. Mutable while active, shared and frozen afterwards.
#[derive(Default)]
pub(crate) struct Layer {
    rows: BTreeMap<Key, Slot>,
    /// Invariant: sum of `cost` over the rows.
    bytes: usize,
}

/// A frozen layer.
#[derive(Clone)]
pub(crate) struct LayerRef {
    pub(crate) layer: Arc<Layer>,
    /// Set when a checkpoint of this layer failed: its rows may be in the base after all, so none counts as fresh.
    pub(crate) doubtful: bool,
}

fn cost(key: &Key, slot: &Slot) -> usize {
    ROW_OVERHEAD + Key::heap_bytes(key.as_slice().len()) + slot.heap_bytes()
}

/// Returns what an older and a newer word on a key amount to; `None` if the row leaves no trace at all.
#[inline]
fn combine(older_is_fresh: bool, newer: Slot) -> Option<Slot> {
    match newer {
        Slot::Tombstone if older_is_fresh => None,
        // A fresh word over a tombstone: the key was free for its writer, not for the layers below.
        newer => Some(newer.with_fresh(older_is_fresh)),
    }
}

impl Layer {
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    #[inline]
    pub(crate) fn get(&self, key: &[u8]) -> Option<&Slot> {
        if self.rows.is_empty() { None } else { self.rows.get(key) }
    }

    /// Returns all rows, ascending.
    pub(crate) fn rows(&self) -> Iter<'_, Key, Slot> {
        self.rows.iter()
    }

    /// Returns the rows with `from <= key < to`, to the end without `to`. Requires `from <= to`.
    pub(crate) fn range(&self, from: &[u8], to: Option<&[u8]>) -> Range<'_, Key, Slot> {
        self.rows.range::<[u8], _>((Bound::Included(from), to.map_or(Bound::Unbounded, Bound::Excluded)))
    }

    /// Adds a row whose key exists nowhere.
    pub(crate) fn insert(&mut self, key: &[u8], value: &[u8]) {
        match self.rows.entry(Key::new(key)) {
            Entry::Vacant(place) => {
                let slot = Slot::new(value, true);
                self.bytes += cost(place.key(), &slot);
                place.insert(slot);
            }
            Entry::Occupied(mut place) => {
                debug_assert!(
                    matches!(place.get(), Slot::Tombstone),
                    "insert() of a key that exists: the caller promised it was free"
                );
                let slot = Slot::new(value, place.get().is_fresh());
                self.bytes = self.bytes + slot.heap_bytes() - place.get().heap_bytes();
                place.insert(slot);
            }
        }
    }

    /// Adds or replaces a row.
    pub(crate) fn put(&mut self, key: &[u8], value: &[u8]) {
        match self.rows.entry(Key::new(key)) {
            Entry::Vacant(place) => {
                let slot = Slot::new(value, false);
                self.bytes += cost(place.key(), &slot);
                place.insert(slot);
            }
            Entry::Occupied(mut place) => {
                let slot = Slot::new(value, place.get().is_fresh());
                self.bytes = self.bytes + slot.heap_bytes() - place.get().heap_bytes();
                place.insert(slot);
            }
        }
    }

    /// Removes a row. `absent_below` says that no lower layer and not the base has the key.
    pub(crate) fn delete(&mut self, key: &[u8], absent_below: impl FnOnce() -> bool) {
        match self.rows.entry(Key::new(key)) {
            Entry::Occupied(place) if place.get().is_fresh() => {
                self.bytes -= cost(place.key(), place.get());
                place.remove();
            }
            Entry::Occupied(mut place) => {
                self.bytes -= place.get().heap_bytes();
                place.insert(Slot::Tombstone);
            }
            Entry::Vacant(place) => {
                if !absent_below() {
                    self.bytes += cost(place.key(), &Slot::Tombstone);
                    place.insert(Slot::Tombstone);
                }
            }
        }
    }
}

impl LayerRef {
    pub(crate) fn new(layer: Layer) -> Self {
        Self { layer: Arc::new(layer), doubtful: false }
    }

    /// Returns this layer with `newer` on top as one layer. Costs O(smaller × log larger) when nobody else holds the
    /// larger one, a copy of it otherwise.
    pub(crate) fn under(self, newer: Self) -> Self {
        assert!(self.doubtful || !newer.doubtful, "doubtful layers are the oldest of their set");
        let doubtful = self.doubtful;
        let mut merged = Arc::try_unwrap(self.layer)
            .unwrap_or_else(|shared| Layer { rows: shared.rows.clone(), bytes: shared.bytes });
        let mut add = |key: Key, slot: Slot| match merged.rows.entry(key) {
            Entry::Vacant(place) => {
                merged.bytes += cost(place.key(), &slot);
                place.insert(slot);
            }
            Entry::Occupied(mut place) => {
                let fresh = place.get().is_fresh() && !doubtful;
                merged.bytes -= cost(place.key(), place.get());
                match combine(fresh, slot) {
                    Some(slot) => {
                        merged.bytes += cost(place.key(), &slot);
                        place.insert(slot);
                    }
                    None => {
                        place.remove();
                    }
                }
            }
        };
        match Arc::try_unwrap(newer.layer) {
            Ok(owned) => owned.rows.into_iter().for_each(|(key, slot)| add(key, slot)),
            Err(shared) => shared.rows.iter().for_each(|(key, slot)| add(key.clone(), slot.clone())),
        }
        Self { layer: Arc::new(merged), doubtful }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(layer: &Layer, key: &[u8]) -> Option<(Option<Vec<u8>>, bool)> {
        layer.get(key).map(|slot| (slot.value().map(<[u8]>::to_vec), slot.is_fresh()))
    }

    #[test]
    fn a_fresh_row_that_is_deleted_leaves_no_trace() {
        let mut layer = Layer::default();
        layer.insert(b"a", b"1");
        layer.put(b"a", &[9; 100]);
        layer.delete(b"a", || panic!("a fresh row needs no look below"));
        assert_eq!((layer.len(), layer.bytes()), (0, 0));
    }

    #[test]
    fn a_row_of_unknown_origin_leaves_a_tombstone_and_comes_back_as_not_fresh() {
        let mut layer = Layer::default();
        layer.put(b"a", b"1");
        layer.delete(b"a", || false);
        layer.delete(b"b", || false);
        layer.delete(b"c", || true);
        assert_eq!(slot(&layer, b"a"), Some((None, false)));
        assert_eq!(slot(&layer, b"b"), Some((None, false)));
        assert_eq!(slot(&layer, b"c"), None);
        layer.insert(b"a", b"2");
        assert_eq!(slot(&layer, b"a"), Some((Some(b"2".to_vec()), false)));
    }

    #[test]
    fn merged_layers_annihilate_what_was_fresh_and_keep_what_may_be_below() {
        let mut older = Layer::default();
        older.insert(b"fresh, deleted", b"1");
        older.insert(b"fresh, changed", b"1");
        older.put(b"old, deleted", b"1");
        older.delete(b"gone, back", || false);
        let mut newer = Layer::default();
        newer.delete(b"fresh, deleted", || false);
        newer.put(b"fresh, changed", b"2");
        newer.delete(b"old, deleted", || false);
        newer.insert(b"gone, back", b"2");
        newer.insert(b"new", b"2");
        let older = LayerRef::new(older);
        let doubtful = LayerRef { doubtful: true, ..older.clone() };
        let newer = LayerRef::new(newer);
        let merged = older.under(newer.clone());
        assert_eq!(slot(&merged.layer, b"fresh, deleted"), None);
        assert_eq!(slot(&merged.layer, b"fresh, changed"), Some((Some(b"2".to_vec()), true)));
        assert_eq!(slot(&merged.layer, b"old, deleted"), Some((None, false)));
        assert_eq!(slot(&merged.layer, b"gone, back"), Some((Some(b"2".to_vec()), false)));
        assert_eq!(slot(&merged.layer, b"new"), Some((Some(b"2".to_vec()), true)));
        let merged = doubtful.under(newer);
        assert_eq!(slot(&merged.layer, b"fresh, deleted"), Some((None, false)));
        assert_eq!(slot(&merged.layer, b"fresh, changed"), Some((Some(b"2".to_vec()), false)));
        let summed: usize = merged.layer.rows().map(|(key, slot)| cost(key, slot)).sum();
        assert_eq!(merged.layer.bytes(), summed);
    }
}
