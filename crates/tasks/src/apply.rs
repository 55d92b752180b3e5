//! Applying an entry: each command to its verb, each verb in its file.
//!
//! Deterministic: the same rows and entry give the same rows and outcomes on every replica. A caller's mistake is a
//! [`Refusal`](crate::outcome::Refusal) in the outcome; a [`Fault`] means that this replica cannot go on.
//!
//! # Invariants
//! - Shard time never goes back: an entry stamped earlier is applied at the time of the last one.
//! - Work and memory of an entry are bounded by its bytes and the limits of `z4_types::limits`.

mod ack;
mod advance;
mod cancel;
mod create;
mod delete_queue;
mod extend;
mod fail;
mod fire;
mod lease;
mod nack;
mod pause;
mod pause_schedule;
mod purge;
mod redrive;
mod release;
mod set_group;
mod set_policies;
mod set_queue;
mod set_schedule;
mod settle;
mod update;

use crate::codec::{EntryReader, Raw};
use crate::machine::Machine;
use crate::outcome::Outcome;
use crate::{Fault, Store};

impl Machine {
    /// Applies one entry and returns one outcome per command, in order. Empty bytes, the entry of a new leader,
    /// change nothing.
    ///
    /// # Errors
    /// If the bytes are not an entry, or storage fails. The machine must not be used further.
    pub fn apply(&mut self, store: &mut dyn Store, entry: &[u8]) -> Result<Vec<Outcome>, Fault> {
        if entry.is_empty() {
            return Ok(Vec::new());
        }
        let mut commands = EntryReader::read(entry)?;
        self.meta.now = self.meta.now.max(commands.now);
        let mut outcomes = Vec::with_capacity(commands.len());
        while let Some(command) = commands.next()? {
            outcomes.push(match command {
                Raw::Create(create) => self.create(store, create)?,
                Raw::Lease(lease) => self.lease(store, &lease)?,
                Raw::Settle(settlements) => self.settle(store, settlements)?,
                Raw::Cancel(ids) => self.cancel(store, ids)?,
                Raw::Advance { limit } => self.advance(store, limit)?,
                Raw::SetQueue(set) => Outcome::QueueSet(self.set_queue(store, &set)?),
                Raw::DeleteQueue { queue, etag } => {
                    Outcome::QueueDeleted(self.delete_queue(store, queue, etag)?)
                }
                Raw::SetPolicies(policies) => self.set_policies(store, *policies)?,
                Raw::Pause(pause) => Outcome::QueuePaused(self.pause(store, &pause)?),
                Raw::Purge(purge) => Outcome::Purged(self.purge(store, &purge)?),
                Raw::CancelIf(tasks) => self.cancel_if(store, tasks)?,
                Raw::Redrive(tasks) => self.redrive(store, tasks)?,
                Raw::Update(update) => Outcome::Updated(self.update(store, &update)?),
                Raw::RunNow(tasks) => self.run_now(store, tasks)?,
                Raw::SetGroup(set) => Outcome::GroupSet(self.set_group(store, &set)?),
                Raw::SetSchedule(set) => Outcome::ScheduleSet(self.set_schedule(store, *set)?),
                Raw::DeleteSchedule { queue, name, etag } => {
                    Outcome::ScheduleDeleted(self.delete_schedule(store, queue, name, etag)?)
                }
                Raw::PauseSchedule(pause) => Outcome::SchedulePaused(self.pause_schedule(store, &pause)?),
                Raw::RunSchedule(run) => Outcome::ScheduleRun(self.run_schedule(store, &run)?),
                Raw::Fire(fire) => Outcome::SlotFired(self.fire(store, &fire)?),
            });
        }
        self.follow_some(store)?;
        self.evict_some(store)?;
        self.evict_some_finished(store)?;
        self.remove_some_events(store)?;
        self.write_records(store)?;
        Ok(outcomes)
    }
}
