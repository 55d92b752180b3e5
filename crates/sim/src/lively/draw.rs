//! What clients of lively queues want next, drawn from what there is.
//!
//! Ids, etags and states are looked up in what the judge knows of the log's end: closer to the mark than any read, and by the
//! time a command is applied often stale all the same. What may be refused is asked for on purpose.

mod schedules;

use bytes::Bytes;
use z4_env::{Rng, SeededRng};
use z4_tasks::command::{
    Command, Due, Key, OnConflict, OnFailure, Pause, Purge, PurgeCursor, PurgeStates, Retry, SetGroup,
    SetMode, SetQueue, Target, UpdateTask, Verdict, Which,
};
use z4_tasks::{
    Breaker, Fields, GroupFields, GroupPatch, GroupSettings, Patch, Policies, Rate, Retention, Settings,
};
use z4_types::{Duration, Millis, Priority, QueueName, TaskId};

use super::judge::Judge;
use super::judge::state::Stand;
use crate::model::Tag;
use crate::swarm::{Work, half};

/// The dice of [`Manners`]: with this number the seeds of the regression files that are older than lively queues have none.
const MANNERS_STREAM: u64 = 25_047;

/// What a client may want.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Wish {
    Create,
    Again,
    Open,
    Close,
    Credit,
    Settle,
    SetQueue,
    DeleteQueue,
    SetPolicies,
    Pause,
    Resume,
    Purge,
    Cancel,
    CancelIf,
    Redrive,
    Update,
    RunNow,
    SetGroup,
    SetSchedule,
    DeleteSchedule,
    PauseSchedule,
    ResumeSchedule,
    RunSchedule,
    RunAgain,
    FireAgain,
}

/// What a seed switches on of lively queues.
#[derive(Debug, Clone, Default)]
pub struct Manners {
    /// How many queues; none if the seed leaves them out.
    pub queues: u64,
    /// Groups of a queue.
    pub groups: u64,
    /// Keys of a queue.
    pub keys: u64,
    /// New tasks come after others with this chance in hundred.
    pub after: u64,
    /// Schedules of a queue.
    pub schedules: u64,
    /// A moment has a wish with this chance in hundred.
    pub often: u64,
    /// Weights.
    pub weights: Vec<(Wish, u64)>,
    /// Settings are drawn with this chance in hundred, each.
    pub settings: u64,
    /// Conditions on etags, and those that are stale, in hundred.
    pub etags: (u64, u64),
}

impl Manners {
    /// Draws those of a seed, from dice of their own: seeds without lively queues have the story they had before there
    /// were any.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        use Wish as W;
        let rng = &mut SeededRng::new(seed).fork(MANNERS_STREAM);
        if !rng.chance(3, 5) {
            return Self::default();
        }
        let mut weights = vec![
            (W::Create, 20 + rng.below(30)),
            (W::Again, half(rng, 4)),
            (W::Open, 4),
            (W::Close, half(rng, 2)),
            (W::Credit, 6 + rng.below(12)),
            (W::Settle, 15 + rng.below(25)),
            (W::SetQueue, 1 + rng.below(5)),
            (W::DeleteQueue, half(rng, 1)),
            (W::SetPolicies, half(rng, 1)),
            (W::Pause, half(rng, 2)),
            (W::Resume, 2 + rng.below(4)),
            (W::Purge, half(rng, 2)),
            (W::Cancel, half(rng, 3)),
            (W::CancelIf, half(rng, 3)),
            (W::Redrive, half(rng, 4)),
            (W::Update, half(rng, 5)),
            (W::RunNow, half(rng, 4)),
            (W::SetGroup, half(rng, 4)),
        ];
        let mut manners = Self {
            queues: 1 + rng.below(3),
            groups: half(rng, 6),
            keys: half(rng, 12),
            schedules: 0,
            after: 0,
            often: 20 + rng.below(60),
            weights: Vec::new(),
            settings: 4 + rng.below(20),
            etags: (rng.below(80), rng.below(60)),
        };
        // Younger than the rest: drawn behind it, so that this stays what it was.
        manners.schedules = half(rng, 4);
        if manners.schedules > 0 {
            weights.extend([
                (W::SetSchedule, 3 + rng.below(6)),
                (W::DeleteSchedule, half(rng, 2)),
                (W::PauseSchedule, half(rng, 4)),
                (W::ResumeSchedule, 1 + rng.below(3)),
                (W::RunSchedule, half(rng, 6)),
                (W::RunAgain, 3),
                (W::FireAgain, half(rng, 3)),
            ]);
        }
        manners.after = half(rng, 40);
        Self { weights, ..manners }
    }
}

