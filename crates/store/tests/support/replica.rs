//! Groups of leaders and followers for the tests of snapshots, each with a naive double.

use std::collections::BTreeMap;
use std::sync::Arc;

use z4_env::{Rng, SeededRng};
use z4_store::{Config, Frozen, GroupStore, Meta, SnapshotReader, Staged, Store};
use z4_types::{ShardId, Term};

use super::{MemDisk, rows};

pub type Map = BTreeMap<Vec<u8>, Vec<u8>>;
pub type State = BTreeMap<ShardId, (Meta, Map)>;

pub const GROUP: ShardId = ShardId(2);
/// Length of the longest values: a few of them fill a chunk.
pub const LONG: usize = 100_000;

pub fn open(disk: &MemDisk) -> Store {
    Store::open(Arc::new(disk.clone()), Config { cache_bytes: 1 << 20, ..Config::new("/data") }).unwrap()
}

pub fn content(group: &GroupStore) -> Map {
    rows(|from, to, visit| group.scan(from, to, visit)).unwrap()
}

pub fn state(store: &Store) -> State {
    let groups = store.groups().unwrap();
    groups.into_iter().map(|(id, meta)| (id, (meta, content(&store.group(id).unwrap())))).collect()
}

/// One leader's or follower's group with its naive double.
pub struct Group {
    pub store: GroupStore,
    pub model: Map,
    /// Longest value.
    pub longest: usize,
}

impl Group {
    pub fn new(store: &Store, id: ShardId) -> Self {
        let store = store.group(id).unwrap();
        let model = content(&store);
        Self { store, model, longest: LONG }
    }

    pub fn change(&mut self, rng: &mut SeededRng, count: u64) {
        for _ in 0..count {
            // Keys that sort behind any bound a careless scan may use, too.
            let mut key = vec![[b'a', 0, 255][rng.below(3) as usize], rng.below(100) as u8];
            if rng.chance(1, 10) {
                key = vec![255; rng.below(80) as usize];
            }
            if rng.chance(1, 3) {
                self.store.delete(&key);
                self.model.remove(&key);
            } else {
                let length = [0, 10, 300, self.longest / 3, self.longest][rng.below(5) as usize];
                let value = vec![rng.below(256) as u8; length];
                self.store.put(&key, &value);
                self.model.insert(key, value);
            }
        }
        self.store.set_applied(self.store.meta().applied.next(), Term(1 + rng.below(3)));
        self.store.set_conf(vec![rng.below(256) as u8; rng.below(9) as usize]);
    }

    pub fn checkpoint(&mut self, store: &Store) {
        let frozen: Vec<Frozen> = self.store.freeze().into_iter().collect();
        self.store.installed(&store.checkpoint(&frozen).unwrap());
    }
}

/// Makes a base with rows in three groups.
pub fn filled(seed: u64, longest: usize) -> (MemDisk, State) {
    let (disk, mut rng) = (MemDisk::default(), SeededRng::new(seed));
    let store = open(&disk);
    for id in [1, 2, 3] {
        let mut group = Group { longest, ..Group::new(&store, ShardId(id)) };
        let count = 10 + rng.below(40);
        group.change(&mut rng, count);
        group.checkpoint(&store);
    }
    let state = state(&store);
    drop(store);
    (disk, state)
}

pub fn stage_all(store: &Store, reader: &mut SnapshotReader) -> Staged {
    let mut staging = store.stage(GROUP, reader.stream()).unwrap();
    while let Some(chunk) = reader.next_chunk().unwrap() {
        staging.append(&chunk).unwrap();
    }
    staging.finish().unwrap()
}

pub fn chunks(reader: &mut SnapshotReader) -> Vec<Vec<u8>> {
    std::iter::from_fn(|| reader.next_chunk().unwrap()).collect()
}

pub fn leader(seed: u64, longest: usize) -> (Store, Group) {
    let mut rng = SeededRng::new(1_000 + seed);
    let leader = open(&MemDisk::default());
    let mut group = Group { longest, ..Group::new(&leader, GROUP) };
    group.change(&mut rng, 120);
    group.checkpoint(&leader);
    group.change(&mut rng, 10);
    (leader, group)
}
