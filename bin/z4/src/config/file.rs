//! The configuration file: one flat table, TOML, or JSON if its name ends in `.json`.

use std::collections::BTreeMap;

use super::error::Error;
use super::value::Raw;

/// Returns the keys and values in the text of the file at `path`.
///
/// # Errors
/// If it is neither, with the place.
pub(crate) fn parse_file(path: &str, text: &str) -> Result<BTreeMap<String, Raw>, Error> {
    let bad = |problem: String| Error::File { path: path.to_owned(), problem };
    if path.to_ascii_lowercase().ends_with(".json") {
        let value: serde_json::Value =
            serde_json::from_str(text).map_err(|error| bad(format!("this is not JSON: {error}")))?;
        let serde_json::Value::Object(table) = value else {
            return Err(bad("the file must be one JSON object of settings".into()));
        };
        return Ok(table.into_iter().map(|(key, value)| (key, from_json(value))).collect());
    }
    let table: toml::Table = toml::from_str(text).map_err(|error| {
        let line = error.span().map(|span| text[..span.start.min(text.len())].lines().count().max(1));
        let place = line.map(|line| format!(" (line {line})")).unwrap_or_default();
        bad(format!("this is not TOML: {}{place}", error.message().replace('\n', " ")))
    })?;
    Ok(table.into_iter().map(|(key, value)| (key, from_toml(value))).collect())
}

fn from_json(value: serde_json::Value) -> Raw {
    match value {
        serde_json::Value::String(text) => Raw::Text(text),
        serde_json::Value::Bool(value) => Raw::Bool(value),
        serde_json::Value::Number(number) => number.as_i128().map_or(Raw::Other("a fraction"), Raw::Number),
        serde_json::Value::Null => Raw::Other("null"),
        serde_json::Value::Array(_) => Raw::Other("a list"),
        serde_json::Value::Object(_) => Raw::Other("a table"),
    }
}

fn from_toml(value: toml::Value) -> Raw {
    match value {
        toml::Value::String(text) => Raw::Text(text),
        toml::Value::Boolean(value) => Raw::Bool(value),
        toml::Value::Integer(number) => Raw::Number(number.into()),
        toml::Value::Float(_) => Raw::Other("a fraction"),
        toml::Value::Datetime(_) => Raw::Other("a date"),
        toml::Value::Array(_) => Raw::Other("a list"),
        toml::Value::Table(_) => Raw::Other("a table"),
    }
}
