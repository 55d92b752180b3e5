//! Events told the way a reader meets them: from page to page, and never against the life of a task.
//!
//! A reader keeps a place in each queue and works out from events alone where each task stands. After every step that is
//! what the model says; a reader that was too late, or whose stream was closed, is told so and begins anew.

use std::collections::BTreeMap;

use proptest::prelude::TestCaseError;
use z4_types::{QueueName, TaskId};

use super::super::strict::StrictStore;
use super::steps::queue;
use super::{Model, State, Task};
use crate::{End, Event, EventFilter, EventKind, Events, Position, Start, events};

macro_rules! ensure {
    ($holds:expr, $($text:tt)*) => {
        if !$holds {
            return Err(TestCaseError::fail(format!($($text)*)));
        }
    };
}

/// Where a task stands, by its events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stand {
    Waiting,
    Leased { token: u64 },
    Dead,
    Ended(End),
}

impl Stand {
    fn of(task: &Task) -> Self {
        match task.state {
            State::Waiting | State::Blocked => Self::Waiting,
            State::Leased { token, .. } => Self::Leased { token },
            State::Dead => Self::Dead,
            State::Finished { end, .. } => Self::Ended(end),
        }
    }
}

#[derive(Debug, Default)]
struct Reader {
    /// None: events were off, or there was no such queue.
    place: Option<Position>,
    tasks: BTreeMap<TaskId, (Stand, u32, u32)>,
}

#[derive(Default)]
pub(super) struct Readers {
    by_queue: BTreeMap<QueueName, Reader>,
    /// The largest sequence seen of a queue that lives.
    seen: BTreeMap<QueueName, u64>,
}

impl Model {
    /// A queue whose settings keep events has a stream, for whose number a token is drawn.
    pub(super) fn open_streams(&mut self) {
        for name in self.queues.keys().cloned().collect::<Vec<_>>() {
            let on = self.effective(&name).events > 0;
            let queue = self.queues.get_mut(&name).expect("listed above");
            self.token += u64::from(on && !queue.stream);
            queue.stream = on;
        }
    }
}

impl Readers {
    /// Reads what is new, and compares.
    pub(super) fn follow(&mut self, model: &Model, store: &StrictStore) -> Result<(), TestCaseError> {
        for number in 0..3 {
            let name = queue(number);
            self.seen.retain(|queue, _| model.queues.contains_key(queue));
            self.one(model, store, &name)?;
        }
        Ok(())
    }

