//! Moving a task between its rows: the one place that keeps indexes, heads and gauges in step.
//!
//! ```text
//!            create            lease              ack, cancel, TTL
//!   nothing ───────▶ schedule ───────▶ lease ─────────────────────▶ nothing, or finished if kept
//!                        ▲               │ nack, release, expiry
//!                        └───────────────┤
//!                                        ▼ out of attempts
//!                                      dead
//! ```
//! A task that comes after others is held in a place of its own before it gets into the schedule: see `after`.
//! The schedule of a task in a group is two rows: its place in the group's line, and one by due time, for lists. The
//! scheduler is told of every move.
//!
//! Keys that were never used before are inserted, all others put: storage forgets an inserted key without a trace when
//! it is deleted before the next checkpoint, which would be wrong for a key that the base has and the working set hides.
//! So a first schedule row is inserted, but that of a retry is put: a task released within the millisecond it was
//! due in gets the same key back.

use std::collections::BTreeMap;

use z4_types::{Millis, TaskId, Token};

use crate::machine::Machine;
use crate::queue::decrease;
use crate::rows::{Member, OwnedTexts, Phase, State, Texts, key, read_body};
use crate::{Fault, Read, Store};

/// A task found by its id.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Found {
    pub(crate) state: State,
    /// It has a state row.
    pub(crate) has_state: bool,
}

impl Machine {
    /// Returns the task, from its state row or, if it never had one, from its body.
    pub(crate) fn find(&self, store: &dyn Store, id: TaskId) -> Result<Option<Found>, Fault> {
        if let Some(value) = store.get(&key::state(id))? {
            let (state, _) = State::read(&value)?;
            return Ok(Some(Found { state, has_state: true }));
        }
        let Some(value) = store.get(&key::body(id))? else {
            return Ok(None);
        };
        let (queue, item) = read_body(&value)?;
        Ok(Some(Found { state: State::pristine(id, queue, &item), has_state: false }))
    }

    /// Returns the tasks of these that are there, as [`Machine::find`] would, in two passes over storage in place of two reads
    /// each.
    pub(crate) fn find_many(
        &self,
        store: &dyn Read,
        ids: &[TaskId],
    ) -> Result<BTreeMap<TaskId, Found>, Fault> {
        let mut ids = ids.to_vec();
        ids.sort_unstable();
        let mut all = BTreeMap::new();
        let mut malformed = None;
        let keys: Vec<_> = ids.iter().map(|id| key::state(*id)).collect();
        let keys: Vec<&[u8]> = keys.iter().map(|key| &key[..]).collect();
        store.get_many(&keys, &mut |at, value| match State::read(value) {
            Ok((state, _)) => drop(all.insert(ids[at], Found { state, has_state: true })),
            Err(error) => malformed = Some(error),
        })?;
        ids.retain(|id| !all.contains_key(id));
        let keys: Vec<_> = ids.iter().map(|id| key::body(*id)).collect();
        let keys: Vec<&[u8]> = keys.iter().map(|key| &key[..]).collect();
        store.get_many(&keys, &mut |at, value| match read_body(value) {
            Ok((queue, item)) => {
                let state = State::pristine(ids[at], queue, &item);
                all.insert(ids[at], Found { state, has_state: false });
            }
            Err(error) => malformed = Some(error),
        })?;
        malformed.map_or(Ok(all), |error| Err(error.into()))
    }

    /// Removes every row of a task in any state.
    pub(crate) fn remove(&mut self, store: &mut dyn Store, id: TaskId, found: &Found) -> Result<(), Fault> {
        let Found { state, has_state } = found;
        self.take_out(store, id, state)?;
        store.delete(&key::body(id));
        if *has_state {
            store.delete(&key::state(id));
        }
        if state.result_bytes.is_some() {
            store.delete(&key::result(id));
        }
        Ok(())
    }

    /// Takes a task out of the indexes it is in: that of its state, and that of its TTL.
    pub(crate) fn take_out(&mut self, store: &mut dyn Store, id: TaskId, state: &State) -> Result<(), Fault> {
        match state.phase {
            Phase::Waiting => self.unschedule(store, id, state)?,
            Phase::Leased => self.end_lease(store, state)?,
            Phase::Dead => {
                store.delete(&key::dead(state.queue, state.deliver_at, id));
                decrease(&mut self.queue_mut(state.queue)?.stats.dead, "dead")?;
            }
            Phase::Blocked => self.unblock(store, id, state)?,
            Phase::Done | Phase::Cancelled | Phase::Expired => {
                self.forget_finished(store, state.queue, state.at, id)?;
            }
        }
        self.forget_ttl(store, id, state.ttl_at);
        self.release_slot(store, id)
    }

