//! Settings of queues as people write and read them: flags to a patch, messages to text and JSON.

use std::time::Duration;

use serde_json::{Map, Value, json};
use z4_client::{Breaker, QueueConfig, QueuePatch, QueueSettings, RetryPolicy};
use z4_proto::v1;

use crate::args::SettingFlags;
use crate::time::{format_exact, parse_span};

/// Names of flags that differ from the fields they set; `_` and `-` are the same otherwise.
const UNSET_NAMES: [(&str, &str); 11] = [
    ("lease", "lease_duration"),
    ("ttl", "default_ttl"),
    ("priority", "default_priority"),
    ("non_retryable", "non_retryable_reasons"),
    ("group_concurrency", "groups.concurrency"),
    ("group_rate", "groups.rate"),
    ("group_weight", "groups.weight"),
    ("serial", "groups.serial"),
    ("events", "events_kept"),
    ("retention_count", "retention"),
    ("group", "groups"),
];

impl SettingFlags {
    /// Returns the change that the flags ask for.
    pub(crate) fn patch(self) -> QueuePatch {
        /// Adds what a flag sets, if it is given.
        fn with<T>(
            patch: QueuePatch,
            flag: Option<T>,
            set: impl FnOnce(QueuePatch, T) -> QueuePatch,
        ) -> QueuePatch {
            match flag {
                Some(value) => set(patch, value),
                None => patch,
            }
        }
        let Self { retention_count, burst, group_burst, .. } = self;
        let reasons = Some(self.non_retryable).filter(|reasons| !reasons.is_empty());
        let patch = with(QueuePatch::new(), self.lease, QueuePatch::lease_duration);
        let patch = with(patch, self.retry, QueuePatch::retry);
        let patch = with(patch, self.max_attempts, QueuePatch::max_attempts);
        let patch = with(patch, reasons, QueuePatch::non_retryable_reasons);
        let patch = with(patch, self.retention, |patch, age| patch.retention(age, retention_count));
        let patch = with(patch, self.ttl, QueuePatch::default_ttl);
        let patch = with(patch, self.priority, QueuePatch::default_priority);
        let patch = with(patch, self.max_backlog, QueuePatch::max_backlog);
        let patch = with(patch, self.rate, |patch, rate| patch.rate(rate, burst));
        let patch = with(patch, self.concurrency, QueuePatch::concurrency);
        let patch = with(patch, self.group_concurrency, QueuePatch::group_concurrency);
        let patch = with(patch, self.group_rate, |patch, rate| patch.group_rate(rate, group_burst));
        let patch = with(patch, self.group_weight, QueuePatch::group_weight);
        let patch = with(patch, self.serial, QueuePatch::group_serial);
        let patch = with(patch, self.ageing, QueuePatch::ageing);
        let patch = with(patch, self.breaker, QueuePatch::breaker);
        with(patch, self.events, QueuePatch::events_kept)
    }
}

/// Returns the field that a name given to --unset means.
pub(crate) fn field_of(name: &str) -> String {
    let name = name.trim_start_matches('-').replace('-', "_");
    let known = UNSET_NAMES.iter().find(|(flag, _)| *flag == name);
    known.map_or(name, |(_, field)| (*field).to_owned())
}

/// Reads `FIRST:LONGEST[:GROWTH[:JITTER]]`.
pub(crate) fn parse_retry(text: &str) -> Result<RetryPolicy, String> {
    let parts: Vec<&str> = text.split(':').collect();
    let percent = |at: usize, usual: u32| parts.get(at).map_or(Ok(usual), |text| number(text));
    if !(2..=4).contains(&parts.len()) {
        return Err("give the first and the longest wait, such as 1s:1h, or 1s:1h:200:20".to_owned());
    }
    Ok(RetryPolicy {
        initial: parse_span(parts[0])?,
        max: parse_span(parts[1])?,
        multiplier_percent: percent(2, 200)?,
        jitter_percent: percent(3, 20)?,
    })
}

/// Reads `100/s`, `30/m`, `5/h`; without a unit it is per second.
pub(crate) fn parse_rate(text: &str) -> Result<f64, String> {
    let (count, seconds) = match text.split_once('/') {
        None | Some((_, "s")) => (text.trim_end_matches("/s"), 1.0),
        Some((count, "m")) => (count, 60.0),
        Some((count, "h")) => (count, 3_600.0),
        Some(_) => (text, 1.0),
    };
    match count.parse::<f64>() {
        Ok(count) if count.is_finite() && count > 0.0 => Ok(count / seconds),
        _ => Err(format!("{text:?} is no rate above 0; give such as 100/s, 30/m or 5/h")),
    }
}

