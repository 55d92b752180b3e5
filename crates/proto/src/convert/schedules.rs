//! Schedules: messages to patches, and what is told of them to messages.
//!
//! A patch names what is set, as update masks do; parts of the task are named one by one, so that a new payload need not say
//! the rest again.
//!
//! # Not here
//! - Expressions and zones: read where the schedule's shard is led. Limits: [`SetSchedule::check`], there too.
//!
//! [`SetSchedule::check`]: z4_tasks::command::SetSchedule::check

use prost_types::FieldMask;
use z4_tasks::command::{NewTask, Retry, check_schedule_name};
use z4_tasks::{
    Invalid, Overlap, Schedule, ScheduleCounts, ScheduleInfo, SchedulePatch, SlotFate, SlotRecord,
    TemplateField,
};
use z4_types::limits::CATCH_UP_MS_DEFAULT;
use z4_types::{Duration, Millis, QueueName};

use super::{duration, etag_text, millis, new_task, pb_duration, pb_retry, timestamp};
use crate::status::Failure;
use crate::{reason, v1};

/// The zone of a schedule that names none.
const ZONE_DEFAULT: &str = "UTC";

/// Fields of `Schedule` besides those of its task.
const PATHS: [&str; 7] = ["cron", "time_zone", "start_at", "end_at", "overlap", "catch_up_window", "jitter"];

/// The task and its parts.
const TASK: &str = "task";
const TASK_PATHS: [(&str, TemplateField); 7] = [
    ("task.payload", TemplateField::Payload),
    ("task.metadata", TemplateField::Metadata),
    ("task.priority", TemplateField::Priority),
    ("task.max_attempts", TemplateField::MaxAttempts),
    ("task.retry", TemplateField::Retry),
    ("task.ttl", TemplateField::Ttl),
    ("task.group", TemplateField::Group),
];

/// Returns the name of a schedule, checked.
///
/// # Errors
/// `Invalid`, reason `SCHEDULE_NAME_INVALID`.
pub fn schedule_name(name: String) -> Result<String, Failure> {
    match check_schedule_name(&name) {
        Ok(()) => Ok(name),
        Err(invalid) => Err(Failure::invalid("name", reason::SCHEDULE_NAME_INVALID, invalid.problem)),
    }
}

/// Returns what a request sets of a schedule of `queue`: the fields that `mask` names, or those that are set.
///
/// # Errors
/// `Invalid` with the field, or with the path of the mask that names none.
pub fn schedule_patch(
    pb: Option<v1::Schedule>,
    mask: Option<&FieldMask>,
    queue: &QueueName,
) -> Result<SchedulePatch, Failure> {
    let pb = pb.unwrap_or_default();
    let paths = mask.map_or(&[][..], |mask| &mask.paths);
    let named = |path: &str| paths.iter().any(|known| known == path || known == "*");
    for path in paths {
        let known = PATHS.contains(&path.as_str()) || TASK_PATHS.iter().any(|(known, _)| known == path);
        if !known && path != TASK && path != "*" {
            let all = PATHS.join(", ");
            let what = format_args!(
                "{path:?} is no field of a schedule; name one of {all}, task, or a part of it such as task.payload"
            );
            return Err(Failure::invalid("update_mask", reason::FIELD_INVALID, what));
        }
    }
    let by_mask = !paths.is_empty();
    // A field counts if it is named, or where nothing is named, if it is set.
    let counts = |path: &str, is_set: bool| if by_mask { named(path) } else { is_set };
    let time = |time: Option<_>, field: &str| time.map(|time| millis(time, field)).transpose();
    let span = |span: Option<_>, field: &str, usual| {
        span.map_or(Ok(Duration(usual)), |span| duration(span, field)).map_err(below_schedule)
    };
    let mut patch = SchedulePatch::default();
    if counts("cron", !pb.cron.is_empty()) {
        patch.cron = Some(pb.cron);
    }
    if counts("time_zone", !pb.time_zone.is_empty()) {
        let zone = if pb.time_zone.is_empty() { ZONE_DEFAULT.to_owned() } else { pb.time_zone };
        patch.zone = Some(zone);
    }
    if counts("start_at", pb.start_at.is_some()) {
        patch.start = Some(time(pb.start_at, "start_at").map_err(below_schedule)?);
    }
    if counts("end_at", pb.end_at.is_some()) {
        patch.end = Some(time(pb.end_at, "end_at").map_err(below_schedule)?);
    }
    if counts("overlap", pb.overlap != 0) {
        patch.overlap = Some(overlap(pb.overlap)?);
    }
    if counts("catch_up_window", pb.catch_up_window.is_some()) {
        patch.catch_up = Some(span(pb.catch_up_window, "catch_up_window", CATCH_UP_MS_DEFAULT)?);
    }
    if counts("jitter", pb.jitter.is_some()) {
        patch.jitter = Some(span(pb.jitter, "jitter", 0)?);
    }
    patch.template_fields = if counts(TASK, pb.task.is_some()) {
        TemplateField::ALL.to_vec()
    } else {
        TASK_PATHS.iter().filter(|(path, _)| by_mask && named(path)).map(|(_, field)| *field).collect()
    };
    if !patch.template_fields.is_empty() {
        let task = new_task(pb.task.unwrap_or_default(), queue, TASK).map_err(below_schedule)?;
        patch.template = Some(Box::new(task));
    }
    Ok(patch)
}

