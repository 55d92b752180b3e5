//! A cluster in one value: replicas, their disks, the network between them.
//!
//! The host half follows the rules of the driver and no more: send, write, sync, install, apply, checkpoint, cut. When each
//! of them happens is the scenario's choice.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use z4_types::{Entry, EntryKind, HardState, Index, ShardId, Term};

use super::checks::Checks;
use super::rng::Rng;
use crate::{Config, Error, Fit, Group, Membership, Message, ReadBack, Ready, Recovered, SnapshotMark};

pub(super) const GROUP: ShardId = ShardId(1);

/// What a state machine holds: everything up to an index, as a digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rows {
    pub(super) mark: SnapshotMark,
    pub(super) digest: u64,
}

/// What was handed out under one number.
struct Write {
    number: u64,
    snapshot: Option<Rows>,
    hard_state: Option<HardState>,
    entries: Vec<Entry>,
    after_persist: Vec<Message>,
}

/// What survives a crash.
#[derive(Clone)]
pub(super) struct Disk {
    base: Rows,
    hard_state: HardState,
    log: Arc<Mutex<Vec<Entry>>>,
    /// The next record forgets the log from here on first.
    forget_from: Option<Index>,
}

struct Log(Arc<Mutex<Vec<Entry>>>);

impl ReadBack for Log {
    fn entries(&self, _: ShardId, from: Index, to: Index, _: usize) -> Option<Vec<Entry>> {
        let log = self.0.lock().expect("not poisoned");
        let found: Vec<Entry> =
            log.iter().filter(|e| e.index >= from && e.index < to).take(2).cloned().collect();
        found.first().is_some_and(|e| e.index == from).then_some(found)
    }

    fn term(&self, _: ShardId, index: Index) -> Option<Term> {
        self.0.lock().expect("not poisoned").iter().find(|e| e.index == index).map(|e| e.term)
    }
}

impl Disk {
    fn empty(membership: Membership) -> Self {
        // A shard forms at index 1 of term 1: who has less needs a snapshot.
        let formed = u64::from(membership != Membership::default());
        let mark = SnapshotMark { index: Index(formed), term: Term(formed), membership };
        let hard_state = HardState { term: Term(formed), vote: 0, commit: Index(formed) };
        Self { base: Rows { mark, digest: 0 }, hard_state, log: Arc::default(), forget_from: None }
    }

    pub(super) fn has(&self, index: Index, term: u64) -> bool {
        let log = self.log.lock().expect("not poisoned");
        self.base.mark.index >= index || log.iter().any(|e| e.index == index && e.term.0 == term)
    }

    /// The base's transaction: the point of no return of a snapshot.
    fn install(&mut self, write: &Write) {
        if let Some(rows) = &write.snapshot {
            self.base = rows.clone();
            self.forget_from = Some(rows.mark.index);
        }
    }

    /// The log's record.
    fn append(&mut self, write: &Write) {
        let mut log = self.log.lock().expect("not poisoned");
        if let Some(from) = self.forget_from.take() {
            log.retain(|e| e.index < from);
        }
        if let Some(first) = write.entries.first() {
            if log.last().is_some_and(|last| first.index > last.index.next()) {
                log.clear();
            }
            log.retain(|e| e.index < first.index);
            log.extend(write.entries.iter().cloned());
        }
        self.hard_state = write.hard_state.unwrap_or(self.hard_state);
    }
}

/// A running process.
struct Live {
    group: Group,
    rows: Rows,
    writes: VecDeque<Write>,
    committed: VecDeque<Entry>,
    /// Rows of snapshots that arrived, by the mark's index.
    staged: BTreeMap<Index, Rows>,
    /// By context: what was committed anywhere when the read was asked.
    reads: BTreeMap<u64, Index>,
}

#[derive(Default)]
pub(super) struct Replica {
    live: Option<Live>,
}

impl Replica {
    pub(super) fn rows(&self) -> Option<&Rows> {
        self.live.as_ref().map(|live| &live.rows)
    }
}

struct Packet {
    at: u64,
    from: u64,
    to: u64,
    bytes: Vec<u8>,
    rows: Option<Rows>,
}

/// Percentages, and rounds of delay.
#[derive(Clone, Copy, Default)]
pub(super) struct Network {
    pub(super) loss: u64,
    pub(super) repeat: u64,
    pub(super) delay: u64,
}

pub(super) struct World {
    pub(super) rng: Rng,
    pub(super) now: u64,
    pub(super) network: Network,
    /// From, to.
    pub(super) cut: BTreeSet<(u64, u64)>,
    pub(super) replicas: BTreeMap<u64, Replica>,
    pub(super) disks: BTreeMap<u64, Disk>,
    packets: Vec<Packet>,
    /// Snapshot reports under way: when, to whom, of whom, how it went.
    reports: Vec<(u64, u64, u64, bool)>,
    pub(super) checks: Checks,
    seed: u64,
    next_context: u64,
    pub(super) reads_served: u64,
    pub(super) snapshots: u64,
}

