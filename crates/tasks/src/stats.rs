//! What a queue counts.

/// Counters of one queue, or of a whole shard. Part of the replicated state: equal on every replica.
///
/// Invariant: `pushed == waiting + blocked + leased + dead + acked + expired + cancelled`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueueStats {
    /// Tasks scheduled or due, now.
    pub waiting: u64,
    /// Tasks held by a consumer, now.
    pub leased: u64,
    /// Tasks out of attempts, kept, now.
    pub dead: u64,
    /// Tasks created, ever.
    pub pushed: u64,
    /// Deliveries, ever.
    pub deliveries: u64,
    /// Deliveries that were not a task's first, ever.
    pub redelivered: u64,
    /// Tasks acked, ever.
    pub acked: u64,
    /// Nacks, ever. With `lease_expired`: all failures.
    pub failed: u64,
    /// Leases that ran out, ever.
    pub lease_expired: u64,
    /// Tasks whose TTL ended them, ever.
    pub expired: u64,
    /// Tasks cancelled or purged, ever.
    pub cancelled: u64,
    /// Tasks that ended and are kept, now. They are counted among the ends too.
    pub finished: u64,
    /// Tasks that wait for others to end, now.
    pub blocked: u64,
    /// How often tasks, of whatever queue, wait for one of this queue, now.
    pub awaited: u64,
}

impl QueueStats {
    /// Number of counters, in the order of the struct.
    pub(crate) const COUNTERS: usize = 14;

    /// Returns the counters in the order of the struct, which is their order in the row.
    pub(crate) fn counters(&self) -> [u64; Self::COUNTERS] {
        let Self {
            waiting,
            leased,
            dead,
            pushed,
            deliveries,
            redelivered,
            acked,
            failed,
            lease_expired,
            expired,
            cancelled,
            finished,
            blocked,
            awaited,
        } = *self;
        [
            waiting,
            leased,
            dead,
            pushed,
            deliveries,
            redelivered,
            acked,
            failed,
            lease_expired,
            expired,
            cancelled,
            finished,
            blocked,
            awaited,
        ]
    }

    pub(crate) fn from_counters(counters: [u64; Self::COUNTERS]) -> Self {
        let [
            waiting,
            leased,
            dead,
            pushed,
            deliveries,
            redelivered,
            acked,
            failed,
            lease_expired,
            expired,
            cancelled,
            finished,
            blocked,
            awaited,
        ] = counters;
        Self {
            waiting,
            leased,
            dead,
            pushed,
            deliveries,
            redelivered,
            acked,
            failed,
            lease_expired,
            expired,
            cancelled,
            finished,
            blocked,
            awaited,
        }
    }

    /// Returns the tasks that are still to be done: waiting, be it for others, or held.
    #[must_use]
    pub fn backlog(&self) -> u64 {
        self.waiting + self.blocked + self.leased
    }

    /// Returns the sum of both, counter by counter.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        let (mine, theirs) = (self.counters(), other.counters());
        Self::from_counters(std::array::from_fn(|counter| mine[counter] + theirs[counter]))
    }
}

/// How many waiting tasks of a queue are due when. Counted in steps of ten seconds: a later bound takes in the whole step
/// it lies in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DueCounts {
    /// Tasks that are due. Exact, unless thousands become due within the present ten seconds: those may count already.
    pub due: u64,
    /// Tasks that become due within a minute.
    pub in_1_minute: u64,
    /// Tasks that become due within five minutes, those above included.
    pub in_5_minutes: u64,
    /// Tasks that become due within an hour, those above included.
    pub in_60_minutes: u64,
    /// Since when the task that is due longest has been due; None: none is due.
    pub oldest_due: Option<z4_types::Millis>,
}
