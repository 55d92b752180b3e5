//! Slots without changes of the clock: which dates, from when, how many, and when there are none.

use z4_cron::{Between, Error, Expression, Schedule, Zone};
use z4_types::{Duration, Millis};

const DAY: u64 = 86_400_000;
/// 2026-01-01T00:00:00Z, a Thursday.
const NEW_YEAR: Millis = Millis(1_767_225_600_000);

fn schedule(expression: &str) -> Schedule {
    Schedule::new(Expression::parse(expression).expect("it can be read"), Zone::utc(), NEW_YEAR)
}

/// Checks the first slots after New Year 2026 in UTC, each `2026-01-05T00:00` or only its date for midnight.
fn check(expression: &str, expected: &[&str]) {
    let schedule = schedule(expression);
    let found: Vec<String> = schedule
        .after(NEW_YEAR)
        .take(expected.len())
        .map(|slot| {
            let shown = Zone::utc().show(slot);
            let shown = shown.strip_suffix("+00:00").expect("UTC's offset");
            let shown = shown.strip_suffix(":00").unwrap_or(shown);
            shown.strip_suffix("T00:00").unwrap_or(shown).to_owned()
        })
        .collect();
    assert_eq!(found, expected, "{expression}");
}

#[test]
fn either_day_field_is_enough_where_both_are_restricted() {
    check(
        "0 0 5 * MON",
        &["2026-01-05", "2026-01-12", "2026-01-19", "2026-01-26", "2026-02-02", "2026-02-05"],
    );
    check("0 0 13 * ?", &["2026-01-13", "2026-02-13"]);
    check("0 0 ? * 5", &["2026-01-02", "2026-01-09"]);
    // `*/2` is not restricted in this sense: Mondays with an odd date.
    check("0 0 */2 * MON", &["2026-01-05", "2026-01-19", "2026-02-09", "2026-02-23"]);
    check("0 0 * * 0", &["2026-01-04", "2026-01-11"]);
    check("0 0 * * 7", &["2026-01-04", "2026-01-11"]);
    check("0 0 * * FRI-SUN", &["2026-01-02", "2026-01-03", "2026-01-04", "2026-01-09"]);
    check("0 0 * * 7-1", &["2026-01-04", "2026-01-05", "2026-01-11"]);
    check("0 0 * * 5-7/2", &["2026-01-02", "2026-01-04", "2026-01-09"]);
}

#[test]
fn days_that_depend_on_the_month() {
    check("0 0 L * *", &["2026-01-31", "2026-02-28", "2026-03-31", "2026-04-30"]);
    check("0 0 L-2 2 *", &["2026-02-26", "2027-02-26", "2028-02-27"]);
    check("0 0 LW * *", &["2026-01-30", "2026-02-27", "2026-03-31"]);
    // The 1st of February, March and November 2026 is a Sunday; the 1st of August a Saturday.
    check("0 0 1W 2,8 ?", &["2026-02-02", "2026-08-03"]);
    check("0 0 31W * ?", &["2026-01-30", "2026-03-31", "2026-05-29", "2026-07-31", "2026-08-31"]);
    check("0 0 15W * ?", &["2026-01-15", "2026-02-16", "2026-03-16", "2026-04-15"]);
    check("0 0 ? * FRIL", &["2026-01-30", "2026-02-27", "2026-03-27"]);
    check("0 0 ? * MON#2,3#5", &["2026-01-12", "2026-02-09", "2026-03-09", "2026-04-13", "2026-04-29"]);
    check("0 0 31 * *", &["2026-01-31", "2026-03-31", "2026-05-31"]);
}

#[test]
fn rare_dates_are_found() {
    check("0 0 29 2 *", &["2028-02-29", "2032-02-29"]);
    // A leap day on a Sunday, with both fields required; 2100 is no leap year, and the gap is twelve years.
    check("0 0 29 2 */7", &["2032-02-29", "2060-02-29", "2088-02-29", "2128-02-29"]);
    check("0 0 ? 2 TUE#5", &["2028-02-29", "2056-02-29", "2084-02-29", "2124-02-29"]);
}

#[test]
fn clocks_and_nicknames() {
    check(
        "*/30 8-9 * * *",
        &["2026-01-01T08:00", "2026-01-01T08:30", "2026-01-01T09:00", "2026-01-01T09:30"],
    );
    check("59 23 * * *", &["2026-01-01T23:59", "2026-01-02T23:59"]);
    check("10/25 0 * * *", &["2026-01-01T00:10", "2026-01-01T00:35", "2026-01-02T00:10"]);
    check("15 0 0 * * *", &["2026-01-01T00:00:15", "2026-01-02T00:00:15"]);
    check("@hourly", &["2026-01-01T01:00", "2026-01-01T02:00"]);
    check("@daily", &["2026-01-02", "2026-01-03"]);
    check("@Weekly", &["2026-01-04", "2026-01-11"]);
    check("@monthly", &["2026-02-01", "2026-03-01"]);
    check("@yearly", &["2027-01-01", "2028-01-01"]);
    check("0 0 1 jan,Jul *", &["2026-07-01", "2027-01-01"]);
}

