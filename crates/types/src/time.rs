//! Points and spans of time, in whole milliseconds.
//!
//! Shard time is a count of milliseconds since 1970 that a log entry carries; it never goes back.

use std::fmt;
use std::ops::{Add, Sub};

const MS_PER_DAY: u64 = 86_400_000;

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

    /// Returns the point as RFC 3339 in UTC, with milliseconds if there are any. The calendar ends it.
    #[must_use]
    pub fn rfc3339(self) -> String {
        let ms = self.min(Self::MAX_NAMEABLE).0;
        let (year, month, day) = civil_from_days(ms / MS_PER_DAY);
        let of_day = ms % MS_PER_DAY;
        let (hour, minute, second) = (of_day / 3_600_000, of_day / 60_000 % 60, of_day / 1_000 % 60);
        let fraction = match of_day % 1_000 {
            0 => String::new(),
            fraction => format!(".{fraction:03}"),
        };
        format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z")
    }
}

/// Returns year, month and day of the date so many days after 1970-01-01. Years begin in March here, so that the leap day is
/// the last of them.
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    /// Days from the first of March of the year 0 to 1970.
    const DAYS_BEFORE: u64 = 719_468;
    /// Days of 400 years.
    const ERA: u64 = 146_097;
    let days = days + DAYS_BEFORE;
    let (era, of_era) = (days / ERA, days % ERA);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_shown_in_utc_up_to_the_end_of_the_calendar() {
        let shown = |ms| Millis(ms).rfc3339();
        assert_eq!(shown(0), "1970-01-01T00:00:00Z");
        assert_eq!(shown(951_782_399_999), "2000-02-28T23:59:59.999Z");
        assert_eq!(shown(951_782_400_000), "2000-02-29T00:00:00Z");
        assert_eq!(shown(1_709_164_800_001), "2024-02-29T00:00:00.001Z");
        assert_eq!(shown(4_107_542_400_000), "2100-03-01T00:00:00Z", "no leap year");
        assert_eq!(shown(Millis::MAX_NAMEABLE.0), "9999-12-31T23:59:59.999Z");
        assert_eq!(shown(u64::MAX), shown(Millis::MAX_NAMEABLE.0));
    }
}
