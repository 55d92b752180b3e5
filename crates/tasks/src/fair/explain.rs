//! Why a group is not served, or how long its way is.
//!
//! # Not here
//! - Why a task of the group is not (it is behind others, the queue is paused or at its own limits): the reader who
//!   asks.

use z4_types::Millis;

use super::group::Key;
use super::limits::Gate;
use super::{Groups, Number};

/// What holds a group back: the first of these that is true.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// Nothing waits.
    Empty,
    /// Nothing is due until then.
    NotDue {
        /// When its first task is due.
        until: Millis,
    },
    /// As many of its tasks are leased as may be.
    Full {
        /// Tasks leased.
        leased: u32,
        /// The limit.
        limit: u32,
        /// Because it is serial.
        serial: bool,
    },
    /// A worker asked for a rest.
    Slowed {
        /// The end of it.
        until: Millis,
    },
    /// Its rate is used up.
    Rate {
        /// When the next token is there.
        until: Millis,
    },
    /// It is served when its turn comes.
    Ready {
        /// The class it waits in: the priority, less what it gained by ageing.
        class: u8,
        /// Groups before it, counted up to [`AHEAD_COUNTED_MAX`]; as of the last choice.
        ahead: usize,
    },
}

/// Groups ahead of one are counted one by one, up to this many: further back, the number says no more.
pub(crate) const AHEAD_COUNTED_MAX: usize = 1_000;

impl Groups {
    /// Returns how many groups are served before the tasks without a group, as far as those of `priority` are concerned.
    pub(crate) fn ahead_of_ungrouped(&self, priority: u8) -> usize {
        let own = self.slots[0].as_ref().map_or(0, |group| group.tags.get(priority));
        let tag = own.max(self.times.get(priority));
        let key = Key { class: priority, tag, at: Millis(0), number: 0, priority };
        self.ready.range(..key).take(AHEAD_COUNTED_MAX).count()
    }

    /// Returns why the group is not served at `now`; None if it has no number: it is empty.
    pub(crate) fn explain(&self, number: Number, now: Millis) -> Option<Reason> {
        let group = self.get(number)?;
        let Some(due) = group.first_due() else { return Some(Reason::Empty) };
        if due > now {
            return Some(Reason::NotDue { until: due });
        }
        let (leased, serial) = (group.leased, group.limits.serial);
        Some(match group.limits.effective().gate(leased.into(), group.bucket, now) {
            Gate::Full { limit } => Reason::Full { leased, limit, serial },
            _ if group.blocked_until > now => Reason::Slowed { until: group.blocked_until },
            Gate::Token { at } => Reason::Rate { until: at },
            Gate::Open => {
                let key = group.judge(number.0, self.ageing, now).ready?;
                let ahead = self.ready.range(..key).filter(|other| other.number != number.0);
                Reason::Ready { class: key.class, ahead: ahead.take(AHEAD_COUNTED_MAX).count() }
            }
        })
    }
}
