//! Moving a schedule between its rows: the one place that keeps them and the order of slots in step.
//!
//! ```text
//!   what it does (s) ── how far it is (h) ──┬── its next slot, by time (t 0) ── a Fire ──▶ a task, a row of history (h)
//!                                           └── a slot that waits for a task to end (t 1, by task)
//!                                                   └── the task ends ──▶ by time (t 0), before all that come later
//! ```
//! What is due is found by time, so idle schedules cost nothing. Tasks whose end is waited for are in memory too: where
//! there are none, the end of a task costs a look at an empty tree.
//!
//! # Invariants
//! - A schedule has a slot row for its next slot, and one for a remembered slot whose time has come; before that, a watch row
//!   of the task it waits for, which is open.
//! - Rows of schedules are put, never inserted: names and slots come again.
//! # Not here
//! - What becomes of a slot: `apply/fire.rs`. Where slots come from: the leader.

use std::cell::Cell;
use std::collections::BTreeMap;

use z4_types::limits::SCHEDULE_HISTORY_MAX;
use z4_types::{Millis, TaskId};

use crate::codec::{Malformed, Reader};
use crate::head::Head;
use crate::machine::{Machine, locate};
use crate::queue::Paused;
use crate::rows::key::{self, Waits};
use crate::rows::{Definition, Phase, Progress, write_definition, write_fate};
use crate::schedule::{DueSlot, Schedule, SlotFate};
use crate::{Fault, Read, Store};

/// What is kept in memory of schedules.
#[derive(Debug)]
pub(crate) struct Slots {
    /// Invariant: equals its row, and counts the definitions.
    pub(crate) count: u64,
    /// By task whose end is waited for: queue and schedule. Invariant: equals the watch rows.
    pub(crate) watched: BTreeMap<TaskId, (u32, Box<str>)>,
    /// Head of the slot rows, by time alone.
    pub(crate) head: Cell<Head>,
}

impl Slots {
    /// Reads what there is: a row, and one for each schedule that waits for a task to end.
    pub(crate) fn open(store: &dyn Read) -> Result<Self, Fault> {
        let count = match store.get(&key::SCHEDULES)? {
            Some(value) => Reader::new(&value).u64("number of schedules")?,
            None => 0,
        };
        let (mut watched, mut malformed) = (BTreeMap::new(), None);
        let [from, to] = key::WATCHES;
        store.scan(from, to, &mut |key, value| {
            match key::read_watch(key).and_then(|id| Ok((id, read_watch(value)?))) {
                Ok((id, (queue, name))) => drop(watched.insert(id, (queue, name.into()))),
                Err(error) => malformed = Some(error),
            }
            malformed.is_none()
        })?;
        let slots = Self { count, watched, head: Cell::new(Head::UNKNOWN) };
        malformed.map_or(Ok(slots), |error| Err(error.into()))
    }
}

/// Reads the value of a watch row: queue and schedule.
pub(crate) fn read_watch(value: &[u8]) -> Result<(u32, &str), Malformed> {
    let mut reader = Reader::new(value);
    let queue = reader.u32("watching queue")?;
    Ok((queue, reader.text(reader.len(), "watching schedule")?))
}

/// Returns whether a task in that phase is open: it will be worked on yet.
fn is_open(phase: Phase) -> bool {
    phase != Phase::Dead && !phase.is_finished()
}

impl Machine {
    /// Returns when the next slot of any schedule is; it may be in the past. None: there is none. Costs no read while the
    /// head is known.
    ///
    /// # Errors
    /// If storage fails.
    pub fn next_slot(&self, store: &dyn Read) -> Result<Option<Millis>, Fault> {
        locate(
            store,
            &self.slots.head,
            |(at, _)| key::slots_from(Millis(at)),
            key::SLOTS[1],
            |key| key::read_slot(key).map(|(at, ..)| (at.0, 0)),
        )
    }

