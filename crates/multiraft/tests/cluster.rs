//! Drivers of several hosts in one thread: real log and base in temporary directories, a clock that is stepped, mail
//! that is carried by hand. The simulator does this with faults and thousands of seeds; here is what each seam promises.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bytes::Bytes;
use z4_consensus::{Change, Membership, ReadBack};
use z4_env::{Clock, RealDisk};
use z4_multiraft::{
    Admission, Driver, Fault, Input, LogOrder, Members, Refuse, Refused, Replica, ReplicaConfig, Settings,
    StateMachine,
};
use z4_store::{GroupStore, Store};
use z4_types::{Entry, HardState, HostId, Index, Millis, ShardId, Term};
use z4_wal::Wal;

const SHARD: ShardId = ShardId(1);
const TICK_MS: u64 = 100;

#[derive(Default)]
struct Hands(AtomicU64);

impl Clock for Hands {
    fn wall(&self) -> Millis {
        Millis(1_000_000 + self.0.load(Relaxed))
    }
    fn monotonic_ns(&self) -> u64 {
        self.0.load(Relaxed) * 1_000_000
    }
}

/// Keeps each value under its own key; counts what it holds.
struct Names {
    waiting: Vec<Bytes>,
    rows: u64,
    log: Arc<AtomicU64>,
}

struct Name(Bytes);
struct Count(Arc<AtomicU64>);

impl Refuse for Name {
    fn refuse(self, _: ShardId, _: Refused) {}
}

impl Refuse for Count {
    fn refuse(self, _: ShardId, _: Refused) {
        self.0.store(u64::MAX, Relaxed);
    }
}

impl StateMachine for Names {
    type Write = Name;
    type Read = Count;

    fn write(&mut self, write: Name, _: Admission) {
        self.waiting.push(write.0);
    }
    fn entry(&mut self, _: &GroupStore, _: Millis) -> Result<Option<Bytes>, Fault> {
        Ok(self.waiting.pop())
    }
    fn proposed(&mut self, _: Index, _: Term) {}
    fn apply(&mut self, store: &mut GroupStore, entry: &Entry, _: bool) -> Result<(), Fault> {
        store.put(&entry.data, b"");
        self.rows += 1;
        self.log.fetch_add(1, Relaxed);
        Ok(())
    }
    fn read(&mut self, _: &mut GroupStore, _: Millis, read: Count) -> Result<(), Fault> {
        read.0.store(self.rows, Relaxed);
        Ok(())
    }
    fn reload(&mut self, store: &GroupStore) -> Result<(), Fault> {
        self.rows = 0;
        store.scan(b"", &[0xff; 9], &mut |_, _| {
            self.rows += 1;
            true
        })?;
        Ok(())
    }
    fn lead(&mut self) {}
    fn follow(&mut self) {
        self.waiting.clear();
    }
    fn stop(&mut self) {}
    fn deadline(&mut self, _: &GroupStore, now: Millis) -> Result<Option<Millis>, Fault> {
        Ok((!self.waiting.is_empty()).then_some(now))
    }
    fn now(&self) -> Millis {
        Millis(0)
    }
}

struct NoReadBack;

impl ReadBack for NoReadBack {
    fn entries(&self, _: ShardId, _: Index, _: Index, _: usize) -> Option<Vec<Entry>> {
        None
    }
    fn term(&self, _: ShardId, _: Index) -> Option<Term> {
        None
    }
}

struct Host {
    driver: Driver<Names>,
    wal: Wal,
    store: Store,
    applied: Arc<AtomicU64>,
    _dir: tempfile::TempDir,
}

struct Cluster {
    clock: Arc<Hands>,
    hosts: BTreeMap<u64, Host>,
    down: BTreeSet<u64>,
}

fn name(id: u64) -> HostId {
    HostId(format!("h{id}"))
}

impl Cluster {
    /// Hosts 1 to `count`; replica n stands on host n. `voters` form the group, the others wait for a snapshot.
    fn new(count: u64, voters: &[u64]) -> Self {
        let clock = Arc::new(Hands::default());
        let mut cluster = Self { clock, hosts: BTreeMap::new(), down: BTreeSet::new() };
        for id in 1..=count {
            let membership =
                if voters.contains(&id) { Membership::of(voters.to_vec()) } else { Membership::default() };
            cluster.hosts.insert(id, Host::new(&cluster.clock, id, &membership, count));
        }
        cluster
    }

