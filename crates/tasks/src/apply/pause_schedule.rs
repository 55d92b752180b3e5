//! PauseSchedule: whether a schedule fires.
//!
//! Slots that pass while it is paused are nobody's: they are neither fired nor counted, and a resume waits for the first one
//! after it. A slot that was remembered is given up. Tasks that were made stay.

use z4_types::limits::NOTE_BYTES_MAX;

use crate::codec::cut;
use crate::command::PauseSchedule;
use crate::machine::Machine;
use crate::outcome::Refusal;
use crate::queue::Paused;
use crate::rows::Definition;
use crate::schedule::SlotFate;
use crate::slots::definition_row;
use crate::{Fault, Store};

impl Machine {
    /// Returns the schedule's etag afterwards.
    pub(super) fn pause_schedule(
        &mut self,
        store: &mut dyn Store,
        pause: &PauseSchedule,
    ) -> Result<Result<u64, Refusal>, Fault> {
        let name = pause.name.as_str();
        let found = self.checked_schedule(store, pause.queue.as_str(), name, pause.etag)?;
        let (number, mut progress) = match found {
            Ok(found) => found,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let value = definition_row(store, number, name)?;
        let before = Definition::read(&value)?;
        let paused = pause.paused.then(|| Paused {
            since: self.meta.now,
            note: cut(&pause.note, NOTE_BYTES_MAX).to_owned(),
            author: cut(&pause.author, NOTE_BYTES_MAX).to_owned(),
            until: None,
        });
        if paused.is_none() && before.paused.is_none() {
            return Ok(Ok(before.etag));
        }
        if paused.is_none() && pause.next.is_some_and(|next| next <= progress.passed) {
            // Worked out by a clock that is behind: the slot has happened.
            let (queue, schedule) = (pause.queue.clone(), pause.name.clone());
            return Ok(Err(Refusal::ScheduleMoved { queue, schedule }));
        }
        let (etag, created_at) = (before.etag + 1, before.created_at);
        let schedule = before.schedule.to_schedule();
        drop(value);
        self.write_definition(store, (number, name), etag, created_at, paused.as_ref(), &schedule);
        if paused.is_some()
            && let Some(slot) = progress.buffered
        {
            self.forget_buffered(store, number, name, &mut progress);
            progress.counts.dropped += 1;
            self.note_fate(store, number, name, &mut progress, slot, &SlotFate::Dropped);
        }
        let next = pause.next.filter(|_| paused.is_none());
        self.wait_for(store, number, name, &mut progress, next);
        self.write_progress(store, number, name, &progress);
        Ok(Ok(etag))
    }
}
