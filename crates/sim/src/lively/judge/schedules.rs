//! Schedules: what their owners do to them happens if it may, and what they have come to stands in the rows.
//!
//! A change brings the next slot with it, worked out by whoever proposed it: it must be the one the schedule waited for if the
//! times are the same, and the first one after a time that has come if they are not. So nobody's change passes over a slot
//! that is still to come, and none brings one back that has happened.
//!
//! # Invariants
//! - What `info` says equals the rows at the end of each entry that touched the schedule, and its history as well.
//! # Not here
//! - What happens at a slot: `slots.rs`.

use z4_tasks::command::{PauseSchedule, SetMode, SetSchedule};
use z4_tasks::outcome::{Refusal, ScheduleSet};
use z4_tasks::{Machine, Paused, Read, Schedule, ScheduleCounts, ScheduleInfo, SlotFate};
use z4_types::limits::SCHEDULE_HISTORY_MAX;
use z4_types::{Millis, QueueName, TaskId};

use super::slots::slot_after;
use super::{Judge, PREFIX};
use crate::checks::{Checked, ensure};
use crate::report::Reached;

/// Remembered slots looked at to see which may happen: more than there are.
const RELEASED_MAX: usize = 10_000;

/// A schedule.
#[derive(Debug, Clone)]
pub struct Scheduled {
    /// What is told of it.
    pub info: ScheduleInfo,
    /// The last of its slots that has happened.
    pub passed: Millis,
    /// The task for whose end its remembered slot waits; None: that may happen.
    pub(super) watched: Option<TaskId>,
    /// Only the rows know whether that has ended.
    pub(super) unsure: bool,
    /// Rows of its history.
    pub rows: u64,
    /// Those of this entry: slot, time, and what became of it; None: only the rows know.
    fresh: Vec<(Millis, Millis, Option<SlotFate>)>,
}

impl Scheduled {
    /// Adds a row of history.
    pub(super) fn note(&mut self, slot: Millis, at: Millis, fate: Option<SlotFate>) {
        self.rows += 1;
        self.fresh.push((slot, at, fate));
    }

    /// Returns whether its remembered slot may happen; None: only the rows know.
    pub(super) fn is_released(&self) -> Option<bool> {
        if self.unsure { None } else { Some(self.watched.is_none()) }
    }
}

impl Judge {
    /// The rows of a schedule have changed.
    pub(super) fn moved_schedule(&mut self, queue: &QueueName, name: &str) {
        self.busy.insert(queue.clone());
        self.moved.insert((queue.clone(), name.to_owned()));
    }

