//! The bytes of commands about schedules, and of a schedule itself, which stands the same in its row.

use z4_types::limits::{CRON_BYTES_MAX, NOTE_BYTES_MAX, SCHEDULE_NAME_BYTES_MAX, ZONE_NAME_BYTES_MAX};
use z4_types::{Duration, Millis, QueueName, RequestId};

use super::item::{Item, put_item};
use super::put_queue;
use super::queue::{put_etag, read_etag, read_flag};
use super::raw::{self, owned_queue, queue_name};
use super::reader::{Malformed, Reader, cut, put_long_text, put_u64, put_u128};
use crate::command::{Fire, Firing, PauseSchedule, RunSchedule, SetMode, SetSchedule};
use crate::schedule::{Overlap, Schedule};

const FIRE_SLOT: u8 = 1;
const FIRE_LATE: u8 = 2;
const FIRE_BUFFERED: u8 = 3;

/// Appends a point in time or none, which is what no time is called: the end of time.
pub(crate) fn put_some_time(out: &mut Vec<u8>, at: Option<Millis>) {
    put_u64(out, at.unwrap_or(Millis::NEVER).0);
}

/// Reads a point in time or none.
pub(crate) fn read_some_time(
    reader: &mut Reader<'_>,
    what: &'static str,
) -> Result<Option<Millis>, Malformed> {
    let at = Millis(reader.u64(what)?);
    Ok((at != Millis::NEVER).then_some(at))
}

/// A schedule read in place; its texts are slices of the row or entry.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawSchedule<'a> {
    pub(crate) cron: &'a str,
    pub(crate) zone: &'a str,
    pub(crate) anchor: Millis,
    pub(crate) start: Option<Millis>,
    pub(crate) end: Option<Millis>,
    pub(crate) overlap: Overlap,
    pub(crate) catch_up: Duration,
    pub(crate) jitter: Duration,
    pub(crate) template: Item<'a>,
}

impl<'a> RawSchedule<'a> {
    pub(crate) fn read(reader: &mut Reader<'a>) -> Result<Self, Malformed> {
        Ok(Self {
            cron: reader.long_text("cron")?,
            zone: reader.long_text("zone")?,
            anchor: Millis(reader.u64("anchor")?),
            start: read_some_time(reader, "start")?,
            end: read_some_time(reader, "end")?,
            overlap: match reader.u8("overlap")? {
                1 => Overlap::Allow,
                2 => Overlap::Skip,
                3 => Overlap::BufferOne,
                4 => Overlap::CancelPrevious,
                _ => return Err(Malformed("unknown overlap policy")),
            },
            catch_up: Duration(reader.u64("catch-up")?),
            jitter: Duration(reader.u64("jitter")?),
            template: Item::read(reader)?,
        })
    }

    pub(crate) fn to_schedule(self) -> Schedule {
        Schedule {
            cron: self.cron.to_owned(),
            zone: self.zone.to_owned(),
            anchor: self.anchor,
            start: self.start,
            end: self.end,
            overlap: self.overlap,
            catch_up: self.catch_up,
            jitter: self.jitter,
            template: self.template.to_new_task(),
        }
    }
}

/// Appends a schedule; texts that are too long, which a check refuses, are cut.
pub(crate) fn put_schedule(out: &mut Vec<u8>, schedule: &Schedule) {
    put_long_text(out, cut(&schedule.cron, CRON_BYTES_MAX));
    put_long_text(out, cut(&schedule.zone, ZONE_NAME_BYTES_MAX));
    put_u64(out, schedule.anchor.0);
    put_some_time(out, schedule.start);
    put_some_time(out, schedule.end);
    out.push(match schedule.overlap {
        Overlap::Allow => 1,
        Overlap::Skip => 2,
        Overlap::BufferOne => 3,
        Overlap::CancelPrevious => 4,
    });
    put_u64(out, schedule.catch_up.0);
    put_u64(out, schedule.jitter.0);
    put_item(out, &schedule.template);
}

/// Appends the name of a schedule; one that is too long, which a check refuses, is cut.
fn put_name(out: &mut Vec<u8>, name: &str) {
    let name = cut(name, SCHEDULE_NAME_BYTES_MAX);
    out.push(u8::try_from(name.len()).expect("cut to 255 bytes"));
    out.extend_from_slice(name.as_bytes());
}

/// Reads the name of a schedule.
fn read_name<'a>(reader: &mut Reader<'a>) -> Result<&'a str, Malformed> {
    let len = reader.u8("schedule name length")?;
    let name = reader.text(len.into(), "schedule name")?;
    if name.is_empty() { Err(Malformed("empty schedule name")) } else { Ok(name) }
}

fn put_both(out: &mut Vec<u8>, kind: u8, queue: &QueueName, name: &str) {
    out.push(kind);
    put_queue(out, queue);
    put_name(out, name);
}

fn read_both(reader: &mut Reader<'_>) -> Result<(QueueName, String), Malformed> {
    Ok((owned_queue(queue_name(reader)?), read_name(reader)?.to_owned()))
}

