//! Rates and limits: how many at a time, and how many a span. For a group as for a queue.
//!
//! A token bucket is kept as one number: when it will be full again. Taking a token moves that later by the time a
//! token needs to come back; a token is there if the bucket, one token poorer, would be full within the time a whole
//! bucket needs. It is the generic cell rate algorithm of ATM, and it has no level that must be brought up to date,
//! no remainder that is lost when it is, and nothing to convert when the rate changes.
//!
//! # Invariants
//! - In any span `t` at most `burst + rate · t` tokens are taken: the time of a token is rounded up, and instants at
//!   which one is there, too.
//!
//! Sources: ITU-T I.371, annex A; ADR-0011 item 8.

use z4_types::Millis;

use super::{STRIDE, WEIGHT_MAX};
use crate::settings::Rate;

/// Buckets count in ten-thousandths of a millisecond: a rate of 30,000 a second is met within 1 %, and the year 9999
/// still fits 64 bits.
const TICKS_PER_MS: u64 = 10_000;

fn ticks(at: Millis) -> u64 {
    at.0.saturating_mul(TICKS_PER_MS)
}

/// A rate or burst of 0, which settings refuse, counts as 1.
impl Rate {
    /// Returns the ticks one token needs to come back.
    fn token(self) -> u64 {
        (1_000 * 1_000 * TICKS_PER_MS).div_ceil(self.thousandths.max(1))
    }

    /// Returns the ticks from empty to full.
    fn whole(self) -> u64 {
        self.token().saturating_mul(self.burst.max(1).into())
    }
}

/// A token bucket. A new one is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Bucket {
    /// When it is full if nothing is taken, in ticks of shard time.
    pub(crate) full_at: u64,
}

impl Bucket {
    /// Returns how many tokens are there at `now`.
    pub(crate) fn tokens(self, rate: Rate, now: Millis) -> u64 {
        rate.whole().saturating_sub(self.full_at.saturating_sub(ticks(now))) / rate.token()
    }

    /// Returns when there is one, `Millis(0)` if it is long since.
    pub(crate) fn next_token(self, rate: Rate) -> Millis {
        Millis(self.full_at.saturating_sub(rate.whole().saturating_sub(rate.token())).div_ceil(TICKS_PER_MS))
    }

    /// Takes `count` tokens, which are there.
    pub(crate) fn take(&mut self, rate: Rate, now: Millis, count: u64) {
        debug_assert!(count <= self.tokens(rate, now), "the caller asked before");
        self.full_at = self.full_at.max(ticks(now)).saturating_add(rate.token().saturating_mul(count));
    }

    /// The rate has changed: the bucket is at most empty. Otherwise a faster rate would first wait out the slow one.
    pub(crate) fn clamp(&mut self, rate: Rate, now: Millis) {
        self.full_at = self.full_at.min(ticks(now).saturating_add(rate.whole()));
    }

    /// Returns from when on it can be forgotten: it is full, or nobody counts.
    pub(crate) fn full_from(self, rate: Option<Rate>) -> Millis {
        rate.map_or(Millis(0), |_| Millis(self.full_at.div_ceil(TICKS_PER_MS)))
    }
}

/// Limits of a group, or of a whole queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Limits {
    /// Most tasks leased at a time. None: no limit. 0 is refused by settings, and serves nothing.
    pub(crate) concurrency: Option<u32>,
    /// Most tasks leased a span. None: no limit.
    pub(crate) rate: Option<Rate>,
}

/// What limits say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gate {
    /// One more may be leased.
    Open,
    /// At the concurrency limit: when a lease ends.
    Full {
        /// The limit.
        limit: u32,
    },
    /// No token until then.
    Token {
        /// The next one.
        at: Millis,
    },
}

impl Limits {
    /// Returns whether one more may be leased, or what must happen first.
    pub(crate) fn gate(&self, leased: u64, bucket: Bucket, now: Millis) -> Gate {
        if let Some(limit) = self.concurrency
            && leased >= limit.into()
        {
            return Gate::Full { limit };
        }
        match self.rate.map(|rate| bucket.next_token(rate)) {
            Some(at) if at > now => Gate::Token { at },
            _ => Gate::Open,
        }
    }

    /// Returns how many more may be leased now: for a batch.
    pub(crate) fn room(&self, leased: u64, bucket: Bucket, now: Millis) -> u64 {
        let concurrency = self.concurrency.map_or(u64::MAX, |limit| u64::from(limit).saturating_sub(leased));
        concurrency.min(self.rate.map_or(u64::MAX, |rate| bucket.tokens(rate, now)))
    }
}

