//! One replica of one group: step, tick, propose, ready, persisted, applied.
//!
//! Persisting overlaps with everything else: [`Group::ready`] hands out what must reach the disk under a number and
//! the engine goes on; [`Group::persisted`] with that number lets it count its own vote and ack.
//!
//! The engine panics where it is misused or meets the impossible. This file stands between: it refuses what a peer could
//! send to provoke that, and keeps the engine from campaigning in the two moments in which it cannot (see
//! [`Group::tick`]).
//!
//! # Invariants
//! - The hard state and the entries of one [`Ready`] go into one log write (raft-rs embedders broke this).
//! - `applied <= commit <= last`.
//! - A read context is offered only once the leader has committed in its own term: before that raft-rs would
//!   silently drop it.
//! - Proposals and reads are never forwarded to a leader elsewhere.
//! - A leader that is not a voter any more leads no more.
//!
//! Sources: Ongaro's thesis §3.10 (hand-over), §6.4 (reads), §9.6 (pre-vote), §10.2.1 (parallel write); raft-rs 0.7.

use std::collections::VecDeque;

use bytes::Bytes;
use raft::eraftpb::{EntryType, MessageType};
use raft::{RawNode, ReadOnlyOption, SnapshotStatus, StateRole};
use z4_types::{Entry, EntryKind, HardState, Index, ShardId, Term};

use crate::change::{Change, Step};
use crate::codec::travels;
use crate::error::Error;
use crate::log::{LogTail, from_raft};
use crate::membership::Membership;
use crate::message::{Message, SnapshotMark};
use crate::ready::{Outbox, ReadState, Ready};
use crate::recovered::{Config, Recovered};
use crate::votes::{ELECTION_TICKS, election_timeout};

mod queries;

/// Ticks between heartbeats.
const HEARTBEAT_TICKS: usize = 2;
/// Bytes of entries in one message to a follower; little in tests, where entries are small.
const MESSAGE_BYTES_MAX: u64 = if cfg!(test) { 100 } else { 1 << 20 };
/// Messages to one follower under way. With the size of one this bounds what a follower with a slow disk holds.
const MESSAGES_INFLIGHT_MAX: usize = 16;
/// Bytes of committed entries handed out in one [`Ready`].
const COMMITTED_BYTES_MAX: u64 = 16 << 20;
/// Applied entries kept in memory for followers that are slightly behind, bytes; few in tests, so that they are read back.
const CACHE_BYTES_MAX: usize = if cfg!(test) { 1000 } else { 16 << 20 };

/// One replica of one group.
pub struct Group {
    id: ShardId,
    replica: u64,
    election_seed: u64,
    /// Elections this replica started since it was opened.
    elections: u64,
    pub(crate) node: RawNode<LogTail>,
    /// Commit changes travel with the next write that is needed anyway.
    unwritten: Option<HardState>,
    /// The last index when the membership was changed last: see [`Group::is_confirmed`].
    confirms_after: u64,
    /// Term and vote as handed out last.
    promised: (u64, u64),
    outbox: Outbox,
    /// Snapshots handed out and not durable: number and index.
    pub(crate) installing: VecDeque<(u64, u64)>,
    applied: Index,
    /// Reads confirmed by nobody.
    #[cfg(feature = "bug-stale-read")]
    unconfirmed: Vec<ReadState>,
}

