//! The six fields of an expression: their names, their values, and the names of their values.

use std::fmt;

/// A field of a cron expression, in the order in which they are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Field {
    /// 0 to 59; only in expressions of six fields.
    Seconds,
    /// 0 to 59.
    Minutes,
    /// 0 to 23.
    Hours,
    /// 1 to 31.
    DayOfMonth,
    /// 1 to 12, or `JAN` to `DEC`.
    Month,
    /// 0 to 7, or `SUN` to `SAT`: 0 and 7 are Sunday.
    DayOfWeek,
}

const MONTHS: &[&str] = &["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"];
const WEEKDAYS: &[&str] = &["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];

impl Field {
    /// All fields, in the order in which they are written.
    pub(crate) const ALL: [Self; 6] =
        [Self::Seconds, Self::Minutes, Self::Hours, Self::DayOfMonth, Self::Month, Self::DayOfWeek];

    /// Returns the smallest and the largest value `*` stands for.
    pub(crate) fn range(self) -> (u32, u32) {
        match self {
            Self::Seconds | Self::Minutes => (0, 59),
            Self::Hours => (0, 23),
            Self::DayOfMonth => (1, 31),
            Self::Month => (1, 12),
            Self::DayOfWeek => (0, 6),
        }
    }

    /// Returns the largest value that may be written: Sunday is also 7.
    pub(crate) fn written_max(self) -> u32 {
        if self == Self::DayOfWeek { 7 } else { self.range().1 }
    }

    /// Returns the names of the field's values, the first one for its smallest value.
    fn names(self) -> &'static [&'static str] {
        match self {
            Self::Month => MONTHS,
            Self::DayOfWeek => WEEKDAYS,
            _ => &[],
        }
    }

    /// Returns the value of a name, in any case.
    pub(crate) fn named(self, text: &str) -> Option<u32> {
        let position = self.names().iter().position(|name| name.eq_ignore_ascii_case(text))?;
        Some(self.range().0 + u32::try_from(position).expect("at most twelve names"))
    }

    /// Returns the three-letter name that a longer one begins with: `MON` for `Monday`.
    pub(crate) fn name_within(self, text: &str) -> Option<&'static str> {
        let names = self.names().iter().copied();
        names.into_iter().find(|name| text.get(..3).is_some_and(|begin| begin.eq_ignore_ascii_case(name)))
    }

    /// Returns whether this is one of the two fields that together say which days.
    pub(crate) fn is_days(self) -> bool {
        matches!(self, Self::DayOfMonth | Self::DayOfWeek)
    }

    /// Returns what may be written, for messages.
    pub(crate) fn offers(self) -> &'static str {
        match self {
            Self::Seconds | Self::Minutes => "write 0 to 59",
            Self::Hours => "write 0 to 23",
            Self::DayOfMonth => "write 1 to 31, or L for the last day",
            Self::Month => "write 1 to 12 or JAN to DEC",
            Self::DayOfWeek => "write SUN to SAT, or 0 to 7 where 0 and 7 are Sunday",
        }
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Seconds => "seconds",
            Self::Minutes => "minutes",
            Self::Hours => "hours",
            Self::DayOfMonth => "day of month",
            Self::Month => "month",
            Self::DayOfWeek => "day of week",
        })
    }
}
