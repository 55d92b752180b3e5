//! Keys: of all open tasks of a queue, at most one has a given one.
//!
//! A row per key names the task that has it. A create that meets one asks its own policy: fail, keep, replace or debounce. When
//! the task ends its key is free, unless its creator wanted the key unused for a window after that: then the row outlives the
//! task, and an Advance takes it away once its time has come.
//!
//! # Invariants
//! - Every open task with a key has the key row of its queue and key, and no other task names it; dead tasks are open.
//! - A key row with a time has one row of its end, at that time, and the other way around. Whether such a key counts depends
//!   on its time alone, not on whether it was taken away yet.
//! # Caveats
//! - A task whose TTL or lease is over holds its key until an Advance, or a Lease, has ended it.

use z4_types::{Duration, Millis, QueueName, TaskId};

use crate::codec::{Item, Malformed, RawKey, Reader};
use crate::command::{Due, OnConflict, Target, UpdateTask};
use crate::dedup::EVICTION_SLACK;
use crate::head::Point;
use crate::machine::{Machine, locate};
use crate::outcome::Refusal;
use crate::rows::{Phase, State, key, read_body};
use crate::{Fault, Read, Store};

/// Keys of ended tasks that go with their queue, in one entry.
const FORGOTTEN_WITH_QUEUE_MAX: usize = 10_000;

/// A key row's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Holder {
    pub(crate) id: TaskId,
    /// 0: the task is open.
    pub(crate) until: Millis,
}

impl Holder {
    fn write(self) -> [u8; 24] {
        let mut value = [0; 24];
        value[..16].copy_from_slice(&self.id.0.to_le_bytes());
        value[16..].copy_from_slice(&self.until.0.to_le_bytes());
        value
    }

    pub(crate) fn read(value: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(value);
        Ok(Self { id: TaskId(reader.u128("key id")?), until: Millis(reader.u64("key until")?) })
    }

    pub(crate) fn is_open(self) -> bool {
        self.until == Millis(0)
    }
}

/// What a create finds out about its key.
pub(crate) enum Claim {
    /// Nobody has it.
    Free,
    /// A task that is to be cancelled first has it.
    From(TaskId),
    /// The create is answered with this task, which is left as it is.
    Kept(TaskId),
    /// The create is answered with this task, which takes what the new one says.
    Debounced(TaskId),
    Refused(Refusal),
}

/// Returns who has a key, if anybody.
pub(crate) fn holder(store: &dyn Read, queue: u32, name: &str) -> Result<Option<Holder>, Fault> {
    let value = store.get(&key::task_key(queue, name))?;
    Ok(value.map(|value| Holder::read(&value)).transpose()?)
}

/// Reads the row of a key's end: the queue, and the key.
pub(crate) fn read_end(value: &[u8]) -> Result<(u32, &str), Malformed> {
    let mut reader = Reader::new(value);
    let queue = reader.u32("key end queue")?;
    let name = std::str::from_utf8(reader.rest()).map_err(|_| Malformed("key end"))?;
    Ok((queue, name))
}

impl Machine {
    /// Returns what becomes of a create with this key. Changes nothing.
    pub(crate) fn claim(&self, store: &dyn Store, queue: u32, asked: &RawKey<'_>) -> Result<Claim, Fault> {
        let Some(holder) = holder(store, queue, asked.name)? else { return Ok(Claim::Free) };
        let Holder { id, until } = holder;
        let key = || Box::from(asked.name);
        if !holder.is_open() {
            return Ok(match asked.on_conflict {
                _ if until <= self.meta.now => Claim::Free,
                OnConflict::Keep => Claim::Kept(id),
                _ => Claim::Refused(Refusal::KeyUsed { key: key(), id, until }),
            });
        }
        if asked.on_conflict == OnConflict::Keep {
            return Ok(Claim::Kept(id));
        }
        if asked.on_conflict == OnConflict::Fail {
            return Ok(Claim::Refused(Refusal::KeyTaken { key: key(), id }));
        }
        let found = self
            .find(store, id)?
            .ok_or_else(|| Fault::corrupt(format!("a key names task {id}, which is gone")))?;
        Ok(match found.state.phase {
            Phase::Leased => Claim::Refused(Refusal::KeyLeased { key: key(), id, until: found.state.at }),
            Phase::Dead => Claim::From(id),
            _ if asked.on_conflict == OnConflict::Debounce => Claim::Debounced(id),
            _ => Claim::From(id),
        })
    }

    /// Gives a key, which is free, to a new task.
    pub(crate) fn take_key(
        &mut self,
        store: &mut dyn Store,
        queue: u32,
        name: &str,
        id: TaskId,
    ) -> Result<(), Fault> {
        if let Some(before) = holder(store, queue, name)? {
            // Its window is over, and nobody has taken it away yet; or the task was replaced, and has none.
            self.forget_key_end(store, before);
        }
        // Put: keys are used again.
        store.put(&key::task_key(queue, name), &Holder { id, until: Millis(0) }.write());
        Ok(())
    }

