//! Random batches, releases, recycling, crashes: the log is always what a naive model says.
//!
//! The model is a map of whole logs. After a crash the log must hold everything that was synced, and of a batch that was
//! not, all or nothing: per batch, not per group. The base is played by a floor per group that only grows and is
//! only told to the log after it is "durable".

use z4_env::{Rng, SeededRng};

use super::*;

const SEEDS: u64 = 400;
const STEPS: u64 = 120;
const GROUPS: u64 = 5;

/// What one group's log must be.
#[derive(Debug, Clone, Default, PartialEq)]
struct Naive {
    hard_state: HardState,
    /// The whole log since the last snapshot, recycled entries too.
    entries: Vec<Entry>,
}

type Model = BTreeMap<ShardId, Naive>;

impl Naive {
    fn last(&self, floor: Index) -> Index {
        self.entries.last().map_or(floor, |e| e.index.max(floor))
    }

    fn apply(&mut self, record: &Record) {
        if let Some(state) = record.hard_state {
            self.hard_state = state;
        }
        if let Some(from) = record.truncate {
            self.entries.retain(|e| e.index < from);
        }
        if let Some(first) = record.entries.first() {
            self.entries.retain(|e| e.index < first.index);
            if self.entries.last().is_some_and(|e| e.index.next() != first.index) {
                self.entries.clear();
            }
            self.entries.extend(record.entries.iter().cloned());
        }
    }
}