impl Group {
    /// Returns the replica as its disk remembers it. A lone voter campaigns at once.
    ///
    /// # Errors
    /// `Inconsistent` if the entries do not follow the applied index or the membership is impossible; `Engine` if
    /// raft-rs refuses the state.
    pub fn open(config: &Config, recovered: Recovered) -> Result<Self, Error> {
        let id = config.group;
        let (applied, _) = recovered.applied;
        let hard_state = check(id, &recovered)?;
        let promised = (hard_state.term, hard_state.vote);
        let tail = LogTail::new(
            id,
            hard_state,
            recovered.membership,
            recovered.applied,
            recovered.entries,
            recovered.read_back,
        );
        let settings = raft::Config {
            id: config.replica,
            election_tick: ELECTION_TICKS,
            heartbeat_tick: HEARTBEAT_TICKS,
            // The engine's own draw is overwritten before each tick.
            min_election_tick: ELECTION_TICKS,
            max_election_tick: 2 * ELECTION_TICKS,
            applied: applied.0,
            // With the planted bug one entry travels at a time: entries of an earlier term would else never reach a
            // quorum without the leader's own.
            max_size_per_msg: if cfg!(feature = "bug-commit-old-term") { 1 } else { MESSAGE_BYTES_MAX },
            max_inflight_msgs: MESSAGES_INFLIGHT_MAX,
            check_quorum: true,
            pre_vote: true,
            read_only_option: ReadOnlyOption::Safe,
            batch_append: true,
            max_committed_size_per_ready: COMMITTED_BYTES_MAX,
            ..raft::Config::default()
        };
        let silent = slog::Logger::root(slog::Discard, slog::o!());
        let node = RawNode::new(&settings, tail, &silent).map_err(|e| Error::Engine(id, e.to_string()))?;
        let mut group = Self {
            id,
            replica: config.replica,
            election_seed: config.election_seed ^ (u64::from(id.0) << 32),
            elections: 0,
            node,
            unwritten: None,
            confirms_after: 0,
            promised,
            outbox: Outbox::default(),
            installing: VecDeque::new(),
            applied,
            #[cfg(feature = "bug-stale-read")]
            unconfirmed: Vec::new(),
        };
        if group.is_only_voter() {
            // Nobody else could win: waiting for an election timeout would only delay the start.
            group.campaign();
        }
        Ok(group)
    }

    /// Lets one tick of time pass.
    ///
    /// Time stands still for a follower whose election could break the engine: while a snapshot is being installed (it
    /// would look for entries below it), and for a lone voter with entries under way to its disk (it would win at once
    /// and count them as durable).
    pub fn tick(&mut self) {
        if self.must_not_campaign() {
            return;
        }
        let raft = &mut self.node.raft;
        let timeout = election_timeout(self.election_seed, self.replica, raft.term, self.elections);
        raft.set_randomized_election_timeout(timeout);
        let campaigns =
            raft.state != StateRole::Leader && raft.promotable() && raft.election_elapsed + 1 >= timeout;
        self.node.tick();
        self.elections += u64::from(campaigns);
    }

    /// Starts an election now, first asking whether it could be won. Returns false if this replica leads or may not.
    pub fn campaign(&mut self) -> bool {
        if self.is_leader() || !self.node.raft.promotable() || self.must_not_campaign() {
            return false;
        }
        self.elections += 1;
        self.node.campaign().is_ok()
    }

    /// Takes a message from another replica. A snapshot's rows must be at hand, staged: the next [`Group::ready`] may
    /// ask to install them.
    ///
    /// # Errors
    /// `NotMine` if it is for another replica: the caller counts and drops it. `Refused` if replicas do not send such
    /// messages. `Inconsistent` if the sender believes that this replica has what it has not: its disk was lost and it
    /// must not go on under its id; nothing was done.
    pub fn step(&mut self, message: Message) -> Result<(), Error> {
        let message = message.0;
        if message.to != self.replica {
            return Err(Error::NotMine { shard: self.id, to: message.to, replica: self.replica });
        }
        let kind = message.get_msg_type();
        // A message without a term would count as one from ourselves.
        if message.from == 0 || message.from == self.replica || message.term == 0 || !travels(kind) {
            return Err(Error::Refused(self.id, "a message that no other replica sends"));
        }
        let current = message.term == self.node.raft.term;
        let last = self.last().0;
        let lost = match kind {
            MessageType::MsgHeartbeat if message.term >= self.node.raft.term => message.commit > last,
            MessageType::MsgAppendResponse if current && self.is_leader() => {
                !message.reject && message.index > last
            }
            _ => false,
        };
        if lost {
            let what = format!(
                "replica {} knows of entries up to {}, replica {} has them up to {last} only: its disk lost some",
                message.from,
                message.commit.max(message.index),
                self.replica,
            );
            return Err(Error::Inconsistent(self.id, what));
        }
        if kind == MessageType::MsgTimeoutNow && self.must_not_campaign() {
            return Ok(());
        }
        match self.node.step(message) {
            // An answer from a replica that was removed since.
            Ok(()) | Err(raft::Error::StepPeerNotFound) => Ok(()),
            Err(e) => Err(Error::Engine(self.id, e.to_string())),
        }
    }

    /// Returns whether [`Group::propose`] would take data now: ask before packing.
    #[must_use]
    pub fn may_propose(&self) -> bool {
        self.proposing().is_ok()
    }