/// Reads `PERCENT[:DELIVERIES[:WINDOW[:COOL_DOWN]]]`.
pub(crate) fn parse_breaker(text: &str) -> Result<Breaker, String> {
    let parts: Vec<&str> = text.split(':').collect();
    if parts.len() > 4 {
        return Err("give at most four parts, such as 95:20:1m:1m".to_owned());
    }
    let span = |at: usize| {
        let text = parts.get(at);
        text.map(|text| parse_span(text).map(pb_span)).transpose()
    };
    Ok(Breaker {
        failure_percent: Some(number(parts[0])?),
        min_deliveries: parts.get(1).map(|text| number(text)).transpose()?,
        window: span(2)?,
        cool_down: span(3)?,
    })
}

fn number(text: &str) -> Result<u32, String> {
    text.trim_end_matches('%').parse().map_err(|_| format!("{text:?} is no whole number"))
}

fn pb_span(span: Duration) -> z4_proto::Duration {
    let ms = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    z4_proto::convert::pb_duration(z4_types::Duration(ms))
}

/// Returns each setting that is set, by field, as JSON.
pub(crate) fn fields(settings: &QueueSettings) -> Map<String, Value> {
    let span = |span: &Option<z4_proto::Duration>| span.map(|span| json!(span_text(span)));
    let groups = settings.groups.unwrap_or_default();
    let list = settings.non_retryable_reasons.as_ref().map(|list| json!(list.reasons));
    let retention =
        settings.retention.map(|kept| json!({ "age": kept.age.map(span_text), "count": kept.count }));
    let breaker = settings.breaker.map(|breaker| {
        json!({
            "failure_percent": breaker.failure_percent,
            "min_deliveries": breaker.min_deliveries,
            "window": breaker.window.map(span_text),
            "cool_down": breaker.cool_down.map(span_text),
        })
    });
    let retry = settings.retry.map(|retry| {
        json!({
            "initial_delay": retry.initial_delay.map(span_text),
            "max_delay": retry.max_delay.map(span_text),
            "multiplier_percent": retry.multiplier_percent,
            "jitter_percent": retry.jitter_percent,
        })
    });
    let all = [
        ("lease_duration", span(&settings.lease_duration)),
        ("retry", retry),
        ("max_attempts", settings.max_attempts.map(Value::from)),
        ("non_retryable_reasons", list),
        ("retention", retention),
        ("default_ttl", span(&settings.default_ttl)),
        ("default_priority", settings.default_priority.map(Value::from)),
        ("max_backlog", settings.max_backlog.map(Value::from)),
        ("rate", settings.rate.map(rate)),
        ("concurrency", settings.concurrency.map(Value::from)),
        ("groups.concurrency", groups.concurrency.map(Value::from)),
        ("groups.rate", groups.rate.map(rate)),
        ("groups.weight", groups.weight.map(Value::from)),
        ("groups.serial", groups.serial.map(Value::from)),
        ("ageing", span(&settings.ageing)),
        ("breaker", breaker),
        ("events_kept", settings.events_kept.map(Value::from)),
    ];
    all.into_iter().filter_map(|(field, value)| Some((field.to_owned(), value?))).collect()
}

fn rate(rate: v1::Rate) -> Value {
    json!({ "per_second": rate.per_second, "burst": rate.burst })
}

fn span_text(span: z4_proto::Duration) -> String {
    z4_proto::convert::duration(span, "")
        .map_or_else(|_| "?".to_owned(), |span| format_exact(Duration::from_millis(span.0)))
}

