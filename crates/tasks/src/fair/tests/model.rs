//! The groups choose like a naive model, which searches all tasks from end to end for each choice; and as well when
//! they are rebuilt from their rows after every step.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed};
use z4_types::{Duration, Millis};

use super::world::{Lease, World};
use crate::Rate;
use crate::fair::{Bucket, DEBT_KEPT, GroupLimits, Limits, Number, Reason};

/// The same cases on every run. `PROPTEST_RNG_SEED` and `PROPTEST_CASES` look further.
fn fixed() -> Config {
    let given = Config::default();
    let rng_seed = if given.rng_seed == RngSeed::Random { RngSeed::Fixed(4) } else { given.rng_seed };
    Config { rng_seed, failure_persistence: None, ..given }
}

/// Group 0 is the tasks without one.
const GROUPS: u8 = 6;

fn name(group: u8) -> String {
    if group == 0 { String::new() } else { format!("g{group}") }
}

#[derive(Debug, Clone)]
enum Op {
    Push {
        group: u8,
        priority: u8,
        from_now: i64,
    },
    Lease {
        max: usize,
    },
    /// Ends a lease; with a delay the task waits again.
    End {
        which: usize,
        delay: Option<u64>,
    },
    Cancel {
        which: usize,
    },
    Slow {
        group: u8,
        delay: u64,
    },
    Limit {
        group: u8,
        limits: GroupLimits,
    },
    Ageing {
        span: Option<u64>,
    },
    Tick {
        span: u64,
    },
    Forget,
}

#[derive(Debug, Clone, Default)]
struct NaiveGroup {
    number: u32,
    leased: u32,
    tags: BTreeMap<u8, u64>,
    bucket: Bucket,
    blocked_until: u64,
    keep_until: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Task {
    at: u64,
    id: u128,
    priority: u8,
    group: u8,
}

#[derive(Default)]
struct Model {
    now: u64,
    groups: BTreeMap<u8, NaiveGroup>,
    tasks: Vec<Task>,
    times: BTreeMap<u8, u64>,
    limits: BTreeMap<u8, GroupLimits>,
    ageing: Option<u64>,
}

impl Model {
    fn new() -> Self {
        Self { now: 1_000, groups: BTreeMap::from([(0, NaiveGroup::default())]), ..Self::default() }
    }

    fn limits(&self, group: u8) -> GroupLimits {
        self.limits.get(&group).copied().unwrap_or_default()
    }

    fn time(&self, class: u8) -> u64 {
        self.times.get(&class).copied().unwrap_or(0)
    }

    fn put(&mut self, task: Task) {
        let group = task.group;
        if !self.groups.contains_key(&group) {
            let used: Vec<u32> = self.groups.values().map(|group| group.number).collect();
            let number = (1..).find(|number| !used.contains(number)).expect("there are few groups");
            self.groups.insert(group, NaiveGroup { number, ..NaiveGroup::default() });
        }
        let first = !self.tasks.iter().any(|other| (other.group, other.priority) == (group, task.priority));
        if first && group > 0 {
            let time = self.time(task.priority);
            let tag = self.groups.get_mut(&group).expect("made").tags.entry(task.priority).or_default();
            *tag = time.max(*tag);
        }
        self.tasks.push(task);
        self.touch(group);
    }

    /// What happens to a group after every change of it.
    fn touch(&mut self, number: u8) {
        if number == 0 {
            return;
        }
        let mut group = self.groups.remove(&number).expect("it is there");
        let waits = |class: u8| self.tasks.iter().any(|task| (task.group, task.priority) == (number, class));
        group.tags.retain(|class, tag| *tag > self.time(*class) || waits(*class));
        let open = group.leased > 0 || self.tasks.iter().any(|task| task.group == number);
        if open {
            group.keep_until = 0;
        } else {
            if group.keep_until == 0 {
                let owes = group.tags.iter().any(|(class, tag)| *tag > self.time(*class));
                group.keep_until = self.now + if owes { DEBT_KEPT.0 } else { 0 };
            }
            let full = group.bucket.full_from(self.limits(number).limits.rate).0;
            group.keep_until = group.keep_until.max(group.blocked_until).max(full);
        }
        if open || group.keep_until > self.now {
            self.groups.insert(number, group);
        }
    }

