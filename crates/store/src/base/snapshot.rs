//! Reading the base as it was at one commit.
//!
//! # Caveats
//! - A snapshot pins the pages its commit used: the file grows while one is held across checkpoints.

use std::collections::BTreeMap;
use std::sync::Arc;

use redb::{AccessGuard, ReadOnlyTable, ReadTransaction, ReadableTable};
use z4_types::ShardId;

use super::{Bytes, GROUP_BYTES, GROUPS, Health, ROWS, row_key};
use crate::Error;
use crate::meta::{Meta, Size, Undecodable, decode_meta};

/// The base at one commit. Shared by all readers of that commit.
pub(crate) struct Snapshot {
    rows: ReadOnlyTable<Bytes, Bytes>,
    groups: BTreeMap<ShardId, (Meta, Size)>,
    health: Arc<Health>,
}

impl Snapshot {
    pub(crate) fn new(transaction: &ReadTransaction, health: Arc<Health>) -> Result<Self, Error> {
        let rows = transaction.open_table(ROWS).map_err(|error| health.database(error))?;
        let table = transaction.open_table(GROUPS).map_err(|error| health.database(error))?;
        let mut groups = BTreeMap::new();
        for row in table.iter().map_err(|error| health.database(error))? {
            let (group, bytes) = row.map_err(|error| health.database(error))?;
            let group = ShardId(group.value());
            let meta = decode_meta(bytes.value())
                .map_err(|why| undecodable(&health, why, &format!("meta of shard {group}")))?;
            groups.insert(group, meta);
        }
        Ok(Self { rows, groups, health })
    }

    pub(crate) fn groups(&self) -> &BTreeMap<ShardId, (Meta, Size)> {
        &self.groups
    }

    pub(crate) fn size_of(&self, group: ShardId) -> Size {
        self.groups.get(&group).map(|(_, size)| *size).unwrap_or_default()
    }

    pub(crate) fn rows_of(&self, group: ShardId) -> u64 {
        self.size_of(group).rows
    }

    pub(crate) fn health(&self) -> &Arc<Health> {
        &self.health
    }

    pub(crate) fn get(&self, group: ShardId, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let key = row_key(group.0, key);
        let value =
            ReadOnlyTable::get(&self.rows, key.as_slice()).map_err(|error| self.health.database(error))?;
        Ok(value.map(|value| value.value().to_vec()))
    }

    /// Returns a cursor at the first row of `group` not before `from`.
    pub(crate) fn cursor(&self, group: ShardId, from: &[u8]) -> Result<Cursor, Error> {
        let from = row_key(group.0, from);
        let rows = match group.0.checked_add(1) {
            Some(next) => self.rows.range::<&[u8]>(from.as_slice()..next.to_be_bytes().as_slice()),
            None => self.rows.range::<&[u8]>(from.as_slice()..),
        };
        let rows = rows.map_err(|error| self.health.database(error))?;
        let mut cursor = Cursor { rows, row: None, health: Arc::clone(&self.health) };
        cursor.advance()?;
        Ok(cursor)
    }
}

/// Reports a record that does not decode.
fn undecodable(health: &Health, why: Undecodable, what: &str) -> Error {
    match why {
        Undecodable::Newer(version) => {
            let supported = u32::from(crate::meta::RECORD_VERSION);
            Error::NewerFormat { file: health.file().clone(), found: version.into(), supported }
        }
        Undecodable::Malformed => health.corrupt(format!("the {what} does not decode")),
    }
}

/// Walks the rows of one group upwards, to the group's end.
pub(crate) struct Cursor {
    rows: redb::Range<'static, Bytes, Bytes>,
    row: Option<(AccessGuard<'static, Bytes>, AccessGuard<'static, Bytes>)>,
    health: Arc<Health>,
}

impl Cursor {
    /// Returns the key (without group) under the cursor, `None` at the end.
    #[inline]
    pub(crate) fn key(&self) -> Option<&[u8]> {
        self.row.as_ref().map(|(key, _)| &key.value()[GROUP_BYTES..])
    }

    /// Returns the value under the cursor; empty at the end.
    #[inline]
    pub(crate) fn value(&self) -> &[u8] {
        self.row.as_ref().map_or(&[], |(_, value)| value.value())
    }

    /// Moves to the next row. After an error the cursor stands where it stood.
    pub(crate) fn advance(&mut self) -> Result<(), Error> {
        match self.rows.next() {
            None => self.row = None,
            Some(Ok(row)) => self.row = Some(row),
            Some(Err(error)) => return Err(self.health.database(error)),
        }
        Ok(())
    }
}
