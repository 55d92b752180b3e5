//! Waiting tasks counted by due time, so that "how many are due within the hour" costs the same at any backlog.
//!
//! Time is cut into steps of ten seconds. Tasks of steps that have passed are counted in one number, those of the
//! present step in another; both lie in the queue's record, which an entry writes anyway, so that a task due at once costs
//! nothing more. Later steps have a row each (`W`), written once an entry.
//!
//! ```text
//!    passed            current      rows, one per step that has tasks
//!   ──────────────────┼────────────┼────────┼────────┼──── … ──▶ deliver_at
//!                     step         step + 1
//! ```
//! # Invariants
//! - `passed + current + rows` is the number of waiting tasks.
//! - The step moves on only when the record is written, and never past shard time.
//! # Caveats
//! - A queue that no entry touches keeps its step; reading it walks the rows of the steps in between.

use std::collections::BTreeMap;

use z4_types::{Duration, Millis, QueueName};

use crate::codec::{Malformed, Reader};
use crate::machine::Machine;
use crate::rows::{Counted, key};
use crate::stats::DueCounts;
use crate::{Fault, Read, Store};

/// Length of a step.
const STEP_MS: u64 = 10_000;

/// Rows of passed steps that one entry takes in, per queue.
const FOLDED_PER_ENTRY: usize = 64;

/// Tasks of the present step that are looked at one by one, to tell which of them are due.
const LOOKED_AT_MAX: u64 = 1_000;

/// See the module essay.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    pub(crate) counted: Counted,
    /// Changes of later steps that no row has yet. Invariant: empty between entries, unless the record is still of
    /// version 1: then all of its tasks.
    changes: BTreeMap<u64, i64>,
}

impl From<Counted> for Steps {
    fn from(counted: Counted) -> Self {
        Self { counted, changes: BTreeMap::new() }
    }
}

/// Returns the step a time lies in.
pub(crate) fn step_of(at: Millis) -> u64 {
    at.0 / STEP_MS
}

fn plus(count: &mut u64, change: i64) -> Result<(), Fault> {
    *count = count
        .checked_add_signed(change)
        .ok_or_else(|| Fault::corrupt("more waiting tasks than are counted by due time"))?;
    Ok(())
}

impl Steps {
    /// A task that is due at `at` waits, or does not any more.
    #[inline]
    pub(crate) fn count(&mut self, at: Millis, change: i64) -> Result<(), Fault> {
        let step = step_of(at);
        match step.cmp(&self.counted.step) {
            std::cmp::Ordering::Less => plus(&mut self.counted.passed, change),
            std::cmp::Ordering::Equal => plus(&mut self.counted.current, change),
            std::cmp::Ordering::Greater => {
                *self.changes.entry(step).or_default() += change;
                Ok(())
            }
        }
    }

    /// Moves the step up to `now` and writes the rows that changed.
    pub(crate) fn write(&mut self, store: &mut dyn Store, queue: u32, now: Millis) -> Result<(), Fault> {
        let present = step_of(now);
        if present > self.counted.step {
            self.fold(store, queue, present)?;
        }
        for (step, change) in std::mem::take(&mut self.changes) {
            if change == 0 {
                continue;
            }
            let key = key::step(queue, step);
            let mut count = store.get(&key)?.map_or(Ok(0), |value| read_count(&value))?;
            plus(&mut count, change)?;
            if count == 0 {
                store.delete(&key);
            } else {
                store.put(&key, &count.to_le_bytes());
            }
        }
        Ok(())
    }

    /// Takes in the rows of steps up to `present`, or as many as one entry may.
    fn fold(&mut self, store: &mut dyn Store, queue: u32, present: u64) -> Result<(), Fault> {
        let mut rows = rows(store, queue, self.counted.step + 1, present, FOLDED_PER_ENTRY + 1)?;
        let step = if rows.len() > FOLDED_PER_ENTRY {
            rows.truncate(FOLDED_PER_ENTRY);
            rows[FOLDED_PER_ENTRY - 1].0
        } else {
            present
        };
        let Counted { passed, current, .. } = self.counted;
        self.counted = Counted { step, passed: passed + current, current: 0 };
        for (of, count) in rows {
            store.delete(&key::step(queue, of));
            let to = if of < step { &mut self.counted.passed } else { &mut self.counted.current };
            *to += count;
        }
        let later = self.changes.split_off(&(step + 1));
        for (of, change) in std::mem::replace(&mut self.changes, later) {
            let to = if of < step { &mut self.counted.passed } else { &mut self.counted.current };
            plus(to, change)?;
        }
        Ok(())
    }

    /// Returns the count of every step that has tasks, up to `last`, and of what lies before the first under its step.
    fn counts(&self, store: &dyn Read, queue: u32, last: u64) -> Result<BTreeMap<u64, u64>, Fault> {
        let Counted { step, passed, current } = self.counted;
        let mut counts: BTreeMap<u64, u64> =
            rows(store, queue, step + 1, last, usize::MAX)?.into_iter().collect();
        *counts.entry(step).or_default() += current;
        *counts.entry(step.saturating_sub(1)).or_default() += passed;
        for (&of, &change) in self.changes.range(..=last) {
            plus(counts.entry(of).or_default(), change)?;
        }
        Ok(counts)
    }

