//! What the model knows of schedules: a list of them, each looked at after every step.

use std::collections::BTreeMap;

use proptest::prelude::*;
use z4_types::{Duration, Millis, QueueName, TaskId};

use super::super::strict::StrictStore;
use super::steps::{new_task, queue};
use super::{GRAIN, Model, State};
use crate::command::{
    Command, Due, Fire, Firing, NewTask, OnFailure, PauseSchedule, RunSchedule, SetMode, SetSchedule,
};
use crate::outcome::{Fired, Outcome, Refusal, ScheduleRun, ScheduleSet};
use crate::{
    LastRun, Machine, Overlap, Schedule, ScheduleCounts, SlotFate, schedule, schedule_history, schedules,
};

/// By queue and name.
pub(super) type All = BTreeMap<(QueueName, String), One>;

/// A schedule.
#[derive(Debug, Clone)]
pub(super) struct One {
    etag: u64,
    paused: bool,
    schedule: Schedule,
    next: Option<Millis>,
    passed: Millis,
    buffered: Option<Millis>,
    watched: Option<TaskId>,
    last: Option<LastRun>,
    counts: ScheduleCounts,
    history: Vec<(Millis, Millis, SlotFate)>,
}

/// What a random step does; slots are named by their distance from what the schedule waits for, so that they mostly hit.
#[derive(Debug, Clone)]
pub(super) enum Step {
    Set(u8, u8, SetMode, u8, Option<u64>, Box<Schedule>),
    Delete(u8, u8, u8),
    Pause(u8, u8, bool, u8),
    Run(u8, u8),
    Fire(u8, u8, u8, Option<u64>),
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    let overlap = prop_oneof![
        1 => Just(Overlap::Allow),
        1 => Just(Overlap::Skip),
        3 => Just(Overlap::BufferOne),
        1 => Just(Overlap::CancelPrevious)
    ];
    let mode =
        prop_oneof![1 => Just(SetMode::Create), 1 => Just(SetMode::Update), 4 => Just(SetMode::Upsert)];
    let described = (overlap, new_task()).prop_map(|(overlap, template)| {
        // The rest of it survives its bytes.
        let template = NewTask {
            due: Due::Now,
            request: None,
            key: None,
            after: Vec::new(),
            on_failure: OnFailure::default(),
            ..template
        };
        Box::new(Schedule {
            cron: "@every 50s".into(),
            zone: "UTC".into(),
            anchor: Millis(0),
            start: None,
            end: None,
            overlap,
            catch_up: Duration(1_000),
            jitter: Duration(0),
            template,
        })
    });
    let next = || proptest::option::weighted(0.9, 1..4u64);
    prop_oneof![
        3 => (0..2u8, 0..2u8, mode, 0..8u8, next(), described)
            .prop_map(|(queue, name, mode, luck, next, new)| Step::Set(queue, name, mode, luck, next, new)),
        1 => (0..2u8, 0..2u8, 0..8u8).prop_map(|(queue, name, luck)| Step::Delete(queue, name, luck)),
        1 => (0..2u8, 0..2u8, any::<bool>(), 0..8u8)
            .prop_map(|(queue, name, paused, luck)| Step::Pause(queue, name, paused, luck)),
        2 => (0..2u8, 0..2u8).prop_map(|(queue, name)| Step::Run(queue, name)),
        9 => (0..2u8, 0..2u8, 0..16u8, next())
            .prop_map(|(queue, name, luck, next)| Step::Fire(queue, name, luck, next)),
    ]
}

fn name(number: u8) -> String {
    ["n", "nightly"][usize::from(number)].to_owned()
}

