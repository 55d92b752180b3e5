//! Schedules as their owners describe them, and what is told of them.
//!
//! A schedule makes a task at each of its slots: instants that follow from a cron expression and a time zone. The machine
//! never works slots out, because zone tables change with versions: the leader does, and proposes `Fire` with the slot and
//! the one after it; the machine takes it only if that is the slot it waits for (ADR-0011 item 9). So a slot fires exactly
//! once over crashes and changes of leader, whatever is proposed twice.
//!
//! A schedule belongs to a queue, and is on its shard. Its name is unique within the queue.
//!
//! # Not here
//! - Expressions, zones, slots: `z4-cron`. Whoever looks at a clock: the leader's half in `z4-host`.
//! - The rows of a schedule, and how it moves between them: `slots`.

use z4_types::limits::CATCH_UP_MS_DEFAULT;
use z4_types::{Duration, Millis, QueueName, TaskId};

use crate::command::NewTask;
use crate::queue::Paused;

/// What happens at a slot while the task of the one before is open: it waits, is leased, or will be retried. A dead one has
/// ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Overlap {
    /// Another task is made all the same.
    Allow,
    /// The slot makes no task, and is counted.
    #[default]
    Skip,
    /// One slot is remembered and makes its task when the open one has ended; more are skipped.
    BufferOne,
    /// The open task is cancelled and the slot makes its own.
    CancelPrevious,
}

/// What a schedule does, as its owner says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    /// When it fires. Opaque to the machine; the leader reads it.
    pub cron: String,
    /// The zone it is read in. Opaque to the machine.
    pub zone: String,
    /// No slot lies at or before it, and `@every` counts from it: when it was made, when its times changed, or the start.
    pub anchor: Millis,
    /// No slot lies before it.
    pub start: Option<Millis>,
    /// No slot lies after it.
    pub end: Option<Millis>,
    /// What happens while the last task is open.
    pub overlap: Overlap,
    /// A slot that is later than this makes no task.
    pub catch_up: Duration,
    /// A task is due up to so long after its slot; the leader draws it from slot and name.
    pub jitter: Duration,
    /// The task. It is due at the slot, whatever is said here, and is of no request.
    pub template: NewTask,
}

/// What became of a schedule's slots since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ScheduleCounts {
    /// Tasks made, by run now too.
    pub fired: u64,
    /// Slots without a task because the last one was open.
    pub overlapped: u64,
    /// Slots without a task because they were older than the catch-up window.
    pub late: u64,
    /// Slots without a task because the queue took none.
    pub refused: u64,
    /// Slots that were remembered until the open task had ended.
    pub buffered: u64,
    /// Of these, those that were given up because the schedule was paused.
    pub dropped: u64,
}

/// The last task a schedule made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastRun {
    /// For which slot.
    pub slot: Millis,
    /// The task. It may have ended.
    pub task: TaskId,
}

/// All there is to know of a schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScheduleInfo {
    /// Its queue.
    pub queue: QueueName,
    /// Its name.
    pub name: String,
    /// What it does.
    pub schedule: Schedule,
    /// Counts its changes, pauses among them, from 1.
    pub etag: u64,
    /// Shard time of its creation.
    pub created_at: Millis,
    /// Why it makes no tasks, if it is paused.
    pub paused: Option<Paused>,
    /// The slot it waits for; None: it is paused, or has no more.
    pub next: Option<Millis>,
    /// The slot that is remembered until the last task has ended.
    pub buffered: Option<Millis>,
    /// Its last task.
    pub last: Option<LastRun>,
    /// What became of its slots.
    pub counts: ScheduleCounts,
}

/// What became of one slot, or of several that were late.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SlotFate {
    /// It made a task.
    Fired {
        /// The task.
        task: TaskId,
        /// The open task that was cancelled for it.
        cancelled: Option<TaskId>,
    },
    /// The last task was open, so it made none.
    Overlapped {
        /// The open task.
        open: TaskId,
    },
    /// The last task was open, so it was remembered.
    Buffered {
        /// The open task.
        open: TaskId,
    },
    /// It was older than the catch-up window, with others up to `last`.
    Late {
        /// How many.
        slots: u64,
        /// The last one of them.
        last: Millis,
    },
    /// The queue took no task.
    Refused {
        /// Why.
        why: String,
    },
    /// It was remembered, and given up when the schedule was paused.
    Dropped,
}

