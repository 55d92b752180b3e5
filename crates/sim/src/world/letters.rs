//! Reading the mail: every answer and delivery is judged, in the order in which the host gave it.
//!
//! # Caveats
//! - A view is read as soon as its letter is, so it shows exactly the facts that the letters before it told.

use z4_host::{Delivery, ViewRows};
use z4_store::View;
use z4_tasks::ListFilter;
use z4_types::{Duration, Millis};

use super::{Checked, Error, Settled, Violation, World, ensure};
use crate::client::{Held, Letter, Waiting};
use crate::lively::Lively;

/// Tasks of a page: small, so that lists have several.
const PAGE: u32 = 7;
/// Answered creates kept to be sent again.
const FINISHED_MAX: usize = 16;

impl World {
    pub(super) fn read_letters(&mut self) -> Checked {
        let shell = self.shell.as_ref().expect("letters come from a host that ran");
        self.model.not_later_than(shell.latest());
        for letter in self.clients.letters.take() {
            self.read_letter(letter)?;
        }
        self.follow_lively()
    }

    fn answered(&mut self, call: u64) -> Waiting {
        self.clients.waiting.remove(&call).expect("a call is answered once")
    }

    fn read_letter(&mut self, letter: Letter) -> Checked {
        match letter {
            Letter::Created(call, answer) => {
                let Waiting::Create(create) = self.answered(call) else {
                    unreachable!("call {call} is a create")
                };
                self.note(format_args!("created {call}: {answer:?}"));
                match answer {
                    Ok(ids) => {
                        if self.model.created_ok(&create.tasks, &ids)? {
                            self.reached.reach("repeat answered as before");
                            if create.life < self.life {
                                self.reached.reach("repeat answered as before, after a restart");
                            }
                        }
                        if create.named && self.clients.finished.len() < FINISHED_MAX {
                            self.clients.finished.push(create);
                        }
                    }
                    Err(Error::Unknown) => self.model.create_unknown(&create.tasks),
                    Err(error) => {
                        if error == Error::DiskFull {
                            self.reached.reach("full disk refused a create");
                        }
                        self.model.create_failed(&create.tasks);
                        if create.named {
                            self.clients.unfinished.push(create);
                        }
                    }
                }
            }
            Letter::Settled(call, answer) => {
                let Waiting::Settle(asked) = self.answered(call) else {
                    unreachable!("call {call} is a settle")
                };
                self.note(format_args!("settled {call}: {answer:?}"));
                match answer {
                    Ok(answers) => {
                        ensure!(answers.len() == asked.len(), "P3", "{} answers to {asked:?}", answers.len());
                        for (settlement, answer) in asked.iter().zip(&answers) {
                            self.model.settled(settlement, answer, &mut self.reached)?;
                            let full = self.shell.as_ref().is_some_and(|shell| shell.is_nearly_full());
                            if full && *answer == Ok(Settled::Acked) {
                                self.reached.reach("ack while the disk is full");
                            }
                            if let Ok(Settled::Extended(_)) = answer {
                                self.clients.held.push(Held { id: settlement.id, token: settlement.token });
                            }
                        }
                    }
                    Err(Error::Unknown) => asked.iter().for_each(|s| self.model.settle_unknown(s)),
                    Err(_) => {
                        self.clients.held.extend(asked.iter().map(|s| Held { id: s.id, token: s.token }));
                    }
                }
            }
            Letter::Cancelled(call, answer) => {
                let Waiting::Cancel(ids) = self.answered(call) else {
                    unreachable!("call {call} is a cancel")
                };
                self.note(format_args!("cancelled {call}: {answer:?}"));
                match answer {
                    Ok(answers) => {
                        for (id, answer) in ids.iter().zip(&answers) {
                            self.model.cancelled(*id, answer, &mut self.reached)?;
                        }
                    }
                    Err(Error::Unknown) => ids.iter().for_each(|id| self.model.cancel_unknown(*id)),
                    Err(_) => {}
                }
            }
            Letter::Got(call, answer) => {
                let Waiting::Get(id) = self.answered(call) else { unreachable!("call {call} is a get") };
                self.note(format_args!("got {call}: {answer:?}"));
                match answer {
                    Ok((_, Some(info))) => self.model.seen(None, &info, &mut self.reached)?,
                    Ok((now, None)) => self.model.absent(id, now, &mut self.reached)?,
                    Err(_) => {}
                }
            }
            Letter::Viewed(call, answer) => {
                let Waiting::List(queue) = self.answered(call) else { unreachable!("call {call} is a list") };
                self.note(format_args!("viewed {call}"));
                if let Ok((now, view)) = answer {
                    self.read_list(queue, now, &view)?;
                }
            }
            Letter::Counted(call, answer) => {
                self.answered(call);
                self.note(format_args!("counted {call}: {answer:?}"));
                let plain = answer.into_iter().flatten().filter(|(queue, _)| !Lively::owns(queue));
                for (_, stats) in plain {
                    self.counted = self.counted.plus(&stats);
                }
            }
            Letter::Delivered(queue, lease, tasks) => self.read_deliveries(queue, lease, &tasks)?,
            Letter::Closed(consumer) => {
                self.note(format_args!("closed {consumer:?}"));
                self.clients.consumers.remove(&consumer);
            }
        }
        Ok(())
    }

