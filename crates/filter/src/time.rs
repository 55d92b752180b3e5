//! Times as filters write them: RFC 3339, `now`, `now-5m`, `+90m`; spans such as `1h30m`.
//!
//! The calendar is the proleptic Gregorian one, computed with days counted from 1970; there is no time zone data,
//! because RFC 3339 carries its offset with it.
//!
//! # Caveats
//! - Shard time is whole milliseconds. A finer time is refused: rounded either way, one of `<` and `<=` would be wrong.
//! - Times before 1970 are 1970, and a span that leads past the year 9999 ends there: no task lies beyond.
//!
//! Source: Howard Hinnant, "chrono-compatible low-level date algorithms", days_from_civil and civil_from_days.

use z4_types::{Duration, Millis};

const MS_PER_DAY: i64 = 86_400_000;

/// Reads a time; `now` is at most `MAX_NAMEABLE`, and so is the answer. The message of an error goes on behind a colon.
pub(crate) fn parse(text: &str, now: Millis) -> Result<Millis, String> {
    let from_now = text.strip_prefix("now").unwrap_or(text);
    if from_now.is_empty() && !text.is_empty() {
        return Ok(now);
    }
    if let Some(ago) = from_now.strip_prefix('-') {
        return span(ago).map(|span| now - span);
    }
    if let Some(ahead) = from_now.strip_prefix('+') {
        return span(ahead).map(|span| (now + span).min(Millis::MAX_NAMEABLE));
    }
    rfc3339(text)
}

/// Reads a span: whole numbers with units.
fn span(text: &str) -> Result<Duration, String> {
    let bad =
        || format!("{text:?} is no span; give numbers with units ms, s, m, h, d or w, such as now-1h30m");
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
        if digits == 0 {
            return Err(bad());
        }
        let too_long = || format!("{text:?} is too long a span");
        let number: u64 = rest[..digits].parse().map_err(|_| too_long())?;
        total = number.checked_mul(unit).and_then(|ms| total.checked_add(ms)).ok_or_else(too_long)?;
        rest = &rest[digits + letters..];
    }
    Ok(Duration(total))
}

