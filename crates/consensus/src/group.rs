//! One replica of one group: propose, tick, ready, persisted, applied.
//!
//! Persisting overlaps with everything else: [`Group::ready`] hands out what must reach the disk under a number and
//! the engine goes on; [`Group::persisted`] with that number lets it count its own vote and ack. Nothing may be
//! answered before that.
//!
//! # Invariants
//! - The hard state and the entries of one [`Ready`] go into one log write (raft-rs embedders broke this).
//! - `applied <= commit <= last`.
//! - A read context is offered only once the leader has committed in its own term: before that raft-rs would
//!   silently drop it.
//!
//! # Not here
//! - Messages between replicas: a group of one voter sends none; the transport brings their codec.
//!
//! Sources: Ongaro's thesis §6.4 (reads), §9.6 (pre-vote), §10.2.1 (parallel write); raft-rs 0.7 `raw_node.rs`.

use bytes::Bytes;
use raft::eraftpb::MessageType;
use raft::{RawNode, ReadOnlyOption, StateRole};
use z4_types::{Entry, HardState, Index, Kind, ShardId, Term};

use crate::log::{LogTail, ReadBack, from_raft};
use crate::membership::Membership;

/// Ticks without a leader before an election; a tick is the driver's (100 ms on real hosts).
const ELECTION_TICKS: usize = 10;
/// Ticks between heartbeats.
const HEARTBEAT_TICKS: usize = 2;
/// Bytes of entries in one message to a follower.
const MESSAGE_BYTES_MAX: u64 = 1 << 20;
/// Messages to one follower under way.
const MESSAGES_INFLIGHT_MAX: usize = 64;
/// Bytes of committed entries handed out in one [`Ready`].
const COMMITTED_BYTES_MAX: u64 = 16 << 20;
/// Applied entries kept in memory for followers that are slightly behind, bytes.
const CACHE_BYTES_MAX: usize = 16 << 20;

/// What one replica is.
#[derive(Debug, Clone)]
pub struct Config {
    /// The group.
    pub group: ShardId,
    /// This replica's id, unique in the cluster, never zero.
    pub replica: u64,
    /// Added to the election timeout, in ticks, so that a seed decides who campaigns first.
    pub election_jitter: usize,
}

/// What a replica finds on its disk.
pub struct Recovered {
    /// From the log; the default if there is none.
    pub hard_state: HardState,
    /// From the base.
    pub membership: Membership,
    /// Applied and durable in the base: index and term.
    pub applied: (Index, Term),
    /// Entries after `applied`, contiguous.
    pub entries: Vec<Entry>,
    /// Reads older entries back.
    pub read_back: Box<dyn ReadBack>,
}

/// What the driver must do now.
#[derive(Debug, Default)]
pub struct Ready {
    /// Pass to [`Group::persisted`] once `hard_state` and `entries` are durable. None: nothing to persist.
    pub number: Option<u64>,
    /// To persist in one write with `entries`.
    pub hard_state: Option<HardState>,
    /// To persist.
    pub entries: Vec<Entry>,
    /// To apply, in order; durable on a majority.
    pub committed: Vec<Entry>,
    /// Reads that may be served once their index is applied.
    pub reads: Vec<ReadState>,
}

/// A read context that a quorum confirmed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadState {
    /// As given to [`Group::read_index`].
    pub context: u64,
    /// Serve the reads of this context when this index is applied.
    pub index: Index,
}

/// Why a call on a group failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// This replica does not lead; nothing was proposed.
    #[error("this replica is not the leader of shard {0}")]
    NotLeader(ShardId),
    /// What was found on disk does not fit together.
    #[error("shard {0}: the log on disk does not fit the base: {1}")]
    Inconsistent(ShardId, String),
    /// The engine refused.
    #[error("shard {0}: consensus engine: {1}")]
    Engine(ShardId, String),
}

impl Error {
    /// Returns what the caller should do next.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::NotLeader(_) => Kind::Unavailable,
            Self::Inconsistent(..) => Kind::Corrupt,
            Self::Engine(..) => Kind::Internal,
        }
    }
}

/// One replica of one group.
pub struct Group {
    id: ShardId,
    replica: u64,
    node: RawNode<LogTail>,
    /// Commit changes travel with the next write that is needed anyway.
    unwritten: Option<HardState>,
    /// Number of the newest ready that waits for the disk, 0 if none does.
    unpersisted: u64,
    applied: Index,
}

impl Group {
    /// Returns the replica as its disk remembers it.
    ///
    /// # Errors
    /// `Inconsistent` if the entries do not follow the applied index; `Engine` if raft-rs refuses the state.
    pub fn open(config: &Config, recovered: Recovered) -> Result<Self, Error> {
        let id = config.group;
        let (applied, applied_term) = recovered.applied;
        let mut expected = applied.next();
        for entry in &recovered.entries {
            if entry.index != expected {
                let why = format!(
                    "found entry {} where {expected} must follow the applied index {applied}",
                    entry.index
                );
                return Err(Error::Inconsistent(id, why));
            }
            expected = expected.next();
        }
        let mut hard_state = raft::prelude::HardState::default();
        hard_state.set_term(recovered.hard_state.term.0.max(applied_term.0));
        hard_state.set_vote(recovered.hard_state.vote);
        // The base is only written from committed entries, so its index is committed even if the log never said so;
        // a commit beyond the last entry was never persisted here and must be learnt again.
        hard_state.set_commit(recovered.hard_state.commit.0.clamp(applied.0, expected.0 - 1));
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
            // One apart: the timeout is ours to seed, not the engine's thread-local generator's.
            min_election_tick: ELECTION_TICKS + config.election_jitter,
            max_election_tick: ELECTION_TICKS + config.election_jitter + 1,
            applied: applied.0,
            max_size_per_msg: MESSAGE_BYTES_MAX,
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
        let mut group = Self { id, replica: config.replica, node, unwritten: None, unpersisted: 0, applied };
        if group.is_only_voter() {
            // Nobody else could win: waiting for an election timeout would only delay the start.
            group.node.campaign().map_err(|e| Error::Engine(id, e.to_string()))?;
        }
        Ok(group)
    }

