//! What clients were told, held against the log: every answer stands there, and nothing does that certainly failed.
//!
//! A command is known by its bytes. An answer that was given is that of one of the commands in the log that have these bytes,
//! each of which answers once (P1); there are at most as many of them as were sent and did not certainly fail (D2).
//! A delivery is known by its lease.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use z4_tasks::outcome::Outcome;
use z4_types::{Millis, ShardId, TaskId, Token};

use super::twin::Twin;
use crate::checks::{Checked, ensure};

/// What became of the calls with the same bytes.
#[derive(Debug, Default)]
struct Calls {
    /// Sent, and not certainly failed.
    possible: usize,
    told: Vec<Outcome>,
    logged: Vec<Outcome>,
}

/// See the module essay.
#[derive(Debug, Default)]
pub struct Ledger {
    calls: BTreeMap<(ShardId, Bytes), Calls>,
    delivered: BTreeMap<(ShardId, Token), (TaskId, Millis)>,
    /// Answers that were held against the log.
    pub told: u64,
}

impl Ledger {
    /// A command is about to be sent.
    pub fn sending(&mut self, shard: ShardId, command: &Bytes) {
        self.calls.entry((shard, command.clone())).or_default().possible += 1;
    }

    /// It certainly did nothing.
    pub fn failed(&mut self, shard: ShardId, command: &Bytes) {
        self.calls.entry((shard, command.clone())).or_default().possible -= 1;
    }

    /// It was answered.
    pub fn told(&mut self, shard: ShardId, command: &Bytes, outcome: Outcome) {
        self.told += 1;
        self.calls.entry((shard, command.clone())).or_default().told.push(outcome);
    }

    /// The log has a command, and this came of it. Commands of nobody here are left out.
    pub fn logged(&mut self, shard: ShardId, command: Bytes, outcome: Outcome) {
        if let Some(calls) = self.calls.get_mut(&(shard, command)) {
            calls.logged.push(outcome);
        }
    }

    /// A task was delivered.
    ///
    /// # Errors
    /// P3 if that was so before.
    pub fn delivered(&mut self, shard: ShardId, token: Token, id: TaskId, until: Millis) -> Checked {
        let before = self.delivered.insert((shard, token), (id, until));
        ensure!(before.is_none(), "P3", "lease {token} of task {id} was delivered twice");
        Ok(())
    }

    /// Holds all of it against the log, which is known to its end.
    ///
    /// # Errors
    /// P1, D2 or T1.
    pub fn check(&self, twins: &BTreeMap<ShardId, Twin>) -> Checked {
        for ((shard, _), calls) in &self.calls {
            ensure!(
                calls.logged.len() <= calls.possible,
                "D2",
                "shard {shard}: {} commands may have happened, {} have: {:?}",
                calls.possible,
                calls.logged.len(),
                calls.logged.last()
            );
            let mut taken = BTreeSet::new();
            for told in &calls.told {
                let mut fits = (0..calls.logged.len()).filter(|at| calls.logged[*at] == *told);
                let place = fits.find(|at| !taken.contains(at));
                ensure!(
                    place.is_some(),
                    "P1",
                    "shard {shard}: {told:?} was answered, and the log has {:?}",
                    calls.logged
                );
                taken.extend(place);
            }
        }
        for ((shard, token), (id, until)) in &self.delivered {
            let lease = twins.get(shard).and_then(|twin| twin.judge.leases.get(token));
            ensure!(
                lease == Some(&(*id, *until)),
                "T1",
                "task {id} was delivered under lease {token} until {until}, the log has {lease:?}"
            );
        }
        Ok(())
    }
}
