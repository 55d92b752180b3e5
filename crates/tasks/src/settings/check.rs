//! The checks settings pass before they are encoded: every limit, with the field and the remedy.

use z4_types::limits::{
    LEASE_MS_MAX, LEASE_MS_MIN, NON_RETRYABLE_MAX, POLICIES_MAX, QUEUE_NAME_BYTES_MAX, REASON_BYTES_MAX,
};
use z4_types::{Duration, QueueName};

use super::{Breaker, Patch, Policies, Rate, Settings};
use crate::command::Invalid;
use crate::command::check::{check_retry, check_span, invalid};
use crate::fair::WEIGHT_MAX;

/// Fastest rate: more than a shard delivers.
const RATE_THOUSANDTHS_MAX: u64 = 1_000_000_000;
/// Shortest span after which a waiting task gains priority: each step moves rows.
const AGEING_MS_MIN: u64 = 1_000;
/// Longest window of a breaker.
const BREAKER_MS_MAX: u64 = 24 * 3_600 * 1_000;
/// Most events of one queue that are kept.
const EVENTS_MAX: u64 = 100_000_000;

/// Refuses 0 where it would mean "nothing ever runs".
pub(super) fn check_limit(field: &'static str, limit: Option<u64>) -> Result<(), Invalid> {
    match limit {
        Some(0) => invalid(
            field,
            "is 0, nothing would ever run; give 1 or more, clear it for no limit, or pause the queue".into(),
        ),
        _ => Ok(()),
    }
}