    fn one(&mut self, model: &Model, store: &StrictStore, name: &QueueName) -> Result<(), TestCaseError> {
        let all = EventFilter::default();
        let read = |start, limit| events(store, name, start, &all, limit).expect("reads");
        let kept = model.effective(name).events;
        if !model.queues.contains_key(name) || kept == 0 {
            let expected = if model.queues.contains_key(name) { Events::Off } else { Events::NoQueue };
            let found = read(Start::Earliest, 1);
            ensure!(found == expected, "{name}: {found:?}, not {expected:?}");
            self.by_queue.remove(name);
            return Ok(());
        }
        let Events::Page(earliest) = read(Start::Earliest, 5_000) else {
            return Err(TestCaseError::fail(format!("{name} has no events")));
        };
        ensure!(earliest.events.len() as u64 <= kept, "{} events, {kept} are kept", earliest.events.len());
        let seen = self.seen.entry(name.clone()).or_insert(0);
        let end = earliest.next.sequence();
        ensure!(end >= *seen, "{name}: the next event is {end}, it was {seen}");
        *seen = end;
        let reader = self.by_queue.entry(name.clone()).or_default();
        let tasks: Vec<&Task> = model.tasks.iter().filter(|task| task.queue == *name).collect();
        let mut start = reader.place.map(Start::At);
        while let Some(from) = start {
            // Small pages: a step may need several.
            match read(from, 3) {
                Events::Page(page) => {
                    let first = reader.place.expect("it was somewhere").sequence();
                    for (sequence, event) in (first..).zip(&page.events) {
                        ensure!(event.sequence == sequence, "{name}: event {} at {sequence}", event.sequence);
                        ensure!(event.at.0 <= model.now, "{name}: {event:?} is of the future");
                        reader.step(event)?;
                    }
                    reader.place = Some(page.next);
                    start = page.more.then_some(Start::At(page.next));
                }
                Events::Compacted { oldest } => {
                    let first = earliest.events.first().map_or(end, |event| event.sequence);
                    ensure!(oldest.sequence() == first, "{name}: oldest {oldest:?}, the first is {first}");
                    reader.place = None;
                    start = None;
                }
                other => return Err(TestCaseError::fail(format!("{name}: {other:?}"))),
            }
        }
        if reader.place.is_none() {
            // It has missed something: what the tasks are now is all it can know.
            reader.place = Some(earliest.next);
            let known = tasks.iter().map(|task| (task.id, (Stand::of(task), task.deliveries, task.failures)));
            reader.tasks = known.collect();
        }
        for task in &tasks {
            let known = reader.tasks.get(&task.id);
            let expected = (Stand::of(task), task.deliveries, task.failures);
            ensure!(
                known == Some(&expected),
                "{name}: task {} is {expected:?}, by events {known:?}",
                task.id
            );
        }
        let open = reader.tasks.iter().filter(|(_, known)| !matches!(known.0, Stand::Ended(_)));
        let listed = tasks.iter().filter(|task| !matches!(task.state, State::Finished { .. }));
        ensure!(open.count() == listed.count(), "{name}: tasks that are open by events and not there");
        Ok(())
    }
}

impl Reader {
    /// Takes one event; one that cannot follow is an error.
    fn step(&mut self, event: &Event) -> Result<(), TestCaseError> {
        let before = self.tasks.get(&event.task).copied();
        let leased = |token: u64| before.is_some_and(|(stand, ..)| stand == Stand::Leased { token });
        let held = event.token.is_some_and(|token| leased(token.0));
        let (stand, mut deliveries, mut failures) = before.unwrap_or((Stand::Waiting, 0, 0));
        let fits = match event.kind {
            EventKind::Created => before.is_none(),
            EventKind::Leased | EventKind::Updated => before.is_some() && stand == Stand::Waiting,
            EventKind::Acked | EventKind::Failed | EventKind::Released => held,
            // Out of attempts.
            EventKind::Dead => held,
            EventKind::Redriven => stand == Stand::Dead,
            EventKind::Cancelled | EventKind::Expired => match stand {
                Stand::Ended(_) => false,
                Stand::Leased { .. } => held,
                Stand::Waiting | Stand::Dead => before.is_some() && event.token.is_none(),
            },
        };
        ensure!(fits, "{event:?} of a task that was {before:?}");
        let stand = match event.kind {
            EventKind::Leased => Stand::Leased { token: event.token.expect("a lease has one").0 },
            EventKind::Acked => Stand::Ended(End::Done),
            EventKind::Cancelled => Stand::Ended(End::Cancelled),
            EventKind::Expired => Stand::Ended(End::Expired),
            EventKind::Dead => Stand::Dead,
            EventKind::Created
            | EventKind::Updated
            | EventKind::Failed
            | EventKind::Released
            | EventKind::Redriven => Stand::Waiting,
        };
        match event.kind {
            EventKind::Leased => deliveries += 1,
            EventKind::Failed | EventKind::Dead => failures += 1,
            EventKind::Redriven => failures = 0,
            _ => {}
        }
        ensure!(event.deliveries.is_none_or(|told| told == deliveries), "{event:?}: delivery {deliveries}");
        ensure!(event.failures.is_none_or(|told| told == failures), "{event:?}: failure {failures}");
        self.tasks.insert(event.task, (stand, deliveries, failures));
        Ok(())
    }
}
