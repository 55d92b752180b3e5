//! What other hosts say, and what is said to them: frames in and out, snapshots on both sides.
//!
//! # Invariants
//! - A part is taken by the replica it names or by none: a wiped or replaced disk never answers for its predecessor.
//! - A group whose rows are being replaced hears nothing; consensus repeats what matters.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use z4_consensus::{Membership, Message, Replication, SnapshotMark};
use z4_env::Frame;
use z4_store::{SnapshotReader, Staged};
use z4_types::{HostId, Index, Kind, ShardId};
use z4_wal::Record;

use super::{Driver, Promise};
use crate::leaders::Leader;
use crate::machine::{Fault, StateMachine};
use crate::part::{Part, Parts};
use crate::snapshot::{Outcome, Received, Receiving, SENDING_MAX, Sending, SnapshotDone, SnapshotWork};

/// What the log is to do before it takes the next batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogOrder {
    /// [`z4_wal::Wal::release`].
    Release(ShardId, Index),
    /// [`z4_wal::Wal::forget`].
    Forget(ShardId),
}

/// The driver's memory of conversations.
#[derive(Default)]
pub(super) struct Peers {
    sending: BTreeMap<(ShardId, u64), Sending>,
    receiving: BTreeMap<ShardId, Receiving>,
    /// Rows that are durable, of snapshots the engine was told of.
    staged: BTreeMap<ShardId, Staged>,
    /// Records that wait for their rows.
    held: BTreeMap<ShardId, (Record, Promise)>,
    work: Vec<SnapshotWork>,
    /// Work that found the disk full: again with the next tick.
    retries: Vec<SnapshotWork>,
    orders: Vec<LogOrder>,
    leaders: BTreeMap<ShardId, Leader>,
    /// Removed groups: to be forgotten with the next batch, with the one under way, and to be deleted.
    forgets: Vec<ShardId>,
    forgetting: Vec<ShardId>,
    deleting: BTreeSet<ShardId>,
}

impl Peers {
    /// Returns whether the log has groups to forget.
    pub(super) fn takes_forgets(&self) -> bool {
        !self.forgets.is_empty()
    }

    pub(super) fn began_write(&mut self) {
        self.forgetting.append(&mut self.forgets);
    }

    /// What the log has durably forgotten may be deleted.
    pub(super) fn ended_write(&mut self) {
        self.work.extend(self.forgetting.drain(..).map(SnapshotWork::Delete));
    }

    /// Takes note of a group's leader; returns whether that is news.
    pub(super) fn seen_leader(&mut self, shard: ShardId, leader: Leader) -> bool {
        self.leaders.insert(shard, leader) != Some(leader)
    }

    /// Forgets a group that was removed, and has its log and rows removed.
    pub(super) fn remove(&mut self, shard: ShardId) {
        self.sending.retain(|(of, _), _| *of != shard);
        self.receiving.remove(&shard);
        self.work.extend(self.staged.remove(&shard).map(SnapshotWork::Discard));
        self.held.remove(&shard);
        self.leaders.remove(&shard);
        self.orders.push(LogOrder::Forget(shard));
        self.forgets.push(shard);
        self.deleting.insert(shard);
    }

    /// Has the log told that the base holds the entries up to `through`.
    pub(super) fn release(&mut self, shard: ShardId, through: Index) {
        self.orders.push(LogOrder::Release(shard, through));
    }

    /// Returns whether a removed group is not gone yet.
    pub(super) fn is_removing(&self, shard: ShardId) -> bool {
        self.deleting.contains(&shard)
    }
}

impl<M: StateMachine> Driver<M> {
    /// Takes a frame from another host's driver.
    ///
    /// # Errors
    /// If a replica's disk has lost what it promised, states differ, or the engine failed: the host stops.
    pub fn receive(&mut self, from: &HostId, body: Bytes) -> Result<(), Fault> {
        let parts = match Parts::new(body) {
            Ok(parts) => parts,
            Err(error) => {
                tracing::warn!(host = %from, %error, "a frame was dropped");
                return Ok(());
            }
        };
        for part in parts {
            match part {
                Ok((shard, part)) => self.hear(from, shard, part)?,
                Err(error) => tracing::warn!(host = %from, %error, "the rest of a frame was dropped"),
            }
        }
        Ok(())
    }

    /// Takes the frames to send, in order.
    pub fn take_frames(&mut self) -> Vec<(HostId, Frame)> {
        self.post.take()
    }

    /// Says that a frame for `host` was dropped: leaders look again for what its replicas have.
    pub fn unreachable(&mut self, host: &HostId) {
        for (shard, group) in &mut self.groups {
            if group.is_leading() {
                for replica in self.post.replicas_on(*shard, host) {
                    group.consensus.report_unreachable(replica);
                }
            }
        }
    }