pub(super) fn check_rate(fields: [&'static str; 2], rate: Option<Rate>) -> Result<(), Invalid> {
    let Some(Rate { thousandths, burst }) = rate else { return Ok(()) };
    check_limit(fields[0], Some(thousandths))?;
    if thousandths > RATE_THOUSANDTHS_MAX {
        return invalid(
            fields[0],
            format!("is more than {} a second; clear it for no limit", RATE_THOUSANDTHS_MAX / 1_000),
        );
    }
    if burst == 0 {
        return invalid(fields[1], "is 0, no token could be saved up to deliver by; give 1 or more".into());
    }
    Ok(())
}

pub(super) fn check_weight(field: &'static str, weight: Option<u32>) -> Result<(), Invalid> {
    match weight {
        Some(0) => invalid(field, "is 0, it would never have a turn; give 1 or more".into()),
        Some(weight) if weight > WEIGHT_MAX => invalid(field, format!("is {weight}; give 1 to {WEIGHT_MAX}")),
        _ => Ok(()),
    }
}

fn check_breaker(breaker: &Breaker) -> Result<(), Invalid> {
    if breaker.deliveries == 0 {
        return invalid("breaker.min_deliveries", "is 0; give the deliveries to judge by, 1 or more".into());
    }
    if !(1..=100).contains(&breaker.failure_percent) {
        return invalid(
            "breaker.failure_percent",
            format!("is {}; give 1 to 100, or clear the breaker", breaker.failure_percent),
        );
    }
    for (field, span) in [("breaker.window", breaker.window), ("breaker.cool_down", breaker.cool_down)] {
        if !(1_000..=BREAKER_MS_MAX).contains(&span.0) {
            return invalid(field, format!("is {span}; give 1 second to 24 hours"));
        }
    }
    Ok(())
}

impl Settings {
    /// Checks every field that is set.
    ///
    /// # Errors
    /// `Invalid`, with the field and the remedy.
    pub fn check(&self) -> Result<(), Invalid> {
        if let Some(span) = self.lease_duration
            && !(LEASE_MS_MIN..=LEASE_MS_MAX).contains(&span.0)
        {
            return invalid("lease_duration", format!("is {span}; give 100 ms to 12 hours"));
        }
        if let Some(retry) = &self.retry {
            check_retry(retry)?;
        }
        if self.max_attempts == Some(0) {
            return invalid("max_attempts", "is 0; give 1 or more, or clear it for the default".into());
        }
        self.check_reasons()?;
        if let Some(retention) = self.retention {
            check_span("retention.age", retention.age)?;
            if retention.count == Some(0) {
                return invalid(
                    "retention.count",
                    "is 0; give 1 or more, leave it out for any number, or set the age to 0 to keep none"
                        .into(),
                );
            }
        }
        if let Some(ttl) = self.ttl {
            check_span("ttl", ttl)?;
            if ttl == Duration(0) {
                return invalid(
                    "ttl",
                    "is 0, every task would expire at once; give a longer one or clear it".into(),
                );
            }
        }
        if self.max_backlog == Some(0) {
            return invalid(
                "max_backlog",
                "is 0, every create would be refused; give 1 or more, or clear it".into(),
            );
        }
        check_rate(["rate.per_second", "rate.burst"], self.rate)?;
        check_limit("concurrency", self.concurrency.map(u64::from))?;
        self.check_groups()?;
        if let Some(span) = self.ageing {
            check_span("ageing", span)?;
            if span.0 < AGEING_MS_MIN {
                return invalid("ageing", format!("is {span}; give 1 second or more, or clear it"));
            }
        }
        if let Some(breaker) = &self.breaker {
            check_breaker(breaker)?;
        }
        if self.events.is_some_and(|events| events > EVENTS_MAX) {
            return invalid(
                "events.count",
                format!("is more than {EVENTS_MAX}; keep fewer and read them sooner"),
            );
        }
        Ok(())
    }

    fn check_groups(&self) -> Result<(), Invalid> {
        check_limit("group.concurrency", self.group_concurrency.map(u64::from))?;
        check_rate(["group.rate.per_second", "group.rate.burst"], self.group_rate)?;
        check_weight("group.weight", self.group_weight)
    }

    fn check_reasons(&self) -> Result<(), Invalid> {
        let Some(reasons) = &self.non_retryable else { return Ok(()) };
        if reasons.len() > NON_RETRYABLE_MAX {
            return invalid(
                "non_retryable",
                format!(
                    "has {} reasons, the limit is {NON_RETRYABLE_MAX}; let the consumer say that a nack is final",
                    reasons.len()
                ),
            );
        }
        if let Some(reason) =
            reasons.iter().find(|reason| reason.is_empty() || reason.len() > REASON_BYTES_MAX)
        {
            return invalid(
                "non_retryable",
                format!("has a reason of {} bytes; give 1 to {REASON_BYTES_MAX}", reason.len()),
            );
        }
        Ok(())
    }
}

impl Patch {
    /// Checks every field that it sets.
    ///
    /// # Errors
    /// `Invalid`, with the field and the remedy.
    pub fn check(&self) -> Result<(), Invalid> {
        self.set.check()
    }
}

impl Policies {
    /// Checks every pattern and its settings.
    ///
    /// # Errors
    /// `Invalid`, with the field and the remedy.
    pub fn check(&self) -> Result<(), Invalid> {
        if self.list.len() > POLICIES_MAX {
            return invalid(
                "policies",
                format!("are {}, the limit is {POLICIES_MAX}; name wider patterns", self.list.len()),
            );
        }
        for (pattern, settings) in &self.list {
            check_pattern(pattern)?;
            settings.check().map_err(|Invalid { field, problem }| Invalid {
                field,
                problem: format!("{problem} (in the policy of {pattern:?})"),
            })?;
        }
        Ok(())
    }
}

/// Checks one pattern: a queue name, or levels that end in `*`.
///
/// # Errors
/// `Invalid`, with the field and the remedy.
pub fn check_pattern(pattern: &str) -> Result<(), Invalid> {
    let levels = pattern.strip_suffix('*').unwrap_or(pattern);
    if levels.contains('*') || (levels.len() < pattern.len() && !levels.is_empty() && !levels.ends_with('/'))
    {
        return invalid(
            "pattern",
            format!("{pattern:?} has a * that is not its last level; write a queue name, `acme/*` or `*`"),
        );
    }
    if pattern.len() > QUEUE_NAME_BYTES_MAX
        || (!levels.is_empty() && QueueName::validate(levels).is_err())
        || pattern.is_empty()
    {
        return invalid(
            "pattern",
            format!("{pattern:?} can match no queue; write a queue name, `acme/*` or `*`"),
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::Retention;
    use super::*;
    use crate::command::Retry;

    #[track_caller]
    fn refused(field: &str, change: impl FnOnce(&mut Settings)) {
        let mut set = Settings::default();
        change(&mut set);
        let invalid = Patch { set, ..Patch::default() }.check().expect_err("the change breaks a limit");
        assert_eq!(invalid.field, field, "{invalid}");
    }

    #[test]
    fn every_limit_of_settings_is_checked_and_named() {
        let rate = |thousandths, burst| Some(Rate { thousandths, burst });
        let breaker = |deliveries, failure_percent, window, cool_down| {
            let (window, cool_down) = (Duration(window), Duration(cool_down));
            Some(Breaker { deliveries, failure_percent, window, cool_down })
        };
        refused("lease_duration", |s| s.lease_duration = Some(Duration(99)));
        refused("retry.jitter_percent", |s| {
            s.retry = Some(Retry { jitter_percent: 101, ..Retry::default() })
        });
        refused("max_attempts", |s| s.max_attempts = Some(0));
        refused("non_retryable", |s| s.non_retryable = Some(vec!["x".into(); 65]));
        refused("non_retryable", |s| s.non_retryable = Some(vec![String::new()]));
        refused("retention.age", |s| s.retention = Some(Retention { age: Duration(u64::MAX), count: None }));
        refused("retention.count", |s| s.retention = Some(Retention { age: Duration(9), count: Some(0) }));
        refused("ttl", |s| s.ttl = Some(Duration(0)));
        refused("max_backlog", |s| s.max_backlog = Some(0));
        refused("rate.per_second", |s| s.rate = rate(0, 1));
        refused("rate.per_second", |s| s.rate = rate(u64::MAX, 1));
        refused("rate.burst", |s| s.rate = rate(1, 0));
        refused("concurrency", |s| s.concurrency = Some(0));
        refused("group.concurrency", |s| s.group_concurrency = Some(0));
        refused("group.rate.per_second", |s| s.group_rate = rate(0, 1));
        refused("group.rate.burst", |s| s.group_rate = rate(1, 0));
        refused("group.weight", |s| s.group_weight = Some(0));
        refused("group.weight", |s| s.group_weight = Some(1_001));
        refused("ageing", |s| s.ageing = Some(Duration(999)));
        refused("breaker.min_deliveries", |s| s.breaker = breaker(0, 50, 1_000, 1_000));
        refused("breaker.failure_percent", |s| s.breaker = breaker(1, 0, 1_000, 1_000));
        refused("breaker.window", |s| s.breaker = breaker(1, 50, 0, 1_000));
        refused("breaker.cool_down", |s| s.breaker = breaker(1, 50, 1_000, u64::MAX));
        refused("events.count", |s| s.events = Some(u64::MAX));
    }

    #[test]
    fn patterns_are_names_or_levels_that_end_in_a_star() {
        let check = |pattern: &str| {
            let list = [(pattern.to_owned(), Settings::default())].into();
            Policies { version: 1, list }.check()
        };
        for good in ["*", "acme/*", "acme/mail", "acme/mail/*", "/*"] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for bad in ["", "acme*", "**", "a/*/b", "acme/**", "a\tb", &"x".repeat(256)] {
            assert_eq!(check(bad).expect_err(bad).field, "pattern");
        }
        let list = [("a/*".to_owned(), Settings { max_attempts: Some(0), ..Settings::default() })].into();
        let invalid = Policies { version: 1, list }.check().expect_err("0 attempts");
        assert!(invalid.to_string().contains("a/*"), "{invalid}");
    }
}
