//! Lease: picks the next due tasks of a queue for one consumer.
//!
//! By priority, then due time, then creation: the heads of the lines in use, most urgent line first. Where tasks have groups,
//! or gain priority by waiting, the scheduler (`fair`) says whose head is next. A task that was never
//! leased is picked from its schedule row alone. Tasks whose TTL has passed are ended on the way instead of delivered.
//!
//! # Invariants
//! - Never a task whose `deliver_at` lies after shard time (P2); never one that is leased (P3): it has no schedule row.
//! - Never from a paused queue, nor beyond its concurrency and rate, nor those of a group.
//! - Work is bounded: at most `LEASE_TASKS_MAX` picks and as many expired tasks.

use z4_types::limits::{CONSUMER_NAME_BYTES_MAX, LEASE_MS_MAX, LEASE_MS_MIN, LEASE_TASKS_MAX};
use z4_types::{Duration, Millis, QueueName, TaskId};

use crate::codec::{Malformed, RawLease, cut};
use crate::events::{EventKind, Facts};
use crate::fair::{Ahead, Choice, Groups, Number};
use crate::groups::heads;
use crate::head::{First, Head, Point};
use crate::index::Found;
use crate::machine::Machine;
use crate::outcome::{Leased, Outcome, Pick};
use crate::queue::Line;
use crate::rows::{Member, Phase, Scheduled, State, Texts, key};
use crate::{Fault, Read, Store};

/// A schedule row that is due.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    /// Of its group, which has been told; None: it has none.
    group: Option<Number>,
    priority: u8,
    deliver_at: Millis,
    id: TaskId,
    row: Scheduled,
}

/// What a lease may still pick.
struct Budget {
    now: Millis,
    tasks: u32,
    expired: u32,
    bytes_max: u64,
    /// Payload bytes picked so far; None before the first pick, which may exceed `bytes_max`.
    bytes: Option<u64>,
    /// A limit was met.
    spent: bool,
}

impl Budget {
    /// Takes the row out of the budget; false if a limit is met.
    fn take(&mut self, row: &Scheduled) -> bool {
        let bytes = self.bytes.unwrap_or(0).saturating_add(row.payload_bytes.into());
        let fits = if row.ttl_at <= self.now {
            self.expired > 0
        } else {
            self.tasks > 0 && (self.bytes.is_none() || bytes <= self.bytes_max)
        };
        if !fits {
            self.spent = true;
        } else if row.ttl_at <= self.now {
            self.expired -= 1;
        } else {
            self.tasks -= 1;
            self.bytes = Some(bytes);
        }
        fits
    }
}

impl Machine {
    pub(super) fn lease(&mut self, store: &mut dyn Store, command: &RawLease<'_>) -> Result<Outcome, Fault> {
        let now = self.meta.now;
        let named = self.named(command.queue);
        let ttl = match command.ttl {
            Duration(0) => match named {
                Some((_, queue)) => queue.effective.lease_duration,
                None => self.resolve(command.queue, None).lease_duration,
            },
            ttl => ttl,
        };
        let until = now + Duration(ttl.0.clamp(LEASE_MS_MIN, LEASE_MS_MAX));
        let (queue, room) = match named {
            Some((number, queue)) if queue.room(now) > 0 => (number, queue.room(now)),
            _ => {
                let queue = QueueName::new(command.queue).expect("validated when the entry was read");
                return Ok(Outcome::Leased(Leased { queue, until, picks: Vec::new() }));
            }
        };
        let mut budget = Budget {
            now,
            tasks: command.max.min(LEASE_TASKS_MAX).min(room),
            expired: LEASE_TASKS_MAX,
            bytes_max: command.max_bytes,
            bytes: None,
            spent: false,
        };
        let mut candidates = Vec::new();
        let record = self.queue(queue)?;
        if record.groups.is_some() || record.effective.ageing.is_some() {
            self.choose(store, queue, &mut budget, &mut candidates)?;
        } else {
            for line in record.lines.iter().filter(|line| line.waiting > 0) {
                collect(store, queue, line, &mut budget, &mut candidates)?;
                if budget.spent {
                    break;
                }
            }
        }
        let consumer = cut(command.consumer, CONSUMER_NAME_BYTES_MAX);
        let mut picks = Vec::with_capacity(candidates.len());
        for candidate in candidates {
            if candidate.row.ttl_at <= now {
                self.expire(store, candidate.id, candidate.group)?;
            } else {
                picks.push(self.deliver(store, queue, &candidate, until, consumer)?);
            }
        }
        if let Some(first) = picks.first() {
            self.queue_mut(queue)?.took(picks.len() as u64, first.token, now);
        }
        let name = self.queue(queue)?.name.clone();
        Ok(Outcome::Leased(Leased { queue: name, until, picks }))
    }

