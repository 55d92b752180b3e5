//! Changes of tasks that are there: ids with their etags, and the new values that a mask names.

use bytes::Bytes;
use prost_types::FieldMask;
use z4_tasks::command::{Due, Target, UpdateTask};
use z4_types::{Millis, Priority, TaskId};

use super::{duration, etag, millis, out_of_limits, task_id};
use crate::status::Failure;
use crate::{reason, v1};

/// What a mask may name.
const PATHS: &str = "schedule, deliver_at, delay, priority, payload, metadata";

/// New values of a task, whichever it is. What is None stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// When it is due.
    pub due: Option<Due>,
    /// Its order among due tasks.
    pub priority: Option<Priority>,
    /// What the consumer gets.
    pub payload: Option<Bytes>,
    /// All its labels, sorted by key.
    pub metadata: Option<Vec<(String, String)>>,
}

impl Change {
    /// Returns the command that makes this change to one task.
    #[must_use]
    pub fn of(&self, target: Target) -> UpdateTask {
        let Self { due, priority, payload, metadata } = self.clone();
        UpdateTask { target, due, priority, payload, metadata }
    }
}

/// Returns the tasks that a request names, each with its etag, converted or refused.
///
/// # Errors
/// `Invalid` if there are etags, and not one for each id.
pub fn targets<'a>(
    ids: &'a [String],
    etags: &'a [String],
) -> Result<impl ExactSizeIterator<Item = Result<(TaskId, Option<u64>), Failure>> + use<'a>, Failure> {
    if !etags.is_empty() && etags.len() != ids.len() {
        let what = format_args!(
            "has {} for {} ids; give one for each, an empty one where any will do, or none at all",
            etags.len(),
            ids.len()
        );
        return Err(Failure::invalid("etags", reason::FIELD_INVALID, what));
    }
    Ok(ids.iter().enumerate().map(|(at, id)| {
        let id = task_id(id, "id")?;
        let etag = etags.get(at).map_or(Ok(None), |text| etag(text))?;
        Ok((id, etag))
    }))
}

/// Returns what a request changes, checked: the fields that `mask` names, or those that are set.
///
/// # Errors
/// `Invalid` with the field below `update`, or with the path of the mask that names none; if nothing is changed.
pub fn change(update: Option<v1::TaskUpdate>, mask: Option<&FieldMask>) -> Result<Change, Failure> {
    use v1::task_update::Schedule;

    let pb = update.unwrap_or_default();
    let due = match pb.schedule {
        None => None,
        Some(Schedule::DeliverAt(time)) => Some(Due::At(millis(time, "update.deliver_at")?)),
        Some(Schedule::Delay(span)) => Some(Due::After(duration(span, "update.delay")?)),
    };
    let priority = pb.priority.map(|number| {
        u8::try_from(number).map(Priority).map_err(|_| {
            let what = format_args!("{number} is not in 0 to 255");
            Failure::invalid("update.priority", reason::FIELD_INVALID, what)
        })
    });
    let priority = priority.transpose()?;
    let labels: Vec<(String, String)> = pb.metadata.into_iter().collect();
    let paths = mask.map_or(&[][..], |mask| &mask.paths);
    let mut change = Change::default();
    if paths.is_empty() {
        let metadata = Some(labels).filter(|labels| !labels.is_empty());
        change = Change { due, priority, payload: pb.payload, metadata };
    } else {
        for path in paths {
            match path.as_str() {
                "schedule" | "deliver_at" | "delay" => change.due = Some(due.unwrap_or(Due::Now)),
                "priority" if priority.is_none() => {
                    let what = "is named by the mask and not set; a task always has one, 128 is the usual";
                    return Err(Failure::invalid("update.priority", reason::FIELD_MISSING, what));
                }
                "priority" => change.priority = priority,
                "payload" => change.payload = Some(pb.payload.clone().unwrap_or_default()),
                "metadata" => change.metadata = Some(labels.clone()),
                path => {
                    let what = format_args!("{path:?} cannot be changed; name some of {PATHS}");
                    return Err(Failure::invalid("update_mask", reason::FIELD_INVALID, what));
                }
            }
        }
    }
    if change == Change::default() {
        let what = format_args!("changes nothing; set some of {PATHS}");
        return Err(Failure::invalid("update", reason::FIELD_MISSING, what));
    }
    // Whichever task it will be of: limits are those of its values.
    change.of(any_task()).check().map_err(|invalid| below_update(out_of_limits(invalid)))?;
    Ok(change)
}

fn any_task() -> Target {
    Target::id(TaskId::new(Millis(0), z4_types::ShardId(0), 0), None)
}

fn below_update(mut failure: Failure) -> Failure {
    failure.message = format!("update.{}", failure.message);
    failure.field = failure.field.map(|field| format!("update.{field}"));
    failure
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(paths: &[&str]) -> FieldMask {
        FieldMask { paths: paths.iter().map(|path| (*path).to_owned()).collect() }
    }

    #[test]
    fn what_is_set_or_named_is_changed_and_nothing_else() {
        let pb = v1::TaskUpdate {
            priority: Some(7),
            payload: Some(Bytes::from_static(b"x")),
            metadata: [("a".to_owned(), "b".to_owned())].into(),
            schedule: None,
        };
        let all = change(Some(pb.clone()), None).expect("fine");
        assert_eq!((all.due, all.priority), (None, Some(Priority(7))));
        assert_eq!(all.metadata, Some(vec![("a".to_owned(), "b".to_owned())]));
        let some = change(Some(pb), Some(&mask(&["priority", "schedule"]))).expect("fine");
        let due = Some(Due::Now);
        assert_eq!(some, Change { due, priority: Some(Priority(7)), payload: None, metadata: None });
        let cleared = change(None, Some(&mask(&["payload", "metadata"]))).expect("fine");
        assert_eq!((cleared.payload, cleared.metadata), (Some(Bytes::new()), Some(Vec::new())));
    }

    #[test]
    fn what_cannot_be_is_named_as_in_the_request() {
        let check = |field: &str, update: v1::TaskUpdate, paths: &[&str]| {
            let failure = change(Some(update), Some(&mask(paths))).expect_err(field);
            assert_eq!(failure.field.as_deref(), Some(field), "{}", failure.message);
            assert!(failure.message.starts_with(field), "{}", failure.message);
        };
        check("update", v1::TaskUpdate::default(), &[]);
        check("update_mask", v1::TaskUpdate::default(), &["group"]);
        check("update.priority", v1::TaskUpdate::default(), &["priority"]);
        check("update.priority", v1::TaskUpdate { priority: Some(256), ..Default::default() }, &[]);
        let payload = Some(vec![0; (1 << 20) + 1].into());
        check("update.payload", v1::TaskUpdate { payload, ..Default::default() }, &[]);
    }

    #[test]
    fn etags_come_for_all_ids_or_for_none() {
        let ids = [TaskId(1).to_string(), "x".to_owned()];
        let etags = ["0000000000000007".to_owned(), String::new()];
        let read: Vec<_> = targets(&ids, &etags).expect("one each").collect();
        assert_eq!(read[0], Ok((TaskId(1), Some(7))));
        assert!(read[1].is_err());
        assert_eq!(targets(&ids, &[]).expect("none").next(), Some(Ok((TaskId(1), None))));
        assert!(targets(&ids, &etags[..1]).is_err());
    }
}
