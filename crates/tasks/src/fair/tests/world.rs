//! A queue around its groups: rows in a tree, and verbs that drive the groups as the machine does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use z4_types::{Duration, Millis};

use crate::fair::{Ahead, Choice, GroupLimits, Groups, Limits, Number, hash};
use crate::head::Point;

/// A task that is leased.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lease {
    pub(super) id: u128,
    pub(super) group: String,
    pub(super) number: Number,
    pub(super) priority: u8,
}

/// See the module essay. A group named "" is the tasks without one.
pub(super) struct World {
    pub(super) groups: Groups,
    /// Number, priority, due time, id.
    pub(super) tasks: BTreeSet<(u32, u8, u64, u128)>,
    /// Group rows as storage has them.
    pub(super) rows: BTreeMap<u32, Vec<u8>>,
    pub(super) limits: BTreeMap<String, GroupLimits>,
    pub(super) ageing: Option<Duration>,
    pub(super) now: Millis,
    /// Scans of task rows by leases, and rows they read.
    pub(super) scans: usize,
    pub(super) read: usize,
    next_id: u128,
}

impl World {
    pub(super) fn new() -> Self {
        Self {
            groups: Groups::new(None),
            tasks: BTreeSet::new(),
            rows: BTreeMap::new(),
            limits: BTreeMap::new(),
            ageing: None,
            now: Millis(1_000),
            scans: 0,
            read: 0,
            next_id: 1,
        }
    }

    pub(super) fn limit(&mut self, group: &str, limits: GroupLimits) {
        self.limits.insert(group.into(), limits);
        self.retune();
    }

    pub(super) fn weight(&mut self, group: &str, weight: u32) {
        self.limit(group, GroupLimits { weight, ..GroupLimits::default() });
    }

    pub(super) fn concurrency(&mut self, group: &str, most: u32) {
        let limits = Limits { concurrency: Some(most), rate: None };
        self.limit(group, GroupLimits { limits, ..GroupLimits::default() });
    }

    pub(super) fn retune(&mut self) {
        let limits = &self.limits;
        self.groups.retune(self.ageing, |name| limits_of(limits, name), self.now);
        self.flush();
    }

    /// A task waits; returns its id.
    pub(super) fn push(&mut self, group: &str, priority: u8, at: u64) -> u128 {
        let id = self.next_id;
        self.next_id += 1;
        self.put(group, priority, at, id);
        id
    }

    fn put(&mut self, group: &str, priority: u8, at: u64, id: u128) {
        let number = if group.is_empty() {
            Number::UNGROUPED
        } else {
            let limits = || limits_of(&self.limits, group);
            self.groups.push(group, limits, priority, (at, id), self.now).expect("pushed")
        };
        self.tasks.insert((number.0, priority, at, id));
        self.flush();
    }

    /// Leases up to `max`, as the verb does.
    pub(super) fn lease(&mut self, max: usize) -> Vec<Lease> {
        let Self { groups, tasks, scans, read, now, .. } = self;
        groups.feed(unfed(tasks), *now);
        let mut ahead = Ahead::new();
        let mut picks: Vec<(Choice, Lease)> = Vec::new();
        while picks.len() < max {
            let Some(choice) = groups.next(*now) else { break };
            let left = max - picks.len();
            let ((), next) = ahead
                .take(groups, &choice, left, |choice, from, count| {
                    let (number, priority) = (choice.group.0, choice.priority);
                    let rows = tasks.range((number, priority, from.0, from.1)..);
                    let rows = rows.take_while(|row| (row.0, row.1) == (number, priority)).take(count);
                    let rows: Vec<(Point, ())> = rows.map(|row| ((row.2, row.3), ())).collect();
                    *scans += 1;
                    *read += rows.len();
                    Ok(rows)
                })
                .expect("rows and groups agree");
            groups.charge(&choice, next, *now).expect("rows and groups agree");
            let group = groups.get(choice.group).expect("chosen").name().to_owned();
            let lease = Lease { id: choice.head.1, group, number: choice.group, priority: choice.priority };
            picks.push((choice, lease));
        }
        for (choice, _) in &picks {
            let (at, id) = choice.head;
            assert!(self.tasks.remove(&(choice.group.0, choice.priority, at, id)), "a row was there");
        }
        self.flush();
        picks.into_iter().map(|(_, lease)| lease).collect()
    }

    /// Leases one; returns its group.
    pub(super) fn one(&mut self) -> Option<String> {
        self.lease(1).pop().map(|lease| lease.group)
    }

