//! Tasks that wait for others: every edge leads from a task that may end yet, or has just ended, to one that waits.

use std::collections::BTreeMap;

use z4_types::TaskId;

use super::rows;
use crate::after::{Edge, read_ending};
use crate::codec::Item;
use crate::machine::Machine;
use crate::rows::{State, key};
use crate::stats::QueueStats;
use crate::{Fault, Read};

/// The rows, from which tasks take what is theirs.
pub(super) struct Seen {
    /// By predecessor and successor.
    edges: BTreeMap<(TaskId, TaskId), Edge>,
    /// Edges whose successor was seen.
    met: usize,
    held: BTreeMap<Vec<u8>, Vec<u8>>,
    /// By predecessor, the highest bound.
    endings: BTreeMap<TaskId, TaskId>,
    /// Every task: its queue, and whether it may end yet.
    pub(super) open: BTreeMap<TaskId, (u32, bool)>,
}

impl Seen {
    pub(super) fn read(store: &dyn Read) -> Result<Self, Fault> {
        let (mut edges, mut endings) = (BTreeMap::new(), BTreeMap::new());
        for (key, value) in rows(store, b'A')? {
            edges.insert(key::read_edge(&key)?, Edge::read(&value)?);
        }
        for (key, value) in rows(store, b'Y')? {
            let (predecessor, bound) = key::read_ending(&key)?;
            read_ending(&value)?;
            endings.insert(predecessor, bound);
        }
        let held = rows(store, b'J')?.into_iter().collect();
        Ok(Self { edges, met: 0, held, endings, open: BTreeMap::new() })
    }

    /// Checks a blocked task.
    pub(super) fn task(&mut self, id: TaskId, item: &Item<'_>, state: &State) -> Result<(), String> {
        let held = self.held.remove(&key::blocked(state.queue, state.deliver_at, id)[..]);
        ensure!(
            held.as_deref() == Some(&state.payload_bytes.to_le_bytes()[..]),
            "blocked task {id} is held as {held:?}"
        );
        let after = item.after.ok_or_else(|| format!("task {id} is blocked, and comes after none"))?;
        let mut named: Vec<TaskId> = after.ids().collect();
        named.sort_unstable();
        named.dedup();
        let edges = named.iter().filter_map(|predecessor| self.edges.get(&(*predecessor, id)));
        let policies: Vec<_> = edges.map(|edge| edge.on_failure).collect();
        ensure!(
            policies.len() == state.blockers as usize && !policies.is_empty(),
            "task {id} waits for {} others, {} edges lead to it",
            state.blockers,
            policies.len()
        );
        ensure!(
            policies.iter().all(|policy| *policy == after.on_failure),
            "an edge to task {id} has another policy"
        );
        self.met += policies.len();
        Ok(())
    }

    /// Checks the edges once all tasks were seen, and counts them.
    pub(super) fn check(&self, machine: &Machine, counted: &mut [QueueStats]) -> Result<(), String> {
        ensure!(self.held.is_empty(), "{} rows of blocked tasks without a task", self.held.len());
        ensure!(self.met == self.edges.len(), "{} edges, {} to blocked tasks", self.edges.len(), self.met);
        for (&(predecessor, successor), edge) in &self.edges {
            let ended = self.endings.get(&predecessor).is_some_and(|bound| successor < *bound);
            match self.open.get(&predecessor) {
                Some((queue, is_open)) => {
                    ensure!(*queue == edge.queue, "edge {predecessor} to {successor} is of another queue");
                    ensure!(
                        *is_open || ended,
                        "task {predecessor} has ended, and {successor} has not heard of it"
                    );
                }
                None => ensure!(ended, "task {successor} waits for {predecessor}, which is gone"),
            }
            let counted = counted.get_mut(edge.queue as usize);
            counted.ok_or_else(|| format!("an edge of {predecessor} is of no queue"))?.awaited += 1;
        }
        ensure!(
            machine.endings.get().is_none_or(|known| known != self.endings.is_empty()),
            "memory has {:?}, there are {} endings",
            machine.endings.get(),
            self.endings.len()
        );
        Ok(())
    }
}
