//! Schedules as people write and read them: flags to a patch, messages to text and JSON.
//!
//! Slots are shown by the clock of the schedule's zone, with its offset; of a zone this tool does not know, in UTC. In JSON they
//! are in UTC, as all times are.

use std::time::Duration;

use serde_json::{Map, Value, json};
use z4_client::{Millis, OverlapPolicy, SchedulePatch, ScheduleStatus, SlotFate, SlotRecord};
use z4_cron::Zone;

use crate::args::{OverlapFlag, ScheduleFlags};
use crate::failure::Failure;
use crate::output::preview;
use crate::time::{format_exact, format_time};

/// Names of flags that differ from the fields they set; `_` and `-` are the same otherwise.
const UNSET_NAMES: [(&str, &str); 9] = [
    ("group", "task.group"),
    ("catch_up", "catch_up_window"),
    ("payload", "task.payload"),
    ("priority", "task.priority"),
    ("max_attempts", "task.max_attempts"),
    ("retry", "task.retry"),
    ("ttl", "task.ttl"),
    ("meta", "task.metadata"),
    ("tz", "time_zone"),
];

impl ScheduleFlags {
    /// Returns the change that the flags ask for; `payload` is read already.
    pub(crate) fn patch(self, payload: Option<Vec<u8>>) -> SchedulePatch {
        let mut patch = SchedulePatch::new();
        if let Some(cron) = self.cron {
            patch = patch.cron(cron);
        }
        if let Some(zone) = self.time_zone {
            patch = patch.time_zone(zone);
        }
        if let Some(time) = self.start_at {
            patch = patch.start_at(time.resolve());
        }
        if let Some(time) = self.end_at {
            patch = patch.end_at(time.resolve());
        }
        if let Some(overlap) = self.overlap {
            patch = patch.overlap(match overlap {
                OverlapFlag::Allow => OverlapPolicy::Allow,
                OverlapFlag::Skip => OverlapPolicy::Skip,
                OverlapFlag::BufferOne => OverlapPolicy::BufferOne,
                OverlapFlag::CancelPrevious => OverlapPolicy::CancelPrevious,
            });
        }
        if let Some(span) = self.catch_up {
            patch = patch.catch_up_window(span);
        }
        if let Some(span) = self.jitter {
            patch = patch.jitter(span);
        }
        if let Some(payload) = payload {
            patch = patch.payload(payload);
        }
        if let Some(priority) = self.priority {
            patch = patch.priority(priority);
        }
        if let Some(attempts) = self.max_attempts {
            patch = patch.max_attempts(attempts);
        }
        if let Some(policy) = self.retry {
            patch = patch.retry(policy);
        }
        if let Some(ttl) = self.ttl {
            patch = patch.ttl(ttl);
        }
        if let Some(group) = self.group {
            patch = patch.group(group);
        }
        if self.meta.is_empty() { patch } else { patch.metadata(self.meta) }
    }
}

/// Returns the field that a name given to --unset means.
pub(crate) fn field_of(name: &str) -> String {
    let name = name.trim_start_matches('-').replace('-', "_");
    let known = UNSET_NAMES.iter().find(|(flag, _)| *flag == name);
    known.map_or(name, |(_, field)| (*field).to_owned())
}

/// Returns a time by the clock of a zone.
pub(crate) fn in_zone(time: Millis, zone: &str) -> String {
    match Zone::named(zone) {
        Ok(zone) => zone.show(time),
        Err(_) => format_time(time),
    }
}

pub(crate) fn millis(time: Option<&z4_proto::Timestamp>) -> Option<Millis> {
    z4_proto::convert::millis(*time?, "time").ok()
}

fn span(span: Option<&z4_proto::Duration>) -> Option<Duration> {
    z4_proto::convert::duration(*span?, "span").ok().map(|span| Duration::from_millis(span.0))
}

/// Returns the word for a policy.
pub(crate) fn overlap_text(policy: OverlapPolicy) -> &'static str {
    match policy {
        OverlapPolicy::Allow => "allow",
        OverlapPolicy::Unspecified | OverlapPolicy::Skip => "skip",
        OverlapPolicy::BufferOne => "buffer-one",
        OverlapPolicy::CancelPrevious => "cancel-previous",
    }
}

/// Returns when a schedule fires next, in words.
pub(crate) fn next_text(status: &ScheduleStatus) -> String {
    let zone = status.schedule.as_ref().map_or("UTC", |schedule| &schedule.time_zone);
    if status.pause.is_some() {
        return "paused".to_owned();
    }
    let next = millis(status.next_slots.first());
    next.map_or("no more".to_owned(), |next| in_zone(next, zone))
}

