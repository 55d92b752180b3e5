//! Checkpoints: the changes of several groups in one durable commit.
//!
//! Every commit is two-phase and records redb's allocator state, so that opening after a crash reads a few pages and
//! never walks the trees. Rows arrive sorted; where they extend a gap of the tree (new bodies at the right edge) they
//! go in through a cursor that builds whole leaves, elsewhere (schedule rows all over) through plain inserts.

use std::collections::BTreeMap;
use std::iter::Peekable;
use std::ops::Bound;

use redb::{CursorError, Database, Durability, Table, WriteTransaction};
use z4_types::ShardId;

use super::{Base, Bytes, GROUP_BYTES, GROUPS, Health, ROWS};
use crate::Error;
use crate::delta::LayerRef;
use crate::merge::{Amount, amounts};
use crate::meta::{Meta, Size, encode_meta};

/// A cursor run shorter than this cost more than plain inserts.
const RUN_MIN: usize = 8;
/// Most plain inserts before a cursor is tried again.
const PLAIN_MAX: usize = 4096;

/// What a checkpoint writes of one group.
pub(crate) struct GroupRows<'f> {
    pub(crate) group: ShardId,
    pub(crate) layers: &'f [LayerRef],
    pub(crate) meta: &'f Meta,
}

/// What a checkpoint did.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct WriteOutcome {
    /// Rows inserted, replaced or removed.
    pub(crate) rows: u64,
}

/// Makes the tables of an empty base.
pub(super) fn create_tables(db: &Database, health: &Health) -> Result<(), Error> {
    let transaction = begin(db, health)?;
    transaction.open_table(ROWS).map_err(|error| health.database(error))?;
    transaction.open_table(GROUPS).map_err(|error| health.database(error))?;
    transaction.commit().map_err(|error| health.database(error))
}

pub(super) fn begin(db: &Database, health: &Health) -> Result<WriteTransaction, Error> {
    let mut transaction = db.begin_write().map_err(|error| health.database(error))?;
    transaction.set_durability(Durability::Immediate).map_err(|error| health.database(error))?;
    transaction.set_quick_repair(true);
    Ok(transaction)
}

impl Base {
    /// Writes the rows and metas of `groups` in one durable commit. `sizes` are those of the last commit.
    pub(crate) fn write(
        &self,
        groups: &[GroupRows<'_>],
        sizes: impl Fn(ShardId) -> Size,
    ) -> Result<WriteOutcome, Error> {
        let health = self.health();
        let transaction = begin(&self.db, health)?;
        let mut outcome = WriteOutcome::default();
        {
            let mut table = transaction.open_table(ROWS).map_err(|error| health.database(error))?;
            let mut metas = transaction.open_table(GROUPS).map_err(|error| health.database(error))?;
            let mut sorted: Vec<_> = groups.iter().collect();
            sorted.sort_by_key(|rows| rows.group);
            assert!(
                sorted.windows(2).all(|two| two[0].group != two[1].group),
                "one frozen set a group and checkpoint"
            );
            for rows in sorted {
                let mut writer = RowWriter::new(rows.group, sizes(rows.group));
                writer.all(&mut table, amounts(rows.layers)).map_err(|error| health.database(error))?;
                outcome.rows += writer.changed;
                let meta = encode_meta(&meta_to_write(rows.meta), writer.size);
                metas.insert(rows.group.0, meta.as_slice()).map_err(|error| health.database(error))?;
            }
        }
        transaction.commit().map_err(|error| health.database(error))?;
        Ok(outcome)
    }
}

#[cfg(not(feature = "bug-applied-not-in-checkpoint"))]
fn meta_to_write(meta: &Meta) -> Meta {
    meta.clone()
}

/// Planted bug: claims an entry whose rows are not here, so that replay after a restart skips it.
#[cfg(feature = "bug-applied-not-in-checkpoint")]
fn meta_to_write(meta: &Meta) -> Meta {
    Meta { applied: meta.applied.next(), ..meta.clone() }
}

/// Writes the rows of one group and keeps count.
pub(super) struct RowWriter {
    key: Vec<u8>,
    /// Of the group's rows so far.
    pub(super) size: Size,
    changed: u64,
    /// Plain inserts left before a cursor is tried again, and how many there were the last time.
    plain: usize,
    backoff: usize,
}

pub(super) type Rows<'t> = Table<'t, Bytes, Bytes>;

impl RowWriter {
    pub(super) fn new(group: ShardId, size: Size) -> Self {
        Self { key: group.0.to_be_bytes().to_vec(), size, changed: 0, plain: 0, backoff: 0 }
    }

