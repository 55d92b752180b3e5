//! Times and spans as people write them: RFC 3339, `+90m`, `250ms`, `1h30m`.
//!
//! The calendar is the proleptic Gregorian one, computed with days counted from 1970; there is no time zone data,
//! because RFC 3339 carries its offset with it.
//!
//! Source: Howard Hinnant, "chrono-compatible low-level date algorithms", days_from_civil and civil_from_days.

use std::time::Duration;

use z4_client::Millis;

const MS_PER_DAY: i64 = 86_400_000;

/// A point in time as given: fixed, or relative to now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Time {
    /// A point in time; one before 1970 is 1970, which is as past.
    At(Millis),
    /// So long from now, by the clock of whoever asks.
    In(Duration),
}

impl Time {
    /// Returns the point in time, "now" by this machine's clock.
    pub(crate) fn resolve(self) -> Millis {
        match self {
            Self::At(time) => time,
            Self::In(span) => {
                let now =
                    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
                let ms = now.saturating_add(span).as_millis();
                Millis(u64::try_from(ms).unwrap_or(u64::MAX)).min(Millis::MAX_NAMEABLE)
            }
        }
    }
}

/// Reads a time: RFC 3339, `now`, or `+` and a span.
pub(crate) fn parse_time(text: &str) -> Result<Time, String> {
    if text == "now" {
        return Ok(Time::In(Duration::ZERO));
    }
    if let Some(span) = text.strip_prefix('+') {
        return parse_span(span).map(Time::In);
    }
    parse_rfc3339(text).map(Time::At).map_err(|why| {
        format!("{why}; give RFC 3339 such as 2030-01-31T09:30:00Z, or a span from now such as +90m")
    })
}

/// Reads a span: whole numbers with units, largest first or not, such as `1h30m`, `250ms`, `7d`.
pub(crate) fn parse_span(text: &str) -> Result<Duration, String> {
    if text.starts_with('-') {
        return Err("a span of time cannot be negative".to_owned());
    }
    let bad = || {
        format!("{text:?} is no span; give numbers with units ms, s, m, h, d or w, such as 250ms or 1h30m")
    };
    let mut rest = text;
    let mut total: u64 = 0;
    if rest.is_empty() {
        return Err(bad());
    }
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let letters = rest[digits..].bytes().take_while(u8::is_ascii_alphabetic).count();
        let unit: u64 = match &rest[digits..digits + letters] {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            "w" => 7 * 86_400_000,
            _ => return Err(bad()),
        };
        let too_long = || format!("{text:?} is too long a span");
        if digits == 0 {
            return Err(bad());
        }
        let number: u64 = rest[..digits].parse().map_err(|_| too_long())?;
        total = number.checked_mul(unit).and_then(|ms| total.checked_add(ms)).ok_or_else(too_long)?;
        rest = &rest[digits + letters..];
    }
    Ok(Duration::from_millis(total))
}

