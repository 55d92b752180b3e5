//! Release: given back, nobody's fault.
//!
//! Without a delay the task returns to its own place in the line, ahead of what became due after it: a consumer that
//! was only passing by, or never got what was leased for it, must not cost a task its turn.

use z4_types::{Duration, Millis, TaskId};

use crate::events::{EventKind, Facts};
use crate::machine::Machine;
use crate::outcome::Settled;
use crate::rows::State;
use crate::{Fault, Store};

impl Machine {
    /// Puts a task, whose lease was checked, back into its line. Counts no failure; the delivery stays counted.
    pub(super) fn release(
        &mut self,
        store: &mut dyn Store,
        id: TaskId,
        state: &State,
        delay: Duration,
    ) -> Result<Settled, Fault> {
        let texts = self.texts(store, id)?;
        self.lift_lease(store, state)?;
        let due = if delay.0 == 0 { state.deliver_at } else { self.meta.now + delay };
        let due = due.min(Millis::MAX_NAMEABLE);
        let facts = || Facts { deliver_at: Some(due), ..Facts::of_lease(state) };
        self.emit(store, state.queue, id, EventKind::Released, facts)?;
        if delay.0 > 0 && self.is_serial(state)? {
            // As after a failure: none overtakes it.
            self.slow_group(state, delay)?;
            self.wait_again(store, id, &mut { *state }, state.deliver_at, texts.as_texts())?;
            return Ok(Settled::Released(due));
        }
        self.wait_again(store, id, &mut { *state }, due, texts.as_texts()).map(Settled::Released)
    }
}
