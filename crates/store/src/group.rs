//! The working set of one group: reads, changes, freezing, and the way back from the checkpoint thread.
//!
//! One driver thread owns it. Changes go into the active layer; [`GroupStore::view`] rotates that layer away under the
//! view, [`GroupStore::freeze`] hands all layers to a checkpoint, which reads them while new changes pile up above.
//!
//! ```text
//! active | rotated … | frozen … | base snapshot        newest first; frozen at most once
//! ```
//!
//! # Invariants
//! - Layers plus base read the same before and after each of freeze, installed, abandoned and view.
//! - The base snapshot holds the rows of the last installed checkpoint, or of a later one whose rows are still frozen here.
//! - Layers lie over rows of their own generation. [`Store::install`] and [`Store::delete_group`] begin a new generation
//!   of the group: what this store holds is then void, is never written again, and [`GroupStore::reset_to_base`] drops it.
//! # Caveats
//! - Rotation keeps layer sizes geometric (each at least four times the one above), so a view now and then merges: O(rows)
//!   on this thread at worst, O(log rows) amortised.

use std::borrow::Cow;
use std::cell::RefCell;
use std::sync::Arc;

use z4_types::{Index, ShardId, Term};

use crate::base::{Cursor, Snapshot};
use crate::delta::{Key, Layer, LayerRef};
use crate::gaps::Gaps;
use crate::meta::digest;
use crate::stack::{self, Below};
use crate::{Done, Error, Frozen, Meta, Store, View, Visit};

/// Ratio of a rotated layer's size to the next newer one's, below which they are merged.
const ROTATION_RATIO: usize = 4;

/// The state of one group. `Send`; at most one exists for a group at a time.
pub struct GroupStore {
    store: Store,
    group: ShardId,
    /// Invariant: the store's number for this group when `base` was first taken.
    generation: u64,
    meta: Meta,
    active: Layer,
    /// Since the last freeze, oldest first. Doubtful ones come before all others.
    rotated: Vec<LayerRef>,
    frozen: Option<Frozen>,
    /// Whether anything, meta included, changed since the last freeze.
    changed: bool,
    base: RefCell<BaseView>,
    /// Where no row is visible; see [`Gaps`].
    dead: RefCell<Gaps>,
}

/// The snapshot of the base and what is known about it.
struct BaseView {
    snapshot: Arc<Snapshot>,
    /// Where the snapshot has no row of this group.
    empty: Gaps,
}

impl BaseView {
    fn new(snapshot: Arc<Snapshot>, group: ShardId) -> Self {
        let mut empty = Gaps::default();
        if snapshot.rows_of(group) == 0 {
            empty.add(&[], None);
        }
        Self { snapshot, empty }
    }
}

impl GroupStore {
    pub(crate) fn open(store: Store, group: ShardId, generation: u64, snapshot: Arc<Snapshot>) -> Self {
        let meta = snapshot.groups().get(&group).map(|(meta, _)| meta.clone()).unwrap_or_default();
        Self {
            store,
            group,
            generation,
            meta,
            active: Layer::default(),
            rotated: Vec::new(),
            frozen: None,
            changed: false,
            base: RefCell::new(BaseView::new(snapshot, group)),
            dead: RefCell::default(),
        }
    }

    /// Returns the group's id.
    #[must_use]
    pub fn id(&self) -> ShardId {
        self.group
    }

    /// Returns how far the rows have come, changes in memory included.
    #[must_use]
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// Returns the rolling digest of all mutations and applied indexes so far.
    #[must_use]
    pub fn digest(&self) -> u64 {
        self.meta.digest
    }

    /// Takes note that the rows now contain the entry at `index`. Call it after the entry's mutations.
    ///
    /// # Panics
    /// If `index` lies before the last one.
    pub fn set_applied(&mut self, index: Index, term: Term) {
        assert!(
            index >= self.meta.applied,
            "applied goes from {} to {index}: it never goes back",
            self.meta.applied
        );
        self.meta.applied = index;
        self.meta.term = term;
        self.meta.digest = digest::fold(self.meta.digest, index.0);
        self.changed = true;
    }

    /// Replaces the group's membership.
    pub fn set_conf(&mut self, conf: Vec<u8>) {
        self.meta.conf = conf;
        self.changed = true;
    }

