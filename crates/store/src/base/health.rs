//! What first went wrong below redb. redb reports "a previous I/O error" ever after; this remembers which.

use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use crate::Error;

/// The state of one open base file. The gravest failure is kept: corruption, sync, any other I/O, disk full.
#[derive(Debug)]
pub(crate) struct Health {
    file: PathBuf,
    failure: Mutex<Option<Error>>,
}

fn gravity(error: &Error) -> u8 {
    match error {
        Error::Corrupt { .. } => 4,
        Error::SyncFailed { .. } => 3,
        Error::Full { .. } => 1,
        _ => 2,
    }
}

impl Health {
    pub(crate) fn new(file: PathBuf) -> Self {
        Self { file, failure: Mutex::new(None) }
    }

    pub(crate) fn file(&self) -> &PathBuf {
        &self.file
    }

    /// Returns what went wrong so far.
    pub(crate) fn failure(&self) -> Option<Error> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn record(&self, error: Error) -> Error {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        if failure.as_ref().is_none_or(|known| gravity(known) < gravity(&error)) {
            *failure = Some(error.clone());
        }
        error
    }

    pub(crate) fn corrupt(&self, detail: String) -> Error {
        self.record(Error::Corrupt { file: self.file.clone(), detail })
    }

    pub(crate) fn sync(&self, error: &io::Error) -> Error {
        self.record(Error::SyncFailed { file: self.file.clone(), detail: error.to_string() })
    }

    pub(crate) fn io(&self, error: &io::Error) -> Error {
        let (file, detail) = (self.file.clone(), error.to_string());
        self.record(match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::Full { file, detail },
            // We only read below the known length: an end of file there means the file was cut.
            io::ErrorKind::UnexpectedEof => Error::Corrupt { file, detail: "the file ends too early".into() },
            _ => Error::Io { file, detail },
        })
    }

    /// Translates an error of redb: what failed below it if anything did, redb's own word otherwise.
    pub(crate) fn database(&self, error: impl Into<redb::Error>) -> Error {
        let file = self.file.clone();
        match error.into() {
            redb::Error::Corrupted(detail) => self.corrupt(detail),
            error @ (redb::Error::Io(_) | redb::Error::PreviousIo | redb::Error::DatabaseClosed) => {
                self.failure().unwrap_or_else(|| Error::Internal { file, detail: error.to_string() })
            }
            error => self.failure().unwrap_or_else(|| Error::Internal { file, detail: error.to_string() }),
        }
    }
}
