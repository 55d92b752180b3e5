//! What is asked of tasks that are there, each by its name and perhaps its etag: change, cancel, redrive, run now, explain.
//!
//! Each takes many at once, of any shards, and answers each on its own, in order. What changes tasks one by one (an update
//! has a payload) is one command a task; all commands that wait share an entry.

use z4_tasks::command::{Command, Target, UpdateTask, Which};
use z4_tasks::encode;
use z4_tasks::outcome::{Outcome, Refusal, Updated};
use z4_types::{Duration, Millis, TaskId};

use super::{Handle, ITEM_OVERHEAD, Place, RETRY_AFTER};
use crate::error::Error;
use crate::shard::{Explained, Read, Reply, Write, reply};

/// Returns where the task is that a target names.
fn place_of(target: &Target) -> Place<'_> {
    match &target.which {
        Which::Id(id) => Place::Task(*id),
        Which::Key { queue, .. } => Place::Queue(queue),
    }
}

/// Returns the reply of a command of which `take` gets the answer.
fn part<T: 'static>(
    reply: Reply<T>,
    take: impl FnOnce(Outcome) -> Option<T> + Send + 'static,
) -> Reply<Outcome> {
    Box::new(move |outcome| {
        reply(outcome.map(|outcome| take(outcome).expect("an outcome is of its command's kind")));
    })
}

impl Handle {
    /// Changes tasks that wait, each on its own.
    ///
    /// # Errors
    /// As [`Handle::create`], for the whole call; after `Unknown` some may be changed, their etags tell.
    pub async fn update_tasks(
        &self,
        updates: Vec<UpdateTask>,
    ) -> Result<Vec<Result<Updated, Refusal>>, Error> {
        self.refuse_if_idle()?;
        let registry = self.registry();
        let mut prepared = Vec::with_capacity(updates.len());
        // All permits before the first call: "overloaded" must mean that nothing was proposed.
        for update in updates {
            let shard = match self.find_shard(&registry, place_of(&update.target)) {
                Ok(shard) => shard,
                Err(refusal) => {
                    prepared.push(Err(refusal));
                    continue;
                }
            };
            let grows = update.payload.is_some() || update.metadata.is_some();
            let encoded = encode(&Command::UpdateTask(Box::new(update)));
            let bytes = encoded.len() + ITEM_OVERHEAD;
            let permit = self.shared.budget.take(bytes).ok_or(Error::Overloaded(RETRY_AFTER))?;
            prepared.push(Ok((shard, encoded, grows, permit)));
        }
        let mut asked = Vec::with_capacity(prepared.len());
        for one in prepared {
            asked.push(one.map(|(shard, encoded, grows, permit)| {
                let (reply, answer) = reply();
                let reply = part(reply, |outcome| match outcome {
                    Outcome::Updated(answer) => Some(answer),
                    _ => None,
                });
                self.send(shard, Write::Manage { encoded, grows, reply, permit });
                answer
            }));
        }
        let mut answers = Vec::with_capacity(asked.len());
        for one in asked {
            answers.push(match one {
                Ok(answer) => answer.await.unwrap_or(Err(Error::Unknown))?,
                Err(refusal) => Err(refusal),
            });
        }
        Ok(answers)
    }

    /// Ends those of the tasks that have the etag named, if one is. Answers are in the order given.
    ///
    /// # Errors
    /// As [`Handle::settle`].
    pub async fn cancel_if(&self, tasks: Vec<Target>) -> Result<Vec<Result<(), Refusal>>, Error> {
        let take = |outcome| match outcome {
            Outcome::Cancelled(answers) => Some(answers),
            _ => None,
        };
        self.command_each(tasks, place_of, Command::CancelIf, take).await
    }

    /// Gives dead tasks all their attempts again, each due after a delay; answers when each is due, in the order given.
    ///
    /// # Errors
    /// As [`Handle::settle`]; a repeat finds what was redriven not dead any more.
    pub async fn redrive(
        &self,
        tasks: Vec<(Target, Duration)>,
    ) -> Result<Vec<Result<Millis, Refusal>>, Error> {
        let take = |outcome| match outcome {
            Outcome::Redriven(answers) => Some(answers),
            _ => None,
        };
        self.command_each(tasks, |task| place_of(&task.0), Command::Redrive, take).await
    }

    /// Makes waiting tasks due at once. Answers are in the order given.
    ///
    /// # Errors
    /// As [`Handle::settle`].
    pub async fn run_now(&self, tasks: Vec<Target>) -> Result<Vec<Result<Updated, Refusal>>, Error> {
        let take = |outcome| match outcome {
            Outcome::MadeDue(answers) => Some(answers),
            _ => None,
        };
        self.command_each(tasks, place_of, Command::RunNow, take).await
    }

    /// Returns why a task is not running, and the shard time of the answer. Linearizable.
    ///
    /// # Errors
    /// `TaskNotFound`, `NoSuchShard`, or as [`Handle::create`].
    pub async fn explain(&self, id: TaskId) -> Result<(Millis, Explained), Error> {
        let shard = self.task_shard(id)?;
        let (now, found) = self.read(shard, |reply| Read::Explain { id, reply }).await?;
        found.map(|explained| (now, *explained)).ok_or(Error::TaskNotFound(id))
    }

    /// Proposes a command about many tasks, one for each shard of theirs.
    async fn command_each<I, T>(
        &self,
        items: Vec<I>,
        place_of: impl Fn(&I) -> Place<'_>,
        command: impl Fn(Vec<I>) -> Command,
        take: impl Fn(Outcome) -> Option<Vec<Result<T, Refusal>>> + Copy + Send + 'static,
    ) -> Result<Vec<Result<T, Refusal>>, Error>
    where
        T: Send + 'static,
    {
        let write = |items, reply, permit| {
            let encoded = encode(&command(items));
            Write::Manage { encoded, grows: false, reply: part(reply, take), permit }
        };
        self.by_shard(items, place_of, |_| 0, write).await
    }
}