    /// Returns the value of `key`.
    ///
    /// # Errors
    /// `Corrupt` or `Internal` if the base cannot be read.
    pub fn get(&self, key: &[u8]) -> Result<Option<Cow<'_, [u8]>>, Error> {
        stack::get(self.layers(), self, key)
    }

    /// Visits the rows with `from <= key < to` in key order, until `visit` returns false.
    ///
    /// # Errors
    /// As [`GroupStore::get`].
    pub fn scan(&self, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), Error> {
        let skipped = match self.dead.borrow().end(from) {
            Some(Some(end)) => Some(Key::new(end)),
            Some(None) => return Ok(()),
            None => None,
        };
        stack::scan(self.layers(), self, skipped.as_ref().map_or(from, Key::as_slice), Some(to), visit)
    }

    /// Calls `found(position, value)` for each of the sorted `keys` that exists, in one pass.
    ///
    /// # Errors
    /// As [`GroupStore::get`].
    pub fn get_many(&self, keys: &[&[u8]], found: &mut dyn FnMut(usize, &[u8])) -> Result<(), Error> {
        stack::get_many(|| self.layers(), self, keys, found)
    }

    /// Adds a row whose key is known to exist nowhere. A later delete before the next freeze leaves no trace.
    pub fn insert(&mut self, key: &[u8], value: &[u8]) {
        self.mutated(digest::INSERT, key, Some(value));
        self.active.insert(key, value);
    }

    /// Adds or replaces a row.
    pub fn put(&mut self, key: &[u8], value: &[u8]) {
        self.mutated(digest::PUT, key, Some(value));
        self.active.put(key, value);
    }

    /// Removes a row; an absent key is fine.
    pub fn delete(&mut self, key: &[u8]) {
        self.mutated(digest::DELETE, key, None);
        let (rotated, frozen, base) = (&self.rotated, &self.frozen, self.base.get_mut());
        self.active.delete(key, || {
            stack::find(older(rotated, frozen), key).is_none() && base.empty.end(key).is_some()
        });
    }

    fn mutated(&mut self, kind: u64, key: &[u8], value: Option<&[u8]>) {
        self.meta.digest = digest::mutation(self.meta.digest, kind, key, value);
        self.changed = true;
        if value.is_some() {
            self.dead.get_mut().cut(key);
        }
    }

    /// Returns the memory of what changed since the last freeze, bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.active.bytes() + self.rotated.iter().map(|at| at.layer.bytes()).sum::<usize>()
    }

    /// Returns the memory of what is frozen, bytes.
    #[must_use]
    pub fn frozen_bytes(&self) -> usize {
        self.frozen.as_ref().map_or(0, Frozen::bytes)
    }

    /// Freezes all changes for a checkpoint, O(1); `None` if nothing changed since the last freeze, or if the rows were
    /// replaced under this store and it waits for [`GroupStore::reset_to_base`].
    ///
    /// # Panics
    /// If something is frozen already: one checkpoint at a time.
    pub fn freeze(&mut self) -> Option<Frozen> {
        if self.is_void() {
            return None;
        }
        assert!(
            self.frozen.is_none(),
            "shard {}: the last checkpoint is neither installed nor abandoned",
            self.group
        );
        if !self.changed {
            return None;
        }
        self.push_active();
        let layers = std::mem::take(&mut self.rotated).into();
        let frozen = Frozen {
            group: self.group,
            generation: self.generation,
            id: self.store.next_id(),
            layers,
            meta: self.meta.clone(),
        };
        self.frozen = Some(frozen.clone());
        self.changed = false;
        Some(frozen)
    }

    /// Switches to the base as it is after a checkpoint, and forgets what was frozen if `done` contains it. Call it on
    /// every group of the host after every checkpoint: a group that keeps an old base makes the file grow.
    pub fn installed(&mut self, done: &Done) {
        let mine = self.frozen.as_ref().map(|frozen| frozen.id);
        if done.frozen.iter().any(|frozen| frozen.group == self.group && Some(frozen.id) == mine) {
            self.frozen = None;
        }
        self.base = RefCell::new(BaseView::new(self.store.current(), self.group));
    }

    /// Takes back what a failed checkpoint did not write; it stays readable and joins the next freeze. A set that was
    /// frozen before [`GroupStore::reset_to_base`] is dropped.
    ///
    /// # Panics
    /// If `frozen` is not what is frozen here.
    #[expect(clippy::needless_pass_by_value, reason = "the frozen set comes home")]
    pub fn abandoned(&mut self, frozen: Frozen) {
        if frozen.generation != self.generation {
            self.base = RefCell::new(BaseView::new(self.store.current(), self.group));
            return;
        }
        let mine = self.frozen.take().expect("abandoned() follows a freeze");
        assert!(mine.id == frozen.id, "shard {}: another frozen set comes back", self.group);
        // The failed commit may have reached the disk all the same, so nothing in it counts as fresh any more.
        let mut layers: Vec<LayerRef> =
            mine.layers.iter().map(|at| LayerRef { doubtful: true, ..at.clone() }).collect();
        layers.append(&mut self.rotated);
        self.rotated = layers;
        // Else a disk that stays full would stack up layers.
        self.settle();
        self.changed = true;
        self.base = RefCell::new(BaseView::new(self.store.current(), self.group));
    }

    /// Starts anew from the base after [`Store::install`] or [`Store::delete_group`]: drops all layers, frozen ones
    /// included, and reads the meta. Applied may jump forward, or back to 0; views of before go on as they are.
    ///
    /// A checkpoint of what was frozen before may still be under way. It cannot harm: the base skips sets of an older
    /// generation, and [`GroupStore::installed`] and [`GroupStore::abandoned`] may be called with it as ever.
    ///
    /// # Errors
    /// As [`Store::group`].
    ///
    /// # Panics
    /// If the group's rows were not replaced since this store was opened or reset: its layers would be lost.
    pub fn reset_to_base(&mut self) -> Result<(), Error> {
        assert!(self.is_void(), "shard {}: nothing replaced the rows, the changes still count", self.group);
        *self = self.store.group(self.group)?;
        Ok(())
    }

    /// Returns whether the rows were replaced under this store.
    fn is_void(&self) -> bool {
        self.store.generation(self.group) != self.generation
    }

    /// Returns a reader of this moment, which later changes do not reach. The writer goes on.
    ///
    /// # Errors
    /// None today; reserved for a base that cannot be read.
    pub fn view(&mut self) -> Result<View, Error> {
        self.push_active();
        self.settle();
        let frozen = self.frozen.iter().flat_map(|frozen| frozen.layers.iter());
        let layers = frozen.chain(&self.rotated).map(|at| Arc::clone(&at.layer)).rev().collect();
        let snapshot = Arc::clone(&self.base.get_mut().snapshot);
        Ok(View::new(self.group, self.meta.clone(), layers, snapshot))
    }

    /// Merges rotated layers until their sizes are geometric.
    fn settle(&mut self) {
        while let [.., older, newer] = &self.rotated[..]
            && newer.layer.len() * ROTATION_RATIO > older.layer.len()
        {
            let newer = self.rotated.pop().expect("two layers matched");
            let older = self.rotated.pop().expect("two layers matched");
            self.rotated.push(older.under(newer));
        }
    }

    fn push_active(&mut self) {
        if self.active.len() > 0 {
            self.rotated.push(LayerRef::new(std::mem::take(&mut self.active)));
        }
    }

    /// Returns all layers, newest first.
    fn layers(&self) -> impl Iterator<Item = &Layer> {
        std::iter::once(&self.active).chain(older(&self.rotated, &self.frozen))
    }

    /// Reads the base; once more if it was opened again meanwhile.
    fn with_base<T>(&self, read: impl Fn(&Snapshot) -> Result<T, Error>) -> Result<T, Error> {
        let snapshot = Arc::clone(&self.base.borrow().snapshot);
        match read(&snapshot) {
            Err(error) => read(&*self.renew(error)?),
            good => good,
        }
    }

    /// Returns the base opened after `error`, or the error. Its content fits below our layers: it is that of the last
    /// checkpoint that was acknowledged, or of the one whose rows are frozen here.
    fn renew(&self, error: Error) -> Result<Arc<Snapshot>, Error> {
        let mut base = self.base.borrow_mut();
        let fresh = self.store.reopened_after(&base.snapshot).ok_or(error)?;
        *base = BaseView::new(Arc::clone(&fresh), self.group);
        Ok(fresh)
    }
}

