//! Commands: what a log entry asks of the state machine.
//!
//! Callers build these values, [check](Command::check) them against the limits, and encode them; the machine reads
//! the encoded form in place and never builds them again.
//!
//! # Not here
//! - Their bytes: `codec` (`docs/FORMATS.md`, "Log entry").

pub(crate) mod check;
mod schedule;

pub use check::Invalid;
pub use schedule::{
    Fire, Firing, PauseSchedule, RunSchedule, SCHEDULE_KEY, SLOT_KEY, SetSchedule, check_schedule_name,
};

use bytes::Bytes;
use z4_types::{Duration, Millis, Priority, QueueName, RequestId, TaskId, Token};

use crate::settings::{Patch, Policies};

pub use crate::settings::SetGroup;

/// When a new task is due.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Due {
    /// As soon as it is created.
    #[default]
    Now,
    /// At a point of shard time. A past one is due at once, and stays the task's `deliver_at`: it sorts before
    /// what became due later, and lists find it where its creator put it.
    At(Millis),
    /// So long after the entry's own `now`.
    After(Duration),
}

/// How failures are retried: wait `initial * multiplier^(failures - 1)`, at most `cap`, less a jitter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// Wait after the first failure.
    pub initial: Duration,
    /// Longest wait.
    pub cap: Duration,
    /// Factor between waits, in hundredths; 200 doubles.
    pub multiplier_percent: u32,
    /// Part of the wait, 0 to 100, of which a hash of task and failure takes off between nothing and all.
    pub jitter_percent: u8,
}

impl Default for Retry {
    /// One second, doubling to an hour, a fifth of it jitter.
    fn default() -> Self {
        Self {
            initial: Duration::from_secs(1),
            cap: Duration::from_secs(3_600),
            multiplier_percent: 200,
            jitter_percent: 20,
        }
    }
}

/// What a create does whose key an open task has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnConflict {
    /// It is refused, and told the open task.
    #[default]
    Fail,
    /// It answers the open task, whatever state that is in, and creates nothing.
    Keep,
    /// The open task is cancelled, and the new one created. Refused while the open one is leased.
    Replace,
    /// The open task takes payload and metadata of the new one, and its due time if that is later; it is answered. A dead
    /// one is replaced. Refused while it is leased: what it does may miss what the new one says.
    Debounce,
}

/// What becomes of a task if one that it comes after is dead, or was cancelled, purged or ended by its TTL.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnFailure {
    /// It is cancelled; so are those that come after it, unless they say otherwise.
    #[default]
    Cancel,
    /// It runs once the others have ended, too.
    Run,
}

/// A name of which a queue has at most one open task.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Key {
    /// 1 to `KEY_BYTES_MAX` bytes.
    pub name: String,
    /// What happens if an open task has it. A dead task is open: it may be redriven.
    pub on_conflict: OnConflict,
    /// Nobody takes the key for so long after the task has ended, however it did; zero: it is free at once. `Keep` then answers
    /// the ended task, all others are refused.
    pub window: Duration,
}

/// A task as its creator describes it. Checked by [`NewTask::check`] before it is encoded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewTask {
    /// What the consumer gets, opaque to z4.
    pub payload: Bytes,
    /// Short labels, sorted by key, keys unique.
    pub metadata: Vec<(String, String)>,
    /// When it may first be delivered.
    pub due: Due,
    /// Lower goes first; None: the queue's default.
    pub priority: Option<Priority>,
    /// Failures until it is dead; None: the queue's default.
    pub max_attempts: Option<u32>,
    /// Retry policy; None: the queue's default.
    pub retry: Option<Retry>,
    /// Expires so long after creation if not finished by then; None: the queue's default.
    pub ttl: Option<Duration>,
    /// Names this one task across retries of its create; see also [`Command::Create`].
    pub request: Option<RequestId>,
    /// Its tenant, customer, document: what it takes turns with others by, and is limited by. None: no group.
    pub group: Option<String>,
    /// Of all open tasks of the queue, one has it.
    pub key: Option<Box<Key>>,
    /// It waits until all of these have ended: tasks of the queue's shard that are there, at most `AFTER_TASKS_MAX`.
    pub after: Vec<TaskId>,
    /// What becomes of it if one of them fails.
    pub on_failure: OnFailure,
}

