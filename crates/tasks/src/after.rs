//! After: tasks that wait for the end of others.
//!
//! A task may come after others of its shard: its predecessors. While one of them is open it is *blocked*: in no line and no
//! group, found by id, by lists, and by explain. The rows between two tasks are edges, ordered by predecessor. When a
//! predecessor ends, or dies, a row of its ending is written, and its edges are worked off in bounded steps: a few at the end of
//! each entry, many by an Advance. Each takes one off what its successor waits for; the last one puts the successor into its
//! line, or the first failure ends it, as its creator wished.
//!
//! ```text
//!   ack ──▶ ending of a, done, up to b9 ──▶ edge a·b1: b1 waits for one less
//!                                           edge a·b2: that was its last, b2 is due
//!                                           no edge below b9 is left: the ending goes
//! ```
//! # Invariants
//! - A blocked task counts the edges that lead to it: at least one. Who is not blocked has none.
//! - An edge's predecessor is open and has not failed, or has an ending whose bound is above the successor.
//! - Only tasks that are there are predecessors, so no cycle can be written.
//! - A queue whose tasks nobody waits for pays a comparison at the end of each.
//! # Caveats
//! - Between the end of a predecessor and the working off of its edges a task is still said to be blocked.
//! - A task that gets into its line opens its group also where the shard has as many as it may.

use z4_types::{Millis, TaskId};

use crate::codec::{Item, Malformed, Reader};
use crate::command::OnFailure;
use crate::events::{EventKind, Facts};
use crate::index::Found;
use crate::machine::Machine;
use crate::outcome::Refusal;
use crate::queue::decrease;
use crate::rows::{Phase, State, key, read_body};
use crate::{Fault, Read, Store};

/// Edges an entry works off at its end; the rest is left to Advances.
const FOLLOWED_PER_ENTRY: u32 = 64;

const CANCEL: u8 = 1;
const RUN: u8 = 2;

/// Predecessors that explain names.
pub const BLOCKERS_SHOWN_MAX: usize = 8;

/// How a predecessor ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// A consumer acked it.
    Done = 1,
    /// It is dead, or was cancelled or purged, or its TTL ended it.
    Failed = 2,
}

/// An edge's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Edge {
    /// Of the predecessor.
    pub(crate) queue: u32,
    /// What becomes of the successor if the predecessor fails.
    pub(crate) on_failure: OnFailure,
}

impl Edge {
    pub(crate) fn write(self) -> [u8; 5] {
        let mut value = [0; 5];
        value[..4].copy_from_slice(&self.queue.to_le_bytes());
        value[4] = on_failure_byte(self.on_failure);
        value
    }

    pub(crate) fn read(value: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(value);
        Ok(Self { queue: reader.u32("edge queue")?, on_failure: read_on_failure(reader.u8("edge policy")?)? })
    }
}

/// Returns the byte of a policy, in items and edges.
pub(crate) fn on_failure_byte(on_failure: OnFailure) -> u8 {
    match on_failure {
        OnFailure::Cancel => CANCEL,
        OnFailure::Run => RUN,
    }
}

/// Reads the byte of a policy.
pub(crate) fn read_on_failure(byte: u8) -> Result<OnFailure, Malformed> {
    match byte {
        CANCEL => Ok(OnFailure::Cancel),
        RUN => Ok(OnFailure::Run),
        _ => Err(Malformed("unknown on_failure")),
    }
}

/// Reads how a predecessor ended: the value of an ending's row.
pub(crate) fn read_ending(value: &[u8]) -> Result<Ending, Malformed> {
    match value {
        [1] => Ok(Ending::Done),
        [2] => Ok(Ending::Failed),
        _ => Err(Malformed("unknown ending")),
    }
}

impl Machine {
    /// Returns the predecessors of a new task that are still open, each with its queue, or why it cannot come after those it
    /// names. `replaced`: the task that is about to be cancelled for it.
    pub(crate) fn blockers(
        &self,
        store: &dyn Store,
        item: &Item<'_>,
        replaced: Option<TaskId>,
    ) -> Result<Result<Vec<(TaskId, u32)>, Refusal>, Fault> {
        let mut open = Vec::new();
        let Some(after) = &item.after else { return Ok(Ok(open)) };
        for id in after.ids() {
            if id.shard() != self.shard {
                return Ok(Err(Refusal::AfterElsewhere { id, shard: self.shard }));
            }
            if id.counter() >= self.meta.next_counter {
                return Ok(Err(Refusal::AfterFuture(id)));
            }
            let Some(found) = self.find(store, id)? else {
                return Ok(Err(Refusal::AfterUnknown(id)));
            };
            match found.state.phase {
                _ if replaced == Some(id) => {}
                Phase::Leased if cfg!(feature = "bug-blocked-task-runs") => continue,
                Phase::Waiting | Phase::Leased | Phase::Blocked => {
                    // Named twice, it is waited for once.
                    if open.iter().all(|(known, _)| *known != id) {
                        open.push((id, found.state.queue));
                    }
                    continue;
                }
                Phase::Done => continue,
                Phase::Dead | Phase::Cancelled | Phase::Expired => {}
            }
            if after.on_failure == OnFailure::Cancel {
                return Ok(Err(Refusal::AfterFailed(id)));
            }
        }
        Ok(Ok(open))
    }