    /// A lease ends for good.
    pub(super) fn ack(&mut self, lease: &Lease) {
        self.groups.ended(lease.number, self.now).expect("it was leased");
        self.flush();
    }

    /// A lease ends, and the task waits again.
    pub(super) fn retry(&mut self, lease: &Lease, at: u64) {
        self.groups.returned(lease.number, lease.priority, (at, lease.id), self.now).expect("it was leased");
        self.tasks.insert((lease.number.0, lease.priority, at, lease.id));
        self.flush();
    }

    /// A task that waits goes.
    pub(super) fn cancel(&mut self, task: (u32, u8, u64, u128)) {
        assert!(self.tasks.remove(&task));
        let (number, priority, at, id) = task;
        if number > 0 {
            let next = self.tasks.range(task..).next();
            let next =
                next.filter(|next| (next.0, next.1) == (number, priority)).map(|next| (next.2, next.3));
            self.groups.remove(Number(number), priority, (at, id), || Ok(next), self.now).expect("it waited");
        }
        self.flush();
    }

    pub(super) fn slow(&mut self, group: &str, until: u64) {
        if let Some(number) = self.groups.number(group) {
            self.groups.slow(number, Millis(until), self.now).expect("it has a number");
        }
        self.flush();
    }

    pub(super) fn forget(&mut self) {
        self.groups.forget(self.now, usize::MAX);
        self.flush();
    }

    /// As the machine when it opens: groups from their rows alone.
    pub(super) fn rebuild(&mut self) {
        let rows = self.rows.iter().map(|(number, row)| (Number(*number), &**row));
        let limits = &self.limits;
        self.groups =
            Groups::rebuild(self.ageing, rows, |name| limits_of(limits, name), self.now).expect("own rows");
    }

    fn flush(&mut self) {
        let rows = &mut self.rows;
        self.groups.write(|number, row| match row {
            Some(row) => drop(rows.insert(number.0, row.to_vec())),
            None => drop(rows.remove(&number.0)),
        });
    }

    /// Groups, sets and rows agree.
    pub(super) fn check(&self) {
        let groups = &self.groups;
        let mut ready = BTreeSet::new();
        let mut later = BTreeSet::new();
        let mut idle = BTreeSet::new();
        let mut free = BTreeSet::new();
        let mut names = BTreeSet::new();
        for (number, slot) in (0..).zip(&groups.slots) {
            let Some(group) = slot else {
                free.insert(number);
                continue;
            };
            ready.extend(group.ready);
            if group.again != Millis::NEVER {
                later.insert((group.again, number));
            }
            if number == 0 {
                continue;
            }
            names.insert((hash(&group.name), number));
            assert_eq!(groups.number(&group.name), Some(Number(number)));
            assert_eq!(group.is_open(), group.keep_until == Millis(0), "{group:?}");
            if !group.is_open() {
                idle.insert((group.keep_until, number));
            }
            let lines: Vec<_> =
                group.lines.iter().map(|line| (line.priority, line.waiting, line.head())).collect();
            assert_eq!(lines, lines_of(&self.tasks, number), "{group:?}");
            if let Some(most) = group.limits.effective().concurrency {
                // Above it only where the limit was lowered under running tasks.
                assert!(group.ready.is_none() || group.leased < most, "{group:?}");
            }
        }
        assert_eq!((&ready, &later, &idle), (&groups.ready, &groups.later, &groups.idle));
        assert_eq!((&free, &names), (&groups.free, &groups.names));
        assert_eq!(self.rows.keys().filter(|number| **number > 0).count(), names.len());
    }
}

fn limits_of(limits: &BTreeMap<String, GroupLimits>, name: &str) -> Arc<GroupLimits> {
    Arc::new(limits.get(name).copied().unwrap_or_default())
}

/// Priority, tasks, head of each line of a group.
fn lines_of(tasks: &BTreeSet<(u32, u8, u64, u128)>, number: u32) -> Vec<(u8, u64, Point)> {
    let mut lines: Vec<(u8, u64, Point)> = Vec::new();
    for (_, priority, at, id) in tasks.range((number, 0, 0, 0)..(number + 1, 0, 0, 0)) {
        match lines.last_mut() {
            Some(line) if line.0 == *priority => line.1 += 1,
            _ => lines.push((*priority, 1, (*at, *id))),
        }
    }
    lines
}

fn unfed(tasks: &BTreeSet<(u32, u8, u64, u128)>) -> impl Iterator<Item = (u8, u64, Point)> {
    lines_of(tasks, 0).into_iter()
}
