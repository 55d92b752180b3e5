//! Which value each setting has, and from where. Pure.

use std::collections::BTreeMap;

use super::error::Error;
use super::keys::{FOREIGN_VARIABLES, KEYS, Key, key};
use super::value::{Raw, Value, parse};

const PREFIX: &str = "Z4_";
/// Variables Kubernetes makes in every pod for a service named `z4`, with its ports.
const KUBERNETES: [&str; 4] = ["Z4_PORT", "Z4_PORT_", "Z4_SERVICE_HOST", "Z4_SERVICE_PORT_"];
/// A name is suggested if at most this part of it, one in so many letters, is wrong.
const TYPO_PART: usize = 3;

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    Flag(String),
    Environment(String),
    File { path: String, key: String },
    Default,
}

/// Every setting that has a value, by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Resolved(pub(crate) BTreeMap<&'static str, (Value, Source)>);

/// Returns each setting's value and source. `environment` may hold everything; only `Z4_*` is looked at.
///
/// # Errors
/// The first thing that is not understood.
pub(crate) fn resolve(
    flags: &BTreeMap<String, String>,
    environment: &BTreeMap<String, String>,
    file: Option<(&str, &BTreeMap<String, Raw>)>,
) -> Result<Resolved, Error> {
    refuse_unknown(environment, file)?;
    let mut resolved = BTreeMap::new();
    for key in KEYS {
        let Some((raw, source)) = find(key, flags, environment, file) else { continue };
        match parse(key.kind, &raw) {
            Ok(value) => resolved.insert(key.name, (value, source)),
            Err(problem) => return Err(Error::Value { source, problem }),
        };
    }
    Ok(Resolved(resolved))
}

fn find(
    key: &Key,
    flags: &BTreeMap<String, String>,
    environment: &BTreeMap<String, String>,
    file: Option<(&str, &BTreeMap<String, Raw>)>,
) -> Option<(Raw, Source)> {
    if let Some(text) = flags.get(key.name) {
        return Some((Raw::Text(text.clone()), Source::Flag(key.flag())));
    }
    let variable = key.variable();
    if let Some(text) = environment.get(&variable).filter(|text| !text.is_empty()) {
        return Some((Raw::Text(text.clone()), Source::Environment(variable)));
    }
    if let Some((path, table)) = file
        && let Some(raw) = table.get(key.name)
    {
        return Some((raw.clone(), Source::File { path: path.into(), key: key.name.into() }));
    }
    (key.default)().map(|text| (Raw::Text(text), Source::Default))
}

fn refuse_unknown(
    environment: &BTreeMap<String, String>,
    file: Option<(&str, &BTreeMap<String, Raw>)>,
) -> Result<(), Error> {
    for name in environment.keys().filter(|name| name.starts_with(PREFIX)) {
        let known = KEYS.iter().any(|key| key.variable() == *name);
        if !known && !FOREIGN_VARIABLES.contains(&name.as_str()) && !is_from_kubernetes(name) {
            let suggestion = nearest(name, KEYS.iter().map(Key::variable));
            return Err(Error::Unknown { what: format!("environment variable {name}"), suggestion });
        }
    }
    if let Some((path, table)) = file
        && let Some(name) = table.keys().find(|name| key(name).is_none())
    {
        let plain = name.to_ascii_lowercase().replace('-', "_");
        let plain = plain.strip_prefix("z4_").unwrap_or(&plain);
        let suggestion = nearest(plain, KEYS.iter().map(|key| key.name.to_owned()));
        return Err(Error::Unknown { what: format!("{path}: {name}"), suggestion });
    }
    Ok(())
}

fn is_from_kubernetes(name: &str) -> bool {
    KUBERNETES
        .iter()
        .any(|pattern| if pattern.ends_with('_') { name.starts_with(pattern) } else { name == *pattern })
}

/// Returns the name that `typo` most likely meant.
pub(crate) fn nearest(typo: &str, names: impl Iterator<Item = String>) -> Option<String> {
    let close = names.map(|name| (distance(typo, &name), name));
    let (distance, name) = close.min_by_key(|(distance, _)| *distance)?;
    (distance <= typo.len().div_ceil(TYPO_PART)).then_some(name)
}

/// Returns how many letters must be put in, left out or changed to make `b` of `a` (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (at, letter) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = at + 1;
        for (column, other) in b.iter().enumerate() {
            let above = row[column + 1];
            let changed = diagonal + usize::from(letter != *other);
            row[column + 1] = changed.min(above + 1).min(row[column] + 1);
            diagonal = above;
        }
    }
    row[b.len()]
}

impl Resolved {
    /// Returns whether nobody set it.
    pub(crate) fn is_default(&self, name: &str) -> bool {
        self.0.get(name).is_none_or(|(_, source)| *source == Source::Default)
    }

    /// Returns the settings with their sources, for people and programs.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        let rows = self.0.iter().map(|(name, (value, source))| {
            let row = serde_json::json!({ "value": value.to_json(), "source": source.to_string() });
            ((*name).to_owned(), row)
        });
        serde_json::Value::Object(rows.collect())
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Flag(flag) => write!(f, "flag {flag}"),
            Self::Environment(variable) => write!(f, "environment variable {variable}"),
            Self::File { path, key } => write!(f, "{path}: {key}"),
            Self::Default => f.write_str("default"),
        }
    }
}