impl NewTask {
    /// Returns a task that says nothing of itself: due at once, as its queue says.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            payload: Bytes::new(),
            metadata: Vec::new(),
            due: Due::Now,
            priority: None,
            max_attempts: None,
            retry: None,
            ttl: None,
            request: None,
            group: None,
            key: None,
            after: Vec::new(),
            on_failure: OnFailure::default(),
        }
    }
}

/// What a consumer says of a leased task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Done: forget it, or keep it as long as the queue's retention says.
    Ack,
    /// Done, with something to keep beside it. Dropped where the queue keeps no finished tasks.
    AckWith {
        /// Opaque to z4, at most `RESULT_BYTES_MAX`.
        result: Bytes,
    },
    /// Failed: counts against `max_attempts`; retried after `delay` or by policy.
    Nack {
        /// Wait before the next delivery; None: by retry policy.
        delay: Option<Duration>,
        /// Nothing of the task's group is delivered for so long: somebody asked the consumer for a rest (Retry-After).
        slow_group: Option<Duration>,
        /// Kept with the task as its last error; cut at `REASON_BYTES_MAX`.
        reason: String,
    },
    /// Failed, and would fail again: the task is dead, whatever attempts it had left.
    NackDead {
        /// As in `Nack`.
        reason: String,
    },
    /// Given back: nobody's fault, counts no failure.
    Release {
        /// Wait before the next delivery; zero: it keeps its due time, and so its place in the line.
        delay: Duration,
    },
    /// Keep it: the lease now ends so long after the entry's `now`.
    Extend {
        /// New rest of the lease; zero: as long as the queue says.
        ttl: Duration,
    },
    /// Keep it, and say how far it is.
    ExtendWith {
        /// As in `Extend`.
        ttl: Duration,
        /// Kept with the task, also over a redelivery, until another one; cut at `PROGRESS_BYTES_MAX`.
        progress: String,
    },
}

/// What a [`SetQueue`] expects to find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetMode {
    /// No such queue: it is created.
    Create,
    /// The queue: it is changed.
    Update,
    /// Either.
    Upsert,
}

/// Creates a queue or changes its settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetQueue {
    /// The queue.
    pub queue: QueueName,
    /// What must be there.
    pub mode: SetMode,
    /// Refused unless the queue has this etag; 0 is that of a queue that was never set, and of none.
    pub etag: Option<u64>,
    /// What to change.
    pub patch: Patch,
}

/// Stops or resumes deliveries of a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pause {
    /// The queue.
    pub queue: QueueName,
    /// False: resume, which forgets note and author.
    pub paused: bool,
    /// Why, for whoever wonders; cut at `NOTE_BYTES_MAX`.
    pub note: String,
    /// Who; cut at `NOTE_BYTES_MAX`.
    pub author: String,
}

/// Ends tasks of a queue, a batch at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Purge {
    /// The queue.
    pub queue: QueueName,
    /// Which tasks.
    pub states: PurgeStates,
    /// Only tasks created before this one.
    pub before: TaskId,
    /// Most tasks; at least one and at most `PURGE_TASKS_MAX` are taken.
    pub limit: u32,
    /// Where the batch before this one ended.
    pub after: Option<PurgeCursor>,
}

/// Names a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// By id.
    Id(TaskId),
    /// The open task of a queue that has the key.
    Key {
        /// The queue.
        queue: QueueName,
        /// Its key.
        key: String,
    },
}

/// A task to act on, if it is as the caller saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The task.
    pub which: Which,
    /// Refused unless the task has this revision; None: whatever it has.
    pub etag: Option<u64>,
}

impl Target {
    /// Names a task by its id.
    #[must_use]
    pub fn id(id: TaskId, etag: Option<u64>) -> Self {
        Self { which: Which::Id(id), etag }
    }
}

