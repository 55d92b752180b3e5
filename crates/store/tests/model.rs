//! The store equals a naive map under any mix of changes, freezes, checkpoints, failures and views.

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;

use support::{MemDisk, rows};
use z4_env::{Rng, SeededRng};
use z4_store::{Config, Done, Frozen, GroupStore, Store, View};
use z4_types::{Index, Kind, ShardId, Term};

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

/// Few keys, so that they are written again; some longer than what a node holds inline.
fn key(rng: &mut SeededRng) -> Vec<u8> {
    let mut key = vec![b'a' + rng.below(3) as u8, rng.below(40) as u8];
    if rng.chance(1, 5) {
        key.resize(60, rng.below(3) as u8);
    }
    key
}

fn value(rng: &mut SeededRng) -> Vec<u8> {
    let len = [0, 3, 22, 23, 300, 5_000][rng.below(6) as usize];
    vec![rng.below(256) as u8; len]
}

struct Group {
    store: GroupStore,
    model: Map,
    frozen: Option<Frozen>,
    views: Vec<(View, Map, Index)>,
    /// Mutates the same way, is never frozen: its digest must be the same.
    shadow: GroupStore,
    applied: u64,
}

impl Group {
    fn step(&mut self, rng: &mut SeededRng) {
        let at = key(rng);
        match rng.below(100) {
            0..35 if !self.model.contains_key(&at) => {
                let value = value(rng);
                self.store.insert(&at, &value);
                self.shadow.insert(&at, &value);
                self.model.insert(at, value);
            }
            0..55 => {
                let value = value(rng);
                self.store.put(&at, &value);
                self.shadow.put(&at, &value);
                self.model.insert(at, value);
            }
            55..75 => {
                self.store.delete(&at);
                self.shadow.delete(&at);
                self.model.remove(&at);
            }
            75..78 => {
                // As a consumer does: take from the head, look again.
                for _ in 0..rng.below(20) {
                    let mut head = None;
                    self.store
                        .scan(b"a", b"d", &mut |key, _| {
                            head = Some(key.to_vec());
                            false
                        })
                        .unwrap();
                    assert_eq!(head.as_ref(), self.model.keys().next());
                    let Some(head) = head else { break };
                    self.store.delete(&head);
                    self.shadow.delete(&head);
                    self.model.remove(&head);
                }
            }
            78..85 => {
                self.applied += 1;
                self.store.set_applied(Index(self.applied), Term(1));
                self.shadow.set_applied(Index(self.applied), Term(1));
            }
            85..92 => self.read(rng),
            92..95 if self.views.len() < 3 => {
                let view = self.store.view().unwrap();
                self.views.push((view, self.model.clone(), Index(self.applied)));
            }
            _ => {
                if !self.views.is_empty() {
                    self.check_view(rng.below(self.views.len() as u64) as usize);
                }
            }
        }
        assert_eq!(self.store.digest(), self.shadow.digest());
    }

    fn read(&mut self, rng: &mut SeededRng) {
        let at = key(rng);
        assert_eq!(self.store.get(&at).unwrap().as_deref(), self.model.get(&at).map(Vec::as_slice));
        let (from, to) = (key(rng), key(rng));
        let limit = if rng.chance(1, 2) { 3 } else { usize::MAX };
        let mut seen = Vec::new();
        self.store
            .scan(&from, &to, &mut |key, value| {
                seen.push((key.to_vec(), value.to_vec()));
                seen.len() < limit
            })
            .unwrap();
        let expected: Vec<_> = self
            .model
            .iter()
            .filter(|(key, _)| **key >= from && **key < to)
            .take(limit)
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        assert_eq!(seen, expected);
        let mut keys: Vec<Vec<u8>> = (0..rng.below(30)).map(|_| key(rng)).collect();
        keys.sort();
        let slices: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
        let mut found = vec![None; keys.len()];
        self.store.get_many(&slices, &mut |at, value| found[at] = Some(value.to_vec())).unwrap();
        let expected: Vec<_> = keys.iter().map(|key| self.model.get(key).cloned()).collect();
        assert_eq!(found, expected);
    }

    fn check_view(&mut self, nth: usize) {
        let (view, model, applied) = self.views.swap_remove(nth);
        match rows(|from, to, visit| view.scan(from, to, visit)) {
            Ok(rows) => {
                assert_eq!(rows, model);
                assert_eq!(view.meta().applied, applied);
                for (key, value) in &model {
                    assert_eq!(view.get(key).unwrap().as_deref(), Some(value.as_slice()));
                }
            }
            // Only after a full disk.
            Err(error) => assert_eq!(error.kind(), Kind::Unavailable, "{error}"),
        }
    }
}

fn checkpoint(store: &Store, disk: &MemDisk, groups: &mut [Group], rng: &mut SeededRng) {
    for group in groups.iter_mut() {
        if rng.chance(3, 4) {
            group.frozen = group.store.freeze();
        }
    }
    // The writers go on meanwhile.
    for _ in 0..rng.below(60) {
        let group = rng.below(groups.len() as u64) as usize;
        groups[group].step(rng);
    }
    let frozen: Vec<Frozen> = groups.iter().filter_map(|group| group.frozen.clone()).collect();
    disk.set_full(rng.chance(1, 4));
    let result = store.checkpoint(&frozen);
    disk.set_full(false);
    for _ in 0..rng.below(30) {
        let group = rng.below(groups.len() as u64) as usize;
        groups[group].step(rng);
    }
    match result {
        Ok(done) => installed(groups, &done),
        Err(error) => {
            assert_eq!(error.kind(), Kind::Overloaded, "{error}");
            for group in groups {
                if let Some(frozen) = group.frozen.take() {
                    group.store.abandoned(frozen);
                }
            }
        }
    }
}

