//! The circuit breaker of a queue: where deliveries nearly all fail, it pauses, and says why.
//!
//! ```text
//!            most of a window failed            cool-down over                   the probe succeeds
//!   closed ─────────────────────────▶ open ─────────────────────▶ half-open ─────────────────────▶ closed
//!                                       ▲                              │ it fails
//!                                       └──────────────────────────────┘
//! ```
//! Deliveries are counted by how they ended, in windows that follow each other; a release says nothing, nor does a nack that
//! only asks for a rest of its group. Open is a pause with a note of what was seen, and an end. Behind that end one task
//! is leased, the probe; if it is given back or ends otherwise, another one.
//!
//! # Invariants
//! - Judged in apply, by logged outcomes and shard time: every replica pauses at the same entry.
//! - It never replaces a pause that somebody asked for, and a resume forgets what it has seen.
//! # Caveats
//! - Windows do not overlap: failures on both sides of a border are judged apart.

use z4_types::Token;
use z4_types::limits::NOTE_BYTES_MAX;

use crate::codec::cut;
use crate::machine::Machine;
use crate::queue::Paused;
use crate::rows::{Served, State};
use crate::settings::Breaker;
use crate::{Fault, Store};

/// Who paused, as the pause says.
const AUTHOR: &str = "z4 (circuit breaker)";

impl Machine {
    /// A delivery is about to end: well, or as `failure` says.
    pub(crate) fn delivery_ended(
        &mut self,
        store: &mut dyn Store,
        state: &State,
        failure: Option<&str>,
    ) -> Result<(), Fault> {
        let queue = self.queue(state.queue)?;
        let breaker = queue.effective.breaker;
        let is_probe = queue.served.probe == state.token;
        if breaker.is_none() && !is_probe {
            return Ok(());
        }
        let now = self.meta.now;
        if is_probe {
            self.forget_seen(state.queue)?;
            return match (failure, breaker) {
                (Some(reason), Some(breaker)) => self.trip(
                    store,
                    state.queue,
                    &breaker,
                    &format!("the delivery that was tried failed: {reason}"),
                ),
                _ => {
                    self.configure(store, state.queue, |config| config.paused = None)?;
                    self.touch(state.queue)
                }
            };
        }
        let Some(breaker) = breaker else { return Ok(()) };
        if queue.config.as_ref().is_some_and(|config| config.paused.is_some()) {
            return Ok(());
        }
        let served = &mut self.queue_mut(state.queue)?.served;
        if now >= served.window + breaker.window {
            *served = Served { bucket: served.bucket, window: now, ..Served::default() };
        }
        served.ended = served.ended.saturating_add(1);
        let Some(reason) = failure else { return Ok(()) };
        served.failed = served.failed.saturating_add(1);
        let (ended, failed) = (served.ended, served.failed);
        let percent = u64::from(breaker.failure_percent.clamp(1, 100));
        if ended < breaker.deliveries.max(1) || u64::from(failed) * 100 < u64::from(ended) * percent {
            return Ok(());
        }
        let span = now.since(served.window);
        self.forget_seen(state.queue)?;
        let seen = format!("{failed} of {ended} deliveries failed within {span}; the last one: {reason}");
        self.trip(store, state.queue, &breaker, &seen)
    }

    /// Pauses a queue until its cool-down is over.
    fn trip(
        &mut self,
        store: &mut dyn Store,
        queue: u32,
        breaker: &Breaker,
        seen: &str,
    ) -> Result<(), Fault> {
        let since = self.meta.now;
        let note = cut(seen, NOTE_BYTES_MAX).to_owned();
        let until = Some((since + breaker.cool_down).min(z4_types::Millis::MAX_NAMEABLE));
        let paused = Paused { since, note, author: AUTHOR.to_owned(), until };
        self.configure(store, queue, |config| config.paused = Some(paused))?;
        // Whoever waits learns when it goes on.
        self.touch(queue)
    }

    fn forget_seen(&mut self, queue: u32) -> Result<(), Fault> {
        let served = &mut self.queue_mut(queue)?.served;
        *served = Served { bucket: served.bucket, probe: Token(0), ..Served::default() };
        Ok(())
    }
}