    /// The place and the task a group would be served with at `now`.
    fn candidate(&self, number: u8, now: u64) -> Option<((u8, u64, u64, u32), Task)> {
        let group = &self.groups[&number];
        if number > 0 {
            let limits = self.limits(number);
            let most = if limits.serial { Some(1) } else { limits.limits.concurrency };
            let token = limits.limits.rate.is_none_or(|rate| group.bucket.tokens(rate, Millis(now)) > 0);
            if most.is_some_and(|most| group.leased >= most) || !token || group.blocked_until > now {
                return None;
            }
        }
        let due = self.tasks.iter().filter(|task| task.group == number && task.at <= now);
        let best = due.map(|task| {
            let gained = self.ageing.map_or(0, |span| (now - task.at) / span);
            let class = u8::try_from(u64::from(task.priority).saturating_sub(gained)).expect("a priority");
            (class, task.at, task.priority, task.id, task)
        });
        let (class, at, _, _, task) = best.min()?;
        Some(((class, group.tags.get(&class).copied().unwrap_or(0), at, group.number), task.clone()))
    }

    fn first(&self, now: u64) -> Option<((u8, u64, u64, u32), Task)> {
        self.groups.keys().filter_map(|group| self.candidate(*group, now)).min()
    }

    fn lease(&mut self, max: usize) -> Vec<u128> {
        let mut ids = Vec::new();
        while ids.len() < max {
            let Some(((class, tag, ..), task)) = self.first(self.now) else { break };
            let limits = if task.group > 0 { self.limits(task.group) } else { GroupLimits::default() };
            let start = tag.max(self.time(class));
            let group = self.groups.get_mut(&task.group).expect("chosen");
            group.tags.insert(class, start + limits.stride());
            if task.group > 0 {
                group.leased += 1;
                if let Some(rate) = limits.limits.rate {
                    group.bucket.take(rate, Millis(self.now), 1);
                }
            }
            self.times.insert(class, start);
            self.tasks.retain(|other| other.id != task.id);
            self.touch(task.group);
            ids.push(task.id);
        }
        ids
    }
}

/// Applies the step to the model and to two worlds, one of which is rebuilt after it.
fn step(model: &mut Model, worlds: &mut [World; 2], leases: &mut Vec<Lease>, op: &Op) {
    match *op {
        Op::Push { group, priority, from_now } => {
            let at = model.now.saturating_add_signed(from_now);
            let [a, b] = worlds.each_mut().map(|world| world.push(&name(group), priority, at));
            assert_eq!(a, b);
            model.put(Task { at, id: a, priority, group });
        }
        Op::Lease { max } => {
            let ids = model.lease(max);
            let [a, b] = worlds.each_mut().map(|world| world.lease(max));
            assert_eq!(a.iter().map(|lease| lease.id).collect::<Vec<_>>(), ids);
            assert_eq!(a, b);
            leases.extend(a);
        }
        Op::End { which, delay } => {
            if leases.is_empty() {
                return;
            }
            let lease = leases.swap_remove(which % leases.len());
            let group = (0..GROUPS).find(|group| name(*group) == lease.group).expect("one of ours");
            let at = delay.map(|delay| model.now + delay);
            for world in worlds {
                match at {
                    None => world.ack(&lease),
                    Some(at) => world.retry(&lease, at),
                }
            }
            if let Some(at) = at {
                model.put(Task { at, id: lease.id, priority: lease.priority, group });
            }
            if group > 0 {
                model.groups.get_mut(&group).expect("open").leased -= 1;
                model.touch(group);
            }
        }
        Op::Cancel { which } => {
            if model.tasks.is_empty() {
                return;
            }
            let which = which % model.tasks.len();
            let task = model.tasks.remove(which);
            let number = model.groups[&task.group].number;
            for world in worlds {
                world.cancel((number, task.priority, task.at, task.id));
            }
            model.touch(task.group);
        }
        Op::Slow { group, delay } => {
            for world in worlds {
                world.slow(&name(group), model.now + delay);
            }
            if group > 0
                && let Some(slowed) = model.groups.get_mut(&group)
            {
                slowed.blocked_until = slowed.blocked_until.max(model.now + delay);
                model.touch(group);
            }
        }
        Op::Limit { group, limits } => {
            model.limits.insert(group, limits);
            if let Some(group) = model.groups.get_mut(&group)
                && let Some(rate) = limits.limits.rate
            {
                group.bucket.clamp(rate, Millis(model.now));
            }
            for world in worlds {
                world.limit(&name(group), limits);
            }
        }
        Op::Ageing { span } => {
            model.ageing = span;
            for world in worlds {
                world.ageing = span.map(Duration);
                world.retune();
            }
        }
        Op::Tick { span } => {
            model.now += span;
            for world in worlds {
                world.now = Millis(model.now);
            }
        }
        Op::Forget => {
            for world in worlds {
                world.forget();
            }
            let now = model.now;
            model.groups.retain(|_, group| group.keep_until == 0 || group.keep_until > now);
        }
    }
}

/// What can be asked is answered as the model would.
fn compare(model: &Model, world: &mut World) {
    // So that the tasks without a group are fed.
    assert_eq!(world.lease(0), []);
    match world.groups.next_time(world.now) {
        Some(at) => {
            assert!(model.first(at.0).is_some(), "something is due at {at}");
            assert!(at == world.now || model.first(at.0 - 1).is_none(), "nothing is due before {at}");
        }
        None => assert!(model.first(1 << 40).is_none(), "only an event helps"),
    }
    for (group, naive) in model.groups.iter().filter(|(group, _)| **group > 0) {
        let number = world.groups.number(&name(*group)).expect("the model has it");
        assert_eq!(number, Number(naive.number));
        let found = world.groups.get(number).expect("it has a number");
        assert_eq!(found.leased(), naive.leased);
        assert_eq!(found.waiting() as usize, model.tasks.iter().filter(|task| task.group == *group).count());
        assert!(world.groups.iter().any(|(other, found)| other == number && found.name() == name(*group)));
        assert_eq!(*found.limits(), model.limits(*group));
        let reason = world.groups.explain(number, world.now).expect("it has a number");
        let candidate = model.candidate(*group, model.now);
        match (reason, candidate) {
            (Reason::Ready { class, .. }, Some((key, _))) => assert_eq!(class, key.0),
            (Reason::Ready { .. }, None) => panic!("{group} is not ready"),
            (reason, candidate) => assert!(candidate.is_none(), "{group} is ready, and says {reason:?}"),
        }
        match reason {
            Reason::NotDue { until } | Reason::Slowed { until } | Reason::Rate { until } => {
                assert!(until > world.now);
                assert!(model.candidate(*group, until.0 - 1).is_none(), "{group} is ready before {reason:?}");
            }
            Reason::Full { leased, limit, .. } => assert!(leased >= limit),
            Reason::Empty => assert_eq!(found.waiting(), 0),
            Reason::Ready { .. } => {}
        }
    }
    assert_eq!(world.groups.len() + 1, model.groups.len());
    assert_eq!(world.groups.is_empty(), model.groups.len() == 1);
}

fn run(limits: &[GroupLimits], ops: &[Op]) -> Vec<(u8, u64)> {
    let mut model = Model::new();
    let mut worlds = [World::new(), World::new()];
    let mut leases = Vec::new();
    let mut picks = Vec::new();
    for (group, limits) in (1..).zip(limits) {
        step(&mut model, &mut worlds, &mut leases, &Op::Limit { group, limits: *limits });
    }
    for op in ops {
        let before = leases.len();
        step(&mut model, &mut worlds, &mut leases, op);
        if matches!(op, Op::Lease { .. }) {
            let group = |lease: &Lease| (0..GROUPS).find(|group| name(*group) == lease.group).expect("ours");
            picks.extend(leases[before..].iter().map(|lease| (group(lease), model.now)));
        }
        worlds[1].rebuild();
        for world in &mut worlds {
            compare(&model, world);
            world.check();
        }
    }
    picks
}

fn limits() -> impl Strategy<Value = GroupLimits> {
    let rate = (prop_oneof![Just(500_u64), Just(3_000), Just(100_000), Just(1_234_567)], 1_u32..4);
    let rate = rate.prop_map(|(thousandths, burst)| Rate { thousandths, burst });
    (1_u32..8, prop::bool::weighted(0.2), prop::option::of(1_u32..4), prop::option::weighted(0.3, rate))
        .prop_map(|(weight, serial, concurrency, rate)| GroupLimits {
            weight,
            serial,
            limits: Limits { concurrency, rate },
        })
}

/// Steps of time and delays are multiples of ten, so that moments often meet exactly.
fn op() -> impl Strategy<Value = Op> {
    let priority = prop_oneof![3 => Just(5_u8), 1 => Just(4), 1 => Just(0), 1 => Just(255)];
    let delay = || (0_u64..40).prop_map(|tens| tens * 10);
    prop_oneof![
        12 => (0..GROUPS, priority, -30_i64..10).prop_map(|(group, priority, tens)| Op::Push {
            group,
            priority,
            from_now: tens * 10
        }),
        8 => (1_usize..8).prop_map(|max| Op::Lease { max }),
        8 => (any::<usize>(), prop::option::weighted(0.3, delay()))
            .prop_map(|(which, delay)| Op::End { which, delay }),
        2 => any::<usize>().prop_map(|which| Op::Cancel { which }),
        1 => (0..GROUPS, delay()).prop_map(|(group, delay)| Op::Slow { group, delay }),
        6 => delay().prop_map(|span| Op::Tick { span }),
        1 => Just(Op::Tick { span: 2_000 }),
        1 => Just(Op::Forget),
    ]
}

fn setting() -> impl Strategy<Value = Op> {
    prop_oneof![
        2 => (1..GROUPS, limits()).prop_map(|(group, limits)| Op::Limit { group, limits }),
        1 => prop::option::of(prop_oneof![Just(7_u64), Just(50), Just(1_000)]).prop_map(|span| Op::Ageing { span }),
    ]
}

proptest! {
    #![proptest_config(fixed())]

    #[test]
    fn groups_choose_like_a_list_of_tasks(
        ops in prop::collection::vec(prop_oneof![12 => op(), 1 => setting()], 1..150),
    ) {
        run(&[], &ops);
    }

    #[test]
    fn limits_are_never_exceeded(
        limits in prop::collection::vec(limits(), 5),
        ops in prop::collection::vec(op(), 1..150),
    ) {
        // Tasks at a time are checked after each step; here every span between two picks.
        let picks = run(&limits, &ops);
        for (group, limits) in (1..).zip(&limits) {
            let Some(rate) = limits.limits.rate else { continue };
            let times: Vec<u64> = picks.iter().filter(|pick| pick.0 == group).map(|pick| pick.1).collect();
            for (first, from) in times.iter().enumerate() {
                for (last, to) in times.iter().enumerate().skip(first) {
                    let most = u64::from(rate.burst) + (to - from) * rate.thousandths / 1_000_000;
                    prop_assert!((last - first + 1) as u64 <= most, "{rate:?}: {times:?}");
                }
            }
        }
    }
}