    /// Offers `data` as the next entry; returns its place. It may still be lost if leadership is.
    ///
    /// # Errors
    /// `NotLeader`, `Transferring`; nothing was proposed then, and a clone of `data` may be offered again.
    pub fn propose(&mut self, data: Bytes) -> Result<(Index, Term), Error> {
        self.proposing()?;
        let mut entry = raft::eraftpb::Entry::default();
        entry.set_data(data);
        let mut message = raft::eraftpb::Message::default();
        message.set_msg_type(MessageType::MsgPropose);
        message.set_from(self.replica);
        message.set_entries(vec![entry].into());
        // `step` and not `propose`: the latter copies the bytes.
        self.node.raft.step(message).map_err(|e| Error::Engine(self.id, e.to_string()))?;
        Ok((self.last(), self.term()))
    }

    /// Offers an entry that says nothing, to have one behind the last change of the membership: see
    /// [`Group::is_confirmed`].
    ///
    /// # Errors
    /// As [`Group::propose`].
    pub fn propose_nothing(&mut self) -> Result<(), Error> {
        self.propose(Bytes::new()).map(drop)
    }

    /// Offers a change of the membership as the next entry; returns its place. It takes effect when it is applied.
    ///
    /// # Errors
    /// `NotLeader`, `Transferring`; `Busy` while an earlier change may be under way or is joint; `Refused` if the change
    /// does not apply, or would remove the last voter or the leader. Nothing was proposed then.
    pub fn propose_membership(&mut self, change: &Change) -> Result<(Index, Term), Error> {
        self.proposing()?;
        if self.is_changing() {
            return Err(Error::Busy(self.id));
        }
        change.check(self.membership(), self.replica).map_err(|why| Error::Refused(self.id, why))?;
        let mut entry = raft::eraftpb::Entry::default();
        entry.set_entry_type(EntryType::EntryConfChangeV2);
        entry.set_data(change.encode());
        // As the engine does with a proposal, but without parsing its data.
        let raft = &mut self.node.raft;
        assert!(raft.append_entry(&mut [entry]), "the engine has no limit for uncommitted entries");
        raft.pending_conf_index = raft.raft_log.last_index();
        raft.bcast_append();
        Ok((self.last(), self.term()))
    }

    /// Applies a committed entry of kind membership; returns the membership from there on, to be kept in the base with
    /// the entry's index. [`Group::applied`] follows.
    ///
    /// # Errors
    /// `Inconsistent` if the entry cannot be read; `Engine` if it was applied before or the engine comes to another result.
    pub fn apply_membership(&mut self, entry: &Entry) -> Result<Membership, Error> {
        assert_eq!(entry.kind, EntryKind::Membership, "the other kind is the state machine's");
        let mark = self.node.store().mark();
        if entry.index <= mark.index {
            let what = format!("entry {} is applied again after {}", entry.index, mark.index);
            return Err(Error::Engine(self.id, what));
        }
        let step = Step::decode(&entry.data).ok_or_else(|| {
            let what = format!(
                "the membership change in entry {} cannot be read: a newer version wrote it?",
                entry.index
            );
            Error::Inconsistent(self.id, what)
        })?;
        let (after, steps) = step.over(&mark.membership);
        // A snapshot that is about to be handed out has taken the engine further already.
        let overtaken = self.node.raft.snap().is_some();
        // First the mark: the engine may ask for a snapshot at once, for a member that has just come.
        let mark = SnapshotMark { index: entry.index, term: entry.term, membership: after.clone() };
        self.node.mut_store().set_mark(mark);
        if overtaken {
            return Ok(after);
        }
        for step in steps {
            self.node.apply_conf_change(&step).map_err(|e| Error::Engine(self.id, e.to_string()))?;
        }
        self.confirms_after = self.last().0;
        let theirs = Membership::from_raft(&self.node.raft.prs().conf().to_conf_state());
        if theirs != after {
            let what = format!("entry {} makes {after:?}, the engine says {theirs:?}", entry.index);
            return Err(Error::Engine(self.id, what));
        }
        if self.is_leader() && !after.is_voter(self.replica) {
            // The engine would go on, and panic at the next commit.
            let term = self.node.raft.term;
            self.node.raft.become_follower(term, 0);
        }
        Ok(after)
    }