impl Model {
    /// Builds the command of a step.
    pub(super) fn of_schedule(&self, step: &Step) -> Command {
        let known = |number: u8, of: u8| self.schedules.get(&(queue(number), name(of)));
        let etag_of = |number, of, luck: u8| {
            known(number, of).filter(|_| luck > 4).map(|one| one.etag + u64::from(luck == 7))
        };
        match step {
            Step::Set(number, of, mode, luck, next, new) => {
                let one = known(*number, *of);
                let from = one.map_or(Millis(self.now), |one| one.passed);
                let lucky = if *luck == 0 { None } else { one.and_then(|one| one.next) };
                Command::SetSchedule(Box::new(SetSchedule {
                    queue: queue(*number),
                    name: name(*of),
                    mode: *mode,
                    etag: etag_of(*number, *of, *luck),
                    seen: lucky,
                    schedule: (**new).clone(),
                    next: next.map(|steps| Millis(from.0 + (steps - u64::from(*luck == 1)) * GRAIN)),
                }))
            }
            Step::Delete(number, of, luck) => Command::DeleteSchedule {
                queue: queue(*number),
                name: name(*of),
                etag: etag_of(*number, *of, *luck),
            },
            Step::Pause(number, of, paused, luck) => Command::PauseSchedule(PauseSchedule {
                queue: queue(*number),
                name: name(*of),
                etag: etag_of(*number, *of, *luck),
                paused: *paused,
                note: "n".into(),
                author: "a".into(),
                next: Some(Millis(self.now + u64::from(*luck) * GRAIN)),
            }),
            Step::Run(number, of) => {
                Command::RunSchedule(RunSchedule { queue: queue(*number), name: name(*of), request: None })
            }
            Step::Fire(number, of, luck, next) => {
                let one = known(*number, *of);
                let released = one.filter(|one| one.watched.is_none()).and_then(|one| one.buffered);
                let waits = one.and_then(|one| one.next);
                let slot = released.filter(|_| luck % 2 == 0).or(waits).unwrap_or_default();
                let next = next.map(|steps| Millis(slot.0 + steps * GRAIN));
                let firing = match luck {
                    0 => Firing::Buffered { due: slot },
                    _ if released == Some(slot) => Firing::Buffered { due: slot },
                    1 | 2 => Firing::Late { slots: 3, last: Millis(slot.0 + 1), next },
                    3 => Firing::Slot { due: slot, next: Some(Millis(slot.0)) },
                    _ => Firing::Slot { due: Millis(slot.0 + u64::from(*luck)), next },
                };
                let etag = one.map_or(1, |one| one.etag) + u64::from(*luck == 15);
                Command::Fire(Fire { queue: queue(*number), name: name(*of), etag, slot, firing })
            }
        }
    }

    /// Applies a command about a schedule.
    pub(super) fn on_schedule(&mut self, command: &Command) -> Outcome {
        match command {
            Command::SetSchedule(set) => Outcome::ScheduleSet(self.set_schedule(set)),
            Command::DeleteSchedule { queue, name, etag } => {
                let key = (queue.clone(), name.clone());
                Outcome::ScheduleDeleted(self.same_schedule(&key, *etag).map(|()| {
                    self.schedules.remove(&key);
                }))
            }
            Command::PauseSchedule(pause) => Outcome::SchedulePaused(self.pause_schedule(pause)),
            Command::RunSchedule(run) => {
                let key = (run.queue.clone(), run.name.clone());
                let now = Millis(self.now);
                Outcome::ScheduleRun(self.same_schedule(&key, None).and_then(|()| {
                    match self.happen(&key, now, now, true) {
                        SlotFate::Fired { task, .. } => Ok(ScheduleRun::Created(task)),
                        SlotFate::Buffered { open } => Ok(ScheduleRun::Buffered { open }),
                        SlotFate::Overlapped { open } => {
                            let (queue, schedule) = key;
                            Err(Refusal::ScheduleOverlaps { queue, schedule, open })
                        }
                        _ => {
                            let limit = self.effective(&key.0).max_backlog.expect("else it is made");
                            Err(Refusal::BacklogFull { queue: key.0, limit })
                        }
                    }
                }))
            }
            Command::Fire(fire) => Outcome::SlotFired(self.fire(fire)),
            _ => unreachable!("not about a schedule"),
        }
    }

    fn same_schedule(&self, key: &(QueueName, String), etag: Option<u64>) -> Result<(), Refusal> {
        let (queue, schedule) = key.clone();
        let Some(one) = self.schedules.get(key) else {
            return Err(Refusal::ScheduleNotFound { queue, schedule });
        };
        match etag {
            Some(given) if given != one.etag => {
                Err(Refusal::ScheduleChanged { queue, schedule, etag: one.etag, given })
            }
            _ => Ok(()),
        }
    }

