//! Reads one field of an expression: a list of values, ranges and steps, and what only the day fields know.
//!
//! Every refusal names the byte it is about and what would be right. Nothing is guessed: a range that runs backward
//! or a step that leaves one value is more often a mistake than a wish, and costs a schedule that fires at wrong times.

use crate::days::{DaysOfMonth, DaysOfWeek};
use crate::error::{Error, Shown};
use crate::field::Field;

/// A piece of an expression and where it begins.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Piece<'a> {
    pub(crate) text: &'a str,
    /// Byte offset in the whole expression.
    pub(crate) at: usize,
    pub(crate) field: Field,
}

/// What plain items of a field stand for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Values {
    /// Bit `v`: value `v` of the field, 0 to 59.
    pub(crate) bits: u64,
    /// Whether an item is `*`, `*/n` or `?`.
    pub(crate) star: bool,
    /// Whether an item runs through to the field's end: `*`, `*/n`, `a/n`.
    pub(crate) open: bool,
}

impl<'a> Piece<'a> {
    fn refuse(self, problem: impl Into<String>, instead: impl Into<String>) -> Error {
        Error::syntax(self.at, Some(self.field), problem, instead)
    }

    /// Splits at the first `separator`, which must be ASCII.
    fn split_once(self, separator: char) -> Option<(Self, Self)> {
        let (before, after) = self.text.split_once(separator)?;
        let at = self.at + before.len() + separator.len_utf8();
        Some((Self { text: before, ..self }, Self { text: after, at, ..self }))
    }

    /// Returns the piece without `suffix`, a letter in any case, if something stands before it.
    fn before_letter(self, suffix: char) -> Option<Self> {
        let (cut, last) = self.text.char_indices().next_back()?;
        (last.eq_ignore_ascii_case(&suffix) && cut > 0).then_some(Self { text: &self.text[..cut], ..self })
    }

    /// Returns the items of a list, one of which may be refused for being empty.
    fn items(self) -> impl Iterator<Item = Result<Self, Error>> {
        let mut at = self.at;
        self.text.split(',').map(move |text| {
            let item = Self { text, at, ..self };
            at += text.len() + 1;
            if text.is_empty() {
                return Err(item.refuse("an empty item in a list", "remove the comma or write a value"));
            }
            if text == "?" && text.len() < self.text.len() {
                return Err(item.refuse("`?` stands alone in its field", "remove it from the list"));
            }
            Ok(item)
        })
    }

    /// Returns the value this piece is a number or a name of, as it was written: Sunday may be 0 or 7.
    fn value(self) -> Result<u32, Error> {
        let (field, text) = (self.field, self.text);
        if text.is_empty() {
            return Err(self.refuse("a value is missing", field.offers()));
        }
        if text.bytes().all(|byte| byte.is_ascii_digit()) {
            let (min, max) = (field.range().0, field.written_max());
            let value = text.parse().ok().filter(|value| (min..=max).contains(value));
            return value.ok_or_else(|| {
                self.refuse(format!("{} is not {min} to {max}", Shown(text)), field.offers())
            });
        }
        field.named(text).ok_or_else(|| {
            let instead = match field.name_within(text) {
                Some(name) => format!("write {name}"),
                None => field.offers().to_owned(),
            };
            self.refuse(format!("{} is not a value of this field", Shown(text)), instead)
        })
    }

    /// Returns a count that is at least one: a step or an ordinal.
    fn count(self, what: &str) -> Result<u32, Error> {
        let digits = !self.text.is_empty() && self.text.bytes().all(|byte| byte.is_ascii_digit());
        let count = if digits { Some(self.text.parse().unwrap_or(u32::MAX)) } else { None };
        count
            .filter(|count| *count > 0)
            .ok_or_else(|| self.refuse(format!("{} is not {what}", Shown(self.text)), "write 1 or more"))
    }

    /// Returns what `*`, `?`, a value, a range, or one of them with a step stands for.
    fn values(self) -> Result<Values, Error> {
        if self.text == "?" {
            if self.field.is_days() {
                let (first, last) = self.field.range();
                return Ok(Values { bits: bits(first, last, 1), star: true, open: true });
            }
            return Err(self.refuse("`?` stands only for day of month or day of week", "write `*`"));
        }
        let (base, step) = match self.split_once('/') {
            Some((base, step)) => (base, Some(step)),
            None => (self, None),
        };
        let (min, max) = self.field.range();
        let star = base.text == "*";
        let (first, last) = if star {
            (min, max)
        } else if let Some((first, last)) = base.split_once('-') {
            self.range(first, last)?
        } else {
            let value = base.value()?;
            (value, if step.is_some() { max.max(value) } else { value })
        };
        let every = match step {
            None => 1,
            Some(step) => self.step(step, first, last)?,
        };
        let mut bits = bits(first, last, every);
        if self.field == Field::DayOfWeek && bits & (1 << 7) != 0 {
            bits = bits & !(1 << 7) | 1;
        }
        let open = star || (step.is_some() && !base.text.contains('-'));
        Ok(Values { bits, star, open })
    }