    /// Takes what snapshots and removed groups need of the disk: run it away from this thread, then call
    /// [`Driver::snapshot_done`].
    pub fn snapshot_work(&mut self) -> Vec<SnapshotWork> {
        std::mem::take(&mut self.peers.work)
    }

    /// Takes what the log must do before it takes the next batch.
    pub fn log_orders(&mut self) -> Vec<LogOrder> {
        std::mem::take(&mut self.peers.orders)
    }

    fn hear(&mut self, from: &HostId, shard: ShardId, part: Part) -> Result<(), Fault> {
        // A replica lives here because the registry places it here, not because somebody writes to it.
        let to = part.to();
        let Some(group) = self.groups.get_mut(&shard).filter(|group| group.consensus.replica() == to) else {
            return Ok(());
        };
        if group.installing {
            return Ok(());
        }
        match part {
            // A snapshot comes as an offer: without its rows the engine must not see it.
            Part::Message(message) if message.snapshot().is_some() => {}
            Part::Message(message) => {
                self.post.learn(shard, message.from(), from);
                group.step(message)?;
            }
            Part::Offer { stream, message } => {
                self.post.learn(shard, message.from(), from);
                self.offered(shard, stream, message)?;
            }
            Part::Want { from, stream, next, again, .. } => {
                if let Some(sending) = self.peers.sending.get_mut(&(shard, from)) {
                    self.peers.work.extend(sending.wanted(shard, stream, next, again));
                }
            }
            Part::Chunk { bytes, .. } => {
                if let Some(receiving) = self.peers.receiving.get_mut(&shard) {
                    self.peers.work.extend(receiving.chunk(shard, bytes));
                }
            }
            Part::Digest { index, digest, .. } => {
                if !group.is_leading() {
                    group.compare(index, digest)?;
                }
            }
        }
        self.dirty.insert(shard);
        Ok(())
    }

    /// Sends a message of the engine; of a snapshot, an offer of its rows.
    pub(super) fn say(&mut self, shard: ShardId, message: Message) -> Result<(), Fault> {
        if message.snapshot().is_none() {
            self.post.put(shard, &Part::Message(message));
            return Ok(());
        }
        let Some(group) = self.groups.get_mut(&shard) else { return Ok(()) };
        let to = message.to();
        let others = self.peers.sending.keys().filter(|key| **key != (shard, to)).count();
        if others >= SENDING_MAX {
            // The engine asks again with the next heartbeat.
            group.consensus.report_snapshot(to, false);
            return Ok(());
        }
        let reader = SnapshotReader::new(group.store.view()?);
        let meta = reader.meta();
        let membership = Membership::decode(&meta.conf).ok_or_else(|| Fault {
            kind: Kind::Corrupt,
            what: format!("shard {shard}: the membership in the working set cannot be read"),
        })?;
        let mark = SnapshotMark { index: meta.applied, term: meta.term, membership };
        tracing::info!(%shard, replica = to, index = %mark.index, bytes = reader.bytes_about(), "a snapshot is offered");
        let sending = Sending::new(message.with_snapshot_mark(&mark), reader);
        self.post.put(shard, &sending.offer());
        self.peers.sending.insert((shard, to), sending);
        Ok(())
    }

    fn offered(&mut self, shard: ShardId, stream: u64, message: Message) -> Result<(), Fault> {
        let Some(group) = self.groups.get_mut(&shard) else { return Ok(()) };
        let mark = message.snapshot().expect("an offer has a mark");
        if mark.index <= group.consensus.commit() {
            // Nothing to install: the engine answers how far it is.
            return group.step(message);
        }
        if let Some(receiving) = self.peers.receiving.get_mut(&shard)
            && receiving.stream() == stream
        {
            if let Some(want) = receiving.offered(message) {
                self.post.put(shard, &want);
            }
            return Ok(());
        }
        tracing::info!(%shard, index = %mark.index, "a snapshot is on its way");
        let (receiving, work) = Receiving::new(shard, stream, message);
        self.peers.receiving.insert(shard, receiving);
        self.peers.work.push(work);
        Ok(())
    }

    /// Has the rows of a snapshot installed; the record, which says so to the log, waits for them.
    pub(super) fn install(
        &mut self,
        shard: ShardId,
        mark: &SnapshotMark,
        record: Record,
        promise: Promise,
    ) -> Result<(), Fault> {
        let staged = self.peers.staged.remove(&shard).filter(|staged| staged.meta().applied == mark.index);
        let Some(staged) = staged else {
            let what =
                format!("shard {shard}: the engine has a snapshot at {} whose rows are not here", mark.index);
            return Err(Fault { kind: Kind::Internal, what });
        };
        #[cfg(feature = "bug-snapshot-without-hard-state")]
        let record = Record { hard_state: None, ..record };
        #[cfg(feature = "bug-snapshot-record-before-rows")]
        self.collected.records.push(record.clone());
        self.peers.held.insert(shard, (record, promise));
        self.peers.work.push(SnapshotWork::Install(staged));
        Ok(())
    }