/// Returns the value of a setting in one line, as its flags take it.
pub(crate) fn text(value: &Value) -> String {
    let Value::Object(parts) = value else {
        return match value {
            Value::String(text) => text.clone(),
            Value::Array(items) => items.iter().map(text).collect::<Vec<_>>().join(", "),
            value => value.to_string(),
        };
    };
    let part = |name: &str| parts.get(name).filter(|part| !part.is_null()).map(text);
    let joined = |names: &[&str]| names.iter().filter_map(|name| part(name)).collect::<Vec<_>>().join(":");
    match (part("per_second"), part("age"), part("initial_delay")) {
        (Some(rate), ..) => format!("{rate}/s, burst {}", part("burst").unwrap_or_default()),
        (_, Some(age), _) => part("count").map_or(age.clone(), |count| format!("{age}, at most {count}")),
        (_, _, Some(_)) => joined(&["initial_delay", "max_delay", "multiplier_percent", "jitter_percent"]),
        _ => joined(&["failure_percent", "min_deliveries", "window", "cool_down"]),
    }
}

/// Returns why a queue is paused, in one line; None: it is not.
pub(crate) fn paused(config: &QueueConfig) -> Option<String> {
    let pause = config.pause.as_ref()?;
    let mut said = "yes".to_owned();
    if !pause.author.is_empty() {
        said.push_str(&format!(", by {}", pause.author));
    }
    if !pause.note.is_empty() {
        said.push_str(&format!(": {}", pause.note));
    }
    if let Some(until) = time(pause.until) {
        said.push_str(&format!("; tries again at {until}"));
    }
    Some(said)
}

/// Returns the same as JSON.
pub(crate) fn paused_json(config: &QueueConfig) -> Value {
    let said = config.pause.as_ref();
    said.map_or(Value::Null, |said| {
        json!({ "note": said.note, "author": said.author, "at": time(said.at), "until": time(said.until) })
    })
}

fn time(at: Option<z4_proto::Timestamp>) -> Option<String> {
    at.and_then(|at| z4_proto::convert::millis(at, "pause.at").ok()).map(crate::time::format_time)
}

/// Returns what was set of a queue as JSON.
pub(crate) fn config_json(config: &QueueConfig) -> Value {
    let settings = config.settings.as_ref().map(fields).unwrap_or_default();
    json!({ "queue": config.queue, "etag": config.etag, "paused": paused_json(config), "settings": settings })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_retries_and_breakers_are_read_as_they_are_written() {
        assert_eq!(parse_rate("100/s"), Ok(100.0));
        assert_eq!(parse_rate("30/m"), Ok(0.5));
        assert_eq!(parse_rate("2.5"), Ok(2.5));
        for wrong in ["", "/s", "0/s", "-1/s", "1/d", "NaN", "inf/s"] {
            assert!(parse_rate(wrong).is_err(), "{wrong}");
        }
        let retry = parse_retry("1s:1h").expect("fine");
        assert_eq!(
            (retry.max, retry.multiplier_percent, retry.jitter_percent),
            (Duration::from_secs(3_600), 200, 20)
        );
        assert_eq!(parse_retry("1s:1h:150%:0").expect("fine").multiplier_percent, 150);
        assert!(
            parse_retry("1s").is_err()
                && parse_retry("1s:1h:x").is_err()
                && parse_retry("1:2:3:4:5").is_err()
        );
        let breaker = parse_breaker("90:5:2m").expect("fine");
        assert_eq!(
            (breaker.failure_percent, breaker.min_deliveries, breaker.cool_down),
            (Some(90), Some(5), None)
        );
        assert_eq!(breaker.window.map(span_text).as_deref(), Some("2m"));
    }

    #[test]
    fn settings_are_shown_in_one_line_each_and_flags_name_fields() {
        let settings = QueueSettings {
            lease_duration: Some(z4_proto::Duration { seconds: 5_400, nanos: 0 }),
            rate: Some(v1::Rate { per_second: 0.5, burst: Some(1) }),
            groups: Some(v1::GroupSettings { weight: Some(3), ..Default::default() }),
            non_retryable_reasons: Some(v1::ReasonList { reasons: vec!["a".into(), "b".into()] }),
            ..Default::default()
        };
        let shown: Vec<_> =
            fields(&settings).iter().map(|(field, value)| format!("{field}={}", text(value))).collect();
        let expected =
            ["groups.weight=3", "lease_duration=1h30m", "non_retryable_reasons=a, b", "rate=0.5/s, burst 1"];
        assert_eq!(shown, expected);
        assert_eq!(field_of("ttl"), "default_ttl");
        assert_eq!(field_of("--group-weight"), "groups.weight");
        assert_eq!(field_of("max-backlog"), "max_backlog");
        assert_eq!(field_of("groups.rate"), "groups.rate");
    }
}