/// What a group may have, and how much of the whole is its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GroupLimits {
    /// Its share against other groups, 1 to [`WEIGHT_MAX`].
    pub(crate) weight: u32,
    /// One task at a time, in order; the concurrency limit does not matter then.
    pub(crate) serial: bool,
    /// Its own limits.
    pub(crate) limits: Limits,
}

impl Default for GroupLimits {
    fn default() -> Self {
        Self { weight: 1, serial: false, limits: Limits::default() }
    }
}

impl GroupLimits {
    /// Returns what one task moves the group's tag by: to the nearest.
    pub(super) fn stride(&self) -> u64 {
        let weight = u64::from(self.weight.clamp(1, WEIGHT_MAX));
        (STRIDE + weight / 2) / weight
    }

    /// Returns the limits that hold.
    pub(super) fn effective(&self) -> Limits {
        let serial = self.serial && !cfg!(feature = "bug-serial-group-overlaps");
        let concurrency = if serial { Some(1) } else { self.limits.concurrency };
        Limits { concurrency, ..self.limits }
    }
}

#[cfg(test)]
mod tests {
    use z4_types::Duration;

    use super::*;

    const DAY: Millis = Millis(1_800_000_000_000);

    fn rate(thousandths: u64, burst: u32) -> Rate {
        Rate { thousandths, burst }
    }

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        // Whatever the rate, and however often one asks: never more than burst + rate · t, and hardly less.
        for (rate, step) in [
            (rate(3_000, 2), 1),
            (rate(1_667, 10), 7),
            (rate(1, 1), 60_000),
            (rate(30_000_000, 40), 1),
            (rate(538_461, 3), 1),
        ] {
            let mut bucket = Bucket::default();
            assert_eq!(bucket.tokens(rate, DAY), rate.burst.into());
            let mut taken = 0;
            for round in 0..10_000_u64 {
                let now = DAY + Duration(round * step);
                let tokens = bucket.tokens(rate, now);
                bucket.take(rate, now, tokens);
                taken += tokens;
                let most = u64::from(rate.burst) + round * step * rate.thousandths / 1_000_000;
                assert!(taken <= most, "{rate:?}: {taken} of {most} after {round} steps");
                // A token between two questions is not lost, unless the bucket is full of them.
                let lossless = rate.thousandths * step < u64::from(rate.burst) * 1_000_000;
                assert!(!lossless || taken + 2 >= most - most / 50, "{rate:?}: only {taken} of {most}");
            }
        }
    }

    #[test]
    fn the_next_token_is_there_when_it_was_said() {
        let rate = rate(3_000, 2);
        let mut bucket = Bucket::default();
        bucket.take(rate, DAY, 2);
        let at = bucket.next_token(rate);
        assert_eq!(at, DAY + Duration(334));
        assert_eq!(bucket.tokens(rate, at - Duration(1)), 0);
        assert_eq!(bucket.tokens(rate, at), 1);
        assert_eq!(bucket.full_from(Some(rate)), DAY + Duration(667));
    }

    #[test]
    fn a_faster_rate_does_not_wait_out_the_slow_one() {
        let mut bucket = Bucket::default();
        bucket.take(rate(1, 1), DAY, 1);
        let fast = rate(10_000, 5);
        bucket.clamp(fast, DAY);
        assert_eq!(bucket.next_token(fast), DAY + Duration(100));
    }

    #[test]
    fn limits_that_settings_refuse_still_do_no_harm() {
        let zero = rate(0, 0);
        let mut bucket = Bucket::default();
        bucket.take(zero, Millis::MAX_NAMEABLE, 1);
        assert!(bucket.tokens(zero, Millis::MAX_NAMEABLE) <= 1);
        let huge = rate(u64::MAX, u32::MAX);
        let mut bucket = Bucket::default();
        bucket.take(huge, DAY, 1);
        let _ = (bucket.tokens(huge, DAY), bucket.next_token(huge));
        assert_eq!(GroupLimits { weight: 0, ..GroupLimits::default() }.stride(), STRIDE);
        let none = Limits { concurrency: Some(0), rate: None };
        assert_eq!(none.room(0, Bucket::default(), DAY), 0);
        assert_eq!(none.gate(0, Bucket::default(), DAY), Gate::Full { limit: 0 });
    }
}