/// Changes a task that waits. What is None stays as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpdateTask {
    /// Which task.
    pub target: Target,
    /// When it is due. Its TTL stays.
    pub due: Option<Due>,
    /// Its order among due tasks.
    pub priority: Option<Priority>,
    /// What the consumer gets.
    pub payload: Option<Bytes>,
    /// Its labels, all of them, sorted by key, keys unique.
    pub metadata: Option<Vec<(String, String)>>,
}

/// States of the tasks to purge, as bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PurgeStates(pub u8);

impl PurgeStates {
    /// Scheduled or due.
    pub const WAITING: Self = Self(1);
    /// Held by a consumer, which is told so when it settles.
    pub const LEASED: Self = Self(2);
    /// Out of attempts.
    pub const DEAD: Self = Self(4);
    /// Done, cancelled or expired, and kept.
    pub const FINISHED: Self = Self(8);
    /// All of them.
    pub const ALL: Self = Self(15);

    /// Returns whether all of `other` are in it.
    #[must_use]
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// Where a purge goes on. Opaque to callers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PurgeCursor {
    /// The state whose tasks were being looked at.
    pub(crate) state: u8,
    /// The first key not looked at, without letter and queue.
    pub(crate) key: Vec<u8>,
}

/// One consumer's word on one lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settlement {
    /// The task.
    pub id: TaskId,
    /// The lease it was delivered under.
    pub token: Token,
    /// What became of it.
    pub verdict: Verdict,
}

/// One command of a log entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Creates tasks in one queue, which first use creates. With `request`, a repeat within the window answers as
    /// the first did and creates nothing.
    Create {
        /// The queue.
        queue: QueueName,
        /// Names the whole batch across retries.
        request: Option<RequestId>,
        /// The tasks, in order.
        tasks: Vec<NewTask>,
    },
    /// Picks the next due tasks for one consumer: by priority, then due time, then creation. Where tasks have groups: by
    /// priority, then fairly between groups, then by due time.
    Lease {
        /// The queue; an unknown one has nothing due and is not created.
        queue: QueueName,
        /// Who gets them, for `get` and explain.
        consumer: String,
        /// Most tasks.
        max: u32,
        /// Stop before this many payload bytes, but pick at least one task.
        max_bytes: u64,
        /// How long the lease holds; zero: as long as the queue says.
        ttl: Duration,
    },
    /// Settles leases, each on its own.
    Settle(Vec<Settlement>),
    /// Ends tasks by id, whatever their state.
    Cancel(Vec<TaskId>),
    /// Ends leases and tasks whose time is up, at most `limit` of them.
    Advance {
        /// Most rows to handle in this entry.
        limit: u32,
    },
    /// Creates a queue or changes its settings.
    SetQueue(Box<SetQueue>),
    /// Forgets a queue that holds no task.
    DeleteQueue {
        /// The queue.
        queue: QueueName,
        /// As in [`SetQueue`].
        etag: Option<u64>,
    },
    /// Replaces all policies, unless these are older than the ones that are there.
    SetPolicies(Policies),
    /// Stops or resumes deliveries of a queue.
    Pause(Pause),
    /// Ends tasks of a queue.
    Purge(Purge),
    /// Ends those of the tasks that have the etag named, if one is.
    CancelIf(Vec<Target>),
    /// Gives dead tasks all their attempts again, each due after a delay.
    Redrive(Vec<(Target, Duration)>),
    /// Changes a task that waits.
    UpdateTask(Box<UpdateTask>),
    /// Makes waiting tasks due at once.
    RunNow(Vec<Target>),
    /// Sets limits of one group.
    SetGroup(SetGroup),
    /// Makes a schedule or changes it.
    SetSchedule(Box<SetSchedule>),
    /// Forgets a schedule, its history with it. Its tasks stay.
    DeleteSchedule {
        /// The queue.
        queue: QueueName,
        /// The schedule.
        name: String,
        /// Refused unless the schedule has this etag.
        etag: Option<u64>,
    },
    /// Stops a schedule or resumes it.
    PauseSchedule(PauseSchedule),
    /// Makes a schedule's task at once.
    RunSchedule(RunSchedule),
    /// Lets a slot of a schedule happen.
    Fire(Fire),
}