fn overlap(number: i32) -> Result<Overlap, Failure> {
    use v1::OverlapPolicy as Pb;

    Ok(match Pb::try_from(number) {
        Ok(Pb::Unspecified | Pb::Skip) => Overlap::Skip,
        Ok(Pb::Allow) => Overlap::Allow,
        Ok(Pb::BufferOne) => Overlap::BufferOne,
        Ok(Pb::CancelPrevious) => Overlap::CancelPrevious,
        Err(_) => {
            let what = format_args!("{number} is no OverlapPolicy; give 1 to 4");
            return Err(below_schedule(Failure::invalid("overlap", reason::FIELD_INVALID, what)));
        }
    })
}

fn below_schedule(mut failure: Failure) -> Failure {
    failure.message = format!("schedule.{}", failure.message);
    failure.field = failure.field.map(|field| format!("schedule.{field}"));
    failure
}

/// Returns a limit of a schedule that is broken, by the names of the request.
#[must_use]
pub fn schedule_out_of_limits(Invalid { field, problem }: &Invalid) -> Failure {
    let field = match *field {
        "etag" | "name" => return Failure::invalid(field, reason::FIELD_INVALID, problem),
        "catch_up" => "catch_up_window".to_owned(),
        "zone" => "time_zone".to_owned(),
        "start" => "start_at".to_owned(),
        "end" => "end_at".to_owned(),
        "cron" | "jitter" => (*field).to_owned(),
        field if field.starts_with("task.") => field.to_owned(),
        field => format!("task.{field}"),
    };
    below_schedule(Failure::invalid(&field, reason::FIELD_INVALID, problem))
}

/// Returns a schedule as it stands, with its next slots.
#[must_use]
pub fn pb_schedule_status(info: &ScheduleInfo, next_slots: &[Millis]) -> v1::ScheduleStatus {
    let ScheduleCounts { fired, overlapped, late, refused, buffered, dropped } = info.counts;
    v1::ScheduleStatus {
        queue: info.queue.as_str().to_owned(),
        name: info.name.clone(),
        schedule: Some(pb_schedule(&info.schedule)),
        etag: etag_text(info.etag),
        created_at: Some(timestamp(info.created_at)),
        pause: info.paused.as_ref().map(|paused| v1::Pause {
            note: paused.note.clone(),
            author: paused.author.clone(),
            at: Some(timestamp(paused.since)),
            until: None,
        }),
        next_slots: next_slots.iter().copied().map(timestamp).collect(),
        buffered_slot: info.buffered.map(timestamp),
        last_task_id: info.last.map(|last| last.task.to_string()).unwrap_or_default(),
        last_slot: info.last.map(|last| timestamp(last.slot)),
        counts: Some(v1::ScheduleCounts { fired, overlapped, late, refused, buffered, dropped }),
    }
}

