//! Finished tasks that are kept: how a task ends, and when its traces go.
//!
//! A queue keeps the tasks that ended as long as its retention says, and no more than it says; by default it keeps none, and
//! a task's end removes its rows. The finished rows of a queue lie in order of their end. Which queue evicts next is kept in
//! memory, ordered by a time that is never too late: whoever looks at the first one asks its rows, corrects the time, and
//! looks again until it is right. So a restart costs a look per queue that keeps any, and nothing per task.
//!
//! # Invariants
//! - What is evicted depends on rows and shard time alone: the first queue's time is always made exact before it is used.
//! - An entry evicts at most `EVICTIONS_PER_ENTRY` and two for each task it ended; an Advance up to its limit. So neither a
//!   burst nor a smaller retention makes a long entry, and what exceeds a count goes faster than it comes.

use std::fmt::Display;

use z4_types::{Millis, TaskId};

use crate::after::Ending;
use crate::codec::{Malformed, Reader};
use crate::head::{First, Head};
use crate::index::Found;
use crate::machine::{Machine, locate};
use crate::queue::decrease;
use crate::rows::{Phase, State, key};
use crate::{Fault, Read, Store};

/// Finished tasks an entry evicts at its end, beside two for each that it kept.
const EVICTIONS_PER_ENTRY: u32 = 64;

const HAS_RESULT: u8 = 1;

/// A finished row's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Finished {
    pub(crate) phase: Phase,
    pub(crate) has_result: bool,
}

impl Finished {
    pub(crate) fn of(state: &State) -> Self {
        Self { phase: state.phase, has_result: state.result_bytes.is_some() }
    }

    fn write(self) -> [u8; 2] {
        [self.phase.to_byte(), if self.has_result { HAS_RESULT } else { 0 }]
    }

    pub(crate) fn read(value: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(value);
        let phase = Phase::from_byte(reader.u8("finished state")?)?;
        Ok(Self { phase, has_result: reader.u8("finished flags")? & HAS_RESULT != 0 })
    }
}

impl Machine {
    /// Ends a task in any open state. It is kept in `phase`, with the result, if its queue's retention says so.
    pub(crate) fn end(
        &mut self,
        store: &mut dyn Store,
        id: TaskId,
        found: &Found,
        phase: Phase,
        result: Option<&[u8]>,
    ) -> Result<(), Fault> {
        self.end_because(store, id, found, phase, result, None)
    }

    /// The same; `reason` is kept as its last error, if there is one.
    pub(crate) fn end_because(
        &mut self,
        store: &mut dyn Store,
        id: TaskId,
        found: &Found,
        phase: Phase,
        result: Option<&[u8]>,
        reason: Option<&dyn Display>,
    ) -> Result<(), Fault> {
        let Found { state, has_state } = found;
        self.emit_end(store, id, state, phase)?;
        if state.phase != Phase::Dead {
            // A dead one has failed already, for all who come after it.
            let ending = if phase == Phase::Done { Ending::Done } else { Ending::Failed };
            self.ended_for(store, id, state.queue, ending)?;
        }
        self.free_key(store, id, state, true)?;
        if self.queue(state.queue)?.effective.retention.age.0 == 0 {
            return self.remove(store, id, found);
        }
        let mut texts = if *has_state { self.texts(store, id)? } else { Default::default() };
        if let Some(reason) = reason {
            texts.last_error = reason.to_string();
        }
        self.take_out(store, id, state)?;
        let at = self.meta.now;
        let result_bytes = result.map(|result| result.len() as u32);
        let state = State { phase, at, ttl_at: Millis::NEVER, result_bytes, blockers: 0, ..*state };
        self.write_state(store, id, &state, texts.as_texts(), !has_state);
        store.insert(&key::finished(state.queue, at, id), &Finished::of(&state).write());
        if let Some(result) = result {
            self.buffer.clear();
            self.buffer.push(RESULT_VERSION);
            self.buffer.extend_from_slice(result);
            store.insert(&key::result(id), &self.buffer);
        }
        let queue = self.queue_mut(state.queue)?;
        queue.stats.finished += 1;
        queue.finished.get_mut().inserted((at.0, id.0));
        let retention = queue.effective.retention;
        if retention.count.is_some_and(|count| queue.stats.finished > count) {
            self.evict_by(state.queue, Some(Millis(0)));
        } else if queue.evict_at.get().is_none() {
            self.evict_by(state.queue, Some(at + retention.age));
        }
        self.ended += 1;
        Ok(())
    }

    /// Removes the finished row of a task.
    pub(crate) fn forget_finished(
        &mut self,
        store: &mut dyn Store,
        queue: u32,
        ended_at: Millis,
        id: TaskId,
    ) -> Result<(), Fault> {
        store.delete(&key::finished(queue, ended_at, id));
        let record = self.queue_mut(queue)?;
        decrease(&mut record.stats.finished, "finished")?;
        if record.stats.finished == 0 {
            record.finished.set(Head::EMPTY);
            self.evict_by(queue, None);
        } else {
            record.finished.get_mut().deleted((ended_at.0, id.0));
        }
        Ok(())
    }

