//! Output: data on stdout, talk on stderr, as a table for people or JSON for programs.
//!
//! Nothing here panics on a closed pipe: `println!` would, so it is not used.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Write as _};

use serde::Serialize;
use z4_client::{Freshness, Millis, StoredTask, Task};

use crate::failure::Failure;
use crate::time::format_time;

/// Longest payload shown in a table, characters.
const PREVIEW_CHARS: usize = 48;

/// How data is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// Columns for people.
    Table,
    /// One JSON object a line.
    Json,
}

/// Says something on stderr; if nobody can hear it, so be it.
pub(crate) fn talk(text: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Says how fresh what follows is, which was asked for as stale.
pub(crate) fn talk_of_freshness(freshness: Option<&Freshness>) {
    let Some(Freshness { host, applied, time }) = freshness else {
        return talk(format_args!("not stale: this host's version asks the leader"));
    };
    let logged = time.map(|at| format!(", logged at {}", format_time(at))).unwrap_or_default();
    talk(format_args!("stale: as host {host} has it, up to entry {applied} of the shard's log{logged}"));
}

/// Prints one line and flushes it.
pub(crate) fn line(text: impl fmt::Display) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    Ok(out.flush()?)
}

/// Prints a value as one line of JSON and flushes it.
pub(crate) fn json(value: &impl Serialize) -> Result<(), Failure> {
    line(to_json(value, serde_json::to_string)?)
}

/// Prints a value as indented JSON.
pub(crate) fn pretty(value: &impl Serialize) -> Result<(), Failure> {
    line(to_json(value, serde_json::to_string_pretty)?)
}

fn to_json<T>(value: &T, write: fn(&T) -> serde_json::Result<String>) -> Result<String, Failure> {
    write(value).map_err(|error| Failure::Failed(format!("cannot write JSON: {error}")))
}

/// Prints columns, each as wide as its widest cell.
pub(crate) fn table<const N: usize>(head: [&str; N], rows: &[[String; N]]) -> Result<(), Failure> {
    let mut widths = head.map(str::len);
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = io::stdout().lock();
    let mut print = |cells: [&str; N]| {
        let padded: Vec<String> =
            cells.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        writeln!(out, "{}", padded.join("  ").trim_end())
    };
    print(head)?;
    for row in rows {
        print(row.each_ref().map(String::as_str))?;
    }
    Ok(out.flush()?)
}

/// Prints names and values, one a line.
pub(crate) fn fields(pairs: &[(&str, String)]) -> Result<(), Failure> {
    let width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut out = io::stdout().lock();
    for (name, value) in pairs {
        writeln!(out, "{name:width$}  {value}")?;
    }
    Ok(out.flush()?)
}

/// Returns the start of a payload on one line, without control characters that would move the cursor.
pub(crate) fn preview(payload: &[u8]) -> String {
    let Ok(text) = std::str::from_utf8(payload) else { return format!("<{} bytes>", payload.len()) };
    let mut shown: String =
        text.chars().take(PREVIEW_CHARS).map(|c| if c.is_control() { '\u{b7}' } else { c }).collect();
    if text.chars().nth(PREVIEW_CHARS).is_some() {
        shown.push('…');
    }
    shown
}

/// A payload as JSON: text if it is UTF-8, else base 64 under another name.
#[derive(Debug, Serialize)]
pub(crate) struct Payload {
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_base64: Option<String>,
}

impl Payload {
    fn new(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self { payload: Some(text.to_owned()), payload_base64: None },
            Err(_) => Self { payload: None, payload_base64: Some(base64(bytes)) },
        }
    }
}

/// What an ack left behind, as JSON, likewise.
#[derive(Debug, Serialize)]
struct TaskResult {
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result_base64: Option<String>,
}

impl TaskResult {
    fn new(bytes: Option<&[u8]>) -> Self {
        let Payload { payload, payload_base64 } =
            bytes.map_or(Payload { payload: None, payload_base64: None }, Payload::new);
        Self { result: payload, result_base64: payload_base64 }
    }
}

/// A delivery as JSON.
#[derive(Debug, Serialize)]
pub(crate) struct DeliveryJson<'a> {
    id: String,
    queue: &'a str,
    #[serde(flatten)]
    payload: Payload,
    deliver_at: String,
    deliveries: u32,
    failures: u32,
    token: u64,
    priority: u8,
    created_at: String,
    lease_until: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    group: Option<&'a str>,
    metadata: &'a BTreeMap<String, String>,
}