fn pb_schedule(schedule: &Schedule) -> v1::Schedule {
    let overlap = match schedule.overlap {
        Overlap::Allow => v1::OverlapPolicy::Allow,
        Overlap::Skip => v1::OverlapPolicy::Skip,
        Overlap::BufferOne => v1::OverlapPolicy::BufferOne,
        Overlap::CancelPrevious => v1::OverlapPolicy::CancelPrevious,
    };
    v1::Schedule {
        cron: schedule.cron.clone(),
        time_zone: schedule.zone.clone(),
        start_at: schedule.start.map(timestamp),
        end_at: schedule.end.map(timestamp),
        overlap: overlap.into(),
        catch_up_window: Some(pb_duration(schedule.catch_up)),
        jitter: Some(schedule.jitter).filter(|jitter| jitter.0 > 0).map(pb_duration),
        task: Some(pb_template(&schedule.template)),
    }
}

fn pb_template(task: &NewTask) -> v1::NewTask {
    v1::NewTask {
        payload: task.payload.clone(),
        metadata: task.metadata.iter().cloned().collect(),
        priority: task.priority.map(|priority| priority.0.into()),
        max_attempts: task.max_attempts,
        retry: task.retry.map(|retry: Retry| pb_retry(retry)),
        ttl: task.ttl.map(pb_duration),
        group: task.group.clone().unwrap_or_default(),
        ..v1::NewTask::default()
    }
}

/// Returns what became of a slot as its message.
#[must_use]
pub fn pb_slot_record(record: &SlotRecord) -> v1::SlotRecord {
    let mut pb = v1::SlotRecord {
        number: record.number,
        slot: Some(timestamp(record.slot)),
        at: Some(timestamp(record.at)),
        ..v1::SlotRecord::default()
    };
    let fate = match &record.fate {
        SlotFate::Fired { task, cancelled } => {
            pb.task_id = task.to_string();
            pb.cancelled_task_id = cancelled.map(|task| task.to_string()).unwrap_or_default();
            v1::SlotFate::Fired
        }
        SlotFate::Overlapped { open } => {
            pb.task_id = open.to_string();
            v1::SlotFate::Overlapped
        }
        SlotFate::Buffered { open } => {
            pb.task_id = open.to_string();
            v1::SlotFate::Buffered
        }
        SlotFate::Late { slots, last } => {
            (pb.late_slots, pb.last_slot) = (*slots, Some(timestamp(*last)));
            v1::SlotFate::Late
        }
        SlotFate::Refused { why } => {
            pb.why.clone_from(why);
            v1::SlotFate::Refused
        }
        SlotFate::Dropped => v1::SlotFate::Dropped,
    };
    pb.fate = fate.into();
    pb
}

#[cfg(test)]
mod tests {
    use super::*;
    use z4_tasks::command::Due;

    fn queue() -> QueueName {
        QueueName::new("q").expect("valid")
    }

    fn full() -> v1::Schedule {
        let span = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
        v1::Schedule {
            cron: "@daily".into(),
            time_zone: "Europe/Berlin".into(),
            start_at: Some(timestamp(Millis(1_000))),
            end_at: Some(timestamp(Millis(9_000))),
            overlap: v1::OverlapPolicy::BufferOne.into(),
            catch_up_window: span(60),
            jitter: span(5),
            task: Some(v1::NewTask {
                payload: "go".into(),
                metadata: [("k".to_owned(), "v".to_owned())].into(),
                priority: Some(3),
                max_attempts: Some(2),
                retry: Some(v1::RetryPolicy::default()),
                ttl: span(30),
                group: "acme".into(),
                ..v1::NewTask::default()
            }),
        }
    }