/// One row of a schedule's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotRecord {
    /// Counts the rows of the schedule, from 0.
    pub number: u64,
    /// The slot; of a run now, the time it was asked for.
    pub slot: Millis,
    /// Shard time at which this happened.
    pub at: Millis,
    /// What.
    pub fate: SlotFate,
}

/// A slot whose time has come, with all that the leader needs to propose its `Fire`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueSlot {
    /// The schedule's queue.
    pub queue: QueueName,
    /// The schedule.
    pub name: String,
    /// Its etag.
    pub etag: u64,
    /// The slot.
    pub slot: Millis,
    /// It was remembered, and what it waited for has ended: the slots after it are not its business.
    pub buffered: bool,
    /// As in [`Schedule`].
    pub cron: String,
    /// As in [`Schedule`].
    pub zone: String,
    /// As in [`Schedule`].
    pub anchor: Millis,
    /// As in [`Schedule`].
    pub end: Option<Millis>,
    /// As in [`Schedule`].
    pub catch_up: Duration,
    /// As in [`Schedule`].
    pub jitter: Duration,
    /// Bytes of the task, so that an entry makes not too many of them.
    pub template_bytes: usize,
}

/// A part of a schedule's task, to be set by a patch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TemplateField {
    /// What the consumer gets.
    Payload,
    /// Its labels, all of them.
    Metadata,
    /// Its order among due tasks.
    Priority,
    /// Failures until it is dead.
    MaxAttempts,
    /// How failures are retried.
    Retry,
    /// How long it lives.
    Ttl,
    /// Its group.
    Group,
}

impl TemplateField {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Payload,
        Self::Metadata,
        Self::Priority,
        Self::MaxAttempts,
        Self::Retry,
        Self::Ttl,
        Self::Group,
    ];
}

/// What to change of a schedule, or what a new one is to be; the rest stays, or is as z4 says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SchedulePatch {
    /// When it fires.
    pub cron: Option<String>,
    /// The zone that is read in; UTC unless it is ever set.
    pub zone: Option<String>,
    /// No slot lies before it; the inner None: no bound.
    pub start: Option<Option<Millis>>,
    /// No slot lies after it; the inner None: no bound.
    pub end: Option<Option<Millis>>,
    /// What happens while the last task is open.
    pub overlap: Option<Overlap>,
    /// A slot that is later than this makes no task.
    pub catch_up: Option<Duration>,
    /// A task is due up to so long after its slot.
    pub jitter: Option<Duration>,
    /// Where the parts of the task are taken from.
    pub template: Option<Box<NewTask>>,
    /// Which parts.
    pub template_fields: Vec<TemplateField>,
}

impl SchedulePatch {
    /// Returns the schedule that this patch makes of `before`; None: of nothing. Its anchor is for the leader to say.
    #[must_use]
    pub fn applied_to(&self, before: Option<&Schedule>) -> Schedule {
        let mut schedule = before.cloned().unwrap_or_else(|| Schedule {
            cron: String::new(),
            zone: "UTC".to_owned(),
            anchor: Millis(0),
            start: None,
            end: None,
            overlap: Overlap::default(),
            catch_up: Duration(CATCH_UP_MS_DEFAULT),
            jitter: Duration(0),
            template: NewTask::empty(),
        });
        set(&mut schedule.cron, &self.cron);
        set(&mut schedule.zone, &self.zone);
        set(&mut schedule.start, &self.start);
        set(&mut schedule.end, &self.end);
        set(&mut schedule.overlap, &self.overlap);
        set(&mut schedule.catch_up, &self.catch_up);
        set(&mut schedule.jitter, &self.jitter);
        if let Some(from) = &self.template {
            let (from, to) = (NewTask::clone(from), &mut schedule.template);
            // When it is due, of what request and key, and after what, is not for a template to say: kept to be refused by
            // the check.
            (to.due, to.request, to.key) = (from.due, from.request, from.key.clone());
            to.after.clone_from(&from.after);
            for field in &self.template_fields {
                match field {
                    TemplateField::Payload => to.payload = from.payload.clone(),
                    TemplateField::Metadata => to.metadata = from.metadata.clone(),
                    TemplateField::Priority => to.priority = from.priority,
                    TemplateField::MaxAttempts => to.max_attempts = from.max_attempts,
                    TemplateField::Retry => to.retry = from.retry,
                    TemplateField::Ttl => to.ttl = from.ttl,
                    TemplateField::Group => to.group = from.group.clone(),
                }
            }
        }
        schedule
    }
}

fn set<T: Clone>(field: &mut T, value: &Option<T>) {
    if let Some(value) = value {
        field.clone_from(value);
    }
}
