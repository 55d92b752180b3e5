//! Create: new tasks, or the answer their first create was given.
//!
//! What a task leaves open is answered here, by the settings of its queue as they are now, and stays with it.

use std::sync::Arc;

use z4_types::limits::{MAX_ATTEMPTS_DEFAULT, QUEUES_PER_SHARD_MAX};
use z4_types::{Duration, Priority, TaskId};

use crate::codec::{Item, List, RawCreate};
use crate::command::Retry;
use crate::dedup::Memory;
use crate::events::{EventKind, Facts};
use crate::index::Found;
use crate::keys::Claim;
use crate::machine::Machine;
use crate::outcome::{Made, Outcome, Refusal};
use crate::rows::key::{self, Scope};
use crate::rows::{Defaults, Phase, State, write_body};
use crate::settings::Effective;
use crate::{Fault, Store};

/// Stands for a task that was refused, where the answer to a batch is remembered.
const REFUSED: TaskId = TaskId(0);

impl Machine {
    pub(super) fn create(&mut self, store: &mut dyn Store, command: RawCreate<'_>) -> Result<Outcome, Fault> {
        let (mut stale, mut known) = (None, Vec::new());
        if let Some(request) = command.request {
            match self.recall(store, Scope::Batch, request)? {
                // The answer of another batch is no answer to this one.
                Memory::Answered(answer) if answer.ids.len() != command.items.len() => {
                    let refusal = Refusal::RequestReused { then: answer.ids.len(), now: command.items.len() };
                    return Ok(Outcome::Created(vec![Err(refusal); command.items.len()]));
                }
                Memory::Answered(answer) if !answer.ids.contains(&REFUSED) => {
                    return Ok(Outcome::Created(answer.ids.into_iter().map(|id| Ok(id.into())).collect()));
                }
                // Some were refused: they are tried again, the others are not.
                Memory::Answered(answer) => (stale, known) = (Some(answer.at), answer.ids),
                Memory::Stale(at) => stale = Some(at),
                Memory::Nothing => {}
            }
        }
        if !self.names.contains_key(command.queue) && self.names.len() >= QUEUES_PER_SHARD_MAX {
            // Not remembered: the same request may succeed where there is room.
            return refuse_all(command.items, &Refusal::TooManyQueues(self.names.len()));
        }
        let mut items = command.items;
        let mut created = Vec::with_capacity(items.len());
        // Ids that follow each other are remembered in fewer bytes.
        let mut in_a_row = known.is_empty();
        let mut new = false;
        let mut queue = None;
        while let Some(item) = items.next_item()? {
            if let Some(id) = known.get(created.len()).filter(|id| **id != REFUSED) {
                created.push(Ok(Made::from(*id)));
                continue;
            }
            let mut item_stale = None;
            if let Some(request) = item.request {
                match self.recall(store, Scope::Task, request)? {
                    Memory::Answered(answer) => {
                        let first = answer.ids.first();
                        let first =
                            first.ok_or_else(|| Fault::corrupt("a task's request row names no task"))?;
                        created.push(Ok(Made::from(*first)));
                        (in_a_row, new) = (false, true);
                        continue;
                    }
                    Memory::Stale(at) => item_stale = Some(at),
                    Memory::Nothing => {}
                }
            }
            // Made only now: a create that is all repeats, or empty, makes no queue.
            let (number, effective) = match &queue {
                Some((number, effective)) => (*number, effective),
                None => {
                    let number = self.intern(store, command.queue);
                    self.tune_events(number)?;
                    let found = queue.insert((number, Arc::clone(&self.queue(number)?.effective)));
                    (number, &found.1)
                }
            };
            let made = match self.create_or_find(store, number, effective, item)? {
                Ok(made) => made,
                Err(refusal) => {
                    created.push(Err(refusal));
                    in_a_row = false;
                    continue;
                }
            };
            if let Some(request) = item.request {
                let id = made.id;
                self.remember(store, Scope::Task, request, item_stale, std::iter::once(id), Some(id));
            }
            in_a_row &= !made.existed;
            created.push(Ok(made));
            new = true;
        }
        // A batch of which nothing was taken is not remembered: nothing could be made twice.
        if let Some(request) = command.request
            && (new || created.is_empty())
        {
            let first = created.first().and_then(|result| result.as_ref().ok()).map(|made| made.id);
            let ids = created.iter().map(|result| result.as_ref().map_or(REFUSED, |made| made.id));
            self.remember(store, Scope::Batch, request, stale, ids, first.filter(|_| in_a_row));
        }
        Ok(Outcome::Created(created))
    }