    /// Moves a queue in the order of evictions; None takes it out.
    pub(crate) fn evict_by(&self, number: u32, at: Option<Millis>) {
        let Some(queue) = &self.queues[number as usize] else { return };
        let mut order = self.evictions.borrow_mut();
        if let Some(before) = queue.evict_at.replace(at) {
            order.remove(&(before, number));
        }
        if let Some(at) = at {
            order.insert((at, number));
        }
    }

    /// Returns when the next finished task is evicted, and of which queue. The time is 0 where more are kept than may be.
    pub(crate) fn first_eviction(&self, store: &dyn Read) -> Result<Option<(Millis, u32)>, Fault> {
        loop {
            let first = self.evictions.borrow().first().copied();
            let Some((at, number)) = first else { return Ok(None) };
            let exact = self.evicts_at(store, number)?;
            if exact == at {
                return Ok(first);
            }
            // Every turn corrects one queue, and a corrected one is returned when it comes first again.
            self.evict_by(number, Some(exact));
        }
    }

    /// Returns when a queue that keeps finished tasks evicts the next one.
    fn evicts_at(&self, store: &dyn Read, number: u32) -> Result<Millis, Fault> {
        let queue = self.queue(number)?;
        let retention = queue.effective.retention;
        if retention.count.is_some_and(|count| queue.stats.finished > count) {
            return Ok(Millis(0));
        }
        let first = locate(
            store,
            &queue.finished,
            |(at, id)| key::finished(number, Millis(at), TaskId(id)),
            &key::finished_end(number),
            |key| key::read_finished(key).map(|(at, id)| (at.0, id.0)),
        )?;
        let first = first.ok_or_else(|| {
            Fault::corrupt(format!("queue {} counts finished tasks, and has no row of any", queue.name))
        })?;
        Ok(first + retention.age)
    }

    /// Evicts what the current entry owes.
    pub(crate) fn evict_some_finished(&mut self, store: &mut dyn Store) -> Result<(), Fault> {
        let limit = EVICTIONS_PER_ENTRY + 2 * std::mem::take(&mut self.ended);
        self.evict_finished(store, limit)
    }

    /// Evicts up to `limit` finished tasks whose time is over, or that are too many.
    pub(crate) fn evict_finished(&mut self, store: &mut dyn Store, limit: u32) -> Result<(), Fault> {
        let mut left = limit;
        while left > 0 {
            let Some((at, number)) = self.first_eviction(store)?.filter(|(at, _)| *at <= self.meta.now)
            else {
                break;
            };
            let evicted = self.collect_finished(store, number, left)?;
            if evicted.is_empty() {
                return Err(Fault::corrupt(format!(
                    "queue {number} evicts at {at}, and has nothing to evict"
                )));
            }
            left -= evicted.len() as u32;
            for (ended_at, id, row) in evicted {
                store.delete(&key::body(id));
                store.delete(&key::state(id));
                if row.has_result {
                    store.delete(&key::result(id));
                }
                self.forget_finished(store, number, ended_at, id)?;
            }
        }
        Ok(())
    }

    /// Returns the finished tasks of a queue that are to go, the oldest first.
    fn collect_finished(
        &self,
        store: &dyn Read,
        number: u32,
        limit: u32,
    ) -> Result<Vec<(Millis, TaskId, Finished)>, Fault> {
        let queue = self.queue(number)?;
        let retention = queue.effective.retention;
        let over = retention.count.map_or(0, |count| queue.stats.finished.saturating_sub(count));
        let (at, id) = match queue.finished.get().first() {
            First::Nothing => return Ok(Vec::new()),
            First::At(point) | First::From(point) => point,
        };
        let (mut found, mut malformed) = (Vec::new(), None);
        let from = key::finished(number, Millis(at), TaskId(id));
        store.scan(&from, &key::finished_end(number), &mut |key, value| {
            match key::read_finished(key).and_then(|(at, id)| Ok((at, id, Finished::read(value)?))) {
                Ok(row) if (found.len() as u64) < over || row.0 + retention.age <= self.meta.now => {
                    found.push(row);
                }
                Ok(_) => return false,
                Err(error) => malformed = Some(error),
            }
            malformed.is_none() && found.len() < limit as usize
        })?;
        malformed.map_or(Ok(found), |error| Err(error.into()))
    }
}

/// Version of a result row.
const RESULT_VERSION: u8 = 1;

/// Reads a result row.
pub(crate) fn read_result(value: &[u8]) -> Result<&[u8], Malformed> {
    match value.split_first() {
        Some((&RESULT_VERSION, result)) => Ok(result),
        _ => Err(Malformed("unknown result version")),
    }
}
