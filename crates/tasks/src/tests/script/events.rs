//! The events of a queue, as a script prints them.

use std::fmt::Write as _;

use super::Runner;
use super::line::Line;
use crate::{Event, EventFilter, EventKind, Events, ResumeToken, Start, events};

impl Runner {
    /// Reads events page by page to their end.
    pub(super) fn events(&mut self, line: &Line<'_>) {
        let kind = |name: &str| {
            let is_it = |kind: &EventKind| format!("{kind:?}").eq_ignore_ascii_case(name);
            EventKind::ALL.into_iter().find(is_it).unwrap_or_else(|| panic!("no kind {name}"))
        };
        let kinds = line.values.get("kinds").map_or(Vec::new(), |names| names.split(',').map(kind).collect());
        let filter = EventFilter { kinds, task: line.values.get("task").map(|word| self.id(word)) };
        let limit = line.number("limit").unwrap_or(1_000) as usize;
        let mut start = match line.values.get("from") {
            Some(&"earliest") => Start::Earliest,
            Some(&"now") => Start::Now,
            _ => {
                let bytes = self.resume.as_ref().expect("events were read before");
                Start::At(ResumeToken::from_bytes(bytes).expect("a token survives its bytes").position)
            }
        };
        for _ in 0..100 {
            let page = match events(&self.store, &line.queue(), start, &filter, limit).expect("reads") {
                Events::Page(page) => page,
                Events::Compacted { oldest } => {
                    return self.say(format_args!("compacted, oldest is {}", oldest.sequence()));
                }
                other => return self.say(format!("{other:?}").to_lowercase()),
            };
            page.events.iter().for_each(|event| self.say(describe_event(event)));
            let token = ResumeToken { queue: line.queue(), position: page.next };
            self.resume = Some(token.to_bytes());
            start = Start::At(page.next);
            if !page.more {
                return self.say(format_args!("- next is {}", page.next.sequence()));
            }
            self.say("- next page");
        }
        panic!("events that do not end");
    }
}

fn describe_event(event: &Event) -> String {
    let Event { sequence, at, task, kind, .. } = event;
    let mut text =
        format!("{sequence} at={} task {} {}", at.0, task.counter(), format!("{kind:?}").to_lowercase());
    let mut add = |name, value: Option<String>| {
        if let Some(value) = value {
            write!(text, " {name}={value}").expect("to a string");
        }
    };
    add("due", event.deliver_at.map(|at| at.0.to_string()));
    add("prio", event.priority.map(|priority| priority.0.to_string()));
    add("group", event.group.clone());
    add("key", event.key.clone());
    add("by", event.consumer.clone());
    add("token", event.token.map(|token| token.to_string()));
    add("delivery", event.deliveries.map(|count| count.to_string()));
    add("failures", event.failures.map(|count| count.to_string()));
    add("until", event.until.map(|at| at.0.to_string()));
    add(
        "reason",
        event.reason.as_ref().map(|reason| {
            let cut: String = reason.chars().take(40).collect();
            format!("{cut:?}({})", reason.len())
        }),
    );
    text
}
