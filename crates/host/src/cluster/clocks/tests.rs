//! Three hosts over real sockets and disks, whose wall clocks a test sets: they notice, and serve.

use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::time::{interval, timeout};
use z4_env::{Clock, RealClock};
use z4_tasks::command::NewTask;
use z4_types::{Millis, QueueName};

use super::*;
use crate::config::Config;
use crate::handle::{Handle, Route};
use crate::running::{Host, Network};

/// Everything here happens within seconds; a busy machine takes longer.
const PATIENCE: Duration = Duration::from_secs(120);
const HOUR_MS: i64 = 3_600_000;
/// So exact an offset has to be: more than any round trip of a busy machine is.
const NEAR_MS: u64 = 1_500;

/// The real clock, set to another wall time.
struct SetClock {
    real: RealClock,
    ahead_ms: AtomicI64,
}

impl Clock for SetClock {
    fn wall(&self) -> Millis {
        Millis(self.real.wall().0.saturating_add_signed(self.ahead_ms.load(Ordering::Relaxed)))
    }

    fn monotonic_ns(&self) -> u64 {
        self.real.monotonic_ns()
    }
}

struct Machine {
    id: HostId,
    clock: Arc<SetClock>,
    host: Host,
}

impl Machine {
    fn set(&self, ahead_ms: i64) {
        self.clock.ahead_ms.store(ahead_ms, Ordering::Relaxed);
    }

    fn handle(&self) -> &Handle {
        self.host.handle()
    }

    /// Returns whether it knows each of the other clocks, near to where they are, and which are off, as expected.
    fn sees(&self, others: &[(&Machine, bool)]) -> bool {
        let clocks = self.handle().peer_clocks();
        let ahead = |machine: &Machine| machine.clock.ahead_ms.load(Ordering::Relaxed);
        clocks.len() == others.len()
            && others.iter().all(|(other, off)| {
                let expected = ahead(other) - ahead(self);
                clocks
                    .get(&other.id)
                    .is_some_and(|clock| clock.off == *off && clock.offset_ms.abs_diff(expected) <= NEAR_MS)
            })
    }
}

/// Starts a cluster of hosts `a`, `b`, …, whose clocks are so far ahead.
async fn cluster(dir: &Path, ahead_ms: &[i64]) -> Vec<Machine> {
    let (mut configs, mut listeners) = (Vec::new(), Vec::new());
    for name in ["a", "b", "c"].into_iter().take(ahead_ms.len()) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let mut config = Config::single(name, &dir.join(name));
        config.bootstrap = false;
        config.advertise = listener.local_addr().expect("bound").to_string();
        config.task_shards = 2;
        config.sizes.segment_bytes = 1 << 20;
        configs.push(config);
        listeners.push(listener);
    }
    let peers: Vec<_> =
        configs.iter().map(|config| (config.host.clone(), config.advertise.clone())).collect();
    let runtime = tokio::runtime::Handle::current();
    let all = configs.into_iter().zip(listeners).zip(ahead_ms);
    all.map(|((mut config, listener), ahead_ms)| {
        config.initial_peers.clone_from(&peers);
        let clock = Arc::new(SetClock { real: RealClock::new(), ahead_ms: AtomicI64::new(*ahead_ms) });
        let network = Network { runtime: runtime.clone(), listener };
        let host = Host::run(&config, Some(network), Arc::clone(&clock) as Arc<dyn Clock>, |_| {});
        Machine { id: config.host, clock, host: host.expect("starts") }
    })
    .collect()
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let mut ticks = interval(Duration::from_millis(20));
    let held = timeout(PATIENCE, async {
        while !holds().await {
            ticks.tick().await;
        }
    });
    held.await.unwrap_or_else(|_| panic!("it did not come to pass that {what}"));
}

/// Pushes a task into a queue of each shard, through whoever leads it.
async fn push(machines: &[Machine]) {
    let queues = ["mail", "news"].map(|name| QueueName::new(name).expect("valid"));
    let [mail, news] = &queues;
    // Hosts hear each other's clocks before they know of the shards.
    until("all know of a shard for each", async || {
        machines.iter().all(|machine| machine.handle().shard_of(mail) != machine.handle().shard_of(news))
    })
    .await;
    for queue in queues {
        until("a task is pushed", async || {
            for machine in machines {
                let handle = machine.handle();
                if handle.route(handle.shard_of(&queue)) == Route::Here
                    && let Ok(created) = handle.create(queue.clone(), None, &[task()]).await
                {
                    return created[0].is_ok();
                }
            }
            false
        })
        .await;
    }
}

fn task() -> NewTask {
    NewTask { payload: vec![7; 10].into(), ..NewTask::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_is_hours_off_is_noticed_by_all_while_tasks_are_taken_and_when_it_is_set_right() {
    let dir = tempfile::tempdir().expect("a directory");
    let machines = cluster(dir.path(), &[0, 0, 2 * HOUR_MS]).await;
    let [a, b, c] = &machines[..] else { panic!("three hosts") };
    until("all know who is off", async || {
        a.sees(&[(b, false), (c, true)])
            && b.sees(&[(a, false), (c, true)])
            && c.sees(&[(a, true), (b, true)])
    })
    .await;
    let [warning] = &a.handle().warnings()[..] else { panic!("one clock is off") };
    assert!(warning.contains("host c is 7") && warning.contains("ahead of that of host a"), "{warning}");
    let warnings = c.handle().warnings();
    assert_eq!(warnings.len(), 2);
    assert!(warnings.iter().all(|text| text.contains("look there first")), "{warnings:?}");
    push(&machines).await;

    c.set(0);
    until("it is near again", async || {
        a.sees(&[(b, false), (c, false)]) && c.sees(&[(a, false), (b, false)])
    })
    .await;
    assert_eq!(a.handle().warnings(), Vec::<String>::new());

    b.set(-HOUR_MS);
    until("a clock that jumps later is noticed", async || {
        a.sees(&[(b, true), (c, false)]) && b.sees(&[(a, true), (c, true)])
    })
    .await;
    push(&machines).await;
}

#[tokio::test]
async fn a_host_without_others_compares_its_clock_with_nobody() {
    let dir = tempfile::tempdir().expect("a directory");
    let host = Host::start(&Config::single("one", dir.path()), |_| {}).expect("starts");
    assert!(host.handle().peer_clocks().is_empty());
    assert!(host.handle().warnings().is_empty());
    host.stop().expect("stops");
}
