//! Settings of queues: messages to [`Settings`] and patches, and back.
//!
//! The messages nest what the machine keeps flat (`groups.weight` is its `group_weight`); one table says which is which, for
//! update masks, for refusals and for the sources of what is in effect. A mask names what is set as a whole: the four fields of
//! `groups` each, of the other messages no part.
//!
//! # Not here
//! - The limits of each field: [`Settings::check`]. Here its refusals get the names of the request.

use prost_types::FieldMask;
use z4_tasks::command::{PurgeStates, SetMode, SetQueue};
use z4_tasks::{Breaker, Effective, Fields, Invalid, Patch, Rate, Retention, Settings, check_pattern};
use z4_types::{Duration, Priority, QueueName};

use super::{duration, pb_duration, pb_retry, retry};
use crate::status::Failure;
use crate::{reason, v1};

/// Every field: its path in `QueueSettings`, and the machine's.
const PATHS: [(&str, Fields); 17] = [
    ("lease_duration", Fields::LEASE_DURATION),
    ("retry", Fields::RETRY),
    ("max_attempts", Fields::MAX_ATTEMPTS),
    ("non_retryable_reasons", Fields::NON_RETRYABLE),
    ("retention", Fields::RETENTION),
    ("default_ttl", Fields::TTL),
    ("default_priority", Fields::PRIORITY),
    ("max_backlog", Fields::MAX_BACKLOG),
    ("rate", Fields::RATE),
    ("concurrency", Fields::CONCURRENCY),
    ("groups.concurrency", Fields::GROUP_CONCURRENCY),
    ("groups.rate", Fields::GROUP_RATE),
    ("groups.weight", Fields::GROUP_WEIGHT),
    ("groups.serial", Fields::GROUP_SERIAL),
    ("ageing", Fields::AGEING),
    ("breaker", Fields::BREAKER),
    ("events_kept", Fields::EVENTS),
];

/// A breaker's unset fields.
const BREAKER_DEFAULT: Breaker = Breaker {
    deliveries: 20,
    failure_percent: 95,
    window: Duration::from_secs(60),
    cool_down: Duration::from_secs(60),
};

/// Most thousandths of a rate that a double holds exactly; far above the limit.
const THOUSANDTHS_MAX: f64 = 9_007_199_254_740_992.0;

/// Returns the path of one field in `QueueSettings`.
#[must_use]
pub fn field_path(field: Fields) -> &'static str {
    PATHS.iter().find(|(_, known)| *known == field).map_or("", |(path, _)| path)
}

/// Returns an etag as its text.
#[must_use]
pub fn etag_text(etag: u64) -> String {
    format!("{etag:016x}")
}

/// Returns the etag that a text is; an empty one is none.
///
/// # Errors
/// `Invalid` if no answer named it.
pub fn etag(text: &str) -> Result<Option<u64>, Failure> {
    if text.is_empty() {
        return Ok(None);
    }
    let hex = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    match u64::from_str_radix(text, 16) {
        Ok(etag) if hex => Ok(Some(etag)),
        _ => {
            let what = "is not one that this server gave; leave it out, or read it again";
            Err(Failure::invalid("etag", reason::ETAG_INVALID, what))
        }
    }
}

/// Returns the states of a purge; none named: waiting.
///
/// # Errors
/// `Invalid` if a state is unknown.
pub fn purge_states(states: &[i32]) -> Result<PurgeStates, Failure> {
    use v1::PurgeState as Pb;

    let bits = states.iter().map(|&state| match Pb::try_from(state) {
        Ok(Pb::Waiting) => Ok(PurgeStates::WAITING.0),
        Ok(Pb::Leased) => Ok(PurgeStates::LEASED.0),
        Ok(Pb::Dead) => Ok(PurgeStates::DEAD.0),
        Ok(Pb::Finished) => Ok(PurgeStates::FINISHED.0),
        Ok(Pb::Unspecified) | Err(_) => {
            let what = format_args!("{state} is no PurgeState; give 1 to 4, or none for waiting tasks");
            Err(Failure::invalid("states", reason::FIELD_INVALID, what))
        }
    });
    let bits = bits.sum::<Result<PurgeBits, _>>()?;
    Ok(if bits.0 == 0 { PurgeStates::WAITING } else { PurgeStates(bits.0) })
}

/// Bits that add up however often one is named.
struct PurgeBits(u8);

impl std::iter::Sum<u8> for PurgeBits {
    fn sum<I: Iterator<Item = u8>>(bits: I) -> Self {
        Self(bits.fold(0, |all, bit| all | bit))
    }
}