    /// Adds the rows of a task that waits for others: it has none but its body.
    pub(crate) fn block(
        &mut self,
        store: &mut dyn Store,
        id: TaskId,
        state: &State,
        blockers: &[(TaskId, u32)],
        on_failure: OnFailure,
    ) -> Result<(), Fault> {
        for &(predecessor, queue) in blockers {
            store.insert(&key::edge(predecessor, id), &Edge { queue, on_failure }.write());
            self.queue_mut(queue)?.stats.awaited += 1;
        }
        self.write_state(store, id, state, crate::rows::Texts::default(), true);
        self.hold(store, id, state)
    }

    /// Adds the index row of a blocked task.
    pub(crate) fn hold(&mut self, store: &mut dyn Store, id: TaskId, state: &State) -> Result<(), Fault> {
        // Put: an update may bring a key back.
        store.put(&key::blocked(state.queue, state.deliver_at, id), &state.payload_bytes.to_le_bytes());
        self.queue_mut(state.queue)?.stats.blocked += 1;
        Ok(())
    }

    /// Removes the index row of a blocked task.
    pub(crate) fn unhold(&mut self, store: &mut dyn Store, id: TaskId, state: &State) -> Result<(), Fault> {
        store.delete(&key::blocked(state.queue, state.deliver_at, id));
        decrease(&mut self.queue_mut(state.queue)?.stats.blocked, "blocked")
    }

    /// Removes every row that says what a blocked task waits for: it will not.
    pub(crate) fn unblock(&mut self, store: &mut dyn Store, id: TaskId, state: &State) -> Result<(), Fault> {
        self.unhold(store, id, state)?;
        for predecessor in blockers_of(store, id)? {
            self.cut_edge(store, predecessor, id)?;
        }
        Ok(())
    }

    /// Removes an edge, if it is there; returns it.
    fn cut_edge(
        &mut self,
        store: &mut dyn Store,
        predecessor: TaskId,
        id: TaskId,
    ) -> Result<Option<Edge>, Fault> {
        let row = key::edge(predecessor, id);
        let Some(edge) = store.get(&row)?.map(|value| Edge::read(&value)).transpose()? else {
            return Ok(None);
        };
        store.delete(&row);
        decrease(&mut self.queue_mut(edge.queue)?.stats.awaited, "edge")?;
        Ok(Some(edge))
    }

    /// Takes note that a task has ended or died, for those that come after it.
    #[inline]
    pub(crate) fn ended_for(
        &mut self,
        store: &mut dyn Store,
        id: TaskId,
        queue: u32,
        ending: Ending,
    ) -> Result<(), Fault> {
        if self.queue(queue)?.stats.awaited == 0 {
            return Ok(());
        }
        self.note_ending(store, id, ending)
    }

    fn note_ending(&mut self, store: &mut dyn Store, id: TaskId, ending: Ending) -> Result<(), Fault> {
        let mut is_awaited = false;
        let (from, to) = key::edges(id);
        store.scan(&from, &to, &mut |_, _| {
            is_awaited = true;
            false
        })?;
        if is_awaited {
            // Who is created from now on comes after what this task does next: a dead one may be redriven.
            let bound = TaskId::new(self.meta.now, self.shard, self.meta.next_counter);
            store.put(&key::ending(id, bound), &[ending as u8]);
            self.endings.set(Some(true));
        }
        Ok(())
    }

    /// Returns whether edges are to be worked off.
    pub(crate) fn has_endings(&self, store: &dyn Read) -> Result<bool, Fault> {
        if let Some(known) = self.endings.get() {
            return Ok(known);
        }
        let found = first_ending(store)?.is_some();
        self.endings.set(Some(found));
        Ok(found)
    }

