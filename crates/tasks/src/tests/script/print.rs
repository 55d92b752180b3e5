//! What a script prints.

use std::fmt::Write as _;

use super::Runner;
use super::line::Line;
use crate::command::{Command, OnFailure, Target, Which};
use crate::outcome::{Made, Outcome, Refusal, Settled, Updated};
use crate::{TaskInfo, TaskState, hydrate};

impl Runner {
    pub(super) fn config(&mut self, line: &Line<'_>) {
        let Some(config) = self.machine.config(&line.queue()) else { return self.say("no such queue") };
        let set: Vec<&str> = config.settings.fields().names().collect();
        let effective = &config.effective;
        let mut text = format!("etag={} set=[{}]", config.etag, set.join(" "));
        write!(
            text,
            " lease={} max={} prio={} keep={}:{:?} ttl={:?} backlog={:?}",
            effective.lease_duration.0,
            effective.max_attempts,
            effective.priority.0,
            effective.retention.age.0,
            effective.retention.count,
            effective.ttl.map(|ttl| ttl.0),
            effective.max_backlog
        )
        .expect("to a string");
        if let Some(paused) = config.paused {
            write!(text, " paused since={} note={:?} by={:?}", paused.since.0, paused.note, paused.author)
                .expect("to a string");
            if let Some(until) = paused.until {
                write!(text, " until={}", until.0).expect("to a string");
            }
        }
        self.say(text);
    }

    fn updated(&mut self, target: &Target, result: &Result<Updated, Refusal>) {
        let text = match result {
            Ok(Updated { etag, deliver_at, .. }) => format!("etag={etag} due at {}", deliver_at.0),
            Err(refusal) => refused(refusal),
        };
        self.say(format_args!("task {} {text}", name(target)));
    }

