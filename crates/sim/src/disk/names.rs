//! One simulated directory: the names a reader sees, the names that are durable, and the operations between them.
//!
//! Creating, renaming and removing a name changes what readers see at once and is remembered in order. A directory
//! sync makes all of them durable. A crash keeps a prefix of them, as a journalling file system does: a later
//! operation never survives an earlier one of the same directory. Directories do not order each other.
//!
//! # Caveats
//! - ext4 makes the name of a new file durable when the file is synced. POSIX promises no such thing, nor do we.

use std::collections::BTreeMap;

use z4_env::{Rng, SeededRng};

use super::faults::{Counters, Injected};

/// The number of a file, never used twice.
pub(crate) type InodeId = u64;

#[derive(Debug, Clone)]
enum NameOp {
    Link(String, InodeId),
    Rename(String, String),
    Unlink(String),
}

/// One directory. Subdirectories are not names here: making one is durable at once (`Disk::create_dir_all`).
#[derive(Debug, Clone, Default)]
pub(crate) struct Directory {
    now: BTreeMap<String, InodeId>,
    durable: BTreeMap<String, InodeId>,
    /// Invariant: applied to `durable` in order, these give `now`.
    pending: Vec<NameOp>,
}

impl NameOp {
    fn apply(&self, names: &mut BTreeMap<String, InodeId>) {
        match self {
            Self::Link(name, inode) => {
                names.insert(name.clone(), *inode);
            }
            Self::Rename(from, to) => {
                let inode = names.remove(from).expect("a prefix of the operations holds every name they use");
                names.insert(to.clone(), inode);
            }
            Self::Unlink(name) => {
                names.remove(name);
            }
        }
    }
}

impl Directory {
    /// Returns the names a reader sees, sorted, with their files.
    pub(crate) fn names(&self) -> &BTreeMap<String, InodeId> {
        &self.now
    }

    pub(crate) fn link(&mut self, name: &str, inode: InodeId) {
        self.perform(NameOp::Link(name.to_owned(), inode));
    }

    /// Renames; the caller has checked that `from` exists. A name onto itself changes nothing.
    pub(crate) fn rename(&mut self, from: &str, to: &str) {
        if from != to {
            self.perform(NameOp::Rename(from.to_owned(), to.to_owned()));
        }
    }

    pub(crate) fn unlink(&mut self, name: &str) {
        self.perform(NameOp::Unlink(name.to_owned()));
    }

    fn perform(&mut self, op: NameOp) {
        op.apply(&mut self.now);
        self.pending.push(op);
    }

    pub(crate) fn sync(&mut self) {
        for op in self.pending.drain(..) {
            op.apply(&mut self.durable);
        }
        assert_eq!(self.durable, self.now, "synced names are the names readers see");
    }

    /// Keeps a prefix of the pending operations, from none to all.
    pub(crate) fn crash(&mut self, rng: &mut SeededRng, counters: &mut Counters) {
        if !self.pending.is_empty() {
            let kept = rng.below(self.pending.len() as u64 + 1) as usize;
            for (nth, op) in self.pending.drain(..).enumerate() {
                if nth < kept {
                    op.apply(&mut self.durable);
                    counters.fired(Injected::NameKept);
                } else {
                    counters.fired(Injected::NameLost);
                }
            }
        }
        self.now.clone_from(&self.durable);
    }

    /// Returns whether a reader or a crash could still reach `inode` through this directory.
    pub(crate) fn reaches(&self, inode: InodeId) -> bool {
        self.now.values().chain(self.durable.values()).any(|named| *named == inode)
            || self.pending.iter().any(|op| matches!(op, NameOp::Link(_, linked) if *linked == inode))
    }
}
