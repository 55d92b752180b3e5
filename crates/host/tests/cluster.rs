//! Three hosts in one process, over real sockets and disks: they form a cluster, grow one, lose a host, and lose a disk.

use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime;
use tokio::time::{sleep, timeout};
use z4_host::{Config, Error, Handle, Host, ListRequest, Network, Route, ScheduleChange, SchedulePause};
use z4_registry::Registry;
use z4_tasks::command::{NewTask, SetMode};
use z4_tasks::{ListFilter, Overlap, ScheduleInfo, SchedulePatch, Settings, SlotFate};
use z4_types::{HostId, Kind, QueueName, ShardId};

/// Elections and snapshots on a busy machine take their time; a promise that is kept at all is kept by then.
const PATIENCE: Duration = Duration::from_secs(120);

/// A host that can be stopped and started again.
struct Machine {
    config: Config,
    port: u16,
    dir: PathBuf,
    host: Option<Host>,
}

struct Machines {
    all: Vec<Machine>,
    _dir: TempDir,
}

/// Returns machines named `a`, `b`, …, not started, and their peer ports, which nobody else has.
async fn machines(count: usize) -> (Machines, Vec<TcpListener>) {
    // Shown with a test that fails. Another test of this process may have done it before.
    let _ = tracing_subscriber::fmt().with_test_writer().try_init();
    let dir = tempfile::tempdir().expect("a directory");
    let (mut all, mut listeners) = (Vec::new(), Vec::new());
    for name in ["a", "b", "c"].into_iter().take(count) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let own = dir.path().join(name);
        let mut config = Config::single(name, &own);
        config.bootstrap = false;
        config.advertise = format!("127.0.0.1:{port}");
        config.service = format!("{name}:6355");
        config.task_shards = 2;
        config.sizes.segment_bytes = 1 << 20;
        all.push(Machine { config, port, dir: own, host: None });
        listeners.push(listener);
    }
    (Machines { all, _dir: dir }, listeners)
}

impl Machine {
    fn start(&mut self, listener: TcpListener) {
        let network = Network { runtime: runtime::Handle::current(), listener };
        self.host = Some(Host::start_with(&self.config, network, |_| {}).expect("starts"));
    }

    /// Starts it where it was.
    async fn start_again(&mut self) {
        let bound =
            until("the port is free", || async { TcpListener::bind(("127.0.0.1", self.port)).await.ok() });
        let listener = bound.await;
        self.start(listener);
    }

    fn handle(&self) -> Handle {
        self.host.as_ref().expect("runs").handle().clone()
    }

    fn stop(&mut self) {
        self.host.take().expect("runs").stop().expect("stops in good order");
    }

    fn address(&self) -> String {
        self.config.advertise.clone()
    }

    fn id(&self) -> HostId {
        self.config.host.clone()
    }
}

impl Machines {
    fn running(&self) -> Vec<Handle> {
        self.all.iter().filter(|machine| machine.host.is_some()).map(Machine::handle).collect()
    }

    /// Waits until `registry` holds on every running host.
    async fn agree(&self, what: &str, registry: impl Fn(&Registry) -> bool) {
        until(what, || async { self.running().iter().all(|h| registry(&h.registry())).then_some(()) }).await;
    }

    /// Waits until each group has the voters that the registry wants, so many, and nobody else.
    async fn have_voters(&self, count: usize) {
        until("every group has its voters", || async {
            let mut led = 0;
            for handle in self.running() {
                let registry = handle.registry();
                for group in handle.groups().await.ok()?.iter().filter(|group| group.leading) {
                    let wanted: Vec<u64> =
                        registry.shard(group.shard)?.voters().map(|replica| replica.id).collect();
                    let members = &group.membership;
                    let others = members.learners.len() + members.voters_outgoing.len();
                    if members.voters != wanted || wanted.len() != count || others > 0 {
                        return None;
                    }
                    led += 1;
                }
            }
            (led == 3).then_some(())
        })
        .await;
    }

