//! A machine that never restarts: it applies what the log says, in memory, once.
//!
//! Hosts restart, load their rows, and rebuild what they keep in memory; the twin never does. So its outcomes are what was
//! decided at each place of the log, and its rows are what every replica must hold at the same index, byte for byte.
//! What a restart forgets, a single host shows nobody else; here it shows.
//!
//! # Not here
//! - Whether what was decided keeps the promises: `judge.rs`, which does not trust this machine either.

use z4_tasks::outcome::Outcome;
use z4_tasks::{Machine, MemoryStore, Read, decode_entry};
use z4_types::{Entry, Index, ShardId};

use super::judge::Judge;
use crate::checks::{Checked, Violation, ensure};
use crate::report::Reached;

/// Behind every key of the rows of tasks.
const END: &[u8] = &[0xff];

/// See the module essay.
pub struct Twin {
    shard: ShardId,
    machine: Machine,
    store: MemoryStore,
    applied: Index,
    /// What the log's promises are held against.
    pub judge: Judge,
}

impl Twin {
    /// Returns the twin of a shard that has no entry yet.
    #[must_use]
    pub fn new(shard: ShardId) -> Self {
        let store = MemoryStore::new();
        let machine = Machine::open(shard, &store).expect("an empty store is a new shard");
        Self { shard, machine, store, applied: Index(0), judge: Judge::default() }
    }

    /// Applies an entry and judges it. Returns its outcomes.
    ///
    /// # Errors
    /// The first promise it breaks.
    pub fn apply(&mut self, entry: &Entry, reached: &mut Reached) -> Result<Vec<Outcome>, Violation> {
        let fault = |fault: z4_tasks::Fault| Violation::new("STATE", fault.what);
        let (stamp, commands) = decode_entry(&entry.data).map_err(fault)?;
        let outcomes = self.machine.apply(&mut self.store, &entry.data).map_err(fault)?;
        self.machine.take_touched().for_each(drop);
        self.applied = entry.index;
        let judged = self.judge.entry(&self.machine, &self.store, (stamp, &commands), &outcomes, reached);
        judged.map(|()| outcomes).map_err(|violation| {
            let what = format!("entry {} of shard {}: {}", entry.index, self.shard, violation.what);
            Violation::new(violation.promise, what)
        })
    }

    /// Compares the rows of a replica that has applied `applied` with the twin's, if that stands there too.
    ///
    /// # Errors
    /// P11 with the first row that differs. Storage errors are the caller's to judge.
    pub fn compare(&self, rows: &dyn Read, applied: Index) -> Result<Checked, z4_tasks::Fault> {
        if applied != self.applied {
            return Ok(Ok(()));
        }
        let (mut theirs, mut ours) = (Vec::new(), Vec::new());
        rows.scan(&[], END, &mut |key, value| {
            theirs.push((key.to_vec(), value.to_vec()));
            true
        })?;
        self.store.scan(&[], END, &mut |key, value| {
            ours.push((key.to_vec(), value.to_vec()));
            true
        })?;
        if theirs == ours {
            return Ok(Ok(()));
        }
        let at = theirs.iter().zip(&ours).take_while(|(a, b)| a == b).count();
        let show =
            |rows: &[(Vec<u8>, Vec<u8>)]| rows.get(at).map(|(key, value)| format!("{key:x?} = {value:x?}"));
        Ok(Err(Violation::new(
            "P11",
            format!(
                "shard {} at entry {applied}: row {at} is {:?}; on a machine that never restarted it is {:?}",
                self.shard,
                show(&theirs),
                show(&ours)
            ),
        )))
    }

    /// Walks the twin's own rows.
    ///
    /// # Errors
    /// STATE.
    pub fn check(&mut self) -> Checked {
        let wrong = self.machine.check(&self.store);
        ensure!(wrong.is_ok(), "STATE", "shard {}, twin: {wrong:?}", self.shard);
        self.judge.check_all(&self.machine, &self.store)
    }
}
