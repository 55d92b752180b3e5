//! `queue events QUEUE`: what happened to the tasks of a queue, oldest first.

use serde::Serialize;
use z4_client::{Client, Event, EventsFrom, WatchEvents};

use crate::args::{QueueEvents, WhichEvents};
use crate::failure::Failure;
use crate::output;
use crate::time::format_time;

/// Events of one page.
const PAGE: u64 = 1_000;

pub(super) async fn run(client: &Client, events: QueueEvents, json: bool) -> Result<(), Failure> {
    let QueueEvents { name, which, from, limit } = events;
    let mut wish = wish(name, which, from);
    let (mut left, mut rows, mut last) = (limit, Vec::new(), None);
    while left > 0 {
        let page = client.list_events(&wish, u32::try_from(left.min(PAGE)).unwrap_or(1_000)).await?;
        left = left.saturating_sub(page.events.len() as u64);
        for event in &page.events {
            if json {
                output::json(&EventJson::new(&wish.queue, event))?;
            } else {
                rows.push(row(event));
            }
        }
        wish.from = EventsFrom::Token(page.resume_token.clone());
        last = page.more.then_some(page.resume_token);
        if !page.more {
            break;
        }
    }
    if !json {
        output::table(["SEQUENCE", "TIME", "EVENT", "TASK", "FACTS"], &rows)?;
    }
    if let Some(token) = last {
        output::talk(format_args!("there are more: --from {token}"));
    }
    Ok(())
}

/// Returns the wish of the flags.
pub(super) fn wish(queue: String, which: WhichEvents, from: EventsFrom) -> WatchEvents {
    let types = which.types.into_iter().map(Into::into).collect();
    WatchEvents { from, types, task: which.task, ..WatchEvents::new(queue) }
}

/// Returns the event's word: `created`, `leased`, and so on.
fn word(event: &Event) -> String {
    event.event.as_str_name().trim_start_matches("EVENT_TYPE_").to_lowercase()
}

/// An event as JSON: only the facts it has.
#[derive(Debug, Serialize)]
pub(super) struct EventJson<'a> {
    sequence: u64,
    time: String,
    event: String,
    queue: &'a str,
    task: String,
    #[serde(flatten)]
    facts: Facts<'a>,
    resume_token: &'a str,
}

/// What an event says besides what happened to which task when.
#[derive(Debug, Serialize)]
struct Facts<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    deliver_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    priority: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    consumer: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deliveries: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failures: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lease_until: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
}

impl<'a> Facts<'a> {
    fn of(event: &'a Event) -> Self {
        Self {
            deliver_at: event.deliver_at.map(format_time),
            priority: event.priority,
            group: event.group.as_deref(),
            key: event.key.as_deref(),
            consumer: event.consumer.as_deref(),
            token: event.token.map(|token| token.0),
            deliveries: event.deliveries,
            failures: event.failures,
            lease_until: event.lease_until.map(format_time),
            reason: event.reason.as_deref(),
        }
    }

    /// Returns them in one line.
    fn text(self) -> String {
        let all = [
            ("deliver_at", self.deliver_at),
            ("priority", self.priority.map(|priority| priority.to_string())),
            ("group", self.group.map(str::to_owned)),
            ("key", self.key.map(str::to_owned)),
            ("consumer", self.consumer.map(str::to_owned)),
            ("token", self.token.map(|token| token.to_string())),
            ("deliveries", self.deliveries.map(|count| count.to_string())),
            ("failures", self.failures.map(|count| count.to_string())),
            ("lease_until", self.lease_until),
            ("reason", self.reason.map(str::to_owned)),
        ];
        let given = all.into_iter().filter_map(|(name, value)| Some(format!("{name}={}", value?)));
        let text = given.collect::<Vec<_>>().join(" ");
        // Nothing that would move the cursor.
        text.chars().map(|c| if c.is_control() { '\u{b7}' } else { c }).collect()
    }
}

impl<'a> EventJson<'a> {
    pub(super) fn new(queue: &'a str, event: &'a Event) -> Self {
        Self {
            sequence: event.sequence,
            time: format_time(event.time),
            event: word(event),
            queue,
            task: event.task.to_string(),
            facts: Facts::of(event),
            resume_token: &event.resume_token,
        }
    }
}

fn row(event: &Event) -> [String; 5] {
    let facts = Facts::of(event).text();
    [event.sequence.to_string(), format_time(event.time), word(event), event.task.to_string(), facts]
}