    /// Hands leadership over to `replica` as soon as it has all entries; given up after one election timeout.
    ///
    /// # Errors
    /// `NotLeader`; `Refused` if `replica` cannot lead, or has not answered for an election timeout.
    pub fn transfer_leader(&mut self, replica: u64) -> Result<(), Error> {
        if !self.is_leader() {
            return Err(Error::NotLeader(self.id));
        }
        if replica == self.replica {
            return Err(Error::Refused(self.id, "this replica leads already"));
        }
        if !self.membership().voters.contains(&replica) {
            return Err(Error::Refused(self.id, "only a voter can lead"));
        }
        if !self.node.raft.prs().get(replica).is_some_and(|p| p.recent_active) {
            return Err(Error::Refused(self.id, "that replica does not answer"));
        }
        self.node.transfer_leader(replica);
        Ok(())
    }

    /// Asks a quorum whether this leader still leads; the answer comes in [`Ready::reads`] under `context`, which must be
    /// unique among the contexts that wait. Returns false if it must wait: not leader, or nothing committed in this term.
    ///
    /// No answer comes if leadership is lost: the caller refuses what waits when this replica stops leading *or leads in
    /// another term*, and gives up by a deadline otherwise. Lost messages are made up for by the next heartbeat.
    pub fn read_index(&mut self, context: u64) -> bool {
        if !self.is_leader() || !self.node.raft.commit_to_current_term() {
            return false;
        }
        #[cfg(feature = "bug-stale-read")]
        {
            let index = self.commit();
            self.unconfirmed.push(ReadState { context, index });
            return true;
        }
        #[cfg(not(feature = "bug-stale-read"))]
        {
            self.node.read_index(context.to_le_bytes().to_vec());
            true
        }
    }

    /// Says how sending the rows of a snapshot to `replica` went. Until then, or until the replica answers at the mark's
    /// index or above, nothing else is sent to it.
    pub fn report_snapshot(&mut self, replica: u64, ok: bool) {
        self.node.report_snapshot(replica, if ok { SnapshotStatus::Finish } else { SnapshotStatus::Failure });
    }

    /// Says that messages to `replica` were lost: the leader looks again for the place where the logs agree.
    pub fn report_unreachable(&mut self, replica: u64) {
        self.node.report_unreachable(replica);
    }

    /// Returns what there is to do, None if nothing.
    pub fn ready(&mut self) -> Option<Ready> {
        #[cfg(feature = "bug-commit-old-term")]
        if self.is_leader() {
            let (index, _) = self.node.raft.mut_prs().maximal_committed_index();
            self.node.raft.raft_log.commit_to(index);
        }
        #[cfg(feature = "bug-stale-read")]
        let idle = self.unconfirmed.is_empty();
        #[cfg(not(feature = "bug-stale-read"))]
        let idle = true;
        let mut out = Ready::default();
        if !self.node.has_ready() {
            if idle && !self.outbox.has_released() {
                return None;
            }
            self.outbox.sort(&mut out, false, Vec::new(), Vec::new());
            #[cfg(feature = "bug-stale-read")]
            out.reads.append(&mut self.unconfirmed);
            return Some(out);
        }
        let mut ready = self.node.ready();
        let number = ready.number();
        out.reads = ready.take_read_states().iter().filter_map(read_state).collect();
        out.committed = ready.take_committed_entries().iter().map(from_raft).collect();
        let mut promises = false;
        if let Some(hs) = ready.hs() {
            let hs = hs.clone();
            promises = self.promised != (hs.term, hs.vote);
            self.promised = (hs.term, hs.vote);
            self.node.mut_store().set_hard_state(&hs);
            self.unwritten = Some(HardState { term: Term(hs.term), vote: hs.vote, commit: Index(hs.commit) });
        }
        if ready.must_sync() {
            out.number = Some(number);
            out.hard_state = self.unwritten.take();
            if !ready.snapshot().is_empty() {
                let mark = SnapshotMark::from_raft(ready.snapshot());
                self.installing.push_back((number, mark.index.0));
                self.node.mut_store().install(mark.clone());
                out.snapshot = Some(mark);
            }
            out.entries = ready.entries().iter().map(from_raft).collect();
            let entries = ready.take_entries();
            self.node.mut_store().append(&entries);
        }
        self.outbox.sort(&mut out, promises, ready.take_messages(), ready.take_persisted_messages());
        self.node.advance_append_async(ready);
        if self.outbox.is_persisted() {
            // Nothing of it needs the disk and nothing before it is under way: let the engine drop its record.
            self.node.on_persist_ready(number);
        }
        Some(out)
    }

