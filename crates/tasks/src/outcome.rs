//! Outcomes: what applying a command answered. Equal on every replica.

use z4_types::{Millis, QueueName, TaskId, Token};

/// The answer to one command, in the order of the entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Answer to `Create`, one per task.
    Created(Vec<Result<TaskId, Refusal>>),
    /// Answer to `Lease`; fewer than asked: nothing more was due, or the byte limit was met.
    Leased(Leased),
    /// Answer to `Settle`, one per settlement.
    Settled(Vec<Result<Settled, Refusal>>),
    /// Answer to `Cancel`, one per id.
    Cancelled(Vec<Result<(), Refusal>>),
    /// Answer to `Advance`.
    Advanced {
        /// More rows were due than the limit allowed.
        more: bool,
        /// Leases that ran out and were the last failure of their task.
        dead: u32,
    },
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
    /// The task is done and gone.
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
