//! What clients know for sure, and whether what they see fits it.
//!
//! The model never looks inside the host. Each call has three possible answers: ok, failed, unknown (the host died
//! first). A task is known by the tag in its payload, so that a task made twice, or by a create that failed, shows as
//! what it is. Reads are truth: after one, all that was unknown about a task is known again.
//!
//! Times are judged on the safe side: `latest` is a time that shard time cannot have passed yet, and the `now` of a
//! delivery (its lease's end less the lease) is a time that it has certainly reached.
//!
//! # Invariants
//! - A task that is gone stays gone; a task is gone only for a reason the model knows may have happened.
//! # Not here
//! - Which task goes first among many due: `z4-tasks` has a model of its own for that. Here only the order in a frame.

use std::collections::BTreeMap;

use z4_tasks::QueueStats;
use z4_tasks::command::{Due, NewTask};
use z4_tasks::outcome::Refusal;
use z4_types::limits::{MAX_ATTEMPTS_DEFAULT, REQUEST_WINDOW_MS};
use z4_types::{Millis, ShardId, TaskId, Token};

use crate::checks::{Checked, Violation, ensure};
use crate::report::Reached;

mod leases;
mod reads;
#[cfg(test)]
mod tests;

/// Names a task across creates, ids and lives of the host; the first bytes of its payload.
pub type Tag = u64;

/// Bytes of a tag.
pub const TAG_BYTES: usize = 8;

/// A task as its creator wants it.
#[derive(Debug, Clone)]
struct Wanted {
    queue: usize,
    task: NewTask,
    /// Whether it may be sent again.
    named: bool,
    /// Creates that have succeeded, are under way, or whose fate is unknown.
    possible: u32,
    ids: Vec<TaskId>,
}

/// A lease as its holder knows it.
#[derive(Debug, Clone, Copy)]
struct Lease {
    token: Token,
    until: Millis,
    /// It reached its consumer. One that did not may be released by the host itself.
    ours: bool,
    /// It is ours, and nothing of unknown outcome was said about it.
    sure: bool,
    /// It was settled for good.
    over: bool,
    /// Whether its end counted a failure, if known.
    counted: Option<bool>,
}

/// Why a task is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Acked,
    Cancelled,
    Gone,
}

#[derive(Debug, Clone)]
struct Task {
    tag: Tag,
    queue: usize,
    /// When it is due next, if known.
    due: Option<Millis>,
    expires_at: Option<Millis>,
    max_attempts: u32,
    deliveries: u32,
    failures: u32,
    lease: Option<Lease>,
    dead: bool,
    end: Option<End>,
    /// An ack or cancel of unknown outcome was sent.
    maybe_acked: bool,
    maybe_cancelled: bool,
}

/// Calls whose effect on the counters is known, and those whose is not.
#[derive(Debug, Clone, Copy, Default)]
struct Count {
    sure: u64,
    unknown: u64,
}

/// See the module essay.
#[derive(Debug, Default)]
pub struct Model {
    wanted: BTreeMap<Tag, Wanted>,
    tasks: BTreeMap<TaskId, Task>,
    tokens: BTreeMap<ShardId, Token>,
    logged: BTreeMap<ShardId, Millis>,
    latest: Millis,
    acks: Count,
    nacks: Count,
    cancels: Count,
    unknown_creates: u64,
    deliveries: u64,
    /// What is unknown may still happen after a read: there are several hosts, and not all of them have died.
    patient: bool,
}

impl Model {
    /// Returns the model of one shard of a cluster, whose facts come in the order of its log.
    #[must_use]
    pub fn of_cluster() -> Self {
        Self { patient: true, ..Self::default() }
    }

    /// Says that shard time cannot have passed `at` yet.
    pub fn not_later_than(&mut self, at: Millis) {
        self.latest = self.latest.max(at);
    }

    /// Returns a time that shard time cannot have passed yet.
    #[must_use]
    pub fn latest(&self) -> Millis {
        self.latest
    }

