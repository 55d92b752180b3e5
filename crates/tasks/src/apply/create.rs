//! Create: new tasks, or the answer their first create was given.

use z4_types::TaskId;
use z4_types::limits::QUEUES_PER_SHARD_MAX;

use crate::codec::{Item, RawCreate};
use crate::dedup::Memory;
use crate::index::Found;
use crate::machine::Machine;
use crate::outcome::{Outcome, Refusal};
use crate::rows::key::{self, Scope};
use crate::rows::{State, write_body};
use crate::{Fault, Store};

impl Machine {
    pub(super) fn create(&mut self, store: &mut dyn Store, command: RawCreate<'_>) -> Result<Outcome, Fault> {
        let mut stale = None;
        if let Some(request) = command.request {
            match self.recall(store, Scope::Batch, request)? {
                // The answer of another batch is no answer to this one.
                Memory::Answered(ids) if ids.len() != command.items.len() => {
                    let refusal = Refusal::RequestReused { then: ids.len(), now: command.items.len() };
                    return Ok(Outcome::Created(vec![Err(refusal); command.items.len()]));
                }
                Memory::Answered(ids) => return Ok(Outcome::Created(ids.into_iter().map(Ok).collect())),
                Memory::Stale(at) => stale = Some(at),
                Memory::Nothing => {}
            }
        }
        let mut items = command.items;
        if !self.names.contains_key(command.queue) && self.queues.len() >= QUEUES_PER_SHARD_MAX {
            // Not remembered: the same request may succeed where there is room.
            let refusal = Refusal::TooManyQueues(self.queues.len());
            let mut refused = Vec::with_capacity(items.len());
            while items.next_item()?.is_some() {
                refused.push(Err(refusal.clone()));
            }
            return Ok(Outcome::Created(refused));
        }
        let mut created = Vec::with_capacity(items.len());
        let mut repeats = false;
        let mut queue = None;
        while let Some(item) = items.next_item()? {
            let mut item_stale = None;
            if let Some(request) = item.request {
                match self.recall(store, Scope::Task, request)? {
                    Memory::Answered(ids) => {
                        let first = ids
                            .first()
                            .ok_or_else(|| Fault::corrupt("a task's request row names no task"))?;
                        created.push(Ok(*first));
                        repeats = true;
                        continue;
                    }
                    Memory::Stale(at) => item_stale = Some(at),
                    Memory::Nothing => {}
                }
            }
            // Made only now: a create that is all repeats, or empty, makes no queue.
            let queue = *queue.get_or_insert_with(|| self.intern(store, command.queue));
            let id = self.create_one(store, queue, &item)?;
            if let Some(request) = item.request {
                self.remember(store, Scope::Task, request, item_stale, std::iter::once(id), Some(id));
            }
            created.push(Ok(id));
        }
        if let Some(request) = command.request {
            let first = created.first().and_then(|result| result.as_ref().ok()).copied();
            let ids = created.iter().map(|result| *result.as_ref().expect("a create refuses no task"));
            self.remember(store, Scope::Batch, request, stale, ids, first.filter(|_| !repeats));
        }
        Ok(Outcome::Created(created))
    }

    fn create_one(&mut self, store: &mut dyn Store, queue: u32, item: &Item<'_>) -> Result<TaskId, Fault> {
        let id = TaskId::new(self.meta.now, self.shard, self.meta.next_counter);
        self.meta.next_counter += 1;
        self.buffer.clear();
        write_body(queue, item, &mut self.buffer);
        store.insert(&key::body(id), &self.buffer);
        let state = State::pristine(id, queue, item);
        self.note_ttl(store, id, state.ttl_at);
        self.schedule(store, id, &Found { state, has_state: false })?;
        self.queue_mut(queue)?.stats.pushed += 1;
        Ok(id)
    }
}