/// Prints a schedule.
pub(crate) fn show(status: &ScheduleStatus, json: bool) -> Result<(), Failure> {
    if json {
        return crate::output::json(&status_json(status));
    }
    let pairs = pairs(status);
    let pairs: Vec<(&str, String)> = pairs.iter().map(|(name, value)| (*name, value.clone())).collect();
    crate::output::fields(&pairs)
}

fn pairs(status: &ScheduleStatus) -> Vec<(&'static str, String)> {
    let schedule = status.schedule.clone().unwrap_or_default();
    let zone = schedule.time_zone.as_str();
    let shown = |time: Option<&z4_proto::Timestamp>| millis(time).map(|time| in_zone(time, zone));
    let mut pairs = vec![
        ("queue", status.queue.clone()),
        ("name", status.name.clone()),
        ("etag", status.etag.clone()),
        ("cron", schedule.cron.clone()),
        ("time_zone", zone.to_owned()),
    ];
    if let Some(pause) = &status.pause {
        let by = if pause.author.is_empty() { String::new() } else { format!(" by {}", pause.author) };
        let since = shown(pause.at.as_ref()).map(|at| format!(" since {at}")).unwrap_or_default();
        let note = if pause.note.is_empty() { String::new() } else { format!(": {}", pause.note) };
        pairs.push(("paused", format!("yes{by}{since}{note}")));
    } else {
        pairs.push(("next", next_text(status)));
    }
    pairs.extend(shown(schedule.start_at.as_ref()).map(|time| ("start_at", time)));
    pairs.extend(shown(schedule.end_at.as_ref()).map(|time| ("end_at", time)));
    pairs.push(("overlap", overlap_text(schedule.overlap()).to_owned()));
    let catch_up = span(schedule.catch_up_window.as_ref()).map(format_exact);
    pairs.extend(catch_up.map(|span| ("catch_up", span)));
    pairs.extend(span(schedule.jitter.as_ref()).map(|span| ("jitter", format_exact(span))));
    if let Some(task) = &schedule.task {
        pairs.push(("payload", preview(&task.payload)));
        pairs.extend(task.priority.map(|priority| ("priority", priority.to_string())));
        pairs.extend(task.max_attempts.map(|attempts| ("max_attempts", attempts.to_string())));
        pairs.extend(span(task.ttl.as_ref()).map(|ttl| ("ttl", format_exact(ttl))));
        pairs.extend((!task.group.is_empty()).then(|| ("group", task.group.clone())));
        let labels: Vec<String> = task.metadata.iter().map(|(key, value)| format!("{key}={value}")).collect();
        pairs.extend((!labels.is_empty()).then(|| ("meta", labels.join(" "))));
    }
    if !status.last_task_id.is_empty() {
        let slot = shown(status.last_slot.as_ref()).unwrap_or_default();
        pairs.push(("last", format!("{} for {slot}", status.last_task_id)));
    }
    pairs.extend(shown(status.buffered_slot.as_ref()).map(|slot| ("remembered", slot)));
    let counts: Vec<String> = counts(status).iter().map(|(name, count)| format!("{name} {count}")).collect();
    pairs.push(("slots", counts.join(", ")));
    pairs
}

