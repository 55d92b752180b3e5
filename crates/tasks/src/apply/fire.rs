//! Fire and RunSchedule: what becomes of a slot.
//!
//! A Fire is taken if its slot is the one that the schedule waits for, and worked out from the schedule as it is now; every
//! other one has been overtaken and changes nothing. So it may be proposed again after any crash (ADR-0011 item 9).
//!
//! # Invariants
//! - The slots of a schedule happen once each, in their order: `Progress::passed` only grows.
//! - A slot that makes no task leaves a row of history and a count that say why.

use z4_types::limits::REASON_BYTES_MAX;
use z4_types::{Millis, TaskId};

use crate::codec::{Item, Reader, cut, put_item};
use crate::command::{Due, Fire, Firing, RunSchedule, SCHEDULE_KEY, SLOT_KEY};
use crate::dedup::Memory;
use crate::machine::Machine;
use crate::outcome::{Fired, Refusal, ScheduleRun};
use crate::rows::key::Scope;
use crate::rows::{Definition, Phase, Progress};
use crate::schedule::{LastRun, Overlap, SlotFate};
use crate::slots::definition_row;
use crate::{Fault, Store};

/// A schedule, while one of its slots happens.
struct At<'a> {
    number: u32,
    name: &'a str,
    slot: Millis,
    /// When its task is due.
    due: Millis,
    /// Somebody asked for it and hears the answer, so a "no" is not history.
    by_hand: bool,
}

/// What became of the slot, for whoever asked.
enum Became {
    Created(TaskId),
    Buffered(TaskId),
    Overlapped(TaskId),
    Refused(Refusal),
}

impl From<Became> for Fired {
    fn from(became: Became) -> Self {
        match became {
            Became::Created(task) => Self::Created(task),
            Became::Buffered(_) => Self::Buffered,
            Became::Overlapped(_) => Self::Overlapped,
            Became::Refused(_) => Self::Refused,
        }
    }
}

impl Machine {
    pub(super) fn fire(&mut self, store: &mut dyn Store, fire: &Fire) -> Result<Fired, Fault> {
        let name = fire.name.as_str();
        let Some((number, mut progress)) = self.progress(store, fire.queue.as_str(), name)? else {
            return Ok(Fired::Stale);
        };
        let slot = fire.slot;
        let waits = match fire.firing {
            Firing::Slot { .. } | Firing::Late { .. } => progress.next == Some(slot),
            Firing::Buffered { .. } => progress.watched.is_none() && progress.buffered == Some(slot),
        };
        let waits = waits || cfg!(feature = "bug-fire-takes-any-slot");
        if !waits || Definition::read(&definition_row(store, number, name)?)?.etag != fire.etag {
            return Ok(Fired::Stale);
        }
        let fired = match fire.firing {
            Firing::Late { slots, last, next } => {
                let last = last.max(slot);
                progress.passed = last;
                self.wait_for(store, number, name, &mut progress, next.filter(|next| *next > last));
                progress.counts.late = progress.counts.late.saturating_add(slots);
                self.note_fate(store, number, name, &mut progress, slot, &SlotFate::Late { slots, last });
                Fired::Late(slots)
            }
            Firing::Slot { due, next } => {
                progress.passed = slot;
                self.wait_for(store, number, name, &mut progress, next.filter(|next| *next > slot));
                self.happen(store, &At { number, name, slot, due, by_hand: false }, &mut progress)?.into()
            }
            Firing::Buffered { due } => {
                self.forget_buffered(store, number, name, &mut progress);
                self.happen(store, &At { number, name, slot, due, by_hand: false }, &mut progress)?.into()
            }
        };
        self.write_progress(store, number, name, &progress);
        Ok(fired)
    }

