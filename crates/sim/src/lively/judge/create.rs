//! Creates: each tag makes one task (P6), with what its queue's settings leave open, and never beyond the backlog.

use z4_tasks::EventKind;
use z4_tasks::command::NewTask;
use z4_tasks::outcome::{Made, Refusal};
use z4_types::limits::REQUEST_WINDOW_MS;
use z4_types::{Duration, Millis, QueueName, TaskId};

use super::state::{Queue, Stand, Task, due_of};
use super::{Judge, PREFIX};
use crate::checks::{Checked, ensure};
use crate::model::read_tag;
use crate::report::Reached;

impl Judge {
    pub(super) fn created(
        &mut self,
        name: &QueueName,
        tasks: &[NewTask],
        answers: &[Result<Made, Refusal>],
        reached: &mut Reached,
    ) -> Checked {
        if !name.as_str().starts_with(PREFIX) {
            return Ok(());
        }
        ensure!(tasks.len() == answers.len(), "P6", "{} answers to {} tasks", answers.len(), tasks.len());
        for (task, answer) in tasks.iter().zip(answers) {
            match answer {
                Ok(made) if made.existed => self.found_by_key(name, task, made.id, reached)?,
                Ok(made) => self.created_one(name, task, made.id, reached)?,
                Err(refusal) => self.create_refused(name, task, refusal, reached)?,
            }
        }
        Ok(())
    }

    /// First use makes a queue.
    pub(super) fn used(&mut self, name: &QueueName) -> &mut Queue {
        let (policies, now) = (&self.policies, self.now);
        self.busy.insert(name.clone());
        self.queues.entry(name.clone()).or_insert_with(|| {
            let mut queue = Queue::new(name, policies);
            queue.resolve(name, policies, now);
            queue
        })
    }

    fn created_one(
        &mut self,
        name: &QueueName,
        task: &NewTask,
        id: TaskId,
        reached: &mut Reached,
    ) -> Checked {
        let tag = read_tag(&task.payload).expect("the client wrote it");
        if let Some(known) = self.tasks.get(&id) {
            let key = task.key.as_ref().map(|key| key.name.as_str());
            let by_key = key.is_some() && known.key.as_ref().map(|key| key.0.as_str()) == key;
            ensure!(
                known.tag == tag || by_key,
                "P6",
                "task {id} is that of tag {}, now of tag {tag}",
                known.tag
            );
            reached.reach("lively create repeated");
            return Ok(());
        }
        ensure!(
            id.created_at() == self.now,
            "P6",
            "task {id} of tag {tag} is told to exist since {}, and never did",
            id.created_at()
        );
        if let Some(other) = self.tags.insert(tag, id) {
            let apart = self.now.since(other.created_at()).0;
            ensure!(
                apart >= REQUEST_WINDOW_MS,
                "P6",
                "tag {tag} was made twice: tasks {other} and {id}, {apart} ms apart"
            );
        }
        let due = due_of(task.due, self.now);
        self.insert(name, task, id, due, reached)
    }

    /// A new task is in a queue.
    pub(super) fn insert(
        &mut self,
        name: &QueueName,
        task: &NewTask,
        id: TaskId,
        due: Millis,
        reached: &mut Reached,
    ) -> Checked {
        let now = self.now;
        self.used(name);
        if let Some(key) = &task.key {
            self.takes_key(name, id, key, reached)?;
        }
        let (waits, sure) = self.waits_of(id, task)?;
        let queue = self.used(name);
        let effective = &queue.effective;
        let of_queue = effective.ttl.map(|ttl| now + Duration(due.since(now).0.saturating_add(ttl.0)));
        let made = Task {
            queue: name.clone(),
            tag: read_tag(&task.payload).expect("the client wrote it"),
            group: task.group.clone(),
            key: task.key.as_ref().map(|key| (key.name.clone(), key.window)),
            priority: task.priority.unwrap_or(effective.priority).0,
            due,
            expires: task.ttl.map(|ttl| now + ttl).or(of_queue),
            max_attempts: task.max_attempts.unwrap_or(effective.max_attempts),
            payload: task.payload.len() as u64,
            deliveries: 0,
            failures: 0,
            stand: if waits.on.is_empty() { Stand::Waiting } else { Stand::Blocked },
            waits,
            etag: 0,
        };
        let limit = effective.max_backlog;
        queue.stats.pushed += 1;
        let before = self.backlog(name);
        ensure!(
            limit.is_none_or(|limit| before < limit) || !self.doubted.is_empty(),
            "LIMIT",
            "task {id} is taken by queue {name}, which has {before} tasks to do and may have {limit:?}"
        );
        self.tasks.insert(id, made);
        self.change(id, |_| ());
        if self.tasks[&id].stand == Stand::Blocked {
            reached.reach("task waits for others");
        }
        if !sure {
            self.doubt(id);
        }
        self.tell(id, EventKind::Created);
        reached.reach("lively task created");
        Ok(())
    }

    fn create_refused(
        &mut self,
        name: &QueueName,
        task: &NewTask,
        refusal: &Refusal,
        reached: &mut Reached,
    ) -> Checked {
        self.used(name);
        let before = self.backlog(name);
        match refusal {
            Refusal::BacklogFull { limit, .. } => {
                let holds = self.queues[name].effective.max_backlog == Some(*limit);
                ensure!(
                    holds && (before >= *limit || !self.doubted.is_empty()),
                    "LIMIT",
                    "queue {name} has {before} tasks to do, and refuses one for a backlog of {limit}"
                );
                reached.reach("backlog full");
            }
            Refusal::KeyTaken { .. } | Refusal::KeyLeased { .. } | Refusal::KeyUsed { .. } => {
                self.key_refused(name, task, refusal, reached)?;
            }
            Refusal::AfterUnknown(_) | Refusal::AfterFailed(_) => {
                self.after_refused(name, task, refusal, reached)?;
            }
            _ => ensure!(false, "P6", "a create of {:?} was refused: {refusal}", task.payload.get(..8)),
        }
        Ok(())
    }

    /// Returns how many tasks a queue has to do.
    pub(super) fn backlog(&self, name: &QueueName) -> u64 {
        let open = self.queues[name].open.iter();
        let to_do = |stand| matches!(stand, Stand::Waiting | Stand::Blocked | Stand::Leased { .. });
        open.filter(|id| to_do(self.tasks[id].stand)).count() as u64
    }
}
