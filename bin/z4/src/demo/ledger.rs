//! The ledger of a demo run: every push, delivery and ack of every task, and the judgement over them.
//!
//! Tasks are numbered by their producer, and carry the number in their payload; the id is the server's. So a task that
//! was created twice shows as one number with two ids, and one that was lost as a number without an ack.
//!
//! # Invariants
//! - The ledger only learns of an ack after its OK arrived: whatever is delivered after that broke promise P5. Before
//!   that a further delivery is allowed: the lease may have ended in the crash.

use hdrhistogram::Histogram;
use z4_client::{Millis, TaskId, Token};

/// What is known of one task.
#[derive(Debug, Clone, Copy, Default)]
struct Record {
    /// The id of the push's OK, or of the first delivery.
    id: Option<TaskId>,
    /// When it was to be delivered; zero: at once.
    due: Millis,
    pushed: bool,
    acked: bool,
    deliveries: u32,
    /// Of the last delivery.
    token: Token,
}

/// The numbers of a run so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Tasks to push.
    pub(crate) total: u64,
    /// Pushes answered OK.
    pub(crate) pushed: u64,
    /// Tasks delivered at least once.
    pub(crate) delivered: u64,
    /// Tasks whose ack was answered OK.
    pub(crate) acked: u64,
    /// Further deliveries before the ack.
    pub(crate) redelivered: u64,
}

impl Counts {
    /// Returns whether everything is pushed and acked.
    pub(crate) fn is_complete(&self) -> bool {
        self.pushed == self.total && self.acked == self.total
    }
}

/// The judgement over a run.
#[derive(Debug, Clone, Default)]
pub(crate) struct Report {
    /// Pushes answered OK.
    pub(crate) pushed: u64,
    /// Tasks delivered at least once.
    pub(crate) delivered: u64,
    /// Tasks whose ack was answered OK.
    pub(crate) acked: u64,
    /// Further deliveries before the ack.
    pub(crate) redelivered: u64,
    /// Ids of tasks pushed with OK and not acked.
    pub(crate) missing: Vec<String>,
    /// Ids of tasks delivered after the OK of their ack.
    pub(crate) after_ack: Vec<String>,
    /// Pairs of ids of tasks that were created twice.
    pub(crate) doubled: Vec<String>,
    /// Ids of tasks delivered too early.
    pub(crate) early: Vec<String>,
    /// Tasks whose push was never answered with OK.
    pub(crate) unanswered: Vec<String>,
    /// What the workers met.
    pub(crate) errors: Vec<String>,
    /// Lateness of delayed tasks due while the server was up, milliseconds.
    pub(crate) late_p50_ms: u64,
    /// See `late_p50_ms`.
    pub(crate) late_p99_ms: u64,
    /// How many they are.
    pub(crate) late_count: u64,
    /// Tasks a second over the time of pushing.
    pub(crate) push_rate: f64,
    /// Most acks in one second.
    pub(crate) best_second: u64,
}

impl Report {
    /// Returns whether every promise was kept.
    pub(crate) fn is_clean(&self) -> bool {
        let broken =
            [&self.missing, &self.after_ack, &self.doubled, &self.early, &self.unanswered, &self.errors];
        broken.iter().all(|list| list.is_empty())
            && self.pushed == self.delivered
            && self.delivered == self.acked
    }
}

/// See the essay.
#[derive(Debug)]
pub(crate) struct Ledger {
    records: Vec<Record>,
    counts: Counts,
    after_ack: Vec<String>,
    doubled: Vec<String>,
    early: Vec<String>,
    errors: Vec<String>,
    /// Milliseconds, the resolution of `deliver_at`.
    lateness: Histogram<u64>,
    /// When the server was down: from the kill to some time after it served again.
    outage: Option<(Millis, Millis)>,
    push_span: Option<(Millis, Millis)>,
    /// Acks a second.
    seconds: std::collections::BTreeMap<u64, u64>,
}

impl Ledger {
    /// Returns the empty ledger of `total` tasks.
    pub(crate) fn new(total: u64) -> Self {
        Self {
            records: vec![Record::default(); usize::try_from(total).expect("bounded by the options")],
            counts: Counts { total, ..Counts::default() },
            after_ack: Vec::new(),
            doubled: Vec::new(),
            early: Vec::new(),
            errors: Vec::new(),
            lateness: Histogram::new(3).expect("three digits are allowed"),
            outage: None,
            push_span: None,
            seconds: std::collections::BTreeMap::new(),
        }
    }

