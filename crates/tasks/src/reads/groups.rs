//! The groups of a queue: what each has to do, and what it may.
//!
//! Those with open tasks come first, in order of their numbers, which is that of nothing a caller knows; then those of which
//! only limits are set, by name. A page costs what it shows, whatever the number of groups.
//!
//! # Caveats
//! - Numbers are used again: a group that ends and comes back between two pages may be missed or met twice.

use z4_types::{Millis, QueueName};

use crate::fair::{Group, GroupLimits};
use crate::machine::Machine;
use crate::queue::Queue;
use crate::settings::{GroupSettings, Rate};

/// One group of a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupInfo {
    /// Its name.
    pub name: String,
    /// Its tasks that wait, due or not.
    pub waiting: u64,
    /// Its tasks that are leased.
    pub leased: u32,
    /// When its first waiting task is, or was, due.
    pub first_due: Option<Millis>,
    /// Nothing of it is delivered before: somebody asked for a rest, or a task of a serial group waits to be tried again.
    pub blocked_until: Option<Millis>,
    /// What was set of it.
    pub settings: GroupSettings,
    /// What holds: that, over the settings of its queue. All are set that have a value.
    pub effective: GroupSettings,
}

/// Where a page of groups ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GroupCursor {
    /// Behind the group of this number.
    Number(u32),
    /// Among those without tasks, behind the one of this name.
    Name(String),
}

/// A page of groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupPage {
    /// The groups.
    pub groups: Vec<GroupInfo>,
    /// Where to go on; None: that was all.
    pub next: Option<GroupCursor>,
}

impl Machine {
    /// Returns a page of at most `limit` groups of a queue, and at least one if there are more; None if it does not exist.
    #[must_use]
    pub fn groups(&self, queue: &QueueName, after: Option<&GroupCursor>, limit: usize) -> Option<GroupPage> {
        let (_, queue) = self.named(queue.as_str())?;
        let limit = limit.max(1);
        let mut groups = Vec::new();
        let from = match after {
            None => Some(1),
            Some(GroupCursor::Number(number)) => Some(number.saturating_add(1)),
            Some(GroupCursor::Name(_)) => None,
        };
        let mut next = None;
        if let (Some(from), Some(open)) = (from, &queue.groups) {
            for (number, group) in open.from(from) {
                if groups.len() == limit {
                    return Some(GroupPage { groups, next });
                }
                groups.push(describe(queue, group));
                next = Some(GroupCursor::Number(number.0));
            }
        }
        let behind = match after {
            Some(GroupCursor::Name(name)) => name.as_str(),
            _ => "",
        };
        let is_open = |name: &str| queue.groups.as_ref().is_some_and(|open| open.number(name).is_some());
        let behind = (std::ops::Bound::Excluded(behind), std::ops::Bound::Unbounded);
        for (name, _) in queue.group_settings.range::<str, _>(behind).filter(|(name, _)| !is_open(name)) {
            if groups.len() == limit {
                return Some(GroupPage { groups, next });
            }
            groups.push(idle(queue, name));
            next = Some(GroupCursor::Name(name.to_string()));
        }
        Some(GroupPage { groups, next: None })
    }

    /// Returns one group; one that has no tasks and of which nothing is set follows its queue. None if that does not exist.
    #[must_use]
    pub fn group(&self, queue: &QueueName, group: &str) -> Option<GroupInfo> {
        let (_, queue) = self.named(queue.as_str())?;
        let open = queue.groups.as_deref().and_then(|groups| groups.get(groups.number(group)?));
        Some(open.map_or_else(|| idle(queue, group), |open| describe(queue, open)))
    }
}

fn describe(queue: &Queue, group: &Group) -> GroupInfo {
    GroupInfo {
        waiting: group.lines().map(|(_, (waiting, _))| waiting).sum(),
        leased: group.leased(),
        first_due: group.first_due(),
        blocked_until: Some(group.blocked_until()).filter(|until| until.0 > 0),
        ..idle(queue, group.name())
    }
}

/// Returns a group without tasks.
fn idle(queue: &Queue, name: &str) -> GroupInfo {
    GroupInfo {
        name: name.to_owned(),
        waiting: 0,
        leased: 0,
        first_due: None,
        blocked_until: None,
        settings: queue.group_settings.get(name).copied().unwrap_or_default(),
        effective: shown(&queue.limits_of(name)),
    }
}

fn shown(limits: &GroupLimits) -> GroupSettings {
    let rate: Option<Rate> = limits.limits.rate;
    GroupSettings {
        weight: Some(limits.weight),
        serial: Some(limits.serial),
        concurrency: limits.limits.concurrency,
        rate,
    }
}
