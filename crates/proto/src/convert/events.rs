//! Events and the requests for them.

use z4_tasks::{Event, EventFilter, EventKind, Position, ResumeToken, Start};
use z4_types::QueueName;

use super::{task_id, timestamp};
use crate::status::Failure;
use crate::{reason, v1};

/// Returns a token as the text that callers keep.
#[must_use]
pub fn resume_token(token: &ResumeToken) -> String {
    token.to_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns where a request begins.
///
/// # Errors
/// `Invalid` if the token is none, or of another queue, or there is another start besides.
pub fn events_start(queue: &QueueName, token: &str, from: i32) -> Result<Start, Failure> {
    let from = v1::EventsFrom::try_from(from).map_err(|_| {
        let what = format_args!("{from} is no EventsFrom; give EARLIEST or NOW");
        Failure::invalid("from", reason::FIELD_INVALID, what)
    })?;
    match (token, from) {
        ("", v1::EventsFrom::Now) => Ok(Start::Now),
        ("", _) => Ok(Start::Earliest),
        (_, v1::EventsFrom::Unspecified) => {
            let bad = |what: &str| Failure::invalid("resume_token", reason::RESUME_TOKEN_INVALID, what);
            let bytes = unhex(token).ok_or_else(|| {
                bad("is not one that came with events; pass one as it was given, or begin anew without it")
            })?;
            let token = ResumeToken::from_bytes(&bytes).map_err(|invalid| bad(&invalid.problem))?;
            if token.queue != *queue {
                return Err(bad(&format!(
                    "is a place in the events of queue {}, not of {queue}; watch that queue, or begin anew without it",
                    token.queue
                )));
            }
            Ok(Start::At(token.position))
        }
        _ => Err(Failure::invalid(
            "from",
            reason::FIELD_INVALID,
            "does not go with a resume token; give one of them",
        )),
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    if !text.len().is_multiple_of(2) {
        return None;
    }
    text.as_bytes().chunks_exact(2).map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
}

/// Returns which events a request asks for.
///
/// # Errors
/// `Invalid` if a type or the task's id is none.
pub fn event_filter(types: &[i32], task: &str) -> Result<EventFilter, Failure> {
    let kind = |&number: &i32| {
        let known = EventKind::ALL.into_iter().find(|kind| event_type(*kind) as i32 == number);
        known.ok_or_else(|| {
            let what = format_args!("{number} is no EventType; give 1 to 10");
            Failure::invalid("types", reason::FIELD_INVALID, what)
        })
    };
    Ok(EventFilter {
        kinds: types.iter().map(kind).collect::<Result<_, _>>()?,
        task: if task.is_empty() { None } else { Some(task_id(task, "task_id")?) },
    })
}

/// Returns an event's type.
#[must_use]
pub fn event_type(kind: EventKind) -> v1::EventType {
    match kind {
        EventKind::Created => v1::EventType::Created,
        EventKind::Leased => v1::EventType::Leased,
        EventKind::Acked => v1::EventType::Acked,
        EventKind::Failed => v1::EventType::Failed,
        EventKind::Dead => v1::EventType::Dead,
        EventKind::Cancelled => v1::EventType::Cancelled,
        EventKind::Expired => v1::EventType::Expired,
        EventKind::Updated => v1::EventType::Updated,
        EventKind::Redriven => v1::EventType::Redriven,
        EventKind::Released => v1::EventType::Released,
    }
}

/// Returns an event of a page that ended at `page`.
#[must_use]
pub fn pb_event(queue: &QueueName, page: Position, event: Event) -> v1::Event {
    let token = ResumeToken { queue: queue.clone(), position: page.behind(&event) };
    v1::Event {
        resume_token: resume_token(&token),
        sequence: event.sequence,
        time: Some(timestamp(event.at)),
        task_id: event.task.to_string(),
        r#type: event_type(event.kind) as i32,
        deliver_at: event.deliver_at.map(timestamp),
        priority: event.priority.map(|priority| u32::from(priority.0)),
        group: event.group.unwrap_or_default(),
        key: event.key.unwrap_or_default(),
        consumer: event.consumer.unwrap_or_default(),
        lease_token: event.token.map_or(0, |token| token.0),
        deliveries: event.deliveries.unwrap_or_default(),
        failures: event.failures.unwrap_or_default(),
        lease_until: event.until.map(timestamp),
        reason: event.reason.unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_and_types_are_read_and_what_cannot_be_is_named() {
        let queue = QueueName::new("mail").expect("valid");
        assert_eq!(events_start(&queue, "", 0), Ok(Start::Earliest));
        assert_eq!(events_start(&queue, "", 2), Ok(Start::Now));
        for (token, from) in [("", 3), ("00", 0), ("0", 0), ("zz", 0), ("00", 1)] {
            assert!(events_start(&queue, token, from).is_err(), "{token} {from}");
        }
        assert_eq!(event_filter(&[3, 1], "").expect("fine").kinds, [EventKind::Acked, EventKind::Created]);
        assert_eq!(event_filter(&[0], "").expect_err("unspecified").field.as_deref(), Some("types"));
        assert_eq!(event_filter(&[], "x").expect_err("no id").field.as_deref(), Some("task_id"));
    }
}
