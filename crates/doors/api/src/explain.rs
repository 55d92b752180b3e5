//! Why a task does not run and what holds a queue back, in words and in facts.
//!
//! The machine knows rows and limits, the shard's leader knows who waits for tasks; here the two become one answer. Every
//! sentence is made in this file, so that all of them speak alike.
//!
//! # Not here
//! - The obstacles and their order: `z4-tasks`.

use z4_host::{Explained, Held, Waiters};
use z4_proto::convert::timestamp;
use z4_proto::v1::{self, Explanation, Obstacle};
use z4_tasks::{AHEAD_MAX, End, HeldGroups, Hold, Paused, Why};
use z4_types::Millis;

/// Returns why a task is not running at `now`.
pub(crate) fn task(explained: Explained, now: Millis) -> Explanation {
    let Explained { why, task, waiting } = explained;
    let (queue, group) = (task.queue.as_str(), task.group.unwrap_or_default());
    let behind = match &why {
        Why::Behind { tasks, groups, class } => Some((*tasks, *groups, *class)),
        _ => None,
    };
    let mut said = match why {
        Why::Finished { end, at } => {
            let (state, word) = match end {
                End::Done => (v1::TaskState::Done, "done"),
                End::Cancelled => (v1::TaskState::Cancelled, "cancelled"),
                End::Expired => (v1::TaskState::Expired, "expired"),
            };
            let said = say(
                Obstacle::Finished,
                format!("it has ended: {word} at {}", time(at)),
                "nothing: push it again if it is to run again".to_owned(),
            );
            Explanation { state: state.into(), since: Some(timestamp(at)), ..said }
        }
        Why::Dead { since, reason } => {
            let last =
                if reason.is_empty() { String::new() } else { format!(", the last time with: {reason}") };
            let said = say(
                Obstacle::Dead,
                format!("it failed for the last time at {}{last}", time(since)),
                "a redrive gives it all its attempts again".to_owned(),
            );
            let (state, since) = (v1::TaskState::Dead.into(), Some(timestamp(since)));
            Explanation { state, since, last_error: reason, ..said }
        }
        Why::Leased { consumer, until } => {
            let said = say(
                Obstacle::Leased,
                format!("it is running: consumer {consumer} holds it until {}", time(until)),
                "its consumer ends it or gives it back, or its lease runs out".to_owned(),
            );
            let (state, until) = (v1::TaskState::Leased.into(), Some(timestamp(until)));
            Explanation { state, until, consumer, ..said }
        }
        Why::Expiring { at } => {
            let said = say(
                Obstacle::Expiring,
                format!("its TTL passed at {}", time(at)),
                "nothing: it ends with the next step of its shard".to_owned(),
            );
            Explanation { since: Some(timestamp(at)), ..said }
        }
        Why::Blocked { blockers, first } => {
            let others = match blockers {
                1 => "a task that has not ended".to_owned(),
                count => format!("{count} tasks that have not ended"),
            };
            let ids: Vec<String> = first.iter().map(ToString::to_string).collect();
            let rest = if ids.len() < blockers as usize { ", …" } else { "" };
            let said = say(
                Obstacle::Blocked,
                format!("it comes after {others}: {}{rest}", ids.join(", ")),
                "these end; an explanation of each says what it waits for".to_owned(),
            );
            let state = v1::TaskState::Blocked.into();
            Explanation { state, blockers: ids, blockers_left: blockers, ..said }
        }
        Why::NotDue { until } => {
            let tried = if task.failures > 0 {
                format!(", it waits to be tried again after {} failures", task.failures)
            } else {
                String::new()
            };
            let said = say(
                Obstacle::NotDue,
                format!("it is not due until {}{tried}", time(until)),
                "time; running it now, or an update, makes it due sooner".to_owned(),
            );
            Explanation {
                until: Some(timestamp(until)),
                last_error: task.last_error.unwrap_or_default(),
                ..said
            }
        }
        Why::QueuePaused(paused) => self::paused(queue, paused),
        Why::QueueProbing => probing(queue),
        Why::QueueFull { leased, limit } => full(queue, leased, limit),
        Why::QueueRate { next } => rate(queue, next),
        Why::GroupFull { leased, limit, serial } => {
            let because = if serial {
                format!("its group {group} runs one task at a time, and one of them is running")
            } else {
                format!("its group {group} is at its concurrency: {leased} of {limit} tasks are leased")
            };
            let remedy = "a task of the group ends, or a higher concurrency of the group".to_owned();
            let (leased, limit) = (leased.into(), limit.into());
            Explanation { leased, limit, serial, ..say(Obstacle::GroupFull, because, remedy) }
        }
        Why::GroupSlowed { until } => {
            let said = say(
                Obstacle::GroupSlowed,
                format!(
                    "its group {group} rests until {}: a consumer asked for it, or a task of it waits to be tried again",
                    time(until)
                ),
                "time".to_owned(),
            );
            Explanation { until: Some(timestamp(until)), ..said }
        }
        Why::GroupRate { next } => {
            let said = say(
                Obstacle::GroupRate,
                format!("its group {group} has used up its rate until {}", time(next)),
                "time, or a higher rate of the group".to_owned(),
            );
            Explanation { until: Some(timestamp(next)), ..said }
        }
        Why::Behind { .. } | Why::Next if waiting.hungry == 0 => nobody(queue, waiting),
        Why::Behind { .. } => say(
            Obstacle::Behind,
            String::new(),
            "the tasks before it are done; a lower priority number puts it further to the front".to_owned(),
        ),
        Why::Next => say(
            Obstacle::Next,
            "it is the next one, and a consumer waits: it is delivered at any moment".to_owned(),
            "nothing needs to".to_owned(),
        ),
    };
    if let Some((tasks, groups, class)) = behind {
        said.tasks_ahead = tasks as u64;
        said.groups_ahead = groups as u64;
        said.served_priority = class.into();
        let line = if group.is_empty() { "its line".to_owned() } else { format!("its group {group}") };
        let (tasks, groups) = (count(tasks, "task"), count(groups, "group"));
        let ahead = format!("ahead of it: {tasks} in {line}, {groups} before that");
        said.because = if said.because.is_empty() { ahead } else { format!("{}; {ahead}", said.because) };
    }
    if said.state == 0 {
        let due = task.deliver_at <= now;
        said.state = if due { v1::TaskState::Due } else { v1::TaskState::Scheduled }.into();
    }
    queue.clone_into(&mut said.queue);
    Explanation { group, consumers: waiting.consumers, waiting_consumers: waiting.hungry, ..said }
}