    /// Returns the ends of a range; one to Sunday ends the week, one from Sunday begins it.
    fn range(self, first: Self, last: Self) -> Result<(u32, u32), Error> {
        let (mut begin, mut end) = (first.value()?, last.value()?);
        if self.field == Field::DayOfWeek {
            match (begin, end) {
                (7, end) if end < 7 => begin = 0,
                (begin, 0) if begin > 0 => end = 7,
                _ => {}
            }
        }
        if begin > end {
            let (min, max) = (self.field.range().0, self.field.written_max());
            // Monday follows Sunday, which the first part has as 7.
            let again = if self.field == Field::DayOfWeek { 1 } else { min };
            let part =
                |from: u32, to: u32| if from == to { from.to_string() } else { format!("{from}-{to}") };
            return Err(first.refuse(
                format!("the range {} runs backward", Shown(&format!("{}-{}", first.text, last.text))),
                format!("write {},{}", part(begin, max), part(again, end)),
            ));
        }
        Ok((begin, end))
    }

    /// Returns a step, unless it leaves only the first value.
    fn step(self, step: Self, first: u32, last: u32) -> Result<u32, Error> {
        let every = step.count("a step")?;
        // crontab's idiom for Sundays that must also hold the other day field: `0 0 1-7 * */7`.
        let sundays = self.field == Field::DayOfWeek && self.text.starts_with('*') && every == 7;
        if every <= last - first || sundays {
            return Ok(every);
        }
        let unit = match self.field {
            Field::Seconds => "s",
            Field::Minutes => "m",
            Field::Hours => "h",
            _ => "",
        };
        let instead = if unit.is_empty() {
            format!("write {first}")
        } else {
            format!("write {first}, or @every {every}{unit} for elapsed time")
        };
        Err(step.refuse(format!("a step of {every} leaves only {first} of {first} to {last}"), instead))
    }
}

/// Returns bits `first`, `first + every`… up to `last`, which is below 64.
fn bits(first: u32, last: u32, every: u32) -> u64 {
    (first..=last).step_by(every as usize).fold(0, |bits, value| bits | 1 << value)
}

/// The lower half of a field's bits: days and months fit into it.
pub(crate) fn small(bits: u64) -> u32 {
    u32::try_from(bits).expect("days and months are below 32")
}

/// Reads a field that has plain items only: the clock's and the month.
///
/// # Errors
/// [`Error::Syntax`] at the first item that cannot be read.
pub(crate) fn plain(field: Piece<'_>) -> Result<Values, Error> {
    let mut all = Values::default();
    for item in field.items() {
        add(&mut all, item?.values()?);
    }
    Ok(all)
}

fn add(all: &mut Values, item: Values) {
    all.bits |= item.bits;
    all.star |= item.star;
    all.open |= item.open;
}

/// Reads the day-of-month field: plain items, `L`, `L-n`, `LW` and `nW`.
///
/// # Errors
/// [`Error::Syntax`] at the first item that cannot be read.
pub(crate) fn days_of_month(field: Piece<'_>) -> Result<DaysOfMonth, Error> {
    let mut plain = Values::default();
    let (mut before_last, mut near, mut last_working) = (0, 0, false);
    for item in field.items() {
        let item = item?;
        if item.text.eq_ignore_ascii_case("L") {
            before_last |= 1;
        } else if item.text.eq_ignore_ascii_case("LW") {
            last_working = true;
        } else if let Some((l, days)) = item.split_once('-')
            && l.text.eq_ignore_ascii_case("L")
        {
            let days = Some(days.count("a number of days")?).filter(|days| *days <= 30).ok_or_else(|| {
                days.refuse("a month has at most 30 days before its last", "write L-1 to L-30")
            })?;
            before_last |= 1 << days;
        } else if let Some(day) = item.before_letter('W') {
            if day.text.contains(['-', '/', '*']) {
                return Err(day.refuse("`W` stands behind one day", "write 15W, or 1W,15W for more"));
            }
            near |= 1 << day.value()?;
        } else {
            add(&mut plain, item.values()?);
        }
    }
    Ok(DaysOfMonth { days: small(plain.bits), before_last, near, last_working, star: plain.star })
}

/// Reads the day-of-week field: plain items, `FRIL` and `MON#2`.
///
/// # Errors
/// [`Error::Syntax`] at the first item that cannot be read.
pub(crate) fn days_of_week(field: Piece<'_>) -> Result<DaysOfWeek, Error> {
    let mut plain = Values::default();
    let (mut last, mut nth) = (0, [0; 7]);
    for item in field.items() {
        let item = item?;
        if item.text.eq_ignore_ascii_case("L") {
            let instead = "write SAT for Saturdays, FRIL for the last Friday";
            return Err(item.refuse("`L` stands behind a weekday here", instead));
        }
        if let Some((weekday, which)) = item.split_once('#') {
            let weekday = weekday.value()? % 7;
            let which = Some(which.count("first to fifth")?)
                .filter(|which| *which <= 5)
                .ok_or_else(|| which.refuse("a month has at most five of a weekday", "write #1 to #5"))?;
            nth[weekday as usize] |= 1 << which;
        } else if let Some(weekday) = item.before_letter('L') {
            last |= 1 << (weekday.value()? % 7);
        } else {
            add(&mut plain, item.values()?);
        }
    }
    Ok(DaysOfWeek { days: small(plain.bits), last, nth, star: plain.star })
}