    /// One round: everybody works, then all mail is carried.
    fn round(&mut self) {
        let mut mail = Vec::new();
        for (id, host) in &mut self.hosts {
            let frames = host.work();
            if !self.down.contains(id) {
                mail.extend(frames.into_iter().map(|(to, frame)| (*id, to, frame)));
            }
        }
        for (from, to, frame) in mail {
            let to = self.hosts.iter_mut().find(|(id, _)| name(**id) == to).expect("a host of the cluster");
            if !self.down.contains(to.0) {
                to.1.driver.receive(&name(from), frame.body.into()).expect("mail is taken");
            }
        }
    }

    fn rounds_until(&mut self, what: &str, mut done: impl FnMut(&Self) -> bool) {
        for _ in 0..2_000 {
            for _ in 0..4 {
                self.round();
                if done(self) {
                    return;
                }
            }
            self.clock.0.fetch_add(TICK_MS, Relaxed);
        }
        panic!("never: {what}");
    }

    fn leader(&self) -> Option<u64> {
        self.hosts.keys().copied().find(|id| !self.down.contains(id) && self.members(*id).settled)
    }

    fn wait_for_leader(&mut self) -> u64 {
        self.rounds_until("a leader", |cluster| cluster.leader().is_some());
        self.leader().expect("just seen")
    }

    fn members(&self, id: u64) -> Members {
        self.hosts[&id].driver.members(SHARD).expect("has a replica")
    }

    fn host(&mut self, id: u64) -> &mut Host {
        self.hosts.get_mut(&id).expect("a host of the cluster")
    }

    /// Writes `count` names through the leader, and waits until `on` have applied them.
    fn write(&mut self, prefix: &str, count: usize, on: &[u64]) {
        let leader = self.wait_for_leader();
        for n in 0..count {
            let bytes = Bytes::from(format!("{prefix}{n:06}"));
            self.host(leader).driver.input(Input::Write(SHARD, Name(bytes)));
        }
        let before = self.members(leader).commit;
        self.rounds_until("the names are applied", |cluster| {
            let done = |id: &u64| {
                let status = &cluster.hosts[id].driver.status()[0];
                status.applied >= Index(before.0 + count as u64)
            };
            on.iter().all(done)
        });
    }

    /// Returns how many names host `id` shows to who asks no leader, and as of which index.
    fn shown(&mut self, id: u64) -> Option<(u64, Index)> {
        self.host(id).driver.applied(SHARD).map(|shown| (shown.machine.rows, shown.store.meta().applied))
    }

    fn digests(&self) -> BTreeSet<(Index, u64)> {
        let status = |host: &Host| {
            let status = &host.driver.status()[0];
            (status.applied, status.digest)
        };
        self.hosts.values().map(status).collect()
    }
}

impl Host {
    fn new(clock: &Arc<Hands>, id: u64, membership: &Membership, count: u64) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let disk = Arc::new(RealDisk);
        let store = Store::open(disk.clone(), z4_store::Config::new(dir.path())).expect("opens");
        let mut config = z4_wal::Config::new(dir.path().join("wal"));
        config.segment_bytes = 64 << 10;
        let formed = u64::from(*membership != Membership::default());
        let (wal, _) = Wal::open(disk, config, &[(SHARD, Index(formed))].into()).expect("opens");
        let settings = Settings { tick_ns: TICK_MS * 1_000_000, ..Settings::default() };
        let mut driver = Driver::new(settings, clock.clone(), store.clone());
        let mut group = store.group(SHARD).expect("opens");
        group.set_conf(membership.encode());
        group.set_applied(Index(formed), Term(formed));
        let applied = Arc::new(AtomicU64::new(0));
        let names = Names { waiting: Vec::new(), rows: 0, log: applied.clone() };
        let config = ReplicaConfig {
            shard: SHARD,
            replica: id,
            election_seed: 7,
            hard_state: HardState::default(),
            entries: Vec::new(),
            forget_from: None,
            read_back: Box::new(NoReadBack),
        };
        driver.add(Replica::open(config, group, names).expect("opens"));
        driver.set_routes(SHARD, &(1..=count).map(|id| (id, name(id))).collect());
        Self { driver, wal, store, applied, _dir: dir }
    }

    /// What the runner does, until nothing is left.
    fn work(&mut self) -> Vec<(HostId, z4_env::Frame)> {
        let mut mail = Vec::new();
        loop {
            self.driver.advance();
            let batch = self.driver.prepare().expect("prepares");
            mail.extend(self.driver.take_frames());
            for order in self.driver.log_orders() {
                match order {
                    LogOrder::Release(shard, index) => self.wal.release(shard, index),
                    LogOrder::Forget(shard) => self.wal.forget(shard),
                }
            }
            let mut progress = batch.is_some();
            if let Some(batch) = batch {
                self.wal.append(&batch).expect("appends");
                self.wal.sync().expect("syncs");
                self.driver.persisted().expect("goes on");
            }
            progress |= self.driver.apply().expect("applies");
            for work in self.driver.snapshot_work() {
                progress = true;
                let done = work.run(&self.store);
                self.driver.snapshot_done(done).expect("goes on");
            }
            if let Some(frozen) = self.driver.checkpoint_due() {
                let done = self.store.checkpoint(&frozen).expect("checkpoints");
                for (shard, index) in self.driver.checkpointed(frozen, Some(&done)).expect("goes on") {
                    self.wal.release(shard, index);
                }
            }
            mail.extend(self.driver.take_frames());
            if !progress {
                return mail;
            }
        }
    }
}