    /// Returns the texts of a task, which has a state row.
    pub(crate) fn texts(&self, store: &dyn Store, id: TaskId) -> Result<OwnedTexts, Fault> {
        let value = store
            .get(&key::state(id))?
            .ok_or_else(|| Fault::corrupt(format!("task {id} lost its state row")))?;
        Ok(State::read(&value)?.1.into())
    }

    /// Puts a task that is in no index into its line.
    pub(crate) fn schedule(&mut self, store: &mut dyn Store, id: TaskId, found: &Found) -> Result<(), Fault> {
        match found.state.member {
            Member::None => self.schedule_as(store, id, found, None),
            Member::Named => {
                let group = self.group_name(store, id)?;
                self.schedule_as(store, id, found, Some(&group))
            }
            // It was leased, and the group still counts it so.
            Member::Leased(_) => self.schedule_in(store, id, found, None),
        }
    }

    /// The same for one whose group the caller knows.
    pub(crate) fn schedule_as(
        &mut self,
        store: &mut dyn Store,
        id: TaskId,
        found: &Found,
        group: Option<&str>,
    ) -> Result<(), Fault> {
        if group.is_some() {
            return self.schedule_in(store, id, found, group);
        }
        let Found { state, has_state } = found;
        let key = key::schedule(state.queue, state.priority, state.deliver_at, id);
        let mut value = [0; 13];
        let mut scheduled = state.scheduled();
        scheduled.has_state = *has_state;
        let value = scheduled.write(&mut value);
        if *has_state {
            store.put(&key, value);
        } else {
            store.insert(&key, value);
        }
        let queue = self.queue_mut(state.queue)?;
        queue.stats.waiting += 1;
        queue.steps.count(state.deliver_at, 1)?;
        let line = queue.line(state.priority);
        line.waiting += 1;
        line.head.get_mut().inserted((state.deliver_at.0, id.0));
        self.touch(state.queue)
    }

    /// Adds the rows of a task that waits in a group.
    fn schedule_in(
        &mut self,
        store: &mut dyn Store,
        id: TaskId,
        found: &Found,
        group: Option<&str>,
    ) -> Result<(), Fault> {
        let Found { state, has_state } = found;
        let number = self.join(id, state, group)?;
        let key = key::in_group(state.queue, number.0, state.priority, state.deliver_at, id);
        let timed = key::timed(state.queue, state.deliver_at, id);
        let mut value = [0; 13];
        let mut scheduled = state.scheduled();
        scheduled.has_state = *has_state;
        let value = scheduled.write(&mut value);
        let payload_bytes = state.payload_bytes.to_le_bytes();
        if *has_state {
            store.put(&key, value);
            store.put(&timed, &payload_bytes);
        } else {
            store.insert(&key, value);
            store.insert(&timed, &payload_bytes);
        }
        let queue = self.queue_mut(state.queue)?;
        queue.stats.waiting += 1;
        queue.steps.count(state.deliver_at, 1)?;
        queue.count_grouped(state.priority, true)?;
        queue.timed.get_mut().inserted((state.deliver_at.0, id.0));
        self.touch(state.queue)
    }

    /// Notes that a task of a queue may be due sooner than was known.
    pub(crate) fn touch(&mut self, number: u32) -> Result<(), Fault> {
        if !std::mem::replace(&mut self.queue_mut(number)?.touched, true) {
            self.touched.push(number);
        }
        Ok(())
    }

    /// Takes a task out of its line.
    pub(crate) fn unschedule(
        &mut self,
        store: &mut dyn Store,
        id: TaskId,
        state: &State,
    ) -> Result<(), Fault> {
        if state.member != Member::None {
            return self.unschedule_in(store, id, state);
        }
        store.delete(&key::schedule(state.queue, state.priority, state.deliver_at, id));
        let queue = self.queue_mut(state.queue)?;
        decrease(&mut queue.stats.waiting, "schedule")?;
        queue.steps.count(state.deliver_at, -1)?;
        let line = queue.line(state.priority);
        decrease(&mut line.waiting, "schedule")?;
        if line.waiting == 0 {
            line.head.set(crate::head::Head::EMPTY);
        } else {
            line.head.get_mut().deleted((state.deliver_at.0, id.0));
        }
        Ok(())
    }