    /// Says that everything up to ready `number` is durable, the rows of its snapshot included. Ask [`Group::ready`]
    /// again: commits and messages may come of it.
    pub fn persisted(&mut self, number: u64) {
        self.outbox.persisted(number);
        self.node.on_persist_ready(number);
        while self.installing.front().is_some_and(|(of, _)| *of <= number) {
            let (_, index) = self.installing.pop_front().expect("looked at above");
            self.applied = Index(index);
            self.node.advance_apply_to(index);
        }
    }

    /// Says that everything up to `index` is applied. What a snapshot covers is applied by [`Group::persisted`].
    pub fn applied(&mut self, index: Index) {
        assert!(index >= self.applied, "apply goes forward");
        self.applied = index;
        self.node.mut_store().applied(index.0);
        let last = self.last();
        self.node.advance_apply_to(index.0);
        if self.last() > last {
            // The end of a joint change: the engine appends it here and would send it with the next heartbeat only.
            self.node.raft.bcast_append();
        }
        // Followers that are slightly behind read from memory; a group of one has none.
        let keep =
            if self.is_only_voter() && self.membership().learners.is_empty() { 0 } else { CACHE_BYTES_MAX };
        self.node.mut_store().evict(index.0, keep);
    }

    /// Says that nobody will ask for entries up to `through`, which is of `term`, again: the base holds them durably.
    /// A follower that would need them gets a snapshot.
    pub fn compact(&mut self, through: Index, term: Term) {
        assert!(through <= self.applied, "only applied entries are compacted");
        self.node.mut_store().compact(through.0, term.0);
    }

    fn proposing(&self) -> Result<(), Error> {
        if !self.is_leader() {
            return Err(Error::NotLeader(self.id));
        }
        if self.is_transferring() {
            return Err(Error::Transferring(self.id));
        }
        Ok(())
    }

    fn must_not_campaign(&self) -> bool {
        let raft = &self.node.raft;
        if raft.state == StateRole::Leader {
            return false;
        }
        let installing = !self.installing.is_empty() || raft.snap().is_some();
        let wins_at_once = self.is_only_voter() && raft.raft_log.persisted < raft.raft_log.last_index();
        installing || wins_at_once
    }
}

/// Checks that what was found fits together; returns the hard state to start with.
fn check(id: ShardId, recovered: &Recovered) -> Result<raft::prelude::HardState, Error> {
    let (applied, applied_term) = recovered.applied;
    let (mut last, mut last_term) = recovered.applied;
    for entry in &recovered.entries {
        if entry.index != last.next() || entry.term < last_term {
            let what = format!(
                "the log on disk does not fit the base: found entry {} of term {} where {} of term {last_term} or later \
                 must follow the applied index {applied}",
                entry.index,
                entry.term,
                last.next(),
            );
            return Err(Error::Inconsistent(id, what));
        }
        (last, last_term) = (entry.index, entry.term);
    }
    if !recovered.membership.is_sound() {
        return Err(Error::Inconsistent(id, format!("impossible membership {:?}", recovered.membership)));
    }
    let found = recovered.hard_state;
    let mut hard_state = raft::prelude::HardState::default();
    // The vote was cast in the term found. A later one is known from the base alone, which a snapshot put ahead of the log;
    // nothing was voted in it.
    let term = found.term.max(applied_term).max(last_term);
    hard_state.set_term(term.0);
    let vote = if cfg!(feature = "bug-vote-forgotten") { 0 } else { found.vote };
    hard_state.set_vote(if term == found.term { vote } else { 0 });
    // The base is only written from committed entries, so its index is committed even if the log never said so;
    // a commit beyond the last entry was never persisted here and must be learnt again.
    hard_state.set_commit(found.commit.0.clamp(applied.0, last.0));
    Ok(hard_state)
}

fn read_state(state: &raft::ReadState) -> Option<ReadState> {
    let context = u64::from_le_bytes(state.request_ctx.as_slice().try_into().ok()?);
    Some(ReadState { context, index: Index(state.index) })
}
