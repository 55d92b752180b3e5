//! Lease: picks the next due tasks of a queue for one consumer.
//!
//! By priority, then due time, then creation: the heads of the lines in use, most urgent line first. A task that was never
//! leased is picked from its schedule row alone. Tasks whose TTL has passed are ended on the way instead of delivered.
//!
//! # Invariants
//! - Never a task whose `deliver_at` lies after shard time (P2); never one that is leased (P3): it has no schedule row.
//! - Never from a paused queue.
//! - Work is bounded: at most `LEASE_TASKS_MAX` picks and as many expired tasks.

use z4_types::limits::{CONSUMER_NAME_BYTES_MAX, LEASE_MS_MAX, LEASE_MS_MIN, LEASE_TASKS_MAX};
use z4_types::{Duration, Millis, QueueName, TaskId};

use crate::codec::{Malformed, RawLease, cut};
use crate::head::{First, Head};
use crate::index::Found;
use crate::machine::Machine;
use crate::outcome::{Leased, Outcome, Pick};
use crate::queue::Line;
use crate::rows::{Phase, Scheduled, State, Texts, key};
use crate::{Fault, Read, Store};

/// A schedule row that is due.
#[derive(Debug, Clone, Copy)]
struct Candidate {
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
        let queue = match named {
            Some((number, queue)) if !queue.is_paused() => number,
            _ => {
                let queue = QueueName::new(command.queue).expect("validated when the entry was read");
                return Ok(Outcome::Leased(Leased { queue, until, picks: Vec::new() }));
            }
        };
        let mut budget = Budget {
            now,
            tasks: command.max.min(LEASE_TASKS_MAX),
            expired: LEASE_TASKS_MAX,
            bytes_max: command.max_bytes,
            bytes: None,
            spent: false,
        };
        let mut candidates = Vec::new();
        for line in self.queue(queue)?.lines.iter().filter(|line| line.waiting > 0) {
            collect(store, queue, line, &mut budget, &mut candidates)?;
            if budget.spent {
                break;
            }
        }
        let consumer = cut(command.consumer, CONSUMER_NAME_BYTES_MAX);
        let mut picks = Vec::with_capacity(candidates.len());
        for candidate in candidates {
            if candidate.row.ttl_at <= now {
                self.expire(store, candidate.id)?;
            } else {
                picks.push(self.deliver(store, queue, &candidate, until, consumer)?);
            }
        }
        let name = self.queue(queue)?.name.clone();
        Ok(Outcome::Leased(Leased { queue: name, until, picks }))
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
        let Candidate { priority, deliver_at, id, row } = *candidate;
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
        Ok(Pick {
            id,
            token: state.token,
            due: deliver_at,
            deliveries: state.deliveries,
            failures: state.failures,
            payload_bytes: row.payload_bytes,
        })
    }

    /// Ends a task whose TTL has passed.
    pub(super) fn expire(&mut self, store: &mut dyn Store, id: TaskId) -> Result<(), Fault> {
        let found: Found = self
            .find(store, id)?
            .ok_or_else(|| Fault::corrupt(format!("an index names task {id}, which is gone")))?;
        self.end(store, id, &found, Phase::Expired, None)?;
        self.queue_mut(found.state.queue)?.stats.expired += 1;
        Ok(())
    }
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
                    candidates.push(Candidate { priority: line.priority, deliver_at, id, row });
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