#[test]
fn three_replicas_agree_and_go_on_without_their_leader() {
    let mut cluster = Cluster::new(3, &[1, 2, 3]);
    cluster.write("a", 600, &[1, 2, 3]);
    assert_eq!(cluster.digests().len(), 1, "equal histories have equal digests");
    let first = cluster.wait_for_leader();
    cluster.down.insert(first);
    let rest: Vec<u64> = (1..=3).filter(|id| *id != first).collect();
    cluster.rounds_until("another leader", |cluster| cluster.leader().is_some());
    cluster.write("b", 50, &rest);
    cluster.down.clear();
    cluster.rounds_until("the old leader follows", |cluster| cluster.digests().len() == 1);
    assert!(!cluster.members(first).leading);
    let noted = |id: &u64| cluster.hosts[id].driver.status()[0].digests.clone();
    assert!(
        !noted(&1).is_empty() && noted(&1) == noted(&2),
        "digests of the same indexes are kept everywhere"
    );
}

#[test]
fn who_joins_late_gets_a_snapshot_and_becomes_a_voter_and_who_leaves_is_forgotten() {
    let mut cluster = Cluster::new(3, &[1]);
    cluster.write("a", 3_000, &[1]);
    let change = |cluster: &mut Cluster, change: Change, done: &dyn Fn(&Membership) -> bool| {
        let leader = cluster.wait_for_leader();
        cluster.host(leader).driver.change_members(SHARD, &change).expect("applies");
        cluster.rounds_until("the change is applied everywhere", |cluster| {
            (1..=3).all(|id| done(&cluster.members(id).membership))
        });
    };
    change(&mut cluster, Change { add_learners: vec![2, 3], ..Change::default() }, &|m| m.learners == [2, 3]);
    cluster.rounds_until("both have all rows", |cluster| cluster.digests().len() == 1);
    assert_eq!(cluster.hosts[&2].applied.load(Relaxed), 0, "rows came as rows, not as entries");
    assert_eq!(cluster.shown(2).expect("it has data by now").0, 3_000);
    change(&mut cluster, Change { promote: vec![2, 3], ..Change::default() }, &|m| {
        m.voters == [1, 2, 3] && !m.is_joint()
    });
    cluster.write("b", 20, &[1, 2, 3]);
    assert_eq!(cluster.digests().len(), 1);

    cluster.host(1).driver.transfer_leader(SHARD, 2).expect("a voter that answers");
    cluster.rounds_until("the new leader", |cluster| cluster.members(2).settled);
    let leave = Change { remove: vec![1], ..Change::default() };
    cluster.host(2).driver.change_members(SHARD, &leave).expect("applies");
    cluster.rounds_until("it has left", |cluster| cluster.members(2).membership.voters == [2, 3]);
    let host = cluster.host(1);
    host.driver.remove(SHARD);
    assert!(host.driver.is_removing(SHARD) && host.driver.members(SHARD).is_none());
    cluster.round();
    let host = cluster.host(1);
    assert!(!host.driver.is_removing(SHARD), "log and base have forgotten it");
    assert!(host.store.groups().expect("reads").is_empty());
    // The others would write to it if they believed it to be there.
    cluster.host(1).driver.receive(&name(2), Bytes::from_static(&[9])).expect("nonsense is dropped");
}

/// Whoever starts again alone must not need the votes of those that left to learn that they did.
#[test]
fn a_change_is_settled_when_an_entry_proposed_behind_it_is_committed() {
    let mut cluster = Cluster::new(2, &[1, 2]);
    let leader = cluster.wait_for_leader();
    let before = cluster.members(leader).commit;
    let leave = Change { remove: vec![3 - leader], ..Change::default() };
    cluster.host(leader).driver.change_members(SHARD, &leave).expect("applies");
    cluster.rounds_until("one is left", |cluster| {
        let members = cluster.members(leader);
        members.membership.voters == [leader] && members.settled
    });
    assert_eq!(
        cluster.members(leader).commit,
        Index(before.0 + 2),
        "the change, and an entry that says nothing"
    );
}

