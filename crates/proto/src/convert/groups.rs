//! Groups of a queue: what is set of one, as a patch, and what it is, as a message.

use prost_types::FieldMask;
use z4_tasks::command::SetGroup;
use z4_tasks::{GroupFields, GroupInfo, GroupPatch, GroupSettings, Invalid};
use z4_types::QueueName;

use super::queues::{pb_rate, rate};
use super::timestamp;
use crate::status::Failure;
use crate::{reason, v1};

/// Every field: its path in `GroupSettings`, and the machine's.
const PATHS: [(&str, GroupFields); 4] = [
    ("weight", GroupFields::WEIGHT),
    ("serial", GroupFields::SERIAL),
    ("concurrency", GroupFields::CONCURRENCY),
    ("rate", GroupFields::RATE),
];

/// Returns the name of a group, checked.
///
/// # Errors
/// `Invalid` if it is empty or too long.
pub fn group_name(queue: &QueueName, group: &str) -> Result<String, Failure> {
    let nothing = SetGroup { queue: queue.clone(), group: group.to_owned(), patch: GroupPatch::default() };
    nothing.check().map_err(out_of_limits)?;
    Ok(nothing.group)
}

/// Returns the command that changes what is set of a group, checked: the fields that `mask` names, or those that are set.
///
/// # Errors
/// `Invalid` with the field, or with the path of the mask that names none.
pub fn set_group(
    queue: QueueName,
    group: &str,
    settings: Option<v1::GroupSettings>,
    mask: Option<&FieldMask>,
) -> Result<SetGroup, Failure> {
    let pb = settings.unwrap_or_default();
    let rate = pb.rate.map(|pb| rate(pb, "settings.rate.per_second")).transpose()?;
    let mut set = GroupSettings { weight: pb.weight, serial: pb.serial, concurrency: pb.concurrency, rate };
    let paths = mask.map_or(&[][..], |mask| &mask.paths);
    let mut clear = GroupFields::default();
    for path in paths {
        clear.0 |= named(path)?.0;
    }
    if !paths.is_empty() {
        let others = GroupFields(GroupFields::ALL.0 & !clear.0);
        set.patch(&GroupPatch { set: GroupSettings::default(), clear: others });
    }
    let command = SetGroup { queue, group: group.to_owned(), patch: GroupPatch { set, clear } };
    command.check().map_err(out_of_limits)?;
    Ok(command)
}

fn named(path: &str) -> Result<GroupFields, Failure> {
    if path == "*" {
        return Ok(GroupFields::ALL);
    }
    PATHS.iter().find(|(known, _)| *known == path).map(|(_, field)| *field).ok_or_else(|| {
        let known = PATHS.map(|(known, _)| known).join(", ");
        let what = format!("{path:?} is no setting of a group; name one of {known}");
        Failure::invalid("update_mask", reason::FIELD_INVALID, what)
    })
}

/// Returns a limit that is broken, by the names of the request.
fn out_of_limits(Invalid { field, problem }: Invalid) -> Failure {
    match field {
        "group" => Failure::invalid("group", reason::FIELD_INVALID, problem),
        field => Failure::invalid(&format!("settings.{field}"), reason::FIELD_INVALID, problem),
    }
}

/// Returns a group as its message.
#[must_use]
pub fn pb_group(info: &GroupInfo) -> v1::Group {
    v1::Group {
        name: info.name.clone(),
        waiting: info.waiting,
        leased: info.leased,
        first_due_at: info.first_due.map(timestamp),
        blocked_until: info.blocked_until.map(timestamp),
        settings: Some(pb_settings(&info.settings)),
        effective: Some(pb_settings(&info.effective)),
    }
}

fn pb_settings(settings: &GroupSettings) -> v1::GroupSettings {
    v1::GroupSettings {
        weight: settings.weight,
        serial: settings.serial,
        concurrency: settings.concurrency,
        rate: settings.rate.map(pb_rate),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue() -> QueueName {
        QueueName::new("mail").expect("valid")
    }

    fn mask(paths: &[&str]) -> FieldMask {
        FieldMask { paths: paths.iter().map(|path| (*path).to_owned()).collect() }
    }

    #[test]
    fn a_mask_says_what_is_set_and_what_is_cleared() {
        let pb = v1::GroupSettings { weight: Some(3), concurrency: Some(2), ..Default::default() };
        let set =
            |paths: &[&str]| set_group(queue(), "acme", Some(pb), Some(&mask(paths))).expect("fine").patch;
        let all = set(&[]);
        assert_eq!((all.set.weight, all.set.concurrency, all.clear), (Some(3), Some(2), GroupFields(0)));
        let one = set(&["weight", "rate"]);
        assert_eq!((one.set.weight, one.set.concurrency), (Some(3), None));
        assert_eq!(one.clear.0, GroupFields::WEIGHT.0 | GroupFields::RATE.0);
        assert_eq!(set(&["*"]).clear, GroupFields::ALL);
        let wrong = set_group(queue(), "acme", None, Some(&mask(&["colour"]))).expect_err("no such field");
        assert!(wrong.message.contains("weight, serial, concurrency, rate"), "{}", wrong.message);
    }

    #[test]
    fn zero_is_no_limit_and_no_weight_and_a_group_has_a_name() {
        let check = |field: &str, pb: v1::GroupSettings| {
            let failure = set_group(queue(), "acme", Some(pb), None).expect_err(field);
            assert_eq!(failure.field.as_deref(), Some(field), "{}", failure.message);
        };
        check("settings.weight", v1::GroupSettings { weight: Some(0), ..Default::default() });
        check("settings.weight", v1::GroupSettings { weight: Some(1_001), ..Default::default() });
        check("settings.concurrency", v1::GroupSettings { concurrency: Some(0), ..Default::default() });
        let rate = Some(v1::Rate { per_second: 0.0, burst: None });
        check("settings.rate.per_second", v1::GroupSettings { rate, ..Default::default() });
        assert_eq!(group_name(&queue(), "").expect_err("empty").field.as_deref(), Some("group"));
        assert!(group_name(&queue(), &"x".repeat(256)).is_err());
    }
}
