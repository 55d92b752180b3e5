//! Reading the mail of one host: each word gets its place in the log and goes into the history.
//!
//! # Caveats
//! - A view is read as soon as its letter is, on the host that gave it.

use std::sync::Arc;

use z4_host::{Error, ViewRows};
use z4_store::View;
use z4_tasks::outcome::Settled;
use z4_tasks::{ListFilter, QueueStats, TaskInfo};
use z4_types::{Index, Kind, QueueName, ShardId};

use super::World;
use super::clients::{Asked, Waiting};
use super::history::Told;
use super::letters::{CallId, Letter};
use crate::checks::{Checked, Violation, ensure};
use crate::client::Held;
use crate::lively::Lively;

/// Tasks of a page: small, so that lists have several.
const PAGE: u32 = 7;
/// Answered creates kept to be sent again.
const FINISHED_MAX: usize = 16;

impl World {
    /// Reads what host `at` has said.
    pub(super) fn read_letters(&mut self, at: usize) -> Checked {
        let letters = self.nodes[at].letters.take();
        if self.now() < self.nodes[at].cut_off_until {
            self.lose_letters(at, letters);
            return Ok(());
        }
        // Where each letter stands: at the next mark of its shard if it tells of an entry.
        let mut unplaced = Vec::new();
        for letter in letters {
            match letter {
                Letter::Applied(shard, index) => {
                    self.nodes[at].placed.insert(shard, index);
                    for letter in std::mem::take(&mut unplaced) {
                        self.read_letter(at, letter, Some((shard, index)))?;
                    }
                }
                letter if letter.tells_of_an_entry() => unplaced.push(letter),
                letter => self.read_letter(at, letter, None)?,
            }
        }
        // A host that died while it applied an entry has answered for some of it.
        for letter in unplaced {
            let call = letter.call().unwrap_or(0);
            let consumer = match &letter {
                Letter::Delivered(id, _) => self.clients.consumers.get(id).map(|consumer| consumer.shard),
                _ => None,
            };
            let Some(shard) = self.clients.waiting.get(&call).map(|waiting| waiting.shard).or(consumer)
            else {
                continue;
            };
            let index = self.place(at, shard).next();
            self.read_letter(at, letter, Some((shard, index)))?;
        }
        Ok(())
    }

    /// Clients do not hear what host `at` says.
    fn lose_letters(&mut self, at: usize, letters: Vec<Letter>) {
        for letter in letters {
            if let Letter::Applied(shard, index) = letter {
                self.nodes[at].placed.insert(shard, index);
            } else if let Some(call) = letter.call() {
                self.clients.answer_lost(call);
                self.reached.reach("answer lost on its way to a client");
            }
        }
    }

    /// Returns the call of an answer, unless its host has died since.
    fn answered(&mut self, call: CallId) -> Option<Waiting> {
        self.clients.waiting.remove(&call)
    }

    fn place(&self, at: usize, shard: ShardId) -> Index {
        self.nodes[at].placed.get(&shard).copied().unwrap_or_default()
    }