/// Returns what holds a queue back.
pub(crate) fn queue(queue: &str, held: Held) -> v1::ExplainQueueResponse {
    let Held { holds, waiting } = held;
    let mut obstacles: Vec<Explanation> = holds.into_iter().map(|hold| one(queue, hold)).collect();
    if waiting.hungry == 0 {
        obstacles.push(nobody(queue, waiting));
    }
    for said in &mut obstacles {
        queue.clone_into(&mut said.queue);
        (said.consumers, said.waiting_consumers) = (waiting.consumers, waiting.hungry);
    }
    v1::ExplainQueueResponse {
        obstacles,
        consumers: waiting.consumers,
        waiting_consumers: waiting.hungry,
        forwarded_to: String::new(),
    }
}

fn one(queue: &str, hold: Hold) -> Explanation {
    match hold {
        Hold::Paused(paused) => self::paused(queue, paused),
        Hold::Probing => probing(queue),
        Hold::Empty => {
            say(Obstacle::Empty, format!("no task waits in queue {queue}"), "a new task".to_owned())
        }
        Hold::NotDue { until } => {
            let said = say(
                Obstacle::NotDue,
                format!("no task of queue {queue} is due until {}", time(until)),
                "time, or tasks that are due sooner".to_owned(),
            );
            Explanation { until: Some(timestamp(until)), ..said }
        }
        Hold::Full { leased, limit } => full(queue, leased, limit),
        Hold::Rate { next } => rate(queue, next),
        Hold::Groups(HeldGroups { full, slowed, rate, next }) => {
            let when = next.map_or(String::new(), |at| format!(", the first of them until {}", time(at)));
            let said = say(
                Obstacle::GroupsHeld,
                format!(
                    "all that is due is of groups that are held back{when}: {full} at their concurrency, {slowed} at rest, \
                     {rate} without rate"
                ),
                "tasks of these groups end, time, or higher limits of groups".to_owned(),
            );
            Explanation {
                until: next.map(timestamp),
                groups_full: full as u64,
                groups_slowed: slowed as u64,
                groups_rate: rate as u64,
                ..said
            }
        }
    }
}

