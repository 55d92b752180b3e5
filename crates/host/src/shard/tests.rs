//! A shard on a real directory, driven step by step: what is on its way to consumers stays bounded, and moves.

use std::sync::mpsc::{Receiver, Sender, channel};

use z4_env::RealDisk;
use z4_store::{Config, Store};
use z4_tasks::command::{Due, NewTask};
use z4_tasks::encode_create;
use z4_types::EntryKind;

use super::room::Weights;
use super::*;

const SHARD: ShardId = ShardId(1);
/// A step that is longer than any wait for the outbox.
const STEP: Duration = Duration(100);
const LEASE: Duration = Duration(60_000);

struct Sink(Sender<Vec<Delivery>>);

impl Deliver for Sink {
    fn deliver(&mut self, tasks: Vec<Delivery>) -> bool {
        self.0.send(tasks).is_ok()
    }
    fn closed(&mut self, _: Error) {}
}

/// The shard, and a log that is durable at once.
struct Rig {
    shard: TaskShard,
    store: GroupStore,
    outbox: Arc<Budget>,
    requests: Arc<Budget>,
    now: Millis,
    packed: VecDeque<Entry>,
    next_index: u64,
    next_consumer: u64,
    _dir: tempfile::TempDir,
}

impl Rig {
    fn new(outbox_bytes: usize) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(Arc::new(RealDisk), Config::new(dir.path())).expect("opens");
        let store = store.group(SHARD).expect("a new group");
        let outbox = Budget::new(outbox_bytes);
        let shard = TaskShard::open(SHARD, &store, Arc::default(), Arc::clone(&outbox)).expect("opens");
        Self {
            shard,
            store,
            outbox,
            requests: Budget::new(1 << 30),
            now: Millis(1_000),
            packed: VecDeque::new(),
            next_index: 1,
            next_consumer: 0,
            _dir: dir,
        }
    }

    fn write(&mut self, write: Write) {
        self.shard.write(write, Admission::All);
    }

    fn create(&mut self, queue: &str, count: usize, task: &NewTask) {
        let queue = QueueName::new(queue).expect("valid");
        for chunk in vec![task.clone(); count].chunks(100) {
            let due_now = if task.due == Due::Now { chunk.len() as u32 } else { 0 };
            let encoded = encode_create(&queue, None, chunk);
            let permit = self.requests.take_always(encoded.len());
            let reply = Box::new(|answer: Result<Vec<_>, _>| assert!(answer.is_ok()));
            self.write(Write::Create { queue: queue.clone(), encoded, due_now, reply, permit });
        }
    }

    fn settle(&mut self, tasks: &[Delivery], verdict: &Verdict) {
        let word = |task: &Delivery| Settlement {
            id: task.pick.id,
            token: task.pick.token,
            verdict: verdict.clone(),
        };
        let permit = self.requests.take_always(0);
        let reply = Box::new(|answer: Result<Vec<_>, _>| assert!(answer.is_ok()));
        self.write(Write::Settle { settlements: tasks.iter().map(word).collect(), reply, permit });
    }

    fn consume(&mut self, queue: &str, tasks: u32, bytes: u64) -> (ConsumerId, Receiver<Vec<Delivery>>) {
        let (sender, receiver) = channel();
        let consumer = ConsumerId(self.next_consumer);
        self.next_consumer += 1;
        let queue = QueueName::new(queue).expect("valid");
        self.write(Write::Open {
            consumer,
            queue,
            name: "c".into(),
            lease: LEASE,
            sink: Box::new(Sink(sender)),
        });
        self.write(Write::Credit { consumer, tasks, bytes });
        (consumer, receiver)
    }

    /// Packs one entry; returns whether there was one.
    fn pack(&mut self) -> bool {
        let Some(data) = self.shard.entry(&self.store, self.now).expect("packs") else { return false };
        let index = Index(self.next_index);
        self.next_index += 1;
        self.shard.proposed(index, Term(1));
        self.packed.push_back(Entry { index, term: Term(1), kind: EntryKind::Normal, data });
        true
    }

    fn apply(&mut self) {
        while let Some(entry) = self.packed.pop_front() {
            self.shard.apply(&mut self.store, &entry, true).expect("applies");
        }
    }

    /// Packs and applies until nothing is to be done at this time, two entries at a time as the driver does.
    fn rest(&mut self) {
        for _ in 0..10_000 {
            let (one, two) = (self.pack(), self.pack());
            self.apply();
            let deadline = self.shard.deadline(&self.store).expect("tells");
            if !one && !two && deadline.is_none_or(|at| at > self.now) {
                return;
            }
        }
        panic!("no rest");
    }

    /// Rests, reads everything, acks it and steps the time, until nothing comes any more; returns how many tasks came,
    /// and the most bytes that were on their way.
    fn drain(&mut self, readers: &[&Receiver<Vec<Delivery>>]) -> (usize, usize) {
        let (mut count, mut most) = (0, 0);
        loop {
            self.rest();
            most = most.max(self.outbox.used());
            let mut came: Vec<Delivery> = Vec::new();
            readers.iter().for_each(|reader| came.extend(reader.try_iter().flatten()));
            if came.is_empty() {
                return (count, most);
            }
            count += came.len();
            self.settle(&came, &Verdict::Ack);
            drop(came);
            self.now = self.now + STEP;
        }
    }
}

fn task(payload: usize) -> NewTask {
    NewTask { payload: vec![7; payload].into(), ..NewTask::default() }
}

