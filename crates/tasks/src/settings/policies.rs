//! Settings by name pattern.
//!
//! A pattern is a queue name, or levels that end in `*`: `acme/*` stands for every queue below `acme`, however deep, `*`
//! for all queues. So the patterns that match a name are its own text and its levels cut short: a few look-ups, however
//! many policies there are.

use std::collections::BTreeMap;

use super::{Effective, Settings};
use crate::codec::{Malformed, Reader, put_len, put_long_text, put_u64};

/// The policies of a cluster, as every shard knows them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policies {
    /// Grows with every change of the list; an older list never replaces a newer one. 0: no list was ever set.
    pub version: u64,
    /// By pattern.
    pub list: BTreeMap<String, Settings>,
}

impl Policies {
    /// Returns the policies that match a queue's name, the most specific first.
    pub fn matching<'p>(&'p self, name: &'p str) -> impl Iterator<Item = (&'p str, &'p Settings)> {
        let levels = name.rmatch_indices('/').map(|(at, _)| at + 1).chain([0]);
        let below = levels.map(|end| format!("{}*", &name[..end]));
        std::iter::once(name.to_owned())
            .chain(below)
            .filter_map(|pattern| self.list.get_key_value(&pattern))
            .map(|(pattern, settings)| (pattern.as_str(), settings))
    }

    /// Returns what holds for the queue `name` whose own settings are `own`.
    #[must_use]
    pub fn resolve(&self, name: &str, own: Option<&Settings>) -> Effective {
        let mut settings = own.cloned().unwrap_or_default();
        for (_, weaker) in self.matching(name) {
            settings.fill_from(weaker);
        }
        settings.into()
    }

    /// Appends the bytes (`docs/FORMATS.md`, "Log entry": set policies).
    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        put_u64(out, self.version);
        put_len(out, self.list.len());
        for (pattern, settings) in &self.list {
            put_long_text(out, pattern);
            settings.put(out);
        }
    }

    /// Reads a list; of two equal patterns, which no encoder writes, the later one counts.
    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let version = reader.u64("policies version")?;
        let mut list = BTreeMap::new();
        for _ in 0..reader.u32("policies count")? {
            let pattern = reader.long_text("policy pattern")?.to_owned();
            list.insert(pattern, Settings::read(reader)?);
        }
        Ok(Self { version, list })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policies(patterns: &[(&str, u32)]) -> Policies {
        let settings = |max| Settings { max_attempts: Some(max), ..Settings::default() };
        let list = patterns.iter().map(|(pattern, max)| ((*pattern).to_owned(), settings(*max)));
        Policies { version: 1, list: list.collect() }
    }

    #[test]
    fn the_longest_literal_part_is_most_specific() {
        let policies =
            policies(&[("*", 1), ("acme/*", 2), ("acme/mail/*", 3), ("acme/mail", 4), ("acme/m*", 5)]);
        let matching = |name| policies.matching(name).map(|(pattern, _)| pattern).collect::<Vec<_>>();
        assert_eq!(matching("acme/mail"), ["acme/mail", "acme/*", "*"]);
        assert_eq!(matching("acme/mail/slow"), ["acme/mail/*", "acme/*", "*"]);
        assert_eq!(matching("acme"), ["*"], "a level below is meant, not the level itself");
        assert_eq!(matching("/"), ["*"]);
        assert_eq!(policies.resolve("acme/mail/slow", None).max_attempts, 3);
    }

    #[test]
    fn each_field_is_looked_for_on_its_own() {
        let mut policies = policies(&[("*", 1)]);
        let events = Settings { events: Some(9), ..Settings::default() };
        policies.list.insert("acme/*".into(), events);
        let own = Settings { group_weight: Some(5), ..Settings::default() };
        let effective = policies.resolve("acme/x", Some(&own));
        assert_eq!((effective.group_weight, effective.events, effective.max_attempts), (5, 9, 1));
    }
}
