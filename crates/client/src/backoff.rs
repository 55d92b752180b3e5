//! How long to wait before the next try: exponential, jittered, never less than the server asked for.
//!
//! The jitter is at least half as long as the wait itself: a server that turned a thousand clients away at one
//! moment should not see them come back at another single moment.

use std::time::Duration;

use crate::random;

/// Wait after the first failure: a few fsyncs.
const FIRST: Duration = Duration::from_millis(20);
/// Longest wait of our own choosing; a longer one the server asks for is kept.
const LONGEST: Duration = Duration::from_secs(2);

/// Failures in a row, and what follows from them.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// Returns how long to wait now; at least `asked`, the server's own word.
    pub(crate) fn next(&mut self, asked: Option<Duration>) -> Duration {
        let own = FIRST.saturating_mul(1 << self.failures.min(16)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        let least = asked.unwrap_or_default().max(own / 2);
        least + Duration::from_nanos(random::below(u64::try_from(least.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// Something worked: begin again from the shortest wait.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_limit_and_keep_what_the_server_asked() {
        let mut backoff = Backoff::default();
        for failures in 0..100u32 {
            let own = FIRST.saturating_mul(1 << failures.min(16)).min(LONGEST);
            let wait = backoff.next(None);
            assert!(wait >= own / 2 && wait <= own, "{wait:?} after {failures} failures");
        }
        let asked = Duration::from_secs(10);
        let wait = backoff.next(Some(asked));
        assert!(wait >= asked && wait <= asked * 2, "{wait:?}");
        backoff.reset();
        assert!(backoff.next(None) <= FIRST);
    }
}