/// Returns the command that makes or changes a queue, checked.
///
/// # Errors
/// `Invalid` with the field.
pub fn set_queue(
    queue: QueueName,
    mode: SetMode,
    etag: Option<u64>,
    patch: Patch,
) -> Result<SetQueue, Failure> {
    let set = SetQueue { queue, mode, etag, patch };
    set.check().map_err(out_of_limits)?;
    Ok(set)
}

/// Returns what a request changes: the fields that `mask` names, or those that are set.
///
/// # Errors
/// `Invalid` with the field, or with the path of the mask that names none.
pub fn patch(settings: Option<v1::QueueSettings>, mask: Option<&FieldMask>) -> Result<Patch, Failure> {
    let mut set = self::settings(settings.unwrap_or_default())?;
    let paths = mask.map_or(&[][..], |mask| &mask.paths);
    if paths.is_empty() {
        return Ok(Patch { set, clear: Fields::default() });
    }
    let mut clear = Fields::default();
    for path in paths {
        clear = clear.union(named(path)?);
    }
    let others = PATHS.iter().filter(|(_, field)| !clear.contains(*field));
    let others = others.fold(Fields::default(), |all, (_, field)| all.union(*field));
    set.patch(&Patch { set: Settings::default(), clear: others });
    Ok(Patch { set, clear })
}

/// Returns the fields that a path of a mask names.
fn named(path: &str) -> Result<Fields, Failure> {
    let below = |prefix: &str| {
        let fields = PATHS.iter().filter(|(known, _)| prefix.is_empty() || known.starts_with(prefix));
        fields.fold(Fields::default(), |all, (_, field)| all.union(*field))
    };
    match path {
        "*" => return Ok(below("")),
        "groups" => return Ok(below("groups.")),
        _ => {}
    }
    if let Some((_, field)) = PATHS.iter().find(|(known, _)| *known == path) {
        return Ok(*field);
    }
    let whole =
        PATHS.iter().find(|(known, _)| path.strip_prefix(known).is_some_and(|rest| rest.starts_with('.')));
    let what = match whole {
        Some((known, _)) => format!("{path:?} is a part of {known}, which is set as a whole; name {known}"),
        None => {
            let known = PATHS.map(|(known, _)| known).join(", ");
            format!("{path:?} is no setting of a queue; name one of {known}")
        }
    };
    Err(Failure::invalid("update_mask", reason::FIELD_INVALID, what))
}

/// Returns a policy: its pattern and all that is set for it, checked.
///
/// # Errors
/// `Invalid` with the field.
pub fn policy(pb: Option<v1::Policy>) -> Result<(String, Settings), Failure> {
    let Some(v1::Policy { pattern, settings }) = pb else {
        let what = "is missing; give a pattern and the settings of the queues that match it";
        return Err(Failure::invalid("policy", reason::FIELD_MISSING, what));
    };
    let below_policy = |mut failure: Failure| {
        failure.message = format!("policy.{}", failure.message);
        failure.field = failure.field.map(|field| format!("policy.{field}"));
        failure
    };
    check_pattern(&pattern).map_err(|invalid| {
        below_policy(Failure::invalid(invalid.field, reason::FIELD_INVALID, invalid.problem))
    })?;
    let settings = self::settings(settings.unwrap_or_default()).map_err(below_policy)?;
    if settings.fields() == Fields::default() {
        let what = "sets nothing; give at least one setting, or delete the policy";
        return Err(below_policy(Failure::invalid("settings", reason::FIELD_MISSING, what)));
    }
    settings.check().map_err(|invalid| below_policy(out_of_limits(invalid)))?;
    Ok((pattern, settings))
}

/// Returns a policy as its message.
#[must_use]
pub fn pb_policy(pattern: String, settings: &Settings) -> v1::Policy {
    v1::Policy { pattern, settings: Some(pb_settings(settings)) }
}

/// Returns the settings that a message sets. Their limits are checked with the command.
///
/// # Errors
/// `Invalid` with the field, below `settings`.
pub fn settings(pb: v1::QueueSettings) -> Result<Settings, Failure> {
    convert(pb).map_err(below_settings)
}