    /// Returns the shard time that `shard` has certainly reached.
    #[must_use]
    pub fn logged(&self, shard: ShardId) -> Millis {
        self.logged.get(&shard).copied().unwrap_or_default()
    }

    /// Returns how many tasks exist or have existed for sure.
    #[must_use]
    pub fn created(&self) -> u64 {
        self.tasks.len() as u64
    }

    /// Returns how many tasks were ever asked for: no more can exist.
    #[must_use]
    pub fn wanted(&self) -> u64 {
        self.wanted.len() as u64
    }

    /// Takes note of a create that is about to be sent.
    pub fn creating(&mut self, queue: usize, tasks: &[NewTask], named: bool) {
        for task in tasks {
            let tag = read_tag(&task.payload).expect("the client wrote it");
            let wanted = self.wanted.entry(tag).or_insert_with(|| Wanted {
                queue,
                task: task.clone(),
                named,
                possible: 0,
                ids: Vec::new(),
            });
            wanted.possible += 1;
        }
    }

    /// Takes note that a create certainly did nothing.
    pub fn create_failed(&mut self, tasks: &[NewTask]) {
        for task in tasks {
            let tag = read_tag(&task.payload).expect("the client wrote it");
            self.wanted.get_mut(&tag).expect("sent before").possible -= 1;
        }
    }

    /// Takes note that a create may have happened.
    pub fn create_unknown(&mut self, tasks: &[NewTask]) {
        self.unknown_creates += tasks.len() as u64;
    }

    /// Checks the answer to a create. Returns whether it told ids that were known before.
    pub fn created_ok(
        &mut self,
        tasks: &[NewTask],
        answers: &[Result<TaskId, Refusal>],
    ) -> Result<bool, Violation> {
        ensure!(tasks.len() == answers.len(), "P6", "{} answers to {} tasks", answers.len(), tasks.len());
        let mut known = true;
        for (task, answer) in tasks.iter().zip(answers) {
            let tag = read_tag(&task.payload).expect("the client wrote it");
            let id = match answer {
                Ok(id) => *id,
                Err(refusal) => return Err(Violation::new("P6", format!("a create was refused: {refusal}"))),
            };
            known &= self.tasks.contains_key(&id);
            self.know(id, tag)?;
        }
        Ok(known)
    }

    /// Learns that `id` is, or was, the task with `tag`.
    fn know(&mut self, id: TaskId, tag: Tag) -> Checked {
        if let Some(task) = self.tasks.get(&id) {
            ensure!(task.tag == tag, "P6", "task {id} is that of tag {}, now of tag {tag}", task.tag);
            return Ok(());
        }
        let Some(wanted) = self.wanted.get_mut(&tag) else {
            return Err(Violation::new("T1", format!("task {id} has tag {tag}, which nobody pushed")));
        };
        ensure!(wanted.possible > 0, "D2", "task {id} (tag {tag}) exists, but every create of it failed");
        for other in &wanted.ids {
            let apart =
                id.created_at().since(other.created_at()).0.max(other.created_at().since(id.created_at()).0);
            ensure!(
                wanted.named && apart >= REQUEST_WINDOW_MS,
                "P6",
                "tag {tag} was made twice: tasks {other} and {id}, {apart} ms apart{}",
                if wanted.named { ", with the same request id" } else { ", of one create" }
            );
        }
        ensure!(
            id.created_at() <= self.latest,
            "P2",
            "task {id} was created at {}, in the future of {}",
            id.created_at(),
            self.latest
        );
        wanted.ids.push(id);
        let task = &wanted.task;
        let at = id.created_at();
        let known = Task {
            tag,
            queue: wanted.queue,
            due: Some(first_due(task, id)),
            expires_at: task.ttl.map(|ttl| at + ttl),
            max_attempts: task.max_attempts.unwrap_or(MAX_ATTEMPTS_DEFAULT),
            deliveries: 0,
            failures: 0,
            lease: None,
            dead: false,
            end: None,
            maybe_acked: false,
            maybe_cancelled: false,
        };
        self.tasks.insert(id, known);
        let logged = self.logged.entry(id.shard()).or_default();
        *logged = at.max(*logged);
        Ok(())
    }

