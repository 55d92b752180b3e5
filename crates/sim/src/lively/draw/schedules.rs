//! What clients want of schedules. What they propose is worked out as the product's handle does it, from what the schedule is
//! at the log's end, and often overtaken by a slot before it is applied.

use bytes::Bytes;
use z4_env::Rng;
use z4_host::{ScheduleChange, SchedulePause};
use z4_tasks::command::{Command, NewTask, RunSchedule, SetMode};
use z4_tasks::{Overlap, ScheduleInfo, SchedulePatch, TemplateField};
use z4_types::limits::{CATCH_UP_MS_MAX, CATCH_UP_MS_MIN};
use z4_types::{Duration, Millis, QueueName};

use super::{Drawer, Wish};
use crate::lively::clients::request;
use crate::lively::judge::slots::{CRONS, EVERY};
use crate::model::Tag;

impl Drawer<'_> {
    fn schedule_name(&mut self) -> String {
        format!("s{}", self.rng.below(self.manners.schedules.max(1)))
    }

    /// Returns what to do to a schedule; None: nothing can be done to it.
    pub(super) fn schedule(&mut self, wish: Wish, queue: &QueueName, tag: Tag) -> Option<Command> {
        let (mut name, judge) = (self.schedule_name(), self.judge);
        if judge.now == Millis(0) {
            // Nobody knows the time: slots would begin long ago.
            return None;
        }
        let schedules = judge.queues.get(queue).map(|queue| &queue.schedules);
        if wish == Wish::PauseSchedule {
            // One that remembers a slot, if there is one: few do.
            let mut known = schedules.into_iter().flatten();
            name = known.find(|(_, one)| one.info.buffered.is_some()).map_or(name, |(name, _)| name.clone());
        }
        let found = schedules.and_then(|schedules| schedules.get(&name)).map(|found| &found.info);
        let etag = self.schedule_etag(found);
        let queue = queue.clone();
        if wish == Wish::SetSchedule {
            let mode = [SetMode::Upsert, SetMode::Upsert, SetMode::Update, SetMode::Create];
            let mode = mode[self.rng.below(4) as usize];
            let etag = etag.filter(|_| mode != SetMode::Create);
            let patch = self.patch(found.filter(|_| mode != SetMode::Create), tag);
            let change = ScheduleChange { queue, name, mode, etag, patch };
            let set = change.worked_out(found, judge.now).ok()?.ok()?;
            return Some(Command::SetSchedule(Box::new(set)));
        }
        let paused = wish == Wish::PauseSchedule;
        let (note, author) = (format!("call {tag}"), "the simulator".to_owned());
        let pause = SchedulePause { queue, name, etag, paused, note, author };
        pause.worked_out(found, judge.now).ok()?.ok().map(Command::PauseSchedule)
    }

    /// Returns what makes a schedule's task, or its end.
    pub(super) fn schedule_event(&mut self, wish: Wish, queue: &QueueName, tag: Tag) -> Option<Command> {
        if wish == Wish::FireAgain {
            // As an old leader would.
            let count = self.judge.fires.len() as u64;
            let at = (count > 0).then(|| self.rng.below(count) as usize)?;
            return Some(Command::Fire(self.judge.fires[at].clone()));
        }
        let (queue, name) = (queue.clone(), self.schedule_name());
        if wish == Wish::RunSchedule {
            let request = self.rng.chance(3, 4).then(|| request(tag));
            return Some(Command::RunSchedule(RunSchedule { queue, name, request }));
        }
        let found = self.judge.queues.get(&queue).and_then(|queue| queue.schedules.get(&name));
        let etag = self.schedule_etag(found.map(|found| &found.info));
        Some(Command::DeleteSchedule { queue, name, etag })
    }

    fn schedule_etag(&mut self, found: Option<&ScheduleInfo>) -> Option<u64> {
        let known = found.map_or(0, |found| found.etag);
        match self.rng.below(4) {
            0 => Some(known),
            1 if self.percent(self.manners.etags.1) => Some(known + 1),
            _ => None,
        }
    }

    /// Returns a change of a schedule; all of it, if there is none.
    fn patch(&mut self, found: Option<&ScheduleInfo>, tag: Tag) -> SchedulePatch {
        let is_new = found.is_none();
        let mut patch = SchedulePatch::default();
        let now = self.judge.now;
        // No more slots than a leap of time makes in a moment.
        let period = 1_000 << self.rng.below(12);
        if is_new || self.rng.chance(1, 4) {
            patch.cron = Some(match self.rng.below(2) {
                0 => CRONS[self.rng.below(CRONS.len() as u64) as usize].0.to_owned(),
                _ => format!("{EVERY}{}s", period / 1_000),
            });
            let most = 1 + self.rng.below(20);
            let catch_up = (period * most).clamp(CATCH_UP_MS_MIN, CATCH_UP_MS_MAX);
            patch.catch_up = Some(Duration(catch_up));
        }
        if self.rng.chance(1, 6) {
            let start = Millis(now.0 + self.rng.below(4 * period));
            patch.start = Some(self.rng.chance(2, 3).then_some(start));
        }
        if self.rng.chance(1, 8) {
            let end = Millis(now.0 + self.rng.below(40 * period));
            patch.end = Some(self.rng.chance(1, 2).then_some(end));
        }
        if is_new || self.rng.chance(1, 3) {
            let all = [Overlap::BufferOne, Overlap::Skip, Overlap::Allow, Overlap::CancelPrevious];
            patch.overlap = Some(all[self.rng.below(5) as usize % all.len()]);
        }
        if self.rng.chance(1, 4) {
            patch.jitter = Some(Duration(self.rng.below(period)));
        }
        if is_new || self.rng.chance(1, 4) {
            patch.template = Some(Box::new(self.template(tag)));
            patch.template_fields = TemplateField::ALL.to_vec();
        }
        patch
    }

    fn template(&mut self, tag: Tag) -> NewTask {
        let mut payload = tag.to_le_bytes().to_vec();
        payload.resize(payload.len() + self.rng.below(100) as usize, tag as u8);
        let mut task = NewTask { payload: Bytes::from(payload), ..NewTask::empty() };
        task.group = self.group();
        task.ttl = self.rng.chance(1, 4).then(|| Duration(1 + self.rng.below(600_000)));
        task.max_attempts = self.rng.chance(1, 3).then(|| 1 + self.rng.below(4) as u32);
        task.metadata = vec![("call".into(), tag.to_string())];
        task
    }
}
