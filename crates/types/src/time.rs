//! Points and spans of time, in whole milliseconds.
//!
//! Shard time is a count of milliseconds since 1970 that a log entry carries; it never goes back.

use std::fmt;
use std::ops::{Add, Sub};

/// A point in time: milliseconds since 1970-01-01T00:00:00Z.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Millis(pub u64);

/// A span of time in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Duration(pub u64);

impl Millis {
    /// Later than every real point in time; 9999-12-31 and everything a user can name lies before it.
    pub const NEVER: Self = Self(u64::MAX);
    /// 9999-12-31T23:59:59.999Z, the last instant RFC 3339 and `google.protobuf.Timestamp` can name.
    pub const MAX_NAMEABLE: Self = Self(253_402_300_799_999);

    /// Returns the span from `earlier` to `self`, zero if `self` is the earlier one.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration(self.0.saturating_sub(earlier.0))
    }
}

impl Duration {
    /// Returns a span of `seconds`.
    #[must_use]
    pub const fn from_secs(seconds: u64) -> Self {
        Self(seconds * 1_000)
    }
}

impl Add<Duration> for Millis {
    type Output = Self;
    /// Saturates: a point past the end of time is [`Millis::NEVER`].
    fn add(self, span: Duration) -> Self {
        Self(self.0.saturating_add(span.0))
    }
}

impl Sub<Duration> for Millis {
    type Output = Self;
    /// Saturates at 1970.
    fn sub(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(span.0))
    }
}

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}ms", self.0)
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}ms", self.0)
    }
}