fn counts(status: &ScheduleStatus) -> [(&'static str, u64); 6] {
    let counts = status.counts.unwrap_or_default();
    [
        ("fired", counts.fired),
        ("overlapped", counts.overlapped),
        ("late", counts.late),
        ("refused", counts.refused),
        ("buffered", counts.buffered),
        ("dropped", counts.dropped),
    ]
}

fn time_json(time: Option<&z4_proto::Timestamp>) -> Value {
    millis(time).map_or(Value::Null, |time| json!(format_time(time)))
}

/// Returns a schedule as JSON.
pub(crate) fn status_json(status: &ScheduleStatus) -> Value {
    let schedule = status.schedule.clone().unwrap_or_default();
    let task = schedule.task.clone().unwrap_or_default();
    let next: Vec<Value> = status.next_slots.iter().map(|slot| time_json(Some(slot))).collect();
    let counts: Map<String, Value> =
        counts(status).iter().map(|(name, count)| ((*name).to_owned(), json!(count))).collect();
    let text = |span: Option<Duration>| span.map_or(Value::Null, |span| json!(format_exact(span)));
    json!({
        "queue": status.queue,
        "name": status.name,
        "etag": status.etag,
        "cron": schedule.cron,
        "time_zone": schedule.time_zone,
        "start_at": time_json(schedule.start_at.as_ref()),
        "end_at": time_json(schedule.end_at.as_ref()),
        "overlap": overlap_text(schedule.overlap()),
        "catch_up": text(span(schedule.catch_up_window.as_ref())),
        "jitter": text(span(schedule.jitter.as_ref())),
        "task": {
            "payload": String::from_utf8_lossy(&task.payload),
            "metadata": task.metadata,
            "priority": task.priority,
            "max_attempts": task.max_attempts,
            "ttl": text(span(task.ttl.as_ref())),
            "group": (!task.group.is_empty()).then_some(&task.group),
        },
        "created_at": time_json(status.created_at.as_ref()),
        "paused": status.pause.as_ref().map(|pause| json!({
            "note": pause.note, "author": pause.author, "at": time_json(pause.at.as_ref()),
        })),
        "next_slots": next,
        "buffered_slot": time_json(status.buffered_slot.as_ref()),
        "last_task": (!status.last_task_id.is_empty()).then_some(&status.last_task_id),
        "last_slot": time_json(status.last_slot.as_ref()),
        "slots": counts,
    })
}

/// Returns what became of a slot in a word, and what there is to say of it.
pub(crate) fn fate(record: &SlotRecord, zone: &str) -> (&'static str, String) {
    match record.fate() {
        SlotFate::Fired if record.cancelled_task_id.is_empty() => ("fired", record.task_id.clone()),
        SlotFate::Fired => ("fired", format!("{}, cancelled {}", record.task_id, record.cancelled_task_id)),
        SlotFate::Overlapped => ("overlapped", format!("{} is open", record.task_id)),
        SlotFate::Buffered => ("buffered", format!("until {} has ended", record.task_id)),
        SlotFate::Late => {
            let last = millis(record.last_slot.as_ref()).map(|last| in_zone(last, zone)).unwrap_or_default();
            ("late", format!("{} slots up to {last}", record.late_slots))
        }
        SlotFate::Refused => ("refused", record.why.clone()),
        SlotFate::Dropped => ("dropped", "the schedule was paused".to_owned()),
        SlotFate::Unspecified => ("unknown", "this tool is older than the server".to_owned()),
    }
}

/// Returns what became of a slot as JSON.
pub(crate) fn record_json(record: &SlotRecord) -> Value {
    let (fate, _) = fate(record, "UTC");
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let mut value = json!({
        "number": record.number,
        "slot": time_json(record.slot.as_ref()),
        "at": time_json(record.at.as_ref()),
        "fate": fate,
    });
    if let Some(map) = value.as_object_mut() {
        let mut put = |key: &str, text: Option<String>| {
            if let Some(text) = text {
                map.insert(key.to_owned(), json!(text));
            }
        };
        put("task", some(&record.task_id));
        put("cancelled_task", some(&record.cancelled_task_id));
        put("why", some(&record.why));
        if record.late_slots > 0 {
            map.insert("late_slots".to_owned(), json!(record.late_slots));
            map.insert("last_slot".to_owned(), time_json(record.last_slot.as_ref()));
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_name_their_fields_when_they_are_unset() {
        assert_eq!(field_of("--catch-up"), "catch_up_window");
        assert_eq!(field_of("ttl"), "task.ttl");
        assert_eq!(field_of("end-at"), "end_at");
    }

    #[test]
    fn slots_are_shown_by_the_clock_of_their_zone() {
        let slot = Millis(1_774_746_000_000);
        assert_eq!(in_zone(slot, "Europe/Berlin"), "2026-03-29T03:00:00+02:00");
        assert_eq!(in_zone(slot, "Mars/Olympus"), "2026-03-29T01:00:00.000Z");
    }

    #[test]
    fn fates_are_told_with_what_belongs_to_them() {
        let mut record = SlotRecord { task_id: "t".into(), ..SlotRecord::default() };
        record.set_fate(SlotFate::Fired);
        record.cancelled_task_id = "u".into();
        assert_eq!(fate(&record, "UTC"), ("fired", "t, cancelled u".to_owned()));
        assert_eq!(record_json(&record)["cancelled_task"], "u");
        record.set_fate(SlotFate::Late);
        (record.late_slots, record.last_slot) = (3, Some(z4_proto::Timestamp::default()));
        assert_eq!(fate(&record, "UTC").1, "3 slots up to 1970-01-01T00:00:00+00:00");
        assert_eq!(record_json(&record)["late_slots"], 3);
    }
}
