//! After: a task that comes after others is in no line before all of them have ended; then it is, or it ends for them.
//!
//! Each blocked task has the tasks it waits for, and of these the ones that have ended and of which it has not been told. An
//! entry tells a few at its end, an Advance many; so whoever comes after a task that has ended is told within that
//! entry, unless there are more than it may tell. Then, and behind a task of which only the rows know what became of it,
//! the rows say who was told.
//!
//! # Invariants
//! - `blocked` holds exactly the tasks that wait for others, and each waits for one at least.
//! # Caveats
//! - Whether an ended task is still kept, and so may be come after, is not modelled: both answers are taken.

use std::collections::{BTreeMap, BTreeSet};

use z4_tasks::command::{NewTask, OnFailure};
use z4_tasks::outcome::Refusal;
use z4_tasks::{EventKind, Machine, Read, Why};
use z4_types::{Millis, QueueName, TaskId};

use super::Judge;
use super::state::{Stand, Task};
use crate::checks::{Checked, Violation, ensure};
use crate::report::Reached;

/// Tasks that an entry tells at its end, at least.
const TOLD_PER_ENTRY: usize = 64;

/// What became of a task that waits for others, and of those.
#[derive(Debug, Clone, Default)]
pub struct Waits {
    /// The tasks before it that it waits for.
    pub on: BTreeSet<TaskId>,
    /// Those of them that have ended, and whether they were done; None: only the rows know.
    pub ended: BTreeMap<TaskId, Option<bool>>,
    /// It runs whatever becomes of them.
    pub runs_anyway: bool,
}

impl Waits {
    /// Returns whether it will be cancelled for one of those before it.
    fn fails(&self) -> bool {
        !self.runs_anyway && self.ended.values().any(|done| *done == Some(false))
    }

    fn is_unsure(&self) -> bool {
        self.ended.values().any(Option::is_none)
    }
}

/// Returns how a task ended for those behind it; None: only the rows know, or it has not.
fn is_done(stand: Stand) -> Option<bool> {
    match stand {
        Stand::Ended("something") => None,
        Stand::Ended(why) => Some(why == "its ack"),
        Stand::Dead => Some(false),
        _ => None,
    }
}

impl Judge {
    /// Returns the tasks that wait for one.
    fn behind(&self, id: TaskId) -> Vec<TaskId> {
        let waits = |other: &&TaskId| self.tasks[*other].waits.on.contains(&id);
        self.blocked.iter().filter(waits).copied().collect()
    }

    /// Returns what a new task waits for, and whether that is sure.
    pub(super) fn waits_of(&self, id: TaskId, task: &NewTask) -> Result<(Waits, bool), Violation> {
        let runs_anyway = task.on_failure == OnFailure::Run;
        let (mut waits, mut sure) = (Waits { runs_anyway, ..Waits::default() }, true);
        for before in &task.after {
            let Some(known) = self.sure(*before) else {
                ensure!(
                    self.tasks.contains_key(before),
                    "AFTER",
                    "task {id} comes after {before}, of nobody"
                );
                (sure, _) = (false, waits.on.insert(*before));
                continue;
            };
            match (known.stand, is_done(known.stand)) {
                (Stand::Waiting | Stand::Blocked | Stand::Leased { .. }, _) => drop(waits.on.insert(*before)),
                (stand, Some(false)) => ensure!(
                    runs_anyway,
                    "AFTER",
                    "task {id} is to be cancelled if {before} fails, and is made: that is {stand:?}"
                ),
                _ => {}
            }
        }
        Ok((waits, sure))
    }

    /// A create was refused for what it comes after.
    pub(super) fn after_refused(
        &self,
        name: &QueueName,
        task: &NewTask,
        refusal: &Refusal,
        reached: &mut Reached,
    ) -> Checked {
        let is_live = |id: &TaskId| self.sure(*id).is_some_and(|known| known.stand.is_open());
        match refusal {
            Refusal::AfterUnknown(id) => {
                ensure!(
                    !is_live(id),
                    "AFTER",
                    "task {id} is {:?}, and nobody comes after it",
                    self.tasks[id].stand
                );
                reached.reach("after an ended task refused");
            }
            Refusal::AfterFailed(id) => {
                let key = task.key.as_ref().map(|key| key.name.as_str());
                let is_replaced = key.is_some_and(|key| self.holders(name, key).contains(id));
                let stand = self.sure(*id).map(|known| known.stand);
                let failed = stand.is_none_or(|stand| stand == Stand::Dead || !stand.is_open());
                let is_acked = stand == Some(Stand::Ended("its ack"));
                ensure!(
                    task.on_failure == OnFailure::Cancel && (is_replaced || failed && !is_acked),
                    "AFTER",
                    "a task cannot come after {id}, which is {stand:?}"
                );
                reached.reach("after a failed task refused");
            }
            _ => {}
        }
        Ok(())
    }

    /// A task has changed: those behind it have an end to hear of.
    pub(super) fn pass_on(&mut self, id: TaskId, before: Stand) {
        let stand = self.tasks[&id].stand;
        if stand == Stand::Blocked {
            self.blocked.insert(id);
        } else if self.blocked.remove(&id) {
            let waits = std::mem::take(&mut self.tasks.get_mut(&id).expect("it is judged").waits);
            for other in waits.on {
                self.busy.insert(self.tasks[&other].queue.clone());
            }
        }
        let is_over = |stand: Stand| stand == Stand::Dead || !stand.is_open();
        if is_over(before) || !is_over(stand) {
            return;
        }
        for other in self.behind(id) {
            let task = self.tasks.get_mut(&other).expect("it waits");
            task.waits.ended.insert(id, is_done(stand));
        }
    }