    pub(super) fn print(&mut self, command: &Command, outcome: &Outcome) {
        if self.print_schedule(outcome) {
            return;
        }
        match outcome {
            Outcome::Created(results) => {
                let mut text = String::from("created");
                if let Some(Err(refusal)) = results.first()
                    && results.iter().all(|result| result.as_ref() == Err(refusal))
                {
                    return self.say(refused(refusal));
                }
                for made in results {
                    let Made { id, existed } = match made {
                        Ok(made) => made,
                        Err(refusal) => {
                            write!(text, " ({})", refused(refusal)).expect("to a string");
                            continue;
                        }
                    };
                    self.ids.insert(id.counter(), *id);
                    let there = if *existed { " (was there)" } else { "" };
                    write!(text, " {}{there}", id.counter()).expect("to a string");
                }
                self.say(text);
            }
            Outcome::Leased(leased) => {
                let Command::Lease { consumer, .. } = command else { panic!("an answer to a lease") };
                if leased.picks.is_empty() {
                    self.say(format_args!("{consumer} <- nothing due"));
                }
                if leased.picks.len() > 10 {
                    self.say(format_args!("{consumer} <- {} tasks", leased.picks.len()));
                }
                let bodies = hydrate(&self.store, &leased.picks).expect("reads");
                for (pick, body) in leased.picks.iter().zip(bodies) {
                    let body = body.expect("just picked");
                    assert_eq!(body.payload.len(), pick.payload_bytes as usize);
                    self.tokens.insert(pick.id, pick.token);
                    if leased.picks.len() > 10 {
                        continue;
                    }
                    self.say(format_args!(
                        "{consumer} <- task {} token={} due={} delivery={} failures={} until={}",
                        pick.id.counter(),
                        pick.token,
                        pick.due.0,
                        pick.deliveries,
                        pick.failures,
                        leased.until.0
                    ));
                }
            }
            Outcome::Settled(results) => {
                let Command::Settle(settlements) = command else { panic!("an answer to a settle") };
                for (settlement, result) in settlements.iter().zip(results) {
                    let task = settlement.id.counter();
                    let text = match result {
                        Ok(Settled::Acked) => "acked".into(),
                        Ok(Settled::Retried(at)) => format!("due again at {}", at.0),
                        Ok(Settled::Released(at)) => format!("released, due again at {}", at.0),
                        Ok(Settled::Dead) => "dead".into(),
                        Ok(Settled::Extended(until)) => format!("leased until {}", until.0),
                        Err(refusal) => refused(refusal),
                    };
                    self.say(format_args!("task {task} {text}"));
                }
            }
            Outcome::Cancelled(results) => {
                let names: Vec<String> = match command {
                    Command::Cancel(ids) => ids.iter().map(|id| id.counter().to_string()).collect(),
                    Command::CancelIf(targets) => targets.iter().map(name).collect(),
                    _ => panic!("an answer to a cancel"),
                };
                for (name, result) in names.iter().zip(results) {
                    let text = result.as_ref().map_or_else(refused, |()| "cancelled".into());
                    self.say(format_args!("task {name} {text}"));
                }
            }
            Outcome::Advanced { more, dead } => {
                self.say(if *more { "advanced, more to do" } else { "advanced" });
                if *dead > 0 {
                    self.say(format_args!("dead with it: {dead}"));
                }
            }
            Outcome::QueueSet(result) => self.say(match result {
                Ok(set) => {
                    format!("{} etag={}", if set.created { "queue created" } else { "queue set" }, set.etag)
                }
                Err(refusal) => refused(refusal),
            }),
            Outcome::QueueDeleted(result) => {
                self.say(result.as_ref().map_or_else(refused, |()| "queue deleted".into()));
            }
            Outcome::PoliciesSet(version) => self.say(format_args!("policies of version {version}")),
            Outcome::QueuePaused(result) => {
                let Command::Pause(pause) = command else { panic!("an answer to a pause") };
                let done = if pause.paused { "paused" } else { "resumed" };
                self.say(result.as_ref().map_or_else(refused, |()| done.into()));
            }
            Outcome::Updated(result) => {
                let Command::UpdateTask(update) = command else { panic!("an answer to an update") };
                self.updated(&update.target, result);
            }
            Outcome::MadeDue(results) => {
                let Command::RunNow(targets) = command else { panic!("an answer to a run now") };
                targets.iter().zip(results).for_each(|(target, result)| self.updated(target, result));
            }
            Outcome::Redriven(results) => {
                let Command::Redrive(targets) = command else { panic!("an answer to a redrive") };
                for ((target, _), result) in targets.iter().zip(results) {
                    let text =
                        result.as_ref().map_or_else(refused, |at| format!("redriven, due at {}", at.0));
                    self.say(format_args!("task {} {text}", name(target)));
                }
            }
            Outcome::GroupSet(result) => self.say(match result {
                Ok(set) => format!(
                    "group set: weight={:?} serial={:?} conc={:?} rate={:?}",
                    set.weight,
                    set.serial,
                    set.concurrency,
                    set.rate.map(|rate| (rate.thousandths, rate.burst))
                ),
                Err(refusal) => refused(refusal),
            }),
            Outcome::ScheduleSet(_)
            | Outcome::ScheduleDeleted(_)
            | Outcome::SchedulePaused(_)
            | Outcome::ScheduleRun(_)
            | Outcome::SlotFired(_) => unreachable!("printed above"),
            Outcome::Purged(result) => {
                self.say(result.as_ref().map_or_else(refused, |purged| format!("purged {}", purged.count)));
            }
        }
    }
}

fn name(target: &Target) -> String {
    match &target.which {
        Which::Id(id) => id.counter().to_string(),
        Which::Key { queue, key } => format!("{queue}:{key}"),
    }
}

