//! The lines of scripts that are about schedules.
//!
//! ```text
//! schedule QUEUE NAME [mode= etag= seen= next= cron= zone= anchor= start= end= overlap=allow|skip|buffer|cancel catchup=
//!             jitter= payload= size= meta= prio= ttl= max= group= raw=1]         seen: what it waits for, unless given
//! unschedule QUEUE NAME [etag=]
//! hold QUEUE NAME [note= by= etag=]        unhold QUEUE NAME [next= etag=]
//! start QUEUE NAME [req=]                  run now
//! fire QUEUE NAME slot= [next= due= late=COUNT last= etag=]        by the etag it has, unless given
//! refire QUEUE NAME slot= [due=]           of a slot that was remembered
//! slots                                    those that have come
//! show QUEUE NAME     history QUEUE NAME [before= limit=]     schedules QUEUE [limit=]     next_slot
//! ```
//! Spaces of an expression are written as `_`.

use std::fmt::Write as _;

use bytes::Bytes;
use z4_types::{Duration, Millis, Priority, RequestId};

use super::Runner;
use super::line::Line;
use super::print::refused;
use crate::command::{Command, Due, Fire, Firing, NewTask, PauseSchedule, RunSchedule, SetMode, SetSchedule};
use crate::outcome::{Fired, Outcome, ScheduleRun};
use crate::{
    Overlap, Schedule, ScheduleCounts, ScheduleInfo, SlotFate, schedule, schedule_history, schedules,
};

impl Runner {
    /// Builds a command about a schedule; the outer None: it is none, the inner one: the door would refuse it.
    pub(super) fn of_schedule(&mut self, line: &Line<'_>) -> Option<Option<Command>> {
        let text = |key: &str| line.values.get(key).copied().unwrap_or("").to_owned();
        let time = |key| line.number(key).map(Millis);
        let etag = line.number("etag");
        if !matches!(line.verb, "schedule" | "unschedule" | "hold" | "unhold" | "start" | "fire" | "refire") {
            return None;
        }
        let queue = line.queue();
        let name = line.about.get(1).copied().unwrap_or("").to_owned();
        let known = schedule(&self.store, &queue, &name).expect("reads");
        let known_etag = etag.unwrap_or_else(|| known.as_ref().map_or(1, |known| known.etag));
        Some(Some(match line.verb {
            "schedule" => {
                let set = SetSchedule {
                    queue,
                    name,
                    mode: match line.values.get("mode") {
                        Some(&"create") => SetMode::Create,
                        Some(&"update") => SetMode::Update,
                        _ => SetMode::Upsert,
                    },
                    etag,
                    seen: time("seen").or_else(|| known.as_ref().and_then(|known| known.next)),
                    schedule: described(line),
                    next: time("next"),
                };
                if line.number("raw").is_none()
                    && let Err(invalid) = set.check()
                {
                    self.say(format_args!("invalid {invalid}"));
                    return Some(None);
                }
                Command::SetSchedule(Box::new(set))
            }
            "unschedule" => Command::DeleteSchedule { queue, name, etag },
            "start" => {
                let request = line.number("req").map(|request| RequestId(request.into()));
                Command::RunSchedule(RunSchedule { queue, name, request })
            }
            "fire" => {
                let slot = time("slot").expect("a slot");
                let next = time("next");
                let firing = match line.number("late") {
                    Some(slots) => Firing::Late { slots, last: time("last").unwrap_or(slot), next },
                    None => Firing::Slot { due: time("due").unwrap_or(slot), next },
                };
                Command::Fire(Fire { queue, name, etag: known_etag, slot, firing })
            }
            "refire" => {
                let slot = time("slot").expect("a slot");
                let firing = Firing::Buffered { due: time("due").unwrap_or(slot) };
                Command::Fire(Fire { queue, name, etag: known_etag, slot, firing })
            }
            verb => Command::PauseSchedule(PauseSchedule {
                queue,
                name,
                etag,
                paused: verb == "hold",
                note: text("note"),
                author: text("by"),
                next: time("next"),
            }),
        }))
    }

    /// Runs a line that reads schedules; false if it is none.
    pub(super) fn read_schedules(&mut self, line: &Line<'_>) -> bool {
        match line.verb {
            "slots" => {
                let due = self.machine.due_slots(&self.store, Millis(self.clock), usize::MAX).expect("reads");
                if due.is_empty() {
                    self.say("no slot has come");
                }
                for slot in due {
                    let released = if slot.buffered { " released" } else { "" };
                    self.say(format_args!("{} {} at {}{released}", slot.queue, slot.name, slot.slot.0));
                }
            }
            "next_slot" => {
                let at = self.machine.next_slot(&self.store).expect("reads");
                self.say(at.map_or("no slot".into(), |at| format!("next slot at {}", at.0)));
            }
            "show" => {
                let found = schedule(&self.store, &line.queue(), line.about[1]).expect("reads");
                self.say(found.map_or("no such schedule".into(), |info| shown(&info)));
            }
            "history" => {
                let limit = line.number("limit").unwrap_or(1_000) as usize;
                let name = line.about[1];
                let rows = schedule_history(&self.store, &line.queue(), name, line.number("before"), limit);
                let Some(rows) = rows.expect("reads") else {
                    self.say("no such schedule");
                    return true;
                };
                for row in rows {
                    let fate = fate(&row.fate);
                    self.say(format_args!("- {}: slot {} at {}: {fate}", row.number, row.slot.0, row.at.0));
                }
            }
            "schedules" => {
                let limit = line.number("limit").unwrap_or(1_000) as usize;
                let mut after: Option<String> = None;
                loop {
                    let page = schedules(&self.store, &line.queue(), after.as_deref(), limit).expect("reads");
                    let Some(page) = page else {
                        self.say("no such queue");
                        break;
                    };
                    let Some(last) = page.last() else { break };
                    after = Some(last.name.clone());
                    for info in &page {
                        let one = schedule(&self.store, &info.queue, &info.name).expect("reads");
                        assert_eq!(one.as_ref(), Some(info), "a list shows what is shown of one");
                    }
                    let names: Vec<&str> = page.iter().map(|info| info.name.as_str()).collect();
                    self.say(format_args!("- {}", names.join(" ")));
                }
            }
            _ => return false,
        }
        true
    }

