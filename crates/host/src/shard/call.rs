//! What callers ask of a task shard, each with the means to answer it.
//!
//! Answers are boxed closures, not channels of one runtime: doors put a oneshot sender in, the simulator a slot.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::oneshot;
use z4_multiraft::{Refuse, Refused};
use z4_store::View;
use z4_tasks::command::Settlement;
use z4_tasks::outcome::{Outcome, Refusal, Settled};
use z4_tasks::{Body, DueCounts, Fields, QueueConfig, QueueInfo, QueueStats, TaskInfo};
use z4_types::{Duration, Millis, QueueName, ShardId, TaskId};

use super::delivery::{ConsumerId, Deliver};
use super::rates::Rates;
use crate::budget::Permit;
use crate::error::Error;

/// Called exactly once, on the driver's thread: must not block.
pub type Reply<T> = Box<dyn FnOnce(Result<T, Error>) + Send>;

/// Returns a reply that ends in a channel, and the channel's end.
pub(crate) fn reply<T: Send + 'static>() -> (Reply<T>, oneshot::Receiver<Result<T, Error>>) {
    let (sender, receiver) = oneshot::channel();
    // A caller that stopped waiting is no error.
    (Box::new(move |answer| drop(sender.send(answer))), receiver)
}

/// A change of a task shard.
pub enum Write {
    /// Creates tasks; `encoded` is a `Command::Create` made by `z4_tasks::encode_create`.
    Create {
        /// The queue named in `encoded`.
        queue: QueueName,
        /// The command's bytes.
        encoded: Bytes,
        /// How many of its tasks are due at once.
        due_now: u32,
        /// One answer per task.
        reply: Reply<Vec<Result<TaskId, Refusal>>>,
        /// The request's share of the host's budget.
        permit: Permit,
    },
    /// Settles leases.
    Settle {
        /// What became of them.
        settlements: Vec<Settlement>,
        /// One answer per settlement.
        reply: Reply<Vec<Result<Settled, Refusal>>>,
        /// The request's share of the host's budget.
        permit: Permit,
    },
    /// Ends tasks by id.
    Cancel {
        /// Which.
        ids: Vec<TaskId>,
        /// One answer per id.
        reply: Reply<Vec<Result<(), Refusal>>>,
        /// The request's share of the host's budget.
        permit: Permit,
    },
    /// Does something to a whole queue: any command that is about one and creates no task.
    Manage {
        /// The command's bytes.
        encoded: Bytes,
        /// Its outcome.
        reply: Reply<Outcome>,
        /// The request's share of the host's budget.
        permit: Permit,
    },
    /// Adds a consumer, without credit.
    Open {
        /// Chosen by the caller, unique on this host.
        consumer: ConsumerId,
        /// What it consumes.
        queue: QueueName,
        /// Its name, for explain.
        name: String,
        /// How long its leases hold; zero: as long as the queue says.
        lease: Duration,
        /// Takes its tasks.
        sink: Box<dyn Deliver>,
    },
    /// Gives a consumer room for more tasks. Unknown consumers are ignored: they were closed meanwhile.
    Credit {
        /// Who.
        consumer: ConsumerId,
        /// That many more tasks.
        tasks: u32,
        /// That many more payload bytes.
        bytes: u64,
    },
    /// Removes a consumer. Tasks leased for it and not handed over yet are released.
    Close {
        /// Who.
        consumer: ConsumerId,
    },
}

/// A linearizable read of a task shard.
pub enum Read {
    /// One task, with everything known of it.
    Get {
        /// Which.
        id: TaskId,
        /// None: it does not exist.
        reply: Reply<(Millis, Option<TaskInfo>)>,
    },
    /// A frozen view, to be read on another thread, and the shard time it shows.
    View {
        /// Takes it.
        reply: Reply<(Millis, View)>,
    },
    /// One queue with its counters, and when its next task is due.
    Queue {
        /// Which.
        queue: QueueName,
        /// None: it does not exist. The time is the shard's; the second one the earliest due time of a waiting task.
        reply: Reply<(Millis, Option<QueueInfo>, Option<Millis>)>,
    },
    /// What was set of one queue.
    Setup {
        /// Which.
        queue: QueueName,
        /// Of a queue that does not exist, what would hold for it. The time is the shard's.
        reply: Reply<(Millis, Box<QueueSetup>)>,
    },
    /// What one queue counts.
    Counts {
        /// Which.
        queue: QueueName,
        /// None: it does not exist. The time is the shard's.
        reply: Reply<(Millis, Option<QueueCounts>)>,
    },
    /// What the ack of a task left behind.
    Result {
        /// Of which.
        id: TaskId,
        /// None: nothing.
        reply: Reply<Option<Bytes>>,
    },
    /// Counters of all queues.
    Stats {
        /// Takes them, by name.
        reply: Reply<Vec<(QueueName, QueueStats)>>,
    },
}

/// What was set of a queue, what that comes to, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueSetup {
    /// False: nothing was ever set of it, but policies may say something.
    pub exists: bool,
    /// Its settings and what they come to.
    pub config: QueueConfig,
    /// Where each field comes from that is no default: the pattern of a policy, or None for the queue itself.
    pub sources: Vec<(Fields, Option<String>)>,
}

/// What a queue counts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QueueCounts {
    /// Its counters.
    pub stats: QueueStats,
    /// What is due when.
    pub due: DueCounts,
    /// What happened in the last minute.
    pub rates: Rates,
}

/// One delivered task.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// What was leased.
    pub pick: z4_tasks::outcome::Pick,
    /// When the lease ends.
    pub until: Millis,
    /// Payload, metadata and the rest that never changes.
    pub body: Body,
    /// The delivery's share of what a host may have on its way to consumers; given back when it is dropped.
    pub held: Arc<Permit>,
}

impl Refuse for Write {
    fn refuse(self, shard: ShardId, why: Refused) {
        self.answer(Error::from_refused(why, shard));
    }
}

impl Write {
    pub(crate) fn answer(self, error: Error) {
        match self {
            Self::Create { reply, .. } => reply(Err(error)),
            Self::Settle { reply, .. } => reply(Err(error)),
            Self::Cancel { reply, .. } => reply(Err(error)),
            Self::Manage { reply, .. } => reply(Err(error)),
            Self::Open { mut sink, .. } => sink.closed(error),
            // Nobody waits for these.
            Self::Credit { .. } | Self::Close { .. } => {}
        }
    }
}

impl Refuse for Read {
    fn refuse(self, shard: ShardId, why: Refused) {
        let error = Error::from_refused(why, shard);
        match self {
            Self::Get { reply, .. } => reply(Err(error)),
            Self::View { reply } => reply(Err(error)),
            Self::Queue { reply, .. } => reply(Err(error)),
            Self::Setup { reply, .. } => reply(Err(error)),
            Self::Counts { reply, .. } => reply(Err(error)),
            Self::Result { reply, .. } => reply(Err(error)),
            Self::Stats { reply } => reply(Err(error)),
        }
    }
}