/// Returns the layers below the active one, newest first.
fn older<'l>(rotated: &'l [LayerRef], frozen: &'l Option<Frozen>) -> impl Iterator<Item = &'l Layer> {
    let frozen = frozen.iter().flat_map(|frozen| frozen.layers.iter().rev());
    rotated.iter().rev().chain(frozen).map(|at| &*at.layer)
}

impl Below for GroupStore {
    fn absent(&self, key: &[u8]) -> bool {
        self.base.borrow().empty.end(key).is_some()
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        self.with_base(|snapshot| snapshot.get(self.group, key))
    }

    fn cursor(&self, from: &[u8], to: Option<&[u8]>) -> Result<Option<Cursor>, Error> {
        let start = match self.base.borrow().empty.end(from) {
            Some(None) => return Ok(None),
            Some(Some(end)) if to.is_some_and(|to| end >= to) => return Ok(None),
            Some(Some(end)) => Some(Key::new(end)),
            None => None,
        };
        let start = start.as_ref().map_or(from, Key::as_slice);
        let cursor = self.with_base(|snapshot| snapshot.cursor(self.group, start))?;
        self.base.borrow_mut().empty.add(start, cursor.key());
        Ok(Some(cursor))
    }

    fn resume(&self, error: Error, key: &[u8]) -> Result<Cursor, Error> {
        self.renew(error)?.cursor(self.group, &[key, &[0]].concat())
    }

    fn dead(&self, from: &[u8], to: Option<&[u8]>) {
        self.dead.borrow_mut().add(from, to);
    }
}