    /// Returns the numbers so far.
    pub(crate) fn counts(&self) -> Counts {
        self.counts
    }

    /// Returns whether something was found that no waiting will heal.
    pub(crate) fn has_failed(&self) -> bool {
        !self.after_ack.is_empty()
            || !self.doubled.is_empty()
            || !self.early.is_empty()
            || !self.errors.is_empty()
    }

    /// Task `number` is about to be pushed, to be delivered at `due` (zero: at once).
    pub(crate) fn intended(&mut self, number: u64, due: Millis) {
        self.records[number as usize].due = due;
    }

    /// The push of `number` was answered OK at `now`.
    pub(crate) fn pushed(&mut self, number: u64, id: TaskId, now: Millis) {
        self.name(number, id);
        let record = &mut self.records[number as usize];
        if !std::mem::replace(&mut record.pushed, true) {
            self.counts.pushed += 1;
        }
        let (first, _) = self.push_span.unwrap_or((now, now));
        self.push_span = Some((first.min(now), now));
    }

    /// `number` was delivered at `now`, by the server's count for the `nth` time.
    pub(crate) fn delivered(&mut self, number: u64, id: TaskId, token: Token, nth: u32, now: Millis) {
        if number as usize >= self.records.len() {
            self.errors.push(format!("{id} has a payload nobody pushed"));
            return;
        }
        self.name(number, id);
        let record = &mut self.records[number as usize];
        if record.acked {
            self.after_ack.push(id.to_string());
            return;
        }
        if record.deliveries > 0 && token <= record.token {
            self.errors.push(format!("{id} was delivered again under the same or an older token"));
        }
        record.token = token;
        record.deliveries += 1;
        // The server counts those too that the crash cut off before we saw them.
        if nth > 1 || record.deliveries > 1 {
            self.counts.redelivered += 1;
        }
        if record.deliveries > 1 {
            return;
        }
        self.counts.delivered += 1;
        if now < record.due {
            self.early.push(id.to_string());
        }
        // Late because of the outage: due before its end, and not delivered before its beginning.
        let up = self.outage.is_none_or(|(from, to)| now < from || record.due > to);
        if record.due > Millis(0) && up {
            // A histogram that grows by itself takes every value.
            let _ = self.lateness.record(now.since(record.due).0);
        }
    }

    /// The ack of `number` was answered OK at `now`, or the task is gone since an ack whose answer was lost.
    pub(crate) fn acked(&mut self, number: u64, now: Millis) {
        let record = &mut self.records[number as usize];
        if !std::mem::replace(&mut record.acked, true) {
            self.counts.acked += 1;
            *self.seconds.entry(now.0 / 1_000).or_default() += 1;
        }
    }

    /// A worker met something no server may do to this load.
    pub(crate) fn error(&mut self, what: String) {
        self.errors.push(what);
    }

    /// The server was killed at `from`, and is not expected to be on time before `to`.
    pub(crate) fn outage(&mut self, from: Millis, to: Millis) {
        self.outage = Some((from, to));
    }

    /// Returns the judgement.
    pub(crate) fn report(&self) -> Report {
        let ids = |wanted: fn(&Record) -> bool| -> Vec<String> {
            let name = |(number, record): (usize, &Record)| match record.id {
                Some(id) => id.to_string(),
                None => format!("task {number} of this run, which never got an id"),
            };
            self.records.iter().enumerate().filter(|(_, record)| wanted(record)).map(name).collect()
        };
        let span = self.push_span.map_or(0, |(first, last)| last.since(first).0).max(1);
        Report {
            pushed: self.counts.pushed,
            delivered: self.counts.delivered,
            acked: self.counts.acked,
            redelivered: self.counts.redelivered,
            missing: ids(|record| record.pushed && !record.acked),
            after_ack: self.after_ack.clone(),
            doubled: self.doubled.clone(),
            early: self.early.clone(),
            unanswered: ids(|record| !record.pushed),
            errors: self.errors.clone(),
            late_p50_ms: self.lateness.value_at_quantile(0.5),
            late_p99_ms: self.lateness.value_at_quantile(0.99),
            late_count: self.lateness.len(),
            push_rate: self.counts.pushed as f64 * 1_000.0 / span as f64,
            best_second: self.seconds.values().copied().max().unwrap_or_default(),
        }
    }