    /// Waits until some running host has taken a task into `queue`; returns its position.
    async fn push(&self, queue: &QueueName) -> usize {
        until("a task is pushed", || async {
            for (at, machine) in self.all.iter().enumerate().filter(|(_, machine)| machine.host.is_some()) {
                let handle = machine.handle();
                if handle.route(handle.shard_of(queue)) == Route::Here
                    && let Ok(created) = handle.create(queue.clone(), None, &[task()]).await
                {
                    assert!(created[0].is_ok(), "{created:?}");
                    return Some(at);
                }
            }
            None
        })
        .await
    }

    /// Waits until the leaders of all `queues` allow so many attempts.
    async fn follow(&self, queues: &[QueueName], attempts: u32) {
        until("the policy holds for every queue", || async {
            for queue in queues {
                let mut allowed = None;
                for handle in self.running() {
                    if handle.route(handle.shard_of(queue)) == Route::Here
                        && let Ok((_, setup)) = handle.queue_setup(queue.clone()).await
                    {
                        allowed = Some(setup.config.effective.max_attempts);
                    }
                }
                if allowed != Some(attempts) {
                    return None;
                }
            }
            Some(())
        })
        .await;
    }

    /// Waits until `queue` has so many tasks, by its leader.
    async fn count(&self, queue: &QueueName, waiting: u64) {
        until("the tasks are there", || async {
            for handle in self.running() {
                if handle.route(handle.shard_of(queue)) == Route::Here
                    && let Ok((_, info)) = handle.queue(queue.clone()).await
                {
                    assert_eq!(info.stats.waiting, waiting, "none is lost, none is there twice");
                    return Some(());
                }
            }
            None
        })
        .await;
    }
}

