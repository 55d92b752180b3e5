//! What is asked of schedules. Slots are worked out here, where the shard is led; the machine is told.
//!
//! A change is worked out from what the schedule is, and proposed on condition that it still is that: a slot that fires
//! meanwhile, or another change, has it worked out again. Working it out needs no host: clients of the simulator do the same.

use z4_tasks::command::{Command, PauseSchedule, RunSchedule, SetMode, SetSchedule};
use z4_tasks::outcome::{Outcome, Refusal, ScheduleRun, ScheduleSet};
use z4_tasks::{ScheduleInfo, SchedulePatch, SlotRecord};
use z4_types::{Millis, QueueName, RequestId};

use std::sync::Arc;

use z4_store::View;

use super::Handle;
use crate::error::Error;
use crate::rows::ViewRows;
use crate::times::{Times, anchored};

/// How often a change is worked out anew: a schedule of one second moves rarely within a round trip.
const ATTEMPTS: usize = 8;

/// A schedule to make or change.
#[derive(Debug, Clone)]
pub struct ScheduleChange {
    /// Its queue.
    pub queue: QueueName,
    /// Its name.
    pub name: String,
    /// What must be there.
    pub mode: SetMode,
    /// Refused unless the schedule has this etag.
    pub etag: Option<u64>,
    /// What to change.
    pub patch: SchedulePatch,
}

/// A schedule to stop or resume.
#[derive(Debug, Clone)]
pub struct SchedulePause {
    /// Its queue.
    pub queue: QueueName,
    /// Its name.
    pub name: String,
    /// Refused unless the schedule has this etag.
    pub etag: Option<u64>,
    /// False: resume.
    pub paused: bool,
    /// Why.
    pub note: String,
    /// Who.
    pub author: String,
}

impl ScheduleChange {
    /// Returns what to propose, where the schedule is as `found` and the time is `now`; or why the answer is no already.
    ///
    /// # Errors
    /// `Cron` and `Invalid` with what cannot be.
    pub fn worked_out(
        &self,
        found: Option<&ScheduleInfo>,
        now: Millis,
    ) -> Result<Result<SetSchedule, Refusal>, Error> {
        let Self { queue, name, mode, etag, patch } = self;
        let before = found.filter(|_| *mode != SetMode::Create);
        if before.is_none() && *mode == SetMode::Update {
            return Ok(Err(Refusal::ScheduleNotFound { queue: queue.clone(), schedule: name.clone() }));
        }
        let mut schedule = patch.applied_to(before.map(|before| &before.schedule));
        let times = anchored(&mut schedule, before.map(|before| &before.schedule), now)?;
        let paused = before.is_some_and(|before| before.paused.is_some());
        let set = SetSchedule {
            queue: queue.clone(),
            name: name.clone(),
            mode: *mode,
            // Whatever was merged with must still be there.
            etag: etag.or_else(|| (*mode != SetMode::Create).then(|| before.map_or(0, |before| before.etag))),
            seen: before.and_then(|before| before.next),
            next: if paused { None } else { kept(before, &schedule).unwrap_or_else(|| times.next(now)) },
            schedule,
        };
        set.check().map_err(Error::Invalid)?;
        Ok(Ok(set))
    }
}

impl SchedulePause {
    /// Returns what to propose, where the schedule is as `found` and the time is `now`; or why the answer is no already.
    ///
    /// # Errors
    /// `Cron` if this version cannot read the schedule.
    pub fn worked_out(
        &self,
        found: Option<&ScheduleInfo>,
        now: Millis,
    ) -> Result<Result<PauseSchedule, Refusal>, Error> {
        let Some(before) = found else {
            let (queue, schedule) = (self.queue.clone(), self.name.clone());
            return Ok(Err(Refusal::ScheduleNotFound { queue, schedule }));
        };
        let schedule = &before.schedule;
        let next = if self.paused {
            None
        } else {
            Times::read(&schedule.cron, &schedule.zone, schedule.anchor, schedule.end)?.next(now)
        };
        Ok(Ok(PauseSchedule {
            queue: self.queue.clone(),
            name: self.name.clone(),
            etag: self.etag.or(Some(before.etag)),
            paused: self.paused,
            note: self.note.clone(),
            author: self.author.clone(),
            next,
        }))
    }
}

impl Handle {
    /// Makes a schedule or changes it.
    ///
    /// # Errors
    /// `Cron` and `Invalid` with what cannot be; otherwise as [`Handle::create`]; after `Unknown`, the schedule tells. A
    /// refusal is an answer.
    pub async fn set_schedule(&self, change: ScheduleChange) -> Result<Result<ScheduleSet, Refusal>, Error> {
        let mut attempts = ATTEMPTS;
        loop {
            attempts -= 1;
            let (now, found) = self.find_schedule(change.queue.clone(), change.name.clone()).await?;
            let set = match change.worked_out(found.as_ref(), now)? {
                Ok(set) => Command::SetSchedule(Box::new(set)),
                Err(refusal) => return Ok(Err(refusal)),
            };
            match self.manage(&change.queue, &set).await? {
                Outcome::ScheduleSet(Err(refusal)) if attempts > 0 && is_passing(&refusal, change.etag) => {}
                Outcome::ScheduleSet(answer) => return Ok(answer),
                _ => unreachable!("an outcome is of its command's kind"),
            }
        }
    }