    fn mask(paths: &[&str]) -> FieldMask {
        FieldMask { paths: paths.iter().map(|path| (*path).to_owned()).collect() }
    }

    #[test]
    fn a_schedule_survives_its_message() {
        let patch = |pb| schedule_patch(Some(pb), None, &queue()).expect("fine");
        let first = patch(full()).applied_to(None);
        assert_eq!((first.overlap, first.catch_up), (Overlap::BufferOne, Duration(60_000)));
        assert_eq!((first.template.due, &first.template.payload[..]), (Due::Now, &b"go"[..]));
        assert_eq!(patch(pb_schedule(&first)).applied_to(None), first);
        let least = patch(v1::Schedule { cron: "@daily".into(), ..Default::default() }).applied_to(None);
        assert_eq!((least.zone.as_str(), least.overlap), ("UTC", Overlap::Skip));
        assert_eq!((least.catch_up, least.jitter), (Duration(CATCH_UP_MS_DEFAULT), Duration(0)));
    }

    #[test]
    fn a_mask_says_what_is_set_and_what_goes_back_to_its_default() {
        let before = schedule_patch(Some(full()), None, &queue()).expect("fine").applied_to(None);
        let change = |pb: v1::Schedule, paths: &[&str]| {
            schedule_patch(Some(pb), Some(&mask(paths)), &queue()).expect("fine").applied_to(Some(&before))
        };
        let task = v1::NewTask { payload: "new".into(), priority: Some(9), ..Default::default() };
        let other = v1::Schedule { task: Some(task), cron: "@hourly".into(), ..Default::default() };
        let payload = change(other.clone(), &["task.payload"]);
        assert_eq!((&payload.template.payload[..], payload.cron.as_str()), (&b"new"[..], "@daily"));
        assert_eq!(payload.template.priority, before.template.priority);
        let whole = change(other.clone(), &["task"]);
        assert_eq!((whole.template.ttl, whole.template.metadata.len()), (None, 0));
        let cleared = change(v1::Schedule::default(), &["start_at", "time_zone", "overlap"]);
        assert_eq!((cleared.start, cleared.end), (None, before.end));
        assert_eq!((cleared.zone.as_str(), cleared.overlap), ("UTC", Overlap::Skip));
        assert_eq!(change(other, &["*"]).end, None);
        let failure = schedule_patch(None, Some(&mask(&["colour"])), &queue()).expect_err("no field");
        assert_eq!(failure.field.as_deref(), Some("update_mask"));
    }

    #[test]
    fn what_is_out_of_range_is_named_as_in_the_request() {
        let bad = |change: fn(&mut v1::Schedule)| {
            let mut pb = full();
            change(&mut pb);
            let failure = schedule_patch(Some(pb), None, &queue()).expect_err("refused");
            assert!(failure.message.starts_with(failure.field.as_deref().expect("a field")), "{failure}");
            failure.field
        };
        assert_eq!(bad(|pb| pb.overlap = 9).as_deref(), Some("schedule.overlap"));
        let priority = |pb: &mut v1::Schedule| pb.task.get_or_insert_default().priority = Some(256);
        assert_eq!(bad(priority).as_deref(), Some("schedule.task.priority"));
        let named = |field| schedule_out_of_limits(&Invalid { field, problem: "no".into() }).field;
        assert_eq!(named("catch_up").as_deref(), Some("schedule.catch_up_window"));
        assert_eq!(named("task.metadata").as_deref(), Some("schedule.task.metadata"));
        assert_eq!(named("payload").as_deref(), Some("schedule.task.payload"));
        assert_eq!(named("name").as_deref(), Some("name"));
        assert!(schedule_name("x".repeat(256)).is_err());
    }
}
