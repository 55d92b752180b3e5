//! Any expression, any instant: slots grow, stand in their fields, and are those of a walk over every second.
//!
//! The walk knows nothing of the search: it asks the zone's clock what it shows, one step of elapsed time after the
//! other, and fires by the words of the crate's essay.

use std::collections::BTreeSet;

use proptest::prelude::*;
use z4_cron::{Expression, Schedule, Zone};
use z4_types::Millis;

/// Zones and an hour near which their clocks change, seconds since 1970.
const CHANGES: &[(&str, u64)] = &[
    ("UTC", 1_774_746_000),
    ("Europe/Berlin", 1_774_746_000),
    ("Europe/Berlin", 1_792_890_000),
    ("America/New_York", 1_772_953_200),
    ("America/New_York", 1_793_512_800),
    ("Australia/Lord_Howe", 1_790_955_000),
    ("Australia/Lord_Howe", 1_806_764_400),
    ("America/Sao_Paulo", 1_541_300_400),
    ("America/Sao_Paulo", 1_550_368_800),
    ("Africa/Casablanca", 1_771_120_800),
    ("Africa/Casablanca", 1_774_144_800),
    ("Pacific/Apia", 1_325_239_200),
    ("Antarctica/Troll", 1_774_746_000),
    ("Africa/Monrovia", 63_593_070),
];

/// A field as text, as the set it means, and whether it is a star or an open step.
#[derive(Debug, Clone)]
struct Sample {
    text: String,
    set: BTreeSet<u32>,
    star: bool,
    open: bool,
}

fn field(min: u32, max: u32) -> impl Strategy<Value = Sample> {
    let star = Just(Sample { text: "*".to_owned(), set: (min..=max).collect(), star: true, open: true });
    let step = (1..=max - min).prop_map(move |step| Sample {
        text: format!("*/{step}"),
        set: (min..=max).step_by(step as usize).collect(),
        star: true,
        open: true,
    });
    let open = (min..max).prop_flat_map(move |first| {
        (1..=max - first).prop_map(move |step| Sample {
            text: format!("{first}/{step}"),
            set: (first..=max).step_by(step as usize).collect(),
            star: false,
            open: true,
        })
    });
    let range = (min..max).prop_flat_map(move |first| {
        (first + 1..=max).prop_flat_map(move |last| {
            (1..=last - first).prop_map(move |step| Sample {
                text: format!("{first}-{last}/{step}"),
                set: (first..=last).step_by(step as usize).collect(),
                star: false,
                open: false,
            })
        })
    });
    let list = proptest::collection::vec(min..=max, 1..4).prop_map(|values| Sample {
        text: values.iter().map(u32::to_string).collect::<Vec<_>>().join(","),
        set: values.into_iter().collect(),
        star: false,
        open: false,
    });
    prop_oneof![2 => star, 1 => step, 1 => open, 2 => range, 4 => list]
}

/// An expression as its six fields.
#[derive(Debug, Clone)]
struct Fields([Sample; 6]);

impl Fields {
    fn text(&self) -> String {
        self.0.each_ref().map(|field| field.text.as_str()).join(" ")
    }

    fn interval(&self) -> bool {
        self.0[1].open || self.0[2].open
    }

    /// Returns whether the fields hold a local time, seconds since 1970 on the wall.
    fn hold(&self, wall: i64) -> bool {
        // UTC's clock shows the fields of any number of seconds.
        let shown = Zone::utc().show(Millis(u64::try_from(wall).expect("after 1970") * 1_000));
        let number = |at: usize| shown[at..at + 2].parse::<u32>().expect("two digits");
        let weekday = u32::try_from((wall / 86_400 + 4) % 7).expect("0 to 6");
        let holds = |field: usize, value: u32| self.0[field].set.contains(&value);
        let (of_month, of_week) = (holds(3, number(8)), holds(5, weekday));
        let either = !self.0[3].star && !self.0[5].star;
        holds(0, number(17))
            && holds(1, number(14))
            && holds(2, number(11))
            && holds(4, number(5))
            && if either { of_month || of_week } else { of_month && of_week }
    }
}

fn fields(seconds: impl Strategy<Value = Sample>) -> impl Strategy<Value = Fields> {
    // Months and days are often all, or most expressions would have nothing to do near a change.
    let all = |min: u32, max: u32| Sample {
        text: "*".to_owned(),
        set: (min..=max).collect(),
        star: true,
        open: true,
    };
    let days = prop_oneof![Just(all(1, 31)), field(1, 31)];
    let months = prop_oneof![3 => Just(all(1, 12)), 1 => field(1, 12)];
    let weekdays = prop_oneof![Just(all(0, 6)), field(0, 6)];
    (seconds, field(0, 59), field(0, 23), days, months, weekdays)
        .prop_map(|(s, m, h, d, mo, w)| Fields([s, m, h, d, mo, w]))
}

fn zero() -> Sample {
    Sample { text: "0".to_owned(), set: BTreeSet::from([0]), star: false, open: false }
}

/// Returns what the zone's clock shows at `second`, as seconds since 1970 on the wall.
fn wall(zone: &Zone, second: u64) -> i64 {
    let shown = zone.show(Millis(second * 1_000));
    let number = |at: usize| shown[at..at + 2].parse::<i64>().expect("two digits");
    // Monrovia's 44 minutes and 30 seconds are shown without their seconds: the clock's own tell the rest.
    let (offset, second) = (number(20) * 3_600 + number(23) * 60, i64::try_from(second).expect("small"));
    if &shown[19..20] == "-" {
        let rough = second - offset;
        rough - (rough - number(17)).rem_euclid(60)
    } else {
        let rough = second + offset;
        rough + (number(17) - rough).rem_euclid(60)
    }
}

