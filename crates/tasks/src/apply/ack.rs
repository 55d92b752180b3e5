//! Ack: done, forget it.

use z4_types::TaskId;

use crate::index::Found;
use crate::machine::Machine;
use crate::outcome::Settled;
use crate::rows::State;
use crate::{Fault, Store};

impl Machine {
    /// Ends a task whose lease was checked.
    pub(super) fn ack(&mut self, store: &mut dyn Store, id: TaskId, state: &State) -> Result<Settled, Fault> {
        self.remove(store, id, &Found { state: *state, has_state: true })?;
        self.queue_mut(state.queue)?.stats.acked += 1;
        Ok(Settled::Acked)
    }
}