fn paused(queue: &str, paused: Paused) -> Explanation {
    let Paused { since, note, author, until } = paused;
    let by = if author.is_empty() { String::new() } else { format!(" by {author}") };
    let why = if note.is_empty() { String::new() } else { format!(": {note}") };
    let because = format!("queue {queue} is paused since {}{by}{why}", time(since));
    let remedy = match until {
        None => "resuming the queue".to_owned(),
        Some(until) => {
            format!("one delivery is tried at {}; resuming the queue lets all go on now", time(until))
        }
    };
    let (since, until) = (Some(timestamp(since)), until.map(timestamp));
    Explanation { since, until, note, author, ..say(Obstacle::QueuePaused, because, remedy) }
}

fn probing(queue: &str) -> Explanation {
    say(
        Obstacle::QueueProbing,
        format!("the circuit breaker of queue {queue} tries one delivery before all others"),
        "that delivery succeeds, or the queue is resumed".to_owned(),
    )
}

fn full(queue: &str, leased: u64, limit: u32) -> Explanation {
    let said = say(
        Obstacle::QueueFull,
        format!("queue {queue} is at its concurrency: {leased} of {limit} tasks are leased"),
        "a task of the queue ends, or a higher concurrency".to_owned(),
    );
    Explanation { leased, limit: limit.into(), ..said }
}

fn rate(queue: &str, next: Millis) -> Explanation {
    let said = say(
        Obstacle::QueueRate,
        format!("queue {queue} has used up its rate until {}", time(next)),
        "time, or a higher rate".to_owned(),
    );
    Explanation { until: Some(timestamp(next)), ..said }
}

fn nobody(queue: &str, waiting: Waiters) -> Explanation {
    let because = match waiting.consumers {
        0 => format!("no consumer is connected to queue {queue}"),
        count => format!("none of the {count} consumers of queue {queue} asks for more"),
    };
    let remedy = match waiting.consumers {
        0 => "a consumer",
        _ => "the consumers settle what they have, or more of them",
    };
    say(Obstacle::NoConsumer, because, remedy.to_owned())
}

fn say(obstacle: Obstacle, because: String, remedy: String) -> Explanation {
    Explanation { obstacle: obstacle.into(), because, remedy, ..Explanation::default() }
}

/// Returns a number that is counted only so far.
fn count(number: usize, what: &str) -> String {
    match number {
        1 => format!("1 {what}"),
        AHEAD_MAX.. => format!("{AHEAD_MAX} {what}s or more"),
        _ => format!("{number} {what}s"),
    }
}

