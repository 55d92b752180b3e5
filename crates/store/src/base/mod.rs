//! The base: one redb database in a checksummed container, the only place that names redb.
//!
//! Opening makes a new base under another name and renames it when complete, so a crash leaves either none or a whole
//! one. A failed write poisons a redb database; after a full disk the [`Base`] is opened again, at its last commit.
//!
//! # Not here
//! - What a commit contains: `write` and `replace`. What readers hold: `snapshot`. Checksums: `container`.
//!
//! Sources: redb 4.4, `docs/design.md` and `src/tree_store/page_store/{header,page_manager}.rs`.

mod container;
mod health;
mod replace;
mod snapshot;
mod write;

use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::{Database, ReadableDatabase, TableDefinition};
use z4_env::{Disk, OpenMode};

use crate::Error;
use container::Container;
pub(crate) use health::Health;
pub(crate) use snapshot::{Cursor, Snapshot};
pub(crate) use write::{GroupRows, live_bytes};

/// Name of the base in the data directory.
const FILE: &str = "base.redb";
/// Name under which a new base is made.
const FILE_NEW: &str = "base.redb.new";

type Bytes = &'static [u8];
const ROWS: TableDefinition<'static, Bytes, Bytes> = TableDefinition::new("rows");
const GROUPS: TableDefinition<'static, u32, Bytes> = TableDefinition::new("groups");

/// One open database. Dropping it closes the file cleanly, unless it failed.
pub(crate) struct Base {
    db: Database,
    container: Container,
    health: Arc<Health>,
}

impl Base {
    /// Opens the base in `dir`, which exists, making an empty one if there is none.
    ///
    /// # Errors
    /// `Corrupt`, `NewerFormat`, or any error of the disk.
    pub(crate) fn open(disk: &dyn Disk, dir: &Path, cache_bytes: usize) -> Result<Self, Error> {
        let path = dir.join(FILE);
        let io = |error: std::io::Error| Health::new(path.clone()).io(&error);
        if !disk.exists(&path).map_err(io)? {
            Self::create(disk, dir, &path, cache_bytes)?;
        }
        let file = disk.open(&path, OpenMode::Write).map_err(io)?;
        let health = Arc::new(Health::new(path));
        let container = Container::open(file, Arc::clone(&health))?;
        let db = Self::database(&container, &health, cache_bytes)?;
        Ok(Self { db, container, health })
    }

    fn create(disk: &dyn Disk, dir: &Path, path: &Path, cache_bytes: usize) -> Result<(), Error> {
        let making = dir.join(FILE_NEW);
        let health = Arc::new(Health::new(making.clone()));
        let io = |error: std::io::Error| health.io(&error);
        let file = disk.open(&making, OpenMode::CreateOrOpen).map_err(io)?;
        let container = Container::create(Arc::clone(&file), Arc::clone(&health))?;
        let db = Self::database(&container, &health, cache_bytes)?;
        write::create_tables(&db, &health)?;
        drop(db);
        file.sync_data().map_err(|error| health.sync(&error))?;
        disk.rename(&making, path).map_err(io)?;
        disk.sync_dir(dir).map_err(|error| health.sync(&error))
    }

    /// Lets redb open the container. Its pages are verified before redb parses them, yet no panic of it may escape: a
    /// base that cannot be opened is an answer for the operator, not a backtrace.
    fn database(container: &Container, health: &Health, cache_bytes: usize) -> Result<Database, Error> {
        let container = container.clone();
        let open = move || {
            Database::builder()
                .set_cache_size(cache_bytes)
                .set_repair_callback(|session| {
                    tracing::warn!(
                        progress = session.progress(),
                        "rebuilding the allocator state of the base"
                    );
                })
                .create_with_backend(container)
        };
        match std::panic::catch_unwind(AssertUnwindSafe(open)) {
            Ok(opened) => opened.map_err(|error| health.database(error)),
            Err(_) => Err(health.corrupt("the database cannot be parsed".into())),
        }
    }

    /// Returns a reader of what is committed now.
    pub(crate) fn snapshot(&self) -> Result<Snapshot, Error> {
        let transaction = self.db.begin_read().map_err(|error| self.health.database(error))?;
        Snapshot::new(&transaction, Arc::clone(&self.health))
    }

    pub(crate) fn health(&self) -> &Arc<Health> {
        &self.health
    }

    /// Returns the length of the file, bytes.
    pub(crate) fn file_bytes(&self) -> Result<u64, Error> {
        self.container.file_bytes()
    }
}

/// Returns the path of the base in `dir`.
pub(crate) fn path(dir: &Path) -> PathBuf {
    dir.join(FILE)
}

/// Returns `key` of `group` as the base stores it.
pub(crate) fn row_key(group: u32, key: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(GROUP_BYTES + key.len());
    bytes.extend_from_slice(&group.to_be_bytes());
    bytes.extend_from_slice(key);
    bytes
}

/// Bytes the group takes at the head of each key.
pub(crate) const GROUP_BYTES: usize = 4;