#[test]
fn a_read_is_answered_by_a_leader_that_a_quorum_confirms_and_by_no_other() {
    let mut cluster = Cluster::new(3, &[1, 2, 3]);
    cluster.write("a", 10, &[1, 2, 3]);
    let leader = cluster.wait_for_leader();
    let seen = Arc::new(AtomicU64::new(0));
    cluster.host(leader).driver.input(Input::Read(SHARD, Count(seen.clone())));
    cluster.rounds_until("the read is answered", |_| seen.load(Relaxed) != 0);
    assert_eq!(seen.load(Relaxed), 10);
    // Cut off, it believes to lead for a while; a read then waits until it knows better.
    cluster.down.insert(leader);
    let cut_off = Arc::new(AtomicU64::new(0));
    cluster.host(leader).driver.input(Input::Read(SHARD, Count(cut_off.clone())));
    cluster.rounds_until("the read is refused", |_| cut_off.load(Relaxed) != 0);
    assert_eq!(cut_off.load(Relaxed), u64::MAX);
    let follower = (1..=3).find(|id| *id != leader).expect("there are three");
    let refused = Arc::new(AtomicU64::new(0));
    cluster.host(follower).driver.input(Input::Read(SHARD, Count(refused.clone())));
    cluster.rounds_until("answered or refused", |_| refused.load(Relaxed) != 0);
}

/// And what it shows is of one index: who has nothing shows nothing, and no empty group.
#[test]
fn what_a_replica_has_applied_is_shown_without_a_leader() {
    let mut cluster = Cluster::new(4, &[1, 2, 3]);
    cluster.write("a", 10, &[1, 2, 3]);
    let leader = cluster.wait_for_leader();
    let cut_off = (1..=3).find(|id| *id != leader).expect("a follower");
    cluster.down.insert(cut_off);
    let rest: Vec<u64> = (1..=3).filter(|id| *id != cut_off).collect();
    cluster.write("b", 10, &rest);
    assert_eq!(cluster.shown(cut_off).expect("what it had").0, 10, "behind, and whole");
    cluster.down.extend(rest);
    for _ in 0..100 {
        cluster.clock.0.fetch_add(TICK_MS, Relaxed);
        cluster.round();
    }
    assert_eq!(cluster.leader(), None);
    let (rows, index) = cluster.shown(leader).expect("nobody leads");
    assert_eq!((rows, index), (20, cluster.hosts[&leader].driver.status()[0].applied));
    assert_eq!(cluster.shown(4), None, "it waits for its first snapshot");
    assert!(cluster.host(1).driver.applied(ShardId(9)).is_none());
    let now = cluster.clock.wall();
    assert_eq!(cluster.host(cut_off).driver.applied(SHARD).expect("still").now, now);
}

#[test]
fn mail_for_a_replica_that_does_not_live_here_is_answered_by_nobody() {
    let mut cluster = Cluster::new(2, &[1]);
    cluster.wait_for_leader();
    cluster.host(2).driver.remove(SHARD);
    cluster.round();
    let add = Change { add_learners: vec![2], ..Change::default() };
    cluster.host(1).driver.change_members(SHARD, &add).expect("applies");
    for _ in 0..10 {
        cluster.clock.0.fetch_add(TICK_MS, Relaxed);
        cluster.round();
    }
    let waits = cluster.members(1).progress.into_iter().find(|peer| peer.replica == 2).expect("a learner");
    assert!(waits.matched == Index(0) && !waits.recent_active, "{waits:?}");
}

#[test]
fn a_host_that_stops_hands_its_groups_to_the_voter_that_is_furthest() {
    let mut cluster = Cluster::new(3, &[1, 2, 3]);
    cluster.write("a", 10, &[1, 2, 3]);
    let leader = cluster.wait_for_leader();
    let before = cluster.clock.0.load(Relaxed);
    assert_eq!(cluster.host(leader).driver.hand_over(), 1);
    cluster.rounds_until("another leads", |cluster| cluster.leader().is_some_and(|id| id != leader));
    assert!(cluster.clock.0.load(Relaxed) - before < 5 * TICK_MS, "without waiting for an election");
    assert_eq!(cluster.host(leader).driver.hand_over(), 0);
}
