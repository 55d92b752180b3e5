//! Values of the rows of schedules: what a schedule does, how far it is, and what became of its slots.

use z4_types::{Millis, TaskId};

use crate::codec::{
    Malformed, RawSchedule, Reader, put_long_text, put_schedule, put_some_time, put_u64, put_u128,
    read_some_time,
};
use crate::queue::Paused;
use crate::schedule::{LastRun, Schedule, ScheduleCounts, SlotFate, SlotRecord};

const VERSION: u8 = 1;

const PAUSED: u8 = 1;

const FIRED: u8 = 1;
const OVERLAPPED: u8 = 2;
const BUFFERED: u8 = 3;
const LATE: u8 = 4;
const REFUSED: u8 = 5;
const DROPPED: u8 = 6;

/// No task has this id.
const NO_TASK: u128 = 0;

fn put_some_task(out: &mut Vec<u8>, task: Option<TaskId>) {
    put_u128(out, task.map_or(NO_TASK, |task| task.0));
}

fn read_some_task(reader: &mut Reader<'_>, what: &'static str) -> Result<Option<TaskId>, Malformed> {
    let task = reader.u128(what)?;
    Ok((task != NO_TASK).then_some(TaskId(task)))
}

/// What a schedule does: the row is written when its owner changes it.
#[derive(Debug, Clone)]
pub(crate) struct Definition<'a> {
    /// Counts changes, from 1.
    pub(crate) etag: u64,
    pub(crate) created_at: Millis,
    pub(crate) paused: Option<Paused>,
    pub(crate) schedule: RawSchedule<'a>,
}

/// Appends the value of a definition row.
pub(crate) fn write_definition(
    etag: u64,
    created_at: Millis,
    paused: Option<&Paused>,
    schedule: &Schedule,
    out: &mut Vec<u8>,
) {
    out.push(VERSION);
    put_u64(out, etag);
    put_u64(out, created_at.0);
    out.push(if paused.is_some() { PAUSED } else { 0 });
    if let Some(Paused { since, note, author, until: _ }) = paused {
        put_u64(out, since.0);
        put_long_text(out, note);
        put_long_text(out, author);
    }
    put_schedule(out, schedule);
}

impl<'a> Definition<'a> {
    pub(crate) fn read(value: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(value);
        if reader.u8("schedule version")? != VERSION {
            return Err(Malformed("unknown schedule version"));
        }
        let etag = reader.u64("schedule etag")?;
        let created_at = Millis(reader.u64("schedule creation")?);
        let paused = match reader.u8("schedule flags")? {
            0 => None,
            PAUSED => Some(Paused {
                since: Millis(reader.u64("paused since")?),
                note: reader.long_text("pause note")?.to_owned(),
                author: reader.long_text("pause author")?.to_owned(),
                until: None,
            }),
            _ => return Err(Malformed("unknown schedule flags")),
        };
        let schedule = RawSchedule::read(&mut reader)?;
        reader.end("bytes behind a schedule")?;
        Ok(Self { etag, created_at, paused, schedule })
    }
}

/// How far a schedule is: the row is written at every slot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// The slot it waits for; None while it is paused, and when it has no more. Invariant: above `passed`.
    pub(crate) next: Option<Millis>,
    /// The last slot that has happened, whatever became of it. Invariant: never decreases.
    pub(crate) passed: Millis,
    /// A slot that waits for the last task to end.
    pub(crate) buffered: Option<Millis>,
    /// The open task it waits for; None: there is no such slot, or the task has ended and the slot's time has come.
    pub(crate) watched: Option<TaskId>,
    /// The last task.
    pub(crate) last: Option<LastRun>,
    /// Rows of history written so far. Invariant: the last `SCHEDULE_HISTORY_MAX` of them are there.
    pub(crate) rows: u64,
    pub(crate) counts: ScheduleCounts,
}

