//! Slots: each of a schedule happens once and in its order, over crashes and leaders, and history says what became of it.
//!
//! Where slots lie is worked out here by arithmetic, from the few expressions that clients use: the leader's cron is not
//! asked. What happens at one follows from the schedule's policy and from whether its last task is open; a `Fire` that is not
//! the one the schedule waits for, be it an old leader's or sent again, changes nothing.
//!
//! # Caveats
//! - Whether a slot is late goes by the clock of the leader that proposed it, which may be behind the shard's time until that
//!   leader has applied what is before its own entries.
//! # Not here
//! - What owners do to schedules, and the comparison with the rows: `schedules.rs`.

use z4_tasks::command::{Due, Fire, Firing, NewTask, RunSchedule, SCHEDULE_KEY, SLOT_KEY};
use z4_tasks::outcome::{Fired, Refusal, ScheduleRun};
use z4_tasks::{EventKind, LastRun, Overlap, Read, Schedule, SlotFate};
use z4_types::limits::REQUEST_WINDOW_MS;
use z4_types::{Millis, QueueName, TaskId};

use super::schedules::Scheduled;
use super::state::{Stand, row};
use super::{Judge, PREFIX};
use crate::checks::{Checked, ensure};
use crate::report::Reached;

/// Expressions that clients use beside `@every`, with the time between their slots, which lie at its multiples.
pub const CRONS: [(&str, u64); 4] =
    [("*/10 * * * * *", 10_000), ("* * * * *", 60_000), ("*/5 * * * *", 300_000), ("@hourly", 3_600_000)];

/// Slots that are remembered, to be proposed once more.
const FIRES_MAX: usize = 16;

/// What a period begins with; seconds follow.
pub const EVERY: &str = "@every ";

/// What became of a slot, as its proposer heard it.
enum Became {
    Task(TaskId),
    Remembered,
    Overlapped,
    Refused,
}

/// A slot that happens.
struct At<'a> {
    queue: &'a QueueName,
    name: &'a str,
    slot: Millis,
    due: Millis,
    /// Somebody hears of it, so a "no" is not history.
    by_hand: bool,
}

/// Returns the milliseconds between two slots.
fn period(schedule: &Schedule) -> u64 {
    let every = |text: &str| text.strip_prefix(EVERY)?.strip_suffix('s')?.parse::<u64>().ok();
    let known = || CRONS.iter().find(|(cron, _)| *cron == schedule.cron).map(|(_, period)| *period);
    let period = every(&schedule.cron).map(|seconds| seconds * 1_000).or_else(known);
    period.expect("clients use no other expression")
}

/// Returns the first slot of a schedule after a time; None: it has none any more.
pub(super) fn slot_after(schedule: &Schedule, after: Millis) -> Option<Millis> {
    let origin = if schedule.cron.starts_with(EVERY) { schedule.anchor.0 } else { 0 };
    let (from, period) = (after.max(schedule.anchor).0, period(schedule));
    let slot = Millis(origin + ((from - origin) / period + 1) * period);
    schedule.end.is_none_or(|end| slot <= end).then_some(slot)
}

/// Returns how many slots there are from one to another; None: these are none.
fn slots_between(schedule: &Schedule, first: Millis, last: Millis) -> Option<u64> {
    let (span, period) = (last.0.checked_sub(first.0)?, period(schedule));
    (span.is_multiple_of(period) && schedule.end.is_none_or(|end| last <= end)).then_some(span / period + 1)
}

impl Judge {
    fn scheduled(&mut self, queue: &QueueName, name: &str) -> Option<&mut Scheduled> {
        self.queues.get_mut(queue)?.schedules.get_mut(name)
    }