fn installed(groups: &mut [Group], done: &Done) {
    for group in groups {
        group.store.installed(done);
        group.frozen = None;
    }
}

fn history(seed: u64) -> Vec<u64> {
    let mut rng = SeededRng::new(seed);
    let disk = MemDisk::default();
    let open = || {
        Store::open(Arc::new(disk.clone()), Config { cache_bytes: 1 << 20, ..Config::new("/data") }).unwrap()
    };
    let mut store = open();
    let shadows = Store::open(Arc::new(MemDisk::default()), Config::new("/shadow")).unwrap();
    let mut groups: Vec<Group> = (0..3)
        .map(|id| Group {
            store: store.group(ShardId(id)).unwrap(),
            model: Map::new(),
            frozen: None,
            views: Vec::new(),
            shadow: shadows.group(ShardId(id)).unwrap(),
            applied: 0,
        })
        .collect();
    for _ in 0..12 {
        for _ in 0..rng.below(250) {
            let group = rng.below(groups.len() as u64) as usize;
            groups[group].step(&mut rng);
        }
        checkpoint(&store, &disk, &mut groups, &mut rng);
        for group in &groups {
            assert_eq!(rows(|from, to, visit| group.store.scan(from, to, visit)).unwrap(), group.model);
        }
        if rng.chance(1, 6) {
            // A clean restart: freeze all, write all, open again.
            let frozen: Vec<Frozen> = groups.iter_mut().filter_map(|group| group.store.freeze()).collect();
            let done = store.checkpoint(&frozen).unwrap();
            installed(&mut groups, &done);
            let metas: Vec<_> = groups.iter().map(|group| group.store.meta().clone()).collect();
            let kept: Vec<_> = groups
                .into_iter()
                .map(|group| (group.store.id(), group.model, group.shadow, group.applied))
                .collect();
            drop(store);
            store = open();
            groups = kept
                .into_iter()
                .map(|(id, model, shadow, applied)| Group {
                    store: store.group(id).unwrap(),
                    model,
                    frozen: None,
                    views: Vec::new(),
                    shadow,
                    applied,
                })
                .collect();
            for (group, meta) in groups.iter().zip(metas) {
                assert_eq!(*group.store.meta(), meta);
                assert_eq!(rows(|from, to, visit| group.store.scan(from, to, visit)).unwrap(), group.model);
            }
        }
    }
    let live: usize = groups.iter().map(|group| group.store.bytes() + group.store.frozen_bytes()).sum();
    assert!(live < 100 << 20);
    groups.iter().map(|group| group.store.digest()).collect()
}

#[test]
fn the_store_equals_a_naive_map_under_any_history() {
    for seed in 0..60 {
        history(seed);
    }
}

#[test]
fn the_same_history_has_the_same_digest() {
    assert_eq!(history(1_000), history(1_000));
    assert_ne!(history(1_000), history(1_001));
}

#[test]
fn deleting_a_group_removes_its_rows_and_nothing_else() {
    let disk = MemDisk::default();
    let store = Store::open(Arc::new(disk), Config::new("/data")).unwrap();
    let mut frozen = Vec::new();
    for id in [1, 2, u32::MAX] {
        let mut group = store.group(ShardId(id)).unwrap();
        for key in 0..500u32 {
            group.insert(&key.to_be_bytes(), &[id as u8; 50]);
        }
        group.set_applied(Index(9), Term(2));
        frozen.extend(group.freeze());
    }
    assert_eq!(store.checkpoint(&frozen).unwrap().rows(), 1_500);
    let before = store.base_bytes().unwrap().live;
    store.delete_group(ShardId(2)).unwrap();
    assert_eq!(store.groups().unwrap().keys().copied().collect::<Vec<_>>(), [ShardId(1), ShardId(u32::MAX)]);
    assert_eq!(store.base_bytes().unwrap().live, before / 3 * 2);
    for (id, expected) in [(1, 500), (2, 0), (u32::MAX, 500)] {
        let group = store.group(ShardId(id)).unwrap();
        assert_eq!(rows(|from, to, visit| group.scan(from, to, visit)).unwrap().len(), expected);
    }
    store.delete_group(ShardId(u32::MAX)).unwrap();
    assert_eq!(store.groups().unwrap().len(), 1);
}

#[test]
fn an_unchanged_group_has_nothing_to_freeze_and_annihilated_rows_cost_the_base_nothing() {
    let store = Store::open(Arc::new(MemDisk::default()), Config::new("/data")).unwrap();
    let mut group = store.group(ShardId(1)).unwrap();
    assert!(group.freeze().is_none());
    group.insert(b"a", b"1");
    // The view pushes the fresh row into a layer of its own; it must annihilate across layers too.
    let view = group.view().unwrap();
    group.delete(b"a");
    group.set_applied(Index(1), Term(1));
    let frozen = group.freeze().unwrap();
    let done = store.checkpoint(&[frozen]).unwrap();
    assert_eq!(done.rows(), 0);
    group.installed(&done);
    assert_eq!(store.groups().unwrap()[&ShardId(1)].applied, Index(1));
    assert_eq!(view.get(b"a").unwrap().as_deref(), Some(&b"1"[..]));
    assert_eq!(group.get(b"a").unwrap(), None);
    assert_eq!((group.bytes(), group.frozen_bytes()), (0, 0));
    assert!(group.freeze().is_none());
}

#[test]
fn values_cross_threads_as_the_drivers_need() {
    fn send<T: Send>() {}
    fn sync<T: Sync>() {}
    send::<GroupStore>();
    send::<View>();
    send::<Frozen>();
    send::<Done>();
    sync::<Done>();
    send::<Store>();
    sync::<Store>();
}
