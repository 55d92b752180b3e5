//! When a schedule fires: its texts read, its slots worked out. The leader's knowledge; apply has none of it.
//!
//! A schedule's anchor is where its slots begin: nothing lies at or before it. For `@every` that is a period before the
//! start, so that the start is the first slot; without a start it is when the schedule was made or its times changed.
//!
//! # Not here
//! - What expressions mean: `z4-cron`. What becomes of a slot: `z4-tasks`.

use z4_cron::{Expression, Zone};
use z4_tasks::{Invalid, Schedule};
use z4_types::{Duration, Millis};

use crate::error::Error;

/// Slots between which a jitter must fit, looked at when a schedule is set.
const JITTER_SLOTS: usize = 10;

/// A schedule whose slots can be asked for.
#[derive(Debug, Clone)]
pub(crate) struct Times {
    slots: z4_cron::Schedule,
    end: Option<Millis>,
}

impl Times {
    /// Reads expression and zone.
    ///
    /// # Errors
    /// If this version cannot read one of them.
    pub(crate) fn read(
        cron: &str,
        zone: &str,
        anchor: Millis,
        end: Option<Millis>,
    ) -> Result<Self, z4_cron::Error> {
        let slots = z4_cron::Schedule::new(Expression::parse(cron)?, Zone::named(zone)?, anchor);
        Ok(Self { slots, end })
    }

    /// Returns the first slot after `after`; None: there is none.
    pub(crate) fn next(&self, after: Millis) -> Option<Millis> {
        self.slots.next_after(after).filter(|slot| self.end.is_none_or(|end| *slot <= end))
    }

    /// Returns up to `count` slots after `after`.
    pub(crate) fn list(&self, after: Millis, count: usize) -> Vec<Millis> {
        std::iter::successors(self.next(after), |last| self.next(*last)).take(count).collect()
    }

    /// Returns how many slots there are from `slot`, which is one, up to `until`, and the last of them. Looks at no more than
    /// `most` of them one by one; those of `@every` are counted at once.
    pub(crate) fn count(&self, slot: Millis, until: Millis, most: u64) -> (u64, Millis) {
        if let Some(period) = self.slots.expression().period() {
            let until = self.end.map_or(until, |end| end.min(until));
            let more = until.since(slot).0 / period.0;
            return (more + 1, Millis(slot.0 + more * period.0));
        }
        let (mut count, mut last) = (1, slot);
        while count < most
            && let Some(next) = self.next(last).filter(|next| *next <= until)
        {
            (count, last) = (count + 1, next);
        }
        (count, last)
    }
}

/// Returns the delay of a slot's task. Drawn from what names the schedule and the slot: every leader draws the same.
pub(crate) fn delay(queue: &str, name: &str, slot: Millis, jitter: Duration) -> Duration {
    if jitter.0 == 0 {
        return jitter;
    }
    z4_cron::jitter(&format!("{queue}\0{name}"), slot, jitter)
}

/// Sets where the slots of a new schedule begin, or of one whose times have changed, and reads it.
///
/// # Errors
/// If the expression, the zone, or the jitter cannot be.
pub(crate) fn anchored(
    schedule: &mut Schedule,
    before: Option<&Schedule>,
    now: Millis,
) -> Result<Times, Error> {
    let expression = Expression::parse(&schedule.cron)?;
    let same = before.filter(|before| before.cron == schedule.cron && before.start == schedule.start);
    schedule.anchor = match (same, schedule.start) {
        (Some(before), _) => before.anchor,
        (None, Some(start)) => start - expression.period().unwrap_or(Duration(1)),
        (None, None) => now,
    };
    let times = Times::read(&schedule.cron, &schedule.zone, schedule.anchor, schedule.end)?;
    check_jitter(&times, schedule.jitter, now)?;
    Ok(times)
}

