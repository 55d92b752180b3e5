//! Outcomes: what applying a command answered. Equal on every replica.

use z4_types::{Millis, QueueName, ShardId, TaskId, Token};

use crate::command::PurgeCursor;
use crate::settings::GroupSettings;

/// The answer to one command, in the order of the entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Answer to `Create`, one per task.
    Created(Vec<Result<Made, Refusal>>),
    /// Answer to `Lease`; fewer than asked: nothing more was due, or the byte limit was met.
    Leased(Leased),
    /// Answer to `Settle`, one per settlement.
    Settled(Vec<Result<Settled, Refusal>>),
    /// Answer to `Cancel` and `CancelIf`, one per id.
    Cancelled(Vec<Result<(), Refusal>>),
    /// Answer to `Advance`.
    Advanced {
        /// More rows were due than the limit allowed.
        more: bool,
        /// Leases that ran out and were the last failure of their task.
        dead: u32,
    },
    /// Answer to `SetQueue`.
    QueueSet(Result<QueueSet, Refusal>),
    /// Answer to `DeleteQueue`.
    QueueDeleted(Result<(), Refusal>),
    /// Answer to `SetPolicies`: the version that counts now. Larger than the one sent: nothing was changed.
    PoliciesSet(u64),
    /// Answer to `Pause`, of a resume too.
    QueuePaused(Result<(), Refusal>),
    /// Answer to `Purge`.
    Purged(Result<Purged, Refusal>),
    /// Answer to `Redrive`, one per task: when it is due.
    Redriven(Vec<Result<Millis, Refusal>>),
    /// Answer to `UpdateTask`.
    Updated(Result<Updated, Refusal>),
    /// Answer to `RunNow`, one per task.
    MadeDue(Vec<Result<Updated, Refusal>>),
    /// Answer to `SetSchedule`.
    ScheduleSet(Result<ScheduleSet, Refusal>),
    /// Answer to `DeleteSchedule`.
    ScheduleDeleted(Result<(), Refusal>),
    /// Answer to `PauseSchedule`, of a resume too: the schedule's etag now.
    SchedulePaused(Result<u64, Refusal>),
    /// Answer to `RunSchedule`.
    ScheduleRun(Result<ScheduleRun, Refusal>),
    /// Answer to `Fire`.
    SlotFired(Fired),
    /// Answer to `SetGroup`: what is set of the group now.
    GroupSet(Result<GroupSettings, Refusal>),
}

/// The task a create is answered with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Made {
    /// The task.
    pub id: TaskId,
    /// It was there before, with the key of the new one, which was not made. The answer to a repeat does not tell: false.
    pub existed: bool,
}

impl From<TaskId> for Made {
    fn from(id: TaskId) -> Self {
        Self { id, existed: false }
    }
}

/// What a `SetQueue` did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueSet {
    /// There was no such queue.
    pub created: bool,
    /// The queue's etag now.
    pub etag: u64,
}

/// What a `SetSchedule` did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScheduleSet {
    /// There was no such schedule.
    pub created: bool,
    /// The schedule's etag now.
    pub etag: u64,
}

/// What a `RunSchedule` did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScheduleRun {
    /// It made this task, or had made it when the request came first.
    Created(TaskId),
    /// The last task is open: the run is remembered until that has ended.
    Buffered {
        /// The open task.
        open: TaskId,
    },
}

/// What a `Fire` did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fired {
    /// Nothing: the schedule is gone, was changed, or waits for another slot.
    Stale,
    /// The slot made this task.
    Created(TaskId),
    /// The last task is open, and the slot remembered.
    Buffered,
    /// The last task is open, so the slot made none.
    Overlapped,
    /// So many slots were older than the catch-up window.
    Late(u64),
    /// The queue took no task.
    Refused,
}

/// A task after its change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Updated {
    /// The task, which may have been named by its key.
    pub id: TaskId,
    /// Its revision.
    pub etag: u64,
    /// When it is due.
    pub deliver_at: Millis,
}

/// What a `Purge` did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Purged {
    /// Tasks that were ended or, if they had ended, forgotten.
    pub count: u32,
    /// More may be left: where to go on. None: there was nothing more.
    pub next: Option<PurgeCursor>,
}

/// What a `Lease` picked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leased {
    /// The queue.
    pub queue: QueueName,
    /// When these leases end.
    pub until: Millis,
    /// The tasks, in delivery order.
    pub picks: Vec<Pick>,
}