impl World {
    /// Forms a group of `voters` among replicas `1..=count`; the others know nothing yet.
    pub(super) fn new(seed: u64, count: u64, voters: &[u64]) -> Self {
        let mut world = Self {
            rng: Rng::new(seed),
            now: 0,
            network: Network::default(),
            cut: BTreeSet::new(),
            replicas: BTreeMap::new(),
            disks: BTreeMap::new(),
            packets: Vec::new(),
            reports: Vec::new(),
            checks: Checks::default(),
            seed,
            next_context: 1,
            reads_served: 0,
            snapshots: 0,
        };
        for id in 1..=count {
            let membership =
                if voters.contains(&id) { Membership::of(voters.to_vec()) } else { Membership::default() };
            world.disks.insert(id, Disk::empty(membership));
            world.replicas.insert(id, Replica::default());
        }
        (1..=count).for_each(|id| world.start(id));
        world
    }

    /// Starts the process on what its disk holds.
    pub(super) fn start(&mut self, id: u64) {
        let disk = self.disks.get_mut(&id).expect("known");
        let mark = disk.base.mark.clone();
        let found = disk.log.lock().expect("not poisoned").clone();
        let fit = Fit::new((mark.index, mark.term), found);
        disk.forget_from = fit.forget_from.or(disk.forget_from);
        let config = Config { group: GROUP, replica: id, election_seed: self.seed };
        let recovered = Recovered {
            hard_state: disk.hard_state,
            membership: mark.membership.clone(),
            applied: (mark.index, mark.term),
            entries: fit.entries,
            read_back: Box::new(Log(disk.log.clone())),
        };
        let group = Group::open(&config, recovered).expect("what was written fits together");
        self.checks.restarted(&group);
        let live = Live {
            group,
            rows: disk.base.clone(),
            writes: VecDeque::new(),
            committed: VecDeque::new(),
            staged: BTreeMap::new(),
            reads: BTreeMap::new(),
        };
        self.replicas.get_mut(&id).expect("known").live = Some(live);
        self.call(id, |_| ());
    }

    /// Ends the process. `kept` writes reached the disk although nobody was told; of the next one maybe the rows of its
    /// snapshot, but not the record.
    pub(super) fn crash(&mut self, id: u64, kept: usize, half: bool) {
        let Some(live) = self.replicas.get_mut(&id).expect("known").live.take() else { return };
        let disk = self.disks.get_mut(&id).expect("known");
        for (position, write) in live.writes.iter().enumerate() {
            if position < kept {
                disk.install(write);
                disk.append(write);
                write.entries.iter().for_each(|e| self.checks.known(e));
            } else if position == kept && half {
                disk.install(write);
                // Known in memory only.
                disk.forget_from = None;
            }
        }
    }

    pub(super) fn is_up(&self, id: u64) -> bool {
        self.replicas[&id].live.is_some()
    }

    pub(super) fn group(&self, id: u64) -> &Group {
        &self.replicas[&id].live.as_ref().expect("runs").group
    }

    pub(super) fn unsynced(&self, id: u64) -> u64 {
        self.replicas[&id].live.as_ref().map_or(0, |live| live.writes.len() as u64)
    }

    /// The running leader of the highest term.
    pub(super) fn leader(&self) -> Option<u64> {
        let leads = |id: &&u64| self.is_up(**id) && self.group(**id).is_leader();
        self.replicas.keys().filter(leads).max_by_key(|id| self.group(**id).term()).copied()
    }

    /// Calls a running replica, checks it, and does what its ready says.
    pub(super) fn call<T>(&mut self, id: u64, what: impl FnOnce(&mut Group) -> T) -> Option<T> {
        let live = self.replicas.get_mut(&id).expect("known").live.as_mut()?;
        let before = live.group.commit();
        let result = what(&mut live.group);
        self.checks.observe(&live.group, before, &self.disks);
        while let Some(ready) = self.replicas.get_mut(&id)?.live.as_mut()?.group.ready() {
            self.handle(id, ready);
        }
        Some(result)
    }

