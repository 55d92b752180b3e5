//! Nack: the delivery failed; the task is retried after a wait, or is dead.

use z4_types::limits::REASON_BYTES_MAX;
use z4_types::{Duration, TaskId};

use super::fail::Again;
use crate::codec::cut;
use crate::machine::Machine;
use crate::outcome::Settled;
use crate::rows::{State, Texts};
use crate::{Fault, Store};

impl Machine {
    /// Fails a task whose lease was checked.
    pub(super) fn nack(
        &mut self,
        store: &mut dyn Store,
        id: TaskId,
        state: &State,
        delay: Option<Duration>,
        reason: &str,
    ) -> Result<Settled, Fault> {
        let again = delay.map_or(Again::ByPolicy, Again::After);
        let (consumer, _) = self.texts(store, id)?;
        let texts = Texts { consumer: &consumer, last_error: cut(reason, REASON_BYTES_MAX) };
        let settled = self.fail(store, id, state, again, texts)?;
        self.queue_mut(state.queue)?.stats.failed += 1;
        Ok(settled)
    }
}