    fn set_schedule(&mut self, set: &SetSchedule) -> Result<ScheduleSet, Refusal> {
        let key = (set.queue.clone(), set.name.clone());
        let (queue, schedule) = key.clone();
        if !self.schedules.contains_key(&key) {
            if set.mode == SetMode::Update {
                return Err(Refusal::ScheduleNotFound { queue, schedule });
            }
            self.queues.entry(queue).or_default();
            let one = One {
                etag: 1,
                paused: false,
                schedule: set.schedule.clone(),
                next: set.next.filter(|next| next.0 > 0),
                passed: Millis(0),
                buffered: None,
                watched: None,
                last: None,
                counts: ScheduleCounts::default(),
                history: Vec::new(),
            };
            self.schedules.insert(key, one);
            return Ok(ScheduleSet { created: true, etag: 1 });
        }
        if set.mode == SetMode::Create {
            return Err(Refusal::ScheduleExists { queue, schedule });
        }
        self.same_schedule(&key, set.etag)?;
        let one = self.schedules.get_mut(&key).expect("it is there");
        if set.seen != one.next || set.next.is_some_and(|next| next <= one.passed) {
            return Err(Refusal::ScheduleMoved { queue, schedule });
        }
        if one.schedule != set.schedule || one.next != set.next {
            one.etag += 1;
            one.schedule = set.schedule.clone();
            one.next = if one.paused { None } else { set.next };
        }
        Ok(ScheduleSet { created: false, etag: one.etag })
    }

    fn pause_schedule(&mut self, pause: &PauseSchedule) -> Result<u64, Refusal> {
        let key = (pause.queue.clone(), pause.name.clone());
        self.same_schedule(&key, pause.etag)?;
        let now = Millis(self.now);
        let one = self.schedules.get_mut(&key).expect("it is there");
        if !pause.paused && !one.paused {
            return Ok(one.etag);
        }
        if !pause.paused && pause.next.is_some_and(|next| next <= one.passed) {
            let (queue, schedule) = key;
            return Err(Refusal::ScheduleMoved { queue, schedule });
        }
        one.etag += 1;
        one.paused = pause.paused;
        one.next = pause.next.filter(|_| !pause.paused);
        if pause.paused
            && let Some(slot) = one.buffered.take()
        {
            one.watched = None;
            one.counts.dropped += 1;
            one.history.push((slot, now, SlotFate::Dropped));
        }
        Ok(one.etag)
    }

    fn fire(&mut self, fire: &Fire) -> Fired {
        let key = (fire.queue.clone(), fire.name.clone());
        let now = Millis(self.now);
        let Some(one) = self.schedules.get_mut(&key) else { return Fired::Stale };
        let is_next = one.next == Some(fire.slot);
        let is_released = one.buffered == Some(fire.slot) && one.watched.is_none();
        if one.etag != fire.etag {
            return Fired::Stale;
        }
        let due = match fire.firing {
            Firing::Slot { due, next } if is_next => {
                (one.passed, one.next) = (fire.slot, next.filter(|next| *next > fire.slot));
                due
            }
            Firing::Late { slots, last, next } if is_next => {
                (one.passed, one.next) = (last, next.filter(|next| *next > last));
                one.counts.late += slots;
                one.history.push((fire.slot, now, SlotFate::Late { slots, last }));
                return Fired::Late(slots);
            }
            Firing::Buffered { due } if is_released => {
                one.buffered = None;
                due
            }
            _ => return Fired::Stale,
        };
        match self.happen(&key, fire.slot, due, false) {
            SlotFate::Fired { task, .. } => Fired::Created(task),
            SlotFate::Buffered { .. } => Fired::Buffered,
            SlotFate::Overlapped { .. } => Fired::Overlapped,
            _ => Fired::Refused,
        }
    }

    fn is_open(&self, id: TaskId) -> bool {
        let is_open = |state| matches!(state, State::Waiting | State::Leased { .. } | State::Blocked);
        self.tasks.iter().any(|task| task.id == id && is_open(task.state))
    }