    /// Checks that the counts are those of tasks due at `due`.
    pub(crate) fn check(&self, store: &dyn Read, queue: u32, due: &BTreeMap<u64, u64>) -> Result<(), String> {
        let Counted { step, passed, current } = self.counted;
        let sum = |range: &mut dyn Iterator<Item = (&u64, &u64)>| range.map(|(_, count)| count).sum::<u64>();
        let rows = rows(store, queue, 0, u64::MAX, usize::MAX).map_err(|fault| fault.what)?;
        let mut later: BTreeMap<u64, i64> =
            rows.into_iter().map(|(of, count)| (of, i64::try_from(count).unwrap_or(i64::MAX))).collect();
        for (of, change) in &self.changes {
            *later.entry(*of).or_default() += change;
        }
        let expected: BTreeMap<u64, i64> = due
            .range(step + 1..)
            .map(|(of, count)| (*of, i64::try_from(*count).unwrap_or(i64::MAX)))
            .collect();
        if passed != sum(&mut due.range(..step)) || current != due.get(&step).copied().unwrap_or(0) {
            return Err(format!("queue {queue}: {:?}, counted {due:?}", self.counted));
        }
        if later != expected {
            return Err(format!("queue {queue}: steps {later:?}, counted {expected:?}"));
        }
        Ok(())
    }
}

/// Returns up to `limit` step rows of a queue, from step `from` to `last`.
fn rows(store: &dyn Read, queue: u32, from: u64, last: u64, limit: usize) -> Result<Vec<(u64, u64)>, Fault> {
    let (mut rows, mut malformed) = (Vec::new(), None);
    let to = match last.checked_add(1) {
        Some(end) => key::step(queue, end).to_vec(),
        None => [b"W", &(queue + 1).to_be_bytes()[..]].concat(),
    };
    if from > last {
        return Ok(rows);
    }
    store.scan(&key::step(queue, from), &to, &mut |key, value| {
        match key::read_step(key).and_then(|step| Ok((step, read_count(value)?))) {
            Ok(row) => rows.push(row),
            Err(error) => malformed = Some(error),
        }
        malformed.is_none() && rows.len() < limit
    })?;
    malformed.map_or(Ok(rows), |error| Err(error.into()))
}

fn read_count(value: &[u8]) -> Result<u64, Malformed> {
    Reader::new(value).u64("step count")
}

impl Machine {
    /// Returns how many tasks of `queue` are due at `now`, and how many soon; None if it does not exist. Reads a row per
    /// step of the next hour that has tasks, and a bounded number of tasks of the present step.
    ///
    /// # Errors
    /// If storage fails.
    pub fn due(&self, store: &dyn Read, queue: &QueueName, now: Millis) -> Result<Option<DueCounts>, Fault> {
        let Some((number, queue)) = self.named(queue.as_str()) else {
            return Ok(None);
        };
        let now = now.max(self.meta.now);
        let within = |minutes: u64| step_of(now + Duration::from_secs(60 * minutes));
        let counts = queue.steps.counts(store, number, within(60))?;
        let up_to = |step: u64| counts.range(..=step).map(|(_, count)| count).sum::<u64>();
        let present = step_of(now);
        let soon = if counts.get(&present).is_some_and(|count| *count > 0) {
            self.due_later_in_step(store, number, now)?
        } else {
            0
        };
        // A step that lags behind shard time holds more than its own tasks: what it holds is due.
        let due = up_to(present).saturating_sub(soon);
        let oldest = self.earliest(store, number)?.filter(|at| *at <= now);
        Ok(Some(DueCounts {
            due,
            in_1_minute: up_to(within(1)) - due,
            in_5_minutes: up_to(within(5)) - due,
            in_60_minutes: up_to(within(60)) - due,
            oldest_due: oldest,
        }))
    }

    /// Returns how many tasks become due between `now` and the end of its step, but looks at a bounded number.
    fn due_later_in_step(&self, store: &dyn Read, number: u32, now: Millis) -> Result<u64, Fault> {
        let end = Millis((step_of(now) + 1) * STEP_MS);
        let mut found = 0;
        for line in self.queue(number)?.lines.iter().filter(|line| line.waiting > 0) {
            let from = key::schedule(number, line.priority, now + Duration(1), z4_types::TaskId(0));
            let to = key::schedule(number, line.priority, end, z4_types::TaskId(0));
            store.scan(&from, &to, &mut |_, _| {
                found += 1;
                found < LOOKED_AT_MAX
            })?;
            if found >= LOOKED_AT_MAX {
                return Ok(found);
            }
        }
        if !self.queue(number)?.grouped.is_empty() {
            let from = key::timed(number, now + Duration(1), z4_types::TaskId(0));
            store.scan(&from, &key::timed(number, end, z4_types::TaskId(0)), &mut |_, _| {
                found += 1;
                found < LOOKED_AT_MAX
            })?;
        }
        Ok(found)
    }
}