fn convert(pb: v1::QueueSettings) -> Result<Settings, Failure> {
    let groups = pb.groups.unwrap_or_default();
    let span = |span: Option<_>, field| span.map(|span| duration(span, field)).transpose();
    let priority = |number: u32| {
        u8::try_from(number).map(Priority).map_err(|_| {
            let what = format_args!("{number} is not in 0 to 255");
            Failure::invalid("default_priority", reason::FIELD_INVALID, what)
        })
    };
    Ok(Settings {
        lease_duration: span(pb.lease_duration, "lease_duration")?,
        retry: pb.retry.map(retry).transpose()?,
        max_attempts: pb.max_attempts,
        non_retryable: pb.non_retryable_reasons.map(|list| list.reasons),
        retention: pb.retention.map(retention).transpose()?,
        ttl: span(pb.default_ttl, "default_ttl")?,
        priority: pb.default_priority.map(priority).transpose()?,
        max_backlog: pb.max_backlog,
        rate: pb.rate.map(|pb| rate(pb, "rate.per_second")).transpose()?,
        concurrency: pb.concurrency,
        group_concurrency: groups.concurrency,
        group_rate: groups.rate.map(|pb| rate(pb, "groups.rate.per_second")).transpose()?,
        group_weight: groups.weight,
        group_serial: groups.serial,
        ageing: span(pb.ageing, "ageing")?,
        breaker: pb.breaker.map(breaker).transpose()?,
        events: pb.events_kept,
    })
}

fn retention(pb: v1::Retention) -> Result<Retention, Failure> {
    let age = pb.age.map_or(Ok(Duration(0)), |age| duration(age, "retention.age"))?;
    if age == Duration(0) && pb.count.is_some() {
        let what = "is not set, so no finished task is kept, whatever the count; give how long to keep them";
        return Err(Failure::invalid("retention.age", reason::FIELD_MISSING, what));
    }
    Ok(Retention { age, count: pb.count })
}

pub(super) fn rate(pb: v1::Rate, field: &'static str) -> Result<Rate, Failure> {
    let thousandths = (pb.per_second * 1_000.0).round();
    if !(1.0..=THOUSANDTHS_MAX).contains(&thousandths) {
        let what =
            format_args!("{} is no rate; give 0.001 to 1,000,000, or clear it for no limit", pb.per_second);
        return Err(Failure::invalid(field, reason::FIELD_INVALID, what));
    }
    let thousandths = thousandths as u64;
    let second = u32::try_from(thousandths.div_ceil(1_000)).unwrap_or(u32::MAX);
    Ok(Rate { thousandths, burst: pb.burst.unwrap_or(second) })
}

fn breaker(pb: v1::Breaker) -> Result<Breaker, Failure> {
    let span = |span: Option<_>, field, usual| span.map_or(Ok(usual), |span| duration(span, field));
    let usual = BREAKER_DEFAULT;
    Ok(Breaker {
        deliveries: pb.min_deliveries.unwrap_or(usual.deliveries),
        failure_percent: pb
            .failure_percent
            .map_or(usual.failure_percent, |percent| u8::try_from(percent).unwrap_or(u8::MAX)),
        window: span(pb.window, "breaker.window", usual.window)?,
        cool_down: span(pb.cool_down, "breaker.cool_down", usual.cool_down)?,
    })
}

/// Returns a limit that is broken, by the names of the request.
fn out_of_limits(Invalid { field, problem }: Invalid) -> Failure {
    let field = match field {
        "etag" => return Failure::invalid("etag", reason::FIELD_INVALID, problem),
        "non_retryable" => "non_retryable_reasons".to_owned(),
        "ttl" => "default_ttl".to_owned(),
        "events.count" => "events_kept".to_owned(),
        field => match field.strip_prefix("group.") {
            Some(rest) => format!("groups.{rest}"),
            None => field.to_owned(),
        },
    };
    below_settings(Failure::invalid(&field, reason::FIELD_INVALID, problem))
}

fn below_settings(mut failure: Failure) -> Failure {
    failure.message = format!("settings.{}", failure.message);
    failure.field = failure.field.map(|field| format!("settings.{field}"));
    failure
}

/// Returns settings as their message.
#[must_use]
pub fn pb_settings(settings: &Settings) -> v1::QueueSettings {
    let groups = v1::GroupSettings {
        concurrency: settings.group_concurrency,
        rate: settings.group_rate.map(pb_rate),
        weight: settings.group_weight,
        serial: settings.group_serial,
    };
    v1::QueueSettings {
        lease_duration: settings.lease_duration.map(pb_duration),
        retry: settings.retry.map(pb_retry),
        max_attempts: settings.max_attempts,
        non_retryable_reasons: settings.non_retryable.clone().map(|reasons| v1::ReasonList { reasons }),
        retention: settings.retention.map(pb_retention),
        default_ttl: settings.ttl.map(pb_duration),
        default_priority: settings.priority.map(|priority| priority.0.into()),
        max_backlog: settings.max_backlog,
        rate: settings.rate.map(pb_rate),
        concurrency: settings.concurrency,
        groups: (groups != v1::GroupSettings::default()).then_some(groups),
        ageing: settings.ageing.map(pb_duration),
        breaker: settings.breaker.map(pb_breaker),
        events_kept: settings.events,
    }
}