#[test]
fn every_counts_from_the_start_and_knows_no_zone() {
    let start = Millis(NEW_YEAR.0 + 123);
    let zone = Zone::named("Europe/Berlin").expect("a bundled zone");
    let every = Schedule::new(Expression::parse("@every 1h30m").expect("it can be read"), zone, start);
    let period = every.expression().period().expect("it has one");
    assert_eq!(period, Duration::from_secs(5_400));
    assert_eq!(every.next_after(Millis(0)), Some(start + period));
    assert_eq!(every.next_after(start), Some(start + period));
    assert_eq!(every.next_after(start + period), Some(Millis(start.0 + 2 * period.0)));
    assert_eq!(every.next_after(Millis(start.0 + 2 * period.0 - 1)), Some(Millis(start.0 + 2 * period.0)));
    assert_eq!(every.next_after(Millis::NEVER), None);
}

#[test]
fn slots_begin_after_the_start_and_end_with_the_calendar() {
    let daily = schedule("@daily");
    assert_eq!(daily.next_after(Millis(0)), Some(Millis(NEW_YEAR.0 + DAY)));
    assert_eq!(daily.next_after(Millis(NEW_YEAR.0 + DAY - 1)), Some(Millis(NEW_YEAR.0 + DAY)));
    assert_eq!(daily.next_after(Millis(NEW_YEAR.0 + DAY)), Some(Millis(NEW_YEAR.0 + 2 * DAY)));
    assert_eq!(daily.next_after(Millis(Millis::MAX_NAMEABLE.0 - 1)), None);
    assert_eq!(daily.next_after(Millis::NEVER), None);
    let last = Millis(Millis::MAX_NAMEABLE.0 - 2 * DAY);
    assert_eq!(daily.after(last).count(), 2);
    let early = Schedule::new("@yearly".parse().expect("it can be read"), Zone::utc(), Millis(0));
    assert_eq!(early.next_after(Millis(0)), Some(Millis(365 * DAY)));
}

#[test]
fn a_window_gives_its_earliest_slots_and_says_if_there_are_more() {
    let daily = schedule("@daily");
    let day = |n: u64| Millis(NEW_YEAR.0 + n * DAY);
    let all = daily.slots_between(day(0), day(3), 10);
    assert_eq!(all, Between { slots: vec![day(1), day(2), day(3)], more: false });
    assert_eq!(daily.slots_between(day(0), day(3), 3), all);
    assert_eq!(daily.slots_between(day(1), day(3), 1), Between { slots: vec![day(2)], more: true });
    assert_eq!(daily.slots_between(day(0), day(3), 0), Between { slots: vec![], more: true });
    assert_eq!(daily.slots_between(day(3), day(0), 5), Between { slots: vec![], more: false });
    assert_eq!(daily.slots_between(day(3), Millis(day(4).0 - 1), 5), Between { slots: vec![], more: false });
}

#[test]
fn an_interval_that_only_asks_for_gaps_ends_instead_of_searching() {
    // The second Sunday of March has no hour 2 in New York, for as long as the law stays.
    let zone = Zone::named("America/New_York").expect("a bundled zone");
    let never = Schedule::new("* 2 8-14 3 */7".parse().expect("it can be read"), zone.clone(), NEW_YEAR);
    assert!(never.expression().is_interval());
    assert_eq!(never.next_after(NEW_YEAR), None);
    // Named times of the same gap fire at its end.
    let named = Schedule::new("30 2 8-14 3 */7".parse().expect("it can be read"), zone, NEW_YEAR);
    let slot = named.next_after(NEW_YEAR).expect("once a year");
    assert_eq!(named.zone().show(slot), "2026-03-08T03:00:00-04:00");
}

#[test]
fn what_never_fires_is_refused_when_it_is_read() {
    for text in
        ["0 0 31 2 *", "0 0 30,31 FEB ?", "0 0 31 4,6,9,11 *", "0 0 L-30 2 *", "0 0 30W 2 *", "0 0 31 2 */3"]
    {
        match Expression::parse(text) {
            Err(Error::NeverFires(place)) => assert_eq!((place.at, place.column), (4, 5), "{text}"),
            other => panic!("{text}: {other:?}"),
        }
    }
    let error = Expression::parse("0 0 31 2 *").expect_err("there is no such day");
    assert_eq!(
        error.to_string(),
        "cron expression, column 5 (day of month): it never fires: no month of `2` has the days `31`; \
         write days that these months have, or L for the last day"
    );
    // The other day field is enough.
    check("0 0 31 2 MON", &["2026-02-02", "2026-02-09"]);
    check("0 0 29W 2 *", &["2028-02-29", "2032-02-27"]);
}