/// A delay as long as the time between two slots would let tasks overtake each other.
fn check_jitter(times: &Times, jitter: Duration, now: Millis) -> Result<(), Error> {
    if jitter.0 == 0 {
        return Ok(());
    }
    let slots = times.list(now, JITTER_SLOTS);
    let shortest = slots.windows(2).map(|pair| pair[1].since(pair[0])).min();
    match shortest.filter(|shortest| jitter >= *shortest) {
        None => Ok(()),
        Some(shortest) => {
            let problem = format!("of {jitter} is not below the {shortest} between two slots; shorten it");
            Err(Error::Invalid(Invalid { field: "jitter", problem }))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use z4_tasks::SchedulePatch;

    fn schedule(cron: &str, start: Option<Millis>) -> Schedule {
        let patch = SchedulePatch { cron: Some(cron.into()), start: Some(start), ..SchedulePatch::default() };
        patch.applied_to(None)
    }

    const MINUTE: u64 = 60_000;

    #[test]
    fn slots_begin_at_the_start_or_after_now_and_end_with_the_end() {
        let now = Millis(90_000);
        let slots = |cron: &str, start, end| {
            let mut schedule = Schedule { end, ..schedule(cron, start) };
            let times = anchored(&mut schedule, None, now).expect("fine");
            times.list(now, 3).into_iter().map(|slot| slot.0 / 1_000).collect::<Vec<_>>()
        };
        assert_eq!(slots("@every 1m", None, None), [150, 210, 270]);
        assert_eq!(slots("@every 1m", Some(Millis(100_000)), None), [100, 160, 220]);
        assert_eq!(slots("@every 1h", Some(Millis(3_610_000)), None), [3_610, 7_210, 10_810]);
        assert_eq!(slots("* * * * *", Some(Millis(180_000)), None), [180, 240, 300]);
        assert_eq!(slots("* * * * *", None, Some(Millis(180_000))), [120, 180]);
        assert!(slots("* * * * *", None, Some(Millis(100_000))).is_empty());
    }

    #[test]
    fn a_change_that_is_not_of_times_leaves_them() {
        let (mut first, later) = (schedule("@every 1m", None), Millis(100_000));
        anchored(&mut first, None, Millis(1)).expect("fine");
        let mut second = Schedule { jitter: Duration(5), anchor: Millis(0), ..first.clone() };
        anchored(&mut second, Some(&first), later).expect("fine");
        assert_eq!(second.anchor, first.anchor);
        second.cron = "@every 2m".into();
        anchored(&mut second, Some(&first), later).expect("fine");
        assert_eq!(second.anchor, later);
    }

    #[test]
    fn slots_are_counted_up_to_a_time_and_a_number() {
        let every = Times::read("@every 1m", "UTC", Millis(0), None).expect("fine");
        assert_eq!(
            every.count(Millis(MINUTE), Millis(1_000 * MINUTE + 1), 5),
            (1_000, Millis(1_000 * MINUTE))
        );
        assert_eq!(every.count(Millis(MINUTE), Millis(MINUTE), 5), (1, Millis(MINUTE)));
        let cron = Times::read("* * * * *", "UTC", Millis(0), None).expect("fine");
        assert_eq!(cron.count(Millis(MINUTE), Millis(3 * MINUTE), 5), (3, Millis(3 * MINUTE)));
        assert_eq!(cron.count(Millis(MINUTE), Millis(300 * MINUTE), 5), (5, Millis(5 * MINUTE)));
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        let refused = |schedule: Schedule| {
            anchored(&mut { schedule }, None, Millis(0)).expect_err("it cannot be").to_string()
        };
        assert!(refused(schedule("0 0 30 2 *", None)).contains("cron expression, column"));
        let nowhere = Schedule { zone: "Europe/Berlim".into(), ..schedule("@daily", None) };
        assert!(refused(nowhere).contains("Europe/Berlin"));
        let shaky = Schedule { jitter: Duration(MINUTE), ..schedule("* * * * *", None) };
        assert!(refused(shaky).contains("jitter"));
    }
}