    fn name(&mut self, number: u64, id: TaskId) {
        let record = &mut self.records[number as usize];
        match record.id {
            None => record.id = Some(id),
            Some(known) if known != id => self.doubled.push(format!("{known} and {id}")),
            Some(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A run of two tasks: number 0 due at once, number 1 at 1,000 ms.
    fn ledger() -> Ledger {
        let mut ledger = Ledger::new(2);
        ledger.intended(1, Millis(1_000));
        ledger.pushed(0, TaskId(10), Millis(1));
        ledger.pushed(1, TaskId(11), Millis(2));
        ledger
    }

    fn finish(ledger: &mut Ledger, number: u64) {
        ledger.delivered(number, TaskId(10 + u128::from(number)), Token(9), 1, Millis(1_003));
        ledger.acked(number, Millis(1_004));
    }

    #[test]
    fn a_run_that_acked_everything_is_clean() {
        let mut ledger = ledger();
        finish(&mut ledger, 0);
        finish(&mut ledger, 1);
        let report = ledger.report();
        assert!(report.is_clean(), "{report:?}");
        assert!(ledger.counts().is_complete());
        assert_eq!((report.pushed, report.delivered, report.acked), (2, 2, 2));
        assert_eq!((report.late_count, report.late_p50_ms), (1, 3), "only the delayed one has a lateness");
    }

    #[test]
    fn p4_a_task_without_an_ack_is_missing_and_named() {
        let mut ledger = ledger();
        finish(&mut ledger, 0);
        ledger.delivered(1, TaskId(11), Token(1), 1, Millis(1_000));
        let report = ledger.report();
        assert!(!report.is_clean());
        assert_eq!(report.missing, [TaskId(11).to_string()]);
    }

    #[test]
    fn a_cut_lease_may_bring_a_task_back_before_its_ack() {
        let mut ledger = ledger();
        ledger.delivered(0, TaskId(10), Token(1), 1, Millis(5));
        ledger.delivered(0, TaskId(10), Token(2), 2, Millis(6_000));
        ledger.acked(0, Millis(6_001));
        finish(&mut ledger, 1);
        assert!(ledger.report().is_clean());
        assert_eq!(ledger.report().redelivered, 1);
    }

    #[test]
    fn p5_a_delivery_after_the_ack_is_named() {
        let mut ledger = ledger();
        finish(&mut ledger, 0);
        finish(&mut ledger, 1);
        ledger.delivered(0, TaskId(10), Token(12), 1, Millis(7_000));
        assert!(ledger.has_failed());
        let report = ledger.report();
        assert!(!report.is_clean());
        assert_eq!(report.after_ack, [TaskId(10).to_string()]);
    }

    #[test]
    fn p6_a_task_created_twice_is_named_with_both_ids() {
        let mut ledger = ledger();
        ledger.delivered(0, TaskId(99), Token(1), 1, Millis(5));
        assert_eq!(ledger.report().doubled, [format!("{} and {}", TaskId(10), TaskId(99))]);
        assert!(!ledger.report().is_clean());
    }

    #[test]
    fn p2_a_delivery_before_its_time_is_named() {
        let mut ledger = ledger();
        ledger.delivered(1, TaskId(11), Token(1), 1, Millis(999));
        assert_eq!(ledger.report().early, [TaskId(11).to_string()]);
    }

    #[test]
    fn p3_a_token_that_does_not_grow_is_an_error() {
        let mut ledger = ledger();
        ledger.delivered(0, TaskId(10), Token(4), 1, Millis(5));
        ledger.delivered(0, TaskId(10), Token(4), 1, Millis(6));
        assert_eq!(ledger.report().errors.len(), 1);
    }

    #[test]
    fn a_push_without_an_answer_fails_the_run() {
        let mut ledger = Ledger::new(1);
        assert_eq!(ledger.report().unanswered.len(), 1);
        assert!(!ledger.report().is_clean());
        ledger.delivered(0, TaskId(1), Token(1), 1, Millis(1));
        assert!(!ledger.report().is_clean(), "a delivery is no answer to the push");
    }

    #[test]
    fn a_delivery_that_the_crash_cut_off_before_we_saw_it_counts_as_one() {
        let mut ledger = ledger();
        ledger.delivered(0, TaskId(10), Token(2), 2, Millis(6_000));
        assert_eq!((ledger.counts().delivered, ledger.counts().redelivered), (1, 1));
    }

    #[test]
    fn tasks_due_while_the_server_was_down_have_no_lateness() {
        let mut ledger = ledger();
        ledger.outage(Millis(900), Millis(1_100));
        finish(&mut ledger, 1);
        assert_eq!(ledger.report().late_count, 0);
    }
}
