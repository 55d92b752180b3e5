//! Replacing or removing all rows of one group, in one durable commit.

use redb::WriteTransaction;
use z4_types::ShardId;

use super::write::{RowWriter, Rows, begin};
use super::{Base, GROUPS, Health, ROWS};
use crate::Error;
use crate::merge::Amount;
use crate::meta::{Meta, Size, encode_meta};

/// Where the new rows of a group go while it is replaced.
pub(crate) struct RowSink<'s, 't> {
    table: &'s mut Rows<'t>,
    writer: RowWriter,
    health: &'s Health,
}

impl RowSink<'_, '_> {
    /// Adds rows, ascending and above those of the last call.
    ///
    /// # Errors
    /// `Overloaded` if the disk is full; `Corrupt` or `Internal` otherwise.
    pub(crate) fn insert<'r>(
        &mut self,
        rows: impl Iterator<Item = (&'r [u8], &'r [u8])>,
    ) -> Result<(), Error> {
        let words = rows.map(|(key, value)| (key, Amount::Insert(value)));
        self.writer.all(self.table, words).map_err(|error| self.health.database(error))
    }
}

impl Base {
    /// Replaces the rows of `group` by what `fill` inserts, and its meta, durably. If `fill` fails nothing happens. Memory
    /// is bounded by the cache: pages that do not fit go to free parts of the file before the commit.
    pub(crate) fn replace(
        &self,
        group: ShardId,
        meta: &Meta,
        old: Size,
        fill: impl FnOnce(&mut RowSink<'_, '_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let health = self.health();
        let transaction = begin(&self.db, health)?;
        {
            let size = clear(&transaction, group, old, health)?;
            let mut table = transaction.open_table(ROWS).map_err(|error| health.database(error))?;
            let mut sink = RowSink { table: &mut table, writer: RowWriter::new(group, size), health };
            fill(&mut sink)?;
            let record = encode_meta(meta, sink.writer.size);
            let mut metas = transaction.open_table(GROUPS).map_err(|error| health.database(error))?;
            metas.insert(group.0, record.as_slice()).map_err(|error| health.database(error))?;
        }
        transaction.commit().map_err(|error| health.database(error))
    }

    /// Removes a group's rows and meta durably.
    pub(crate) fn remove_group(&self, group: ShardId) -> Result<(), Error> {
        let health = self.health();
        let transaction = begin(&self.db, health)?;
        {
            remove_rows(&transaction, group, health)?;
            let mut metas = transaction.open_table(GROUPS).map_err(|error| health.database(error))?;
            metas.remove(group.0).map_err(|error| health.database(error))?;
        }
        transaction.commit().map_err(|error| health.database(error))
    }
}

/// Makes room for a group's new rows and returns the size of what is left.
#[cfg(not(feature = "bug-snapshot-keeps-old-rows"))]
fn clear(transaction: &WriteTransaction, group: ShardId, _old: Size, health: &Health) -> Result<Size, Error> {
    remove_rows(transaction, group, health)?;
    Ok(Size::default())
}

/// Planted bug: rows the snapshot does not mention stay.
#[cfg(feature = "bug-snapshot-keeps-old-rows")]
fn clear(
    _transaction: &WriteTransaction,
    _group: ShardId,
    old: Size,
    _health: &Health,
) -> Result<Size, Error> {
    Ok(old)
}

fn remove_rows(transaction: &WriteTransaction, group: ShardId, health: &Health) -> Result<(), Error> {
    let mut rows = transaction.open_table(ROWS).map_err(|error| health.database(error))?;
    let from = group.0.to_be_bytes();
    let removed = match group.0.checked_add(1) {
        Some(next) => rows.retain_in::<&[u8], _>(&from[..]..&next.to_be_bytes()[..], |_, _| false),
        None => rows.retain_in::<&[u8], _>(&from[..].., |_, _| false),
    };
    removed.map_err(|error| health.database(error))
}
