//! Nack: the delivery failed; the task is retried after a wait, or is dead: out of attempts, or because the consumer or
//! the queue's settings say that this failure is final.

use z4_types::limits::{REASON_BYTES_MAX, SLOW_GROUP_MS_MAX};
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
        again: Again,
        slow_group: Option<Duration>,
        reason: &str,
    ) -> Result<Settled, Fault> {
        if let Some(span) = slow_group {
            self.slow_group(state, span.min(Duration(SLOW_GROUP_MS_MAX)))?;
        }
        let reason = cut(reason, REASON_BYTES_MAX);
        if slow_group.is_none() {
            // Somebody who asked for a rest is not broken.
            self.delivery_ended(store, state, Some(reason))?;
        }
        let is_final = self.queue(state.queue)?.effective.non_retryable.iter().any(|known| known == reason);
        let again = if is_final { Again::Never } else { again };
        let before = self.texts(store, id)?;
        let texts = Texts { last_error: reason, ..before.as_texts() };
        let settled = self.fail(store, id, state, again, texts)?;
        self.queue_mut(state.queue)?.stats.failed += 1;
        Ok(settled)
    }
}