/// Returns a time as people read it.
fn time(at: Millis) -> String {
    timestamp(at).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use z4_tasks::command::{OnFailure, Retry};
    use z4_tasks::{TaskInfo, TaskState};
    use z4_types::{Duration, Priority, QueueName, TaskId};

    fn info(failures: u32) -> TaskInfo {
        TaskInfo {
            id: TaskId(1),
            queue: QueueName::new("mail").expect("valid"),
            state: TaskState::Waiting { deliver_at: Millis(5) },
            group: None,
            key: None,
            after: Vec::new(),
            on_failure: OnFailure::Cancel,
            priority: Priority(128),
            deliver_at: Millis(5),
            created_at: Millis(0),
            deliveries: 0,
            failures,
            max_attempts: 20,
            retry: Retry::default(),
            expires_at: None,
            last_error: None,
            progress: None,
            result_bytes: None,
            revision: 0,
            metadata: Vec::new(),
            payload: Vec::new().into(),
        }
    }

    fn said(why: Why, hungry: u64) -> Explanation {
        let waiting = Waiters { consumers: 3, hungry };
        task(Explained { why, task: info(2), waiting }, Millis(9))
    }

    #[test]
    fn each_reason_has_an_obstacle_of_its_own_words_and_a_remedy() {
        let at = Millis(7);
        let paused = Paused { since: at, note: String::new(), author: String::new(), until: None };
        let reasons = [
            (Why::Finished { end: End::Done, at }, Obstacle::Finished),
            (Why::Dead { since: at, reason: String::new() }, Obstacle::Dead),
            (Why::Leased { consumer: "a".into(), until: at }, Obstacle::Leased),
            (Why::Expiring { at }, Obstacle::Expiring),
            (Why::Blocked { blockers: 2, first: vec![TaskId(1)] }, Obstacle::Blocked),
            (Why::NotDue { until: at }, Obstacle::NotDue),
            (Why::QueuePaused(paused), Obstacle::QueuePaused),
            (Why::QueueProbing, Obstacle::QueueProbing),
            (Why::QueueFull { leased: 1, limit: 1 }, Obstacle::QueueFull),
            (Why::QueueRate { next: at }, Obstacle::QueueRate),
            (Why::GroupFull { leased: 1, limit: 1, serial: true }, Obstacle::GroupFull),
            (Why::GroupSlowed { until: at }, Obstacle::GroupSlowed),
            (Why::GroupRate { next: at }, Obstacle::GroupRate),
            (Why::Behind { tasks: 2, groups: 1, class: 3 }, Obstacle::Behind),
            (Why::Next, Obstacle::Next),
        ];
        for (why, obstacle) in reasons {
            let said = said(why, 1);
            assert_eq!(said.obstacle(), obstacle);
            assert!(!said.because.is_empty() && !said.remedy.is_empty(), "{said:?}");
        }
    }

    #[test]
    fn who_is_behind_or_next_hears_whether_anybody_waits() {
        let behind = said(Why::Behind { tasks: 2, groups: 1_000, class: 3 }, 1);
        assert_eq!((behind.tasks_ahead, behind.groups_ahead, behind.served_priority), (2, 1_000, 3));
        assert_eq!(behind.because, "ahead of it: 2 tasks in its line, 1000 groups or more before that");
        let nobody = said(Why::Behind { tasks: 2, groups: 0, class: 3 }, 0);
        assert_eq!((nobody.obstacle(), nobody.tasks_ahead), (Obstacle::NoConsumer, 2));
        assert!(nobody.because.starts_with(
            "none of the 3 consumers of queue mail asks for more; ahead of it: 2 tasks in its line, 0"
        ));
        assert_eq!(said(Why::Next, 0).obstacle(), Obstacle::NoConsumer);
        let retried = said(Why::NotDue { until: Millis(0) + Duration(90) }, 0);
        assert!(retried.because.contains("after 2 failures"), "{}", retried.because);
    }

    #[test]
    fn a_queue_hears_of_all_that_holds_it_back() {
        let held = HeldGroups { full: 2, slowed: 1, rate: 0, next: Some(Millis(5)) };
        let holds = vec![Hold::Probing, Hold::Empty, Hold::NotDue { until: Millis(3) }, Hold::Groups(held)];
        let said = queue("mail", Held { holds, waiting: Waiters { consumers: 1, hungry: 1 } });
        let words: Vec<Obstacle> = said.obstacles.iter().map(|one| one.obstacle()).collect();
        let all = [Obstacle::QueueProbing, Obstacle::Empty, Obstacle::NotDue, Obstacle::GroupsHeld];
        assert_eq!(words, all);
        assert_eq!((said.obstacles[3].groups_full, said.obstacles[3].groups_slowed), (2, 1));
        let waiting = Waiters::default();
        assert_eq!(queue("mail", Held { holds: Vec::new(), waiting }).obstacles.len(), 1, "nobody waits");
    }
}
