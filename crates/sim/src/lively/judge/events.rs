//! Events: a queue that keeps them tells all that happens to its tasks, and nothing else.

use z4_tasks::{EventFilter, Events, Read, Start};
use z4_types::QueueName;

use super::Judge;
use crate::checks::{Checked, ensure};
use crate::report::Reached;

/// Events read behind an entry: more than one makes.
const PAGE: usize = 100_000;

impl Judge {
    /// Compares the events of a queue since the last entry that touched it with what happened in this one.
    pub(super) fn compare_events(
        &mut self,
        rows: &dyn Read,
        name: &QueueName,
        reached: &mut Reached,
    ) -> Checked {
        let Some(queue) = self.queues.get_mut(name) else { return Ok(()) };
        let read = |start| z4_tasks::events(rows, name, start, &EventFilter::default(), PAGE);
        let at = queue.events.map_or(Start::Now, Start::At);
        let page = match read(at).expect("rows in memory can be read") {
            Events::Page(page) => page,
            // Switched off or on, or fewer are kept than this entry made.
            _ => {
                queue.events = match read(Start::Now).expect("rows in memory can be read") {
                    Events::Page(page) => Some(page.next),
                    _ => None,
                };
                return Ok(());
            }
        };
        let followed = queue.events.replace(page.next).is_some();
        if !followed || queue.recount {
            return Ok(());
        }
        let mut told: Vec<_> = page.events.iter().map(|event| (event.kind, event.task)).collect();
        let mut known = self.happened.get(name).cloned().unwrap_or_default();
        // Of each task in their order.
        told.sort_by_key(|(_, task)| *task);
        known.sort_by_key(|(_, task)| *task);
        ensure!(told == known, "EVENT", "queue {name} tells {told:?}, and this happened: {known:?}");
        if !told.is_empty() {
            reached.reach("events told what happened");
        }
        Ok(())
    }
}
