//! UpdateTask and RunNow: changes of a task that waits.
//!
//! A leased task is a consumer's, as it was delivered; a dead one waits for a redrive. So only the line knows the task, and
//! it leaves its place there and takes another. Priority, payload and metadata are written into the body, for whoever reads
//! it; the due time into the state row, whose revision tells the change.

use z4_types::{Millis, TaskId};

use crate::after::blockers_of;
use crate::codec::{Item, List, Reader, put_item};
use crate::command::{Due, Target, UpdateTask, Which};
use crate::events::{EventKind, Facts};
use crate::index::Found;
use crate::machine::Machine;
use crate::outcome::{Outcome, Refusal, Updated};
use crate::rows::{Phase, State, key, read_body, read_defaults, write_body};
use crate::{Fault, Store};

impl Machine {
    pub(crate) fn update(
        &mut self,
        store: &mut dyn Store,
        update: &UpdateTask,
    ) -> Result<Result<Updated, Refusal>, Fault> {
        let (id, found) = match self.waiting(store, &update.target)? {
            Ok(found) => found,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let mut state = found.state;
        let texts = if found.has_state { self.texts(store, id)? } else { Default::default() };
        let is_blocked = state.phase == Phase::Blocked;
        if is_blocked {
            self.unhold(store, id, &state)?;
        } else {
            self.unschedule(store, id, &state)?;
        }
        if update.priority.is_some() || update.payload.is_some() || update.metadata.is_some() {
            self.rewrite_body(store, id, update, &mut state)?;
        }
        let due = match update.due {
            None => state.deliver_at,
            Some(Due::Now) => self.meta.now,
            Some(Due::At(at)) => at,
            Some(Due::After(delay)) => self.meta.now + delay,
        };
        let deliver_at = if is_blocked {
            // It goes on waiting for the others; then it is due at that time, or at once.
            state.deliver_at = due.min(Millis::MAX_NAMEABLE);
            self.write_state(store, id, &state, texts.as_texts(), false);
            self.hold(store, id, &state)?;
            state.deliver_at
        } else {
            self.wait_again(store, id, &mut state, due, texts.as_texts())?
        };
        self.emit(store, state.queue, id, EventKind::Updated, || Facts::placed(&state, None))?;
        Ok(Ok(Updated { id, etag: u64::from(state.revision.saturating_add(1)), deliver_at }))
    }

    pub(super) fn run_now(&mut self, store: &mut dyn Store, mut tasks: List<'_>) -> Result<Outcome, Fault> {
        let mut results = Vec::with_capacity(tasks.len());
        while let Some(target) = tasks.next_target()? {
            let due = match self.waiting(store, &target)? {
                Err(refusal) => Err(refusal),
                Ok((id, Found { state, .. })) if state.phase == Phase::Blocked => {
                    Err(self.blocked(store, id, &state)?)
                }
                // Due already: it keeps its place ahead of what became due after it.
                Ok((id, Found { state, .. })) if state.deliver_at <= self.meta.now => {
                    Ok(Updated { id, etag: state.revision.into(), deliver_at: state.deliver_at })
                }
                Ok(_) => {
                    let due = Some(Due::Now);
                    let update = UpdateTask { target, due, priority: None, payload: None, metadata: None };
                    self.update(store, &update)?
                }
            };
            results.push(due);
        }
        Ok(Outcome::MadeDue(results))
    }

    /// Returns a task that has not finished, if it has the etag named.
    pub(super) fn target(
        &self,
        store: &dyn Store,
        target: &Target,
    ) -> Result<Result<(TaskId, Found), Refusal>, Fault> {
        let id = match &target.which {
            Which::Id(id) => *id,
            Which::Key { queue, key } => match self.open_by_key(store, queue, key)? {
                Ok(id) => id,
                Err(refusal) => return Ok(Err(refusal)),
            },
        };
        let found = self.find(store, id)?.filter(|found| !found.state.phase.is_finished());
        let Some(found) = found else { return Ok(Err(Refusal::NotFound(id))) };
        let revision = u64::from(found.state.revision);
        Ok(match target.etag {
            Some(given) if given != revision => Err(Refusal::TaskChanged { id, etag: revision, given }),
            _ => Ok((id, found)),
        })
    }

    /// Returns the refusal of what cannot be done to a blocked task.
    fn blocked(&self, store: &dyn Store, id: TaskId, state: &State) -> Result<Refusal, Fault> {
        let first = blockers_of(store, id)?.first().copied();
        let first = first.ok_or_else(|| Fault::corrupt(format!("task {id} is blocked by no other")))?;
        Ok(Refusal::TaskBlocked { id, blockers: state.blockers, first })
    }

    /// Returns a task that waits, perhaps for others.
    fn waiting(&self, store: &dyn Store, target: &Target) -> Result<Result<(TaskId, Found), Refusal>, Fault> {
        Ok(self.target(store, target)?.and_then(|(id, found)| match found.state.phase {
            Phase::Leased => Err(Refusal::TaskLeased { id, until: found.state.at }),
            Phase::Dead => Err(Refusal::TaskDead(id)),
            _ => Ok((id, found)),
        }))
    }

    /// Writes the body of a task anew, and what the state knows of it.
    fn rewrite_body(
        &mut self,
        store: &mut dyn Store,
        id: TaskId,
        update: &UpdateTask,
        state: &mut State,
    ) -> Result<(), Fault> {
        let value = store
            .get(&key::body(id))?
            .ok_or_else(|| Fault::corrupt(format!("task {id} lost its body row")))?;
        let (queue, item) = read_body(&value)?;
        let defaults = read_defaults(&value)?;
        let mut task = item.to_new_task();
        // What the queue answered stays with the defaults, apart from what the creator named.
        task.ttl = task.ttl.filter(|_| defaults.ttl.is_none());
        task.max_attempts = task.max_attempts.filter(|_| defaults.max_attempts.is_none());
        task.retry = task.retry.filter(|_| defaults.retry.is_none());
        task.priority = update.priority.or(task.priority);
        if let Some(payload) = &update.payload {
            task.payload = payload.clone();
        }
        if let Some(metadata) = &update.metadata {
            task.metadata.clone_from(metadata);
        }
        drop(value);
        let mut raw = Vec::new();
        put_item(&mut raw, &task);
        let item = Item::read(&mut Reader::new(&raw))?;
        (state.priority, state.payload_bytes) = (item.priority.unwrap_or_default().0, item.payload_bytes());
        self.buffer.clear();
        write_body(queue, &defaults, &item, &mut self.buffer);
        store.put(&key::body(id), &self.buffer);
        Ok(())
    }
}
