//! The host's clock for stamping entries: monotonic, following the wall clock by slewing.
//!
//! The wall clock may jump by hours; tasks must neither fire early nor leases end because of it (P2, P12). So time
//! advances with the monotonic clock, and the difference to the wall clock is worked off at one part in
//! [`SLEW_PARTS`]: a forward jump of an hour takes twenty hours to be believed.
//!
//! What a log says goes before the wall: if a group's entries were stamped later than this clock shows (the wall clock was
//! set back while the host was down, or that of an earlier leader is ahead), the group's time starts there and the excess
//! is slewed off ([`Ahead`]). Else it would stand still until the wall caught up, and no lease would end. The excess is
//! the group's own: one leader whose clock is wrong moves the time of the groups it led, and of no others.

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

/// How far the time of one group is ahead of its host's clock. Nearly always nothing.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Ahead {
    /// At `since_ns`, milliseconds.
    ms: u64,
    /// Monotonic time, nanoseconds.
    since_ns: u64,
}

impl Ahead {
    /// Returns what is left of it at `mono_ns`, milliseconds.
    fn left_ms(self, mono_ns: u64) -> u64 {
        self.ms.saturating_sub(mono_ns.saturating_sub(self.since_ns) / SLEW_PARTS / 1_000_000)
    }

    /// Returns the group's time when the host's clock shows `host`. It runs a twentieth slower while it is ahead.
    pub(crate) fn time(self, host: Millis, mono_ns: u64) -> Millis {
        Millis(host.0.saturating_add(self.left_ms(mono_ns))).min(Millis::MAX_NAMEABLE)
    }

    /// Returns what the host's clock shows when the group's time is `at`; a little early, while it is ahead.
    pub(crate) fn host_time(self, at: Millis, mono_ns: u64) -> Millis {
        Millis(at.0.saturating_sub(self.left_ms(mono_ns)))
    }

    /// Takes note that the group's log carries the time `at`: its time is at least that from now on.
    pub(crate) fn at_least(&mut self, at: Millis, host: Millis, mono_ns: u64) {
        if at > self.time(host, mono_ns) {
            *self = Self { ms: at.0 - host.0, since_ns: mono_ns };
        }
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
        let (second, hour) = (1_000_000_000, 3_600_000);
        let mut ahead = Ahead::default();
        assert_eq!(ahead.time(Millis(1_000), 7), Millis(1_000));
        ahead.at_least(Millis(1_000_000 + hour), Millis(1_000_000), second);
        let later = ahead.time(Millis(1_001_000), 2 * second);
        assert_eq!(later, Millis(1_000_950 + hour), "an hour ahead: it runs a twentieth slower, but it runs");
        assert_eq!(ahead.host_time(later, 2 * second), Millis(1_001_000));
        ahead.at_least(Millis(1_000_000 + hour), Millis(1_001_000), 2 * second);
        assert_eq!(ahead.time(Millis(1_001_000), 2 * second), later, "what is past moves nothing");
        assert_eq!(ahead.time(Millis(80_000_000), 100_000 * second), Millis(80_000_000), "worked off");
        ahead.at_least(Millis::MAX_NAMEABLE, Millis(80_000_000), 100_000 * second);
        assert_eq!(ahead.time(Millis(80_000_001), 100_000 * second), Millis::MAX_NAMEABLE);
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