    /// Appends the tasks that the scheduler chooses, and charges their groups for them.
    fn choose(
        &mut self,
        store: &dyn Read,
        number: u32,
        budget: &mut Budget,
        candidates: &mut Vec<Candidate>,
    ) -> Result<(), Fault> {
        let now = budget.now;
        let heads = heads(store, number, self.queue(number)?)?;
        let queue = self.queue_mut(number)?;
        let mut ungrouped_only;
        let groups = match &mut queue.groups {
            Some(groups) => &mut **groups,
            // Nothing but ageing to keep in mind: what it would remember of turns is of nobody else.
            None => {
                ungrouped_only = Groups::new(queue.effective.ageing);
                &mut ungrouped_only
            }
        };
        groups.feed(heads.into_iter(), now);
        let mut ahead = Ahead::new();
        while let Some(choice) = groups.next(now) {
            let left = budget.tasks as usize;
            let (row, next) = ahead.take(groups, &choice, left, |choice, from, count| {
                fetch(store, number, choice, from, count)
            })?;
            if !budget.take(&row) {
                break;
            }
            if row.ttl_at <= now {
                groups.remove(choice.group, choice.priority, choice.head, || Ok(next), now)?;
            } else {
                groups.charge(&choice, next, now)?;
            }
            let (at, id) = choice.head;
            let group = Some(choice.group).filter(|group| *group != Number::UNGROUPED);
            if group.is_none() {
                // The rows taken are deleted next; this one is then the first.
                let line = queue.lines.iter().find(|line| line.priority == choice.priority);
                let line = line.expect("it was fed");
                line.head.set(next.map_or(Head::EMPTY, Head::at));
            }
            let (deliver_at, id) = (Millis(at), TaskId(id));
            candidates.push(Candidate { group, priority: choice.priority, deliver_at, id, row });
        }
        // Whoever asks the groups when they are next served is answered for them alone.
        groups.feed(std::iter::empty(), now);
        Ok(())
    }

    /// Moves one task from its line to the consumer.
    fn deliver(
        &mut self,
        store: &mut dyn Store,
        queue: u32,
        candidate: &Candidate,
        until: Millis,
        consumer: &str,
    ) -> Result<Pick, Fault> {
        let Candidate { group, priority, deliver_at, id, row } = *candidate;
        let mut state = State {
            phase: Phase::Leased,
            has_key: row.has_key,
            queue,
            priority,
            deliver_at,
            deliveries: 0,
            failures: 0,
            payload_bytes: row.payload_bytes,
            token: self.next_token(),
            at: until,
            ttl_at: row.ttl_at,
            revision: 0,
            result_bytes: None,
            member: group.map_or(Member::None, Member::Leased),
            blockers: 0,
        };
        self.unschedule(store, id, &state)?;
        if row.has_state {
            let value = store
                .get(&key::state(id))?
                .ok_or_else(|| Fault::corrupt(format!("task {id} lost its state row")))?;
            let (before, texts) = State::read(&value)?;
            state.deliveries = before.deliveries.saturating_add(1);
            state.failures = before.failures;
            state.revision = before.revision.saturating_add(1);
            self.buffer.clear();
            state.write(Texts { consumer, ..texts }, &mut self.buffer);
            drop(value);
            store.put(&key::state(id), &self.buffer);
        } else {
            state.deliveries = 1;
            self.write_state(store, id, &state, Texts { consumer, ..Texts::default() }, true);
        }
        self.start_lease(store, id, &state, true)?;
        let stats = &mut self.queue_mut(queue)?.stats;
        stats.deliveries += 1;
        stats.redelivered += u64::from(state.deliveries > 1);
        self.emit(store, queue, id, EventKind::Leased, || Facts::delivered(&state, consumer))?;
        Ok(Pick {
            id,
            token: state.token,
            due: deliver_at,
            deliveries: state.deliveries,
            failures: state.failures,
            payload_bytes: row.payload_bytes,
        })
    }

