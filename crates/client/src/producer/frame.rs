//! What a producer is given and what it sends: jobs, and the frames they become.

use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::Instant;
use z4_proto::v1;
use z4_types::TaskId;

use crate::Error;

pub(super) type Answer = Result<TaskId, Error>;

pub(super) enum Job {
    One {
        task: Box<v1::NewTask>,
        waiter: oneshot::Sender<Answer>,
        permit: OwnedSemaphorePermit,
        since: Instant,
    },
    Many {
        tasks: Vec<v1::NewTask>,
        waiter: oneshot::Sender<Vec<Answer>>,
        permit: OwnedSemaphorePermit,
        since: Instant,
    },
}

impl Job {
    pub(super) fn since(&self) -> Instant {
        match self {
            Self::One { since, .. } | Self::Many { since, .. } => *since,
        }
    }
}

pub(super) enum Waiters {
    Each(Vec<oneshot::Sender<Answer>>),
    Whole(oneshot::Sender<Vec<Answer>>),
}

impl Waiters {
    // Somebody who dropped the receipt does not want to know.
    pub(super) fn answer(self, answers: Vec<Answer>) {
        match self {
            Self::Each(waiters) => {
                for (waiter, answer) in waiters.into_iter().zip(answers) {
                    drop(waiter.send(answer));
                }
            }
            Self::Whole(waiter) => drop(waiter.send(answers)),
        }
    }
}

/// A batch under one request id.
pub(super) struct Frame {
    pub(super) seq: u64,
    pub(super) request_id: String,
    pub(super) tasks: Vec<v1::NewTask>,
    pub(super) waiters: Waiters,
    /// Held until the answer: the frame's part of the budget.
    pub(super) _permit: OwnedSemaphorePermit,
    pub(super) deadline: Instant,
    /// It was sent once without an answer, so it may have been done.
    pub(super) in_doubt: bool,
    pub(super) last: Option<Error>,
}

impl Frame {
    pub(super) fn fail(self, error: &Error) {
        let answers = vec![Err(error.clone()); self.tasks.len()];
        self.waiters.answer(answers);
    }
}
