//! SetSchedule and DeleteSchedule: makes a schedule or changes it, if it is as the caller saw it; or forgets it.
//!
//! The next slot comes with the command, and was worked out from what the schedule waited for then. If that has moved, a slot
//! could fire twice or not at all: the command is refused, and its proposer works it out again.

use z4_types::QueueName;
use z4_types::limits::{QUEUES_PER_SHARD_MAX, SCHEDULE_HISTORY_MAX, SCHEDULES_PER_SHARD_MAX};

use crate::command::{SetMode, SetSchedule};
use crate::machine::Machine;
use crate::outcome::{Refusal, ScheduleSet};
use crate::rows::{Definition, Progress, key};
use crate::slots::definition_row;
use crate::{Fault, Store};

impl Machine {
    pub(super) fn set_schedule(
        &mut self,
        store: &mut dyn Store,
        set: SetSchedule,
    ) -> Result<Result<ScheduleSet, Refusal>, Fault> {
        let SetSchedule { queue, name, mode, etag, seen, schedule, next } = set;
        let named = || (queue.clone(), name.clone());
        let Some((number, mut progress)) = self.progress(store, queue.as_str(), &name)? else {
            if mode == SetMode::Update {
                let (queue, schedule) = named();
                return Ok(Err(Refusal::ScheduleNotFound { queue, schedule }));
            }
            if let Some(given) = etag.filter(|etag| *etag != 0) {
                let (queue, schedule) = named();
                return Ok(Err(Refusal::ScheduleChanged { queue, schedule, etag: 0, given }));
            }
            if self.slots.count >= SCHEDULES_PER_SHARD_MAX {
                return Ok(Err(Refusal::TooManySchedules(self.slots.count)));
            }
            if !self.names.contains_key(queue.as_str()) && self.names.len() >= QUEUES_PER_SHARD_MAX {
                return Ok(Err(Refusal::TooManyQueues(self.names.len())));
            }
            let number = self.intern(store, queue.as_str());
            self.tune_events(number)?;
            self.count_schedules(store, self.slots.count + 1);
            self.write_definition(store, (number, &name), 1, self.meta.now, None, &schedule);
            let mut progress = Progress::default();
            self.wait_for(store, number, &name, &mut progress, next.filter(|next| next.0 > 0));
            self.write_progress(store, number, &name, &progress);
            return Ok(Ok(ScheduleSet { created: true, etag: 1 }));
        };
        if mode == SetMode::Create {
            let (queue, schedule) = named();
            return Ok(Err(Refusal::ScheduleExists { queue, schedule }));
        }
        let value = definition_row(store, number, &name)?;
        let before = Definition::read(&value)?;
        if let Some(given) = etag.filter(|etag| *etag != before.etag) {
            let (queue, schedule) = named();
            return Ok(Err(Refusal::ScheduleChanged { queue, schedule, etag: before.etag, given }));
        }
        let moved = seen != progress.next || next.is_some_and(|next| next <= progress.passed);
        if moved {
            let (queue, schedule) = named();
            return Ok(Err(Refusal::ScheduleMoved { queue, schedule }));
        }
        // As queues: a change of nothing leaves the etag, so that repeating it is harmless.
        if before.schedule.to_schedule() == schedule && next == progress.next {
            return Ok(Ok(ScheduleSet { created: false, etag: before.etag }));
        }
        let (etag, created_at, paused) = (before.etag + 1, before.created_at, before.paused.clone());
        drop(value);
        self.write_definition(store, (number, &name), etag, created_at, paused.as_ref(), &schedule);
        // A paused one waits for nothing, whatever was worked out.
        let next = next.filter(|_| paused.is_none());
        self.wait_for(store, number, &name, &mut progress, next);
        self.write_progress(store, number, &name, &progress);
        Ok(Ok(ScheduleSet { created: false, etag }))
    }

    /// Forgets a schedule with its history. Its tasks stay.
    pub(super) fn delete_schedule(
        &mut self,
        store: &mut dyn Store,
        queue: &str,
        name: &str,
        etag: Option<u64>,
    ) -> Result<Result<(), Refusal>, Fault> {
        let (number, mut progress) = match self.checked_schedule(store, queue, name, etag)? {
            Ok(found) => found,
            Err(refusal) => return Ok(Err(refusal)),
        };
        self.wait_for(store, number, name, &mut progress, None);
        self.forget_buffered(store, number, name, &mut progress);
        for row in progress.rows.saturating_sub(SCHEDULE_HISTORY_MAX)..progress.rows {
            store.delete(&key::history(number, name, row));
        }
        store.delete(&key::progress(number, name));
        store.delete(&key::schedule_of(number, name));
        self.count_schedules(store, self.slots.count - 1);
        Ok(Ok(()))
    }

    /// Returns a schedule to change, if it is there and as the caller saw it.
    pub(super) fn checked_schedule(
        &self,
        store: &dyn Store,
        queue: &str,
        name: &str,
        etag: Option<u64>,
    ) -> Result<Result<(u32, Progress), Refusal>, Fault> {
        let names = || {
            let queue = QueueName::new(queue).expect("validated when the entry was read");
            (queue, name.to_owned())
        };
        let Some((number, progress)) = self.progress(store, queue, name)? else {
            let (queue, schedule) = names();
            return Ok(Err(Refusal::ScheduleNotFound { queue, schedule }));
        };
        let Some(given) = etag else { return Ok(Ok((number, progress))) };
        let etag = Definition::read(&definition_row(store, number, name)?)?.etag;
        if given != etag {
            let (queue, schedule) = names();
            return Ok(Err(Refusal::ScheduleChanged { queue, schedule, etag, given }));
        }
        Ok(Ok((number, progress)))
    }
}
