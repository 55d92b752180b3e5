//! The groups of a queue, between the scheduler (`fair`) and the rows: who tells it what, and when its rows are written.
//!
//! A queue has a scheduler while any of its groups has open tasks, or is remembered for a while; a queue without pays
//! nothing. The scheduler learns of every move of a task in a group from `index`, where rows move. What it changed is
//! written once, when the entry ends.
//!
//! # Not here
//! - Choosing whose task is next: `fair`, driven by `apply::lease`.
//! # Caveats
//! - Groups that become due at one moment are judged anew by the next Lease, a quarter of a second for a million. Where
//!   there are many, an Advance does it in parts, when it is asked for: see [`Machine::next_deadline`].

use z4_types::limits::GROUPS_PER_SHARD_MAX;
use z4_types::{Duration, Millis, TaskId};

use crate::dedup::EVICTION_SLACK;
use crate::fair::{Groups, Number};
use crate::head::{First, Point};
use crate::machine::{Machine, locate};
use crate::queue::{Queue, limits_of};
use crate::rows::{Member, State, key, read_body, read_group_settings};
use crate::{Fault, Read, Store};

/// Groups an entry forgets at its end, in each queue it changed.
const FORGOTTEN_PER_ENTRY: usize = 256;

/// Below so many groups that wait for time, judging those that are due is left to the Lease that needs it.
const PROMOTED_AHEAD_FROM: usize = 10_000;

impl Machine {
    /// Reads the groups of all queues, after their settings.
    pub(crate) fn read_groups(&mut self, store: &dyn Read) -> Result<(), Fault> {
        let mut fault = None;
        let [from, to] = key::GROUP_SETTINGS;
        store.scan(from, to, &mut |key, value| {
            let read = || Ok((key::read_group_settings(key)?, read_group_settings(value)?));
            match read().map_err(|malformed: crate::codec::Malformed| malformed.into()) {
                Ok(((number, name), settings)) => match self.queues.get_mut(number as usize) {
                    Some(Some(queue)) => drop(queue.group_settings.insert(name.into(), settings)),
                    _ => fault = Some(Fault::corrupt(format!("a group is set of no queue: {number}"))),
                },
                Err(error) => fault = Some(error),
            }
            fault.is_none()
        })?;
        // Rows of one queue follow each other.
        let mut rows: Vec<(Number, Vec<u8>)> = Vec::new();
        let mut of = 0;
        let [from, to] = key::GROUPS;
        store.scan(from, to, &mut |key, value| {
            let read = key::read_group(key).map_err(Fault::from).and_then(|(queue, number)| {
                if queue != of {
                    self.rebuild_groups(of, &std::mem::take(&mut rows))?;
                    of = queue;
                }
                rows.push((Number(number), value.to_vec()));
                Ok(())
            });
            fault = read.err();
            fault.is_none()
        })?;
        fault.map_or(Ok(()), Err)?;
        self.rebuild_groups(of, &rows)
    }

    fn rebuild_groups(&mut self, number: u32, rows: &[(Number, Vec<u8>)]) -> Result<(), Fault> {
        if rows.is_empty() {
            return Ok(());
        }
        let now = self.meta.now;
        let queue = self.queues.get_mut(number as usize).and_then(Option::as_mut);
        let queue = queue.ok_or_else(|| Fault::corrupt(format!("groups of no queue: {number}")))?;
        let rows = rows.iter().map(|(number, row)| (*number, &row[..]));
        let limits = |name: &str| {
            if cfg!(feature = "bug-group-limits-forgotten") {
                return std::sync::Arc::clone(&queue.group_limits);
            }
            queue.limits_of(name)
        };
        let groups = Groups::rebuild(queue.effective.ageing, rows, limits, now)?;
        queue.groups_counted = groups.len();
        self.groups_open += groups.len();
        queue.groups = Some(Box::new(groups));
        self.grouped.insert(number);
        Ok(())
    }

    /// Writes the groups of a queue that changed, and forgets some that are not needed any more.
    pub(crate) fn write_groups(&mut self, store: &mut dyn Store, number: u32) -> Result<(), Fault> {
        let now = self.meta.now;
        let Some(Queue { groups: all @ Some(_), groups_counted, .. }) = &mut self.queues[number as usize]
        else {
            return Ok(());
        };
        let groups = all.as_deref_mut().expect("matched above");
        groups.forget(now, FORGOTTEN_PER_ENTRY);
        let mut written = Ok(());
        groups.write(|group, row| {
            let key = key::group(number, group.0);
            match row {
                Some(row) => store.put(&key, row),
                None => written = written.clone().and_then(|()| delete_row(store, &key)),
            }
        });
        written?;
        self.groups_open = self.groups_open - *groups_counted + groups.len();
        *groups_counted = groups.len();
        if groups.is_empty() {
            delete_row(store, &key::group(number, 0))?;
            *all = None;
            self.grouped.remove(&number);
        }
        Ok(())
    }

