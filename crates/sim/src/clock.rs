//! A clock that moves only when told to, with a wall face that can be wrong.
//!
//! Monotonic time is what [`SimClock::step`] adds up. Wall time starts at a fixed date, advances by the same steps
//! times the drift, and can be made to jump. A simulation of several hosts gives each its own clock and steps each.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use z4_env::Clock;
use z4_types::Millis;

/// Wall time of a new clock: 2024-01-01T00:00:00Z.
const START_MS: i128 = 1_704_067_200_000;
const NS_PER_MS: i128 = 1_000_000;

#[derive(Debug)]
struct Face {
    monotonic_ns: u64,
    /// Nanoseconds since 1970. May go back; a reader never sees it below zero.
    wall_ns: i128,
    drift_ppm: i64,
}

/// A virtual clock. Clones show the same time.
#[derive(Debug, Clone)]
pub struct SimClock(Arc<Mutex<Face>>);

impl SimClock {
    /// Returns a clock at monotonic zero, on the first day of 2024, without drift.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(Face { monotonic_ns: 0, wall_ns: START_MS * NS_PER_MS, drift_ppm: 0 })))
    }

    fn face(&self) -> MutexGuard<'_, Face> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets `ns` nanoseconds pass.
    pub fn step(&self, ns: u64) {
        let mut face = self.face();
        face.monotonic_ns += ns;
        face.wall_ns += i128::from(ns) * i128::from(1_000_000 + face.drift_ppm) / 1_000_000;
    }

    /// Lets `ms` milliseconds pass.
    pub fn step_ms(&self, ms: u64) {
        self.step(ms * 1_000_000);
    }

    /// Makes the wall clock run fast (positive) or slow; -1,000,000 freezes it.
    pub fn set_drift_ppm(&self, ppm: i64) {
        self.face().drift_ppm = ppm;
    }

    /// Makes the wall clock jump, forward or back.
    pub fn jump_wall_ms(&self, ms: i64) {
        self.face().wall_ns += i128::from(ms) * NS_PER_MS;
    }
}

impl Default for SimClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SimClock {
    fn wall(&self) -> Millis {
        Millis(u64::try_from(self.face().wall_ns / NS_PER_MS).unwrap_or(0))
    }

    fn monotonic_ns(&self) -> u64 {
        self.face().monotonic_ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_moves_only_when_stepped_and_monotonic_time_ignores_the_wall() {
        let clock = SimClock::new();
        let (wall, mono) = (clock.wall(), clock.monotonic_ns());
        assert_eq!((clock.wall(), clock.monotonic_ns()), (wall, mono));
        clock.step_ms(250);
        clock.jump_wall_ms(-3_600_000);
        assert_eq!(clock.monotonic_ns() - mono, 250_000_000);
        assert_eq!(clock.wall().0, wall.0 + 250 - 3_600_000);
    }

    #[test]
    fn a_drifting_wall_clock_runs_fast_slow_or_not_at_all() {
        for (ppm, passed) in [(200_000, 1_200), (-200_000, 800), (-1_000_000, 0)] {
            let clock = SimClock::new();
            let start = clock.wall().0;
            clock.set_drift_ppm(ppm);
            clock.step_ms(1_000);
            assert_eq!(clock.wall().0 - start, passed);
        }
    }
}
