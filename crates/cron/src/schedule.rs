//! Slots of a schedule: where the times on the wall meet the instants of the world.
//!
//! A zone is a row of segments, each with one offset. Two walks over them are the two rules of the crate's essay:
//! ```text
//! named times   how far has the clock on the wall ever come? ──> the next time behind it ──> the first instant
//!                                                                  the clock shows that or more
//! intervals     in each segment, from its start: the next time on the wall; if it lies within, it is the slot
//! ```
//! The first rule needs no case for gaps and repeated hours: a gap moves the clock past a time, which fires it; a
//! repeated hour does not bring the clock further than it has been.

use z4_types::{Duration, Millis};

use crate::calendar::Calendar;
use crate::expression::{Expression, Rule};
use crate::zone::{OFFSET_SECONDS_MAX, Zone};

/// Most segments an interval's next slot is looked for in: about 256 years where clocks change twice a year.
pub const SEGMENTS_MAX: u32 = 512;

/// An expression in a zone, from a start on.
///
/// ```
/// use z4_cron::{Expression, Schedule, Zone};
/// use z4_types::Millis;
/// let start = Millis(1_774_656_000_000); // 2026-03-28T00:00:00Z
/// let nightly = Schedule::new("30 2 * * *".parse()?, Zone::named("Europe/Berlin")?, start);
/// let shown: Vec<String> = nightly.after(start).take(3).map(|slot| nightly.zone().show(slot)).collect();
/// // On the 29th there is no 02:30: the clock goes from 02:00 to 03:00.
/// assert_eq!(shown, ["2026-03-28T02:30:00+01:00", "2026-03-29T03:00:00+02:00", "2026-03-30T02:30:00+02:00"]);
/// # Ok::<(), z4_cron::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    expression: Expression,
    zone: Zone,
    start: Millis,
}

/// What [`Schedule::slots_between`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Between {
    /// The first slots of the window. Invariant: strictly growing, at most as many as were asked for.
    pub slots: Vec<Millis>,
    /// Whether the window has more than these.
    pub more: bool,
}

/// The slots of a schedule, one after the other, without end unless the schedule has one.
#[derive(Debug, Clone)]
pub struct Slots<'a> {
    schedule: &'a Schedule,
    last: Millis,
}

impl Schedule {
    /// Returns a schedule whose slots all lie after `start`, the instant it was created or its expression changed;
    /// `@every` counts from there. `@every` has no use for the zone.
    #[must_use]
    pub fn new(expression: Expression, zone: Zone, start: Millis) -> Self {
        Self { expression, zone, start }
    }

    /// Returns the expression.
    #[must_use]
    pub fn expression(&self) -> &Expression {
        &self.expression
    }

    /// Returns the zone.
    #[must_use]
    pub fn zone(&self) -> &Zone {
        &self.zone
    }

    /// Returns the instant after which slots lie.
    #[must_use]
    pub fn start(&self) -> Millis {
        self.start
    }

    /// Returns the first slot after `instant`, never `instant` itself and never at or before the start.
    ///
    /// None if there is no further slot before the year 10000, or none within [`SEGMENTS_MAX`] changes of the clock:
    /// an interval that asks only for times that a gap always takes has no slots in its zone.
    #[must_use]
    pub fn next_after(&self, instant: Millis) -> Option<Millis> {
        let after = instant.max(self.start);
        if after >= Millis::MAX_NAMEABLE {
            return None;
        }
        let slot = match &self.expression.rule {
            Rule::Every(period) => next_period(self.start, *period, after)?,
            Rule::Calendar(calendar) => {
                // Slots are whole seconds: the first candidate is the next one after `after`.
                let from = i64::try_from(after.0 / 1_000).expect("before the year 10000") + 1;
                let second = match calendar.interval {
                    true => next_shown(calendar, &self.zone, from)?,
                    false => next_reached(calendar, &self.zone, from)?,
                };
                Millis(u64::try_from(second).ok()?.checked_mul(1_000)?)
            }
        };
        debug_assert!(slot > after, "{slot} is not after {after}");
        (slot <= Millis::MAX_NAMEABLE).then_some(slot)
    }

    /// Returns the slots after `instant`, one by one; each costs what [`Schedule::next_after`] costs.
    #[must_use]
    pub fn after(&self, instant: Millis) -> Slots<'_> {
        Slots { schedule: self, last: instant }
    }

    /// Returns the slots after `after` up to `until`, `until` included, the earliest `limit` of them: what was missed
    /// between the last slot that fired and now.
    #[must_use]
    pub fn slots_between(&self, after: Millis, until: Millis, limit: usize) -> Between {
        let mut window = self.after(after).take_while(|slot| *slot <= until);
        let slots = window.by_ref().take(limit).collect();
        Between { slots, more: window.next().is_some() }
    }
}

impl Iterator for Slots<'_> {
    type Item = Millis;
    fn next(&mut self) -> Option<Millis> {
        let slot = self.schedule.next_after(self.last)?;
        self.last = slot;
        Some(slot)
    }
}

/// Returns the first whole number of periods after `start`, at least one, that lies after `after`.
fn next_period(start: Millis, period: Duration, after: Millis) -> Option<Millis> {
    let periods = after.since(start).0 / period.0 + 1;
    start.0.checked_add(periods.checked_mul(period.0)?).map(Millis)
}

/// Named times: returns the first second at or after `from` at which the clock first reaches a time.
fn next_reached(calendar: &Calendar, zone: &Zone, from: i64) -> Option<i64> {
    let time = calendar.at_or_after(furthest_before(zone, from) + 1)?;
    Some(first_reaching(zone, time))
}

/// Returns the latest local time the clock has shown at any second before `from`.
fn furthest_before(zone: &Zone, from: i64) -> i64 {
    // What it showed two offsets ago or longer it has passed since, whatever its changes.
    let mut second = from - 2 * OFFSET_SECONDS_MAX;
    let mut furthest = i64::MIN;
    while second < from {
        let segment = zone.segment(second);
        let end = segment.until.unwrap_or(from).min(from);
        furthest = furthest.max(end - 1 + segment.offset);
        second = end;
    }
    furthest
}

/// Returns the first second at which the clock shows `time` or more.
fn first_reaching(zone: &Zone, time: i64) -> i64 {
    let mut second = time - OFFSET_SECONDS_MAX;
    // Ends: each turn passes a change of the clock, and none reaches beyond `time` plus the largest offset.
    loop {
        let segment = zone.segment(second);
        let shown_at = (time - segment.offset).max(second);
        match segment.until {
            Some(until) if shown_at >= until => second = until,
            _ => return shown_at,
        }
    }
}

/// Intervals: returns the first second at or after `from` at which the clock shows a time that is asked for.
fn next_shown(calendar: &Calendar, zone: &Zone, from: i64) -> Option<i64> {
    let mut second = from;
    // A time found once stays the next one until the clock has passed it or gone back behind where the search began.
    let (mut searched_from, mut time) = (i64::MAX, i64::MIN);
    for _ in 0..SEGMENTS_MAX {
        let segment = zone.segment(second);
        let begin = second + segment.offset;
        if begin < searched_from || begin > time {
            (searched_from, time) = (begin, calendar.at_or_after(begin)?);
        }
        match segment.until {
            Some(until) if time - segment.offset >= until => second = until,
            _ => return Some(time - segment.offset),
        }
    }
    None
}
