//! What was asked, what was promised, what came out: the history of a crash run, and its judge.
//!
//! The load writes down every attempt, answer and delivery as it sees them; [`History::report`] then says which
//! promises were broken. It is a pure value, so it is tested with histories made by hand, good and bad.
//!
//! A task is known by the number in its payload, not by its id: a create whose answer was lost has no id yet. A `run`
//! is the life of one server process, from start to kill.
//!
//! ```text
//!   attempted ──► created (OK seen)          must be delivered until an ack of it may have counted
//!        └──────► unknown (no answer)        may exist or not; resent under the same request id: still one task
//!   delivered ──► ack sent ──► ack OK        must never be delivered again
//!                     └──────► no answer     may come again
//! ```
//!
//! # Invariants
//! - An answer that never came counts as neither yes nor no: not as a loss, and not as a promise.
//!
//! # Caveats
//! - Within one run, a delivery is after an ack if its token is larger: two streams are read by two tasks, so the
//!   order in which we read says nothing. In a later run any delivery is after the ack.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// How early a delivery must be to count, milliseconds: two readings of one wall clock, each rounded.
const EARLY_MS: u64 = 2;
/// Most task numbers shown for one kind of violation.
const SHOWN_MAX: usize = 10;

/// One delivery as a consumer saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Delivery {
    pub(crate) id: u128,
    pub(crate) token: u64,
    pub(crate) run: u32,
    /// Wall time at which it was read, milliseconds since 1970.
    pub(crate) at_ms: u64,
}

#[derive(Debug, Clone, Default)]
struct Record {
    /// Wall time before which it must not be delivered; 0 for now.
    due_ms: u64,
    created: bool,
    ids: BTreeSet<u128>,
    deliveries: Vec<Delivery>,
    acked: Option<(u64, u32)>,
    /// Tokens of acks that were sent and neither confirmed nor refused.
    acks_open: Vec<u64>,
}

/// The events of one crash run.
#[derive(Debug, Clone, Default)]
pub(crate) struct History {
    records: Vec<Record>,
    /// Payloads that no producer ever sent.
    phantoms: u64,
    /// Acks that were answered OK.
    acks: u64,
}

/// What the judge found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) attempted: u64,
    pub(crate) acked_creates: u64,
    pub(crate) deliveries: u64,
    pub(crate) acked_acks: u64,
    pub(crate) violations: BTreeMap<Violation, Vec<u64>>,
    pub(crate) phantoms: u64,
}

/// A broken promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Violation {
    /// Created with OK, and neither acked nor found by the final drain.
    Lost,
    /// Delivered after an ack of it was answered OK.
    Redelivered,
    /// One attempt became two tasks.
    Duplicated,
    /// Two leases of one task had the same token.
    TokenReused,
    /// Delivered before it was due.
    Early,
}

impl History {
    /// Notes that a task is about to be created, and returns its number.
    pub(crate) fn attempted(&mut self, due_ms: u64) -> u64 {
        self.records.push(Record { due_ms, ..Record::default() });
        self.records.len() as u64 - 1
    }

    /// Notes that the create was answered OK.
    pub(crate) fn created(&mut self, number: u64, id: u128) {
        let record = self.record(number);
        record.created = true;
        record.ids.insert(id);
    }

    /// Notes a delivery; returns false for a number that nobody attempted.
    pub(crate) fn delivered(&mut self, number: u64, delivery: Delivery) -> bool {
        if number >= self.records.len() as u64 {
            self.phantoms += 1;
            return false;
        }
        let record = self.record(number);
        record.ids.insert(delivery.id);
        record.deliveries.push(delivery);
        true
    }

    /// Notes a delivery whose payload was never sent by anybody.
    pub(crate) fn delivered_garbage(&mut self) {
        self.phantoms += 1;
    }

    /// Notes that an ack leaves now: from here on it may count, answer or not.
    pub(crate) fn ack_sent(&mut self, number: u64, token: u64) {
        self.record(number).acks_open.push(token);
    }

    /// Notes that the ack was answered OK by the server of `run`.
    pub(crate) fn ack_ok(&mut self, number: u64, token: u64, run: u32) {
        self.acks += 1;
        let record = self.record(number);
        record.acks_open.retain(|open| *open != token);
        record.acked.get_or_insert((token, run));
    }

    /// Notes that the ack was refused: it certainly does not count.
    pub(crate) fn ack_refused(&mut self, number: u64, token: u64) {
        self.record(number).acks_open.retain(|open| *open != token);
    }

    /// Returns how many creates were answered OK so far.
    pub(crate) fn created_count(&self) -> u64 {
        self.records.iter().filter(|record| record.created).count() as u64
    }

    fn record(&mut self, number: u64) -> &mut Record {
        self.records.get_mut(number as usize).expect("the load speaks of tasks it attempted")
    }

    /// Judges the history. Call after the final drain.
    pub(crate) fn report(&self) -> Report {
        let mut report = Report {
            attempted: self.records.len() as u64,
            acked_creates: self.created_count(),
            deliveries: self.records.iter().map(|record| record.deliveries.len() as u64).sum(),
            acked_acks: self.acks,
            violations: BTreeMap::new(),
            phantoms: self.phantoms,
        };
        for (number, record) in (0..).zip(&self.records) {
            for violation in record.violations() {
                report.violations.entry(violation).or_default().push(number);
            }
        }
        report
    }
}

