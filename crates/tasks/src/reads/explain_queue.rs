//! What holds a queue back now: every obstacle there is, the one that must go first in front.
//!
//! # Not here
//! - Whether consumers wait: the door knows. What holds one task back: [`explain`](super::explain()).
//! # Caveats
//! - Where every group with due tasks is held back, at most [`GROUPS_COUNTED_MAX`] groups are looked at to say why.

use z4_types::{Millis, QueueName, Token};

use crate::fair::{Gate, Groups, Reason};
use crate::machine::Machine;
use crate::queue::{Paused, Queue};
use crate::{Fault, Read};

/// Most groups that are looked at to say what holds them back.
pub const GROUPS_COUNTED_MAX: usize = 10_000;

/// One thing that holds a whole queue back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hold {
    /// It is paused: resume it, or wait for its breaker.
    Paused(Paused),
    /// Its circuit breaker tries one delivery: the queue goes on when that succeeds.
    Probing,
    /// No task waits.
    Empty,
    /// No task is due.
    NotDue {
        /// When the first one will be.
        until: Millis,
    },
    /// As many of its tasks are leased as may be.
    Full {
        /// Leased now.
        leased: u64,
        /// The limit.
        limit: u32,
    },
    /// Its rate is used up.
    Rate {
        /// When the next task may go.
        next: Millis,
    },
    /// All that is due is of groups that are held back.
    Groups(HeldGroups),
}

/// Groups with due tasks, by what holds them back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HeldGroups {
    /// As many of their tasks are leased as may be.
    pub full: usize,
    /// Somebody asked for a rest, or a task of a serial group waits to be tried again.
    pub slowed: usize,
    /// Their rate is used up.
    pub rate: usize,
    /// When the first of them may go on by itself; None: when a lease ends.
    pub next: Option<Millis>,
}

/// Returns what holds a queue back at `now`, nothing if a consumer would get a task; None if it does not exist.
///
/// # Errors
/// If storage fails.
pub fn explain_queue(
    store: &dyn Read,
    machine: &Machine,
    queue: &QueueName,
    now: Millis,
) -> Result<Option<Vec<Hold>>, Fault> {
    let Some((number, queue)) = machine.named(queue.as_str()) else { return Ok(None) };
    let mut holds = Vec::new();
    if let Some(paused) = queue.paused(now) {
        holds.push(Hold::Paused(paused.clone()));
    } else if queue.is_half_open(now) && queue.served.probe != Token(0) {
        holds.push(Hold::Probing);
    }
    let earliest = machine.earliest(store, number)?;
    match earliest {
        None => holds.push(Hold::Empty),
        Some(until) if until > now => holds.push(Hold::NotDue { until }),
        Some(_) => {}
    }
    match queue.limits.gate(queue.stats.leased, queue.served.bucket, now) {
        Gate::Full { limit } => holds.push(Hold::Full { leased: queue.stats.leased, limit }),
        Gate::Token { at } => holds.push(Hold::Rate { next: at }),
        Gate::Open => {}
    }
    let is_due = earliest.is_some_and(|at| at <= now);
    let others_due = machine.earliest_ungrouped(store, number)?.is_some_and(|at| at <= now);
    if is_due
        && !others_due
        && let Some(held) = held_groups(queue, now)
    {
        holds.push(Hold::Groups(held));
    }
    Ok(Some(holds))
}

/// Returns what holds all groups back that have due tasks; None: one of them may be served.
fn held_groups(queue: &Queue, now: Millis) -> Option<HeldGroups> {
    let groups: &Groups = queue.groups.as_deref()?;
    let next = groups.next_time(now);
    if next == Some(now) {
        return None;
    }
    let mut held = HeldGroups { next, ..HeldGroups::default() };
    for (number, _) in groups.iter().take(GROUPS_COUNTED_MAX) {
        match groups.explain(number, now) {
            Some(Reason::Full { .. }) => held.full += 1,
            Some(Reason::Slowed { .. }) => held.slowed += 1,
            Some(Reason::Rate { .. }) => held.rate += 1,
            Some(Reason::Empty | Reason::NotDue { .. } | Reason::Ready { .. }) | None => {}
        }
    }
    Some(held)
}
