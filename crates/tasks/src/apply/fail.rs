//! What a nack and a lease that ran out have in common: one more failure, then another try or the end.

use z4_types::limits::MAX_ATTEMPTS_DEFAULT;
use z4_types::{Duration, Millis, TaskId};

use crate::after::Ending;
use crate::command::Retry;
use crate::events::{EventKind, Facts};
use crate::index::Found;
use crate::machine::Machine;
use crate::outcome::Settled;
use crate::retry;
use crate::rows::{Phase, State, Texts, key, read_body};
use crate::{Fault, Store};

/// When a failed task is due again, if it has attempts left.
#[derive(Debug, Clone, Copy)]
pub(super) enum Again {
    /// After the wait of its retry policy.
    ByPolicy,
    /// After a wait the consumer named.
    After(Duration),
    /// At once.
    Now,
    /// It is dead, whatever attempts it had left.
    Never,
}

impl Machine {
    /// Ends the lease of a task and counts a failure. A dead task has no TTL any more: it is kept until somebody looks.
    pub(super) fn fail(
        &mut self,
        store: &mut dyn Store,
        id: TaskId,
        leased: &State,
        again: Again,
        texts: Texts<'_>,
    ) -> Result<Settled, Fault> {
        self.lift_lease(store, leased)?;
        let mut state = State { failures: leased.failures.saturating_add(1), ..*leased };
        let (max_attempts, policy) = policy(store, id)?;
        if matches!(again, Again::Never) || state.failures >= max_attempts {
            self.leave(leased)?;
            self.forget_ttl(store, id, state.ttl_at);
            (state.phase, state.at, state.ttl_at) = (Phase::Dead, self.meta.now, Millis::NEVER);
            self.write_state(store, id, &state, texts, false);
            self.bury(store, id, &state)?;
            self.ended_for(store, id, state.queue, Ending::Failed)?;
            let facts = || Facts::failed(&state, texts.last_error, None);
            self.emit(store, state.queue, id, EventKind::Dead, facts)?;
            return Ok(Settled::Dead);
        }
        let wait = match again {
            Again::ByPolicy => retry::wait(&policy, state.failures, id),
            Again::After(delay) => delay,
            Again::Now | Again::Never => Duration(0),
        };
        let due = (self.meta.now + wait).min(Millis::MAX_NAMEABLE);
        let facts = || Facts::failed(&state, texts.last_error, Some(due));
        self.emit(store, state.queue, id, EventKind::Failed, facts)?;
        if self.is_serial(leased)? {
            // It keeps its place, so that none overtakes it; the group waits with it.
            self.slow_group(leased, wait)?;
            self.wait_again(store, id, &mut state, leased.deliver_at, texts)?;
            return Ok(Settled::Retried(due));
        }
        self.wait_again(store, id, &mut state, due, texts).map(Settled::Retried)
    }

    /// Puts a task, whose lease row is gone, back into its line; returns when it is due, which
    /// the calendar ends.
    pub(super) fn wait_again(
        &mut self,
        store: &mut dyn Store,
        id: TaskId,
        state: &mut State,
        due: Millis,
        texts: Texts<'_>,
    ) -> Result<Millis, Fault> {
        let due = due.min(Millis::MAX_NAMEABLE);
        (state.phase, state.at, state.deliver_at) = (Phase::Waiting, Millis(0), due);
        self.write_state(store, id, state, texts, false);
        self.schedule(store, id, &Found { state: *state, has_state: true })?;
        Ok(due)
    }
}

/// Returns the failures until death and the retry policy, which stand in the task's body.
fn policy(store: &dyn Store, id: TaskId) -> Result<(u32, Retry), Fault> {
    let value =
        store.get(&key::body(id))?.ok_or_else(|| Fault::corrupt(format!("task {id} lost its body row")))?;
    let (_, item) = read_body(&value)?;
    Ok((item.max_attempts.unwrap_or(MAX_ATTEMPTS_DEFAULT), item.retry.unwrap_or_default()))
}