    /// Ends a task whose TTL has passed. `group`: the one that has been told already.
    pub(super) fn expire(
        &mut self,
        store: &mut dyn Store,
        id: TaskId,
        group: Option<Number>,
    ) -> Result<(), Fault> {
        let mut found: Found = self
            .find(store, id)?
            .ok_or_else(|| Fault::corrupt(format!("an index names task {id}, which is gone")))?;
        if let Some(number) = group {
            found.state.member = Member::Leased(number);
        }
        self.end(store, id, &found, Phase::Expired, None)?;
        self.queue_mut(found.state.queue)?.stats.expired += 1;
        Ok(())
    }
}

/// Reads up to `count` rows of the line of a choice, from `from` on.
fn fetch(
    store: &dyn Read,
    queue: u32,
    choice: &Choice,
    (at, id): Point,
    count: usize,
) -> Result<Vec<(Point, Scheduled)>, Fault> {
    let (mut rows, mut malformed) = (Vec::with_capacity(count), None);
    let mut visit = |point: Result<(Millis, TaskId), Malformed>, value: &[u8]| {
        match point.and_then(|(at, id)| Ok(((at.0, id.0), Scheduled::read(value)?))) {
            Ok(row) => rows.push(row),
            Err(error) => malformed = Some(error),
        }
        malformed.is_none() && rows.len() < count
    };
    let (at, id, priority) = (Millis(at), TaskId(id), choice.priority);
    if choice.group == Number::UNGROUPED {
        let to = key::schedule_end(queue, priority);
        store.scan(&key::schedule(queue, priority, at, id), &to, &mut |key, value| {
            visit(key::read_schedule(key), value)
        })?;
    } else {
        let group = choice.group.0;
        let to = key::in_group_end(queue, group, priority);
        store.scan(&key::in_group(queue, group, priority, at, id), &to, &mut |key, value| {
            visit(key::read_in_group(key), value)
        })?;
    }
    malformed.map_or(Ok(rows), |error| Err(error.into()))
}

/// Appends the due rows of a line that fit the budget, and leaves the line's head at the first row that was not taken.
fn collect(
    store: &dyn Read,
    queue: u32,
    line: &Line,
    budget: &mut Budget,
    candidates: &mut Vec<Candidate>,
) -> Result<(), Fault> {
    let (at, id) = match line.head.get().first() {
        First::Nothing => return Ok(()),
        First::At((at, _)) if Millis(at) > budget.now => return Ok(()),
        First::At(point) | First::From(point) => point,
    };
    let from = key::schedule(queue, line.priority, Millis(at), TaskId(id));
    let mut stopped: Option<Result<Head, Malformed>> = None;
    store.scan(&from, &key::schedule_end(queue, line.priority), &mut |key, value| {
        match key::read_schedule(key).and_then(|(at, id)| Ok((at, id, Scheduled::read(value)?))) {
            Ok((deliver_at, id, row)) => {
                if deliver_at <= budget.now && budget.take(&row) {
                    candidates.push(Candidate { group: None, priority: line.priority, deliver_at, id, row });
                    return true;
                }
                stopped = Some(Ok(Head::at((deliver_at.0, id.0))));
            }
            Err(malformed) => stopped = Some(Err(malformed)),
        }
        false
    })?;
    // The rows taken are deleted next; what the scan stopped at is then the first.
    line.head.set(stopped.transpose()?.unwrap_or(Head::EMPTY));
    Ok(())
}