impl<'a> DeliveryJson<'a> {
    pub(crate) fn new(task: &'a Task) -> Self {
        Self {
            id: task.id.to_string(),
            queue: &task.queue,
            payload: Payload::new(&task.payload),
            deliver_at: format_time(task.deliver_at),
            deliveries: task.deliveries,
            failures: task.failures,
            token: task.token.0,
            priority: task.priority,
            created_at: format_time(task.created_at),
            lease_until: format_time(task.lease_until),
            key: task.key.as_deref(),
            group: task.group.as_deref(),
            metadata: &task.metadata,
        }
    }
}

/// A stored task as JSON.
#[derive(Debug, Serialize)]
pub(crate) struct TaskJson<'a> {
    id: String,
    queue: &'a str,
    state: &'static str,
    #[serde(flatten)]
    payload: Payload,
    priority: u8,
    key: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    after: Vec<String>,
    deliver_at: String,
    created_at: String,
    expire_at: Option<String>,
    deliveries: u32,
    failures: u32,
    max_attempts: u32,
    lease_until: Option<String>,
    consumer: Option<&'a str>,
    token: Option<u64>,
    last_error: Option<&'a str>,
    progress: Option<&'a str>,
    ended_at: Option<String>,
    #[serde(flatten)]
    result: TaskResult,
    group: Option<&'a str>,
    etag: &'a str,
    metadata: &'a BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    freshness: Option<FreshnessJson<'a>>,
}

/// How fresh a stale answer is, as JSON.
#[derive(Debug, Serialize)]
struct FreshnessJson<'a> {
    host: &'a str,
    applied: u64,
    time: Option<String>,
}

impl<'a> TaskJson<'a> {
    pub(crate) fn new(task: &'a StoredTask, freshness: Option<&'a Freshness>) -> Self {
        let time = |at: Option<Millis>| at.map(format_time);
        Self {
            id: task.id.to_string(),
            queue: &task.queue,
            state: task.state.as_str(),
            payload: Payload::new(&task.payload),
            priority: task.priority,
            key: task.key.as_deref(),
            after: task.after.iter().map(ToString::to_string).collect(),
            deliver_at: format_time(task.deliver_at),
            created_at: format_time(task.created_at),
            expire_at: time(task.expire_at),
            deliveries: task.deliveries,
            failures: task.failures,
            max_attempts: task.max_attempts,
            lease_until: time(task.lease_until),
            consumer: task.consumer.as_deref(),
            token: task.token.map(|token| token.0),
            last_error: task.last_error.as_deref(),
            progress: task.progress.as_deref(),
            ended_at: time(task.ended_at),
            result: TaskResult::new(task.result.as_deref()),
            group: task.group.as_deref(),
            etag: &task.etag,
            metadata: &task.metadata,
            freshness: freshness.map(|freshness| FreshnessJson {
                host: &freshness.host,
                applied: freshness.applied,
                time: time(freshness.time),
            }),
        }
    }
}

/// Returns bytes in base 64 (RFC 4648 §4), padded.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let group = chunk.iter().enumerate().fold(0, |n, (at, byte)| n | u32::from(*byte) << (16 - 8 * at));
        for digit in 0..4 {
            let index = (group >> (18 - 6 * digit)) & 63;
            text.push(if digit <= chunk.len() { char::from(ALPHABET[index as usize]) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_64_is_that_of_the_rfc() {
        let pairs = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("foobar", "Zm9vYmFy"),
        ];
        for (plain, coded) in pairs {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
        assert_eq!(base64(&[0xff, 0xfe, 0xfd]), "//79");
    }

    #[test]
    fn a_payload_is_text_or_base_64_under_another_name() {
        let text = |bytes: &[u8]| serde_json::to_string(&Payload::new(bytes)).expect("JSON");
        assert_eq!(text("ü\n".as_bytes()), r#"{"payload":"ü\n"}"#);
        assert_eq!(text(&[0xff]), r#"{"payload_base64":"/w=="}"#);
        assert_eq!(preview(b"a\x1b[2Jb"), "a·[2Jb");
        assert_eq!(preview(&[0xff, 1]), "<2 bytes>");
        assert_eq!(preview("é".repeat(60).as_bytes()).chars().count(), PREVIEW_CHARS + 1);
    }
}