struct Run {
    disk: TestDisk,
    rng: SeededRng,
    wal: Wal,
    segment_bytes: u64,
    /// What is synced.
    model: Model,
    floor: BTreeMap<ShardId, Index>,
    /// How often: an unsynced batch was dropped, kept; segments were recycled; recovery was repeated; power failed
    /// within a call.
    reached: [u64; 5],
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut rng = SeededRng::new(seed);
        let disk = TestDisk::default();
        let segment_bytes = [4096, 8192, 16384, 65536][rng.below(4) as usize];
        let (wal, recovered) = open(&disk, segment_bytes).expect("a new log");
        assert_eq!(recovered, Recovered::default());
        let (model, floor) = (Model::new(), BTreeMap::new());
        Self { disk, rng, wal, segment_bytes, model, floor, reached: [0; 5] }
    }

    fn floor(&self, group: ShardId) -> Index {
        self.floor.get(&group).copied().unwrap_or_default()
    }

    fn record(&mut self, group: ShardId, log: &Naive) -> Record {
        let rng = &mut self.rng;
        let floor = self.floor.get(&group).copied().unwrap_or_default();
        let last = log.last(floor);
        let old = log.hard_state;
        // What is committed or in the base is never replaced.
        let kept = old.commit.max(floor);
        let truncate =
            (rng.chance(1, 8) && last > kept).then(|| Index(kept.0 + 1 + rng.below(last.0 - kept.0)));
        let end = truncate.map_or(last, |t| Index(t.0 - 1));
        let from =
            if rng.chance(1, 6) && end > kept { kept.0 + 1 + rng.below(end.0 - kept.0) } else { end.0 + 1 };
        let term = old.term.0 + rng.below(2);
        let count = if rng.chance(1, 4) { 0 } else { 1 + rng.below(6) };
        let most = if rng.chance(1, 20) { 6000 } else { 300 };
        let entries: Vec<_> = (from..from + count)
            .map(|index| {
                let size = rng.below(most) as usize;
                let byte = rng.next_u64() as u8;
                Entry { kind: EntryKind::Normal, ..entry(index, term, &vec![byte; size]) }
            })
            .collect();
        let last = entries.last().map_or(end, |e| e.index);
        let commit = old.commit.0 + if last > old.commit { rng.below(last.0 - old.commit.0 + 1) } else { 0 };
        let hard_state = rng.chance(2, 3).then(|| state(term, rng.below(3), commit));
        Record { group, hard_state, truncate, entries }
    }

    fn batch(&mut self) -> (Batch, Model) {
        let mut after = self.model.clone();
        let mut batch = Batch::default();
        // Group 0 falls quiet early, so that it must be carried.
        let groups = if self.rng.chance(1, 30) { GROUPS } else { GROUPS - 1 };
        for _ in 0..=self.rng.below(3) {
            let group = ShardId((GROUPS - 1 - self.rng.below(groups)) as u32);
            let log = after.get(&group).cloned().unwrap_or_default();
            let record = self.record(group, &log);
            if record.hard_state.is_some() || record.truncate.is_some() || !record.entries.is_empty() {
                after.entry(group).or_default().apply(&record);
            }
            batch.records.push(record);
        }
        (batch, after)
    }

    fn step(&mut self) {
        // Power may fail before any call to the disk, too: between a header and its rename, half-way through recycling.
        let (before, floor) = (self.model.clone(), self.floor.clone());
        let within = self.rng.chance(1, 5);
        if within {
            self.disk.arm(1 + self.rng.below(8));
        }
        match self.rng.below(20) {
            0 | 1 => self.checkpoint(),
            2 => drop(self.wal.recycle().expect("the disk is healthy")),
            3 => drop(self.wal.spare_maker().make().expect("the disk is healthy")),
            4 => self.wal.seal().expect("the disk is healthy"),
            5 => self.crash(None),
            6 => self.forget(),
            7 => self.snapshot(),
            _ => self.commit(),
        }
        if within && let Some(photo) = self.disk.photo() {
            self.disk = photo;
            self.reached[4] += 1;
            // The base is told last when a group goes, first when anything else becomes durable.
            for (group, index) in floor {
                self.floor.entry(group).or_insert(index);
            }
            let after = std::mem::replace(&mut self.model, before);
            self.crash(Some(after));
        }
    }

    fn commit(&mut self) {
        let (batch, after) = self.batch();
        self.wal.append(&batch).expect("the disk is healthy");
        if self.rng.chance(1, 12) {
            return self.crash(Some(after));
        }
        self.wal.sync().expect("the disk is healthy");
        self.model = after;
        if self.rng.chance(1, 4) {
            self.read_back();
        }
    }

    /// The base makes some applied indexes durable and says so.
    fn checkpoint(&mut self) {
        let groups: Vec<_> = self.model.keys().copied().collect();
        for group in groups {
            let commit = self.model[&group].hard_state.commit;
            let floor = self.floor(group);
            if commit > floor {
                let through = Index(floor.0 + 1 + self.rng.below(commit.0 - floor.0));
                self.floor.insert(group, through);
                self.wal.release(group, through);
            }
        }
        self.reached[2] += self.wal.recycle().expect("the disk is healthy") as u64;
    }

    fn forget(&mut self) {
        let group = ShardId(self.rng.below(GROUPS) as u32);
        if !self.rng.chance(1, 4) || !self.model.contains_key(&group) {
            return;
        }
        // As a host must: forgotten durably first, then deleted from the base.
        self.wal.forget(group);
        self.wal.seal().expect("the disk is healthy");
        self.model.remove(&group);
        self.floor.remove(&group);
        // A next life of the group starts at 1 again: the log must not remember what was released in the last one.
        assert_eq!(self.wal.reader().last_index(group), None);
    }

    /// A snapshot far ahead replaces a group's log.
    fn snapshot(&mut self) {
        let group = ShardId(self.rng.below(GROUPS) as u32);
        let Some(log) = self.model.get(&group) else { return };
        if !self.rng.chance(1, 4) {
            return;
        }
        let index = Index(log.last(self.floor(group)).0 + 1 + self.rng.below(50));
        self.floor.insert(group, index);
        self.wal.release(group, index);
        let hard_state = Some(HardState { commit: index, ..log.hard_state });
        let entries = vec![entry(index.0 + 1, log.hard_state.term.0, b"behind the snapshot")];
        let record = Record { group, hard_state, truncate: None, entries };
        commit(&mut self.wal, &Batch { records: vec![record.clone()] });
        self.model.get_mut(&group).expect("seen above").apply(&record);
    }

    /// Power fails, perhaps with a batch in flight that would have led to `after`.
    fn crash(&mut self, after: Option<Model>) {
        self.disk = self.disk.crashed(&mut self.rng);
        let (wal, recovered) = open_above(&self.disk, self.segment_bytes, &self.floor)
            .unwrap_or_else(|e| panic!("refused: {e}"));
        self.wal = wal;
        // A group that holds nothing may have been recycled altogether.
        let mut recovered = recovered;
        recovered.groups.retain(|_, log| *log != crate::GroupLog::default());
        if let Some(after) = after {
            let kept = self.expected(&after) == recovered;
            self.reached[usize::from(kept)] += 1;
            if kept {
                self.model = after;
            }
        }
        let expected = self.expected(&self.model);
        assert!(
            recovered == expected,
            "what was synced is there, and nothing else\n{}\n{}",
            sketch(&recovered),
            sketch(&expected)
        );
        // Power failed after the log forgot a group and before the base did: the host does it again.
        let forgotten: Vec<_> = self.floor.keys().copied().filter(|g| !self.model.contains_key(g)).collect();
        for group in forgotten {
            self.wal.forget(group);
            self.wal.seal().expect("the disk is healthy");
            self.floor.remove(&group);
        }
        // Recovery itself may be cut short by the next crash, and a second one must see the same.
        if self.rng.chance(1, 2) {
            self.reached[3] += 1;
            self.crash(None);
        }
        self.read_back();
    }

    fn expected(&self, model: &Model) -> Recovered {
        let mut recovered = Recovered::default();
        for (group, log) in model {
            let floor = self.floor(*group);
            let entries = log.entries.iter().filter(|e| e.index > floor).cloned().collect();
            let log = crate::GroupLog { hard_state: log.hard_state, entries };
            if log != crate::GroupLog::default() {
                recovered.groups.insert(*group, log);
            }
        }
        recovered
    }

    /// Everything above the floor, and whatever else the log says it holds, reads back.
    fn read_back(&mut self) {
        let reader = self.wal.reader();
        for (group, log) in &self.model {
            let unreleased = log.entries.iter().find(|e| e.index > self.floor(*group));
            let first = reader.first_index(*group);
            assert!(
                unreleased.is_none_or(|e| first.is_some_and(|f| f <= e.index)),
                "{group}: recycled too early"
            );
            let (Some(first), Some(last)) = (first, reader.last_index(*group)) else { continue };
            let most = self.rng.below(5000) as usize;
            let found = reader.entries(*group, first, last.next(), most).expect("it says it holds them");
            let expected = log.entries.iter().skip_while(|e| e.index < first);
            assert!(!found.is_empty() && found.iter().eq(expected.take(found.len())), "{group} reads back");
        }
    }
}

