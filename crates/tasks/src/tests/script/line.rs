//! One line of a script, cut into words, and what its words say.

use std::collections::BTreeMap;

use z4_types::{Duration, Priority, QueueName};

use crate::command::Retry;
use crate::{Breaker, Rate, Retention, Settings};

/// One line, cut into words: the verb, what it is about, and `key=value`.
pub(super) struct Line<'l> {
    pub(super) verb: &'l str,
    pub(super) about: Vec<&'l str>,
    pub(super) values: BTreeMap<&'l str, &'l str>,
}

impl<'l> Line<'l> {
    pub(super) fn parse(line: &'l str) -> Self {
        let mut words = line.split_whitespace();
        let verb = words.next().expect("not blank");
        if verb == "policies" {
            // Its words are settings of their own.
            return Self { verb, about: words.collect(), values: BTreeMap::new() };
        }
        let (mut about, mut values) = (Vec::new(), BTreeMap::new());
        for word in words {
            match word.split_once('=') {
                Some((key, value)) => assert!(values.insert(key, value).is_none(), "{key} twice"),
                None => about.push(word),
            }
        }
        Self { verb, about, values }
    }

    pub(super) fn number(&self, key: &str) -> Option<u64> {
        self.values
            .get(key)
            .map(|value| value.parse().unwrap_or_else(|_| panic!("{key}={value} is no number")))
    }

    pub(super) fn numbers(&self, key: &str) -> Option<Vec<u64>> {
        let value = self.values.get(key)?;
        Some(value.split(':').map(|part| part.parse().expect("a number")).collect())
    }

    pub(super) fn retry(&self) -> Option<Retry> {
        self.numbers("retry").map(|parts| Retry {
            initial: Duration(parts[0]),
            cap: Duration(parts[1]),
            multiplier_percent: parts[2] as u32,
            jitter_percent: parts[3] as u8,
        })
    }

    pub(super) fn metadata(&self) -> Option<Vec<(String, String)>> {
        let pairs = self.values.get("meta")?;
        let pair = |pair: &str| pair.split_once(':').map(|(key, value)| (key.into(), value.into()));
        Some(pairs.split(',').map(|text| pair(text).expect("key:value")).collect())
    }

    pub(super) fn settings(&self) -> Settings {
        let span = |key| self.number(key).map(Duration);
        let small = |key| self.number(key).map(|number| number as u32);
        let rate =
            |key| self.numbers(key).map(|parts| Rate { thousandths: parts[0], burst: parts[1] as u32 });
        Settings {
            lease_duration: span("lease"),
            retry: self.retry(),
            max_attempts: small("max"),
            non_retryable: self
                .values
                .get("fatal")
                .map(|texts| texts.split(',').map(str::to_owned).collect()),
            retention: self
                .numbers("keep")
                .map(|parts| Retention { age: Duration(parts[0]), count: parts.get(1).copied() }),
            ttl: span("ttl"),
            priority: self.number("prio").map(|priority| Priority(priority as u8)),
            max_backlog: self.number("backlog"),
            rate: rate("rate"),
            concurrency: small("conc"),
            group_concurrency: small("gconc"),
            group_rate: rate("grate"),
            group_weight: small("weight"),
            group_serial: self.number("serial").map(|serial| serial == 1),
            ageing: span("ageing"),
            breaker: self.numbers("breaker").map(|parts| Breaker {
                deliveries: parts[0] as u32,
                failure_percent: parts[1] as u8,
                window: Duration(parts[2]),
                cool_down: Duration(parts[3]),
            }),
            events: self.number("events"),
        }
    }

    pub(super) fn queue(&self) -> QueueName {
        QueueName::new(self.about[0]).expect("a valid queue name")
    }
}
