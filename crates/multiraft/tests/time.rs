//! The time of a group is its own: what another group's log says does not move it.
//!
//! # Not here
//! - How the host follows its wall clock, and how an excess is worked off: unit tests of `clock`.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use z4_consensus::{Membership, ReadBack};
use z4_env::{Clock, RealDisk};
use z4_multiraft::{
    Admission, Driver, Fault, Input, Refuse, Refused, Replica, ReplicaConfig, Settings, StateMachine,
};
use z4_store::{GroupStore, Store};
use z4_types::{Entry, HardState, Index, Millis, ShardId, Term};

const START: u64 = 1_000_000;
const HOUR: u64 = 3_600_000;

#[derive(Default)]
struct Hands(AtomicU64);

impl Clock for Hands {
    fn wall(&self) -> Millis {
        Millis(START + self.0.load(Relaxed))
    }
    fn monotonic_ns(&self) -> u64 {
        self.0.load(Relaxed) * 1_000_000
    }
}

/// A command that says what time it is, as if a leader with another clock had stamped it.
struct Pretend(u64);
struct Nothing;

impl Refuse for Pretend {
    fn refuse(self, _: ShardId, _: Refused) {}
}
impl Refuse for Nothing {
    fn refuse(self, _: ShardId, _: Refused) {}
}

/// Remembers the largest time of its log, and what its own entries would have been stamped.
struct Stamps {
    waiting: Vec<u64>,
    now: Millis,
    stamped: Arc<Mutex<Vec<u64>>>,
}

impl StateMachine for Stamps {
    type Write = Pretend;
    type Read = Nothing;

    fn write(&mut self, write: Pretend, _: Admission) {
        self.waiting.push(write.0);
    }
    fn entry(&mut self, _: &GroupStore, now: Millis) -> Result<Option<Bytes>, Fault> {
        let Some(pretended) = self.waiting.pop() else { return Ok(None) };
        self.stamped.lock().expect("one thread").push(now.0);
        Ok(Some(Bytes::copy_from_slice(&pretended.to_le_bytes())))
    }
    fn proposed(&mut self, _: Index, _: Term) {}
    fn apply(&mut self, _: &mut GroupStore, entry: &Entry, _: bool) -> Result<(), Fault> {
        let at = entry.data[..].try_into().expect("eight bytes");
        self.now = self.now.max(Millis(u64::from_le_bytes(at)));
        Ok(())
    }
    fn read(&mut self, _: &mut GroupStore, _: Millis, _: Nothing) -> Result<(), Fault> {
        Ok(())
    }
    fn reload(&mut self, _: &GroupStore) -> Result<(), Fault> {
        Ok(())
    }
    fn lead(&mut self) {}
    fn follow(&mut self) {}
    fn stop(&mut self) {}
    fn deadline(&mut self, _: &GroupStore, now: Millis) -> Result<Option<Millis>, Fault> {
        Ok((!self.waiting.is_empty()).then_some(now))
    }
    fn now(&self) -> Millis {
        self.now
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

/// Lets `ms` pass and everything be done.
fn pass(driver: &mut Driver<Stamps>, hands: &Hands, ms: u64) {
    hands.0.fetch_add(ms, Relaxed);
    for _ in 0..10 {
        driver.advance();
        if driver.prepare().expect("prepares").is_some() {
            driver.persisted().expect("goes on");
        }
        driver.apply().expect("applies");
    }
}

#[test]
fn p12_a_log_that_is_ahead_moves_the_time_of_its_own_group_and_of_no_other() {
    let hands = Arc::new(Hands::default());
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::open(Arc::new(RealDisk), z4_store::Config::new(dir.path())).expect("opens");
    let mut driver = Driver::new(Settings::default(), hands.clone(), store.clone());
    let shards = [ShardId(1), ShardId(2)];
    let stamps = shards.map(|shard| {
        let mut group = store.group(shard).expect("opens");
        group.set_conf(Membership::of(vec![1]).encode());
        group.set_applied(Index(1), Term(1));
        let stamped = Arc::new(Mutex::new(Vec::new()));
        let machine = Stamps { waiting: Vec::new(), now: Millis(0), stamped: stamped.clone() };
        let config = ReplicaConfig {
            shard,
            replica: 1,
            election_seed: 7,
            hard_state: HardState::default(),
            entries: Vec::new(),
            forget_from: None,
            read_back: Box::new(NoReadBack),
        };
        driver.add(Replica::open(config, group, machine).expect("opens"));
        stamped
    });
    for _ in 0..100 {
        pass(&mut driver, &hands, 100);
    }
    assert!(driver.status().iter().all(|group| group.leading));

    let ahead = START + 10_000 + 2 * HOUR;
    driver.input(Input::Write(shards[0], Pretend(ahead)));
    pass(&mut driver, &hands, 0);
    for shard in shards {
        driver.input(Input::Write(shard, Pretend(0)));
    }
    pass(&mut driver, &hands, 1_000);
    let last = |shard: usize| *stamps[shard].lock().expect("one thread").last().expect("it proposed");
    assert_eq!(last(1), START + 11_000, "the other group's time is this host's");
    assert_eq!(last(0), ahead + 950, "its own goes on from there, a twentieth slower");
}