/// One delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pick {
    /// The task.
    pub id: TaskId,
    /// The lease.
    pub token: Token,
    /// When it was due (its schedule's time, not the delivery's).
    pub due: Millis,
    /// Deliveries so far, this one included.
    pub deliveries: u32,
    /// Failures so far.
    pub failures: u32,
    /// Payload bytes, for credit.
    pub payload_bytes: u32,
}

/// What a settlement did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// The task is done, and gone unless its queue keeps finished tasks.
    Acked,
    /// The task is due again at the given time.
    Retried(Millis),
    /// The task was given back without a failure and is due again at the given time.
    Released(Millis),
    /// The task failed for the last time and is kept, dead.
    Dead,
    /// The lease now ends at the given time.
    Extended(Millis),
}

/// A deterministic "no": the caller's fault or fate, the same on every replica.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No such task: never created, or already acked, cancelled or expired.
    #[error("task {0} does not exist: it was never created, or it was acked, cancelled or has expired")]
    NotFound(TaskId),
    /// The create names a new queue, and the shard has as many as it may.
    #[error(
        "the shard has {0} queues, the most it may have; use fewer queues: a queue is kept once it was used"
    )]
    TooManyQueues(usize),
    /// The queue has as many tasks to do as its settings allow.
    #[error(
        "queue {queue} has a backlog of {limit} tasks, the most its settings allow; try again when some are done, or raise max_backlog"
    )]
    BacklogFull {
        /// The queue.
        queue: QueueName,
        /// Its max_backlog.
        limit: u64,
    },
    /// The task is of a new group, and the shard has as many open groups as it may.
    #[error(
        "the shard has {0} groups with open tasks, the most it may have; try again when some are done, or use fewer groups"
    )]
    TooManyGroups(usize),
    /// The queue has limits of their own set for as many groups as it may.
    #[error(
        "queue {queue} has {limit} groups with limits of their own, the most it may have; clear some, or set what most have on the queue"
    )]
    TooManyGroupsSet {
        /// The queue.
        queue: QueueName,
        /// How many it may have.
        limit: usize,
    },
    /// The queue does not exist, and what was asked does not create it.
    #[error("queue {0} does not exist; create it first")]
    QueueNotFound(QueueName),
    /// The queue was to be created.
    #[error("queue {0} exists already; update it instead")]
    QueueExists(QueueName),
    /// The queue's settings were changed since the caller read them.
    #[error(
        "queue {queue} has etag {etag}, not {given}: it was changed since; read it again and redo the change"
    )]
    QueueChanged {
        /// The queue.
        queue: QueueName,
        /// Its etag.
        etag: u64,
        /// The etag that was given.
        given: u64,
    },
    /// The queue still holds tasks.
    #[error(
        "queue {queue} still holds tasks ({tasks}, finished ones that are kept included); purge it first"
    )]
    QueueNotEmpty {
        /// The queue.
        queue: QueueName,
        /// Waiting, leased, dead and finished ones.
        tasks: u64,
    },
    /// The queue still has schedules.
    #[error("queue {queue} still has schedules, {schedule:?} is one of them; delete them first")]
    QueueHasSchedules {
        /// The queue.
        queue: QueueName,
        /// The first of them by name.
        schedule: String,
    },
    /// The queue has no schedule of this name.
    #[error(
        "queue {queue} has no schedule {schedule:?}; list the queue's schedules, or create this one first"
    )]
    ScheduleNotFound {
        /// The queue.
        queue: QueueName,
        /// The schedule.
        schedule: String,
    },
    /// The schedule was to be created.
    #[error("queue {queue} has a schedule {schedule:?} already; update it instead")]
    ScheduleExists {
        /// The queue.
        queue: QueueName,
        /// The schedule.
        schedule: String,
    },
    /// The schedule was changed since the caller read it.
    #[error(
        "schedule {schedule:?} of queue {queue} has etag {etag}, not {given}: it was changed since; read it again and redo the change"
    )]
    ScheduleChanged {
        /// The queue.
        queue: QueueName,
        /// The schedule.
        schedule: String,
        /// Its etag.
        etag: u64,
        /// The etag that was given.
        given: u64,
    },
    /// A slot of the schedule has happened while the change was worked out.
    #[error("schedule {schedule:?} of queue {queue} fired while it was being changed; try again")]
    ScheduleMoved {
        /// The queue.
        queue: QueueName,
        /// The schedule.
        schedule: String,
    },
    /// The schedule's last task is open, and its policy is to skip then.
    #[error(
        "task {open} of schedule {schedule:?} of queue {queue} is still open; wait until it has ended, cancel it, or let the schedule overlap"
    )]
    ScheduleOverlaps {
        /// The queue.
        queue: QueueName,
        /// The schedule.
        schedule: String,
        /// The open task.
        open: TaskId,
    },
    /// The shard has as many schedules as it may have.
    #[error("the shard has {0} schedules, the most it may have; delete some that are not needed any more")]
    TooManySchedules(u64),
    /// The batch's request id was answered within the window, for a batch of another size.
    #[error(
        "the request id was used for a batch of {then} tasks, this one has {now}: give every new batch an id of its own"
    )]
    RequestReused {
        /// Tasks of the batch that was answered.
        then: usize,
        /// Tasks of this one.
        now: usize,
    },
    /// The task was changed since the caller read it.
    #[error(
        "task {id} has etag {etag}, not {given}: it was changed since; read it again and redo the change"
    )]
    TaskChanged {
        /// The task.
        id: TaskId,
        /// Its etag.
        etag: u64,
        /// The etag that was given.
        given: u64,
    },
    /// A consumer works on the task as it is.
    #[error("task {id} is leased until {until}; change it when it was given back, or cancel it")]
    TaskLeased {
        /// The task.
        id: TaskId,
        /// End of the lease.
        until: Millis,
    },
    /// The task is out of attempts.
    #[error("task {0} is dead; redrive it first")]
    TaskDead(TaskId),
    /// The task waits for others to end.
    #[error(
        "task {id} waits for {blockers} others to end, the first of them {first}; it is due when they have ended"
    )]
    TaskBlocked {
        /// The task.
        id: TaskId,
        /// How many it waits for.
        blockers: u32,
        /// One of them.
        first: TaskId,
    },
    /// A task was to come after one that is not there.
    #[error("task {0} is not there: it has ended and is not kept, or never was; leave it out of after")]
    AfterUnknown(TaskId),
    /// A task was to come after one that was not created yet, perhaps itself.
    #[error(
        "task {0} has not been created: a task comes only after tasks that are there, so that none waits for itself"
    )]
    AfterFuture(TaskId),
    /// A task was to come after one of another shard.
    #[error(
        "task {id} is of shard {}, and the queue is of shard {shard}: a task comes only after tasks of its own shard, such as those of its queue",
        id.shard()
    )]
    AfterElsewhere {
        /// The other task.
        id: TaskId,
        /// The shard of the new one.
        shard: ShardId,
    },
    /// A task was to come after one that has failed, and to be cancelled in that case.
    #[error(
        "task {0} has failed: it is dead, or was cancelled or expired; redrive it first, or say on_failure: run"
    )]
    AfterFailed(TaskId),
    /// Tasks still have to hear of the end of some of the queue's.
    #[error(
        "tasks that come after some of queue {0} have not heard of their ends yet; try again in a moment"
    )]
    QueueAwaited(QueueName),
    /// Only dead tasks are redriven.
    #[error("task {0} is not dead; nothing to redrive")]
    TaskNotDead(TaskId),
    /// An open task has the key.
    #[error(
        "task {id}, which is open, has the key {key}; wait until it has ended, or say on conflict: keep, replace or debounce"
    )]
    KeyTaken {
        /// The key.
        key: Box<str>,
        /// The task.
        id: TaskId,
    },
    /// The open task that has the key is leased: it can neither be replaced nor changed.
    #[error("task {id}, which has the key {key}, is leased until {until}; try again when it has ended")]
    KeyLeased {
        /// The key.
        key: Box<str>,
        /// The task.
        id: TaskId,
        /// End of the lease.
        until: Millis,
    },
    /// The task that had the key has ended, and its window goes on.
    #[error(
        "task {id}, which has ended, keeps the key {key} until {until}; try again then, or give another key"
    )]
    KeyUsed {
        /// The key.
        key: Box<str>,
        /// The task.
        id: TaskId,
        /// When the key is free.
        until: Millis,
    },
    /// No open task has the key.
    #[error("queue {queue} has no open task with the key {key}: there never was one, or it has ended")]
    KeyNotFound {
        /// The queue.
        queue: QueueName,
        /// The key.
        key: Box<str>,
    },
    /// The queue has ended tasks whose keys are not free yet.
    #[error(
        "queue {0} still keeps many keys of ended tasks; purge its finished tasks first, or wait until the windows end"
    )]
    KeysNotEmpty(QueueName),
    /// The lease is over: expired, settled, or the task was leased again since.
    #[error(
        "lease {token} of task {id} is over; the task may have been delivered again, do not retry this settlement"
    )]
    LeaseLost {
        /// The task.
        id: TaskId,
        /// The token that was offered.
        token: Token,
    },
}