    /// Stops a schedule or resumes it; returns its etag.
    ///
    /// # Errors
    /// As [`Handle::set_schedule`].
    pub async fn pause_schedule(&self, pause: SchedulePause) -> Result<Result<u64, Refusal>, Error> {
        let mut attempts = ATTEMPTS;
        loop {
            attempts -= 1;
            let (now, found) = self.find_schedule(pause.queue.clone(), pause.name.clone()).await?;
            let command = match pause.worked_out(found.as_ref(), now)? {
                Ok(command) => Command::PauseSchedule(command),
                Err(refusal) => return Ok(Err(refusal)),
            };
            match self.manage(&pause.queue, &command).await? {
                Outcome::SchedulePaused(Err(refusal)) if attempts > 0 && is_passing(&refusal, pause.etag) => {
                }
                Outcome::SchedulePaused(answer) => return Ok(answer),
                _ => unreachable!("an outcome is of its command's kind"),
            }
        }
    }

    /// Makes a schedule's task at once, whether or not it is paused.
    ///
    /// # Errors
    /// As [`Handle::create`]; after `Unknown` a repeat with the same request is safe.
    pub async fn run_schedule(
        &self,
        queue: QueueName,
        name: String,
        request: Option<RequestId>,
    ) -> Result<Result<ScheduleRun, Refusal>, Error> {
        let command = Command::RunSchedule(RunSchedule { queue: queue.clone(), name, request });
        match self.manage(&queue, &command).await? {
            Outcome::ScheduleRun(answer) => Ok(answer),
            _ => unreachable!("an outcome is of its command's kind"),
        }
    }

    /// Forgets a schedule with its history. Its tasks stay.
    ///
    /// # Errors
    /// As [`Handle::create`].
    pub async fn delete_schedule(
        &self,
        queue: QueueName,
        name: String,
        etag: Option<u64>,
    ) -> Result<Result<(), Refusal>, Error> {
        let command = Command::DeleteSchedule { queue: queue.clone(), name, etag };
        match self.manage(&queue, &command).await? {
            Outcome::ScheduleDeleted(answer) => Ok(answer),
            _ => unreachable!("an outcome is of its command's kind"),
        }
    }

    /// Returns a schedule, and the shard time of the answer. Linearizable.
    ///
    /// # Errors
    /// `ScheduleNotFound`, or as [`Handle::create`].
    pub async fn schedule(&self, queue: QueueName, name: String) -> Result<(Millis, ScheduleInfo), Error> {
        let (now, found) = self.find_schedule(queue.clone(), name.clone()).await?;
        found.map(|found| (now, found)).ok_or(Error::ScheduleNotFound(queue, name))
    }

    /// Returns up to `limit` schedules of a queue by name, those after `after`, fewer if they are large; and the shard time of
    /// the answer. Linearizable.
    ///
    /// # Errors
    /// `QueueNotFound`, or as [`Handle::create`].
    pub async fn schedules(
        &self,
        queue: QueueName,
        after: Option<String>,
        limit: usize,
    ) -> Result<(Millis, Vec<ScheduleInfo>), Error> {
        let (shard, asked) = (self.shard_of(&queue), queue.clone());
        let page = Arc::new(move |view: &View| {
            z4_tasks::schedules(&ViewRows(view), &asked, after.as_deref(), limit)
        });
        let (now, page) = self.view(shard, page).await?;
        page.map(|page| (now, page)).ok_or(Error::QueueNotFound(queue))
    }

    /// Returns what became of a schedule's last slots, the latest first, up to `limit`: those before row `before`.
    /// Linearizable.
    ///
    /// # Errors
    /// `ScheduleNotFound`, or as [`Handle::create`].
    pub async fn schedule_history(
        &self,
        queue: QueueName,
        name: String,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Vec<SlotRecord>, Error> {
        let (shard, asked) = (self.shard_of(&queue), (queue.clone(), name.clone()));
        let page = Arc::new(move |view: &View| {
            z4_tasks::schedule_history(&ViewRows(view), &asked.0, &asked.1, before, limit)
        });
        let (_, page) = self.view(shard, page).await?;
        page.ok_or(Error::ScheduleNotFound(queue, name))
    }

    async fn find_schedule(
        &self,
        queue: QueueName,
        name: String,
    ) -> Result<(Millis, Option<ScheduleInfo>), Error> {
        let shard = self.shard_of(&queue);
        let one = Arc::new(move |view: &View| z4_tasks::schedule(&ViewRows(view), &queue, &name));
        self.view(shard, one).await
    }
}

/// Returns the next `count` slots of a schedule after `now`, the one it waits for among them. Of a paused one those it would
/// have if it were resumed.
///
/// # Errors
/// If this version cannot read it.
pub fn next_slots(info: &ScheduleInfo, now: Millis, count: usize) -> Result<Vec<Millis>, Error> {
    let schedule = &info.schedule;
    let times = Times::read(&schedule.cron, &schedule.zone, schedule.anchor, schedule.end)?;
    let after = info.next.map_or(now, |next| next - z4_types::Duration(1));
    Ok(times.list(after, count))
}

/// Returns the next `count` slots that an expression would have in a zone, counted from `now`.
///
/// # Errors
/// `Cron` with what cannot be.
pub fn preview_slots(cron: &str, zone: &str, now: Millis, count: usize) -> Result<Vec<Millis>, Error> {
    Ok(Times::read(cron, zone, now, None)?.list(now, count))
}

/// Returns the slot that a schedule waits for, if the change is not of its times: then that stays.
fn kept(before: Option<&ScheduleInfo>, schedule: &z4_tasks::Schedule) -> Option<Option<Millis>> {
    let before = before?;
    let (old, new) = (&before.schedule, schedule);
    let same = (&old.cron, &old.zone, old.start, old.end) == (&new.cron, &new.zone, new.start, new.end);
    same.then_some(before.next)
}

/// What was worked out has been overtaken, and by nothing that the caller spoke of.
fn is_passing(refusal: &Refusal, etag: Option<u64>) -> bool {
    match refusal {
        Refusal::ScheduleMoved { .. } => true,
        Refusal::ScheduleChanged { .. } => etag.is_none(),
        _ => false,
    }
}
