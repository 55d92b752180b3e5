//! Cancel: ends tasks by id, whatever their state. A consumer that holds one is told so when it settles.

use crate::codec::List;
use crate::machine::Machine;
use crate::outcome::{Outcome, Refusal};
use crate::rows::Phase;
use crate::{Fault, Store};

impl Machine {
    pub(super) fn cancel(&mut self, store: &mut dyn Store, mut ids: List<'_>) -> Result<Outcome, Fault> {
        let mut results = Vec::with_capacity(ids.len());
        while let Some(id) = ids.next_id()? {
            let Some(found) = self.find(store, id)?.filter(|found| !found.state.phase.is_finished()) else {
                results.push(Err(Refusal::NotFound(id)));
                continue;
            };
            self.end(store, id, &found, Phase::Cancelled, None)?;
            self.queue_mut(found.state.queue)?.stats.cancelled += 1;
            results.push(Ok(()));
        }
        Ok(Outcome::Cancelled(results))
    }

    /// The same for those that are as the caller saw them, or are named by their key.
    pub(super) fn cancel_if(&mut self, store: &mut dyn Store, mut tasks: List<'_>) -> Result<Outcome, Fault> {
        let mut results = Vec::with_capacity(tasks.len());
        while let Some(target) = tasks.next_target()? {
            let (id, found) = match self.target(store, &target)? {
                Ok(found) => found,
                Err(refusal) => {
                    results.push(Err(refusal));
                    continue;
                }
            };
            self.end(store, id, &found, Phase::Cancelled, None)?;
            self.queue_mut(found.state.queue)?.stats.cancelled += 1;
            results.push(Ok(()));
        }
        Ok(Outcome::Cancelled(results))
    }
}