    fn read_deliveries(&mut self, queue: usize, lease: Duration, tasks: &[Delivery]) -> Checked {
        let order = |task: &Delivery| (task.body.priority, task.pick.due, task.pick.id);
        for two in tasks.windows(2) {
            ensure!(
                order(&two[0]) < order(&two[1]),
                "T10",
                "task {} is delivered before {}, which goes first",
                two[0].pick.id,
                two[1].pick.id
            );
        }
        for task in tasks {
            self.note(format_args!("delivered {:?} until {}", task.pick, task.until));
            if let Some(bound) = self.none_due_before {
                ensure!(
                    task.pick.due >= bound,
                    "LIVE",
                    "task {} was due at {}, long before {bound}, and is delivered only now",
                    task.pick.id,
                    task.pick.due
                );
            }
            self.model.delivered(queue, lease, task, &mut self.reached)?;
            self.clients.held.push(Held { id: task.pick.id, token: task.pick.token });
        }
        Ok(())
    }

    /// Reads a whole queue from a view and compares it with what must be there.
    fn read_list(&mut self, queue: usize, now: Millis, view: &View) -> Checked {
        let name = self.clients.queues[queue].clone();
        let rows = ViewRows(view);
        let mut after = None;
        let mut listed = Vec::new();
        let found = loop {
            match z4_tasks::list(&rows, &name, ListFilter::default(), after.as_ref(), PAGE) {
                Ok(page) => {
                    listed.extend(page.tasks);
                    after = page.next;
                }
                Err(fault) => return self.unless_excused(&fault.what),
            }
            if after.is_none() {
                break z4_tasks::queue(&rows, &name);
            }
        };
        let open = match found {
            Ok(info) => info.map_or(0, |info| info.stats.waiting + info.stats.leased + info.stats.dead),
            Err(fault) => return self.unless_excused(&fault.what),
        };
        self.note(format_args!("listed {} of {name}", listed.len()));
        ensure!(
            open == listed.len() as u64,
            "STATE",
            "queue {name} counts {open} tasks and lists {}",
            listed.len()
        );
        for info in &listed {
            self.model.seen(Some(queue), info, &mut self.reached)?;
        }
        let mut ids: Vec<_> = listed.iter().map(|info| info.id).collect();
        ids.sort_unstable();
        let missing: Vec<_> = self.model.open(queue).filter(|id| ids.binary_search(id).is_err()).collect();
        for id in missing {
            self.model.absent(id, now, &mut self.reached)?;
        }
        Ok(())
    }

    /// A read may fail if the disk did.
    fn unless_excused(&self, what: &str) -> Checked {
        if !self.disk.is_up() || self.has_eio() {
            return Ok(());
        }
        Err(Violation::new("FAULT", format!("a read failed for no reason: {what}")))
    }
}
