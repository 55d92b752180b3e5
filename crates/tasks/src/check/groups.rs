//! What must hold of tasks in groups: rows of tasks, rows of groups and the scheduler agree.

use std::collections::{BTreeMap, BTreeSet};

use z4_types::TaskId;

use super::{check_head, rows};
use crate::codec::Item;
use crate::fair::Number;
use crate::head::Point;
use crate::machine::Machine;
use crate::rows::{Member, Phase, Scheduled, State, key, read_group_settings};
use crate::{Fault, Read};

/// The waiting tasks of a line of a group: how many, and the first.
type Line = (u64, Point);

/// What the tasks say of groups.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Rows that no task was found for yet.
    in_group: BTreeMap<Vec<u8>, Vec<u8>>,
    timed: BTreeMap<Vec<u8>, Vec<u8>>,
    /// By queue, group number and priority.
    lines: BTreeMap<(u32, Number, u8), Line>,
    /// Leases by queue and group number.
    leased: BTreeMap<(u32, Number), u32>,
}

impl Seen {
    pub(super) fn read(store: &dyn Read) -> Result<Self, Fault> {
        let in_group = rows(store, b'F')?.into_iter().collect();
        let timed = rows(store, b'U')?.into_iter().collect();
        Ok(Self { in_group, timed, ..Self::default() })
    }

    /// Takes note of a task, found with `has_state` in the rows.
    pub(super) fn task(
        &mut self,
        machine: &Machine,
        id: TaskId,
        item: &Item<'_>,
        state: &State,
        has_state: bool,
    ) -> Result<(), String> {
        let Some(name) = item.group else {
            ensure!(state.member == Member::None, "task {id} has no group, and is {:?}", state.member);
            return Ok(());
        };
        let queue = machine.queue(state.queue).map_err(|fault| fault.what)?;
        let number = queue.groups.as_ref().and_then(|groups| groups.number(name));
        match state.phase {
            Phase::Waiting => {
                ensure!(state.member == Member::Named, "waiting task {id} is {:?}", state.member);
                let number = number.ok_or_else(|| format!("task {id} waits in {name}, which is not open"))?;
                let point = (state.deliver_at.0, id.0);
                let line = self.lines.entry((state.queue, number, state.priority)).or_insert((0, point));
                *line = (line.0 + 1, line.1.min(point));
                let key = key::in_group(state.queue, number.0, state.priority, state.deliver_at, id);
                let value = self.in_group.remove(&key[..]);
                let value = value.ok_or_else(|| format!("task {id} is not in the line of {name}"))?;
                let found = Scheduled::read(&value).map_err(|malformed| Fault::from(malformed).what)?;
                let expected = Scheduled { has_state, ..state.scheduled() };
                ensure!(found == expected, "task {id} is in line as {found:?}, not {expected:?}");
                let timed = self.timed.remove(&key::timed(state.queue, state.deliver_at, id)[..]);
                ensure!(
                    timed.as_deref() == Some(&state.payload_bytes.to_le_bytes()[..]),
                    "task {id} is by due time {timed:?}"
                );
            }
            Phase::Leased => {
                let expected = number.map_or(Member::None, Member::Leased);
                ensure!(state.member == expected, "task {id} of {name} is {:?}", state.member);
                let number = number.ok_or_else(|| format!("task {id} is leased in {name}, not open"))?;
                *self.leased.entry((state.queue, number)).or_default() += 1;
            }
            _ => ensure!(state.member == Member::Named, "ended task {id} is {:?}", state.member),
        }
        Ok(())
    }
}

impl Machine {
    /// Checks that the groups are those of the tasks seen.
    pub(super) fn check_groups(&self, store: &dyn Read, seen: &mut Seen) -> Result<(), String> {
        ensure!(seen.in_group.is_empty(), "{} rows in groups without a task", seen.in_group.len());
        ensure!(seen.timed.is_empty(), "{} rows by due time without a task", seen.timed.len());
        let mut stored: BTreeMap<_, _> = rows(store, b'G').map_err(|fault| fault.what)?.into_iter().collect();
        let mut set: BTreeMap<_, _> = rows(store, b'I').map_err(|fault| fault.what)?.into_iter().collect();
        let (mut open, mut grouped) = (0, BTreeSet::new());
        for (number, queue) in (0..).zip(&self.queues) {
            let Some(queue) = queue else { continue };
            let name = &queue.name;
            for (group, settings) in &queue.group_settings {
                let row = set.remove(&key::group_settings(number, group));
                let row = row.map(|row| read_group_settings(&row)).transpose();
                let row = row.map_err(|malformed| Fault::from(malformed).what)?;
                ensure!(row.as_ref() == Some(settings), "group {group} of {name} is set otherwise on disk");
            }
            let mut waiting: BTreeMap<u8, u64> = BTreeMap::new();
            let mut first = None;
            if let Some(groups) = &queue.groups {
                grouped.insert(number);
                ensure!(!groups.is_empty(), "queue {name} has groups, and none of them is named");
                for (group, row) in groups.rows() {
                    let value = stored.remove(&key::group(number, group.0)[..]);
                    let fresh = group == Number::UNGROUPED && value.is_none() && groups.is_unserved();
                    ensure!(
                        fresh || value.as_deref() == Some(&row[..]),
                        "group {group:?} of {name} differs between disk and memory"
                    );
                }
                for (of, group) in groups.iter() {
                    for (priority, line) in group.lines() {
                        let found = seen.lines.remove(&(number, of, priority));
                        ensure!(found == Some(line), "line {priority} of {of:?}: {line:?}, is {found:?}");
                        *waiting.entry(priority).or_default() += line.0;
                        first = Some(first.map_or(line.1, |first: Point| first.min(line.1)));
                    }
                    let leased = seen.leased.remove(&(number, of)).unwrap_or(0);
                    ensure!(leased == group.leased(), "{leased} leases of {of:?}, not {}", group.leased());
                    ensure!(
                        *group.limits() == *queue.limits_of(group.name()),
                        "group {} of {name} goes by limits of before",
                        group.name()
                    );
                }
                open += groups.len();
                ensure!(queue.groups_counted == groups.len(), "queue {name} miscounts its groups");
            }
            let waiting: Vec<(u8, u64)> = waiting.into_iter().collect();
            ensure!(waiting == queue.grouped, "queue {name} counts {:?} in groups", queue.grouped);
            let first = first.map(|(at, id)| key::timed(number, z4_types::Millis(at), TaskId(id)).to_vec());
            check_head("due time", queue.timed.get(), first.as_ref(), |key| {
                key::read_timed(key).map(|(at, id)| (at.0, id.0))
            })?;
        }
        ensure!(grouped == self.grouped, "queues with groups are {grouped:?}, not {:?}", self.grouped);
        ensure!(open == self.groups_open, "{open} groups, counted {}", self.groups_open);
        ensure!(stored.is_empty(), "{} group rows of no group", stored.len());
        ensure!(set.is_empty(), "{} groups set of no queue", set.len());
        ensure!(seen.lines.is_empty() && seen.leased.is_empty(), "tasks of groups that are not open");
        Ok(())
    }
}
