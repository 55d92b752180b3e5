//! One group on this host: consensus, working set and state machine, and what waits between them.
//!
//! # Invariants
//! - An entry is applied exactly once, in order, after it is durable on a majority.
//! - A read is served when the index a quorum confirmed for it is applied.
//! - At most [`PROPOSALS_INFLIGHT_MAX`] entries are proposed and not applied.
//! - While a snapshot's rows are being installed nothing is handed out, applied or served: `installing`.
//!
//! # Not here
//! - The snapshot's way to this host: `snapshot/`. Frames: `post.rs`.

use std::collections::VecDeque;

use z4_consensus::{
    Config, Error, Group, Membership, Message, PeerProgress, ReadBack, Recovered, SnapshotMark,
};
use z4_store::GroupStore;
use z4_types::limits::PROPOSALS_INFLIGHT_MAX;
use z4_types::{Entry, EntryKind, HardState, Index, Kind, Millis, ShardId, Term};
use z4_wal::Record;

use crate::clock::Ahead;
use crate::digests::Digests;
use crate::driver::DigestWatch;
use crate::machine::{Fault, Refuse, Refused, StateMachine};

/// Committed entries held in memory before they are applied, bytes; the engine keeps the rest.
const COMMITTED_BYTES_MAX: usize = 16 << 20;
/// Reads offered to a quorum and not confirmed, in batches; further ones wait and go together.
const READS_INFLIGHT_MAX: usize = 4;
/// Bytes of entries applied in one pass; then other groups, the inbox and checkpoints have their turn.
const APPLIED_BYTES_MAX: usize = 8 << 20;

/// What a replica starts from.
pub struct ReplicaConfig {
    /// The group.
    pub shard: ShardId,
    /// This replica's id.
    pub replica: u64,
    /// Decides, with group, replica and term, how long an election waits. Replicas may share it.
    pub election_seed: u64,
    /// From the log.
    pub hard_state: HardState,
    /// Entries after the durable applied index, from the log: [`z4_consensus::Fit::entries`].
    pub entries: Vec<Entry>,
    /// The first record of the group must forget the log from here on: [`z4_consensus::Fit::forget_from`].
    pub forget_from: Option<Index>,
    /// Reads older entries back.
    pub read_back: Box<dyn ReadBack>,
}

/// What `info` and the metrics show of a group.
#[derive(Debug, Clone)]
pub struct GroupStatus {
    /// The group.
    pub shard: ShardId,
    /// This replica's id.
    pub replica: u64,
    /// Whether this replica leads.
    pub leading: bool,
    /// The leader's replica id, 0 if unknown.
    pub leader: u64,
    /// Current term.
    pub term: Term,
    /// Commit index.
    pub commit: Index,
    /// Applied index.
    pub applied: Index,
    /// Applied index that is durable in the base.
    pub durable: Index,
    /// Last index of the log.
    pub last: Index,
    /// Digest of all state changes up to the applied index.
    pub digest: u64,
    /// Digests at earlier indexes, which other replicas remember as well; oldest first.
    pub digests: Vec<(Index, u64)>,
    /// Who belongs to the group as of the applied index.
    pub membership: Membership,
    /// What this leader knows of each member; nothing if it does not lead.
    pub progress: Vec<PeerProgress>,
}

/// What whoever decides on a group's members needs to know of it.
#[derive(Debug, Clone)]
pub struct Members {
    /// This host's replica.
    pub replica: u64,
    /// Whether it leads.
    pub leading: bool,
    /// The leader's replica id, 0 if unknown.
    pub leader: u64,
    /// Current term.
    pub term: Term,
    /// Commit index.
    pub commit: Index,
    /// As of the applied index.
    pub membership: Membership,
    /// What this leader knows of each member; nothing if it does not lead.
    pub progress: Vec<PeerProgress>,
    /// Whether this leader has applied an entry of its own term, no change is under way, and an entry behind the last one
    /// is committed: only then is `membership` the newest there is, and may those that left it be gone.
    pub settled: bool,
    /// Whether leadership is being handed over.
    pub transferring: bool,
}

/// What a replica has applied, for reads that ask no leader: committed, whole, and perhaps behind.
pub struct Applied<'a, M> {
    /// The state machine, as of the applied index.
    pub machine: &'a M,
    /// Its rows; their meta has the applied index, which is not zero.
    pub store: &'a mut GroupStore,
    /// This host's clock. Invariant: not before the shard time of the last entry applied.
    pub now: Millis,
}