    pub(super) fn fired(
        &mut self,
        rows: &dyn Read,
        fire: &Fire,
        fired: Fired,
        reached: &mut Reached,
    ) -> Checked {
        let (queue, name, slot) = (&fire.queue, fire.name.as_str(), fire.slot);
        let (now, stamp) = (self.now, self.stamp);
        if !queue.as_str().starts_with(PREFIX) {
            return Ok(());
        }
        let Some(one) = self.scheduled(queue, name) else {
            ensure!(fired == Fired::Stale, "SLOT", "{queue} has no schedule {name}, and it fired: {fired:?}");
            return Ok(());
        };
        let waits = match fire.firing {
            Firing::Slot { .. } | Firing::Late { .. } => Some(one.info.next == Some(slot)),
            Firing::Buffered { .. } if one.info.buffered != Some(slot) => Some(false),
            Firing::Buffered { .. } => one.is_released(),
        };
        let waits = if fire.etag == one.info.etag { waits } else { Some(false) };
        if fired == Fired::Stale {
            ensure!(
                waits != Some(true),
                "SLOT",
                "{queue}, {name} waits for slot {slot}, which was passed over"
            );
            reached.reach("stale fire changed nothing");
            return Ok(());
        }
        ensure!(
            waits != Some(false),
            "SLOT",
            "{queue}, {name} fired with {fire:?}: {fired:?}; it waits for {:?}, remembers {:?}, has etag {}",
            one.info.next,
            one.info.buffered,
            one.info.etag
        );
        self.remember_fire(fire);
        let one = self.scheduled(queue, name).expect("looked at above");
        ensure!(slot <= stamp, "P2", "slot {slot} of {queue}, {name} happened at {stamp}");
        let schedule = &one.info.schedule;
        let late_until = stamp - schedule.catch_up;
        match fire.firing {
            Firing::Late { slots, last, next } => {
                ensure!(
                    last < late_until && slots_between(schedule, slot, last) == Some(slots),
                    "SLOT",
                    "{slots} slots of {queue}, {name} from {slot} to {last} were late at {stamp}: {schedule:?}"
                );
                let wanted = slot_after(schedule, last);
                ensure!(
                    next == wanted && fired == Fired::Late(slots),
                    "SLOT",
                    "behind {slots} late slots of {queue}, {name} comes {wanted:?}, not {next:?}: {fired:?}"
                );
                (one.passed, one.info.next) = (last, next);
                one.info.counts.late += slots;
                one.note(slot, now, Some(SlotFate::Late { slots, last }));
                self.moved_schedule(queue, name);
                reached.reach("slot late");
                return Ok(());
            }
            Firing::Slot { due, next } => {
                let wanted = slot_after(schedule, slot);
                ensure!(
                    next == wanted,
                    "SLOT",
                    "behind slot {slot} of {queue}, {name} is {next:?}, not {wanted:?}"
                );
                ensure!(slot > one.passed, "SLOT", "slot {slot} of {queue}, {name} is behind {}", one.passed);
                ensure!(
                    slot >= late_until,
                    "SLOT",
                    "slot {slot} of {queue}, {name} is late, and happens at {stamp}"
                );
                ensure!(
                    slot <= due && due <= slot + schedule.jitter,
                    "SLOT",
                    "the task of slot {slot} of {queue}, {name} is due at {due}"
                );
                if due > slot {
                    reached.reach("slot's task is due later");
                }
                (one.passed, one.info.next) = (slot, next);
            }
            Firing::Buffered { .. } => {
                (one.info.buffered, one.watched, one.unsure) = (None, None, false);
                reached.reach("remembered slot happened");
            }
        }
        let (Firing::Slot { due, .. } | Firing::Buffered { due }) = fire.firing else { return Ok(()) };
        let became = match fired {
            Fired::Created(id) => Became::Task(id),
            Fired::Buffered => Became::Remembered,
            Fired::Overlapped => Became::Overlapped,
            Fired::Refused => Became::Refused,
            Fired::Stale | Fired::Late(_) => {
                ensure!(false, "SLOT", "slot {slot} of {queue}, {name} came in time, and is told {fired:?}");
                return Ok(());
            }
        };
        self.happens(rows, &At { queue, name, slot, due, by_hand: false }, &became, reached)
    }