    /// Returns up to `limit` slots that have come by `now`, the earliest first.
    ///
    /// # Errors
    /// If storage fails.
    pub fn due_slots(&self, store: &dyn Read, now: Millis, limit: usize) -> Result<Vec<DueSlot>, Fault> {
        if self.next_slot(store)?.is_none_or(|at| at > now) {
            return Ok(Vec::new());
        }
        let (mut found, mut malformed) = (Vec::new(), None);
        let from = key::slots_from(Millis(self.slots.head.get().low().0));
        store.scan(&from, &key::slots_from(now + z4_types::Duration(1)), &mut |key, _| {
            match key::read_slot(key) {
                Ok((at, queue, waits, name)) => found.push((at, queue, waits, name.to_owned())),
                Err(error) => malformed = Some(error),
            }
            malformed.is_none() && found.len() < limit
        })?;
        if let Some(error) = malformed {
            return Err(error.into());
        }
        let due = found.into_iter().map(|(slot, number, waits, name)| {
            let value = definition_row(store, number, &name)?;
            let Definition { etag, schedule, .. } = Definition::read(&value)?;
            Ok(DueSlot {
                queue: self.queue(number)?.name.clone(),
                name,
                etag,
                slot,
                buffered: waits == Waits::Released,
                cron: schedule.cron.to_owned(),
                zone: schedule.zone.to_owned(),
                anchor: schedule.anchor,
                end: schedule.end,
                catch_up: schedule.catch_up,
                jitter: schedule.jitter,
                template_bytes: schedule.template.raw.len(),
            })
        });
        due.collect()
    }

    /// Returns how far a schedule is, and the number of its queue; None if there is no such schedule.
    pub(crate) fn progress(
        &self,
        store: &dyn Read,
        queue: &str,
        name: &str,
    ) -> Result<Option<(u32, Progress)>, Fault> {
        let Some(&number) = self.names.get(queue) else { return Ok(None) };
        let Some(value) = store.get(&key::progress(number, name))? else { return Ok(None) };
        Ok(Some((number, Progress::read(&value)?)))
    }

    /// Writes how far a schedule is.
    pub(crate) fn write_progress(
        &mut self,
        store: &mut dyn Store,
        number: u32,
        name: &str,
        progress: &Progress,
    ) {
        self.buffer.clear();
        progress.write(&mut self.buffer);
        store.put(&key::progress(number, name), &self.buffer);
    }

    /// Writes what a schedule does.
    pub(crate) fn write_definition(
        &mut self,
        store: &mut dyn Store,
        (number, name): (u32, &str),
        etag: u64,
        created_at: Millis,
        paused: Option<&Paused>,
        schedule: &Schedule,
    ) {
        self.buffer.clear();
        write_definition(etag, created_at, paused, schedule, &mut self.buffer);
        store.put(&key::schedule_of(number, name), &self.buffer);
    }

    /// Writes how many schedules there are.
    pub(crate) fn count_schedules(&mut self, store: &mut dyn Store, count: u64) {
        self.slots.count = count;
        store.put(&key::SCHEDULES, &count.to_le_bytes());
    }

    /// Lets a schedule wait for `next`, and for no other slot of its times.
    pub(crate) fn wait_for(
        &mut self,
        store: &mut dyn Store,
        number: u32,
        name: &str,
        progress: &mut Progress,
        next: Option<Millis>,
    ) {
        if let Some(before) = std::mem::replace(&mut progress.next, next) {
            self.forget_slot(store, before, number, Waits::Next, name);
        }
        if let Some(next) = next {
            self.note_slot(store, next, number, Waits::Next, name);
        }
    }

    /// Remembers a slot until the open task has ended.
    pub(crate) fn remember_slot(
        &mut self,
        store: &mut dyn Store,
        number: u32,
        name: &str,
        progress: &mut Progress,
        slot: Millis,
        open: TaskId,
    ) {
        (progress.buffered, progress.watched) = (Some(slot), Some(open));
        let value = [&number.to_le_bytes()[..], name.as_bytes()].concat();
        store.put(&key::watch(open), &value);
        self.slots.watched.insert(open, (number, name.into()));
    }

    /// Forgets the remembered slot of a schedule, if there is one.
    pub(crate) fn forget_buffered(
        &mut self,
        store: &mut dyn Store,
        number: u32,
        name: &str,
        progress: &mut Progress,
    ) {
        let Some(slot) = progress.buffered.take() else { return };
        match progress.watched.take() {
            Some(watched) => {
                self.slots.watched.remove(&watched);
                store.delete(&key::watch(watched));
            }
            None => self.forget_slot(store, slot, number, Waits::Released, name),
        }
    }

