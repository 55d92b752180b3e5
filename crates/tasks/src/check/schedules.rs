//! The invariants of the rows of schedules.

use std::collections::{BTreeMap, BTreeSet};

use z4_types::TaskId;
use z4_types::limits::SCHEDULE_HISTORY_MAX;

use super::{check_head, rows};
use crate::codec::{Malformed, Reader};
use crate::machine::Machine;
use crate::rows::key::{self, Waits};
use crate::rows::{Definition, Progress, read_fate};
use crate::slots::read_watch;
use crate::{Fault, Read};

fn text(malformed: Malformed) -> String {
    Fault::from(malformed).what
}

impl Machine {
    pub(super) fn check_schedules(&self, store: &dyn Read) -> Result<(), String> {
        let read = |letter| rows(store, letter).map_err(|fault| fault.what);
        let (mut definitions, mut waiting, mut watches) = (BTreeMap::new(), BTreeSet::new(), BTreeMap::new());
        for (key, value) in read(b's')? {
            if key == key::SCHEDULES {
                continue;
            }
            let (queue, name) = key::read_schedule_of(&key).map_err(text)?;
            definitions.insert((queue, name.to_owned()), value);
        }
        let of_row = store.get(&key::SCHEDULES).map_err(|fault| fault.what)?;
        let of_row = of_row.map_or(Ok(0), |value| Reader::new(&value).u64("count")).map_err(text)?;
        let counted = definitions.len() as u64;
        ensure!(of_row == counted, "{counted} schedules, its row counts {of_row}");
        ensure!(self.slots.count == counted, "{counted} schedules, {} in memory", self.slots.count);

        let times = read(b't')?;
        for (key, value) in &times {
            if key[1] == 0 {
                let (at, queue, waits, name) = key::read_slot(key).map_err(text)?;
                waiting.insert((queue, name.to_owned(), waits, at));
            } else {
                let (queue, name) = read_watch(value).map_err(text)?;
                watches.insert(key::read_watch(key).map_err(text)?, (queue, Box::from(name)));
            }
        }
        ensure!(watches == self.slots.watched, "tasks watched: {watches:?}, not {:?}", self.slots.watched);
        let first = times.first().map(|(key, _)| key).filter(|key| key[1] == 0);
        check_head("slot", self.slots.head.get(), first, |key| {
            key::read_slot(key).map(|(at, ..)| (at.0, 0))
        })?;

        let mut history: BTreeMap<(u32, String), Vec<u64>> = BTreeMap::new();
        let mut progress = BTreeMap::new();
        for (key, value) in read(b'h')? {
            let (queue, name, number) = key::read_history(&key).map_err(text)?;
            let schedule = (queue, name.to_owned());
            match number {
                None => drop(progress.insert(schedule, Progress::read(&value).map_err(text)?)),
                Some(number) => {
                    read_fate(number, &value).map_err(text)?;
                    history.entry(schedule).or_default().push(number);
                }
            }
        }
        ensure!(progress.keys().eq(definitions.keys()), "schedules without progress, or the other way");
        for (schedule, progress) in &progress {
            let (queue, name) = schedule;
            self.queue(*queue).map_err(|fault| fault.what)?;
            let definition = Definition::read(&definitions[schedule]).map_err(text)?;
            let paused = definition.paused.is_some();
            ensure!(definition.etag > 0, "schedule {name} has etag 0");
            ensure!(!paused || progress.next.is_none(), "schedule {name} is paused and waits for a slot");

            if let Some(next) = progress.next {
                ensure!(next > progress.passed, "schedule {name} waits for a slot that has happened");
                let row = (*queue, name.clone(), Waits::Next, next);
                ensure!(waiting.remove(&row), "schedule {name} has no row for its next slot");
            }
            if let Some(slot) = progress.buffered {
                match progress.watched {
                    Some(task) => {
                        let found = watches.remove(&task);
                        ensure!(
                            found == Some((*queue, name.as_str().into())),
                            "schedule {name} waits for task {task}, {found:?} is waiting for it"
                        );
                        self.check_open(store, task)?;
                    }
                    None => {
                        let row = (*queue, name.clone(), Waits::Released, slot);
                        ensure!(waiting.remove(&row), "schedule {name} has no row for its remembered slot");
                    }
                }
            } else {
                ensure!(
                    progress.watched.is_none(),
                    "schedule {name} waits for a task, and remembers no slot"
                );
            }
            let kept = progress.rows.saturating_sub(SCHEDULE_HISTORY_MAX)..progress.rows;
            let history = history.remove(schedule).unwrap_or_default();
            ensure!(history.iter().copied().eq(kept), "schedule {name} keeps rows {history:?}");
        }
        ensure!(waiting.is_empty(), "slots of no schedule: {waiting:?}");
        ensure!(watches.is_empty(), "tasks watched by no schedule: {watches:?}");
        ensure!(history.is_empty(), "histories of no schedule: {:?}", history.keys());
        Ok(())
    }

    fn check_open(&self, store: &dyn Read, task: TaskId) -> Result<(), String> {
        let info = crate::get(store, task).map_err(|fault| fault.what)?;
        let info = info.ok_or_else(|| format!("a schedule waits for task {task}, which is gone"))?;
        let open = !matches!(info.state, crate::TaskState::Dead { .. } | crate::TaskState::Finished { .. });
        ensure!(open, "a schedule waits for task {task}, which has ended");
        Ok(())
    }
}