    /// Makes an open task, which waits, what a new one with its key says.
    pub(crate) fn debounce(
        &mut self,
        store: &mut dyn Store,
        id: TaskId,
        item: &Item<'_>,
    ) -> Result<(), Fault> {
        let found = self
            .find(store, id)?
            .ok_or_else(|| Fault::corrupt(format!("a key names task {id}, which is gone")))?;
        let due = item.deliver_at(self.meta.now).max(found.state.deliver_at);
        let update = UpdateTask {
            target: Target::id(id, None),
            due: Some(Due::At(due)),
            priority: None,
            payload: Some(bytes::Bytes::copy_from_slice(item.payload)),
            metadata: Some(item.metadata()),
        };
        let updated = self.update(store, &update)?;
        updated.map(|_| ()).map_err(|refusal| Fault::corrupt(format!("a task that waits: {refusal}")))
    }

    /// Frees the key of an open task, which ends. `kept`: its window begins now.
    pub(crate) fn free_key(
        &mut self,
        store: &mut dyn Store,
        id: TaskId,
        state: &State,
        kept: bool,
    ) -> Result<(), Fault> {
        if !state.has_key {
            return Ok(());
        }
        let value = store
            .get(&key::body(id))?
            .ok_or_else(|| Fault::corrupt(format!("task {id} lost its body row")))?;
        let (queue, item) = read_body(&value)?;
        let asked =
            item.key.ok_or_else(|| Fault::corrupt(format!("task {id} has a key that its body misses")))?;
        let row = key::task_key(queue, asked.name);
        if !kept || asked.window == Duration(0) {
            drop(value);
            store.delete(&row);
            return Ok(());
        }
        let until = (self.meta.now + asked.window).min(Millis::MAX_NAMEABLE);
        let end = [&queue.to_le_bytes()[..], asked.name.as_bytes()].concat();
        drop(value);
        store.put(&row, &Holder { id, until }.write());
        store.insert(&key::key_end(until, id), &end);
        self.key_ends.get_mut().inserted((until.0, id.0));
        Ok(())
    }

    fn forget_key_end(&mut self, store: &mut dyn Store, holder: Holder) {
        let Holder { id, until } = holder;
        store.delete(&key::key_end(until, id));
        self.key_ends.get_mut().deleted((until.0, id.0));
    }

    /// Takes a key of an ended task away.
    pub(crate) fn forget_key(&mut self, store: &mut dyn Store, queue: u32, name: &str) -> Result<(), Fault> {
        let holder = holder(store, queue, name)?;
        let holder = holder.filter(|holder| !holder.is_open()).ok_or_else(|| {
            Fault::corrupt(format!("key {name} of queue {queue} is not that of an ended task"))
        })?;
        store.delete(&key::task_key(queue, name));
        self.forget_key_end(store, holder);
        Ok(())
    }

    /// Takes away the keys that ended tasks of a queue left behind; false, and none is, if they are too many for an entry.
    /// The queue has no open task.
    pub(crate) fn forget_keys(&mut self, store: &mut dyn Store, queue: u32) -> Result<bool, Fault> {
        let (mut names, mut malformed) = (Vec::new(), None);
        store.scan(&key::task_key(queue, ""), &key::task_key(queue + 1, ""), &mut |key, _| {
            match key::read_task_key(key) {
                Ok(name) => names.push(name.to_owned()),
                Err(error) => malformed = Some(error),
            }
            malformed.is_none() && names.len() <= FORGOTTEN_WITH_QUEUE_MAX
        })?;
        if let Some(error) = malformed {
            return Err(error.into());
        }
        if names.len() > FORGOTTEN_WITH_QUEUE_MAX {
            return Ok(false);
        }
        for name in names {
            self.forget_key(store, queue, &name)?;
        }
        Ok(true)
    }

    /// Returns when the earliest window of a key ends.
    pub(crate) fn first_key_end(&self, store: &dyn Read) -> Result<Option<Millis>, Fault> {
        let from = |(until, id): Point| key::key_end(Millis(until), TaskId(id));
        locate(store, &self.key_ends, from, key::KEY_ENDS_END, |key| {
            key::read_key_end(key).map(|(until, id)| (until.0, id.0))
        })
    }

    /// Returns when taking keys away is worth an Advance: nobody waits for it.
    pub(crate) fn key_deadline(&self, store: &dyn Read) -> Result<Option<Millis>, Fault> {
        Ok(self.first_key_end(store)?.map(|at| at + EVICTION_SLACK))
    }

    /// Returns the open task of a queue that has a key.
    pub(crate) fn open_by_key(
        &self,
        store: &dyn Store,
        queue: &QueueName,
        name: &str,
    ) -> Result<Result<TaskId, Refusal>, Fault> {
        let holder = match self.named(queue.as_str()) {
            Some((number, _)) => holder(store, number, name)?,
            None => None,
        };
        let open = holder.filter(|holder| holder.is_open()).map(|holder| holder.id);
        Ok(open.ok_or_else(|| Refusal::KeyNotFound { queue: queue.clone(), key: name.into() }))
    }
}
