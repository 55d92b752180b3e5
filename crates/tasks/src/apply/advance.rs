//! Advance: what time alone has ended.
//!
//! First TTLs, so that an expired task is not delivered once more; then leases that ran out, each a failure, the task due
//! again at once; then what comes after tasks that have ended; then requests out of the window, keys whose window is over, and finished tasks and events out of their
//! retention.
//!
//! # Invariants
//! - At most `limit` rows are handled, whatever has piled up; `more` says that another Advance is due.

use std::cell::Cell;

use z4_types::{Millis, TaskId, Token};

use super::fail::Again;
use crate::codec::Malformed;
use crate::head::{First, Head, Point};
use crate::keys::read_end;
use crate::machine::Machine;
use crate::outcome::{Outcome, Settled};
use crate::rows::{OwnedTexts, Phase, State, Texts, key};
use crate::{Fault, Read, Store};

/// Most rows one Advance handles, whatever it asks for: keeps an entry's work within a few milliseconds.
const ADVANCE_ROWS_MAX: u32 = 10_000;

/// Kept as the last error of a task whose lease ran out, around the consumer's name.
const LAPSED: [&str; 2] = ["lease expired (consumer ", ")"];

impl Machine {
    pub(super) fn advance(&mut self, store: &mut dyn Store, limit: u32) -> Result<Outcome, Fault> {
        let now = self.meta.now;
        let mut left = limit.min(ADVANCE_ROWS_MAX);

        let from = |(at, id): Point| key::ttl(Millis(at), TaskId(id));
        let expired = collect(store, &self.ttls, from, key::TTLS_END, now, left, |key, _| {
            key::read_ttl(key).map(|(at, id)| ((at.0, id.0), id))
        })?;
        for &id in &expired {
            self.expire(store, id, None)?;
        }
        left -= expired.len() as u32;

        let from = |(until, token): Point| key::lease(Millis(until), Token(token as u64));
        let lapsed = collect(store, &self.leases, from, key::LEASES[1], now, left, |key, value| {
            let (until, token) = key::read_lease(key)?;
            let id = value.first_chunk().ok_or(Malformed("lease row"))?;
            Ok(((until.0, token.0.into()), (TaskId(u128::from_le_bytes(*id)), token)))
        })?;
        let mut dead = 0;
        for &(id, token) in &lapsed {
            dead += u32::from(self.lapse(store, id, token)? == Settled::Dead);
        }
        left -= lapsed.len() as u32;

        left -= self.follow(store, left)?;
        left -= self.evict(store, left)?;
        left -= self.evict_keys(store, left)?;
        self.evict_finished(store, left)?;
        self.remove_events(store, left)?;
        self.advance_groups(limit.min(ADVANCE_ROWS_MAX))?;
        let due = |first: Option<Millis>| first.is_some_and(|at| at <= now);
        // Requests left over are not urgent: every entry evicts some, and `next_deadline` tells when to come for them.
        let more = due(self.first_ttl(store)?) || due(self.first_lease(store)?) || self.has_endings(store)?;
        Ok(Outcome::Advanced { more, dead })
    }

    /// Takes up to `limit` keys of ended tasks away whose window is over; returns how many.
    fn evict_keys(&mut self, store: &mut dyn Store, limit: u32) -> Result<u32, Fault> {
        let from = |(until, id): Point| key::key_end(Millis(until), TaskId(id));
        let now = self.meta.now;
        let ends = collect(store, &self.key_ends, from, key::KEY_ENDS_END, now, limit, |key, value| {
            let (queue, name) = read_end(value)?;
            key::read_key_end(key).map(|(until, id)| ((until.0, id.0), (queue, name.to_owned())))
        })?;
        for (queue, name) in &ends {
            self.forget_key(store, *queue, name)?;
        }
        Ok(ends.len() as u32)
    }

    /// Ends a lease that ran out: its consumer has failed the task, and the next one gets it at once.
    fn lapse(&mut self, store: &mut dyn Store, id: TaskId, token: Token) -> Result<Settled, Fault> {
        let value = store
            .get(&key::state(id))?
            .ok_or_else(|| Fault::corrupt(format!("a lease names task {id}, which is gone")))?;
        let (state, texts) = State::read(&value)?;
        if state.phase != Phase::Leased || state.token != token {
            return Err(Fault::corrupt(format!(
                "lease {token} names task {id}, which is not leased under it"
            )));
        }
        let before = OwnedTexts::from(texts);
        drop(value);
        let last_error = [LAPSED[0], &before.consumer, LAPSED[1]].concat();
        let texts = Texts { last_error: &last_error, ..before.as_texts() };
        self.delivery_ended(store, &state, Some(&last_error))?;
        let settled = self.fail(store, id, &state, Again::Now, texts)?;
        self.queue_mut(state.queue)?.stats.lease_expired += 1;
        Ok(settled)
    }
}

/// Returns up to `limit` rows of a time-ordered index that are due, and leaves its head at the first one not returned.
/// Callers delete what they were given.
fn collect<T, K: AsRef<[u8]>>(
    store: &dyn Read,
    head: &Cell<Head>,
    from: impl FnOnce(Point) -> K,
    to: &[u8],
    now: Millis,
    limit: u32,
    read: impl Fn(&[u8], &[u8]) -> Result<(Point, T), Malformed>,
) -> Result<Vec<T>, Fault> {
    let low = match head.get().first() {
        First::Nothing => return Ok(Vec::new()),
        First::At((at, _)) if Millis(at) > now => return Ok(Vec::new()),
        First::At(point) | First::From(point) => point,
    };
    let mut rows = Vec::new();
    let mut stopped: Option<Result<Head, Malformed>> = None;
    store.scan(from(low).as_ref(), to, &mut |key, value| {
        match read(key, value) {
            Ok((point, row)) if Millis(point.0) <= now && rows.len() < limit as usize => {
                rows.push(row);
                return true;
            }
            Ok((point, _)) => stopped = Some(Ok(Head::at(point))),
            Err(malformed) => stopped = Some(Err(malformed)),
        }
        false
    })?;
    head.set(stopped.transpose()?.unwrap_or(Head::EMPTY));
    Ok(rows)
}
