//! Groups of different weights share a queue by their weights: over ten thousand leases of a real host, with a loss of power
//! in the middle, each has its share within a tenth.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use z4_env::Clock;
use z4_host::{ConsumerId, Deliver, Delivery, Error, Write};
use z4_sim::checks::Digests;
use z4_sim::shell::Shell;
use z4_sim::swarm::Swarm;
use z4_sim::{SimClock, SimDisk};
use z4_tasks::command::{Command, NewTask, SetGroup, Settlement, Verdict};
use z4_tasks::{GroupFields, GroupPatch, GroupSettings, encode, encode_create};
use z4_types::{Duration, Millis, QueueName, ShardId};

/// Weights of the groups; the third column of the promise: 5 %, 10 %, 15 %, 20 % and 50 %.
const WEIGHTS: [u32; 5] = [1, 2, 3, 4, 10];
/// Leases that are counted.
const LEASES: u64 = 10_000;
/// Consumers, and how many tasks each takes at a time.
const CONSUMERS: u64 = 8;
const AT_A_TIME: u32 = 7;
/// Tasks that every group has beyond its share: it must never run out.
const BEYOND: u64 = 1_500;

/// Takes deliveries.
#[derive(Clone, Default)]
struct Inbox(Arc<Mutex<Vec<(ConsumerId, Delivery)>>>);

struct Sink(ConsumerId, Inbox);

impl Deliver for Sink {
    fn deliver(&mut self, tasks: Vec<Delivery>) -> bool {
        let named = tasks.into_iter().map(|task| (self.0, task));
        self.1.0.lock().expect("one thread").extend(named);
        true
    }

    fn closed(&mut self, _: Error) {}
}

struct Rig {
    swarm: Swarm,
    disk: SimDisk,
    clock: SimClock,
    digests: Digests,
    shell: Shell,
    inbox: Inbox,
    queue: QueueName,
    shard: ShardId,
    consumers: u64,
}

fn swarm() -> Swarm {
    let mut swarm = Swarm::draw(1);
    let host = &mut swarm.host;
    (host.task_shards, host.log_thread, host.segment_bytes, host.spares) = (1, true, 4 << 20, 1);
    (host.cache_bytes, host.inbox_bytes, host.outbox_bytes) = (16 << 20, 64 << 20, 64 << 20);
    (host.checkpoint_bytes, host.checkpoint_age_ms, host.stall_bytes) = (4 << 20, 3_600_000, 32 << 20);
    (host.tick_ms, host.segments_max, host.reserve_bytes) = (1_000, 16, 1 << 20);
    swarm
}

impl Rig {
    fn new() -> Self {
        let (swarm, disk, clock, digests) = (swarm(), SimDisk::new(1), SimClock::new(), Digests::default());
        disk.attach_clock(&clock);
        let shell = start(&swarm, &disk, &clock, &digests);
        let queue = QueueName::new("mail").expect("a valid name");
        let shard = shell.registry().shard_of(&queue);
        Self { swarm, disk, clock, digests, shell, inbox: Inbox::default(), queue, shard, consumers: 0 }
    }

    fn rest(&mut self) {
        self.shell.rest().expect("nothing goes wrong");
    }

    fn group(&mut self, group: &str, weight: u32) {
        let set = GroupSettings { weight: Some(weight), ..GroupSettings::default() };
        let patch = GroupPatch { set, clear: GroupFields::default() };
        let set = SetGroup { queue: self.queue.clone(), group: group.to_owned(), patch };
        let permit = self.shell.budget.take(1_000).expect("room");
        let encoded = encode(&Command::SetGroup(set));
        let reply = Box::new(|answer: Result<_, Error>| assert!(answer.is_ok()));
        self.shell.write(self.shard, Write::Manage { encoded, grows: false, reply, permit });
        self.rest();
    }

