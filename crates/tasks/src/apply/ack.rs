//! Ack: done, forget it, unless the queue keeps finished tasks.

use z4_types::TaskId;

use crate::index::Found;
use crate::machine::Machine;
use crate::outcome::Settled;
use crate::rows::{Phase, State};
use crate::{Fault, Store};

impl Machine {
    /// Ends a task whose lease was checked; the result is kept if the task is.
    pub(super) fn ack(
        &mut self,
        store: &mut dyn Store,
        id: TaskId,
        state: &State,
        result: Option<&[u8]>,
    ) -> Result<Settled, Fault> {
        self.delivery_ended(store, state, None)?;
        self.end(store, id, &Found { state: *state, has_state: true }, Phase::Done, result)?;
        self.queue_mut(state.queue)?.stats.acked += 1;
        Ok(Settled::Acked)
    }
}