    fn handle(&mut self, id: u64, ready: Ready) {
        let live = self.replicas.get_mut(&id).expect("known").live.as_mut().expect("runs");
        ready.committed.iter().for_each(|e| self.checks.committed(e));
        let snapshot = ready.snapshot.map(|mark| {
            live.committed.clear();
            self.snapshots += 1;
            live.staged.remove(&mark.index).expect("the rows came first")
        });
        live.committed.extend(ready.committed);
        for read in ready.reads {
            if let Some(asked_at) = live.reads.remove(&read.context) {
                Checks::read(asked_at, read.index);
                self.reads_served += 1;
            }
        }
        if let Some(number) = ready.number {
            let write = Write {
                number,
                snapshot,
                hard_state: ready.hard_state,
                entries: ready.entries,
                after_persist: ready.after_persist,
            };
            live.writes.push_back(write);
        } else {
            assert!(ready.hard_state.is_none() && ready.entries.is_empty() && snapshot.is_none());
            assert!(ready.after_persist.is_empty());
        }
        ready.messages.into_iter().for_each(|m| self.send(m));
    }

    /// Makes `count` writes durable.
    pub(super) fn sync(&mut self, id: u64, count: u64) {
        let Some(live) = self.replicas.get_mut(&id).expect("known").live.as_mut() else { return };
        let disk = self.disks.get_mut(&id).expect("known");
        let mut messages = Vec::new();
        let mut newest = None;
        for _ in 0..count {
            let Some(write) = live.writes.pop_front() else { break };
            disk.install(&write);
            disk.append(&write);
            write.entries.iter().for_each(|e| self.checks.known(e));
            newest = Some(write.number);
            messages.extend(write.after_persist);
            if let Some(rows) = write.snapshot {
                live.rows = rows;
            }
        }
        if let Some(number) = newest {
            self.call(id, |group| group.persisted(number));
            messages.into_iter().for_each(|m| self.send(m));
        }
    }

    /// Applies `count` entries.
    pub(super) fn apply(&mut self, id: u64, count: u64) {
        for _ in 0..count {
            let Some(live) = self.replicas.get_mut(&id).expect("known").live.as_mut() else { return };
            let Some(entry) = live.committed.pop_front() else { return };
            let rows = &mut live.rows;
            assert_eq!(entry.index, rows.mark.index.next(), "entries are applied in order");
            let before = live.group.commit();
            if entry.kind == EntryKind::Membership {
                rows.mark.membership =
                    live.group.apply_membership(&entry).expect("a committed change applies");
                self.checks.observe(&live.group, before, &self.disks);
            }
            for byte in entry.index.0.to_le_bytes().iter().chain(&entry.data[..]) {
                rows.digest = (rows.digest ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3).rotate_left(11);
            }
            (rows.mark.index, rows.mark.term) = (entry.index, entry.term);
            self.checks.applied(entry.index, rows.digest);
            self.call(id, |group| group.applied(entry.index));
        }
    }

    /// Makes the rows durable; cuts the log below them if `cut`.
    pub(super) fn checkpoint(&mut self, id: u64, cut: bool) {
        let Some(live) = self.replicas.get_mut(&id).expect("known").live.as_mut() else { return };
        let disk = self.disks.get_mut(&id).expect("known");
        disk.base = live.rows.clone();
        if cut {
            let mark = &disk.base.mark;
            live.group.compact(mark.index, mark.term);
            disk.log.lock().expect("not poisoned").retain(|e| e.index > mark.index);
        }
    }

    fn send(&mut self, message: Message) {
        self.checks.sent(&message);
        let (from, to) = (message.from(), message.to());
        let mut message = message;
        let mut rows = None;
        if message.snapshot().is_some() {
            let view = self.replicas[&from].rows().expect("only a running replica sends").clone();
            message = message.with_snapshot_mark(&view.mark);
            rows = Some(view);
        }
        let arrives = !self.rng.chance(self.network.loss) && !self.cut.contains(&(from, to));
        if rows.is_some() {
            let at = self.now + 5 + self.rng.below(10);
            self.reports.push((at, from, to, arrives));
        }
        if !arrives {
            return;
        }
        let copies = 1 + u64::from(self.rng.chance(self.network.repeat));
        for _ in 0..copies {
            let mut bytes = Vec::new();
            message.encode(&mut bytes);
            let at = self.now + self.rng.below(self.network.delay + 1);
            self.packets.push(Packet { at, from, to, bytes, rows: rows.clone() });
        }
    }