    /// Removes the rows of a task that waits in a group.
    fn unschedule_in(&mut self, store: &mut dyn Store, id: TaskId, state: &State) -> Result<(), Fault> {
        let number = self.group_number(store, id, state)?;
        store.delete(&key::in_group(state.queue, number.0, state.priority, state.deliver_at, id));
        store.delete(&key::timed(state.queue, state.deliver_at, id));
        let queue = self.queue_mut(state.queue)?;
        decrease(&mut queue.stats.waiting, "group")?;
        queue.steps.count(state.deliver_at, -1)?;
        queue.count_grouped(state.priority, false)?;
        if queue.grouped.is_empty() {
            queue.timed.set(crate::head::Head::EMPTY);
        } else {
            queue.timed.get_mut().deleted((state.deliver_at.0, id.0));
        }
        if state.member == Member::Named { self.part(store, id, state, number) } else { Ok(()) }
    }

    /// Adds the lease row of a task that is in no index. `fresh`: the token is new.
    pub(crate) fn start_lease(
        &mut self,
        store: &mut dyn Store,
        id: TaskId,
        state: &State,
        fresh: bool,
    ) -> Result<(), Fault> {
        let key = key::lease(state.at, state.token);
        let mut value = [0; 28];
        value[..16].copy_from_slice(&id.0.to_le_bytes());
        value[16..20].copy_from_slice(&state.queue.to_le_bytes());
        value[20..].copy_from_slice(&state.deliver_at.0.to_le_bytes());
        if fresh {
            store.insert(&key, &value);
        } else {
            store.put(&key, &value);
        }
        self.leases.get_mut().inserted((state.at.0, state.token.0.into()));
        self.queue_mut(state.queue)?.stats.leased += 1;
        Ok(())
    }

    /// Ends the lease of a task that will not wait again.
    pub(crate) fn end_lease(&mut self, store: &mut dyn Store, state: &State) -> Result<(), Fault> {
        self.lift_lease(store, state)?;
        self.leave(state)
    }

    /// Removes the lease row. The task's group counts it as leased until it waits again, or leaves.
    pub(crate) fn lift_lease(&mut self, store: &mut dyn Store, state: &State) -> Result<(), Fault> {
        store.delete(&key::lease(state.at, state.token));
        self.leases.get_mut().deleted((state.at.0, state.token.0.into()));
        let queue = self.queue_mut(state.queue)?;
        // Whoever waits for room is to look again.
        let was_full = queue.limits.concurrency.is_some_and(|limit| queue.stats.leased >= limit.into());
        decrease(&mut queue.stats.leased, "lease")?;
        if queue.served.probe == state.token {
            // It has not told whether deliveries succeed: another one is tried.
            queue.served.probe = Token(0);
            return self.touch(state.queue);
        }
        if was_full || state.member != Member::None { self.touch(state.queue) } else { Ok(()) }
    }

    /// Adds the dead row of a task that is in no index.
    pub(crate) fn bury(&mut self, store: &mut dyn Store, id: TaskId, state: &State) -> Result<(), Fault> {
        store.put(&key::dead(state.queue, state.deliver_at, id), &[]);
        self.queue_mut(state.queue)?.stats.dead += 1;
        self.release_slot(store, id)
    }

    /// Adds the TTL row of a new task that has one.
    pub(crate) fn note_ttl(&mut self, store: &mut dyn Store, id: TaskId, ttl_at: Millis) {
        if ttl_at != Millis::NEVER {
            store.insert(&key::ttl(ttl_at, id), &[]);
            self.ttls.get_mut().inserted((ttl_at.0, id.0));
        }
    }

    /// Removes the TTL row of a task that has one.
    pub(crate) fn forget_ttl(&mut self, store: &mut dyn Store, id: TaskId, ttl_at: Millis) {
        if ttl_at != Millis::NEVER {
            store.delete(&key::ttl(ttl_at, id));
            self.ttls.get_mut().deleted((ttl_at.0, id.0));
        }
    }

    /// Writes a task's state row, its revision one more than in `state`; `fresh`: its first.
    pub(crate) fn write_state(
        &mut self,
        store: &mut dyn Store,
        id: TaskId,
        state: &State,
        texts: Texts<'_>,
        fresh: bool,
    ) {
        self.buffer.clear();
        let state = State { revision: state.revision.saturating_add(1), ..*state };
        state.write(texts, &mut self.buffer);
        if fresh {
            store.insert(&key::state(id), &self.buffer);
        } else {
            store.put(&key::state(id), &self.buffer);
        }
    }

    /// Returns a token no lease ever had.
    pub(crate) fn next_token(&mut self) -> Token {
        let token = Token(self.meta.next_token);
        self.meta.next_token += 1;
        token
    }
}