    fn fill(&mut self, group: &str, count: u64) {
        let task = NewTask {
            payload: Bytes::from_static(b"letter"),
            group: Some(group.to_owned()),
            ..NewTask::default()
        };
        let tasks = vec![task; 500];
        for _ in 0..count.div_ceil(500) {
            let encoded = encode_create(&self.queue, None, &tasks);
            let permit = self.shell.budget.take(encoded.len()).expect("room");
            let reply = Box::new(|answer: Result<Vec<_>, Error>| assert!(answer.is_ok()));
            let queue = self.queue.clone();
            self.shell.write(self.shard, Write::Create { queue, encoded, due_now: 500, reply, permit });
            self.rest();
        }
    }

    fn open(&mut self) {
        for _ in 0..CONSUMERS {
            self.consumers += 1;
            let consumer = ConsumerId(self.consumers);
            let sink = Box::new(Sink(consumer, self.inbox.clone()));
            let (queue, name, lease) = (self.queue.clone(), "c".to_owned(), Duration(3_600_000));
            self.shell.write(self.shard, Write::Open { consumer, queue, name, lease, sink });
            self.shell.write(self.shard, Write::Credit { consumer, tasks: AT_A_TIME, bytes: 1 << 30 });
        }
    }

    /// Takes what was delivered, acks it, and asks for as much again. Returns the groups it was of.
    fn work(&mut self) -> Vec<String> {
        self.clock.step_ms(1);
        self.rest();
        let tasks = std::mem::take(&mut *self.inbox.0.lock().expect("one thread"));
        let mut groups = Vec::new();
        let mut acks = Vec::new();
        for (consumer, task) in tasks {
            groups.push(task.body.group.clone().expect("all have one"));
            acks.push(Settlement { id: task.pick.id, token: task.pick.token, verdict: Verdict::Ack });
            self.shell.write(self.shard, Write::Credit { consumer, tasks: 1, bytes: 1_000 });
        }
        let permit = self.shell.budget.take(64 * acks.len()).expect("room");
        let reply = Box::new(|answer: Result<_, Error>| assert!(answer.is_ok()));
        self.shell.write(self.shard, Write::Settle { settlements: acks, reply, permit });
        groups
    }

    /// All power goes, and comes back.
    fn crash(&mut self) {
        self.disk.crash();
        self.disk.restart();
        self.shell = start(&self.swarm, &self.disk, &self.clock, &self.digests);
        self.rest();
        assert!(self.shell.is_recovered());
        self.inbox.0.lock().expect("one thread").clear();
        self.open();
    }
}

fn start(swarm: &Swarm, disk: &SimDisk, clock: &SimClock, digests: &Digests) -> Shell {
    let config = swarm.config("shares".as_ref());
    let mut shell = Shell::start(swarm, &config, disk, clock, digests, true, Millis(clock.wall().0))
        .expect("undamaged directories");
    shell.rest().expect("nothing goes wrong");
    shell
}

#[test]
fn groups_have_their_shares_also_over_a_restart() {
    let mut rig = Rig::new();
    let sum = u64::from(WEIGHTS.iter().sum::<u32>());
    let names: Vec<String> = WEIGHTS.iter().map(|weight| format!("of weight {weight}")).collect();
    for (name, weight) in names.iter().zip(WEIGHTS) {
        rig.fill(name, LEASES * u64::from(weight) / sum + BEYOND);
        rig.group(name, weight);
    }
    rig.open();
    let mut counts = [0_u64; 5];
    let mut crashed = false;
    for _ in 0..LEASES {
        if counts.iter().sum::<u64>() >= LEASES {
            break;
        }
        for group in rig.work() {
            if counts.iter().sum::<u64>() < LEASES {
                counts[names.iter().position(|name| *name == group).expect("one of them")] += 1;
            }
        }
        if !crashed && counts.iter().sum::<u64>() > LEASES / 2 {
            crashed = true;
            rig.crash();
        }
    }
    assert!(crashed && counts.iter().sum::<u64>() == LEASES, "{counts:?}");
    for (count, weight) in counts.iter().zip(WEIGHTS) {
        let share = LEASES * u64::from(weight) / sum;
        assert!(count.abs_diff(share) * 10 <= share, "weight {weight}: {count} of {share}: {counts:?}");
    }
}