    /// Delivers what is due, in any order.
    pub(super) fn deliver(&mut self) {
        let now = self.now;
        let (mut due, later) =
            std::mem::take(&mut self.packets).into_iter().partition::<Vec<_>, _>(|p| p.at <= now);
        self.packets = later;
        while !due.is_empty() {
            let at = if self.network.delay == 0 { 0 } else { self.rng.below(due.len() as u64) };
            let packet = due.remove(usize::try_from(at).expect("small"));
            if self.cut.contains(&(packet.from, packet.to)) {
                continue;
            }
            let message = Message::decode(&mut Bytes::from(packet.bytes)).expect("what was encoded");
            if let (Some(rows), Some(live)) =
                (packet.rows, self.replicas.get_mut(&packet.to).expect("known").live.as_mut())
            {
                live.staged.insert(rows.mark.index, rows);
            }
            if let Some(result) = self.call(packet.to, |group| group.step(message)) {
                result.expect("honest replicas send what can be taken");
            }
        }
        let (due, later) =
            std::mem::take(&mut self.reports).into_iter().partition::<Vec<_>, _>(|r| r.0 <= now);
        self.reports = later;
        for (_, to, of, ok) in due {
            self.call(to, |group| group.report_snapshot(of, ok));
        }
    }

    /// Proposes fresh bytes to `id` if it takes some.
    pub(super) fn propose(&mut self, id: u64) {
        let data = Bytes::from(self.rng.next().to_le_bytes().repeat(3));
        self.call(id, |group| {
            let takes = group.may_propose();
            match group.propose(data) {
                Ok(_) => assert!(takes),
                Err(Error::NotLeader(_) | Error::Transferring(_)) => assert!(!takes),
                Err(e) => panic!("{e}"),
            }
        });
    }

    /// Asks for a read on `id` if it takes some.
    pub(super) fn read(&mut self, id: u64) {
        let (context, asked_at) = (self.next_context, self.checks.commit);
        self.next_context += 1;
        if let Some(live) = self.replicas.get_mut(&id).expect("known").live.as_mut() {
            live.reads.insert(context, asked_at);
            self.call(id, |group| group.read_index(context));
        }
    }

    /// One step towards `wanted` voters, as a controller on the leader would take it.
    pub(super) fn steer(&mut self, id: u64, wanted: &[u64]) {
        if !self.is_up(id) || !self.group(id).is_leader() || self.group(id).membership().is_joint() {
            return;
        }
        let group = self.group(id);
        let members = group.membership();
        let near = group.commit().0.saturating_sub(5);
        let ready = |id: &u64| group.progress().iter().any(|p| p.replica == *id && p.matched.0 >= near);
        let mut change = crate::Change::default();
        let unwanted: Vec<u64> = members.voters.iter().filter(|v| !wanted.contains(v)).copied().collect();
        change.add_learners = wanted.iter().filter(|w| !members.is_member(**w)).copied().collect();
        change.promote =
            members.learners.iter().filter(|l| wanted.contains(l) && ready(l)).copied().collect();
        change.remove = members.learners.iter().filter(|l| !wanted.contains(l)).copied().collect();
        if members.voters.iter().chain(&change.promote).any(|v| *v != id && wanted.contains(v))
            || wanted.contains(&id)
        {
            change.remove.extend(unwanted.iter().filter(|v| **v != id));
        }
        let hand_over: Vec<u64> = members.voters.iter().filter(|v| wanted.contains(v)).copied().collect();
        if unwanted.contains(&id) && !hand_over.is_empty() {
            let to = self.rng.pick(&hand_over);
            self.call(id, |group| group.transfer_leader(to));
        } else if change != crate::Change::default() {
            let result = self.call(id, |group| group.propose_membership(&change)).expect("runs");
            assert!(!matches!(result, Err(Error::Refused(..))), "{change:?}: {result:?}");
        }
    }

    /// Lets everything run without faults until `wanted` are the voters and all of them have applied the same.
    pub(super) fn settle(&mut self, wanted: &[u64]) {
        self.network = Network::default();
        self.cut.clear();
        let ids: Vec<u64> = self.replicas.keys().copied().collect();
        for id in &ids {
            if !self.is_up(*id) {
                self.start(*id);
            }
        }
        for _ in 0..600 {
            self.round(&ids);
            if let Some(leader) = self.leader() {
                let group = self.group(leader);
                let done = *group.membership() == Membership::of(wanted.to_vec())
                    && group.commit() == group.last()
                    && self.group(leader).commit() == self.replicas[&leader].rows().expect("runs").mark.index;
                if done && Checks::converged(&self.replicas, wanted) {
                    return;
                }
                self.steer(leader, wanted);
            }
        }
        let state: Vec<_> =
            ids.iter().map(|id| (id, self.replicas[id].rows(), self.group(*id).term())).collect();
        panic!("no agreement on {wanted:?}: leader {:?}, {state:?}", self.leader());
    }

    /// One round without chance: everybody ticks, writes, hears and applies.
    pub(super) fn round(&mut self, ids: &[u64]) {
        self.now += 1;
        for id in ids {
            self.call(*id, Group::tick);
            self.sync(*id, u64::MAX);
        }
        self.deliver();
        for id in ids {
            self.sync(*id, u64::MAX);
            self.apply(*id, u64::MAX);
        }
    }
}