/// Returns what is in effect as settings of which all are set that have a value.
#[must_use]
pub fn pb_effective(effective: &Effective) -> v1::QueueSettings {
    let reasons = &effective.non_retryable;
    pb_settings(&Settings {
        lease_duration: Some(effective.lease_duration),
        retry: Some(effective.retry),
        max_attempts: Some(effective.max_attempts),
        non_retryable: (!reasons.is_empty()).then(|| reasons.clone()),
        retention: Some(effective.retention),
        ttl: effective.ttl,
        priority: Some(effective.priority),
        max_backlog: effective.max_backlog,
        rate: effective.rate,
        concurrency: effective.concurrency,
        group_concurrency: effective.group_concurrency,
        group_rate: effective.group_rate,
        group_weight: Some(effective.group_weight),
        group_serial: Some(effective.group_serial),
        ageing: effective.ageing,
        breaker: effective.breaker,
        events: Some(effective.events),
    })
}

fn pb_retention(retention: Retention) -> v1::Retention {
    v1::Retention { age: Some(pb_duration(retention.age)), count: retention.count }
}

pub(super) fn pb_rate(rate: Rate) -> v1::Rate {
    v1::Rate { per_second: rate.thousandths as f64 / 1_000.0, burst: Some(rate.burst) }
}

