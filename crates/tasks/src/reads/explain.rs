//! Why a task is not running, and what would change that.
//!
//! One answer: the first obstacle, in the order in which they would have to go away. It is judged by rows and the
//! machine's memory as they are, at a moment the caller names, which may lie a little after shard time.
//!
//! # Not here
//! - Whether a consumer is there to take the task: the door knows.
//! # Caveats
//! - Tasks and groups ahead are counted up to [`AHEAD_MAX`]: further back the number says no more.
//! - Where tasks gain priority by waiting, those ahead are counted by the priority they were given.

use z4_types::{Millis, TaskId, Token};

use super::End;
use crate::after::{BLOCKERS_SHOWN_MAX, blockers_of};
use crate::fair::{AHEAD_COUNTED_MAX, Gate, Group, Groups, Number, Reason};
use crate::machine::Machine;
use crate::queue::{Paused, Queue};
use crate::rows::{self, State, key, read_body};
use crate::{Fault, Read};

/// Most tasks, and most groups, that are counted ahead of one.
pub const AHEAD_MAX: usize = AHEAD_COUNTED_MAX;

/// Why a task is not running.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// It has ended.
    Finished {
        /// How.
        end: End,
        /// When.
        at: Millis,
    },
    /// It is out of attempts: redrive it.
    Dead {
        /// When it died.
        since: Millis,
        /// Why its last delivery failed.
        reason: String,
    },
    /// It is running.
    Leased {
        /// The consumer that holds it.
        consumer: String,
        /// End of the lease.
        until: Millis,
    },
    /// It waits for others to end.
    Blocked {
        /// How many.
        blockers: u32,
        /// The first of them, in the order its creator named them: at most [`BLOCKERS_SHOWN_MAX`].
        first: Vec<TaskId>,
    },
    /// Its TTL has passed: it ends with the next step of the shard.
    Expiring {
        /// When it passed.
        at: Millis,
    },
    /// It is not due, by its schedule or the wait after a failure.
    NotDue {
        /// When it will be.
        until: Millis,
    },
    /// Its queue is paused: resume it.
    QueuePaused(Paused),
    /// Its queue was paused by the circuit breaker, and one delivery is tried: the queue goes on when it succeeds.
    QueueProbing,
    /// As many tasks of the queue are leased as may be.
    QueueFull {
        /// Leased now.
        leased: u64,
        /// The limit.
        limit: u32,
    },
    /// The queue's rate is used up.
    QueueRate {
        /// When the next task may go.
        next: Millis,
    },
    /// As many tasks of its group are leased as may be.
    GroupFull {
        /// Leased now.
        leased: u32,
        /// The limit.
        limit: u32,
        /// Because the group runs its tasks one at a time.
        serial: bool,
    },
    /// A consumer asked for a rest, or a task of a serial group waits to be tried again.
    GroupSlowed {
        /// The end of it.
        until: Millis,
    },
    /// Its group's rate is used up.
    GroupRate {
        /// When the next task may go.
        next: Millis,
    },
    /// Others go first.
    Behind {
        /// Tasks ahead in its own line and more urgent ones: of its group, or of those without one.
        tasks: usize,
        /// Groups whose turn comes before that of its own.
        groups: usize,
        /// The priority it is served in: that of its line, less what the first task of its group gained by waiting.
        class: u8,
    },
    /// It is the next that is delivered.
    Next,
}