/// Draws from what a judge knows.
pub struct Drawer<'a> {
    /// The dice.
    pub rng: &'a mut SeededRng,
    /// What is switched on.
    pub manners: &'a Manners,
    /// What tasks are like.
    pub work: &'a Work,
    /// What there is.
    pub judge: &'a Judge,
}

impl Drawer<'_> {
    fn percent(&mut self, chance: u64) -> bool {
        chance > 0 && self.rng.chance(chance, 100)
    }

    /// Returns the name of a group, if the seed has any.
    pub fn group(&mut self) -> Option<String> {
        let is_in = self.manners.groups > 0 && self.rng.chance(3, 4);
        is_in.then(|| format!("g{}", self.rng.below(self.manners.groups)))
    }

    /// Returns the key of a new task, if the seed has any.
    pub fn key(&mut self) -> Option<Box<Key>> {
        let has = self.manners.keys > 0 && self.rng.chance(1, 2);
        has.then(|| {
            let all = [OnConflict::Fail, OnConflict::Keep, OnConflict::Replace, OnConflict::Debounce];
            let window = if self.rng.chance(1, 2) { 0 } else { 1 + self.rng.below(600_000) };
            Box::new(Key {
                name: format!("k{}", self.rng.below(self.manners.keys)),
                on_conflict: all[self.rng.below(4) as usize],
                window: Duration(window),
            })
        })
    }

    /// Returns what a new task comes after, and what becomes of it if one of these fails.
    pub fn after(&mut self) -> (Vec<TaskId>, OnFailure) {
        if !self.percent(self.manners.after) {
            return (Vec::new(), OnFailure::default());
        }
        let queues: Vec<&QueueName> = self.judge.queues.keys().collect();
        let mut after = Vec::new();
        // Most come after what is at work, and many after the same.
        let first = self.rng.chance(1, 3);
        for _ in 0..=self.rng.below(3) {
            let at = (!queues.is_empty()).then(|| self.rng.below(queues.len() as u64) as usize);
            let Some(queue) = at.map(|at| queues[at]) else { break };
            let oldest = self.judge.queues[queue].open.first().copied().filter(|_| first);
            after.extend(oldest.or_else(|| self.task(queue, |stand| stand != Stand::Dead)));
        }
        (after, if self.rng.chance(1, 2) { OnFailure::Run } else { OnFailure::Cancel })
    }

    fn task(&mut self, queue: &QueueName, wanted: impl Fn(Stand) -> bool) -> Option<TaskId> {
        let fits = |id: &TaskId| wanted(self.judge.tasks[id].stand);
        let open = &self.judge.queues.get(queue)?.open;
        let ids: Vec<TaskId> = open.iter().copied().filter(fits).collect();
        if ids.is_empty() || self.rng.chance(1, 8) {
            // Any task, be it over or of another queue.
            let count = self.judge.tasks.len() as u64;
            let any = (count > 0).then(|| self.rng.below(count) as usize)?;
            return self.judge.tasks.keys().nth(any).copied();
        }
        Some(ids[self.rng.below(ids.len() as u64) as usize])
    }

    fn etag(&mut self, id: TaskId) -> u64 {
        let known = self.judge.tasks[&id].etag;
        match self.percent(self.manners.etags.1) {
            true if known > 0 && self.rng.chance(2, 3) => known - 1,
            true => known + 1,
            false => known,
        }
    }

    fn target(&mut self, queue: &QueueName, wanted: impl Fn(Stand) -> bool) -> Option<Target> {
        let id = self.task(queue, wanted)?;
        let etag = if self.percent(self.manners.etags.0) { Some(self.etag(id)) } else { None };
        let key = self.judge.tasks[&id].key.as_ref().filter(|_| self.rng.chance(1, 3));
        Some(match key {
            Some((key, _)) => Target { which: Which::Key { queue: queue.clone(), key: key.clone() }, etag },
            None => Target::id(id, etag),
        })
    }

    fn targets(&mut self, queue: &QueueName, wanted: impl Fn(Stand) -> bool + Copy) -> Vec<Target> {
        (0..=self.rng.below(3)).filter_map(|_| self.target(queue, wanted)).collect()
    }

    fn delay(&mut self) -> Duration {
        Duration(self.rng.below(self.work.delay_max_ms))
    }

    fn rate(&mut self) -> Rate {
        Rate { thousandths: 1 << self.rng.below(16), burst: 1 + self.rng.below(8) as u32 }
    }

    fn is_set(&mut self) -> bool {
        self.percent(self.manners.settings)
    }

    /// Returns some settings, each with a small chance.
    pub fn settings(&mut self) -> Settings {
        let mut set = Settings::default();
        let below = |rng: &mut SeededRng, bound| 1 + rng.below(bound);
        if self.is_set() {
            set.lease_duration = Some(Duration(100 + self.rng.below(60_000)));
        }
        if self.is_set() {
            let initial = Duration(below(self.rng, 10_000));
            set.retry = Some(Retry { initial, ..Retry::default() });
        }
        if self.is_set() {
            set.max_attempts = Some(below(self.rng, 5) as u32);
        }
        if self.is_set() {
            set.non_retryable = Some(vec!["no".into()]);
        }
        if self.is_set() {
            let count = self.rng.chance(1, 2).then(|| below(self.rng, 20));
            set.retention = Some(Retention { age: Duration(self.rng.below(3_600_000)), count });
        }
        if self.is_set() {
            set.ttl = Some(Duration(below(self.rng, 3_600_000)));
        }
        if self.is_set() {
            set.priority = Some(Priority(self.rng.below(256) as u8));
        }
        if self.is_set() {
            set.max_backlog = Some(below(self.rng, 60));
        }
        if self.is_set() {
            set.rate = Some(self.rate());
        }
        if self.is_set() {
            set.concurrency = Some(below(self.rng, 8) as u32);
        }
        if self.is_set() {
            set.group_concurrency = Some(below(self.rng, 3) as u32);
        }
        if self.is_set() {
            set.group_rate = Some(self.rate());
        }
        if self.is_set() {
            set.group_weight = Some(below(self.rng, 1_000) as u32);
        }
        if self.is_set() {
            set.group_serial = Some(self.rng.chance(2, 3));
        }
        if self.is_set() {
            set.ageing = Some(Duration(1_000 + self.rng.below(600_000)));
        }
        if self.is_set() {
            set.events = Some(self.rng.below(40));
        }
        if self.is_set() || self.rng.chance(1, 12) {
            set.breaker = Some(Breaker {
                deliveries: below(self.rng, 6) as u32,
                failure_percent: 20 + self.rng.below(81) as u8,
                window: Duration(1_000 + self.rng.below(600_000)),
                cool_down: Duration(1_000 << self.rng.below(5)),
            });
        }
        set
    }

    fn clear(&mut self) -> Fields {
        let mut clear = Fields::default();
        for name in Fields::ALL.names() {
            if self.rng.chance(1, 6) {
                clear = clear.union(Fields::named(name).expect("it is the name of one"));
            }
        }
        clear
    }

    /// Returns the command of a wish that is one; None: there is nothing to do it to.
    pub fn command(
        &mut self,
        wish: Wish,
        queue: &QueueName,
        tag: Tag,
        cursor: Option<(PurgeStates, PurgeCursor)>,
    ) -> Option<Command> {
        let queue = queue.clone();
        Some(match wish {
            Wish::SetQueue => {
                let mode = [SetMode::Upsert, SetMode::Upsert, SetMode::Update, SetMode::Create];
                let mode = mode[self.rng.below(4) as usize];
                let patch = Patch { set: self.settings(), clear: self.clear() };
                Command::SetQueue(Box::new(SetQueue { etag: self.queue_etag(&queue), queue, mode, patch }))
            }
            Wish::DeleteQueue => {
                // One without tasks, if there is one: few are.
                let mut queues = self.judge.queues.iter();
                let empty = queues.find(|(_, queue)| queue.open.is_empty());
                let queue = empty.map_or(queue, |(name, _)| name.clone());
                Command::DeleteQueue { etag: self.queue_etag(&queue), queue }
            }
            Wish::SetPolicies => {
                let version = (self.judge.policies.version + 3).saturating_sub(self.rng.below(5));
                let patterns = ["lively/*".to_owned(), queue.as_str().to_owned()];
                let list = patterns.into_iter().map(|pattern| (pattern, self.settings())).collect();
                Command::SetPolicies(Policies { version, list })
            }
            Wish::Pause | Wish::Resume => Command::Pause(Pause {
                queue,
                paused: wish == Wish::Pause,
                note: format!("call {tag}"),
                author: "the simulator".into(),
            }),
            Wish::Purge => {
                let before = match self.task(&queue, |_| true) {
                    Some(id) if self.rng.chance(1, 2) => id,
                    _ => TaskId(u128::MAX),
                };
                let limit = 1 + self.rng.below(40) as u32;
                let states = PurgeStates(1 + self.rng.below(15) as u8);
                let (states, after) = match cursor {
                    Some((states, after)) => (states, Some(after)),
                    None => (states, None),
                };
                Command::Purge(Purge { queue, states, before, limit, after })
            }
            Wish::Cancel => Command::Cancel(vec![self.task(&queue, |_| true)?]),
            Wish::CancelIf => Command::CancelIf(vec![self.target(&queue, |_| true)?]),
            Wish::Redrive => {
                let targets = self.targets(&queue, |stand| stand == Stand::Dead);
                Command::Redrive(targets.into_iter().map(|target| (target, self.delay())).collect())
            }
            Wish::Update => self.update(&queue, tag)?,
            Wish::RunNow => Command::RunNow(
                self.targets(&queue, |stand| matches!(stand, Stand::Waiting | Stand::Blocked)),
            ),
            Wish::SetGroup => {
                let set = self.group_settings();
                let clear = GroupFields(self.rng.below(16) as u8);
                Command::SetGroup(SetGroup { queue, group: self.group()?, patch: GroupPatch { set, clear } })
            }
            Wish::SetSchedule | Wish::PauseSchedule | Wish::ResumeSchedule => {
                self.schedule(wish, &queue, tag)?
            }
            Wish::DeleteSchedule | Wish::RunSchedule | Wish::FireAgain => {
                self.schedule_event(wish, &queue, tag)?
            }
            _ => return None,
        })
    }

    fn queue_etag(&mut self, queue: &QueueName) -> Option<u64> {
        let known = self.judge.queues.get(queue).map_or(0, |queue| queue.etag);
        match self.rng.below(4) {
            0 => Some(known),
            1 if self.percent(self.manners.etags.1) => Some(known + 1),
            _ => None,
        }
    }

    fn group_settings(&mut self) -> GroupSettings {
        let mut set = GroupSettings::default();
        if self.rng.chance(1, 3) {
            set.weight = Some(1 + self.rng.below(1_000) as u32);
        }
        if self.rng.chance(1, 3) {
            set.serial = Some(self.rng.chance(1, 2));
        }
        if self.rng.chance(1, 3) {
            set.concurrency = Some(1 + self.rng.below(4) as u32);
        }
        if self.rng.chance(1, 4) {
            set.rate = Some(self.rate());
        }
        set
    }

    fn update(&mut self, queue: &QueueName, tag: Tag) -> Option<Command> {
        let target =
            self.target(queue, |stand| matches!(stand, Stand::Waiting | Stand::Blocked | Stand::Dead))?;
        let now = self.judge.now;
        let due = match self.rng.below(5) {
            0 => Some(Due::Now),
            1 => Some(Due::After(self.delay())),
            2 => Some(Due::At(Millis(now.0.saturating_sub(self.delay().0)))),
            _ => None,
        };
        let priority = self.rng.chance(1, 3).then(|| Priority(self.rng.below(256) as u8));
        // Whose tag does not matter here: that there is one does.
        let of_task = tag;
        let payload = self.rng.chance(1, 3).then(|| {
            let mut payload = of_task.to_le_bytes().to_vec();
            payload.resize(payload.len() + self.rng.below(100) as usize, tag as u8);
            Bytes::from(payload)
        });
        let metadata = self.rng.chance(1, 4).then(|| vec![("call".into(), tag.to_string())]);
        Some(Command::UpdateTask(Box::new(UpdateTask { target, due, priority, payload, metadata })))
    }

    /// Returns what becomes of a lease; None says nothing about it.
    pub fn verdict(&mut self) -> Option<Verdict> {
        let reason = if self.rng.chance(1, 3) { "no" } else { "not now" };
        let span = Duration(self.rng.below(20_000));
        Some(match self.rng.below(14) {
            0..4 => Verdict::Ack,
            4 => Verdict::AckWith { result: Bytes::from_static(b"done") },
            5 | 6 => Verdict::Nack {
                delay: self.rng.chance(1, 2).then_some(span),
                slow_group: self.rng.chance(1, 3).then_some(span),
                reason: reason.into(),
            },
            7 => Verdict::NackDead { reason: reason.into() },
            8 => Verdict::Release { delay: Duration(0) },
            9 => Verdict::Release { delay: span },
            10 => Verdict::Extend { ttl: Duration(100 + span.0) },
            11 => Verdict::ExtendWith { ttl: Duration(100 + span.0), progress: "half-way".into() },
            _ => return None,
        })
    }
}