pub(super) fn refused(refusal: &Refusal) -> String {
    match refusal {
        Refusal::NotFound(_) => "refused: not found".into(),
        Refusal::TooManyQueues(queues) => format!("refused: {queues} queues already"),
        Refusal::RequestReused { then, now } => {
            format!("refused: the request was of {then} tasks, not {now}")
        }
        Refusal::LeaseLost { token, .. } => format!("refused: lease {token} is lost"),
        Refusal::TaskChanged { etag, given, .. } => format!("refused: etag is {etag}, not {given}"),
        Refusal::TaskLeased { until, .. } => format!("refused: leased until {}", until.0),
        Refusal::KeyTaken { key, id } => format!("refused: task {} has key {key}", id.counter()),
        Refusal::KeyLeased { key, id, until } => {
            format!("refused: task {} has key {key}, leased until {}", id.counter(), until.0)
        }
        Refusal::KeyUsed { key, id, until } => {
            format!("refused: task {} keeps key {key} until {}", id.counter(), until.0)
        }
        Refusal::TaskBlocked { blockers, first, .. } => {
            format!("refused: waits for {blockers}, first {}", first.counter())
        }
        Refusal::AfterUnknown(id) => format!("refused: task {} is not there", id.counter()),
        Refusal::AfterFuture(id) => format!("refused: task {} is not created yet", id.counter()),
        Refusal::AfterElsewhere { id, .. } => format!("refused: task {} is elsewhere", id.counter()),
        Refusal::AfterFailed(id) => format!("refused: task {} has failed", id.counter()),
        Refusal::TaskDead(_) => "refused: dead".into(),
        Refusal::TaskNotDead(_) => "refused: not dead".into(),
        other => format!("refused: {other}"),
    }
}

pub(super) fn describe(info: &TaskInfo) -> String {
    let mut text = format!("task {} in {}: ", info.id.counter(), info.queue);
    match &info.state {
        TaskState::Waiting { .. } => text += "waiting",
        TaskState::Leased { until, token, consumer } => {
            write!(text, "leased until={} token={token} by={consumer}", until.0).expect("to a string");
        }
        TaskState::Blocked { blockers } => write!(text, "blocked by {blockers}").expect("to a string"),
        TaskState::Dead { since, reason } => {
            write!(text, "dead since={} reason={reason}", since.0).expect("to a string")
        }
        TaskState::Finished { end, at } => {
            write!(text, "{} ended={}", format!("{end:?}").to_lowercase(), at.0).expect("to a string");
        }
    }
    write!(
        text,
        " at={} prio={} created={} deliveries={} failures={}/{}",
        info.deliver_at.0,
        info.priority.0,
        info.created_at.0,
        info.deliveries,
        info.failures,
        info.max_attempts
    )
    .expect("to a string");
    if let Some(group) = &info.group {
        write!(text, " group={group}").expect("to a string");
    }
    if !info.after.is_empty() {
        let after: Vec<String> = info.after.iter().map(|id| id.counter().to_string()).collect();
        let policy = if info.on_failure == OnFailure::Run { "(run)" } else { "" };
        write!(text, " after={}{policy}", after.join(",")).expect("to a string");
    }
    if let Some(at) = info.expires_at {
        write!(text, " expires={}", at.0).expect("to a string");
    }
    if let Some(error) = &info.last_error {
        let cut: String = error.chars().take(40).collect();
        write!(text, " error={cut:?}({})", error.len()).expect("to a string");
    }
    if let Some(progress) = &info.progress {
        write!(text, " progress={progress}").expect("to a string");
    }
    if let Some(bytes) = info.result_bytes {
        write!(text, " result={bytes}").expect("to a string");
    }
    if let Some(key) = &info.key {
        write!(text, " key={key}").expect("to a string");
    }
    for (key, value) in &info.metadata {
        write!(text, " {key}:{value}").expect("to a string");
    }
    if !info.payload.is_empty() {
        let cut = &info.payload[..info.payload.len().min(20)];
        write!(text, " payload={}({})", String::from_utf8_lossy(cut), info.payload.len())
            .expect("to a string");
    }
    text
}
