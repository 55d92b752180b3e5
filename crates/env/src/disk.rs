//! Files and directories, with exactly the durability rules of a POSIX disk.
//!
//! What is written is durable after [`File::sync_data`]; a created, renamed or removed name is durable after
//! [`Disk::sync_dir`] of its directory. A crash may keep, lose or tear every 512-byte sector in between. A failed
//! sync means the data is lost and must never be retried (Rebello et al., ATC 2020): callers end the process.

use std::io;
use std::path::Path;
use std::sync::Arc;

mod real;
pub use real::RealDisk;

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// Read only; the file must exist.
    Read,
    /// Read and write; the file must exist.
    Write,
    /// Read and write; the file must not exist.
    CreateNew,
    /// Read and write; created if missing.
    CreateOrOpen,
}

/// One open file. All calls take `&self`: positions are explicit.
#[expect(clippy::len_without_is_empty, reason = "a length may fail to be read; it is no collection")]
pub trait File: Send + Sync {
    /// Fills `buffer` from `offset`.
    ///
    /// # Errors
    /// `UnexpectedEof` if the file ends before the buffer is full; any error of the system.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
    /// Writes all of `data` at `offset`, growing the file if needed. Not durable before a sync.
    ///
    /// # Errors
    /// Any error of the system; the range written is then undefined.
    fn write_all_at(&self, data: &[u8], offset: u64) -> io::Result<()>;
    /// Makes data and length durable (fdatasync).
    ///
    /// # Errors
    /// Any error of the system. The caller must treat unsynced data as lost.
    fn sync_data(&self) -> io::Result<()>;
    /// Returns the length in bytes.
    ///
    /// # Errors
    /// Any error of the system.
    fn len(&self) -> io::Result<u64>;
    /// Cuts or extends (with zeros) to `len` bytes.
    ///
    /// # Errors
    /// Any error of the system.
    fn set_len(&self, len: u64) -> io::Result<()>;
}

/// Held while a process owns a data directory; dropping it frees the directory.
pub trait DirLock: Send + Sync {}

/// A tree of directories and files.
pub trait Disk: Send + Sync {
    /// Opens a file.
    ///
    /// # Errors
    /// `NotFound`, `AlreadyExists`, or any error of the system.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>>;
    /// Creates a directory and its parents, and makes their names durable.
    ///
    /// # Errors
    /// Any error of the system.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Returns the names in a directory, sorted. A missing directory is `NotFound`.
    ///
    /// # Errors
    /// Any error of the system.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Renames a file, replacing any at `to`. Durable after `sync_dir`.
    ///
    /// # Errors
    /// Any error of the system.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file. Durable after `sync_dir`.
    ///
    /// # Errors
    /// Any error of the system.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in `dir` durable.
    ///
    /// # Errors
    /// Any error of the system.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Returns whether `path` exists.
    ///
    /// # Errors
    /// Any error of the system.
    fn exists(&self, path: &Path) -> io::Result<bool>;
    /// Returns the bytes an ordinary user may still write below `path`.
    ///
    /// # Errors
    /// Any error of the system.
    fn free_bytes(&self, path: &Path) -> io::Result<u64>;
    /// Takes the exclusive lock `LOCK` of `dir`. The lock ends with the process, however it ends.
    ///
    /// # Errors
    /// `WouldBlock` if another process holds it.
    fn lock_dir(&self, dir: &Path) -> io::Result<Box<dyn DirLock>>;
}
