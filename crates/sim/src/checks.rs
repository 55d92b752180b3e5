//! Violations, and the checks that need no model: equal indexes show equal digests, and nothing ever goes back.
//!
//! Ids are those of the promises: P1 durable before visible · P2 never early · P3 one lease · P4 delivered until ended ·
//! P5 never after its ack · P6 one request, one task · P8 nothing lost, or a refusal that names the damage ·
//! P11 equal digests, equal rows · C5 term, commit and applied never regress · D2 what failed never appears · T1 no phantom, and
//! each task as pushed · T10 delivered in order · LIVE it goes on · STATE the rows contradict each other · FAULT the host ended
//! or refused without a reason · PANIC.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use z4_host::{HostMachine, RowsRef};
use z4_multiraft::{DigestWatch, Driver, GroupStatus};
use z4_types::{Index, ShardId, Term};

use crate::lively::Tap;

/// A broken promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which, as listed in the module essay.
    pub promise: &'static str,
    /// What was seen.
    pub what: String,
}

impl Violation {
    /// Returns the violation of `promise` by `what`.
    pub fn new(promise: &'static str, what: impl Into<String>) -> Self {
        Self { promise, what: what.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.promise, self.what)
    }
}

/// What a check answers.
pub type Checked = Result<(), Violation>;

/// Returns from the function with a violation unless the condition holds.
macro_rules! ensure {
    ($holds:expr, $promise:literal, $($text:tt)*) => {
        if !$holds {
            return Err($crate::checks::Violation::new($promise, format!($($text)*)));
        }
    };
}
pub(crate) use ensure;

/// The digest after every entry ever applied, of all groups (P11). Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Digests {
    seen: Arc<Mutex<Seen>>,
    /// Hears of every entry that is learnt.
    pub tap: Tap,
}

#[derive(Debug, Default)]
struct Seen {
    by_index: BTreeMap<(ShardId, Index), u64>,
    repeated: u64,
    wrong: Option<Violation>,
}

impl Digests {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns a watch that compares what it is told with all that was seen, and adds to it if `learn`.
    #[must_use]
    pub fn watch(&self, learn: bool) -> DigestWatch {
        let shared = self.clone();
        Box::new(move |shard, entry, digest| {
            let index = entry.index;
            if learn {
                shared.tap.see(shard, entry);
            }
            let seen = &mut *shared.seen();
            match seen.by_index.get(&(shard, index)) {
                Some(first) if *first == digest => seen.repeated += 1,
                Some(first) => {
                    let what = format!(
                        "shard {shard}, entry {index}: digest {digest:016x}, was {first:016x} before"
                    );
                    seen.wrong.get_or_insert(Violation::new("P11", what));
                }
                None if learn => drop(seen.by_index.insert((shard, index), digest)),
                None => {}
            }
        })
    }

    /// Returns how many entries were applied again, with the same digest.
    #[must_use]
    pub fn repeated(&self) -> u64 {
        self.seen().repeated
    }

    /// Returns how many different entries were applied.
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.seen().by_index.len() as u64
    }

    /// Returns the last entry of `shard` that was applied.
    #[must_use]
    pub fn last(&self, shard: ShardId) -> Index {
        let seen = self.seen();
        let last = seen.by_index.range((shard, Index(0))..=(shard, Index(u64::MAX))).next_back();
        last.map_or(Index(0), |((_, index), _)| *index)
    }

    /// Fails if two digests of one entry differed.
    ///
    /// # Errors
    /// P11.
    pub fn check(&self) -> Checked {
        self.seen().wrong.clone().map_or(Ok(()), Err)
    }
}

/// The furthest each group has come (C5).
#[derive(Debug, Clone, Default)]
pub struct Progress(BTreeMap<ShardId, (Term, Index, Index)>);

impl Progress {
    /// Compares with what was seen before. `recovered` says that replay is over: before that, the indexes of a new
    /// life may lag those of the last.
    ///
    /// # Errors
    /// C5.
    pub fn check(&mut self, groups: &[GroupStatus], recovered: bool) -> Checked {
        for group in groups {
            let seen = self.0.entry(group.shard).or_default();
            let shard = group.shard;
            ensure!(
                group.applied <= group.commit && group.commit <= group.last && group.durable <= group.applied,
                "C5",
                "shard {shard}: durable {} <= applied {} <= commit {} <= last {} does not hold",
                group.durable,
                group.applied,
                group.commit,
                group.last
            );
            ensure!(
                group.term >= seen.0,
                "C5",
                "shard {shard}: the term went from {} to {}",
                seen.0,
                group.term
            );
            seen.0 = group.term;
            if !recovered {
                continue;
            }
            ensure!(
                group.commit >= seen.1,
                "C5",
                "shard {shard}: the commit index went from {} to {}",
                seen.1,
                group.commit
            );
            ensure!(
                group.applied >= seen.2,
                "C5",
                "shard {shard}: the applied index went from {} to {}",
                seen.2,
                group.applied
            );
            (seen.1, seen.2) = (group.commit, group.applied);
        }
        Ok(())
    }
}

/// Walks all rows of all task shards and compares them with each other and with memory.
///
/// # Errors
/// The first contradiction, in words.
pub fn check_machines(driver: &mut Driver<HostMachine>) -> Result<(), String> {
    let mut wrong = Ok(());
    driver.for_each(|shard, machine, store| {
        if let HostMachine::Tasks(tasks) = machine
            && wrong.is_ok()
        {
            wrong = tasks.machine().check(&RowsRef(store)).map_err(|what| format!("shard {shard}: {what}"));
        }
    });
    wrong
}
