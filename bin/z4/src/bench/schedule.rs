//! When an open-loop load sends: at fixed times, whether or not answers have come.
//!
//! Latency is measured from the time a task was to be sent. A server that stalls for a second makes every task of
//! that second late; a load that waited for it would hide all but one ("coordinated omission").
//!
//! Sources: Gil Tene, "How NOT to measure latency" (2013).

/// Times at a constant rate, nanoseconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Schedule {
    start_ns: u64,
    per_second: u64,
}

impl Schedule {
    /// Returns `per_second` times a second from `start_ns` on.
    ///
    /// # Panics
    /// If the rate is zero.
    pub(crate) fn new(start_ns: u64, per_second: u64) -> Self {
        assert!(per_second > 0, "a load that sends nothing never ends");
        Self { start_ns, per_second }
    }

    /// Returns the rate.
    pub(crate) fn per_second(self) -> u64 {
        self.per_second
    }

    /// Returns when number `n` is to be sent. Computed from the start each time, so errors do not add up.
    pub(crate) fn at(self, n: u64) -> u64 {
        let since = u128::from(n) * 1_000_000_000 / u128::from(self.per_second);
        self.start_ns + u64::try_from(since).expect("a run of less than 584 years")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_exact_over_any_time() {
        let schedule = Schedule::new(500, 3_000);
        assert_eq!(schedule.at(0), 500);
        assert_eq!(schedule.at(3_000), 500 + 1_000_000_000);
        assert_eq!(schedule.at(3_000 * 86_400 * 365), 500 + 86_400 * 365 * 1_000_000_000);
    }

    #[test]
    fn times_grow_evenly_whatever_happened_before() {
        let schedule = Schedule::new(0, 7);
        let gaps: Vec<u64> = (0..700).map(|n| schedule.at(n + 1) - schedule.at(n)).collect();
        assert!(gaps.iter().all(|gap| (142_857_142..=142_857_143).contains(gap)));
    }
}
