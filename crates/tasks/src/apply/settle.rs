//! Settle: a consumer's words on its leases, each judged on its own.
//!
//! A lease is over when shard time reaches its end, whether or not an Advance has ended it yet: leases are judged by
//! the shard's own logged time (P12), and a late ack must not depend on how busy the leader was.

use super::fail::Again;
use crate::codec::{List, RawSettlement, RawVerdict};
use crate::machine::Machine;
use crate::outcome::{Outcome, Refusal};
use crate::rows::{Phase, State, key};
use crate::{Fault, Store};

impl Machine {
    pub(super) fn settle(
        &mut self,
        store: &mut dyn Store,
        mut settlements: List<'_>,
    ) -> Result<Outcome, Fault> {
        let mut results = Vec::with_capacity(settlements.len());
        while let Some(settlement) = settlements.next_settlement()? {
            let RawSettlement { id, verdict, .. } = settlement;
            results.push(match self.held(store, &settlement)? {
                Err(refusal) => Err(refusal),
                Ok(state) => Ok(match verdict {
                    RawVerdict::Ack { result } => self.ack(store, id, &state, result)?,
                    RawVerdict::Nack { delay, slow_group, reason } => {
                        let again = delay.map_or(Again::ByPolicy, Again::After);
                        self.nack(store, id, &state, again, slow_group, reason)?
                    }
                    RawVerdict::NackDead { reason } => {
                        self.nack(store, id, &state, Again::Never, None, reason)?
                    }
                    RawVerdict::Release { delay } => self.release(store, id, &state, delay)?,
                    RawVerdict::Extend { ttl, progress } => self.extend(store, id, &state, ttl, progress)?,
                }),
            });
        }
        Ok(Outcome::Settled(results))
    }

    /// Returns the state of the task if the settlement's token holds its lease now.
    fn held(
        &self,
        store: &dyn Store,
        settlement: &RawSettlement<'_>,
    ) -> Result<Result<State, Refusal>, Fault> {
        let RawSettlement { id, token, .. } = *settlement;
        if let Some(value) = store.get(&key::state(id))? {
            let (state, _) = State::read(&value)?;
            if state.phase == Phase::Leased && state.token == token && self.meta.now < state.at {
                return Ok(Ok(state));
            }
            if state.phase.is_finished() {
                // Kept for those who look, gone for those who settle: a repeated ack reads the same either way.
                return Ok(Err(Refusal::NotFound(id)));
            }
        } else if store.get(&key::body(id))?.is_none() {
            return Ok(Err(Refusal::NotFound(id)));
        }
        Ok(Err(Refusal::LeaseLost { id, token }))
    }
}
