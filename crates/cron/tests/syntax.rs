//! What is refused: where, why, and what would be right.

use z4_cron::{EXPRESSION_BYTES_MAX, Error, Expression, Field};
use z4_types::Kind;

/// Checks that `text` is refused at byte `at` with words of the problem and of what would be right.
fn refused(text: &str, at: usize, field: Option<Field>, problem: &str, instead: &str) {
    let error = Expression::parse(text).expect_err(text);
    assert_eq!(error.kind(), Kind::Invalid);
    let place = error.place().unwrap_or_else(|| panic!("{text}: {error} has no place"));
    assert_eq!((place.at, place.field), (at, field), "{text}: {error}");
    assert!(place.problem.contains(problem), "{text}: {error}");
    assert!(place.instead.contains(instead), "{text}: {error}");
    assert_eq!(place.column, text[..at].chars().count() + 1, "{text}");
}

#[test]
fn values_and_lists() {
    use Field::{DayOfMonth, DayOfWeek, Hours, Minutes, Month, Seconds};
    refused("60 * * * *", 0, Some(Minutes), "`60` is not 0 to 59", "0 to 59");
    refused("60 * * * * *", 0, Some(Seconds), "`60` is not 0 to 59", "0 to 59");
    refused("0  24 * * *", 3, Some(Hours), "`24` is not 0 to 23", "0 to 23");
    refused("0 0 0 * *", 4, Some(DayOfMonth), "`0` is not 1 to 31", "1 to 31");
    refused("0 0 * 13 *", 6, Some(Month), "`13` is not 1 to 12", "JAN");
    refused("0 0 * * 8", 8, Some(DayOfWeek), "`8` is not 0 to 7", "SUN");
    refused("0 0 * * MONDAY", 8, Some(DayOfWeek), "`MONDAY`", "write MON");
    refused("0 0 * januar *", 6, Some(Month), "`januar`", "write JAN");
    refused("0 0 * MON *", 6, Some(Month), "`MON`", "JAN to DEC");
    refused("1,2,,3 * * * *", 4, Some(Minutes), "empty item", "remove the comma");
    refused("1, * * * *", 2, Some(Minutes), "empty item", "remove the comma");
    refused("-5 * * * *", 0, Some(Minutes), "missing", "0 to 59");
    refused("5- * * * *", 2, Some(Minutes), "missing", "0 to 59");
    refused("+5 * * * *", 0, Some(Minutes), "`+5`", "0 to 59");
    refused("1.5 * * * *", 0, Some(Minutes), "`1.5`", "0 to 59");
    refused("99999999999999999999 * * * *", 0, Some(Minutes), "is not 0 to 59", "0 to 59");
    refused("ä 0 * * *", 0, Some(Minutes), "`ä`", "0 to 59");
    refused("0,ä,x 0 * * *", 2, Some(Minutes), "`ä`", "0 to 59");
    refused("** * * * *", 0, Some(Minutes), "`**`", "0 to 59");
    refused("H * * * *", 0, Some(Minutes), "`H`", "0 to 59");
}

#[test]
fn ranges_and_steps() {
    use Field::{DayOfMonth, DayOfWeek, Hours, Minutes, Month};
    refused("0 22-2 * * *", 2, Some(Hours), "`22-2` runs backward", "write 22-23,0-2");
    refused("0 0 * 11-1 *", 6, Some(Month), "runs backward", "write 11-12,1");
    refused("0 0 * * FRI-MON", 8, Some(DayOfWeek), "`FRI-MON` runs backward", "write 5-7,1");
    refused("*/0 * * * *", 2, Some(Minutes), "`0` is not a step", "1 or more");
    refused("*/ * * * *", 2, Some(Minutes), "`` is not a step", "1 or more");
    refused("*/x * * * *", 2, Some(Minutes), "`x` is not a step", "1 or more");
    refused("*/90 * * * *", 2, Some(Minutes), "leaves only 0 of 0 to 59", "@every 90m");
    refused("0 */36 * * *", 4, Some(Hours), "leaves only 0", "@every 36h");
    refused("0 0 1-5/9 * *", 8, Some(DayOfMonth), "leaves only 1 of 1 to 5", "write 1");
    refused("0 0 * * 7/2", 10, Some(DayOfWeek), "leaves only 7", "write 7");
    refused("1/2/3 * * * *", 2, Some(Minutes), "`2/3` is not a step", "1 or more");
    refused("1-2-3 * * * *", 2, Some(Minutes), "`2-3`", "0 to 59");
}