    /// Lets one tick of time pass.
    pub fn tick(&mut self) {
        self.node.tick();
    }

    /// Offers `data` as the next entry; returns its place. It may still be lost if leadership is.
    ///
    /// # Errors
    /// `NotLeader`; nothing was proposed then.
    pub fn propose(&mut self, data: Bytes) -> Result<(Index, Term), Error> {
        if !self.is_leader() {
            return Err(Error::NotLeader(self.id));
        }
        let mut entry = raft::eraftpb::Entry::default();
        entry.set_data(data);
        let mut message = raft::eraftpb::Message::default();
        message.set_msg_type(MessageType::MsgPropose);
        message.set_from(self.replica);
        message.set_entries(vec![entry].into());
        // `step` and not `propose`: the latter copies the bytes.
        match self.node.raft.step(message) {
            Ok(()) => Ok((Index(self.node.raft.raft_log.last_index()), Term(self.node.raft.term))),
            Err(raft::Error::ProposalDropped) => Err(Error::NotLeader(self.id)),
            Err(e) => Err(Error::Engine(self.id, e.to_string())),
        }
    }

    /// Asks a quorum whether this leader still leads; the answer comes in [`Ready::reads`] under `context`.
    /// Returns false if that must wait: not leader, or nothing committed in this term yet.
    pub fn read_index(&mut self, context: u64) -> bool {
        if !self.is_leader() || !self.node.raft.commit_to_current_term() {
            return false;
        }
        self.node.read_index(context.to_le_bytes().to_vec());
        true
    }

    /// Returns what there is to do, None if nothing.
    pub fn ready(&mut self) -> Option<Ready> {
        if !self.node.has_ready() {
            return None;
        }
        let mut ready = self.node.ready();
        let mut out = Ready {
            reads: ready.take_read_states().iter().filter_map(read_state).collect(),
            committed: ready.take_committed_entries().iter().map(from_raft).collect(),
            ..Ready::default()
        };
        if let Some(hs) = ready.hs() {
            let hs = hs.clone();
            self.node.mut_store().set_hard_state(&hs);
            self.unwritten = Some(HardState { term: Term(hs.term), vote: hs.vote, commit: Index(hs.commit) });
        }
        if ready.must_sync() {
            out.number = Some(ready.number());
            out.hard_state = self.unwritten.take();
            out.entries = ready.entries().iter().map(from_raft).collect();
            let entries = ready.take_entries();
            self.node.mut_store().append(&entries);
        }
        let number = ready.number();
        self.node.advance_append_async(ready);
        match out.number {
            Some(number) => self.unpersisted = number,
            // Nothing of it needs the disk and nothing before it is under way: let the engine drop its record.
            None if self.unpersisted == 0 => self.node.on_persist_ready(number),
            None => {}
        }
        Some(out)
    }

    /// Says that everything up to ready `number` is durable.
    pub fn persisted(&mut self, number: u64) {
        assert!(number <= self.unpersisted, "only what was handed out can be durable");
        if number == self.unpersisted {
            self.unpersisted = 0;
        }
        self.node.on_persist_ready(number);
    }

    /// Says that everything up to `index` is applied.
    pub fn applied(&mut self, index: Index) {
        assert!(index >= self.applied, "apply goes forward");
        self.applied = index;
        self.node.advance_apply_to(index.0);
        // Followers that are slightly behind read from memory; a group of one has none.
        if self.is_only_voter() || self.node.store().cached_bytes() > CACHE_BYTES_MAX {
            self.node.mut_store().evict(index.0);
        }
    }

    /// Says that nobody will ask for entries up to `through`, which is of `term`, again: the base holds them durably.
    pub fn compact(&mut self, through: Index, term: Term) {
        assert!(through <= self.applied, "only applied entries are compacted");
        self.node.mut_store().compact(through.0, term.0);
    }

    /// Returns whether this replica leads.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.node.raft.state == StateRole::Leader
    }

    /// Returns whether this replica alone decides.
    #[must_use]
    pub fn is_only_voter(&self) -> bool {
        self.node.raft.prs().is_singleton() && self.node.raft.promotable()
    }

    /// Returns the known leader's replica id, 0 if none is known.
    #[must_use]
    pub fn leader(&self) -> u64 {
        self.node.raft.leader_id
    }

    /// Returns the current term.
    #[must_use]
    pub fn term(&self) -> Term {
        Term(self.node.raft.term)
    }

    /// Returns the commit index.
    #[must_use]
    pub fn commit(&self) -> Index {
        Index(self.node.raft.raft_log.committed)
    }

    /// Returns the last index of the log.
    #[must_use]
    pub fn last(&self) -> Index {
        Index(self.node.raft.raft_log.last_index())
    }
}

fn read_state(state: &raft::ReadState) -> Option<ReadState> {
    let context = u64::from_le_bytes(state.request_ctx.as_slice().try_into().ok()?);
    Some(ReadState { context, index: Index(state.index) })
}

#[cfg(test)]
mod tests;