    /// Clients send it again, as an old leader would.
    fn remember_fire(&mut self, fire: &Fire) {
        if self.fires.len() >= FIRES_MAX {
            self.fires.remove(0);
        }
        self.fires.push(fire.clone());
    }

    pub(super) fn schedule_run(
        &mut self,
        rows: &dyn Read,
        run: &RunSchedule,
        answer: &Result<ScheduleRun, Refusal>,
        reached: &mut Reached,
    ) -> Checked {
        let (queue, name, now) = (&run.queue, run.name.as_str(), self.now);
        if !queue.as_str().starts_with(PREFIX) {
            return Ok(());
        }
        if let Ok(ScheduleRun::Created(id)) = answer {
            let before = run.request.and_then(|request| self.runs.get(&request)).copied();
            if self.tasks.contains_key(id) {
                ensure!(before == Some(*id), "P6", "a run of {name} is told task {id}, which is not its own");
                reached.reach("run of a schedule repeated");
                return Ok(());
            }
            let apart = before.map(|before| now.since(before.created_at()).0);
            ensure!(
                apart.is_none_or(|apart| apart >= REQUEST_WINDOW_MS),
                "P6",
                "a run of {name} was made twice: tasks {before:?} and {id}, {apart:?} ms apart"
            );
            self.runs.extend(run.request.map(|request| (request, *id)));
        }
        let known = self.scheduled(queue, name).is_some();
        let missing = matches!(answer, Err(Refusal::ScheduleNotFound { .. }));
        ensure!(missing != known, "STATE", "{queue} has {name}: {known}, a run is told {answer:?}");
        let became = match answer {
            Err(Refusal::ScheduleNotFound { .. }) => {
                reached.reach("no such schedule");
                return Ok(());
            }
            Ok(ScheduleRun::Created(id)) => Became::Task(*id),
            Ok(ScheduleRun::Buffered { .. }) => Became::Remembered,
            Err(Refusal::ScheduleOverlaps { .. }) => Became::Overlapped,
            Err(_) => Became::Refused,
        };
        reached.reach("schedule run by hand");
        self.happens(rows, &At { queue, name, slot: now, due: now, by_hand: true }, &became, reached)
    }

    /// A slot happens as its schedule's policy says.
    fn happens(&mut self, rows: &dyn Read, at: &At<'_>, became: &Became, reached: &mut Reached) -> Checked {
        let &At { queue, name, slot, by_hand, .. } = at;
        let info = &self.scheduled(queue, name).expect("its caller looked at it").info;
        let (overlap, remembers, template) =
            (info.schedule.overlap, info.buffered.is_some(), info.schedule.template.clone());
        let last = info.last.map(|last| last.task).filter(|_| overlap != Overlap::Allow);
        // None: only the rows know.
        let is_open = last.map_or(Some(false), |last| self.is_unfinished(last));
        let maybe = is_open != Some(false);
        let fate = match became {
            Became::Remembered => {
                ensure!(
                    overlap == Overlap::BufferOne && maybe && !remembers,
                    "SLOT",
                    "slot {slot} of {queue}, {name} is remembered: {overlap:?}, {is_open:?}, {remembers}"
                );
                reached.reach("slot remembered");
                last.map(|open| SlotFate::Buffered { open })
            }
            Became::Overlapped => {
                let holds = overlap == Overlap::Skip || overlap == Overlap::BufferOne && remembers;
                ensure!(
                    holds && maybe,
                    "SLOT",
                    "slot {slot} of {queue}, {name} makes no task: {overlap:?}, {last:?}, {is_open:?}, {remembers}"
                );
                reached.reach("slot overlapped");
                last.map(|open| SlotFate::Overlapped { open })
            }
            Became::Task(_) | Became::Refused => {
                let cancels = overlap == Overlap::CancelPrevious;
                ensure!(
                    cancels || is_open != Some(true),
                    "SLOT",
                    "slot {slot} of {queue}, {name} goes on while task {last:?} is open: {overlap:?}"
                );
                let cancelled = last.filter(|_| maybe && cancels);
                if let Some(open) = cancelled {
                    self.makes_room(open, is_open.is_none());
                    reached.reach("slot cancelled the task before it");
                }
                let unsure = cancelled.is_some() && is_open.is_none();
                match became {
                    Became::Task(id) => {
                        self.made_by(rows, at, &template, *id, reached)?;
                        (!unsure).then_some(SlotFate::Fired { task: *id, cancelled })
                    }
                    _ => {
                        self.refused_by(queue)?;
                        reached.reach("slot refused");
                        Some(SlotFate::Refused { why: String::new() })
                    }
                }
            }
        };
        self.moved_schedule(queue, name);
        if by_hand && matches!(became, Became::Overlapped | Became::Refused) {
            return Ok(());
        }
        let now = self.now;
        let one = self.scheduled(queue, name).expect("looked at above");
        let counts = &mut one.info.counts;
        match became {
            Became::Task(task) => {
                counts.fired += 1;
                one.info.last = Some(LastRun { slot, task: *task });
            }
            Became::Remembered => {
                counts.buffered += 1;
                (one.info.buffered, one.watched) = (Some(slot), last);
            }
            Became::Overlapped => counts.overlapped += 1,
            Became::Refused => counts.refused += 1,
        }
        one.note(slot, now, fate);
        Ok(())
    }

