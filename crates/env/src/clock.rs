//! Clocks: wall time for what users name, monotonic time for how long things take.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use z4_types::Millis;

/// Two views of time. Wall time may jump; monotonic time never goes back.
pub trait Clock: Send + Sync {
    /// Returns the wall clock, milliseconds since 1970.
    fn wall(&self) -> Millis;
    /// Returns nanoseconds since some fixed point of this process.
    fn monotonic_ns(&self) -> u64;
}

/// The operating system's clocks.
#[derive(Debug, Clone)]
pub struct RealClock {
    origin: Instant,
}

impl RealClock {
    /// Returns a clock whose monotonic zero is now.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the real clock's home")]
    pub fn new() -> Self {
        Self { origin: Instant::now() }
    }
}

impl Default for RealClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for RealClock {
    #[expect(clippy::disallowed_methods, reason = "the real clock's home")]
    fn wall(&self) -> Millis {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    fn monotonic_ns(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}
