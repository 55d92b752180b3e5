//! A frozen read of one group: a consistent point that later changes and checkpoints do not reach.
//!
//! # Caveats
//! - A view pins pages of the base and layers in memory: hold it for seconds, not for hours.

use std::borrow::Cow;
use std::sync::Arc;

use z4_types::ShardId;

use crate::base::{Cursor, Snapshot};
use crate::delta::Layer;
use crate::stack::{self, Below};
use crate::{Error, Meta, Visit};

/// One consistent point of a group. `Send`: read it on any thread.
pub struct View {
    group: ShardId,
    meta: Meta,
    /// Newest first.
    layers: Vec<Arc<Layer>>,
    snapshot: Arc<Snapshot>,
}

impl View {
    pub(crate) fn new(group: ShardId, meta: Meta, layers: Vec<Arc<Layer>>, snapshot: Arc<Snapshot>) -> Self {
        Self { group, meta, layers, snapshot }
    }

    /// Returns the group's meta at this point.
    #[must_use]
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// Returns the value of `key`.
    ///
    /// # Errors
    /// `Unavailable` if the base was opened again under the view; `Corrupt` or `Internal` if it cannot be read.
    pub fn get(&self, key: &[u8]) -> Result<Option<Cow<'_, [u8]>>, Error> {
        stack::get(self.layers(), self, key)
    }

    /// Visits the rows with `from <= key < to` in key order, until `visit` returns false.
    ///
    /// # Errors
    /// As [`View::get`].
    pub fn scan(&self, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), Error> {
        stack::scan(self.layers(), self, from, Some(to), visit)
    }

    /// Visits the rows with `from <= key` in key order, until `visit` returns false.
    ///
    /// # Errors
    /// As [`View::get`].
    pub fn scan_to_end(&self, from: &[u8], visit: &mut Visit<'_>) -> Result<(), Error> {
        stack::scan(self.layers(), self, from, None, visit)
    }

    pub(crate) fn group(&self) -> ShardId {
        self.group
    }

    /// Returns the file the view reads, for errors.
    pub(crate) fn file(&self) -> &std::path::Path {
        self.snapshot.health().file()
    }

    /// Returns about how many bytes keys and values have: too many rather than too few, since rows written more than
    /// once since the last checkpoint count as often.
    pub(crate) fn bytes_about(&self) -> u64 {
        self.snapshot.size_of(self.group).bytes
            + self.layers.iter().map(|layer| layer.bytes() as u64).sum::<u64>()
    }

    /// Calls `found(position, value)` for each of the sorted `keys` that exists, in one pass.
    ///
    /// # Errors
    /// As [`View::get`].
    pub fn get_many(&self, keys: &[&[u8]], found: &mut dyn FnMut(usize, &[u8])) -> Result<(), Error> {
        stack::get_many(|| self.layers(), self, keys, found)
    }

    fn layers(&self) -> impl Iterator<Item = &Layer> {
        self.layers.iter().map(|layer| &**layer)
    }

    /// A full disk made the store open the base again: its new state may be newer than this view.
    fn lost(&self, error: Error) -> Error {
        match error {
            Error::Full { file, .. } => Error::ViewLost { file },
            error => error,
        }
    }
}

impl Below for View {
    fn absent(&self, _key: &[u8]) -> bool {
        self.snapshot.rows_of(self.group) == 0
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        self.snapshot.get(self.group, key).map_err(|error| self.lost(error))
    }

    fn cursor(&self, from: &[u8], _to: Option<&[u8]>) -> Result<Option<Cursor>, Error> {
        if self.absent(from) {
            return Ok(None);
        }
        self.snapshot.cursor(self.group, from).map(Some).map_err(|error| self.lost(error))
    }

    fn resume(&self, error: Error, _key: &[u8]) -> Result<Cursor, Error> {
        Err(self.lost(error))
    }

    fn dead(&self, _from: &[u8], _to: Option<&[u8]>) {}
}
