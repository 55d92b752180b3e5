//! Nack: the delivery failed; the task is retried after a wait, or is dead: out of attempts, or because the consumer or
//! the queue's settings say that this failure is final.

use z4_types::TaskId;
use z4_types::limits::REASON_BYTES_MAX;

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
        again: Again,
        reason: &str,
    ) -> Result<Settled, Fault> {
        let reason = cut(reason, REASON_BYTES_MAX);
        let is_final = self.queue(state.queue)?.effective.non_retryable.iter().any(|known| known == reason);
        let again = if is_final { Again::Never } else { again };
        let before = self.texts(store, id)?;
        let texts = Texts { last_error: reason, ..before.as_texts() };
        let settled = self.fail(store, id, state, again, texts)?;
        self.queue_mut(state.queue)?.stats.failed += 1;
        Ok(settled)
    }
}
