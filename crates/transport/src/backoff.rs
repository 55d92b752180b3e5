//! How long to wait before dialling again: twice as long each time, with jitter, up to a bound.
//!
//! The jitter keeps hosts that lost the same peer from dialling it in step. It is seeded, so a test sees the same
//! pauses every time. Pure.

use std::time::Duration;

use z4_env::{Rng, SeededRng};

/// The pauses of one lane.
pub(crate) struct Backoff {
    min: Duration,
    max: Duration,
    /// Failures since the last success.
    failures: u32,
    rng: SeededRng,
}

impl Backoff {
    /// Returns pauses from about `min` to about `max`.
    pub(crate) fn new(min: Duration, max: Duration, rng: SeededRng) -> Self {
        Self { min, max, failures: 0, rng }
    }

    /// Returns the next pause: between half and all of `min * 2^failures`, at most `max`.
    pub(crate) fn next(&mut self) -> Duration {
        let whole = self.min.saturating_mul(1 << self.failures.min(20)).min(self.max);
        self.failures = self.failures.saturating_add(1);
        let half = u64::try_from(whole.as_nanos() / 2).unwrap_or(u64::MAX >> 1);
        Duration::from_nanos(half + self.rng.below(half + 1))
    }

    /// Starts anew after a success.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_with_jitter_up_to_the_bound_and_start_anew() {
        let (min, max) = (Duration::from_millis(50), Duration::from_secs(2));
        let pauses = |seed| {
            let mut backoff = Backoff::new(min, max, SeededRng::new(seed));
            (0..100).map(|_| backoff.next()).collect::<Vec<_>>()
        };
        let first = pauses(1);
        for (failures, pause) in first.iter().enumerate() {
            let whole = min.saturating_mul(1 << failures.min(20)).min(max);
            assert!(*pause >= whole / 2 && *pause <= whole, "{failures}: {pause:?}");
        }
        assert_eq!(first, pauses(1));
        assert_ne!(first, pauses(2));
        let mut backoff = Backoff::new(min, max, SeededRng::new(1));
        for _ in 0..10 {
            backoff.next();
        }
        backoff.reset();
        assert!(backoff.next() <= min);
    }
}