impl Record {
    fn violations(&self) -> impl Iterator<Item = Violation> {
        let mut tokens = BTreeSet::new();
        let token_reused = self.deliveries.iter().any(|delivery| !tokens.insert(delivery.token));
        [
            (Violation::Lost, self.created && self.acked.is_none() && self.acks_open.is_empty()),
            (Violation::Redelivered, self.redelivered()),
            (Violation::Duplicated, self.ids.len() > 1),
            (Violation::TokenReused, token_reused),
            (
                Violation::Early,
                self.deliveries.iter().any(|delivery| delivery.at_ms + EARLY_MS < self.due_ms),
            ),
        ]
        .into_iter()
        .filter_map(|(violation, found)| found.then_some(violation))
    }

    fn redelivered(&self) -> bool {
        let Some((token, run)) = self.acked else { return false };
        self.deliveries
            .iter()
            .any(|delivery| delivery.run > run || (delivery.run == run && delivery.token > token))
    }
}

impl Report {
    /// Returns whether every promise was kept.
    pub(crate) fn is_clean(&self) -> bool {
        self.violations.is_empty() && self.phantoms == 0
    }

    fn count(&self, violation: Violation) -> usize {
        self.violations.get(&violation).map_or(0, Vec::len)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "attempted {}, acked creates {}, deliveries {}, acked acks {}, lost {}, redelivered {}, duplicated {}, \
             token reused {}, early {}, phantom {}",
            self.attempted,
            self.acked_creates,
            self.deliveries,
            self.acked_acks,
            self.count(Violation::Lost),
            self.count(Violation::Redelivered),
            self.count(Violation::Duplicated),
            self.count(Violation::TokenReused),
            self.count(Violation::Early),
            self.phantoms,
        )?;
        for (violation, numbers) in &self.violations {
            let shown = &numbers[..numbers.len().min(SHOWN_MAX)];
            write!(f, "\n  {violation:?}: {} tasks, the first {shown:?}", numbers.len())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays a script of one task due at 100 and returns the violations. Words: `create ID`, `deliver ID TOKEN RUN
    /// [AT]`, `send TOKEN`, `ok TOKEN RUN`, `refused TOKEN`.
    fn judge(script: &str) -> Vec<Violation> {
        let mut history = History::default();
        let task = history.attempted(100);
        for line in script.split(';').map(str::trim).filter(|line| !line.is_empty()) {
            let (verb, rest) = line.split_once(' ').expect("a verb and its numbers");
            let n: Vec<u64> = rest.split(' ').map(|word| word.parse().expect("a number")).collect();
            match verb {
                "create" => history.created(task, n[0].into()),
                "deliver" => {
                    let at_ms = n.get(3).copied().unwrap_or(100);
                    let delivery = Delivery { id: n[0].into(), token: n[1], run: n[2] as u32, at_ms };
                    assert!(history.delivered(task, delivery));
                }
                "send" => history.ack_sent(task, n[0]),
                "ok" => history.ack_ok(task, n[0], n[1] as u32),
                "refused" => history.ack_refused(task, n[0]),
                other => panic!("no such verb: {other}"),
            }
        }
        history.report().violations.into_keys().collect()
    }

    #[test]
    fn a_task_created_delivered_and_acked_breaks_no_promise() {
        assert_eq!(judge("create 7; deliver 7 1 0; send 1; ok 1 0"), []);
    }

    #[test]
    fn a_created_task_that_never_came_out_is_lost() {
        assert_eq!(judge("create 7"), [Violation::Lost]);
    }

    #[test]
    fn a_task_delivered_and_then_gone_without_an_ack_is_lost_too() {
        assert_eq!(judge("create 7; deliver 7 1 0"), [Violation::Lost]);
        assert_eq!(judge("create 7; deliver 7 1 0; send 1; refused 1"), [Violation::Lost]);
    }

    #[test]
    fn an_ack_without_an_answer_may_have_counted_or_not() {
        assert_eq!(judge("create 7; deliver 7 1 0; send 1"), []);
        assert_eq!(judge("create 7; deliver 7 1 0; send 1; deliver 7 2 1; send 2; ok 2 1"), []);
    }

    #[test]
    fn a_create_without_an_answer_may_exist_or_not() {
        assert_eq!(judge(""), []);
        assert_eq!(judge("deliver 7 1 0; send 1; ok 1 0"), []);
    }

    #[test]
    fn a_delivery_after_an_acknowledged_ack_is_a_redelivery_whatever_its_token() {
        assert_eq!(judge("create 7; deliver 7 1 0; send 1; ok 1 0; deliver 7 2 0"), [Violation::Redelivered]);
        assert_eq!(
            judge("create 7; deliver 7 1 0; send 1; ok 1 0; deliver 7 1 1"),
            [Violation::Redelivered, Violation::TokenReused]
        );
    }

    #[test]
    fn an_older_delivery_read_late_is_no_redelivery() {
        assert_eq!(judge("create 7; deliver 7 2 0; send 2; ok 2 0; deliver 7 1 0"), []);
    }

    #[test]
    fn one_attempt_under_two_ids_is_a_duplicate() {
        let script = "create 7; deliver 8 1 0; send 1; ok 1 0";
        assert_eq!(judge(script), [Violation::Duplicated]);
    }

    #[test]
    fn a_delivery_before_its_time_is_early() {
        assert_eq!(judge("create 7; deliver 7 1 0 97; send 1; ok 1 0"), [Violation::Early]);
        assert_eq!(judge("create 7; deliver 7 1 0 99; send 1; ok 1 0"), []);
    }

    #[test]
    fn payloads_nobody_sent_are_counted_and_not_clean() {
        let mut history = History::default();
        assert!(!history.delivered(5, Delivery { id: 1, token: 1, run: 0, at_ms: 0 }));
        history.delivered_garbage();
        let report = history.report();
        assert!(!report.is_clean());
        assert!(report.to_string().contains("phantom 2"), "{report}");
    }
}