fn pb_breaker(breaker: Breaker) -> v1::Breaker {
    v1::Breaker {
        min_deliveries: Some(breaker.deliveries),
        failure_percent: Some(breaker.failure_percent.into()),
        window: Some(pb_duration(breaker.window)),
        cool_down: Some(pb_duration(breaker.cool_down)),
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

    fn full() -> v1::QueueSettings {
        let span = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
        v1::QueueSettings {
            lease_duration: span(60),
            retry: Some(v1::RetryPolicy::default()),
            max_attempts: Some(3),
            non_retryable_reasons: Some(v1::ReasonList { reasons: vec!["no such user".into()] }),
            retention: Some(v1::Retention { age: span(3_600), count: Some(10) }),
            default_ttl: span(7),
            default_priority: Some(0),
            max_backlog: Some(9),
            rate: Some(v1::Rate { per_second: 0.5, burst: None }),
            concurrency: Some(4),
            groups: Some(v1::GroupSettings {
                concurrency: Some(1),
                rate: Some(v1::Rate { per_second: 2.25, burst: Some(7) }),
                weight: Some(10),
                serial: Some(false),
            }),
            ageing: span(1),
            breaker: Some(v1::Breaker::default()),
            events_kept: Some(0),
        }
    }

    #[test]
    fn settings_survive_their_message_and_unset_parts_get_their_defaults() {
        let first = settings(full()).expect("fine");
        assert_eq!(first.fields(), Fields::ALL);
        assert_eq!(first.rate, Some(Rate { thousandths: 500, burst: 1 }));
        assert_eq!(first.group_rate, Some(Rate { thousandths: 2_250, burst: 7 }));
        assert_eq!(first.breaker, Some(BREAKER_DEFAULT));
        assert_eq!(settings(pb_settings(&first)).expect("fine"), first);
        let none = settings(v1::QueueSettings::default()).expect("fine");
        assert_eq!((none.fields(), pb_settings(&none)), (Fields::default(), v1::QueueSettings::default()));
    }

    #[test]
    fn every_field_has_a_path_and_effective_settings_have_all_that_have_a_value() {
        let all = PATHS.iter().fold(Fields::default(), |all, (_, field)| all.union(*field));
        assert_eq!(all, Fields::ALL);
        assert_eq!(field_path(Fields::GROUP_WEIGHT), "groups.weight");
        let effective = pb_effective(&Effective::from(Settings::default()));
        assert_eq!((effective.max_attempts, effective.default_priority), (Some(20), Some(128)));
        assert_eq!((effective.rate, effective.non_retryable_reasons), (None, None));
        assert_eq!(effective.groups.expect("a weight").weight, Some(1));
    }

    #[test]
    fn a_mask_says_what_is_set_and_what_is_cleared() {
        let change = |paths: &[&str]| patch(Some(full()), Some(&mask(paths))).expect("fine");
        let without = patch(Some(full()), None).expect("fine");
        assert_eq!((without.set.fields(), without.clear), (Fields::ALL, Fields::default()));
        let weight = change(&["groups.weight"]);
        assert_eq!((weight.set.fields(), weight.clear), (Fields::GROUP_WEIGHT, Fields::GROUP_WEIGHT));
        assert_eq!(change(&["groups"]).set.fields().names().count(), 4);
        assert_eq!(change(&["*"]).clear, Fields::ALL);
        let cleared = patch(None, Some(&mask(&["rate", "default_ttl"]))).expect("fine");
        let fields = Fields::RATE.union(Fields::TTL);
        assert_eq!((cleared.set.fields(), cleared.clear), (Fields::default(), fields));
        for (path, words) in
            [("retry.max_delay", "name retry"), ("colour", "name one of"), ("", "name one of")]
        {
            let failure = patch(None, Some(&mask(&[path]))).expect_err(path);
            assert_eq!(failure.field.as_deref(), Some("update_mask"));
            assert!(failure.message.contains(words), "{}", failure.message);
        }
    }

    #[test]
    fn what_is_out_of_range_is_named_as_in_the_request() {
        let check = |field: &str, change: fn(&mut v1::QueueSettings)| {
            let mut pb = full();
            change(&mut pb);
            let set = patch(Some(pb), None)
                .and_then(|patch| set_queue(queue(), SetMode::Upsert, None, patch))
                .expect_err(field);
            assert_eq!(set.field.as_deref(), Some(field), "{}", set.message);
            assert!(set.message.starts_with(field), "{}", set.message);
        };
        check("settings.default_priority", |pb| pb.default_priority = Some(256));
        check("settings.default_ttl", |pb| pb.default_ttl = Some(prost_types::Duration::default()));
        check("settings.groups.weight", |pb| {
            pb.groups = Some(v1::GroupSettings { weight: Some(0), ..Default::default() })
        });
        check("settings.non_retryable_reasons", |pb| {
            pb.non_retryable_reasons = Some(v1::ReasonList { reasons: vec![String::new()] });
        });
        for per_second in [0.0, -1.0, f64::NAN, f64::INFINITY, 0.0001] {
            let pb =
                v1::QueueSettings { rate: Some(v1::Rate { per_second, burst: None }), ..Default::default() };
            assert_eq!(settings(pb).expect_err("no rate").field.as_deref(), Some("settings.rate.per_second"));
        }
        check("settings.rate.per_second", |pb| pb.rate = Some(v1::Rate { per_second: 1e9, burst: None }));
        check("settings.rate.burst", |pb| pb.rate = Some(v1::Rate { per_second: 1.0, burst: Some(0) }));
        check("settings.events_kept", |pb| pb.events_kept = Some(u64::MAX));
        check("settings.retention.age", |pb| {
            pb.retention = Some(v1::Retention { age: None, count: Some(1) })
        });
        check("settings.breaker.failure_percent", |pb| {
            pb.breaker = Some(v1::Breaker { failure_percent: Some(300), ..Default::default() });
        });
    }

    #[test]
    fn a_policy_names_a_pattern_and_something_to_set() {
        let policy = |pattern: &str, settings| {
            super::policy(Some(v1::Policy { pattern: pattern.into(), settings: Some(settings) }))
        };
        let (pattern, settings) = policy("acme/*", full()).expect("fine");
        assert_eq!((pattern.as_str(), settings.fields()), ("acme/*", Fields::ALL));
        assert_eq!(policy("acme/*", pb_settings(&settings)), Ok((pattern, settings)));
        let zero = v1::QueueSettings { max_attempts: Some(0), ..Default::default() };
        for (field, failure) in [
            ("policy", super::policy(None).expect_err("none")),
            ("policy.pattern", policy("acme*", full()).expect_err("no level")),
            ("policy.settings", policy("*", v1::QueueSettings::default()).expect_err("nothing")),
            ("policy.settings.max_attempts", policy("*", zero).expect_err("a limit")),
        ] {
            assert_eq!(failure.field.as_deref(), Some(field), "{}", failure.message);
            assert!(failure.message.starts_with(field), "{}", failure.message);
        }
    }

    #[test]
    fn etags_and_states_are_those_that_were_given() {
        assert_eq!(etag(&etag_text(0)), Ok(Some(0)));
        assert_eq!(etag(&etag_text(u64::MAX)), Ok(Some(u64::MAX)));
        assert_eq!(etag(""), Ok(None));
        for wrong in ["0", "+000000000000001", "000000000000000g", "ééééé"] {
            assert!(etag(wrong).is_err(), "{wrong}");
        }
        assert_eq!(purge_states(&[]), Ok(PurgeStates::WAITING));
        assert_eq!(purge_states(&[1, 2, 3, 4, 4]), Ok(PurgeStates::ALL));
        assert!(purge_states(&[0]).is_err() && purge_states(&[9]).is_err());
    }
}
