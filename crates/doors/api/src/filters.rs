//! Filters of tasks: read from a request, tried on what a list has found, and told to the list as far as it can use them.
//!
//! # Invariants
//! - What a filter keeps a list from looking at, it would not have passed: `Filter::bounds`.
//! # Caveats
//! - A list looks at open tasks by due time and at ended ones by their end, never at both: ended ones only if the filter
//!   passes no others.
//! - `consumer` is that of a lease that is out; a task that was given back has none.

use z4_filter::{Fields, Filter, Phase as Standing};
use z4_host::Test;
use z4_proto::reason;
use z4_proto::status::Failure;
use z4_tasks::{End, ListFilter, Phase, TaskInfo, TaskState};
use z4_types::{Millis, Priority, TaskId};

/// Standings of tasks that have not ended, as a list has them.
const OPEN: [(Standing, Phase); 4] = [
    (Standing::Waiting, Phase::Waiting),
    (Standing::Blocked, Phase::Blocked),
    (Standing::Leased, Phase::Leased),
    (Standing::Dead, Phase::Dead),
];
/// Of those that have.
const ENDED: [(Standing, End); 3] =
    [(Standing::Done, End::Done), (Standing::Cancelled, End::Cancelled), (Standing::Expired, End::Expired)];

/// What is to be listed.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) filter: ListFilter,
    /// None: all that the list finds.
    pub(crate) test: Option<Test>,
}

/// Checks a filter, whatever the time is.
///
/// # Errors
/// `Invalid`, with the place.
pub(crate) fn check(text: &str) -> Result<(), Failure> {
    parse(text, Millis(0)).map(drop)
}

/// Returns what to list of a queue at `now`: what passes `text` and lies within `filter`. None: nothing can.
///
/// # Errors
/// `Invalid`, with the place.
pub(crate) fn wanted(text: &str, mut filter: ListFilter, now: Millis) -> Result<Option<Wanted>, Failure> {
    let test = parse(text, now)?;
    if test.is_empty() {
        return Ok(Some(Wanted { filter, test: None }));
    }
    let bounds = test.bounds();
    let asked = |phase: Phase| filter.state.is_none_or(|state| state == phase);
    let open: Vec<(Standing, Phase)> = OPEN
        .into_iter()
        .filter(|(standing, phase)| asked(*phase) && bounds.window(*standing).is_some())
        .collect();
    if open.is_empty() {
        let asked = |end: End| match filter.state {
            None | Some(Phase::Finished(None)) => true,
            Some(state) => state == Phase::Finished(Some(end)),
        };
        let ended: Vec<End> = ENDED
            .into_iter()
            .filter(|(standing, end)| asked(*end) && bounds.window(*standing).is_some())
            .map(|(_, end)| end)
            .collect();
        filter.state = match ended[..] {
            [] => return Ok(None),
            [end] => Some(Phase::Finished(Some(end))),
            _ => Some(Phase::Finished(None)),
        };
    } else {
        if let [(_, phase)] = open[..] {
            filter.state = Some(phase);
        }
        // The window around those of all phases that are listed.
        let windows = || open.iter().filter_map(|(standing, _)| bounds.window(*standing));
        let from = windows().map(|window| window.from).min().unwrap_or_default();
        let until = windows().map(|window| window.until).max().unwrap_or_default();
        filter.from = Some(filter.from.map_or(from, |asked| asked.max(from)));
        // A list ends before its bound, a window at its last moment.
        let to = Millis(until.0.saturating_add(1));
        filter.to = Some(filter.to.map_or(to, |asked| asked.min(to)));
    }
    Ok(Some(Wanted { filter, test: Some(Test::new(move |task| test.matches(&Seen(task)))) }))
}

fn parse(text: &str, now: Millis) -> Result<Filter, Failure> {
    Filter::parse(text, now).map_err(|error| Failure::invalid("filter", reason::FILTER_INVALID, error))
}

/// A task as a filter sees it.
struct Seen<'a>(&'a TaskInfo);

impl Fields for Seen<'_> {
    fn id(&self) -> TaskId {
        self.0.id
    }

    fn phase(&self) -> Standing {
        match self.0.state {
            TaskState::Waiting { .. } => Standing::Waiting,
            TaskState::Blocked { .. } => Standing::Blocked,
            TaskState::Leased { .. } => Standing::Leased,
            TaskState::Dead { .. } => Standing::Dead,
            TaskState::Finished { end: End::Done, .. } => Standing::Done,
            TaskState::Finished { end: End::Cancelled, .. } => Standing::Cancelled,
            TaskState::Finished { end: End::Expired, .. } => Standing::Expired,
        }
    }

    fn priority(&self) -> Priority {
        self.0.priority
    }

    fn deliver_at(&self) -> Millis {
        self.0.deliver_at
    }

    fn deliveries(&self) -> u32 {
        self.0.deliveries
    }

    fn failures(&self) -> u32 {
        self.0.failures
    }

    fn key(&self) -> &str {
        self.0.key.as_deref().unwrap_or_default()
    }

    fn group(&self) -> &str {
        self.0.group.as_deref().unwrap_or_default()
    }

    fn consumer(&self) -> &str {
        match &self.0.state {
            TaskState::Leased { consumer, .. } => consumer,
            _ => "",
        }
    }

    fn last_error(&self) -> &str {
        self.0.last_error.as_deref().unwrap_or_default()
    }

    fn metadata(&self, name: &str) -> Option<&str> {
        let at = self.0.metadata.binary_search_by(|(key, _)| key.as_str().cmp(name)).ok()?;
        Some(&self.0.metadata[at].1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_bounds_the_list_as_far_as_that_can_be() {
        let check = |text: &str, state: Option<Phase>, from: Option<u64>, to: Option<u64>| {
            let wanted = wanted(text, ListFilter::default(), Millis(100)).expect("reads").expect("something");
            let (from, to) = (from.map(Millis), to.map(Millis));
            assert_eq!(wanted.filter, ListFilter { state, from, to }, "{text}");
            assert_eq!(wanted.test.is_none(), text.is_empty());
        };
        check("", None, None, None);
        check("state = dead", Some(Phase::Dead), Some(0), Some(u64::MAX));
        check("state = due", Some(Phase::Waiting), Some(0), Some(101));
        check("state = scheduled", Some(Phase::Waiting), Some(101), Some(u64::MAX));
        check("state = dead OR state = leased", None, Some(0), Some(u64::MAX));
        check("metadata.a = b", None, Some(0), Some(u64::MAX));
        check("state = done", Some(Phase::Finished(Some(End::Done))), None, None);
        check("state = done OR state = expired", Some(Phase::Finished(None)), None, None);
        let dead = ListFilter { state: Some(Phase::Dead), ..ListFilter::default() };
        assert!(wanted("state = done", dead, Millis(0)).expect("reads").is_none());
        let failure = wanted("state = ded", dead, Millis(0)).expect_err("no such state");
        assert_eq!((failure.field.as_deref(), &*failure.reason), (Some("filter"), "FILTER_INVALID"));
        assert!(failure.message.contains("column 9") && failure.message.contains('^'), "{}", failure.message);
    }
}
