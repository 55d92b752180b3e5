//! What a host of a cluster says to clients, in its order, with marks that tell which log entry each word is of.
//!
//! The driver calls the digest watch after each entry it applied. The watch puts a mark into the same box as the
//! answers do; so whatever stands before a mark, and is no read and no refusal, came of that entry.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use z4_host::{ConsumerId, Deliver, Delivery, Error, Reply};
use z4_store::View;
use z4_tasks::outcome::{Refusal, Settled};
use z4_tasks::{QueueStats, TaskInfo};
use z4_types::{Index, Millis, QueueName, ShardId, TaskId};

/// Names a call.
pub type CallId = u64;

type All<T> = Result<Vec<Result<T, Refusal>>, Error>;

/// One of them.
pub enum Letter {
    /// An entry was applied.
    Applied(ShardId, Index),
    /// To a create.
    Created(CallId, All<TaskId>),
    /// To a settle.
    Settled(CallId, All<Settled>),
    /// To a cancel.
    Cancelled(CallId, All<()>),
    /// To a get.
    Got(CallId, Result<(Millis, Option<Box<TaskInfo>>), Error>),
    /// To a list: what to list from.
    Viewed(CallId, Result<(Millis, View), Error>),
    /// To a question for the counters of a shard.
    Counted(CallId, Result<Vec<(QueueName, QueueStats)>, Error>),
    /// Tasks for a consumer.
    Delivered(ConsumerId, Vec<Delivery>),
    /// A consumer gets no more.
    Closed(ConsumerId),
}

/// The box of one host.
#[derive(Clone, Default)]
pub struct Letters(Arc<Mutex<Vec<Letter>>>);

impl Letters {
    /// Puts a letter.
    pub fn put(&self, letter: Letter) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(letter);
    }

    /// Takes everything that arrived.
    #[must_use]
    pub fn take(&self) -> Vec<Letter> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns what a call answers through.
    pub fn reply<T: Send + 'static>(
        &self,
        letter: impl FnOnce(Result<T, Error>) -> Letter + Send + 'static,
    ) -> Reply<T> {
        let letters = self.clone();
        Box::new(move |answer| letters.put(letter(answer)))
    }
}

/// What a consumer receives through.
pub struct Sink {
    /// Who.
    pub id: ConsumerId,
    /// Where it goes.
    pub letters: Letters,
    /// False once the consumer has just vanished.
    pub alive: Arc<AtomicBool>,
}

impl Deliver for Sink {
    fn deliver(&mut self, tasks: Vec<Delivery>) -> bool {
        let alive = self.alive.load(Ordering::Relaxed);
        if alive {
            self.letters.put(Letter::Delivered(self.id, tasks));
        }
        alive
    }

    fn closed(&mut self, _why: Error) {
        self.letters.put(Letter::Closed(self.id));
    }
}

impl Letter {
    /// Returns the answer to a get.
    #[must_use]
    pub fn got(call: CallId, answer: Result<(Millis, Option<TaskInfo>), Error>) -> Self {
        Self::Got(call, answer.map(|(now, info)| (now, info.map(Box::new))))
    }

    /// Returns the call that this answers.
    #[must_use]
    pub fn call(&self) -> Option<CallId> {
        match self {
            Self::Created(call, _)
            | Self::Settled(call, _)
            | Self::Cancelled(call, _)
            | Self::Got(call, _)
            | Self::Viewed(call, _)
            | Self::Counted(call, _) => Some(*call),
            Self::Applied(..) | Self::Delivered(..) | Self::Closed(_) => None,
        }
    }
}