impl Progress {
    /// Appends the row's value.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        out.push(VERSION);
        put_some_time(out, self.next);
        put_u64(out, self.passed.0);
        put_some_time(out, self.buffered);
        put_some_task(out, self.watched);
        put_u64(out, self.last.map_or(0, |last| last.slot.0));
        put_some_task(out, self.last.map(|last| last.task));
        put_u64(out, self.rows);
        let ScheduleCounts { fired, overlapped, late, refused, buffered, dropped } = self.counts;
        for count in [fired, overlapped, late, refused, buffered, dropped] {
            put_u64(out, count);
        }
    }

    pub(crate) fn read(value: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(value);
        if reader.u8("schedule progress version")? != VERSION {
            return Err(Malformed("unknown schedule progress version"));
        }
        let next = read_some_time(&mut reader, "next slot")?;
        let passed = Millis(reader.u64("passed slot")?);
        let buffered = read_some_time(&mut reader, "buffered slot")?;
        let watched = read_some_task(&mut reader, "watched task")?;
        let slot = Millis(reader.u64("last slot")?);
        let last = read_some_task(&mut reader, "last task")?.map(|task| LastRun { slot, task });
        let rows = reader.u64("history rows")?;
        let mut count = || reader.u64("schedule counter");
        let counts = ScheduleCounts {
            fired: count()?,
            overlapped: count()?,
            late: count()?,
            refused: count()?,
            buffered: count()?,
            dropped: count()?,
        };
        reader.end("bytes behind the progress of a schedule")?;
        Ok(Self { next, passed, buffered, watched, last, rows, counts })
    }
}

/// Appends the value of a history row.
pub(crate) fn write_fate(slot: Millis, at: Millis, fate: &SlotFate, out: &mut Vec<u8>) {
    out.push(VERSION);
    put_u64(out, slot.0);
    put_u64(out, at.0);
    match fate {
        SlotFate::Fired { task, cancelled } => {
            out.push(FIRED);
            put_u128(out, task.0);
            put_some_task(out, *cancelled);
        }
        SlotFate::Overlapped { open } => {
            out.push(OVERLAPPED);
            put_u128(out, open.0);
        }
        SlotFate::Buffered { open } => {
            out.push(BUFFERED);
            put_u128(out, open.0);
        }
        SlotFate::Late { slots, last } => {
            out.push(LATE);
            put_u64(out, *slots);
            put_u64(out, last.0);
        }
        SlotFate::Refused { why } => {
            out.push(REFUSED);
            put_long_text(out, why);
        }
        SlotFate::Dropped => out.push(DROPPED),
    }
}

/// Reads a history row, whose number is in its key.
pub(crate) fn read_fate(number: u64, value: &[u8]) -> Result<SlotRecord, Malformed> {
    let mut reader = Reader::new(value);
    if reader.u8("history version")? != VERSION {
        return Err(Malformed("unknown history version"));
    }
    let slot = Millis(reader.u64("history slot")?);
    let at = Millis(reader.u64("history time")?);
    let fate = match reader.u8("slot fate")? {
        FIRED => {
            let task = TaskId(reader.u128("fired task")?);
            SlotFate::Fired { task, cancelled: read_some_task(&mut reader, "cancelled task")? }
        }
        OVERLAPPED => SlotFate::Overlapped { open: TaskId(reader.u128("open task")?) },
        BUFFERED => SlotFate::Buffered { open: TaskId(reader.u128("open task")?) },
        LATE => {
            SlotFate::Late { slots: reader.u64("late slots")?, last: Millis(reader.u64("last late slot")?) }
        }
        REFUSED => SlotFate::Refused { why: reader.long_text("why refused")?.to_owned() },
        DROPPED => SlotFate::Dropped,
        _ => return Err(Malformed("unknown slot fate")),
    };
    reader.end("bytes behind a history row")?;
    Ok(SlotRecord { number, slot, at, fate })
}