    /// Returns the task of an item: a new one, or the one that has its key.
    fn create_or_find(
        &mut self,
        store: &mut dyn Store,
        number: u32,
        effective: &Effective,
        item: Item<'_>,
    ) -> Result<Result<Made, Refusal>, Fault> {
        let mut replaced = None;
        if let Some(key) = &item.key {
            match self.claim(store, number, key)? {
                Claim::Free => {}
                Claim::From(id) => replaced = self.find(store, id)?.map(|found| (id, found)),
                Claim::Kept(id) => return Ok(Ok(Made { id, existed: true })),
                Claim::Debounced(id) => {
                    self.debounce(store, id, &item)?;
                    return Ok(Ok(Made { id, existed: true }));
                }
                Claim::Refused(refusal) => return Ok(Err(refusal)),
            }
        }
        let going = replaced.map(|(id, _)| id);
        let blockers = match self.blockers(store, &item, going)? {
            Ok(blockers) => blockers,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let leaves = replaced.is_some_and(|(_, found)| found.state.phase != Phase::Dead);
        if let Some(refusal) = self.too_many(number, effective, &item, leaves)? {
            return Ok(Err(refusal));
        }
        if let Some((id, found)) = replaced {
            self.end(store, id, &found, Phase::Cancelled, None)?;
            self.queue_mut(number)?.stats.cancelled += 1;
        }
        if let Some(key) = &item.key {
            let id = TaskId::new(self.meta.now, self.shard, self.meta.next_counter);
            self.take_key(store, number, key.name, id)?;
        }
        Ok(Ok(self.create_one(store, number, effective, item, &blockers)?.into()))
    }

    /// Returns the refusal of one more task, if the queue may take none. `leaves`: one of its backlog makes room.
    fn too_many(
        &self,
        number: u32,
        effective: &Effective,
        item: &Item<'_>,
        leaves: bool,
    ) -> Result<Option<Refusal>, Fault> {
        if let Some(group) = item.group
            && let Some(groups) = self.groups_full(number, group)?
        {
            return Ok(Some(Refusal::TooManyGroups(groups)));
        }
        let Some(limit) = effective.max_backlog else { return Ok(None) };
        let queue = self.queue(number)?;
        let is_full = queue.stats.backlog() - u64::from(leaves) >= limit;
        Ok(is_full.then(|| Refusal::BacklogFull { queue: queue.name.clone(), limit }))
    }

    /// Creates a task that no caller asked for, if its queue takes one more.
    pub(super) fn create_in(
        &mut self,
        store: &mut dyn Store,
        queue: u32,
        item: Item<'_>,
    ) -> Result<Result<TaskId, Refusal>, Fault> {
        let effective = Arc::clone(&self.queue(queue)?.effective);
        if let Some(refusal) = self.too_many(queue, &effective, &item, false)? {
            return Ok(Err(refusal));
        }
        self.create_one(store, queue, &effective, item, &[]).map(Ok)
    }

    fn create_one(
        &mut self,
        store: &mut dyn Store,
        queue: u32,
        effective: &Effective,
        mut item: Item<'_>,
        blockers: &[(TaskId, u32)],
    ) -> Result<TaskId, Fault> {
        let id = TaskId::new(self.meta.now, self.shard, self.meta.next_counter);
        self.meta.next_counter += 1;
        let defaults = self.defaults(effective, &item);
        self.buffer.clear();
        write_body(queue, &defaults, &item, &mut self.buffer);
        store.insert(&key::body(id), &self.buffer);
        defaults.fill(&mut item);
        let mut state = State::pristine(id, queue, &item);
        self.note_ttl(store, id, state.ttl_at);
        match item.after.filter(|_| !blockers.is_empty()) {
            Some(after) => {
                (state.phase, state.blockers) = (Phase::Blocked, blockers.len() as u32);
                self.block(store, id, &state, blockers, after.on_failure)?;
            }
            None => self.schedule_as(store, id, &Found { state, has_state: false }, item.group)?,
        }
        self.queue_mut(queue)?.stats.pushed += 1;
        let name = item.key.map(|key| key.name);
        let facts = || Facts { key: name, ..Facts::placed(&state, item.group) };
        self.emit(store, queue, id, EventKind::Created, facts)?;
        Ok(id)
    }

    /// Returns what the queue answers where the task leaves it open, as far as it differs from what z4 answers.
    fn defaults(&self, effective: &Effective, item: &Item<'_>) -> Defaults {
        if std::ptr::eq(effective, &*self.standard) {
            // The usual queue, of which nothing is set.
            return Defaults::default();
        }
        let now = self.meta.now;
        Defaults {
            priority: Some(effective.priority)
                .filter(|priority| item.priority.is_none() && *priority != Priority::default()),
            // From when it is due: a task is not ended before anybody could have had it.
            ttl: effective
                .ttl
                .filter(|_| item.ttl.is_none())
                .map(|ttl| Duration(item.deliver_at(now).since(now).0.saturating_add(ttl.0))),
            max_attempts: Some(effective.max_attempts)
                .filter(|max| item.max_attempts.is_none() && *max != MAX_ATTEMPTS_DEFAULT),
            retry: Some(effective.retry).filter(|retry| item.retry.is_none() && *retry != Retry::default()),
        }
    }
}

fn refuse_all(mut items: List<'_>, refusal: &Refusal) -> Result<Outcome, Fault> {
    let mut refused = Vec::with_capacity(items.len());
    while items.next_item()?.is_some() {
        refused.push(Err(refusal.clone()));
    }
    Ok(Outcome::Created(refused))
}