    /// Checks the answer to one cancel.
    pub fn cancelled(&mut self, id: TaskId, answer: &Result<(), Refusal>, reached: &mut Reached) -> Checked {
        if answer.is_err() {
            return self.absent(id, self.latest, reached);
        }
        reached.reach("task cancelled");
        self.cancels.sure += 1;
        let task = self.tasks.get_mut(&id).expect("the client knew it");
        ensure!(task.end.is_none(), "P5", "task {id} is cancelled although it is gone: {:?}", task.end);
        task.end = Some(End::Cancelled);
        Ok(())
    }

    /// Takes note of a cancel whose answer never came.
    pub fn cancel_unknown(&mut self, id: TaskId) {
        self.cancels.unknown += 1;
        self.tasks.get_mut(&id).expect("the client knew it").maybe_cancelled = true;
    }

    /// Returns the tasks that must be there at `latest`, whatever happened to unknown calls.
    pub fn certain(&self, latest: Millis) -> impl Iterator<Item = TaskId> + '_ {
        let latest = latest.max(self.latest);
        self.tasks.iter().filter(move |(_, task)| task.is_certain(latest)).map(|(id, _)| *id)
    }

    /// Returns the tasks of `queue` that are not known to be gone.
    pub fn open(&self, queue: usize) -> impl Iterator<Item = TaskId> + '_ {
        self.tasks
            .iter()
            .filter(move |(_, task)| task.queue == queue && task.end.is_none())
            .map(|(id, _)| *id)
    }

    /// Returns every task that was ever known.
    pub fn ids(&self) -> impl Iterator<Item = TaskId> + '_ {
        self.tasks.keys().copied()
    }

    /// Compares the counters of all queues with what is known, after everything was drained.
    pub fn check_counters(&self, sum: &QueueStats) -> Checked {
        let created = self.created();
        let within = |name, found: u64, count: Count| {
            ensure!(
                count.sure <= found && found <= count.sure + count.unknown,
                "P4",
                "{found} {name} are counted; {} are known, {} are unknown",
                count.sure,
                count.unknown
            );
            Ok(())
        };
        within("creates", sum.pushed, Count { sure: created, unknown: self.unknown_creates })?;
        within("acks", sum.acked, self.acks)?;
        within("nacks", sum.failed, self.nacks)?;
        within("cancels", sum.cancelled, self.cancels)?;
        let ends = sum.acked + sum.expired + sum.cancelled;
        ensure!(
            sum.pushed == ends + sum.waiting + sum.leased + sum.dead,
            "P4",
            "the counters do not add up: {sum:?}"
        );
        ensure!(
            sum.waiting + sum.leased == 0,
            "LIVE",
            "drained, yet {} wait and {} are leased",
            sum.waiting,
            sum.leased
        );
        ensure!(
            sum.deliveries >= self.deliveries,
            "P4",
            "{} deliveries seen, {} counted",
            self.deliveries,
            sum.deliveries
        );
        let dead = self.tasks.values().filter(|task| task.dead && task.end.is_none()).count() as u64;
        ensure!(sum.dead == dead, "P4", "{} dead tasks are counted, {dead} are known", sum.dead);
        Ok(())
    }
}

impl Task {
    fn is_certain(&self, latest: Millis) -> bool {
        let may_be_gone =
            self.maybe_acked || self.maybe_cancelled || self.expires_at.is_some_and(|at| at <= latest);
        self.end.is_none() && !may_be_gone
    }
}

/// Returns when a task may first be delivered.
fn first_due(task: &NewTask, id: TaskId) -> Millis {
    match task.due {
        Due::Now => id.created_at(),
        Due::At(due) => due,
        Due::After(delay) => id.created_at() + delay,
    }
}

/// Returns the tag a payload starts with.
pub(crate) fn read_tag(payload: &[u8]) -> Option<Tag> {
    payload.first_chunk().map(|bytes| Tag::from_le_bytes(*bytes))
}
