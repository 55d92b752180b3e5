//! The calendar without zones: dates as day numbers, local times as seconds, both counted from 1970-01-01.
//!
//! A *local time* is what a clock on a wall shows, as seconds since 1970-01-01T00:00:00 on that same wall. It is an
//! instant plus the zone's offset, and not an instant itself. Dates are the proleptic Gregorian calendar.
//!
//! Sources: Howard Hinnant, chrono-Compatible Low-Level Date Algorithms.

/// Seconds of a day of the calendar; clock changes are the zone's affair.
pub(crate) const DAY_SECONDS: i64 = 86_400;

/// A month of a year.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Month {
    pub(crate) year: i64,
    /// Invariant: 1 to 12.
    pub(crate) month: u32,
}

impl Month {
    /// Returns how many days the month has.
    pub(crate) fn days(self) -> u32 {
        let leap = self.year % 4 == 0 && (self.year % 100 != 0 || self.year % 400 == 0);
        match self.month {
            2 if leap => 29,
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        }
    }

    pub(crate) fn next(self) -> Self {
        if self.month == 12 {
            Self { year: self.year + 1, month: 1 }
        } else {
            Self { month: self.month + 1, ..self }
        }
    }

    /// Returns the number of `day`, which counts from 1, since 1970-01-01.
    pub(crate) fn day_number(self, day: u32) -> i64 {
        // Years begin in March, so that the leap day is the last of its year.
        let year = if self.month <= 2 { self.year - 1 } else { self.year };
        let era = year.div_euclid(400);
        let year_of_era = year.rem_euclid(400);
        let month_from_march = i64::from((self.month + 9) % 12);
        let day_of_year = (153 * month_from_march + 2) / 5 + i64::from(day) - 1;
        let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
        era * 146_097 + day_of_era - 719_468
    }
}

/// Returns the month and the day in it, from 1, of a day number.
pub(crate) fn date_of(day_number: i64) -> (Month, u32) {
    let shifted = day_number + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    let small = |value: i64| u32::try_from(value).expect("months and days are small and positive");
    (Month { year, month: small(month) }, small(day))
}

/// Returns the day of the week of a day number: Sunday is 0.
pub(crate) fn weekday_of(day_number: i64) -> u32 {
    // 1970-01-01 was a Thursday.
    u32::try_from((day_number + 4).rem_euclid(7)).expect("a remainder of 7")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_and_day_numbers_agree_day_by_day_for_400_years() {
        let (mut month, mut day, mut weekday) = (Month { year: 1970, month: 1 }, 1, 4);
        for number in 0..146_097 {
            assert_eq!(date_of(number), (month, day));
            assert_eq!(month.day_number(day), number);
            assert_eq!(weekday_of(number), weekday);
            weekday = (weekday + 1) % 7;
            day += 1;
            if day > month.days() {
                (month, day) = (month.next(), 1);
            }
        }
        // After 400 years the calendar begins again, on the same day of the week.
        assert_eq!((month, day, weekday), (Month { year: 2370, month: 1 }, 1, 4));
        assert_eq!(date_of(-1), (Month { year: 1969, month: 12 }, 31));
        assert_eq!(weekday_of(-1), 3);
    }
}
