//! The host's clock for stamping entries: monotonic, following the wall clock by slewing.
//!
//! The wall clock may jump by hours; tasks must neither fire early nor leases end because of it (P2, P12). So time
//! advances with the monotonic clock, and the difference to the wall clock is worked off at one part in
//! [`SLEW_PARTS`]: a forward jump of an hour takes twenty hours to be believed.
//!
//! What a log says goes before the wall: if entries were stamped later than the clock shows (the wall clock was set
//! back while the host was down), time starts there and the excess is slewed off ([`ShardClock::at_least`]). Else it would
//! stand still until the wall caught up, and no lease would end.

use z4_env::Clock;
use z4_types::Millis;

/// Slewing changes the rate by at most one part in this many.
const SLEW_PARTS: u64 = 20;
/// Offsets below this are not worth a correction, nanoseconds.
const DEADBAND_NS: i128 = 500_000;

/// See the module essay.
#[derive(Debug, Clone)]
pub struct ShardClock {
    /// Wall minus monotonic as believed, nanoseconds.
    offset_ns: i128,
    /// Monotonic time of the last correction.
    corrected_ns: u64,
    /// Largest value returned. Invariant: `now` never returns less.
    last: Millis,
}

impl ShardClock {
    /// Returns a clock that believes the wall clock as it stands.
    #[must_use]
    pub fn new(clock: &dyn Clock) -> Self {
        let mono = clock.monotonic_ns();
        let wall = clock.wall();
        let offset_ns = i128::from(wall.0) * 1_000_000 - i128::from(mono);
        Self { offset_ns, corrected_ns: mono, last: wall }
    }

    /// Returns the time, in whole milliseconds rounded down, so that "due at T" is never judged early.
    pub fn now(&mut self, clock: &dyn Clock) -> Millis {
        let mono = clock.monotonic_ns();
        let elapsed = mono.saturating_sub(self.corrected_ns);
        let error = i128::from(clock.wall().0) * 1_000_000 - i128::from(mono) - self.offset_ns;
        // The wall clock is read in whole milliseconds: an error within one of them is rounding, not drift.
        if error.abs() > DEADBAND_NS + 1_000_000 {
            let step = i128::from(elapsed / SLEW_PARTS);
            self.offset_ns += error.clamp(-step, step);
        }
        self.corrected_ns = mono;
        let now = Millis(u64::try_from((i128::from(mono) + self.offset_ns) / 1_000_000).unwrap_or(0));
        // Beyond the year 9999 no entry can be stamped: a broken clock must not write what nobody can read.
        self.last = self.last.max(now).min(Millis::MAX_NAMEABLE);
        self.last
    }

    /// Takes note that a log carries the time `at`: this clock shows at least that from now on.
    pub fn at_least(&mut self, clock: &dyn Clock, at: Millis) {
        if at > self.last {
            let mono = clock.monotonic_ns();
            self.offset_ns = self.offset_ns.max(i128::from(at.0) * 1_000_000 - i128::from(mono));
            self.last = at;
        }
    }

    /// Returns by how much the wall clock runs ahead of this one, milliseconds.
    #[must_use]
    pub fn wall_ahead_ms(&self, clock: &dyn Clock) -> i64 {
        let error =
            i128::from(clock.wall().0) * 1_000_000 - i128::from(clock.monotonic_ns()) - self.offset_ns;
        i64::try_from(error / 1_000_000).unwrap_or(i64::MAX)
    }

    /// Returns the monotonic time, nanoseconds, at which this clock will show `at` if nothing is corrected.
    #[must_use]
    pub fn monotonic_of(&self, at: Millis) -> u64 {
        let ns = i128::from(at.0) * 1_000_000 - self.offset_ns;
        u64::try_from(ns.max(0)).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    use super::*;

    #[derive(Default)]
    struct Hands {
        wall_ms: AtomicU64,
        mono_ns: AtomicU64,
    }

    impl Hands {
        fn pass(&self, ms: u64) {
            self.wall_ms.fetch_add(ms, Relaxed);
            self.mono_ns.fetch_add(ms * 1_000_000, Relaxed);
        }
    }

    impl Clock for Hands {
        fn wall(&self) -> Millis {
            Millis(self.wall_ms.load(Relaxed))
        }
        fn monotonic_ns(&self) -> u64 {
            self.mono_ns.load(Relaxed)
        }
    }

    #[test]
    fn a_jump_of_the_wall_clock_moves_shard_time_by_a_twentieth_of_what_passes() {
        let hands = Hands::default();
        hands.wall_ms.store(1_000_000_000, Relaxed);
        let mut clock = ShardClock::new(&hands);
        hands.pass(1_000);
        assert_eq!(clock.now(&hands), Millis(1_000_001_000));
        hands.wall_ms.fetch_add(3_600_000, Relaxed);
        hands.pass(1_000);
        assert_eq!(clock.now(&hands), Millis(1_000_002_050));
        hands.wall_ms.fetch_sub(7_200_000, Relaxed);
        hands.pass(1_000);
        assert_eq!(clock.now(&hands), Millis(1_000_003_000), "backwards it only runs slower");
    }

    #[test]
    fn time_runs_on_from_the_log_when_the_wall_clock_was_set_back() {
        let hands = Hands::default();
        hands.wall_ms.store(1_000_000, Relaxed);
        let mut clock = ShardClock::new(&hands);
        clock.at_least(&hands, Millis(4_600_000));
        hands.pass(1_000);
        assert_eq!(
            clock.now(&hands),
            Millis(4_600_950),
            "an hour ahead: it runs a twentieth slower, but it runs"
        );
    }

    #[test]
    fn shard_time_never_goes_back() {
        let hands = Hands::default();
        hands.wall_ms.store(500_000, Relaxed);
        let mut clock = ShardClock::new(&hands);
        let before = clock.now(&hands);
        hands.wall_ms.store(1, Relaxed);
        assert!(clock.now(&hands) >= before);
    }
}