pub(super) fn put_set(out: &mut Vec<u8>, set: &SetSchedule) {
    put_both(out, raw::SET_SCHEDULE, &set.queue, &set.name);
    out.push(match set.mode {
        SetMode::Create => 1,
        SetMode::Update => 2,
        SetMode::Upsert => 3,
    });
    put_etag(out, set.etag);
    put_some_time(out, set.seen);
    put_some_time(out, set.next);
    put_schedule(out, &set.schedule);
}

pub(super) fn read_set(mut reader: Reader<'_>) -> Result<SetSchedule, Malformed> {
    let (queue, name) = read_both(&mut reader)?;
    let mode = match reader.u8("set mode")? {
        1 => SetMode::Create,
        2 => SetMode::Update,
        3 => SetMode::Upsert,
        _ => return Err(Malformed("unknown set mode")),
    };
    let etag = read_etag(&mut reader)?;
    let seen = read_some_time(&mut reader, "seen slot")?;
    let next = read_some_time(&mut reader, "next slot")?;
    let schedule = RawSchedule::read(&mut reader)?.to_schedule();
    reader.end("bytes behind a set schedule")?;
    Ok(SetSchedule { queue, name, mode, etag, seen, schedule, next })
}

pub(super) fn put_delete(out: &mut Vec<u8>, queue: &QueueName, name: &str, etag: Option<u64>) {
    put_both(out, raw::DELETE_SCHEDULE, queue, name);
    put_etag(out, etag);
}

pub(super) fn read_delete<'a>(mut reader: Reader<'a>) -> Result<(&'a str, &'a str, Option<u64>), Malformed> {
    let delete = (queue_name(&mut reader)?, read_name(&mut reader)?, read_etag(&mut reader)?);
    reader.end("bytes behind a delete schedule")?;
    Ok(delete)
}

pub(super) fn put_pause(out: &mut Vec<u8>, pause: &PauseSchedule) {
    put_both(out, raw::PAUSE_SCHEDULE, &pause.queue, &pause.name);
    put_etag(out, pause.etag);
    out.push(pause.paused.into());
    put_long_text(out, cut(&pause.note, NOTE_BYTES_MAX));
    put_long_text(out, cut(&pause.author, NOTE_BYTES_MAX));
    put_some_time(out, pause.next);
}

pub(super) fn read_pause(mut reader: Reader<'_>) -> Result<PauseSchedule, Malformed> {
    let (queue, name) = read_both(&mut reader)?;
    let pause = PauseSchedule {
        queue,
        name,
        etag: read_etag(&mut reader)?,
        paused: read_flag(&mut reader, "paused")?,
        note: reader.long_text("note")?.to_owned(),
        author: reader.long_text("author")?.to_owned(),
        next: read_some_time(&mut reader, "next slot")?,
    };
    reader.end("bytes behind a pause schedule")?;
    Ok(pause)
}

pub(super) fn put_run(out: &mut Vec<u8>, run: &RunSchedule) {
    put_both(out, raw::RUN_SCHEDULE, &run.queue, &run.name);
    out.push(run.request.is_some().into());
    if let Some(request) = run.request {
        put_u128(out, request.0);
    }
}

pub(super) fn read_run(mut reader: Reader<'_>) -> Result<RunSchedule, Malformed> {
    let (queue, name) = read_both(&mut reader)?;
    let request =
        if read_flag(&mut reader, "run flags")? { Some(RequestId(reader.u128("request")?)) } else { None };
    reader.end("bytes behind a run schedule")?;
    Ok(RunSchedule { queue, name, request })
}

pub(super) fn put_fire(out: &mut Vec<u8>, fire: &Fire) {
    put_both(out, raw::FIRE, &fire.queue, &fire.name);
    put_u64(out, fire.etag);
    put_u64(out, fire.slot.0);
    match fire.firing {
        Firing::Slot { due, next } => {
            out.push(FIRE_SLOT);
            put_u64(out, due.0);
            put_some_time(out, next);
        }
        Firing::Late { slots, last, next } => {
            out.push(FIRE_LATE);
            put_u64(out, slots);
            put_u64(out, last.0);
            put_some_time(out, next);
        }
        Firing::Buffered { due } => {
            out.push(FIRE_BUFFERED);
            put_u64(out, due.0);
        }
    }
}

pub(super) fn read_fire(mut reader: Reader<'_>) -> Result<Fire, Malformed> {
    let (queue, name) = read_both(&mut reader)?;
    let etag = reader.u64("etag")?;
    let slot = Millis(reader.u64("slot")?);
    let firing = match reader.u8("firing")? {
        FIRE_SLOT => {
            Firing::Slot { due: Millis(reader.u64("due")?), next: read_some_time(&mut reader, "next slot")? }
        }
        FIRE_LATE => Firing::Late {
            slots: reader.u64("late slots")?,
            last: Millis(reader.u64("last late slot")?),
            next: read_some_time(&mut reader, "next slot")?,
        },
        FIRE_BUFFERED => Firing::Buffered { due: Millis(reader.u64("due")?) },
        _ => return Err(Malformed("unknown firing")),
    };
    reader.end("bytes behind a fire")?;
    Ok(Fire { queue, name, etag, slot, firing })
}