    /// Returns how many groups the shard has, if it may have no more.
    pub(crate) fn groups_full(&self, number: u32, group: &str) -> Result<Option<usize>, Fault> {
        if self.groups_open < GROUPS_PER_SHARD_MAX {
            return Ok(None);
        }
        let known = self.queue(number)?.groups.as_ref().and_then(|groups| groups.number(group));
        Ok(known.is_none().then_some(self.groups_open))
    }

    /// Returns the name of a task's group, from its body.
    pub(crate) fn group_name(&self, store: &dyn Read, id: TaskId) -> Result<String, Fault> {
        let value = store
            .get(&key::body(id))?
            .ok_or_else(|| Fault::corrupt(format!("task {id} lost its body row")))?;
        let (_, item) = read_body(&value)?;
        let name = item.group.ok_or_else(|| Fault::corrupt(format!("task {id} has lost its group")))?;
        Ok(name.to_owned())
    }

    /// Returns the number of the group that a waiting task stands in.
    pub(crate) fn group_number(&self, store: &dyn Read, id: TaskId, state: &State) -> Result<Number, Fault> {
        if let Member::Leased(number) = state.member {
            return Ok(number);
        }
        let name = self.group_name(store, id)?;
        let groups = self.queue(state.queue)?.groups.as_ref();
        let number = groups.and_then(|groups| groups.number(&name));
        number.ok_or_else(|| Fault::corrupt(format!("task {id} waits in group {name}, which has no number")))
    }

    /// Tells the scheduler that a task waits, and returns its group's number.
    pub(crate) fn join(&mut self, id: TaskId, state: &State, name: Option<&str>) -> Result<Number, Fault> {
        let now = self.meta.now;
        let point = (state.deliver_at.0, id.0);
        self.grouped.insert(state.queue);
        let queue = self.queue_mut(state.queue)?;
        let ageing = queue.effective.ageing;
        let groups = queue.groups.get_or_insert_with(|| Box::new(Groups::new(ageing)));
        let before = groups.len();
        let number = match (state.member, name) {
            (Member::Leased(number), _) => {
                groups.returned(number, state.priority, point, now)?;
                number
            }
            (_, Some(name)) => {
                let (settings, of_queue) = (&queue.group_settings, &queue.group_limits);
                groups.push(name, || limits_of(settings, of_queue, name), state.priority, point, now)?
            }
            _ => return Err(Fault::corrupt(format!("task {id} joins a group without a name"))),
        };
        let opened = groups.len().saturating_sub(before);
        self.groups_open += opened;
        queue_count(self.queue_mut(state.queue)?, opened);
        Ok(number)
    }

    /// Tells the scheduler that a task waits no more, and was not served.
    pub(crate) fn part(
        &mut self,
        store: &dyn Read,
        id: TaskId,
        state: &State,
        number: Number,
    ) -> Result<(), Fault> {
        let now = self.meta.now;
        let (of, priority, point) = (state.queue, state.priority, (state.deliver_at.0, id.0));
        let groups = self.queue_mut(of)?.groups.as_mut();
        let groups = groups.ok_or_else(|| Fault::corrupt(format!("task {id} waits in no group")))?;
        groups.remove(number, priority, point, || behind(store, of, number, priority, point), now)
    }

    /// Tells the scheduler that a lease is over, and its task will not wait again.
    pub(crate) fn leave(&mut self, state: &State) -> Result<(), Fault> {
        let Member::Leased(number) = state.member else { return Ok(()) };
        let now = self.meta.now;
        match &mut self.queue_mut(state.queue)?.groups {
            Some(groups) => groups.ended(number, now),
            None => Err(Fault::corrupt("a task is leased in a group, and its queue has none")),
        }
    }

    /// Nothing of a leased task's group is served for a while.
    pub(crate) fn slow_group(&mut self, state: &State, span: Duration) -> Result<(), Fault> {
        let Member::Leased(number) = state.member else { return Ok(()) };
        let now = self.meta.now;
        let until = (now + span).min(Millis::MAX_NAMEABLE);
        match &mut self.queue_mut(state.queue)?.groups {
            Some(groups) => groups.slow(number, until, now),
            None => Err(Fault::corrupt("a task is leased in a group, and its queue has none")),
        }
    }

