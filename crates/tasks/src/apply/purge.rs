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

use crate::after::Ending;
use crate::codec::{Malformed, Reader};
use crate::command::{Purge, PurgeCursor, PurgeStates};
use crate::events::{EventKind, Facts};
use crate::keys::Holder;
use crate::machine::Machine;
use crate::outcome::{Purged, Refusal};
use crate::rows::{Phase, key};
use crate::{Fault, Read, Store};

/// Rows one Purge looks at: those of newer tasks, or of other queues' leases, are passed over.
const ROWS_MAX: usize = 10_000;

/// The rows in the order they are walked: the states they are of, the place a cursor names, the letter, and whether the key goes
/// on with the queue.
const WALK: [(PurgeStates, u8, u8, bool); 7] = [
    (PurgeStates::LEASED, PurgeStates::LEASED.0, b'L', false),
    (PurgeStates::WAITING, PurgeStates::WAITING.0, b'S', true),
    (PurgeStates::WAITING, WAITING_IN_GROUPS, b'U', true),
    (PurgeStates::WAITING, BLOCKED, b'J', true),
    (PurgeStates::DEAD, PurgeStates::DEAD.0, b'D', true),
    (PurgeStates::FINISHED, PurgeStates::FINISHED.0, b'H', true),
    (PurgeStates::FINISHED, KEYS, KEY_LETTER, true),
];

/// The place of the waiting tasks that have a group.
const WAITING_IN_GROUPS: u8 = 16;
/// The place of the tasks that wait for others.
const BLOCKED: u8 = 32;
/// The place of the keys that ended tasks left behind.
const KEYS: u8 = 64;
const KEY_LETTER: u8 = b'K';

/// What a batch may still do, and what it has found.
struct Batch {
    queue: u32,
    before: TaskId,
    tasks: usize,
    rows: usize,
    found: Vec<TaskId>,
    /// Keys of ended tasks.
    keys: Vec<String>,
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
            keys: Vec::new(),
        };
        let mut after = purge.after.as_ref();
        let mut next = None;
        for (state, place, letter, of_queue) in WALK {
            // What comes before the cursor is done.
            if !purge.states.contains(state) || after.is_some_and(|cursor| cursor.state != place) {
                continue;
            }
            let from = after.take().map_or(&[][..], |cursor| &cursor.key);
            if let Some(key) = batch.walk(store, letter, of_queue, from)? {
                next = Some(PurgeCursor { state: place, key });
                break;
            }
        }
        let all = self.find_many(store, &batch.found)?;
        for &id in &batch.found {
            // What is done to one task of a batch changes no other: those that come after it are told later.
            let found = all
                .get(&id)
                .ok_or_else(|| Fault::corrupt(format!("an index names task {id}, which is gone")))?;
            if !found.state.phase.is_finished() {
                self.free_key(store, id, &found.state, false)?;
                if found.state.phase != Phase::Dead {
                    self.ended_for(store, id, number, Ending::Failed)?;
                }
                self.queue_mut(number)?.stats.cancelled += 1;
                self.emit(store, number, id, EventKind::Cancelled, || Facts::ended(&found.state))?;
            }
            self.remove(store, id, found)?;
        }
        for name in &batch.keys {
            self.forget_key(store, number, name)?;
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
            if self.rows == 0 || self.found.len() + self.keys.len() == self.tasks {
                stopped = Some(key[prefix.len()..].to_vec());
                return false;
            }
            self.rows -= 1;
            if letter == KEY_LETTER {
                malformed = self.note_key(key, value).err();
                return malformed.is_none();
            }
            match if of_queue { id_of_key(key) } else { self.id_of_lease(value) } {
                Ok(Some(id)) if id < self.before => self.found.push(id),
                Ok(_) => {}
                Err(error) => malformed = Some(error),
            }
            malformed.is_none()
        })?;
        malformed.map_or(Ok(stopped), |error| Err(error.into()))
    }

    /// Notes a key that an ended task left behind.
    fn note_key(&mut self, key: &[u8], value: &[u8]) -> Result<(), Malformed> {
        let holder = Holder::read(value)?;
        if !holder.is_open() && holder.id < self.before {
            self.keys.push(key::read_task_key(key)?.to_owned());
        }
        Ok(())
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