    /// The time of the remembered slot has come, if it waits for this task.
    pub(crate) fn release_of(
        &mut self,
        store: &mut dyn Store,
        number: u32,
        name: &str,
        progress: &mut Progress,
        ended: TaskId,
    ) {
        if progress.watched != Some(ended) {
            return;
        }
        if let Some(slot) = progress.buffered {
            progress.watched = None;
            self.slots.watched.remove(&ended);
            store.delete(&key::watch(ended));
            self.note_slot(store, slot, number, Waits::Released, name);
        }
    }

    /// A task is open no more: if a slot waits for that, its time has come.
    #[inline]
    pub(crate) fn release_slot(&mut self, store: &mut dyn Store, id: TaskId) -> Result<(), Fault> {
        if self.slots.watched.is_empty() {
            return Ok(());
        }
        self.release_watched(store, id)
    }

    fn release_watched(&mut self, store: &mut dyn Store, id: TaskId) -> Result<(), Fault> {
        let Some((number, name)) = self.slots.watched.get(&id).cloned() else { return Ok(()) };
        let lost = || Fault::corrupt(format!("schedule {name} waits for task {id} and has no progress row"));
        let value = store.get(&key::progress(number, &name))?.ok_or_else(lost)?;
        let mut progress = Progress::read(&value)?;
        drop(value);
        self.release_of(store, number, &name, &mut progress, id);
        self.write_progress(store, number, &name, &progress);
        Ok(())
    }

    /// Adds a row to a schedule's history, and forgets the one that is too old.
    pub(crate) fn note_fate(
        &mut self,
        store: &mut dyn Store,
        number: u32,
        name: &str,
        progress: &mut Progress,
        slot: Millis,
        fate: &SlotFate,
    ) {
        self.buffer.clear();
        write_fate(slot, self.meta.now, fate, &mut self.buffer);
        store.put(&key::history(number, name, progress.rows), &self.buffer);
        if let Some(old) = progress.rows.checked_sub(SCHEDULE_HISTORY_MAX) {
            store.delete(&key::history(number, name, old));
        }
        progress.rows += 1;
    }

    /// Returns the last task of a schedule, if it is open.
    pub(crate) fn open_task(&self, store: &dyn Store, progress: &Progress) -> Result<Option<TaskId>, Fault> {
        let Some(last) = progress.last else { return Ok(None) };
        let found = self.find(store, last.task)?;
        Ok(found.filter(|found| is_open(found.state.phase)).map(|_| last.task))
    }

    /// Returns the first schedule of a queue; None: it has none.
    pub(crate) fn first_schedule(&self, store: &dyn Read, number: u32) -> Result<Option<String>, Fault> {
        let mut first = None;
        let [from, to] = key::schedules_of(number);
        store.scan(&from, &to, &mut |key, _| {
            first = Some(key::read_schedule_of(key).map(|(_, name)| name.to_owned()));
            false
        })?;
        Ok(first.transpose()?)
    }

    fn note_slot(&mut self, store: &mut dyn Store, at: Millis, number: u32, waits: Waits, name: &str) {
        store.put(&key::slot(at, number, waits, name), &[]);
        self.slots.head.get_mut().inserted((at.0, 0));
    }

    fn forget_slot(&mut self, store: &mut dyn Store, at: Millis, number: u32, waits: Waits, name: &str) {
        store.delete(&key::slot(at, number, waits, name));
        self.slots.head.get_mut().deleted((at.0, 0));
    }
}

/// Returns the row of what a schedule does, whose other rows were found.
pub(crate) fn definition_row<'s>(
    store: &'s dyn Read,
    number: u32,
    name: &str,
) -> Result<std::borrow::Cow<'s, [u8]>, Fault> {
    store
        .get(&key::schedule_of(number, name))?
        .ok_or_else(|| Fault::corrupt(format!("schedule {name} of queue {number} lost its definition")))
}
