//! Extend: the consumer is still at it, and may say how far.

use z4_types::limits::{LEASE_MS_MAX, LEASE_MS_MIN, PROGRESS_BYTES_MAX};
use z4_types::{Duration, TaskId};

use crate::codec::cut;
use crate::machine::Machine;
use crate::outcome::Settled;
use crate::rows::{State, Texts};
use crate::{Fault, Store};

impl Machine {
    /// Sets the end of a lease, which was checked, to `ttl` from now, zero meaning as long as the queue says; shorter than
    /// before if so asked, but never shorter than a new lease could be. The token stays. Progress, if told, replaces what was told before.
    pub(super) fn extend(
        &mut self,
        store: &mut dyn Store,
        id: TaskId,
        state: &State,
        ttl: Duration,
        progress: Option<&str>,
    ) -> Result<Settled, Fault> {
        let ttl = if ttl.0 == 0 { self.queue(state.queue)?.effective.lease_duration } else { ttl };
        let until = self.meta.now + Duration(ttl.0.clamp(LEASE_MS_MIN, LEASE_MS_MAX));
        if until != state.at || progress.is_some() {
            let before = self.texts(store, id)?;
            let progress = progress.map_or(&*before.progress, |progress| cut(progress, PROGRESS_BYTES_MAX));
            let texts = Texts { progress, ..before.as_texts() };
            let probe = self.queue(state.queue)?.served.probe;
            self.lift_lease(store, state)?;
            self.queue_mut(state.queue)?.served.probe = probe;
            let state = State { at: until, ..*state };
            self.write_state(store, id, &state, texts, false);
            // Not fresh: a lease may be extended back to an end it had before.
            self.start_lease(store, id, &state, false)?;
        }
        Ok(Settled::Extended(until))
    }
}