/// Writes a time as RFC 3339 in UTC with milliseconds.
pub(crate) fn format_time(time: Millis) -> String {
    let ms = i64::try_from(time.min(Millis::MAX_NAMEABLE).0).expect("9999 fits");
    let (year, month, day) = civil_from_days(ms.div_euclid(MS_PER_DAY));
    let of_day = ms.rem_euclid(MS_PER_DAY);
    let (hour, minute, second) = (of_day / 3_600_000, of_day / 60_000 % 60, of_day / 1_000 % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", of_day % 1_000)
}

/// Writes a span in its two largest units.
pub(crate) fn format_span(span: Duration) -> String {
    let seconds = span.as_secs();
    match seconds {
        0 => format!("{}ms", span.subsec_millis()),
        1..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m{}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h{}m", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{}d{}h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

/// Writes a span as [`parse_span`] reads it, with nothing lost.
pub(crate) fn format_exact(span: Duration) -> String {
    let mut ms = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    let mut text = String::new();
    for (unit, length) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)] {
        if ms >= length {
            text.push_str(&format!("{}{unit}", ms / length));
            ms %= length;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// Reads RFC 3339. Fractions of a millisecond are rounded up, so that nothing becomes early.
fn parse_rfc3339(text: &str) -> Result<Millis, String> {
    let bad = || format!("{text:?} is no RFC 3339 time");
    let bytes = text.as_bytes();
    let number = |from: usize, len: usize| -> Option<i64> {
        let digits = bytes.get(from..from + len)?;
        digits
            .iter()
            .all(u8::is_ascii_digit)
            .then(|| digits.iter().fold(0, |n, d| n * 10 + i64::from(d - b'0')))
    };
    let mark = |at: usize, allowed: &[u8]| bytes.get(at).is_some_and(|b| allowed.contains(b)).then_some(());
    let fields = || {
        let (year, month, day) = (number(0, 4)?, number(5, 2)?, number(8, 2)?);
        let (hour, minute, second) = (number(11, 2)?, number(14, 2)?, number(17, 2)?);
        mark(4, b"-")?;
        mark(7, b"-")?;
        mark(10, b"Tt ")?;
        mark(13, b":")?;
        mark(16, b":")?;
        Some((year, month, day, hour, minute, second))
    };
    let (year, month, day, hour, minute, second) = fields().ok_or_else(bad)?;
    let mut at = 19;
    let mut fraction_ms = 0;
    if bytes.get(at) == Some(&b'.') {
        let digits = bytes[at + 1..].iter().take_while(|b| b.is_ascii_digit()).count();
        if digits == 0 {
            return Err(bad());
        }
        let fraction = &text[at + 1..at + 1 + digits];
        let (whole, rest) = fraction.split_at(digits.min(3));
        fraction_ms = format!("{whole:0<3}").parse::<i64>().map_err(|_| bad())?;
        fraction_ms += i64::from(rest.bytes().any(|b| b != b'0'));
        at += 1 + digits;
    }
    let offset_minutes = match (bytes.get(at), bytes.len() - at) {
        (Some(b'Z' | b'z'), 1) => 0,
        (Some(sign @ (b'+' | b'-')), 6) if bytes[at + 3] == b':' => {
            let (hours, minutes) = (number(at + 1, 2).ok_or_else(bad)?, number(at + 4, 2).ok_or_else(bad)?);
            if hours > 23 || minutes > 59 {
                return Err(bad());
            }
            (hours * 60 + minutes) * if *sign == b'-' { -1 } else { 1 }
        }
        (None, _) => return Err(format!("{text:?} has no offset; add Z for UTC or one such as +01:00")),
        _ => return Err(bad()),
    };
    if year == 0 || !(1..=12).contains(&month) || day < 1 || day > days_in_month(year, month) {
        return Err(format!("{text:?} names no day of the years 0001 to 9999"));
    }
    // 60 is a leap second, the same point as the second after it.
    if hour > 23 || minute > 59 || second > 60 {
        return Err(format!("{text:?} names no time of day"));
    }
    let of_day = ((hour * 60 + minute - offset_minutes) * 60 + second) * 1_000 + fraction_ms;
    let ms = days_from_civil(year, month, day) * MS_PER_DAY + of_day;
    let time = Millis(u64::try_from(ms).unwrap_or(0));
    if time > Millis::MAX_NAMEABLE {
        return Err(format!("{text:?} lies after the year 9999 in UTC"));
    }
    Ok(time)
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Returns the days from 1970-01-01 to a date. Years begin in March here, so that the leap day is the last of them.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// Returns the date so many days after 1970-01-01: the way back from [`days_from_civil`].
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Option<u64> {
        match parse_time(text) {
            Ok(Time::At(time)) => Some(time.0),
            _ => None,
        }
    }

    #[test]
    fn rfc_3339_times_are_read() {
        assert_eq!(at("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(at("2001-09-09T01:46:40Z"), Some(1_000_000_000_000));
        assert_eq!(at("2001-09-09t03:46:40.5+02:00"), Some(1_000_000_000_500));
        assert_eq!(at("2001-09-08 20:16:40.000001-05:30"), Some(1_000_000_000_001), "rounded up");
        assert_eq!(at("2024-02-29T00:00:00Z"), Some(1_709_164_800_000));
        assert_eq!(at("2016-12-31T23:59:60Z"), at("2017-01-01T00:00:00Z"));
        assert_eq!(at("0001-01-01T00:00:00Z"), Some(0), "before 1970 is simply past");
        assert_eq!(at("9999-12-31T23:59:59.999Z"), Some(Millis::MAX_NAMEABLE.0));
    }

    #[test]
    fn what_is_no_time_is_refused() {
        let bad = [
            "",
            "x",
            "2024-01-01",
            "2024-01-01T00:00:00",
            "2023-02-29T00:00:00Z",
            "1900-02-29T00:00:00Z",
            "2024-13-01T00:00:00Z",
            "2024-00-01T00:00:00Z",
            "2024-01-32T00:00:00Z",
            "2024-01-01T24:00:00Z",
            "2024-01-01T00:60:00Z",
            "2024-01-01T00:00:61Z",
            "2024-01-01T00:00:00.Z",
            "2024-01-01T00:00:00+1:00",
            "2024-01-01T00:00:00+24:00",
            "2024-01-01T00:00:00Zx",
            "0000-01-01T00:00:00Z",
            "+2024",
            "-5m",
            "+",
            "9999-12-31T23:59:59-01:00",
            "2024-01-01T00:00:00é",
            "２024-01-01T00:00:00Z",
            "2024-01-01T00:00:00+éé",
        ];
        for text in bad {
            assert!(parse_time(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn every_day_survives_the_calendar() {
        for days in (-719_162..2_932_897).step_by(17) {
            let (year, month, day) = civil_from_days(days);
            assert_eq!(days_from_civil(year, month, day), days);
            assert!(day <= days_in_month(year, month));
        }
        for ms in [0, 951_782_399_999, 951_782_400_000, 1_709_164_800_000, Millis::MAX_NAMEABLE.0] {
            assert_eq!(at(&format_time(Millis(ms))), Some(ms));
        }
        assert_eq!(format_time(Millis(1_709_164_800_001)), "2024-02-29T00:00:00.001Z");
    }

    #[test]
    fn spans_are_read_with_their_units() {
        let ms = |text: &str| parse_span(text).map(|span| span.as_millis()).ok();
        assert_eq!(ms("250ms"), Some(250));
        assert_eq!(ms("30s"), Some(30_000));
        assert_eq!(ms("5m"), Some(300_000));
        assert_eq!(ms("2h"), Some(7_200_000));
        assert_eq!(ms("7d"), Some(604_800_000));
        assert_eq!(ms("1h30m"), Some(5_400_000));
        assert_eq!(ms("0s"), Some(0));
        for bad in [
            "",
            "5",
            "s",
            "-5s",
            "5 s",
            "1.5h",
            "5x",
            "5sm",
            "99999999999999999999s",
            "18446744073709551615w",
            "é",
        ] {
            assert!(parse_span(bad).is_err(), "{bad:?}");
        }
        assert_eq!(parse_time("+90m"), Ok(Time::In(Duration::from_secs(5_400))));
    }

    #[test]
    fn spans_are_written_short() {
        let text = |ms| format_span(Duration::from_millis(ms));
        assert_eq!([text(5), text(5_000), text(65_000), text(3_660_000)], ["5ms", "5s", "1m5s", "1h1m"]);
        assert_eq!(text(90_000_000), "1d1h");
    }
}