async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut holds: impl FnMut() -> F) -> T {
    let waiting = async {
        loop {
            if let Some(found) = holds().await {
                return found;
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("it did not come to pass that {what}"))
}

fn task() -> NewTask {
    NewTask { payload: vec![7; 10].into(), ..NewTask::default() }
}

fn queue(name: &str) -> QueueName {
    QueueName::new(name).expect("valid")
}

/// Starts three hosts that form a cluster together, and waits until they have.
async fn formed() -> Machines {
    let (mut machines, listeners) = machines(3).await;
    let peers: Vec<_> = machines.all.iter().map(|machine| (machine.id(), machine.address())).collect();
    for (machine, listener) in machines.all.iter_mut().zip(listeners) {
        machine.config.initial_peers.clone_from(&peers);
        machine.start(listener);
    }
    machines.have_voters(3).await;
    // Each has said which disk is its own, and where its door is.
    machines
        .agree("all have announced themselves", |registry| {
            registry.members().filter(|host| host.instance != 0 && !host.service.is_empty()).count() == 3
        })
        .await;
    machines
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_hosts_form_a_cluster_and_go_on_without_one_of_them() {
    let mut machines = formed().await;
    let mail = queue("mail");
    let leader = machines.push(&mail).await;
    let shard = machines.all[leader].handle().shard_of(&mail);
    for machine in &machines.all {
        let (handle, leader_id) = (machine.handle(), machines.all[leader].id());
        until("every host knows the leader and its door", || async {
            match handle.route(shard) {
                Route::Here => assert_eq!(handle.identity().host, leader_id),
                Route::There { host, service } if host == leader_id => {
                    assert_eq!(service, format!("{host}:6355"));
                }
                _ => return None,
            }
            Some(())
        })
        .await;
    }
    machines.all[leader].stop();
    let next = machines.push(&mail).await;
    assert_ne!(next, leader);
    machines.count(&mail, 2).await;
    machines.all[leader].start_again().await;
    let handle = machines.all[leader].handle();
    until("it follows and has caught up", || async {
        let groups = handle.groups().await.ok()?;
        let led = groups.iter().find(|group| group.shard == shard)?;
        (led.leader > 0 && !led.leading && led.applied.0 >= 3).then_some(())
    })
    .await;
    // Handed over on purpose, back to where it was. On a busy machine a hand-over may be given up, and is begun again.
    let to = machines.all[leader].id();
    until("the other leads", || async {
        for other in machines.running() {
            // Whoever does not lead refuses.
            let _ = other.transfer_leader(shard, to.clone()).await;
        }
        (handle.route(shard) == Route::Here).then_some(())
    })
    .await;
    machines.count(&mail, 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_of_one_host_grows_by_an_operator_and_by_a_host_that_joins_and_shrinks() {
    let (mut machines, listeners) = machines(3).await;
    let mut listeners = listeners.into_iter();
    let mail = queue("mail");
    machines.all[0].config.bootstrap = true;
    machines.all[0].start(listeners.next().expect("three"));
    machines.push(&mail).await;

    machines.all[1].start(listeners.next().expect("three"));
    let (first, waiting) = (machines.all[0].handle(), machines.all[1].handle());
    let (b, at_b) = (machines.all[1].id(), machines.all[1].address());
    assert!(!waiting.is_joined());
    assert_eq!(waiting.create(mail.clone(), None, &[task()]).await.err(), Some(Error::NotJoined));
    assert_eq!(waiting.route(waiting.shard_of(&mail)), Route::Nowhere);
    let wrong = first.add_peer(HostId("x".into()), at_b.clone()).await.expect_err("b is not x");
    assert_eq!(wrong.kind(), Kind::Invalid, "{wrong}");
    first.add_peer(b.clone(), at_b.clone()).await.expect("is added");
    first.add_peer(b.clone(), at_b.clone()).await.expect("and may be added again");
    machines.have_voters(2).await;
    assert!(waiting.is_joined());

    // By way of whichever host: one that does not lead the registry says who does.
    machines.all[2].config.join = vec![at_b];
    machines.all[2].start(listeners.next().expect("three"));
    machines.have_voters(3).await;
    machines.agree("all know all", |registry| registry.members().count() == 3).await;

    machines.all[0].stop();
    machines.push(&mail).await;
    machines.count(&mail, 2).await;
    let last = machines.all[2].handle();
    until("the host that is gone is removed", || async { last.remove_peer(HostId("a".into())).await.ok() })
        .await;
    machines.have_voters(2).await;
    machines
        .agree("it has left everywhere", |registry| {
            registry.members().count() == 2 && !registry.holds_replicas(&HostId("a".into()))
        })
        .await;
    machines.push(&mail).await;
    machines.count(&mail, 3).await;

    machines.all[0].config.bootstrap = false;
    machines.all[0].start_again().await;
    let removed = machines.all[0].handle();
    until("it is told that it was removed", || async { (!removed.is_joined()).then_some(()) }).await;
    assert_eq!(removed.create(mail.clone(), None, &[task()]).await.err(), Some(Error::Removed));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_lost_its_disk_comes_back_as_another_replica() {
    let mut machines = formed().await;
    let mail = queue("mail");
    machines.push(&mail).await;
    let registry = machines.all[2].handle().registry();
    let (c, old) = (machines.all[2].id(), registry.host(&machines.all[2].id()).map(|host| host.instance));
    let replica = |registry: &Registry| registry.replica_on(ShardId(0), &c).map(|replica| replica.id);
    let before = replica(&registry);
    machines.all[2].stop();
    std::fs::remove_dir_all(&machines.all[2].dir).expect("the disk is gone");
    machines.all[2].start_again().await;
    machines
        .agree("it is admitted under its name, with another disk and new replicas", |registry| {
            registry.is_known()
                && registry.host(&c).map(|host| host.instance) != old
                && replica(registry) > before
        })
        .await;
    machines.have_voters(3).await;
    machines.count(&mail, 1).await;
    // It counts again: another may go.
    machines.all[0].stop();
    machines.push(&mail).await;
    machines.count(&mail, 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_shard_follows_the_policies_of_the_registry_under_a_new_leader_too() {
    let mut machines = formed().await;
    // More queues than shards: some are on each.
    let queues: Vec<QueueName> = (0..4).map(|number| queue(&format!("mail/{number}"))).collect();
    for queue in &queues {
        machines.push(queue).await;
    }
    let set = |attempts| Settings { max_attempts: Some(attempts), ..Settings::default() };
    let last = machines.all.len() - 1;
    machines.all[last].handle().set_policy("mail/*".into(), &set(3)).await.expect("from any host");
    assert_eq!(
        machines.all[last].handle().policies().1,
        [("mail/*".to_owned(), set(3))],
        "seen where it was set"
    );
    machines.follow(&queues, 3).await;

    let shard = machines.all[0].handle().shard_of(&queues[0]);
    let leader = machines.all.iter().position(|machine| machine.handle().route(shard) == Route::Here);
    machines.all[leader.expect("it is led")].stop();
    let left = machines.running().remove(0);
    until("it is changed without the host that led", || async {
        left.set_policy("mail/*".into(), &set(7)).await.ok()
    })
    .await;
    machines.follow(&queues, 7).await;
    left.delete_policy("mail/*".into()).await.expect("is forgotten");
    machines.follow(&queues, 20).await;
}

impl Machines {
    /// Returns the handle of the host that leads the shard of `queue`.
    fn leader(&self, queue: &QueueName) -> Option<Handle> {
        self.running().into_iter().find(|handle| handle.route(handle.shard_of(queue)) == Route::Here)
    }

    /// Waits until a schedule has made so many tasks, at least; returns it.
    async fn fired(&self, queue: &QueueName, name: &str, count: u64) -> ScheduleInfo {
        until("slots fire", || async {
            let (_, info) = self.leader(queue)?.schedule(queue.clone(), name.to_owned()).await.ok()?;
            (info.counts.fired >= count).then_some(info)
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schedule_fires_each_slot_once_over_changes_of_leader() {
    let mut machines = formed().await;
    let (ticks, name) = (queue("ticks"), "tick");
    until("the schedule is set", || async {
        let patch = SchedulePatch {
            cron: Some("@every 1s".into()),
            overlap: Some(Overlap::Allow),
            ..SchedulePatch::default()
        };
        let (queue, name) = (ticks.clone(), name.to_owned());
        let change = ScheduleChange { queue, name, mode: SetMode::Upsert, etag: None, patch };
        machines.leader(&ticks)?.set_schedule(change).await.ok()?.ok()
    })
    .await;
    let mut fired = 0;
    for _ in 0..3 {
        fired = machines.fired(&ticks, name, fired + 2).await.counts.fired;
        let leader = machines.leader(&ticks).map(|handle| handle.identity().host.clone());
        let Some(at) = machines.all.iter().position(|machine| Some(machine.id()) == leader) else { continue };
        machines.all[at].stop();
        fired = machines.fired(&ticks, name, fired + 2).await.counts.fired;
        machines.all[at].start_again().await;
    }
    // Stopped, so that what is read is all there is.
    let info = until("the schedule is paused", || async {
        let leader = machines.leader(&ticks)?;
        let pause = SchedulePause {
            queue: ticks.clone(),
            name: name.to_owned(),
            etag: None,
            paused: true,
            note: String::new(),
            author: String::new(),
        };
        leader.pause_schedule(pause).await.ok()?.ok()?;
        leader.schedule(ticks.clone(), name.to_owned()).await.ok().map(|(_, info)| info)
    })
    .await;
    assert_eq!((info.counts.late, info.counts.overlapped, info.counts.refused), (0, 0, 0));
    let (rows, tasks) = until("they are read", || async {
        let leader = machines.leader(&ticks)?;
        let rows = leader.schedule_history(ticks.clone(), name.to_owned(), None, 100).await.ok()?;
        let all = ListRequest {
            queue: ticks.clone(),
            filter: ListFilter::default(),
            test: None,
            after: None,
            limit: 1_000,
        };
        let (_, page) = leader.list(all).await.ok()?;
        Some((rows, page.tasks))
    })
    .await;
    let slots: Vec<u64> = rows.iter().rev().map(|row| row.slot.0).collect();
    assert!(slots.len() >= 12, "{slots:?}");
    assert!(
        slots.windows(2).all(|pair| pair[1] == pair[0] + 1_000),
        "each slot once, none missing: {slots:?}"
    );
    assert!(rows.iter().all(|row| matches!(row.fate, SlotFate::Fired { .. })), "{rows:?}");
    // And each made one task, which says its slot.
    let mut said: Vec<&String> = tasks.iter().map(|task| &task.metadata[1].1).collect();
    said.sort();
    said.dedup();
    assert_eq!((tasks.len() as u64, said.len() as u64), (info.counts.fired, info.counts.fired));
}