    pub(super) fn run_schedule(
        &mut self,
        store: &mut dyn Store,
        run: &RunSchedule,
    ) -> Result<Result<ScheduleRun, Refusal>, Fault> {
        let mut stale = None;
        if let Some(request) = run.request {
            match self.recall(store, Scope::Task, request)? {
                Memory::Answered(answer) => {
                    let first = answer.ids.first();
                    let first = first.ok_or_else(|| Fault::corrupt("a task's request row names no task"))?;
                    return Ok(Ok(ScheduleRun::Created(*first)));
                }
                Memory::Stale(at) => stale = Some(at),
                Memory::Nothing => {}
            }
        }
        let name = run.name.as_str();
        let Some((number, mut progress)) = self.progress(store, run.queue.as_str(), name)? else {
            let (queue, schedule) = (run.queue.clone(), run.name.clone());
            return Ok(Err(Refusal::ScheduleNotFound { queue, schedule }));
        };
        let now = self.meta.now;
        let at = At { number, name, slot: now, due: now, by_hand: true };
        let became = self.happen(store, &at, &mut progress)?;
        self.write_progress(store, number, name, &progress);
        Ok(match became {
            Became::Created(id) => {
                if let Some(request) = run.request {
                    self.remember(store, Scope::Task, request, stale, std::iter::once(id), Some(id));
                }
                Ok(ScheduleRun::Created(id))
            }
            Became::Buffered(open) => Ok(ScheduleRun::Buffered { open }),
            Became::Overlapped(open) => {
                let (queue, schedule) = (run.queue.clone(), run.name.clone());
                Err(Refusal::ScheduleOverlaps { queue, schedule, open })
            }
            Became::Refused(refusal) => Err(refusal),
        })
    }

    /// Lets a slot happen: makes its task, or says why not.
    fn happen(
        &mut self,
        store: &mut dyn Store,
        at: &At<'_>,
        progress: &mut Progress,
    ) -> Result<Became, Fault> {
        let &At { number, name, slot, due, by_hand } = at;
        let value = definition_row(store, number, name)?;
        let schedule = Definition::read(&value)?.schedule;
        let overlap = schedule.overlap;
        let mut task = schedule.template.to_new_task();
        drop(value);
        let open = if overlap == Overlap::Allow { None } else { self.open_task(store, progress)? };
        if let Some(open) = open {
            let fate = match overlap {
                Overlap::CancelPrevious => None,
                Overlap::BufferOne if progress.buffered.is_none() => {
                    self.remember_slot(store, number, name, progress, slot, open);
                    progress.counts.buffered += 1;
                    Some((SlotFate::Buffered { open }, Became::Buffered(open)))
                }
                Overlap::BufferOne | Overlap::Skip | Overlap::Allow if by_hand => {
                    return Ok(Became::Overlapped(open));
                }
                Overlap::BufferOne | Overlap::Skip | Overlap::Allow => {
                    progress.counts.overlapped += 1;
                    Some((SlotFate::Overlapped { open }, Became::Overlapped(open)))
                }
            };
            if let Some((fate, became)) = fate {
                self.note_fate(store, number, name, progress, slot, &fate);
                return Ok(became);
            }
            // Before the end of the task does it, which knows nothing of what is under way here.
            self.release_of(store, number, name, progress, open);
            let found = self
                .find(store, open)?
                .ok_or_else(|| Fault::corrupt("an open task vanished within an entry"))?;
            self.end(store, open, &found, Phase::Cancelled, None)?;
            self.queue_mut(number)?.stats.cancelled += 1;
        }
        task.due = Due::At(due);
        (task.request, task.key) = (None, None);
        task.after.clear();
        task.metadata.retain(|(key, _)| key != SCHEDULE_KEY && key != SLOT_KEY);
        task.metadata.push((SCHEDULE_KEY.to_owned(), name.to_owned()));
        task.metadata.push((SLOT_KEY.to_owned(), slot.rfc3339()));
        task.metadata.sort();
        let mut bytes = Vec::with_capacity(task.weight() + 64);
        put_item(&mut bytes, &task);
        let item = Item::read(&mut Reader::new(&bytes))?;
        let (fate, became) = match self.create_in(store, number, item)? {
            Ok(id) => {
                progress.last = Some(LastRun { slot, task: id });
                progress.counts.fired += 1;
                (SlotFate::Fired { task: id, cancelled: open }, Became::Created(id))
            }
            Err(refusal) if by_hand => return Ok(Became::Refused(refusal)),
            Err(refusal) => {
                progress.counts.refused += 1;
                let why = cut(&refusal.to_string(), REASON_BYTES_MAX).to_owned();
                (SlotFate::Refused { why }, Became::Refused(refusal))
            }
        };
        self.note_fate(store, number, name, progress, slot, &fate);
        Ok(became)
    }
}