    fn read_letter(&mut self, at: usize, letter: Letter, place: Option<(ShardId, Index)>) -> Checked {
        match letter {
            Letter::Applied(..) => unreachable!("marks are not read"),
            Letter::Created(call, answer) => {
                let Some(waiting) = self.answered(call) else { return Ok(()) };
                self.note(format_args!("created {call} by {at} at {place:?}: {answer:?}"));
                let Asked::Create(create) = &waiting.asked else { unreachable!("call {call} is a create") };
                match answer {
                    Ok(ids) => {
                        ids.iter().flatten().for_each(|id| self.clients.learn(*id));
                        let told = Told::Created(Arc::clone(&create.tasks), ids);
                        self.tell(&waiting, place, told)?;
                        if create.named && self.clients.finished.len() < FINISHED_MAX {
                            self.clients.finished.push(create.clone());
                        }
                    }
                    Err(error) => {
                        if self.failed(at, &waiting, &error) {
                            self.history.create_failed(waiting.shard, call);
                            if !waiting.given_up {
                                self.clients.again(create.clone());
                            }
                        } else {
                            self.clients.lost(&mut self.history, waiting);
                        }
                    }
                }
            }
            Letter::Settled(call, answer) => {
                let Some(waiting) = self.answered(call) else { return Ok(()) };
                self.note(format_args!("settled {call} by {at} at {place:?}: {answer:?}"));
                let Asked::Settle(asked) = &waiting.asked else { unreachable!("call {call} is a settle") };
                match answer {
                    Ok(answers) => {
                        for (one, answer) in asked.iter().zip(&answers) {
                            if let Ok(Settled::Extended(_)) = answer {
                                self.clients.held.push(Held { id: one.id, token: one.token });
                            }
                        }
                        self.tell(&waiting, place, Told::Settled(asked.clone(), answers))?;
                    }
                    Err(error) => {
                        if !self.failed(at, &waiting, &error) {
                            self.clients.lost(&mut self.history, waiting);
                        } else if !waiting.given_up {
                            self.clients.hold(asked);
                        }
                    }
                }
            }
            Letter::Cancelled(call, answer) => {
                let Some(waiting) = self.answered(call) else { return Ok(()) };
                self.note(format_args!("cancelled {call} by {at} at {place:?}: {answer:?}"));
                let Asked::Cancel(asked) = &waiting.asked else { unreachable!("call {call} is a cancel") };
                match answer {
                    Ok(answers) => self.tell(&waiting, place, Told::Cancelled(asked.clone(), answers))?,
                    Err(error) => {
                        if !self.failed(at, &waiting, &error) {
                            self.clients.lost(&mut self.history, waiting);
                        }
                    }
                }
            }
            Letter::Got(call, answer) => {
                let Some(waiting) = self.answered(call) else { return Ok(()) };
                self.note(format_args!("got {call} by {at}: {answer:?}"));
                let Asked::Get(id) = waiting.asked else { unreachable!("call {call} is a get") };
                match answer {
                    Ok((now, info)) => {
                        let place = (waiting.shard, self.place(at, waiting.shard));
                        self.reached.reach("read served");
                        self.tell(&waiting, Some(place), Told::Got(id, now, info))?;
                    }
                    Err(error) => {
                        self.failed(at, &waiting, &error);
                    }
                }
            }
            Letter::Viewed(call, answer) => {
                let Some(waiting) = self.answered(call) else { return Ok(()) };
                let Asked::List(queue) = waiting.asked else { unreachable!("call {call} is a list") };
                match answer {
                    Ok((now, view)) => {
                        let name = self.clients.queues[queue].0.clone();
                        let place = (waiting.shard, self.place(at, waiting.shard));
                        let Some(tasks) = self.read_list(at, &name, &view)? else { return Ok(()) };
                        self.note(format_args!("listed {} of {name} by {at} at {place:?}", tasks.len()));
                        self.tell(&waiting, Some(place), Told::Listed(queue, now, tasks))?;
                        if self.scanning {
                            self.scanned += 1;
                        }
                    }
                    Err(error) => {
                        self.failed(at, &waiting, &error);
                    }
                }
            }
            Letter::Counted(call, answer) => {
                let Some(waiting) = self.answered(call) else { return Ok(()) };
                match answer {
                    Ok(stats) => {
                        let none = QueueStats::default();
                        let plain = stats.iter().filter(|(queue, _)| !Lively::owns(queue));
                        let sum = plain.fold(none, |sum, (_, stats)| sum.plus(stats));
                        self.note(format_args!("counted {} by {at}: {sum:?}", waiting.shard));
                        self.counted.insert(waiting.shard, sum);
                        if self.scanning {
                            let place = (waiting.shard, self.place(at, waiting.shard));
                            self.tell(&waiting, Some(place), Told::Counted(Box::new(sum)))?;
                            self.scanned += 1;
                        }
                    }
                    Err(error) => {
                        self.failed(at, &waiting, &error);
                    }
                }
            }
            Letter::Delivered(id, tasks) => {
                let Some((shard, index)) = place else { unreachable!("it tells of an entry") };
                for task in &tasks {
                    self.note(format_args!(
                        "delivered {:?} until {} by {at} at {index}",
                        task.pick, task.until
                    ));
                    self.clients.learn(task.pick.id);
                    self.clients.held.push(Held { id: task.pick.id, token: task.pick.token });
                }
                let Some(consumer) = self.clients.consumers.get(&id) else {
                    return Err(Violation::new("STATE", format!("tasks for {id:?}, which is closed")));
                };
                let told = Told::Delivered(consumer.queue, consumer.lease, tasks);
                let latest = self.latest;
                self.history.told(shard, index, Index(0), latest, told)?;
            }
            Letter::Closed(id) => {
                if let Some(consumer) = self.clients.consumers.remove(&id) {
                    self.clients.not_leader(consumer.shard, consumer.node);
                }
            }
        }
        Ok(())
    }

