//! Tests of the language: golden scripts, texts that fit in no script, and properties.

mod properties;
mod script;
mod texts;

use std::collections::BTreeMap;

use z4_types::{Millis, Priority, TaskId};

use crate::{Fields, Phase};

/// 2026-01-01T12:00:00Z.
const NOW: Millis = Millis(1_767_268_800_000);

/// A task as plain values.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Task {
    id: TaskId,
    phase: Phase,
    priority: u8,
    deliver_at: Millis,
    deliveries: u32,
    failures: u32,
    key: String,
    group: String,
    consumer: String,
    last_error: String,
    metadata: BTreeMap<String, String>,
}

impl Fields for Task {
    fn id(&self) -> TaskId {
        self.id
    }
    fn phase(&self) -> Phase {
        self.phase
    }
    fn priority(&self) -> Priority {
        Priority(self.priority)
    }
    fn deliver_at(&self) -> Millis {
        self.deliver_at
    }
    fn deliveries(&self) -> u32 {
        self.deliveries
    }
    fn failures(&self) -> u32 {
        self.failures
    }
    fn key(&self) -> &str {
        &self.key
    }
    fn group(&self) -> &str {
        &self.group
    }
    fn consumer(&self) -> &str {
        &self.consumer
    }
    fn last_error(&self) -> &str {
        &self.last_error
    }
    fn metadata(&self, name: &str) -> Option<&str> {
        self.metadata.get(name).map(String::as_str)
    }
}