    /// Works off what the current entry may.
    pub(crate) fn follow_some(&mut self, store: &mut dyn Store) -> Result<(), Fault> {
        self.follow(store, FOLLOWED_PER_ENTRY).map(|_| ())
    }

    /// Works off up to `limit` edges of tasks that have ended; returns how many.
    pub(crate) fn follow(&mut self, store: &mut dyn Store, limit: u32) -> Result<u32, Fault> {
        let mut left = limit;
        while left > 0 && self.has_endings(store)? {
            let Some((predecessor, bound, ending)) = first_ending(store)? else {
                self.endings.set(Some(false));
                break;
            };
            let (_, to) = key::edges(predecessor);
            let (mut found, mut malformed, mut all) = (Vec::new(), None, true);
            store.scan(&key::edge(predecessor, TaskId(0)), &to, &mut |key, _| match key::read_edge(key) {
                Ok((_, successor)) if successor >= bound => false,
                Ok(_) if found.len() as u32 == left => {
                    all = false;
                    false
                }
                Ok((_, successor)) => {
                    found.push(successor);
                    true
                }
                Err(error) => {
                    malformed = Some(error);
                    false
                }
            })?;
            if let Some(error) = malformed {
                return Err(error.into());
            }
            left -= found.len() as u32;
            for successor in found {
                self.follow_one(store, predecessor, successor, ending)?;
            }
            if all {
                store.delete(&key::ending(predecessor, bound));
                self.endings.set(None);
            }
        }
        Ok(limit - left)
    }

    /// Tells one task that one before it has ended.
    fn follow_one(
        &mut self,
        store: &mut dyn Store,
        predecessor: TaskId,
        id: TaskId,
        ending: Ending,
    ) -> Result<(), Fault> {
        let edge = self.cut_edge(store, predecessor, id)?;
        let edge = edge.ok_or_else(|| Fault::corrupt(format!("the edge {predecessor} to {id} is gone")))?;
        let found = self.find(store, id)?.filter(|found| found.state.phase == Phase::Blocked);
        let found = found.ok_or_else(|| {
            Fault::corrupt(format!("task {id} comes after {predecessor}, and does not wait for it"))
        })?;
        if ending == Ending::Failed && edge.on_failure == OnFailure::Cancel {
            let reason = format_args!("task {predecessor}, which it came after, has failed");
            self.end_because(store, id, &found, Phase::Cancelled, None, Some(&reason))?;
            self.queue_mut(found.state.queue)?.stats.cancelled += 1;
            return Ok(());
        }
        let mut state = found.state;
        state.blockers = state.blockers.checked_sub(1).ok_or_else(|| {
            Fault::corrupt(format!("task {id} waits for fewer tasks than have edges to it"))
        })?;
        let texts = self.texts(store, id)?;
        if state.blockers > 0 {
            self.write_state(store, id, &state, texts.as_texts(), false);
            return Ok(());
        }
        self.unhold(store, id, &found.state)?;
        // Whoever waited for others is due from now on, not since long ago: it is late for nobody.
        let due = state.deliver_at.max(self.meta.now).min(Millis::MAX_NAMEABLE);
        (state.phase, state.deliver_at) = (Phase::Waiting, due);
        self.write_state(store, id, &state, texts.as_texts(), false);
        self.schedule(store, id, &Found { state, has_state: true })?;
        self.emit(store, state.queue, id, EventKind::Updated, || Facts::placed(&state, None))
    }
}

/// Returns the tasks that a blocked one still waits for, in the order its creator named them.
pub(crate) fn blockers_of(store: &dyn Read, id: TaskId) -> Result<Vec<TaskId>, Fault> {
    let value =
        store.get(&key::body(id))?.ok_or_else(|| Fault::corrupt(format!("task {id} lost its body row")))?;
    let (_, item) = read_body(&value)?;
    let named: Vec<TaskId> = item.after.iter().flat_map(|after| after.ids()).collect();
    drop(value);
    let mut open = Vec::with_capacity(named.len());
    for predecessor in named {
        if !open.contains(&predecessor) && store.get(&key::edge(predecessor, id))?.is_some() {
            open.push(predecessor);
        }
    }
    Ok(open)
}

fn first_ending(store: &dyn Read) -> Result<Option<(TaskId, TaskId, Ending)>, Fault> {
    let mut first = None;
    let [from, to] = key::ENDINGS;
    store.scan(from, to, &mut |key, value| {
        first = Some(key::read_ending(key).and_then(|(id, bound)| Ok((id, bound, read_ending(value)?))));
        false
    })?;
    Ok(first.transpose()?)
}
