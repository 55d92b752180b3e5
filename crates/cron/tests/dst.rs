//! Twenty schedules around eight changes of the clock in four zones, against instants another program worked out.
//!
//! `dst.txt` is written by `dst.py`, which shares no code and no tables with this crate: Python's zoneinfo over the
//! tzdata package, croniter for the fields, and a walk over every minute for the rule. Its first lines name the
//! versions.

use z4_cron::{Expression, Schedule, Zone};
use z4_types::Millis;

const TABLE: &str = include_str!("dst.txt");

/// Returns the instant of `2026-03-29T01:00`, in UTC.
fn instant(text: &str) -> Millis {
    let number = |range: std::ops::Range<usize>| text[range].parse::<u64>().expect("a number");
    let (year, month, day) = (number(0..4), number(5..7), number(8..10));
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut days: u64 = (1970..year).map(|year| if leap(year) { 366 } else { 365 }).sum();
    let february = if leap(year) { 29 } else { 28 };
    let months = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    days += months.iter().take(month as usize - 1).sum::<u64>() + day - 1;
    Millis((days * 86_400 + number(11..13) * 3_600 + number(14..16) * 60) * 1_000)
}

#[test]
fn the_table_of_another_program_agrees() {
    let (mut schedules, mut slots, mut windows) = (0, 0, 0);
    let mut window = None;
    for line in TABLE.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        if let Some(rest) = line.strip_prefix("window ") {
            let words: Vec<&str> = rest.split(' ').collect();
            let [zone, begin, end] = words[..] else { panic!("not a window: {line}") };
            window = Some((Zone::named(zone).expect("a bundled zone"), begin, end));
            windows += 1;
            continue;
        }
        let (zone, begin, end) = window.clone().expect("a window comes first");
        let (expression, expected) = line.split_once(" =").expect("an expression and its slots");
        let expected: Vec<Millis> =
            expected.split_whitespace().map(|slot| instant(&format!("{}-{slot}", &begin[..4]))).collect();
        let begin = instant(begin);
        let schedule = Schedule::new(expression.parse().expect("it can be read"), zone, begin);
        let found = schedule.slots_between(begin, instant(end), 1_000);
        let shown =
            |slots: &[Millis]| slots.iter().map(|slot| schedule.zone().show(*slot)).collect::<Vec<_>>();
        assert!(!found.more, "{expression}");
        assert_eq!(shown(&found.slots), shown(&expected), "{expression} in {}", schedule.zone());
        slots += expected.len();
        schedules += 1;
    }
    assert_eq!((windows, schedules), (8, 8 * 20));
    assert!(slots > 2_800, "only {slots} slots were compared");
}

/// Shows the first slots of an expression in a zone after an instant.
fn first(expression: &str, zone: &str, after: &str, count: usize) -> Vec<String> {
    let zone = Zone::named(zone).expect("a bundled zone");
    let start = instant(after);
    let schedule = Schedule::new(Expression::parse(expression).expect("it can be read"), zone, start);
    schedule.after(start).take(count).map(|slot| schedule.zone().show(slot)).collect()
}

#[test]
fn a_day_that_a_zone_left_out_is_not_lost() {
    // Samoa crossed the date line: the 30th of December 2011 does not exist.
    assert_eq!(
        first("0 12 30 * *", "Pacific/Apia", "2011-12-01T00:00", 2),
        ["2011-12-31T00:00:00+14:00", "2012-01-30T12:00:00+14:00"]
    );
    assert_eq!(
        first("0 12 * * *", "Pacific/Apia", "2011-12-29T00:00", 3),
        ["2011-12-29T12:00:00-10:00", "2011-12-31T00:00:00+14:00", "2011-12-31T12:00:00+14:00"]
    );
}

#[test]
fn morocco_leaves_summer_time_for_ramadan() {
    // In 2026 the clock goes back at 03:00 on 15 February and forward at 02:00 on 22 March.
    assert_eq!(
        first("30 2 * * *", "Africa/Casablanca", "2026-02-14T12:00", 2),
        ["2026-02-15T02:30:00+01:00", "2026-02-16T02:30:00+00:00"]
    );
    assert_eq!(
        first("30 2 * * *", "Africa/Casablanca", "2026-03-21T12:00", 2),
        ["2026-03-22T03:00:00+01:00", "2026-03-23T02:30:00+01:00"]
    );
}

#[test]
fn seconds_of_a_repeated_hour_fire_as_their_hours_say() {
    assert_eq!(
        first("0,30 59 2 * * *", "Europe/Berlin", "2026-10-25T00:00", 3),
        ["2026-10-25T02:59:00+02:00", "2026-10-25T02:59:30+02:00", "2026-10-26T02:59:00+01:00"]
    );
    assert_eq!(
        first("30 59 * * * *", "Europe/Berlin", "2026-10-25T00:00", 3),
        ["2026-10-25T02:59:30+02:00", "2026-10-25T02:59:30+01:00", "2026-10-25T03:59:30+01:00"]
    );
}
