//! When a unary call must have ended: by the client's `grpc-timeout`, or a server default (P9).
//!
//! The answer leaves a little before the client stops listening, or nobody would hear that the outcome is unknown.
//!
//! Sources: gRPC over HTTP/2, "Timeout".

use std::time::Duration;

use tokio::time::Instant;
use tonic::metadata::MetadataMap;

/// A call whose client names no time ends after so long.
pub(crate) const CALL_DEFAULT: Duration = Duration::from_secs(10);
/// No unary call takes longer, whatever its client allows: a long poll and its work.
pub(crate) const CALL_MAX: Duration = Duration::from_secs(70);
/// The answer leaves this part of the time, and at most `MARGIN_MAX`, before the client's own end.
const MARGIN_PART: u32 = 20;
const MARGIN_MAX: Duration = Duration::from_millis(50);

/// The end of one call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline {
    at: Instant,
}

impl Deadline {
    /// Returns the end of a call that began now.
    pub(crate) fn of(metadata: &MetadataMap) -> Self {
        let asked = metadata.get("grpc-timeout").and_then(|value| parse(value.as_bytes()));
        let span = asked.map_or(CALL_DEFAULT, |asked| {
            let asked = asked.min(CALL_MAX);
            asked - (asked / MARGIN_PART).min(MARGIN_MAX)
        });
        Self { at: Instant::now() + span }
    }

    /// Returns a deadline `extra` later than the server's default, for a call that waits on purpose.
    pub(crate) fn allowing(metadata: &MetadataMap, extra: Duration) -> Self {
        let mut deadline = Self::of(metadata);
        if metadata.get("grpc-timeout").is_none() {
            deadline.at += extra;
        }
        deadline
    }

    /// Returns the end of a piece of work that began now and that no client gave a time.
    pub(crate) fn default_from_now() -> Self {
        Self { at: Instant::now() + CALL_DEFAULT }
    }

    /// Returns the end of the first of `parts` equal parts of the time that is left.
    pub(crate) fn part(self, parts: u32) -> Self {
        Self { at: Instant::now() + self.left() / parts.max(1) }
    }

    /// Returns the earlier of this end and `span` from now.
    pub(crate) fn within(self, span: Duration) -> Instant {
        self.at.min(Instant::now() + span)
    }

    /// Returns when it is.
    pub(crate) fn at(self) -> Instant {
        self.at
    }

    /// Returns how long it is until then.
    pub(crate) fn left(self) -> Duration {
        self.at.saturating_duration_since(Instant::now())
    }
}

/// Reads at most eight digits and a unit; anything else is as if nothing was said, as tonic does.
fn parse(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    match unit {
        b'H' => Some(Duration::from_secs(number * 3_600)),
        b'M' => Some(Duration::from_secs(number * 60)),
        b'S' => Some(Duration::from_secs(number)),
        b'm' => Some(Duration::from_millis(number)),
        b'u' => Some(Duration::from_micros(number)),
        b'n' => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_header_is_read_in_every_unit_and_ignored_when_wrong() {
        assert_eq!(parse(b"3H"), Some(Duration::from_secs(10_800)));
        assert_eq!(parse(b"42S"), Some(Duration::from_secs(42)));
        assert_eq!(parse(b"99999999n"), Some(Duration::from_nanos(99_999_999)));
        for wrong in [&b""[..], b"S", b"1", b"-1S", b"123456789S", b"1x"] {
            assert_eq!(parse(wrong), None);
        }
    }
}
