//! Which days an expression asks for: the two day fields, and the rule that joins them.
//!
//! Each field is a set of plain values (a bit each) and of days that depend on the month: its last, the weekday
//! nearest to one, its second Monday. The rule is crontab's: either field where both are restricted, else both.

use crate::civil::{Month, weekday_of};

/// The day-of-month field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DaysOfMonth {
    /// Bit `d`: day `d`, 1 to 31.
    pub(crate) days: u32,
    /// Bit `n`: the `n`th day before the last one, 0 to 30.
    pub(crate) before_last: u32,
    /// Bit `d`: the Monday to Friday nearest to day `d`, within the month.
    pub(crate) near: u32,
    /// The last Monday to Friday.
    pub(crate) last_working: bool,
    /// Whether it holds `*`, `*/n` or `?`: then it narrows the other field instead of adding to it.
    pub(crate) star: bool,
}

/// The day-of-week field; Sunday is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DaysOfWeek {
    /// Bit `w`: weekday `w`, 0 to 6.
    pub(crate) days: u32,
    /// Bit `w`: the last weekday `w` of the month.
    pub(crate) last: u32,
    /// Of weekday `w`, bit `n`: the `n`th of the month, 1 to 5.
    pub(crate) nth: [u32; 7],
    /// Whether it holds `*`, `*/n` or `?`.
    pub(crate) star: bool,
}

const SUNDAY: u32 = 0;
const SATURDAY: u32 = 6;

fn has(bits: u32, value: u32) -> bool {
    bits & (1 << value) != 0
}

impl DaysOfMonth {
    fn holds(&self, month: Month, day: u32) -> bool {
        let days = month.days();
        has(self.days, day)
            || has(self.before_last, days - day)
            || (self.last_working && day == last_working(month))
            || (self.near != 0
                && (1..=days).any(|wanted| has(self.near, wanted) && day == near(month, wanted)))
    }
}

impl DaysOfWeek {
    fn holds(&self, month: Month, day: u32) -> bool {
        let weekday = weekday_of(month.day_number(day));
        let nth = self.nth.get(weekday as usize).copied().unwrap_or(0);
        has(self.days, weekday)
            || has(nth, (day - 1) / 7 + 1)
            || (has(self.last, weekday) && day + 7 > month.days())
    }
}

/// Returns the Monday to Friday nearest to `day` that is in the same month.
fn near(month: Month, day: u32) -> u32 {
    match weekday_of(month.day_number(day)) {
        SATURDAY if day == 1 => 3,
        SATURDAY => day - 1,
        SUNDAY if day == month.days() => day - 2,
        SUNDAY => day + 1,
        _ => day,
    }
}

fn last_working(month: Month) -> u32 {
    let last = month.days();
    match weekday_of(month.day_number(last)) {
        SATURDAY => last - 1,
        SUNDAY => last - 2,
        _ => last,
    }
}

/// Returns whether the two fields together ask for `day` of `month`.
pub(crate) fn hold(of_month: &DaysOfMonth, of_week: &DaysOfWeek, month: Month, day: u32) -> bool {
    if of_month.star || of_week.star {
        of_month.holds(month, day) && of_week.holds(month, day)
    } else {
        of_month.holds(month, day) || of_week.holds(month, day)
    }
}