#[test]
fn large_tasks_due_at_once_for_many_consumers_stay_within_the_outbox() {
    let (limit, size) = (4 << 20, 256 << 10);
    let mut rig = Rig::new(limit);
    rig.create("mail", 100, &task(size));
    let readers: Vec<_> = (0..64).map(|_| rig.consume("mail", 100, 16 << 20).1).collect();
    let readers: Vec<_> = readers.iter().collect();
    let (count, most) = rig.drain(&readers);
    assert_eq!(count, 100);
    assert!(most <= limit, "{most} bytes were on their way, the limit is {limit}");
    assert!(most > limit / 2, "{most} bytes at a time waste an outbox of {limit}");
    assert_eq!(rig.outbox.used(), 0);
}

#[test]
fn tasks_without_payload_take_room_too() {
    let limit = 100 * DELIVERY_OVERHEAD;
    let mut rig = Rig::new(limit);
    rig.create("mail", 2_000, &task(0));
    let readers: Vec<_> = (0..8).map(|_| rig.consume("mail", 1_000, 1 << 20).1).collect();
    let (count, most) = rig.drain(&readers.iter().collect::<Vec<_>>());
    assert_eq!(count, 2_000);
    assert!(most <= limit, "{most} bytes were on their way, the limit is {limit}");
}

#[test]
fn metadata_that_nobody_expected_is_given_back_and_comes_later() {
    let limit = 1 << 20;
    let mut rig = Rig::new(limit);
    let heavy = NewTask { metadata: vec![("k".into(), "v".repeat(16 << 10))], ..task(0) };
    rig.create("mail", 300, &heavy);
    let (_, reader) = rig.consume("mail", 1_000, 16 << 20);
    let (count, most) = rig.drain(&[&reader]);
    assert_eq!(count, 300);
    let piece = PIECE_TASKS * (17 << 10);
    assert!(most <= limit + piece, "{most} bytes were on their way, the limit is {limit}");
    let stats = rig.shard.machine().totals();
    assert!(stats.redelivered <= 300, "{} redeliveries: a wrong guess is made once", stats.redelivered);
}

#[test]
fn an_outbox_smaller_than_a_task_is_drained_task_by_task() {
    let mut rig = Rig::new(512);
    rig.create("mail", 5, &task(1 << 20));
    rig.create("news", 5, &task(10));
    let (_, mail) = rig.consume("mail", 10, 16 << 20);
    let (_, news) = rig.consume("news", 10, 16 << 20);
    assert_eq!(rig.drain(&[&mail, &news]).0, 10);
}

#[test]
fn a_consumer_that_does_not_read_stops_nobody_else() {
    let mut rig = Rig::new(8 << 20);
    rig.create("slow", 2_000, &task(10 << 10));
    rig.create("fast", 2_000, &task(10 << 10));
    let stuck: Vec<_> = (0..10).map(|_| rig.consume("slow", 10_000, 64 << 20)).collect();
    let (_, fast) = rig.consume("fast", 10_000, 64 << 20);
    assert_eq!(rig.drain(&[&fast]).0, 2_000);
    assert!(rig.outbox.used() > 1 << 20, "the others have got their share");
    let readers: Vec<_> = stuck.iter().map(|(_, reader)| reader).collect();
    assert_eq!(rig.drain(&readers).0, 2_000, "and all the rest once they read, without new credit");
    drop(stuck);
    assert_eq!(rig.outbox.used(), 0);
}

#[test]
fn a_consumer_that_is_closed_gives_its_room_back() {
    let mut rig = Rig::new(1 << 20);
    rig.create("mail", 100, &task(10 << 10));
    let (consumer, reader) = rig.consume("mail", 100, 16 << 20);
    rig.rest();
    assert!(rig.outbox.used() > 0);
    rig.write(Write::Close { consumer });
    drop(reader);
    assert_eq!(rig.outbox.used(), 0);
    // A Lease that was under way when its consumer was closed is given back too, and so are its tasks.
    let (consumer, reader) = rig.consume("mail", 100, 16 << 20);
    assert!(rig.pack());
    assert!(rig.outbox.used() > 0, "reserved");
    rig.write(Write::Close { consumer });
    rig.apply();
    assert_eq!((rig.outbox.used(), reader.try_iter().count()), (0, 0));
    let (_, reader) = rig.consume("mail", 100, 16 << 20);
    assert!(rig.drain(&[&reader]).0 > 0);
}

#[test]
fn every_way_into_a_line_is_noticed_by_whoever_waits() {
    let mut rig = Rig::new(1 << 20);
    let (_, reader) = rig.consume("mail", 1_000, 16 << 20);
    let expect = |rig: &mut Rig, what: &str| {
        rig.rest();
        let mut came: Vec<_> = reader.try_iter().flatten().collect();
        assert_eq!(came.len(), 1, "{what}");
        came.remove(0)
    };
    rig.create("mail", 1, &task(1));
    let delivery = expect(&mut rig, "a create");
    rig.settle(&[delivery], &Verdict::Release { delay: Duration(0) });
    let delivery = expect(&mut rig, "a release");
    rig.settle(
        &[delivery],
        &Verdict::Nack { delay: Some(Duration(0)), reason: String::new(), slow_group: None },
    );
    let delivery = expect(&mut rig, "a nack");
    let later = Duration(5_000);
    rig.settle(&[delivery], &Verdict::Release { delay: later });
    rig.rest();
    assert_eq!(reader.try_iter().count(), 0, "not due yet");
    let deadline = rig.shard.deadline(&rig.store).expect("tells").expect("something is coming");
    assert_eq!(deadline, rig.now + later);
    rig.now = deadline;
    drop(expect(&mut rig, "its time"));
    rig.now = rig.now + LEASE;
    drop(expect(&mut rig, "the end of a lease"));
}

#[test]
fn weights_are_those_of_what_came_last() {
    let mut weights = Weights::default();
    weights.learn(1 << 20, 100);
    let large = weights.one();
    weights.learn(10, 0);
    assert!(weights.one() < large, "a large task is forgotten in time");
}
