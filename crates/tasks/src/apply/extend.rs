//! Extend: the consumer is still at it.

use z4_types::limits::{LEASE_MS_MAX, LEASE_MS_MIN};
use z4_types::{Duration, TaskId};

use crate::machine::Machine;
use crate::outcome::Settled;
use crate::rows::{State, Texts};
use crate::{Fault, Store};

impl Machine {
    /// Sets the end of a lease, which was checked, to `ttl` from now; shorter than before if so asked, but never
    /// shorter than a new lease could be. The token stays.
    pub(super) fn extend(
        &mut self,
        store: &mut dyn Store,
        id: TaskId,
        state: &State,
        ttl: Duration,
    ) -> Result<Settled, Fault> {
        let until = self.meta.now + Duration(ttl.0.clamp(LEASE_MS_MIN, LEASE_MS_MAX));
        if until != state.at {
            let (consumer, last_error) = self.texts(store, id)?;
            self.end_lease(store, state)?;
            let state = State { at: until, ..*state };
            self.write_state(
                store,
                id,
                &state,
                Texts { consumer: &consumer, last_error: &last_error },
                false,
            );
            // Not fresh: a lease may be extended back to an end it had before.
            self.start_lease(store, id, &state, false)?;
        }
        Ok(Settled::Extended(until))
    }
}