    /// Returns whether a task will be worked on yet; None: only the rows know.
    pub(super) fn is_unfinished(&self, id: TaskId) -> Option<bool> {
        if self.doubted.contains(&id) {
            return None;
        }
        let open = |stand| matches!(stand, Stand::Waiting | Stand::Blocked | Stand::Leased { .. });
        Some(self.tasks.get(&id).is_some_and(|task| open(task.stand)))
    }

    /// A task is cancelled for the next one of its schedule.
    fn makes_room(&mut self, open: TaskId, unsure: bool) {
        if unsure {
            self.doubt(open);
            return;
        }
        self.change(open, |task| task.stand = Stand::Ended("the next slot of its schedule"));
        self.queue_of(open).stats.cancelled += 1;
        self.tell(open, EventKind::Cancelled);
    }

    /// A slot made a task: it says which.
    fn made_by(
        &mut self,
        rows: &dyn Read,
        at: &At<'_>,
        template: &NewTask,
        id: TaskId,
        reached: &mut Reached,
    ) -> Checked {
        let &At { queue, name, slot, due, .. } = at;
        ensure!(
            !self.tasks.contains_key(&id),
            "SLOT",
            "slot {slot} of {name} made task {id}, which was there"
        );
        ensure!(id.created_at() == self.now, "SLOT", "slot {slot} of {name} made task {id} at another time");
        let task = NewTask { due: Due::At(due), ..template.clone() };
        self.insert(queue, &task, id, due, reached)?;
        if let Some(info) = row(rows, id) {
            let says = |key: &str, value: &str| info.metadata.iter().any(|(k, v)| k == key && v == value);
            ensure!(
                says(SCHEDULE_KEY, name) && says(SLOT_KEY, &slot.rfc3339()),
                "SLOT",
                "task {id} of slot {slot} of {name} says {:?}",
                info.metadata
            );
        }
        reached.reach("slot fired");
        Ok(())
    }

    /// A slot made no task, for the queue took none.
    fn refused_by(&self, queue: &QueueName) -> Checked {
        let (limit, before) = (self.queues[queue].effective.max_backlog, self.backlog(queue));
        ensure!(
            limit.is_some_and(|limit| before >= limit || !self.doubted.is_empty()),
            "LIMIT",
            "queue {queue} has {before} tasks to do and may have {limit:?}, and takes none of a slot"
        );
        Ok(())
    }
}