    fn happen(&mut self, key: &(QueueName, String), slot: Millis, due: Millis, by_hand: bool) -> SlotFate {
        let one = self.schedules[key].clone();
        let open = one.last.map(|last| last.task).filter(|task| self.is_open(*task));
        let fate = match (one.schedule.overlap, open) {
            (Overlap::BufferOne, Some(open)) if one.buffered.is_none() => SlotFate::Buffered { open },
            (Overlap::BufferOne | Overlap::Skip, Some(open)) => SlotFate::Overlapped { open },
            (policy, open) => {
                let cancelled = open.filter(|_| policy == Overlap::CancelPrevious);
                if let Some(open) = cancelled {
                    self.cancel(open).expect("it is open");
                }
                let mut task = NewTask { due: Due::At(due), ..one.schedule.template.clone() };
                task.metadata.push(("z4.schedule".into(), key.1.clone()));
                task.metadata.push(("z4.slot".into(), slot.rfc3339()));
                match self.create(&key.0, None, &[task], &[]).remove(0) {
                    Ok(made) => SlotFate::Fired { task: made.id, cancelled },
                    Err(refusal) => SlotFate::Refused { why: refusal.to_string() },
                }
            }
        };
        if by_hand && matches!(fate, SlotFate::Overlapped { .. } | SlotFate::Refused { .. }) {
            return fate;
        }
        let now = Millis(self.now);
        let one = self.schedules.get_mut(key).expect("it is there");
        match &fate {
            SlotFate::Fired { task, .. } => {
                one.last = Some(LastRun { slot, task: *task });
                one.counts.fired += 1;
            }
            SlotFate::Buffered { open } => {
                (one.buffered, one.watched) = (Some(slot), Some(*open));
                one.counts.buffered += 1;
            }
            SlotFate::Overlapped { .. } => one.counts.overlapped += 1,
            _ => one.counts.refused += 1,
        }
        one.history.push((slot, now, fate.clone()));
        fate
    }

    /// Lets go of the tasks that are open no more.
    pub(super) fn release_slots(&mut self) {
        let watched = self.schedules.values().filter_map(|one| one.watched);
        let ended: Vec<TaskId> = watched.filter(|task| !self.is_open(*task)).collect();
        for one in self.schedules.values_mut() {
            one.watched = one.watched.filter(|task| !ended.contains(task));
        }
    }

    pub(super) fn compare_schedules(
        &self,
        machine: &Machine,
        store: &StrictStore,
    ) -> Result<(), TestCaseError> {
        let mut slots = Vec::new();
        for ((queue, name), one) in &self.schedules {
            let info = schedule(store, queue, name).expect("reads").expect("it is there");
            prop_assert_eq!((info.etag, &info.schedule, info.next), (one.etag, &one.schedule, one.next));
            prop_assert_eq!((info.paused.is_some(), info.buffered), (one.paused, one.buffered));
            prop_assert_eq!((info.last, info.counts), (one.last, one.counts));
            let rows = schedule_history(store, queue, name, None, 1_000).expect("reads");
            let rows = rows.expect("it is there").into_iter().rev();
            let rows: Vec<_> = rows.map(|row| (row.slot, row.at, row.fate)).collect();
            prop_assert_eq!(&rows, &one.history);
            slots.extend(one.next.map(|next| (next, queue, false, name)));
            slots.extend(one.buffered.filter(|_| one.watched.is_none()).map(|at| (at, queue, true, name)));
        }
        for number in 0..2 {
            let queue = queue(number);
            let names = schedules(store, &queue, None, 9).expect("reads").unwrap_or_default();
            let known = self.schedules.keys().filter(|(of, _)| *of == queue).map(|(_, name)| name);
            prop_assert!(names.iter().map(|info| &info.name).eq(known));
        }
        slots.sort();
        let first = slots.first().map(|slot| slot.0);
        prop_assert_eq!(machine.next_slot(store).expect("reads"), first);
        slots.retain(|slot| slot.0.0 <= self.now);
        let found = machine.due_slots(store, Millis(self.now), 99).expect("reads");
        let mut found: Vec<_> =
            found.iter().map(|slot| (slot.slot, &slot.queue, slot.buffered, &slot.name)).collect();
        prop_assert!(found.is_sorted_by_key(|slot| slot.0));
        found.sort();
        prop_assert_eq!(found, slots);
        Ok(())
    }
}