/// Walks from `begin` to `end` in steps, and returns the seconds at which the fields fire.
fn walk(fields: &Fields, zone: &Zone, begin: u64, end: u64, step: u64) -> Vec<Millis> {
    let mut slots = Vec::new();
    let two_days = 2 * 86_400;
    let before = (begin.saturating_sub(two_days)..=begin).step_by(60).chain([begin]);
    let mut furthest = before.map(|second| wall(zone, second)).max().expect("not empty");
    for second in (begin..=end).step_by(usize::try_from(step).expect("small")).skip(1) {
        let shown = wall(zone, second);
        let mut fires = fields.interval() && fields.hold(shown);
        while furthest < shown {
            furthest += i64::try_from(step).expect("small");
            fires |= !fields.interval() && fields.hold(furthest);
        }
        if fires {
            slots.push(Millis(second * 1_000));
        }
    }
    slots
}

fn check(fields: &Fields, change: usize, before: u64, span: u64, step: u64) -> Result<(), TestCaseError> {
    let (name, near) = CHANGES[change];
    let zone = Zone::named(name).expect("a bundled zone");
    let begin = near - before * step;
    let end = begin + span * step;
    let Ok(expression) = Expression::parse(&fields.text()) else { return Ok(()) };
    let start = Millis(begin * 1_000);
    let schedule = Schedule::new(expression, zone.clone(), start);
    let found = schedule.slots_between(start, Millis(end * 1_000), usize::MAX);
    let expected = walk(fields, &zone, begin, end, step);
    let show = |slots: &[Millis]| slots.iter().map(|slot| zone.show(*slot)).collect::<Vec<_>>();
    prop_assert_eq!(show(&found.slots), show(&expected), "{} in {}", fields.text(), name);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn a_walk_over_minutes_agrees(
        fields in fields(Just(zero())), change in 0..CHANGES.len() - 1, before in 0_u64..1_500,
    ) {
        check(&fields, change, before, 3_000, 60)?;
    }

    #[test]
    fn a_walk_over_seconds_agrees(
        fields in fields(field(0, 59)), change in 0..CHANGES.len(), before in 0_u64..5_400,
    ) {
        check(&fields, change, before, 7_200, 1)?;
    }

    #[test]
    fn slots_grow_and_stand_in_their_fields(
        fields in fields(field(0, 59)), change in 0..CHANGES.len(), at in 0_u64..7_258_118_400_000,
    ) {
        let zone = Zone::named(CHANGES[change].0).expect("a bundled zone");
        let Ok(expression) = Expression::parse(&fields.text()) else { return Ok(()) };
        let schedule = Schedule::new(expression, zone.clone(), Millis(0));
        let mut last = Millis(at);
        for slot in schedule.after(last).take(20) {
            prop_assert!(slot > last);
            prop_assert!(slot.0 % 1_000 == 0);
            // Nothing lies between two slots, from wherever one asks.
            let middle = Millis(last.0 + (slot.0 - last.0) / 2);
            prop_assert_eq!(schedule.next_after(middle), Some(slot));
            prop_assert_eq!(schedule.next_after(Millis(slot.0 - 1)), Some(slot));
            let second = slot.0 / 1_000;
            let (shown, before) = (wall(&zone, second), wall(&zone, second - 1));
            let skipped = !fields.interval() && shown > before + 1;
            prop_assert!(fields.hold(shown) || skipped, "{} at {}", fields.text(), zone.show(slot));
            last = slot;
        }
    }

    #[test]
    fn no_text_panics(text in "[ -~äß\\t\\n\u{0}]{0,40}", at in any::<u64>()) {
        ask(&text, at)?;
        let _ = Zone::named(&text);
    }

    #[test]
    fn no_text_of_the_language_panics(
        words in proptest::collection::vec("([0-9*?LW#/,-]|MON|FRI|JAN|1|2|31|29){1,5}", 4..8), at in any::<u64>(),
    ) {
        ask(&words.join(" "), at)?;
    }

    #[test]
    fn no_period_panics(period in "[0-9smhd. ]{0,12}", at in any::<u64>(), start in any::<u64>()) {
        if let Ok(expression) = Expression::parse(&format!("@every {period}")) {
            let schedule = Schedule::new(expression, Zone::utc(), Millis(start));
            prop_assert!(schedule.after(Millis(at)).take(3).all(|slot| slot.0 > at && slot.0 > start));
        }
    }
}

/// Reads a text, and asks what it gives: an error with a place within the text, or slots.
fn ask(text: &str, at: u64) -> Result<(), TestCaseError> {
    match Expression::parse(text) {
        Ok(expression) => {
            prop_assert_eq!(Expression::parse(expression.as_str()), Ok(expression.clone()));
            for name in ["UTC", "Europe/Berlin", "Australia/Lord_Howe"] {
                let zone = Zone::named(name).expect("a bundled zone");
                let schedule = Schedule::new(expression.clone(), zone, Millis(0));
                for at in [at, at % 4_102_444_800_000] {
                    prop_assert!(schedule.after(Millis(at)).take(3).all(|slot| slot.0 > at));
                }
            }
        }
        Err(error) => {
            let place = error.place().expect("errors of expressions have a place");
            prop_assert!(text.is_char_boundary(place.at), "{}", error);
            prop_assert!(place.column >= 1);
            prop_assert!(error.to_string().len() < 600);
        }
    }
    Ok(())
}