/// What a replica hands out in one pass.
#[derive(Default)]
pub(crate) struct Collected {
    /// To persist, with its number and what may be said once it is durable.
    pub(crate) record: Option<(Record, u64, Vec<Message>)>,
    /// To send at once.
    pub(crate) messages: Vec<Message>,
    /// The rows to install before the record is written.
    pub(crate) snapshot: Option<SnapshotMark>,
}

/// See the module essay.
pub struct Replica<M: StateMachine> {
    pub(crate) shard: ShardId,
    pub(crate) consensus: Group,
    pub(crate) store: GroupStore,
    pub(crate) machine: M,
    committed: VecDeque<Entry>,
    /// Bytes of `committed`.
    committed_bytes: usize,
    leading: bool,
    /// The term this replica leads in, while it does.
    lead_term: Term,
    /// Entries proposed in this leadership and not applied yet.
    inflight: usize,
    waiting_reads: Vec<M::Read>,
    confirmed_reads: VecDeque<(u64, Option<Index>, Vec<M::Read>)>,
    next_context: u64,
    /// Applied index that is durable in the base.
    pub(crate) durable: Index,
    /// What the next record forgets of the log.
    forget_from: Option<Index>,
    /// The rows are being replaced.
    pub(crate) installing: bool,
    pub(crate) digests: Digests,
    /// What the log's times are ahead of this host's clock.
    pub(crate) ahead: Ahead,
}

impl<M: StateMachine> Replica<M> {
    /// Opens the replica: what the base does not hold is applied again as soon as it is committed again.
    ///
    /// # Errors
    /// If the log does not fit the base, or the membership cannot be read.
    pub fn open(config: ReplicaConfig, store: GroupStore, machine: M) -> Result<Self, Fault> {
        let meta = store.meta();
        let membership = Membership::decode(&meta.conf).ok_or_else(|| Fault {
            kind: z4_types::Kind::Corrupt,
            what: format!("shard {}: the membership in the base cannot be read", config.shard),
        })?;
        let durable = meta.applied;
        let recovered = Recovered {
            hard_state: config.hard_state,
            membership,
            applied: (meta.applied, meta.term),
            entries: config.entries,
            read_back: config.read_back,
        };
        let group =
            Config { group: config.shard, replica: config.replica, election_seed: config.election_seed };
        Ok(Self {
            shard: config.shard,
            consensus: Group::open(&group, recovered)?,
            store,
            machine,
            committed: VecDeque::new(),
            committed_bytes: 0,
            leading: false,
            lead_term: Term(0),
            inflight: 0,
            waiting_reads: Vec::new(),
            confirmed_reads: VecDeque::new(),
            next_context: 1,
            ahead: Ahead::default(),
            durable,
            forget_from: config.forget_from,
            installing: false,
            digests: Digests::default(),
        })
    }

