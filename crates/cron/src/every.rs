//! The period of `@every`: `90s`, `1h30m`, `2d`.

use z4_types::Duration;

use crate::error::{Error, Shown};

/// The units, the largest first, as they must follow each other, with their milliseconds.
const UNITS: [(char, u64); 4] = [('d', 86_400_000), ('h', 3_600_000), ('m', 60_000), ('s', 1_000)];

/// Shortest period: a schedule is a row that is written once a slot, not a load generator.
const PERIOD_MIN: Duration = Duration::from_secs(1);

/// Longest period, ten years: longer ones are typing errors.
const PERIOD_MAX: Duration = Duration::from_secs(3_650 * 86_400);

const INSTEAD: &str = "write a period such as 90s, 15m, 1h30m or 2d";

/// Reads a period that begins at byte `at` of the expression.
///
/// # Errors
/// [`Error::Syntax`] at the part that cannot be read, or at the whole if it is too short or too long.
pub(crate) fn period(text: &str, at: usize) -> Result<Duration, Error> {
    let refuse = |at: usize, problem: String| Err(Error::syntax(at, None, problem, INSTEAD));
    if text.is_empty() {
        return refuse(at, "@every needs a period".to_owned());
    }
    let mut sum: u64 = 0;
    let mut units = UNITS.iter();
    let mut rest = text;
    while !rest.is_empty() {
        let place = at + text.len() - rest.len();
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, behind) = rest.split_at(digits);
        let Some(unit) = behind.chars().next() else {
            return refuse(place, format!("{} has no unit", Shown(number)));
        };
        if number.is_empty() {
            return refuse(place, format!("a number must stand here, not {}", Shown(behind)));
        }
        // The units are consumed as they are passed: each at most once, the larger before the smaller.
        let Some((_, span)) = units.find(|(letter, _)| unit.eq_ignore_ascii_case(letter)) else {
            let known = UNITS.iter().any(|(letter, _)| unit.eq_ignore_ascii_case(letter));
            let problem = if known { "comes once, and larger ones first" } else { "is not a unit" };
            return refuse(place + digits, format!("{} {problem}", Shown(unit.encode_utf8(&mut [0; 4]))));
        };
        let part = number.parse::<u64>().ok().and_then(|number| number.checked_mul(*span));
        sum = sum.saturating_add(part.unwrap_or(u64::MAX));
        rest = &behind[unit.len_utf8()..];
    }
    match Duration(sum) {
        short if short < PERIOD_MIN => refuse(at, format!("{} is shorter than 1s", Shown(text))),
        long if long > PERIOD_MAX => refuse(at, format!("{} is longer than 3650d", Shown(text))),
        period => Ok(period),
    }
}