    fn set_key(&mut self, key: &[u8]) {
        self.key.truncate(GROUP_BYTES);
        self.key.extend_from_slice(key);
    }

    /// Writes `words`, which ascend.
    pub(super) fn all<'l>(
        &mut self,
        table: &mut Rows<'_>,
        words: impl Iterator<Item = (&'l [u8], Amount<'l>)>,
    ) -> Result<(), redb::Error> {
        let mut words = words.peekable();
        while let Some((key, amount)) = words.peek() {
            if matches!(amount, Amount::Insert(_)) && self.plain == 0 {
                self.run(table, &mut words)?;
                continue;
            }
            self.plain = self.plain.saturating_sub(1);
            self.set_key(key);
            match amount {
                Amount::Insert(value) | Amount::Put(value) => self.put(table, value)?,
                Amount::Remove => self.remove(table)?,
            }
            words.next();
        }
        Ok(())
    }

    fn put(&mut self, table: &mut Rows<'_>, value: &[u8]) -> Result<(), redb::Error> {
        let old = table.insert(self.key.as_slice(), value)?.map(|old| old.value().len() as u64);
        self.added(value.len());
        if let Some(old) = old {
            self.size.rows -= 1;
            self.size.bytes -= self.key.len() as u64 + old;
        }
        Ok(())
    }

    fn added(&mut self, value_bytes: usize) {
        self.changed += 1;
        self.size.rows += 1;
        self.size.bytes += (self.key.len() + value_bytes) as u64;
    }

    fn remove(&mut self, table: &mut Rows<'_>) -> Result<(), redb::Error> {
        if let Some(old) = table.remove(self.key.as_slice())?.map(|old| old.value().len() as u64) {
            self.changed += 1;
            self.size.rows -= 1;
            self.size.bytes -= self.key.len() as u64 + old;
        }
        Ok(())
    }

    /// Inserts new rows while they fall into one gap of the tree; at least one row, by a plain insert if need be.
    fn run<'l>(
        &mut self,
        table: &mut Rows<'_>,
        words: &mut Peekable<impl Iterator<Item = (&'l [u8], Amount<'l>)>>,
    ) -> Result<(), redb::Error> {
        let mut inserted = 0;
        {
            let first = words.peek().map(|(key, _)| *key).expect("the caller peeked");
            self.set_key(first);
            let mut cursor = table.lower_bound_mut(Bound::Included(self.key.as_slice()))?;
            while let Some((key, Amount::Insert(value))) = words.peek() {
                self.set_key(key);
                match cursor.insert_before(self.key.as_slice(), *value) {
                    Ok(()) => self.added(value.len()),
                    Err(CursorError::UnorderedKey) => break,
                    Err(CursorError::Storage(error)) => return Err(error.into()),
                    Err(error) => return Err(redb::Error::Corrupted(error.to_string())),
                }
                words.next();
                inserted += 1;
            }
            cursor.close()?;
        }
        if inserted < RUN_MIN {
            self.backoff = (2 * self.backoff).clamp(2 * RUN_MIN, PLAIN_MAX);
            self.plain = self.backoff;
        } else {
            self.backoff = 0;
        }
        Ok(())
    }
}

/// Sizes of the groups in the base, for estimates.
pub(crate) fn live_bytes(groups: &BTreeMap<ShardId, (Meta, Size)>) -> u64 {
    groups.values().map(|(_, size)| size.bytes).sum()
}