/// Reads RFC 3339.
fn rfc3339(text: &str) -> Result<Millis, String> {
    let wrong = |why: &str| {
        format!(
            "{text:?} {why}; give RFC 3339 such as 2030-01-31T09:30:00Z, or a time from now such as now-5m or +90m"
        )
    };
    let bad = || wrong("is no time");
    let bytes = text.as_bytes();
    let number = |from: usize, len: usize| -> Option<i64> {
        let digits = bytes.get(from..from + len)?;
        let value = digits.iter().fold(0, |value, digit| value * 10 + i64::from(digit.wrapping_sub(b'0')));
        digits.iter().all(u8::is_ascii_digit).then_some(value)
    };
    let mark =
        |at: usize, allowed: &[u8]| bytes.get(at).is_some_and(|byte| allowed.contains(byte)).then_some(());
    let date = || {
        mark(4, b"-")?;
        mark(7, b"-")?;
        Some((number(0, 4)?, number(5, 2)?, number(8, 2)?))
    };
    let clock = || {
        mark(10, b"Tt ")?;
        mark(13, b":")?;
        mark(16, b":")?;
        Some((number(11, 2)?, number(14, 2)?, number(17, 2)?))
    };
    let (year, month, day) = date().ok_or_else(bad)?;
    if bytes.len() == 10 {
        return Err(format!(
            "{text:?} is a day; add a time of day with its offset, such as {text}T00:00:00Z"
        ));
    }
    let (hour, minute, second) = clock().ok_or_else(bad)?;
    let mut at = 19;
    let mut fraction_ms = 0;
    if bytes.get(at) == Some(&b'.') {
        let digits = bytes[at + 1..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        if digits == 0 {
            return Err(bad());
        }
        let (whole, finer) = bytes[at + 1..at + 1 + digits].split_at(digits.min(3));
        if finer.iter().any(|digit| *digit != b'0') {
            return Err(format!("{text:?} is finer than a millisecond; give three digits behind the point"));
        }
        let place = [100, 10, 1];
        fraction_ms = whole.iter().zip(place).map(|(digit, place)| i64::from(digit - b'0') * place).sum();
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
        return Err(wrong("names no day"));
    }
    // 60 is a leap second, the same point as the second after it.
    if hour > 23 || minute > 59 || second > 60 {
        return Err(wrong("names no time of day"));
    }
    let of_day = ((hour * 60 + minute - offset_minutes) * 60 + second) * 1_000 + fraction_ms;
    let ms = days_from_civil(year, month, day) * MS_PER_DAY + of_day;
    let time = Millis(u64::try_from(ms).unwrap_or(0));
    if time > Millis::MAX_NAMEABLE { Err(wrong("lies after the year 9999 in UTC")) } else { Ok(time) }
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

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Millis = Millis(1_700_000_000_000);

    #[test]
    fn times_are_fixed_or_from_now() {
        let at = |text| parse(text, NOW).map(|time| time.0);
        assert_eq!(at("now"), Ok(NOW.0));
        assert_eq!(at("now-5m"), Ok(NOW.0 - 300_000));
        assert_eq!(at("now+1h30m"), Ok(NOW.0 + 5_400_000));
        assert_eq!(at("-250ms"), Ok(NOW.0 - 250));
        assert_eq!(at("+90m"), at("now+1h30m"));
        assert_eq!(at("now-9999w"), Ok(0), "before 1970 is 1970");
        assert_eq!(at("+999999w"), Ok(Millis::MAX_NAMEABLE.0));
        assert_eq!(at("2001-09-09T01:46:40Z"), Ok(1_000_000_000_000));
        assert_eq!(at("2001-09-09t03:46:40.5000+02:00"), Ok(1_000_000_000_500));
        assert_eq!(at("2016-12-31T23:59:60Z"), at("2017-01-01 00:00:00z"));
        assert_eq!(at("9999-12-31T23:59:59.999Z"), Ok(Millis::MAX_NAMEABLE.0));
        assert_eq!(at("0001-01-01T00:00:00Z"), Ok(0));
    }

    #[test]
    fn what_is_no_time_is_refused() {
        let bad = [
            "",
            "x",
            "nows",
            "now-",
            "now 5m",
            "+5",
            "+m",
            "+5x",
            "+99999999999999999999s",
            "+18446744073709551615w",
            "--5m",
            "1700000000",
            "2024-01-01",
            "2024-01-01T00:00:00",
            "2024-01-01T00:00:00.0005Z",
            "2023-02-29T00:00:00Z",
            "2024-13-01T00:00:00Z",
            "2024-01-00T00:00:00Z",
            "2024-01-01T24:00:00Z",
            "2024-01-01T00:00:61Z",
            "2024-01-01T00:00:00.Z",
            "2024-01-01T00:00:00+1:00",
            "2024-01-01T00:00:00+24:00",
            "2024-01-01T00:00:00Zx",
            "9999-12-31T23:59:59-01:00",
            "2024-01-01T00:00:00é",
            "２024-01-01T00:00:00Z",
            "2024-01-01T00:00:00+éé",
        ];
        for text in bad {
            assert!(parse(text, NOW).is_err(), "{text:?}");
        }
    }

    #[test]
    fn every_day_survives_the_calendar() {
        for day in (0..2_932_897).step_by(17) {
            let time = Millis(day * 86_400_000);
            assert_eq!(parse(&time.rfc3339(), NOW), Ok(time));
        }
        for ms in [0, 951_782_399_999, 951_782_400_000, 1_709_164_800_000, Millis::MAX_NAMEABLE.0] {
            assert_eq!(parse(&Millis(ms).rfc3339(), NOW), Ok(Millis(ms)));
        }
    }
}