#[test]
fn what_only_days_know() {
    use Field::{DayOfMonth, DayOfWeek, Hours, Month};
    refused("0 ? * * *", 2, Some(Hours), "`?` stands only for day", "write `*`");
    refused("0 0 ?,3 * *", 4, Some(DayOfMonth), "`?` stands alone", "remove");
    refused("0 0 3,? * *", 6, Some(DayOfMonth), "`?` stands alone", "remove");
    refused("0 0 * L *", 6, Some(Month), "`L`", "1 to 12");
    refused("0 0 L-31 * *", 6, Some(DayOfMonth), "at most 30", "L-1 to L-30");
    refused("0 0 L-0 * *", 6, Some(DayOfMonth), "not a number of days", "1 or more");
    refused("0 0 1-5W * *", 4, Some(DayOfMonth), "behind one day", "15W");
    refused("0 0 32W * *", 4, Some(DayOfMonth), "`32` is not 1 to 31", "1 to 31");
    refused("0 0 W * *", 4, Some(DayOfMonth), "`W`", "1 to 31");
    refused("0 0 * * L", 8, Some(DayOfWeek), "behind a weekday", "FRIL");
    refused("0 0 * * MON#6", 12, Some(DayOfWeek), "at most five", "#1 to #5");
    refused("0 0 * * MON#0", 12, Some(DayOfWeek), "not first to fifth", "1 or more");
    refused("0 0 * * #2", 8, Some(DayOfWeek), "missing", "SUN to SAT");
    refused("0 0 * * 1-5L", 8, Some(DayOfWeek), "`1-5`", "SUN to SAT");
}

#[test]
fn the_whole() {
    refused("", 0, None, "empty", "five fields");
    refused(" \t ", 0, None, "empty", "@every 90s");
    refused("* * * *", 7, None, "4 fields", "five fields");
    refused("0 0 0 1 1 ? 2027", 12, None, "years", "remove it");
    refused("0 0 0 1 1 ? 1 2", 12, None, "8 fields", "five fields");
    refused("CRON_TZ=Europe/Berlin 0 0 * * *", 0, None, "CRON_TZ", "time zone");
    refused("@reboot", 0, None, "`@reboot`", "push a task");
    refused("@hourli", 0, None, "`@hourli`", "@hourly");
    refused("@daily 5", 7, None, "`5`", "remove it");
    refused(&"*".repeat(EXPRESSION_BYTES_MAX + 1), 0, None, "257 bytes", "several schedules");
    // A no-break space separates nothing.
    refused("0\u{a0}0 * * * *", 0, Some(Field::Minutes), "`0\\u{a0}0`", "0 to 59");
}

#[test]
fn periods() {
    for (text, at, problem) in [
        ("@every", 6, "needs a period"),
        ("@every ", 6, "needs a period"),
        ("@every 90", 7, "no unit"),
        ("@every 90x", 9, "`x` is not a unit"),
        ("@every 90ä", 9, "`ä` is not a unit"),
        ("@every 100ms", 11, "a number must stand"),
        ("@every 1m1h", 10, "`h` comes once, and larger ones first"),
        ("@every 1h1h", 10, "`h` comes once"),
        ("@every 1.5h", 8, "`.` is not a unit"),
        ("@every h", 7, "a number must stand"),
        ("@every -5s", 7, "a number must stand"),
        ("@every 0s", 7, "shorter than 1s"),
        ("@every 4000d", 7, "longer than 3650d"),
        ("@every 99999999999999999999s", 7, "longer than 3650d"),
        ("@every 1h 30m", 10, "one word too many"),
    ] {
        refused(text, at, None, problem, if problem.contains("word") { "remove it" } else { "90s" });
    }
    let error = Expression::parse("@every 90").expect_err("no unit");
    assert!(matches!(error, Error::Syntax(_)));
}

#[test]
fn what_is_accepted_keeps_its_text() {
    for text in ["  */5 * * * *\t", "@EVERY 2d", "0 0 12 ? * MON-FRI", "0 0 l * fril", "05 08 * * *"] {
        let expression = Expression::parse(text).expect(text);
        assert_eq!(expression.to_string(), text.trim());
        assert_eq!(expression.as_str().parse(), Ok(expression.clone()));
    }
    for (text, interval) in [
        ("0 * * * *", true),
        ("*/5 2 * * *", true),
        ("0/5 2 * * *", true),
        ("0-59 2 * * *", false),
        ("@every 1h", false),
    ] {
        assert_eq!(Expression::parse(text).expect(text).is_interval(), interval, "{text}");
    }
}