    /// Checks a condition on a schedule's etag, and that it is there. Returns whether it was done.
    fn schedule_condition<T>(
        &self,
        (queue, name): (&QueueName, &str),
        given: Option<u64>,
        answer: &Result<T, Refusal>,
        reached: &mut Reached,
    ) -> Result<bool, crate::checks::Violation> {
        let known = self.queues.get(queue).and_then(|queue| queue.schedules.get(name));
        let etag = known.map(|known| known.info.etag);
        match answer {
            Err(Refusal::ScheduleNotFound { .. }) => {
                ensure!(etag.is_none(), "STATE", "{queue} has a schedule {name}, and it is not found");
                reached.reach("no such schedule");
            }
            Err(Refusal::ScheduleChanged { .. }) => {
                let stale = given.is_some_and(|given| given != etag.unwrap_or(0));
                ensure!(stale, "ETAG", "schedule {name} of {queue} has etag {etag:?}, not {given:?}");
                reached.reach("stale etag of a schedule refused");
            }
            Err(_) => {}
            Ok(_) => {
                ensure!(
                    given.is_none_or(|given| given == etag.unwrap_or(0)),
                    "ETAG",
                    "schedule {name} of {queue} has etag {etag:?}, and was changed with {given:?}"
                );
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub(super) fn schedule_set(
        &mut self,
        set: &SetSchedule,
        answer: &Result<ScheduleSet, Refusal>,
        reached: &mut Reached,
    ) -> Checked {
        let (queue, name, now) = (&set.queue, set.name.as_str(), self.now);
        if !queue.as_str().starts_with(PREFIX) {
            return Ok(());
        }
        let known = self.queues.get(queue).and_then(|queue| queue.schedules.get(name)).cloned();
        if !self.schedule_condition((queue, name), set.etag, answer, reached)? {
            match (answer, &known) {
                (Err(Refusal::ScheduleExists { .. }), Some(_)) => {
                    ensure!(set.mode == SetMode::Create, "STATE", "{name} of {queue} was to be changed");
                    reached.reach("schedule exists already");
                }
                (Err(Refusal::ScheduleMoved { .. }), Some(known)) => {
                    let back = set.next.is_some_and(|next| next <= known.passed);
                    let moved = set.seen != known.info.next || back;
                    ensure!(moved, "SLOT", "{name} of {queue} waits for {:?}, as was seen", known.info.next);
                    reached.reach("schedule moved meanwhile");
                }
                (Err(Refusal::ScheduleNotFound { .. }), None) => {
                    ensure!(set.mode == SetMode::Update, "STATE", "{name} of {queue} was to be made");
                }
                (Err(Refusal::ScheduleChanged { .. }), _) => {}
                _ => ensure!(false, "STATE", "{name} of {queue} is {known:?}, it was set: {answer:?}"),
            }
            return Ok(());
        }
        let Ok(told) = answer else { return Ok(()) };
        let Some(mut one) = known else {
            ensure!(
                set.mode != SetMode::Update && *told == ScheduleSet { created: true, etag: 1 },
                "STATE",
                "{queue} has no schedule {name}, it was set: {told:?}"
            );
            first_slot(&set.schedule, set.next, now)?;
            let info = ScheduleInfo {
                queue: queue.clone(),
                name: name.to_owned(),
                schedule: set.schedule.clone(),
                etag: 1,
                created_at: now,
                paused: None,
                next: set.next,
                buffered: None,
                last: None,
                counts: ScheduleCounts::default(),
            };
            let (passed, fresh) = (Millis(0), Vec::new());
            let one = Scheduled { info, passed, watched: None, unsure: false, rows: 0, fresh };
            self.used(queue).schedules.insert(name.to_owned(), one);
            self.moved_schedule(queue, name);
            reached.reach("schedule made");
            return Ok(());
        };
        ensure!(set.mode != SetMode::Create, "STATE", "{queue} has a schedule {name}, and it was made");
        ensure!(
            set.seen == one.info.next && set.next.is_none_or(|next| next > one.passed),
            "SLOT",
            "{name} of {queue} waits for {:?} and has passed {}; it was changed to wait for {:?}, seen {:?}",
            one.info.next,
            one.passed,
            set.next,
            set.seen
        );
        let times = |of: &Schedule| (of.cron.clone(), of.start, of.end, of.anchor);
        if one.info.paused.is_none() && times(&one.info.schedule) == times(&set.schedule) {
            ensure!(
                set.next == one.info.next,
                "SLOT",
                "{name} of {queue} waited for {:?}, now for {:?}, and its times are the same",
                one.info.next,
                set.next
            );
        } else if one.info.paused.is_none() {
            first_slot(&set.schedule, set.next, now)?;
            reached.reach("times of a schedule changed");
        }
        if one.info.schedule != set.schedule || one.info.next != set.next {
            one.info.etag += 1;
            one.info.schedule = set.schedule.clone();
            one.info.next = set.next.filter(|_| one.info.paused.is_none());
        }
        ensure!(
            *told == ScheduleSet { created: false, etag: one.info.etag },
            "ETAG",
            "schedule {name} of {queue} has etag {}, and {told:?} is told",
            one.info.etag
        );
        self.put_schedule(one);
        reached.reach("schedule changed");
        Ok(())
    }

    fn put_schedule(&mut self, one: Scheduled) {
        let (queue, name) = (one.info.queue.clone(), one.info.name.clone());
        self.moved_schedule(&queue, &name);
        self.queues.get_mut(&queue).expect("it has a schedule").schedules.insert(name, one);
    }

    pub(super) fn schedule_deleted(
        &mut self,
        queue: &QueueName,
        name: &str,
        etag: Option<u64>,
        answer: &Result<(), Refusal>,
        reached: &mut Reached,
    ) -> Checked {
        if !queue.as_str().starts_with(PREFIX)
            || !self.schedule_condition((queue, name), etag, answer, reached)?
        {
            return Ok(());
        }
        let gone = self.queues.get_mut(queue).and_then(|queue| queue.schedules.remove(name));
        ensure!(gone.is_some(), "STATE", "{queue} has no schedule {name}, and it was deleted");
        // Another one of its name might wait for the same slot.
        self.fires.retain(|fire| fire.queue != *queue || fire.name != name);
        self.moved_schedule(queue, name);
        reached.reach("schedule deleted");
        Ok(())
    }

    pub(super) fn schedule_paused(
        &mut self,
        pause: &PauseSchedule,
        answer: &Result<u64, Refusal>,
        reached: &mut Reached,
    ) -> Checked {
        let (queue, name, now) = (&pause.queue, pause.name.as_str(), self.now);
        if !queue.as_str().starts_with(PREFIX) {
            return Ok(());
        }
        let known = self.queues.get(queue).and_then(|queue| queue.schedules.get(name)).cloned();
        if !self.schedule_condition((queue, name), pause.etag, answer, reached)? {
            if let (Err(Refusal::ScheduleMoved { .. }), Some(known)) = (answer, &known) {
                let back = pause.next.is_some_and(|next| next <= known.passed);
                ensure!(!pause.paused && back, "SLOT", "{name} of {queue} has passed {}", known.passed);
                reached.reach("schedule moved meanwhile");
            }
            return Ok(());
        }
        let Some(mut one) = known else {
            ensure!(false, "STATE", "{queue} has no schedule {name}, and it was paused or resumed");
            return Ok(());
        };
        if pause.paused || one.info.paused.is_some() {
            one.info.etag += 1;
            if pause.paused {
                let (note, author) = (pause.note.clone(), pause.author.clone());
                one.info.paused = Some(Paused { since: now, note, author, until: None });
                one.info.next = None;
                if let Some(slot) = one.info.buffered.take() {
                    (one.watched, one.unsure) = (None, false);
                    one.info.counts.dropped += 1;
                    one.note(slot, now, Some(SlotFate::Dropped));
                    reached.reach("remembered slot given up");
                }
                reached.reach("schedule paused");
            } else {
                let back = pause.next.is_some_and(|next| next <= one.passed);
                ensure!(
                    !back,
                    "SLOT",
                    "{name} of {queue} has passed {}, resumed for {:?}",
                    one.passed,
                    pause.next
                );
                first_slot(&one.info.schedule, pause.next, now)?;
                (one.info.paused, one.info.next) = (None, pause.next);
                reached.reach("schedule resumed");
            }
        }
        let etag = one.info.etag;
        ensure!(
            *answer == Ok(etag),
            "ETAG",
            "schedule {name} of {queue} has etag {etag}, told is {answer:?}"
        );
        self.put_schedule(one);
        Ok(())
    }

    /// Lets go of the tasks that are open no more.
    pub(super) fn release_slots(&mut self) {
        let schedules = self.queues.values().flat_map(|queue| queue.schedules.values());
        let watched = schedules.filter_map(|one| one.watched.map(|task| (one, task)));
        let ended = watched.filter(|(_, task)| self.is_unfinished(*task) != Some(true));
        let ended: Vec<_> = ended
            .map(|(one, task)| (one.info.queue.clone(), one.info.name.clone(), self.is_unfinished(task)))
            .collect();
        for (queue, name, open) in ended {
            let queue = self.queues.get_mut(&queue).expect("looked at above");
            let one = queue.schedules.get_mut(&name).expect("looked at above");
            match open {
                None => one.unsure = true,
                Some(_) => (one.watched, one.unsure) = (None, false),
            }
        }
    }

    /// Compares what the entry touched of schedules with the rows.
    pub(super) fn compare_schedules(&mut self, machine: &Machine, rows: &dyn Read) -> Checked {
        self.adopt_released(machine, rows);
        for (queue, name) in std::mem::take(&mut self.moved) {
            let found = z4_tasks::schedule(rows, &queue, &name).expect("rows in memory can be read");
            let known = self.queues.get_mut(&queue).and_then(|queue| queue.schedules.get_mut(&name));
            let Some(one) = known else {
                ensure!(found.is_none(), "STATE", "schedule {name} of {queue} was deleted, and is there");
                continue;
            };
            ensure!(
                found.as_ref() == Some(&one.info),
                "SLOT",
                "schedule {name} of {queue} is {found:?}, and must be {:?}",
                one.info
            );
            let count = one.fresh.len().min(SCHEDULE_HISTORY_MAX as usize);
            let told = z4_tasks::schedule_history(rows, &queue, &name, None, count.max(1));
            let told = told.expect("rows in memory can be read").unwrap_or_default();
            let newest = told.first().map_or(0, |row| row.number + 1);
            ensure!(
                newest == one.rows,
                "SLOT",
                "{name} of {queue} has {newest} rows of history, not {}",
                one.rows
            );
            for (row, (slot, at, fate)) in told.iter().zip(one.fresh.drain(..).rev()) {
                let same = match (&row.fate, &fate) {
                    (_, None) => true,
                    (SlotFate::Refused { why }, Some(SlotFate::Refused { .. })) => !why.is_empty(),
                    (told, Some(known)) => told == known,
                };
                ensure!(
                    (row.slot, row.at) == (slot, at) && same,
                    "SLOT",
                    "history of {name} of {queue} says {row:?}; at {at} became of slot {slot}: {fate:?}"
                );
            }
        }
        Ok(())
    }

    /// Takes from the rows whose remembered slots may happen, where nobody knows.
    fn adopt_released(&mut self, machine: &Machine, rows: &dyn Read) {
        let all = self.queues.values_mut().flat_map(|queue| queue.schedules.values_mut());
        for one in all.filter(|one| one.unsure) {
            one.unsure = false;
            let due = machine.due_slots(rows, Millis::MAX_NAMEABLE, RELEASED_MAX);
            let due = due.expect("rows in memory can be read");
            let released = |slot: &z4_tasks::DueSlot| {
                slot.buffered && slot.queue == one.info.queue && slot.name == one.info.name
            };
            if due.iter().any(released) {
                one.watched = None;
            }
        }
    }
}

/// The slot that a schedule waits for from now on is the first one behind a time that has come.
fn first_slot(schedule: &Schedule, next: Option<Millis>, now: Millis) -> Checked {
    let latest = slot_after(schedule, now);
    let Some(next) = next else {
        ensure!(latest.is_none(), "SLOT", "{schedule:?} has slot {latest:?} after {now}, and waits for none");
        return Ok(());
    };
    ensure!(
        latest.is_none_or(|latest| next <= latest)
            && slot_after(schedule, Millis(next.0.saturating_sub(1))) == Some(next),
        "SLOT",
        "{schedule:?} waits for {next} at {now}, its next slot is {latest:?}"
    );
    Ok(())
}