/// Returns groups with their hard states, indexes and sizes: enough to see a difference by eye.
fn sketch(recovered: &Recovered) -> String {
    let mut text = String::new();
    for (group, log) in &recovered.groups {
        let entries: Vec<_> = log.entries.iter().map(|e| (e.index.0, e.data.len())).collect();
        let HardState { term, vote, commit } = log.hard_state;
        text += &format!("{group}: term {term} vote {vote} commit {commit} {entries:?}\n");
    }
    text
}

#[test]
fn the_log_equals_a_naive_model_through_crashes_and_recycling() {
    let mut reached = [0; 5];
    let (mut carried, mut recycled) = (0, 0);
    for seed in 0..SEEDS {
        let mut run = Run::new(seed);
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..STEPS {
                run.step();
                let stats = run.wal.stats();
                carried += stats.carried.min(1);
                recycled += stats.recycled.min(1);
            }
        }));
        assert!(done.is_ok(), "seed {seed}");
        for (sum, n) in reached.iter_mut().zip(run.reached) {
            *sum += n;
        }
    }
    // A test that never gets into trouble proves nothing.
    assert!(
        reached.iter().all(|n| *n > 100),
        "dropped, kept, recycled, recovered twice, within: {reached:?}"
    );
    assert!(carried > 100 && recycled > 100, "{carried} {recycled}");
}