/// Returns why a task is not running at `now`; None if it does not exist.
///
/// # Errors
/// If storage fails.
pub fn explain(store: &dyn Read, machine: &Machine, id: TaskId, now: Millis) -> Result<Option<Why>, Fault> {
    let Some(body) = store.get(&key::body(id))? else { return Ok(None) };
    let (number, item) = read_body(&body)?;
    let row = store.get(&key::state(id))?;
    let (state, texts) = match &row {
        Some(value) => State::read(value)?,
        None => (State::pristine(id, number, &item), rows::Texts::default()),
    };
    let ended = |end| Why::Finished { end, at: state.at };
    let why = match state.phase {
        rows::Phase::Done => Some(ended(End::Done)),
        rows::Phase::Cancelled => Some(ended(End::Cancelled)),
        rows::Phase::Expired => Some(ended(End::Expired)),
        rows::Phase::Dead => Some(Why::Dead { since: state.at, reason: texts.last_error.to_owned() }),
        rows::Phase::Leased => Some(Why::Leased { consumer: texts.consumer.to_owned(), until: state.at }),
        rows::Phase::Blocked if state.ttl_at > now => {
            let mut first = blockers_of(store, id)?;
            first.truncate(BLOCKERS_SHOWN_MAX);
            Some(Why::Blocked { blockers: state.blockers, first })
        }
        rows::Phase::Waiting | rows::Phase::Blocked if state.ttl_at <= now => {
            Some(Why::Expiring { at: state.ttl_at })
        }
        rows::Phase::Waiting if state.deliver_at > now => Some(Why::NotDue { until: state.deliver_at }),
        rows::Phase::Waiting | rows::Phase::Blocked => None,
    };
    if why.is_some() {
        return Ok(why);
    }
    let queue = machine.queue(number)?;
    if let Some(why) = of_queue(queue, now) {
        return Ok(Some(why));
    }
    let groups = queue.groups.as_deref();
    let group = match (item.group, groups) {
        (Some(name), Some(groups)) => groups.number(name).map(|group| (groups, group)),
        _ => None,
    };
    let place = match group {
        Some((groups, group)) => match of_group(groups, group, now) {
            Ok(place) => place,
            Err(why) => return Ok(Some(why)),
        },
        None => (groups.map_or(0, |groups| groups.ahead_of_ungrouped(state.priority)), state.priority),
    };
    let (before, class) = place;
    let tasks = ahead(store, queue, number, group, id, &state, now)?;
    let is_next = tasks == 0 && before == 0;
    Ok(Some(if is_next { Why::Next } else { Why::Behind { tasks, groups: before, class } }))
}

/// Returns what holds the whole queue back.
fn of_queue(queue: &Queue, now: Millis) -> Option<Why> {
    if let Some(paused) = queue.paused(now) {
        return Some(Why::QueuePaused(paused.clone()));
    }
    if queue.is_half_open(now) && queue.served.probe != Token(0) {
        return Some(Why::QueueProbing);
    }
    match queue.limits.gate(queue.stats.leased, queue.served.bucket, now) {
        Gate::Full { limit } => Some(Why::QueueFull { leased: queue.stats.leased, limit }),
        Gate::Token { at } => Some(Why::QueueRate { next: at }),
        Gate::Open => None,
    }
}

/// Returns how many groups are served before one that may be served, and in which class, or what holds it back.
fn of_group(groups: &Groups, group: Number, now: Millis) -> Result<(usize, u8), Why> {
    match groups.explain(group, now) {
        Some(Reason::Full { leased, limit, serial }) => Err(Why::GroupFull { leased, limit, serial }),
        Some(Reason::Slowed { until }) => Err(Why::GroupSlowed { until }),
        Some(Reason::Rate { until }) => Err(Why::GroupRate { next: until }),
        Some(Reason::Ready { ahead, class }) => Ok((ahead, class)),
        Some(Reason::NotDue { until }) => Err(Why::NotDue { until }),
        Some(Reason::Empty) | None => Ok((0, 0)),
    }
}

/// Counts the due tasks before one in its own line and in more urgent ones: of its group, or of the tasks without one.
fn ahead(
    store: &dyn Read,
    queue: &Queue,
    number: u32,
    group: Option<(&Groups, Number)>,
    id: TaskId,
    state: &State,
    now: Millis,
) -> Result<usize, Fault> {
    let lines: Vec<u8> = match group {
        Some((groups, group)) => {
            groups.get(group).into_iter().flat_map(Group::lines).map(|line| line.0).collect()
        }
        None => queue.lines.iter().filter(|line| line.waiting > 0).map(|line| line.priority).collect(),
    };
    let mut found = 0;
    for priority in lines.into_iter().filter(|priority| *priority <= state.priority) {
        // Its own line up to itself, the others up to what is due.
        let (at, last) = if priority == state.priority {
            (state.deliver_at, id)
        } else {
            (Millis(now.0.saturating_add(1)), TaskId(0))
        };
        let mut count = |_: &[u8], _: &[u8]| {
            found += 1;
            found < AHEAD_MAX
        };
        match group {
            Some((_, Number(group))) => store.scan(
                &key::in_group(number, group, priority, Millis(0), TaskId(0)),
                &key::in_group(number, group, priority, at, last),
                &mut count,
            )?,
            None => store.scan(
                &key::schedule(number, priority, Millis(0), TaskId(0)),
                &key::schedule(number, priority, at, last),
                &mut count,
            )?,
        }
        if found >= AHEAD_MAX {
            break;
        }
    }
    Ok(found)
}