    /// Takes a message of another replica. What is not for this replica is dropped.
    ///
    /// # Errors
    /// If this replica's disk has lost what it promised, or the engine has failed.
    pub(crate) fn step(&mut self, message: Message) -> Result<(), Fault> {
        match self.consensus.step(message) {
            Ok(()) => Ok(()),
            Err(error @ (Error::NotMine { .. } | Error::Refused(..))) => {
                tracing::debug!(%error, "a message was not taken");
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Takes a read; it is answered once a quorum has confirmed this leader.
    pub(crate) fn take_read(&mut self, read: M::Read) {
        self.waiting_reads.push(read);
    }

    /// Packs and proposes one entry if there is something to propose and room in flight.
    pub(crate) fn propose(&mut self, now: Millis) -> Result<(), Fault> {
        if !self.leading || self.inflight >= PROPOSALS_INFLIGHT_MAX || !self.consensus.may_propose() {
            return Ok(());
        }
        if let Some(data) = self.machine.entry(&self.store, now)? {
            assert!(!data.is_empty(), "an empty entry is the engine's own");
            let (index, term) = self.consensus.propose(data)?;
            self.machine.proposed(index, term);
            self.inflight += 1;
        } else if self.consensus.wants_confirmation() {
            self.consensus.propose_nothing()?;
        }
        Ok(())
    }

    /// Takes what the engine has ready.
    pub(crate) fn collect(&mut self) -> Collected {
        let mut out = Collected::default();
        // What a restart applies again may be long: it comes in portions, so that checkpoints keep up with it.
        while self.committed_bytes < COMMITTED_BYTES_MAX
            && !self.installing
            && let Some(ready) = self.consensus.ready()
        {
            out.messages.extend(ready.messages);
            let mut truncate = None;
            if let Some(mark) = ready.snapshot {
                // They are in the snapshot.
                self.committed.clear();
                self.committed_bytes = 0;
                truncate = Some(mark.index);
                out.snapshot = Some(mark);
                self.installing = true;
            }
            self.committed_bytes += ready.committed.iter().map(|entry| entry.data.len()).sum::<usize>();
            self.committed.extend(ready.committed);
            for read in ready.reads {
                if let Some(slot) =
                    self.confirmed_reads.iter_mut().find(|(context, ..)| *context == read.context)
                {
                    slot.1 = Some(read.index);
                }
            }
            if let Some(number) = ready.number {
                let (record, newest, after_persist) = out.record.get_or_insert_with(|| {
                    let truncate = self.forget_from.take();
                    (
                        Record { group: self.shard, hard_state: None, truncate, entries: Vec::new() },
                        number,
                        Vec::new(),
                    )
                });
                record.hard_state = ready.hard_state.or(record.hard_state);
                record.truncate = record.truncate.into_iter().chain(truncate).min();
                if let Some(mark) = truncate {
                    record.entries.retain(|entry| entry.index < mark);
                }
                merge_entries(&mut record.entries, ready.entries);
                after_persist.extend(ready.after_persist);
                *newest = number;
            }
            self.follow_role();
        }
        out
    }

    /// Goes on with the rows that a snapshot brought.
    ///
    /// # Errors
    /// If storage fails or the rows cannot be understood.
    pub(crate) fn installed(&mut self) -> Result<(), Fault> {
        self.store.reset_to_base()?;
        self.machine.reload(&self.store)?;
        self.durable = self.store.meta().applied;
        self.digests = Digests::default();
        self.installing = false;
        Ok(())
    }

    /// Offers waiting reads for confirmation, or refuses them if this replica does not lead.
    pub(crate) fn confirm_reads(&mut self) {
        if self.waiting_reads.is_empty() {
            return;
        }
        if !self.leading {
            for read in self.waiting_reads.drain(..) {
                read.refuse(self.shard, Refused::NotLeader);
            }
        } else if self.confirmed_reads.iter().filter(|(_, index, _)| index.is_none()).count()
            < READS_INFLIGHT_MAX
            && self.consensus.read_index(self.next_context)
        {
            let reads = std::mem::take(&mut self.waiting_reads);
            self.confirmed_reads.push_back((self.next_context, None, reads));
            self.next_context += 1;
        }
    }

    /// Returns the group's time when the host's clock shows `host`: never before the last entry applied.
    pub(crate) fn time(&self, host: Millis, mono_ns: u64) -> Millis {
        self.ahead.time(host, mono_ns).max(self.machine.now())
    }

    /// Applies what is committed and serves the reads that waited for it, when the host's clock shows `host`. Returns
    /// whether anything was done.
    pub(crate) fn apply(
        &mut self,
        host: Millis,
        mono_ns: u64,
        watch: &mut Option<DigestWatch>,
    ) -> Result<bool, Fault> {
        let mut progress = false;
        let mut bytes = 0;
        while bytes < APPLIED_BYTES_MAX
            && let Some(entry) = self.committed.pop_front()
        {
            progress = true;
            bytes += entry.data.len();
            self.committed_bytes -= entry.data.len();
            match entry.kind {
                EntryKind::Normal if entry.data.is_empty() => {}
                EntryKind::Normal => {
                    // Ours only if proposed in this leadership; replayed entries were counted by another.
                    if self.leading && entry.term == self.consensus.term() {
                        self.inflight = self.inflight.saturating_sub(1);
                    }
                    self.machine.apply(&mut self.store, &entry, self.leading)?;
                }
                EntryKind::Membership => {
                    let membership = self.consensus.apply_membership(&entry)?;
                    tracing::info!(shard = %self.shard, index = %entry.index, ?membership, "members have changed");
                    self.store.set_conf(membership.encode());
                }
            }
            self.store.set_applied(entry.index, entry.term);
            self.consensus.applied(entry.index);
            if let Err(theirs) = self.digests.applied(entry.index, self.store.digest()) {
                return Err(self.diverged(entry.index, theirs));
            }
            if let Some(watch) = watch {
                watch(self.shard, &entry, self.store.digest());
            }
        }
        self.ahead.at_least(self.machine.now(), host, mono_ns);
        progress |= self.serve_reads(self.time(host, mono_ns))?;
        Ok(progress)
    }

    /// Serves the reads whose index is applied. Returns whether there were any.
    pub(crate) fn serve_reads(&mut self, now: Millis) -> Result<bool, Fault> {
        let mut progress = false;
        let applied = self.store.meta().applied;
        while let Some((_, Some(index), _)) = self.confirmed_reads.front()
            && *index <= applied
        {
            progress = true;
            let (_, _, reads) = self.confirmed_reads.pop_front().expect("looked at above");
            for read in reads {
                self.machine.read(&mut self.store, now, read)?;
            }
        }
        Ok(progress)
    }

    /// Returns what is applied here; None before the first snapshot has come and while one is being installed.
    pub(crate) fn applied(&mut self, now: Millis) -> Option<Applied<'_, M>> {
        if self.installing || self.store.meta().applied == Index(0) {
            return None;
        }
        Some(Applied { machine: &self.machine, store: &mut self.store, now })
    }

    /// Compares with what the leader's state was at `index`, now or when it is applied here.
    ///
    /// # Errors
    /// If they differ: this replica must not go on.
    pub(crate) fn compare(&mut self, index: Index, digest: u64) -> Result<(), Fault> {
        self.digests.compare(index, digest).map_err(|theirs| self.diverged(index, theirs))
    }

    fn diverged(&self, index: Index, theirs: u64) -> Fault {
        let what = format!(
            "shard {}: at entry {index} the state of replica {} has another digest than the leader's ({theirs:016x}): \
             one of them is damaged, or a defect; stop this host, keep its directories for a report, and let it join \
             again with empty ones",
            self.shard,
            self.consensus.replica()
        );
        Fault { kind: Kind::Corrupt, what }
    }

    /// Refuses what waits: the replica leaves this host.
    pub(crate) fn close(&mut self) {
        if std::mem::take(&mut self.leading) {
            self.machine.follow();
        }
        let confirmed = self.confirmed_reads.drain(..).flat_map(|(_, _, reads)| reads);
        for read in self.waiting_reads.drain(..).chain(confirmed) {
            read.refuse(self.shard, Refused::NotLeader);
        }
    }

    /// Returns whether this replica leads and may take writes.
    pub(crate) fn is_leading(&self) -> bool {
        self.leading
    }

    /// Returns the group's state for `info` and metrics.
    pub(crate) fn status(&self) -> GroupStatus {
        GroupStatus {
            shard: self.shard,
            replica: self.consensus.replica(),
            leading: self.leading,
            leader: self.consensus.leader(),
            term: self.consensus.term(),
            commit: self.consensus.commit(),
            applied: self.store.meta().applied,
            durable: self.durable,
            last: self.consensus.last(),
            digest: self.store.digest(),
            digests: self.digests.all(),
            membership: self.consensus.membership().clone(),
            progress: self.consensus.progress(),
        }
    }

    /// Returns what whoever decides on members needs to know.
    pub(crate) fn members(&self) -> Members {
        let term = self.consensus.term();
        Members {
            replica: self.consensus.replica(),
            leading: self.leading,
            leader: self.consensus.leader(),
            term,
            commit: self.consensus.commit(),
            membership: self.consensus.membership().clone(),
            progress: self.consensus.progress(),
            settled: self.leading
                && self.store.meta().term == term
                && !self.consensus.is_changing()
                && self.consensus.is_confirmed(),
            transferring: self.consensus.is_transferring(),
        }
    }

    fn follow_role(&mut self) {
        let (leads, term) = (self.consensus.is_leader(), self.consensus.term());
        if leads == self.leading && (!leads || term == self.lead_term) {
            return;
        }
        if self.leading {
            // Also when it leads again by now: what was in flight belongs to the old term.
            self.machine.follow();
            for (_, _, reads) in self.confirmed_reads.drain(..) {
                for read in reads {
                    read.refuse(self.shard, Refused::NotLeader);
                }
            }
        }
        self.leading = leads;
        self.lead_term = term;
        self.inflight = 0;
        if leads {
            self.machine.lead();
        }
    }
}

/// Adds newer entries, which replace any conflicting tail.
fn merge_entries(into: &mut Vec<Entry>, newer: Vec<Entry>) {
    if let Some(first) = newer.first() {
        let keep = into.partition_point(|e| e.index < first.index);
        into.truncate(keep);
    }
    into.extend(newer);
}
