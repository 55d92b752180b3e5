//! What callers ask of a task shard, each with the means to answer it.
//!
//! Answers are boxed closures, not channels of one runtime: doors put a oneshot sender in, the simulator a slot.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::oneshot;
use z4_multiraft::{Refuse, Refused};
use z4_store::View;
use z4_tasks::command::Settlement;
use z4_tasks::outcome::{Made, Outcome, Refusal, Settled};
use z4_tasks::{
    Body, DueCounts, EventFilter, Events, Fields, GroupCursor, GroupInfo, GroupPage, Hold, QueueConfig,
    QueueInfo, QueueStats, Start, TaskInfo, Why,
};
use z4_types::{Duration, Millis, QueueName, ShardId, TaskId};

use super::delivery::{ConsumerId, Deliver};
use super::rates::Rates;
use super::watchers::{Bell, WatcherId};
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
        reply: Reply<Vec<Result<Made, Refusal>>>,
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
    /// Does something to a whole queue, or to tasks that are there: any command that creates none.
    Manage {
        /// The command's bytes.
        encoded: Bytes,
        /// It writes what callers sent into rows: refused on a full disk.
        grows: bool,
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
    /// Adds a watcher of a queue's events, which need not exist.
    Watch {
        /// Chosen by the caller, unique on this host.
        watcher: WatcherId,
        /// What it watches.
        queue: QueueName,
        /// Wakes it.
        bell: Arc<Bell>,
    },
    /// Removes a watcher.
    Unwatch {
        /// Who.
        watcher: WatcherId,
    },
}

/// Which events are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventsRequest {
    /// Of which queue.
    pub queue: QueueName,
    /// From where on.
    pub start: Start,
    /// Which of them.
    pub filter: EventFilter,
    /// Most events of the page.
    pub limit: usize,
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
    /// The task that has a key, with everything known of it.
    GetByKey {
        /// Of this queue.
        queue: QueueName,
        /// The key.
        key: String,
        /// None: no task has it.
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
    /// Why one task is not running.
    Explain {
        /// Which.
        id: TaskId,
        /// None: it does not exist. The time is the shard's.
        reply: Reply<(Millis, Option<Box<Explained>>)>,
    },
    /// What holds one queue back.
    Held {
        /// Which.
        queue: QueueName,
        /// None: it does not exist. The time is the shard's.
        reply: Reply<(Millis, Option<Held>)>,
    },
    /// Groups of one queue.
    Groups {
        /// Which.
        queue: QueueName,
        /// Where the page before ended.
        after: Option<GroupCursor>,
        /// Most groups.
        limit: usize,
        /// None: there is no such queue. The time is the shard's.
        reply: Reply<(Millis, Option<GroupPage>)>,
    },
    /// One group of a queue.
    Group {
        /// Which queue.
        queue: QueueName,
        /// Which group.
        group: String,
        /// None: there is no such queue. The time is the shard's.
        reply: Reply<(Millis, Option<GroupInfo>)>,
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
    /// A page of a queue's events.
    Events {
        /// Which.
        request: Box<EventsRequest>,
        /// Takes them.
        reply: Reply<Events>,
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

/// Why a task is not running.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explained {
    /// Why.
    pub why: Why,
    /// The task.
    pub task: TaskInfo,
    /// Who could take it.
    pub waiting: Waiters,
}

/// What holds a queue back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// What must go, in that order; nothing: a consumer would get a task.
    pub holds: Vec<Hold>,
    /// Who could take one.
    pub waiting: Waiters,
}

/// Consumers of a queue, on the host that leads its shard: all there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Waiters {
    /// Open ones.
    pub consumers: u64,
    /// Of these, those that would take a task now.
    pub hungry: u64,
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
            Self::Credit { .. } | Self::Close { .. } | Self::Unwatch { .. } => {}
            Self::Watch { bell, .. } => bell.close(error),
        }
    }
}

impl Refuse for Read {
    fn refuse(self, shard: ShardId, why: Refused) {
        let error = Error::from_refused(why, shard);
        match self {
            Self::Get { reply, .. } => reply(Err(error)),
            Self::GetByKey { reply, .. } => reply(Err(error)),
            Self::View { reply } => reply(Err(error)),
            Self::Queue { reply, .. } => reply(Err(error)),
            Self::Setup { reply, .. } => reply(Err(error)),
            Self::Explain { reply, .. } => reply(Err(error)),
            Self::Held { reply, .. } => reply(Err(error)),
            Self::Groups { reply, .. } => reply(Err(error)),
            Self::Group { reply, .. } => reply(Err(error)),
            Self::Counts { reply, .. } => reply(Err(error)),
            Self::Result { reply, .. } => reply(Err(error)),
            Self::Events { reply, .. } => reply(Err(error)),
            Self::Stats { reply } => reply(Err(error)),
        }
    }
}
