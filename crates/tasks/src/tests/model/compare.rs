//! Compares what the rows say with the model's tasks.

use proptest::prelude::*;
use z4_types::{Duration, Millis, QueueName, TaskId};

use super::steps::queue;
use super::{Model, SHARD, State, Task};
use crate::command::Command;
use crate::tests::strict::StrictStore;
use crate::{EntryBuilder, ListFilter, Machine, Phase, TaskState, by_key, get, list};

fn compare_finished(
    mut tasks: Vec<&Task>,
    store: &StrictStore,
    queue: &QueueName,
) -> Result<(), TestCaseError> {
    let ended = |task: &Task| match task.state {
        State::Finished { end, at } => (at, task.id, end),
        _ => unreachable!("finished"),
    };
    tasks.sort_by_key(|task| (ended(task).0, task.id));
    let filter = ListFilter { state: Some(Phase::Finished(None)), ..ListFilter::default() };
    let page = list(store, queue, filter, None, 1_000).expect("reads");
    let listed = page.tasks.iter().map(|info| match info.state {
        TaskState::Finished { end, at } => (at.0, info.id, end),
        _ => unreachable!("asked for finished ones"),
    });
    prop_assert_eq!(listed.collect::<Vec<_>>(), tasks.into_iter().map(ended).collect::<Vec<_>>());
    Ok(())
}

fn compare_due(
    model: &Model,
    machine: &Machine,
    store: &StrictStore,
    queue: &QueueName,
) -> Result<(), TestCaseError> {
    let counts = machine.due(store, queue, Millis(model.now)).expect("reads");
    prop_assert_eq!(counts.is_some(), model.queues.contains_key(queue));
    let Some(counts) = counts else { return Ok(()) };
    let waiting = model.tasks.iter().filter(|task| task.queue == *queue && task.state == State::Waiting);
    let due: Vec<u64> = waiting.map(|task| task.deliver_at).collect();
    let up_to = |at: u64| due.iter().filter(|due| **due <= at).count() as u64;
    prop_assert_eq!(counts.due, up_to(model.now));
    prop_assert_eq!(
        counts.oldest_due.map(|at| at.0),
        due.iter().copied().filter(|at| *at <= model.now).min()
    );
    for (minutes, count) in [(1, counts.in_1_minute), (5, counts.in_5_minutes), (60, counts.in_60_minutes)] {
        let end_of_step = (model.now + minutes * 60_000) / 10_000 * 10_000 + 9_999;
        prop_assert_eq!(count, up_to(end_of_step) - counts.due);
    }
    Ok(())
}

/// A Lease at the time that was said does something, and before it nothing.
fn serves_when_it_says(
    store: &StrictStore,
    queue: &QueueName,
    now: u64,
    next_due: Option<Millis>,
) -> Result<(), TestCaseError> {
    let acts = |at: u64| {
        let mut store = store.clone();
        let mut machine = Machine::open(SHARD, &store).expect("opens");
        let before = machine.stats(queue);
        let (queue, max_bytes) = (queue.clone(), u64::MAX);
        let lease = Command::Lease {
            queue: queue.clone(),
            consumer: "c".into(),
            max: 1,
            max_bytes,
            ttl: Duration(0),
        };
        let mut entry = EntryBuilder::new(Millis(at));
        entry.push(&lease);
        machine.apply(&mut store, &entry.finish()).expect("applies");
        let after = machine.stats(&queue);
        after.map(|stats| (stats.deliveries, stats.expired))
            != before.map(|stats| (stats.deliveries, stats.expired))
    };
    match next_due.map(|at| at.0.max(now)) {
        Some(at) => {
            prop_assert!(acts(at), "{} was said to be served at {at}", queue);
            prop_assert!(at == now || !acts(at - 1), "{} is served before {at}", queue);
        }
        None => {
            prop_assert!(!acts(now) && !acts(now + 100_000_000), "{} is served, and it was not said", queue)
        }
    }
    Ok(())
}

/// Compares what the machine's rows say with the model's tasks.
pub(super) fn compare(model: &Model, machine: &Machine, store: &StrictStore) -> Result<(), TestCaseError> {
    for number in 0..2 {
        let queue = queue(number);
        let mut tasks: Vec<&Task> = model.tasks.iter().filter(|task| task.queue == queue).collect();
        tasks.sort_by_key(|task| (task.deliver_at, task.id));
        let (finished, tasks): (Vec<&Task>, Vec<&Task>) =
            tasks.into_iter().partition(|task| matches!(task.state, State::Finished { .. }));
        compare_finished(finished, store, &queue)?;
        compare_due(model, machine, store, &queue)?;
        let paused = model.queues.get(&queue).is_some_and(|queue| queue.paused);
        let full = model.effective(&queue).concurrency;
        let full = full.is_some_and(|most| model.leased(&queue, None) >= most.into());
        let waiting = tasks.iter().filter(|task| task.state == State::Waiting);
        let earliest = waiting.map(|task| Millis(task.deliver_at)).min().filter(|_| !paused && !full);
        let next_due = machine.next_due(store, &queue).expect("reads");
        if model.knows(&queue) {
            prop_assert_eq!(next_due, earliest);
        }
        serves_when_it_says(store, &queue, model.now, next_due)?;

        let page = list(store, &queue, ListFilter::default(), None, 1_000).expect("reads");
        let listed: Vec<TaskId> = page.tasks.iter().map(|info| info.id).collect();
        prop_assert_eq!(listed, tasks.iter().map(|task| task.id).collect::<Vec<_>>());
        for (info, task) in page.tasks.iter().zip(&tasks) {
            let state = match info.state {
                TaskState::Waiting { .. } => State::Waiting,
                TaskState::Leased { until, token, .. } => State::Leased { until: until.0, token: token.0 },
                TaskState::Blocked { blockers } => {
                    prop_assert_eq!(blockers, model.waits.count(task.id));
                    State::Blocked
                }
                TaskState::Dead { .. } => State::Dead,
                TaskState::Finished { end, at } => State::Finished { end, at: at.0 },
            };
            prop_assert_eq!(state, task.state);
            prop_assert_eq!(info.deliver_at, Millis(task.deliver_at));
            prop_assert_eq!(u64::from(info.revision), task.revision);
            prop_assert_eq!((&info.payload, &info.metadata), (&task.new.payload, &task.new.metadata));
            prop_assert_eq!(&info.group, &task.new.group);
            prop_assert_eq!((info.priority, info.max_attempts), (task.priority, task.max_attempts));
            prop_assert_eq!((info.deliveries, info.failures), (task.deliveries, task.failures));
            prop_assert_eq!(info.expires_at, (task.ttl_at != u64::MAX).then_some(Millis(task.ttl_at)));
            prop_assert_eq!(info.key.as_ref(), task.new.key.as_ref().map(|key| &key.name));
            let got = get(store, task.id).expect("reads");
            prop_assert_eq!(got.as_ref(), Some(info));
        }
        for key in ["a", "b", "c"] {
            let open = model.holder(&queue, key).filter(|holder| holder.1.is_none());
            if let Some((id, _)) = open {
                let info = by_key(store, &queue, key).expect("reads");
                prop_assert_eq!(info.map(|info| info.id), Some(id));
            }
        }
        let dead = ListFilter { state: Some(Phase::Dead), from: Some(Millis(100)), to: Some(Millis(900)) };
        let page = list(store, &queue, dead, None, 1_000).expect("reads");
        let expected =
            tasks.iter().filter(|task| task.state == State::Dead && (100..900).contains(&task.deliver_at));
        prop_assert_eq!(page.tasks.len(), expected.count());
    }
    Ok(())
}