    /// Tells all who have not heard of an end, and those behind them.
    pub(super) fn tell_all(&mut self, reached: &mut Reached) {
        loop {
            let hears = |id: &&TaskId| !self.tasks[*id].waits.ended.is_empty() && !self.doubted.contains(id);
            let Some(id) = self.blocked.iter().find(hears).copied() else { return };
            self.tell_one(id, reached);
        }
    }

    fn tell_one(&mut self, id: TaskId, reached: &mut Reached) {
        let waits = &self.tasks[&id].waits;
        if waits.is_unsure() {
            self.doubt(id);
            return;
        }
        if waits.fails() {
            self.change(id, |task| task.stand = Stand::Ended("the end of one before it"));
            self.queue_of(id).stats.cancelled += 1;
            self.tell(id, EventKind::Cancelled);
            reached.reach("task cancelled for its predecessor");
            return;
        }
        let has_failed = waits.ended.values().any(|done| *done == Some(false));
        let now = self.now;
        let heard = std::mem::take(&mut self.tasks.get_mut(&id).expect("it waits").waits.ended);
        for other in heard.keys() {
            self.busy.insert(self.tasks[other].queue.clone());
        }
        self.change(id, |task| {
            task.waits.on.retain(|other| !heard.contains_key(other));
            if task.waits.on.is_empty() {
                (task.stand, task.due) = (Stand::Waiting, task.due.max(now).min(Millis::MAX_NAMEABLE));
            }
        });
        if self.tasks[&id].stand == Stand::Waiting {
            self.tell(id, EventKind::Updated);
            reached.reach("task freed by its predecessor");
            if has_failed {
                reached.reach("task run after a failure");
            }
        }
    }

    /// An entry ends: tells those it may, and doubts the others.
    pub(super) fn tell_some(&mut self, reached: &mut Reached) {
        let edges: usize = self.blocked.iter().map(|id| self.tasks[id].waits.on.len()).sum();
        if edges <= TOLD_PER_ENTRY || self.doubted.is_empty() && self.to_tell() <= TOLD_PER_ENTRY {
            self.tell_all(reached);
        } else {
            self.doubt_told();
        }
    }

    /// Returns how many ends are to be told, with those that come of it.
    fn to_tell(&self) -> usize {
        let hears = |id: &&TaskId| !self.tasks[*id].waits.ended.is_empty();
        let mut next: Vec<TaskId> = self.blocked.iter().filter(hears).copied().collect();
        let mut count = next.iter().map(|id| self.tasks[id].waits.ended.len()).sum();
        let mut seen = BTreeSet::new();
        while let Some(id) = next.pop() {
            let waits = &self.tasks[&id].waits;
            if seen.insert(id) && (waits.fails() || !waits.runs_anyway && waits.ended.is_empty()) {
                let behind = self.behind(id);
                count += behind.len();
                next.extend(behind);
            }
        }
        count
    }

    /// Only the rows know who was told.
    pub(super) fn doubt_told(&mut self) {
        let hears = |id: &&TaskId| !self.tasks[*id].waits.ended.is_empty();
        let all: Vec<TaskId> = self.blocked.iter().filter(hears).copied().collect();
        all.into_iter().for_each(|id| self.doubt(id));
    }

    /// What became of a task only the rows know: so for those behind it.
    pub(super) fn doubt_behind(&mut self, id: TaskId) {
        self.behind(id).into_iter().for_each(|other| self.doubt(other));
    }

    /// Takes from the rows what a blocked task waits for.
    pub(super) fn adopt_waits(&mut self, machine: &Machine, rows: &dyn Read, id: TaskId) {
        // Long ago: a TTL that has passed says more than they do.
        let why = z4_tasks::explain(rows, machine, id, Millis(0)).expect("rows in memory can be read");
        let Some(Why::Blocked { first, .. }) = why else { return };
        let on: BTreeSet<TaskId> = first.into_iter().collect();
        let over = |stand: Stand| stand == Stand::Dead || !stand.is_open();
        let ended =
            on.iter().map(|other| (*other, self.tasks[other].stand)).filter(|(_, stand)| over(*stand));
        let ended = ended.map(|(other, stand)| (other, is_done(stand))).collect();
        let waits = &mut self.tasks.get_mut(&id).expect("it is judged").waits;
        (waits.on, waits.ended) = (on, ended);
    }

    /// Returns how many tasks wait for tasks of a queue, one by one.
    pub(super) fn awaited(&self, name: &QueueName) -> u64 {
        let waits = self.blocked.iter().flat_map(|id| &self.tasks[id].waits.on);
        waits.filter(|id| self.tasks[*id].queue == *name).count() as u64
    }
}

/// Checks what a row says of how many others its task waits for.
pub(super) fn compare_waits(id: TaskId, task: &Task, blockers: u32) -> Checked {
    let known = &task.waits.on;
    ensure!(
        blockers as usize == known.len() && blockers > 0,
        "AFTER",
        "task {id} waits for {blockers} others, and must for {known:?}"
    );
    Ok(())
}