    /// Takes the result of a [`SnapshotWork`].
    ///
    /// # Errors
    /// If storage fails: the host stops.
    pub fn snapshot_done(&mut self, done: SnapshotDone) -> Result<(), Fault> {
        match done.0 {
            Outcome::Nothing => {}
            Outcome::Failed(error) => return Err(error.into()),
            Outcome::Read { shard, to, reader, chunks, at_end } => {
                let stream = reader.stream();
                if let Some(sending) = self.peers.sending.get_mut(&(shard, to))
                    && sending.stream() == stream
                {
                    chunks.into_iter().for_each(|chunk| self.post.put(shard, &sending.chunk(chunk)));
                    self.peers.work.extend(sending.was_read(shard, reader, at_end));
                }
            }
            Outcome::NotRead { shard, to } => self.give_up_sending(shard, to),
            Outcome::Staged { shard, stream, appended } => {
                let receiving = self.peers.receiving.remove(&shard);
                match receiving.filter(|receiving| receiving.stream() == stream) {
                    Some(receiving) => {
                        let (receiving, received) = receiving.appended(appended);
                        self.peers.receiving.extend(receiving.map(|receiving| (shard, receiving)));
                        self.received(shard, received)?;
                    }
                    // Another stream has taken its place; its file is removed with the next.
                    None => drop(appended),
                }
            }
            Outcome::NotStaged { shard } => drop(self.peers.receiving.remove(&shard)),
            Outcome::Installed(staged) => self.installed(&staged)?,
            Outcome::NotInstalled(staged) => self.peers.retries.push(SnapshotWork::Install(staged)),
            Outcome::Deleted(shard) => drop(self.peers.deleting.remove(&shard)),
            Outcome::NotDeleted(shard) => self.peers.retries.push(SnapshotWork::Delete(shard)),
        }
        Ok(())
    }

    fn received(&mut self, shard: ShardId, received: Received) -> Result<(), Fault> {
        match received {
            Received::More(work, want) => {
                self.peers.work.extend(work);
                if let Some(want) = want {
                    self.post.put(shard, &want);
                }
                Ok(())
            }
            Received::Complete(offer, staged) => {
                let Some(group) = self.groups.get_mut(&shard).filter(|group| !group.installing) else {
                    self.peers.work.push(SnapshotWork::Discard(staged));
                    return Ok(());
                };
                group.step(offer)?;
                self.dirty.insert(shard);
                // The engine may have got further by the log meanwhile.
                if group.consensus.has_snapshot() {
                    let older = self.peers.staged.insert(shard, staged);
                    self.peers.work.extend(older.map(SnapshotWork::Discard));
                } else {
                    self.peers.work.push(SnapshotWork::Discard(staged));
                }
                Ok(())
            }
        }
    }

    fn installed(&mut self, staged: &Staged) -> Result<(), Fault> {
        let (shard, applied) = (staged.group(), staged.meta().applied);
        // Gone if the group was removed meanwhile; then its rows are about to be deleted.
        let Some((record, promise)) = self.peers.held.remove(&shard) else { return Ok(()) };
        let Some(group) = self.groups.get_mut(&shard) else { return Ok(()) };
        group.installed()?;
        tracing::info!(%shard, index = %applied, rows = staged.rows(), "a snapshot is installed");
        group.ahead.at_least(group.machine.now(), self.now, self.mono_ns);
        self.peers.orders.push(LogOrder::Release(shard, applied));
        self.collected.records.push(record);
        self.collected_promises.push(promise);
        self.dirty.insert(shard);
        Ok(())
    }

    fn give_up_sending(&mut self, shard: ShardId, to: u64) {
        self.peers.sending.remove(&(shard, to));
        if let Some(group) = self.groups.get_mut(&shard) {
            group.consensus.report_snapshot(to, false);
            self.dirty.insert(shard);
        }
    }

    /// Lets a tick pass for all snapshots.
    pub(super) fn tick_snapshots(&mut self) {
        self.peers.work.append(&mut self.peers.retries);
        let mut given_up = Vec::new();
        for ((shard, to), sending) in &mut self.peers.sending {
            let (goes_on, offer) = sending.tick();
            let wanted = self.groups.get(shard).is_some_and(|group| {
                let waits = |peer: &z4_consensus::PeerProgress| {
                    peer.replica == *to && peer.state == Replication::Snapshot
                };
                group.consensus.progress().iter().any(waits)
            });
            if !goes_on || !wanted {
                given_up.push((*shard, *to));
            } else if let Some(offer) = offer {
                self.post.put(*shard, &offer);
            }
        }
        given_up.into_iter().for_each(|(shard, to)| self.give_up_sending(shard, to));
        let post = &mut self.post;
        self.peers.receiving.retain(|shard, receiving| {
            let (goes_on, want) = receiving.tick();
            if let Some(want) = want {
                post.put(*shard, &want);
            }
            goes_on
        });
    }
}