    /// Returns whether a leased task is of a group whose tasks run in strict order.
    pub(crate) fn is_serial(&self, state: &State) -> Result<bool, Fault> {
        let Member::Leased(number) = state.member else { return Ok(false) };
        let groups = self.queue(state.queue)?.groups.as_ref();
        Ok(groups.and_then(|groups| groups.get(number)).is_some_and(|group| group.limits().serial))
    }

    /// Returns when the first task that waits in a group is due, whatever holds it back.
    pub(crate) fn first_grouped(&self, store: &dyn Read, number: u32) -> Result<Option<Millis>, Fault> {
        locate(
            store,
            &self.queue(number)?.timed,
            |(at, id)| key::timed(number, Millis(at), TaskId(id)),
            &key::timed_end(number),
            |key| key::read_timed(key).map(|(at, id)| (at.0, id.0)),
        )
    }

    /// Returns when an Advance is worth proposing for the sake of groups. Nothing of it is urgent.
    pub(crate) fn next_groups(&self) -> Option<Millis> {
        let all = self.grouped.iter().filter_map(|number| self.queues[*number as usize].as_ref());
        let of_queue = |groups: &Groups| {
            let forget = groups.next_forget().map(|at| at + EVICTION_SLACK);
            forget.into_iter().chain(groups.next_promotion(PROMOTED_AHEAD_FROM)).min()
        };
        all.filter_map(|queue| of_queue(queue.groups.as_deref()?)).min()
    }

    /// Judges groups anew whose time has come, and forgets those whose time is over: up to `limit` of each.
    pub(crate) fn advance_groups(&mut self, limit: u32) -> Result<(), Fault> {
        let now = self.meta.now;
        let mut left = limit as usize;
        for number in self.grouped.clone() {
            let queue = self.queues[number as usize].as_mut().and_then(|queue| queue.groups.as_deref_mut());
            let Some(groups) = queue else { continue };
            groups.promote(now, limit as usize);
            let forgotten = groups.forget(now, left);
            left -= forgotten;
            if forgotten > 0 {
                self.queue_mut(number)?;
            }
        }
        Ok(())
    }

    /// Deletes the rows of the groups of a queue that goes.
    pub(crate) fn forget_groups(&mut self, store: &mut dyn Store, number: u32) -> Result<(), Fault> {
        let Some(queue) = &mut self.queues[number as usize] else { return Ok(()) };
        if let Some(groups) = queue.groups.take() {
            let numbers = groups.iter().map(|(number, _)| number.0).chain([0]);
            numbers.map(|group| key::group(number, group)).try_for_each(|key| delete_row(store, &key))?;
        }
        self.groups_open -= std::mem::take(&mut queue.groups_counted);
        for group in queue.group_settings.keys() {
            store.delete(&key::group_settings(number, group));
        }
        self.grouped.remove(&number);
        Ok(())
    }
}

/// Notes groups that were opened within an entry.
fn queue_count(queue: &mut Queue, opened: usize) {
    queue.groups_counted += opened;
}

/// Deletes a row that may never have been written: it came and went within an entry.
fn delete_row(store: &mut dyn Store, key: &[u8]) -> Result<(), Fault> {
    if store.get(key)?.is_some() {
        store.delete(key);
    }
    Ok(())
}

/// Returns the first row of a line behind `point`.
fn behind(
    store: &dyn Read,
    queue: u32,
    number: Number,
    priority: u8,
    (at, id): Point,
) -> Result<Option<Point>, Fault> {
    let from = key::in_group(queue, number.0, priority, Millis(at), TaskId(id.saturating_add(1)));
    let mut first = None;
    store.scan(&from, &key::in_group_end(queue, number.0, priority), &mut |key, _| {
        first = Some(key::read_in_group(key));
        false
    })?;
    Ok(first.transpose()?.map(|(at, id)| (at.0, id.0)))
}

/// Returns the head of every line without a group that has tasks.
pub(crate) fn heads(store: &dyn Read, number: u32, queue: &Queue) -> Result<Vec<(u8, u64, Point)>, Fault> {
    let mut heads = Vec::new();
    for line in queue.lines.iter().filter(|line| line.waiting > 0) {
        locate(
            store,
            &line.head,
            |(at, id)| key::schedule(number, line.priority, Millis(at), TaskId(id)),
            &key::schedule_end(number, line.priority),
            |key| key::read_schedule(key).map(|(at, id)| (at.0, id.0)),
        )?;
        match line.head.get().first() {
            First::At(point) => heads.push((line.priority, line.waiting, point)),
            _ => return Err(Fault::corrupt(format!("queue {} counts tasks it has no rows of", queue.name))),
        }
    }
    Ok(heads)
}