    /// Prints the outcome of a command about a schedule; false if it is of none.
    pub(super) fn print_schedule(&mut self, outcome: &Outcome) -> bool {
        let text = match outcome {
            Outcome::ScheduleSet(result) => result.as_ref().map_or_else(refused, |set| {
                let done = if set.created { "created" } else { "set" };
                format!("schedule {done} etag={}", set.etag)
            }),
            Outcome::ScheduleDeleted(result) => {
                result.as_ref().map_or_else(refused, |()| "schedule deleted".into())
            }
            Outcome::SchedulePaused(result) => {
                result.as_ref().map_or_else(refused, |etag| format!("schedule etag={etag}"))
            }
            Outcome::ScheduleRun(result) => match result {
                Ok(ScheduleRun::Created(id)) => {
                    self.ids.insert(id.counter(), *id);
                    format!("started task {}", id.counter())
                }
                Ok(ScheduleRun::Buffered { open }) => {
                    format!("remembered until task {} has ended", open.counter())
                }
                Err(refusal) => refused(refusal),
            },
            Outcome::SlotFired(fired) => match fired {
                Fired::Stale => "stale".into(),
                Fired::Created(id) => {
                    self.ids.insert(id.counter(), *id);
                    format!("fired task {}", id.counter())
                }
                Fired::Buffered => "buffered".into(),
                Fired::Overlapped => "overlapped".into(),
                Fired::Late(slots) => format!("{slots} late"),
                Fired::Refused => "refused by the queue".into(),
            },
            _ => return false,
        };
        self.say(text);
        true
    }
}

fn described(line: &Line<'_>) -> Schedule {
    let text = |key: &str| line.values.get(key).map(|text| text.replace('_', " "));
    let span = |key| line.number(key).map(Duration);
    let payload = match line.values.get("payload") {
        Some(text) => Bytes::copy_from_slice(text.as_bytes()),
        None => vec![b'.'; line.number("size").unwrap_or(0) as usize].into(),
    };
    Schedule {
        cron: text("cron").unwrap_or_else(|| "@every 10s".into()),
        zone: text("zone").unwrap_or_else(|| "UTC".into()),
        anchor: Millis(line.number("anchor").unwrap_or(0)),
        start: line.number("start").map(Millis),
        end: line.number("end").map(Millis),
        overlap: match line.values.get("overlap") {
            Some(&"allow") => Overlap::Allow,
            Some(&"buffer") => Overlap::BufferOne,
            Some(&"cancel") => Overlap::CancelPrevious,
            _ => Overlap::Skip,
        },
        catch_up: span("catchup").unwrap_or(Duration(60_000)),
        jitter: span("jitter").unwrap_or_default(),
        template: NewTask {
            payload,
            metadata: line.metadata().unwrap_or_default(),
            due: Due::Now,
            priority: line.number("prio").map(|priority| Priority(priority as u8)),
            max_attempts: line.number("max").map(|max| max as u32),
            retry: line.retry(),
            ttl: span("ttl"),
            request: line.number("req").map(|request| RequestId(request.into())),
            group: line.values.get("group").map(|group| (*group).to_owned()),
            ..NewTask::empty()
        },
    }
}

fn shown(info: &ScheduleInfo) -> String {
    let time = |at: Option<Millis>| at.map_or("none".into(), |at| at.0.to_string());
    let ScheduleInfo { queue, name, schedule, etag, created_at, paused, next, buffered, last, counts } = info;
    let mut text = format!(
        "{queue} {name}: {:?} in {} {:?} etag={etag} created={} next={}",
        schedule.cron,
        schedule.zone,
        schedule.overlap,
        created_at.0,
        time(*next)
    );
    if let Some(slot) = buffered {
        write!(text, " buffered={}", slot.0).expect("to a string");
    }
    if let Some(last) = last {
        write!(text, " last={} of {}", last.task.counter(), last.slot.0).expect("to a string");
    }
    if let Some(paused) = paused {
        write!(text, " paused since={} note={:?} by={:?}", paused.since.0, paused.note, paused.author)
            .expect("to a string");
    }
    let ScheduleCounts { fired, overlapped, late, refused, buffered, dropped } = counts;
    for (count, name) in [
        (fired, "fired"),
        (overlapped, "overlapped"),
        (late, "late"),
        (refused, "refused"),
        (buffered, "was_buffered"),
        (dropped, "dropped"),
    ] {
        if *count > 0 {
            write!(text, " {name}={count}").expect("to a string");
        }
    }
    text
}

fn fate(fate: &SlotFate) -> String {
    match fate {
        SlotFate::Fired { task, cancelled: None } => format!("task {}", task.counter()),
        SlotFate::Fired { task, cancelled: Some(cancelled) } => {
            format!("task {} instead of {}", task.counter(), cancelled.counter())
        }
        SlotFate::Overlapped { open } => format!("overlapped by task {}", open.counter()),
        SlotFate::Buffered { open } => format!("waits for task {}", open.counter()),
        SlotFate::Late { slots, last } => format!("{slots} late up to {}", last.0),
        SlotFate::Refused { why } => format!("refused: {why}"),
        SlotFate::Dropped => "dropped".into(),
    }
}
