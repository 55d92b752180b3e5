//! The fields of an expression as sets, and the search for the next local time that is in all of them.
//!
//! The search knows no zones: it goes from one time on the wall to the next. It jumps from month to month and day to
//! day, and takes the time of day from three bit sets, so that even a leap day on a Sunday is near.

use crate::civil::{DAY_SECONDS, Month, date_of};
use crate::days::{self, DaysOfMonth, DaysOfWeek};

/// The months after which the calendar, weekdays included, begins again: no date is farther away than that.
const CYCLE_MONTHS: u32 = 400 * 12;

/// What the six fields ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Calendar {
    /// Bit `s`: second `s`. Invariant of all three: not empty.
    pub(crate) seconds: u64,
    /// Bit `m`: minute `m`.
    pub(crate) minutes: u64,
    /// Bit `h`: hour `h`.
    pub(crate) hours: u64,
    pub(crate) of_month: DaysOfMonth,
    /// Bit `m`: month `m`, 1 to 12.
    pub(crate) months: u64,
    pub(crate) of_week: DaysOfWeek,
    /// Whether hours or minutes are open: then slots follow the running clock through its changes.
    pub(crate) interval: bool,
}

/// Returns the smallest value of a set that is at least `from`.
fn at_or_after(bits: u64, from: u32) -> Option<u32> {
    let rest = if from < 64 { bits >> from << from } else { 0 };
    (rest != 0).then(|| rest.trailing_zeros())
}

impl Calendar {
    /// Returns the first local time at or after `from` that all fields hold; none if no date ever does.
    pub(crate) fn at_or_after(&self, from: i64) -> Option<i64> {
        let (day_number, second) = (from.div_euclid(DAY_SECONDS), from.rem_euclid(DAY_SECONDS));
        let (month, day) = date_of(day_number);
        if self.holds_day(month, day)
            && let Some(time) = self.time_at_or_after(second)
        {
            return Some(day_number * DAY_SECONDS + time);
        }
        let first = self.time_at_or_after(0).expect("no field of the clock is empty");
        Some(self.day_after(month, day)? * DAY_SECONDS + first)
    }

    /// Returns whether any date is asked for.
    pub(crate) fn ever(&self) -> bool {
        self.day_after(Month { year: 2000, month: 1 }, 0).is_some()
    }

    fn holds_day(&self, month: Month, day: u32) -> bool {
        self.months & (1 << month.month) != 0 && days::hold(&self.of_month, &self.of_week, month, day)
    }

    /// Returns the number of the first day after `day` of `month` that the day fields and the month hold.
    fn day_after(&self, mut month: Month, mut day: u32) -> Option<i64> {
        for _ in 0..=CYCLE_MONTHS {
            if self.months & (1 << month.month) != 0 {
                let mut later = day + 1..=month.days();
                if let Some(day) = later.find(|day| self.holds_day(month, *day)) {
                    return Some(month.day_number(day));
                }
            }
            (month, day) = (month.next(), 0);
        }
        None
    }

    /// Returns the first second of the day at or after `from` that the clock's fields hold.
    fn time_at_or_after(&self, from: i64) -> Option<i64> {
        let from = u32::try_from(from).expect("a second of a day");
        let (hour, minute, second) = (from / 3_600, from / 60 % 60, from % 60);
        let (first_minute, first_second) = (at_or_after(self.minutes, 0)?, at_or_after(self.seconds, 0)?);
        let within_hour = || {
            let same_minute = (self.minutes & (1 << minute) != 0)
                .then(|| at_or_after(self.seconds, second))
                .flatten()
                .map(|second| (minute, second));
            same_minute.or_else(|| Some((at_or_after(self.minutes, minute + 1)?, first_second)))
        };
        let same_hour = (self.hours & (1 << hour) != 0).then(within_hour).flatten();
        let (hour, (minute, second)) = match same_hour {
            Some(rest) => (hour, rest),
            None => (at_or_after(self.hours, hour + 1)?, (first_minute, first_second)),
        };
        Some(i64::from(hour * 3_600 + minute * 60 + second))
    }
}
