//! Purge: ends the tasks of a queue, a batch at a time.
//!
//! A batch says where it stopped and the next one goes on there, so that a purge of any size is many short entries and
//! walks over no row twice. Tasks created after the purge began are told by their ids, and left alone. Leased tasks go first:
//! one that is given back meanwhile is met again among the waiting.
//!
//! # Invariants
//! - Work is bounded: at most `PURGE_TASKS_MAX` tasks, and `ROWS_MAX` rows looked at.
//! # Caveats
//! - A task that moves against the walk, into a state or place that was passed, is not met. Purge a paused queue to empty it.

use z4_types::TaskId;
use z4_types::limits::PURGE_TASKS_MAX;

use crate::codec::{Malformed, Reader};
use crate::command::{Purge, PurgeCursor, PurgeStates};
use crate::machine::Machine;
use crate::outcome::{Purged, Refusal};
use crate::{Fault, Read, Store};

/// Rows one Purge looks at: those of newer tasks, or of other queues' leases, are passed over.
const ROWS_MAX: usize = 10_000;

/// The states in the order they are walked, with their index rows: letter, and whether the key goes on with the queue.
const WALK: [(PurgeStates, u8, bool); 5] = [
    (PurgeStates::LEASED, b'L', false),
    (PurgeStates::WAITING, b'S', true),
    (PurgeStates::WAITING, b'U', true),
    (PurgeStates::DEAD, b'D', true),
    (PurgeStates::FINISHED, b'H', true),
];

/// Stands in a cursor for the waiting tasks that have a group.
const WAITING_IN_GROUPS: u8 = 16;

/// What a batch may still do, and what it has found.
struct Batch {
    queue: u32,
    before: TaskId,
    tasks: usize,
    rows: usize,
    found: Vec<TaskId>,
}

impl Machine {
    pub(super) fn purge(
        &mut self,
        store: &mut dyn Store,
        purge: &Purge,
    ) -> Result<Result<Purged, Refusal>, Fault> {
        let Some((number, _)) = self.named(purge.queue.as_str()) else {
            return Ok(Err(Refusal::QueueNotFound(purge.queue.clone())));
        };
        let mut batch = Batch {
            queue: number,
            before: purge.before,
            tasks: purge.limit.clamp(1, PURGE_TASKS_MAX) as usize,
            rows: ROWS_MAX,
            found: Vec::new(),
        };
        let mut after = purge.after.as_ref();
        let mut next = None;
        for (state, letter, of_queue) in WALK {
            // What lies before the cursor is done.
            let place = if letter == b'U' { WAITING_IN_GROUPS } else { state.0 };
            if !purge.states.contains(state) || after.is_some_and(|cursor| cursor.state != place) {
                continue;
            }
            let from = after.take().map_or(&[][..], |cursor| &cursor.key);
            if let Some(key) = batch.walk(store, letter, of_queue, from)? {
                next = Some(PurgeCursor { state: place, key });
                break;
            }
        }
        for &id in &batch.found {
            let found = self
                .find(store, id)?
                .ok_or_else(|| Fault::corrupt(format!("an index names task {id}, which is gone")))?;
            self.remove(store, id, &found)?;
            if !found.state.phase.is_finished() {
                self.queue_mut(number)?.stats.cancelled += 1;
            }
        }
        Ok(Ok(Purged { count: batch.found.len() as u32, next }))
    }
}

impl Batch {
    /// Walks the rows of one state from `from` on; returns where it had to stop, None at their end.
    fn walk(
        &mut self,
        store: &dyn Read,
        letter: u8,
        of_queue: bool,
        from: &[u8],
    ) -> Result<Option<Vec<u8>>, Fault> {
        let prefix =
            if of_queue { [&[letter], &self.queue.to_be_bytes()[..]].concat() } else { vec![letter] };
        let to = if of_queue {
            [&[letter], &(self.queue + 1).to_be_bytes()[..]].concat()
        } else {
            vec![letter + 1]
        };
        let (mut stopped, mut malformed) = (None, None);
        store.scan(&[&prefix, from].concat(), &to, &mut |key, value| {
            if self.rows == 0 || self.found.len() == self.tasks {
                stopped = Some(key[prefix.len()..].to_vec());
                return false;
            }
            self.rows -= 1;
            match if of_queue { id_of_key(key) } else { self.id_of_lease(value) } {
                Ok(Some(id)) if id < self.before => self.found.push(id),
                Ok(_) => {}
                Err(error) => malformed = Some(error),
            }
            malformed.is_none()
        })?;
        malformed.map_or(Ok(stopped), |error| Err(error.into()))
    }

    fn id_of_lease(&self, value: &[u8]) -> Result<Option<TaskId>, Malformed> {
        let mut reader = Reader::new(value);
        let id = TaskId(reader.u128("lease id")?);
        Ok((reader.u32("lease queue")? == self.queue).then_some(id))
    }
}

/// Reads the id that ends the key of every index row of a queue.
fn id_of_key(key: &[u8]) -> Result<Option<TaskId>, Malformed> {
    let id = key.last_chunk().ok_or(Malformed("index key"))?;
    Ok(Some(TaskId(u128::from_be_bytes(*id))))
}