    fn tell(&mut self, waiting: &Waiting, place: Option<(ShardId, Index)>, told: Told) -> Checked {
        let Some((shard, index)) = place else { unreachable!("answers that tell of entries have a place") };
        ensure!(
            shard == waiting.shard,
            "STATE",
            "a call to shard {} was answered by shard {shard}",
            waiting.shard
        );
        if waiting.given_up {
            self.reached.reach("answer after it was given up");
        }
        self.history.told(shard, index, waiting.floor, self.latest, told)
    }

    /// Takes note of a refusal. Returns whether the call certainly did nothing.
    fn failed(&mut self, at: usize, waiting: &Waiting, error: &Error) -> bool {
        match error {
            Error::NotLeader(_) | Error::NoSuchShard(_) => {
                self.reached.reach("told by a host that it does not lead");
                self.clients.not_leader(waiting.shard, at);
            }
            Error::Unknown => {
                self.reached.reach("outcome unknown after a change of leader");
                self.clients.not_leader(waiting.shard, at);
                return false;
            }
            _ => {}
        }
        true
    }

    /// Reads a whole queue from a view; None if the disk has failed meanwhile.
    fn read_list(
        &self,
        at: usize,
        name: &QueueName,
        view: &View,
    ) -> Result<Option<Vec<TaskInfo>>, Violation> {
        let rows = ViewRows(view);
        let mut after = None;
        let mut listed = Vec::new();
        let found = loop {
            match z4_tasks::list(&rows, name, ListFilter::default(), after.as_ref(), PAGE) {
                Ok(page) => {
                    listed.extend(page.tasks);
                    after = page.next;
                }
                Err(fault) => return self.unless_excused(at, &fault),
            }
            if after.is_none() {
                break z4_tasks::queue(&rows, name);
            }
        };
        let open = match found {
            Ok(info) => info.map_or(0, |info| info.stats.waiting + info.stats.leased + info.stats.dead),
            Err(fault) => return self.unless_excused(at, &fault),
        };
        ensure!(
            open == listed.len() as u64,
            "STATE",
            "queue {name} counts {open} tasks and lists {}",
            listed.len()
        );
        Ok(Some(listed))
    }

    /// A read may fail if the disk did; a view is lost when the base is opened anew, after it found the disk full.
    fn unless_excused<T>(&self, at: usize, fault: &z4_tasks::Fault) -> Result<Option<T>, Violation> {
        let node = &self.nodes[at];
        let lost = fault.kind == Kind::Unavailable && node.has_errors();
        if !node.disk.is_up() || node.has_eio() || lost {
            return Ok(None);
        }
        Err(Violation::new("FAULT", format!("a read failed for no reason: {}", fault.what)))
    }
}

impl Letter {
    /// Returns whether this came of an entry, so that a mark follows it.
    fn tells_of_an_entry(&self) -> bool {
        match self {
            Self::Created(_, answer) => answer.is_ok(),
            Self::Settled(_, answer) => answer.is_ok(),
            Self::Cancelled(_, answer) => answer.is_ok(),
            Self::Delivered(..) => true,
            _ => false,
        }
    }
}
