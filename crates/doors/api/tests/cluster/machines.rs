//! Three real hosts in one process, each with its door.
//!
//! Each host has a runtime of its own for all its sockets. One that ends takes every connection with it without a word,
//! as a machine does that loses its power.

use std::future::Future;
use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use z4_client::Client;
use z4_host::{Config, Host, Network};
use z4_types::{HostId, QueueName};

/// Elections on a busy machine take their time; a promise that is kept at all is kept by then.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
pub(crate) const NAMES: [&str; 3] = ["a", "b", "c"];
/// Of two task shards; four queues are in both of them.
pub(crate) const QUEUES: [&str; 4] = ["mail", "sms", "fax", "post"];

pub(crate) struct Machine {
    pub(crate) host: Host,
    pub(crate) service: String,
    stop: watch::Sender<bool>,
    /// None: it is dead.
    runtime: Option<Runtime>,
}

pub(crate) struct Cluster {
    pub(crate) machines: Vec<Machine>,
    dir: TempDir,
}

impl Machine {
    async fn start(config: Config, peers: TcpListener, door: TcpListener) -> Self {
        let (stop, stopping) = watch::channel(false);
        let service = config.service.clone();
        let runtime = Runtime::new().expect("a runtime");
        let handle = runtime.handle().clone();
        let started = runtime.spawn(async move {
            let network = Network { runtime: handle, listener: rebound(peers) };
            let host = Host::start_with(&config, network, |_| {}).expect("starts");
            tokio::spawn(z4_api::serve(host.handle().clone(), rebound(door), stopping));
            host
        });
        let host = started.await.expect("no panic");
        Self { host, service, stop, runtime: Some(runtime) }
    }

    fn end(mut self) {
        self.stop.send_replace(true);
        self.host.stop().expect("stops in good order");
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Cluster {
    /// Forms a cluster of all, and waits until every shard has a leader that every door knows.
    pub(crate) async fn start() -> Self {
        Self::replicated(u32::try_from(NAMES.len()).expect("few")).await
    }

    /// As [`Cluster::start`], with so many replicas of each task shard.
    pub(crate) async fn replicated(replication: u32) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let mut ports = Vec::new();
        for name in NAMES {
            let (peers, door) = (listener().await, listener().await);
            ports.push((HostId(name.into()), peers, door));
        }
        let initial_peers: Vec<_> = ports.iter().map(|(id, peers, _)| (id.clone(), address(peers))).collect();
        let mut machines = Vec::new();
        for (id, peers, door) in ports {
            let config = Config {
                initial_peers: initial_peers.clone(),
                replication,
                ..config(&id, dir.path(), &peers, &door)
            };
            machines.push(Machine::start(config, peers, door).await);
        }
        let this = Self { machines, dir };
        until("every door knows every leader and every door", || async {
            for machine in &this.machines {
                let client = Client::connect([machine.service.as_str()]).expect("address");
                let known = client.info().await.ok()?;
                let shards = client.list_shards().await.ok()?;
                let ready = known.members.iter().all(|member| !member.service_address.is_empty())
                    && known.members.len() == NAMES.len()
                    && shards.iter().all(|shard| !shard.leader.is_empty());
                ready.then_some(())?;
            }
            Some(())
        })
        .await;
        this
    }

    /// Returns a client that is given one address.
    pub(crate) fn client(&self, at: usize) -> Client {
        Client::builder([self.machines[at].service.as_str()])
            .timeout(Duration::from_secs(30))
            .build()
            .expect("address")
    }

    /// Returns which host leads the shard of `queue`.
    pub(crate) async fn leader(&self, queue: &str) -> usize {
        let queue = QueueName::new(queue).expect("a name");
        until("the queue's shard is led", || async {
            let alive = |machine: &&Machine| machine.runtime.is_some();
            let asked = self.machines.iter().find(alive).expect("one lives");
            let shard = asked.host.handle().shard_of(&queue);
            let shards =
                Client::connect([asked.service.as_str()]).expect("address").list_shards().await.ok()?;
            let leader = shards.iter().find(|each| each.id == shard.0)?.leader.clone();
            NAMES.iter().position(|name| *name == leader)
        })
        .await
    }

    /// Takes all connections of a host away, for good.
    pub(crate) fn kill(&mut self, at: usize) {
        self.machines[at].runtime.take().expect("it lived").shutdown_background();
    }

    /// Stops a host and starts it again, at other addresses, which the others do not know.
    pub(crate) async fn start_again(&mut self, at: usize) {
        let machine = self.machines.remove(at);
        let id = machine.host.handle().identity().host.clone();
        machine.end();
        let (peers, door) = (listener().await, listener().await);
        let config = config(&id, self.dir.path(), &peers, &door);
        self.machines.insert(at, Machine::start(config, peers, door).await);
    }

    pub(crate) fn stop(self) {
        self.machines.into_iter().for_each(Machine::end);
    }
}

fn config(id: &HostId, dir: &Path, peers: &TcpListener, door: &TcpListener) -> Config {
    let mut config = Config::single(&id.0, &dir.join(&id.0));
    config.bootstrap = false;
    config.advertise = address(peers);
    config.service = address(door);
    config.task_shards = 2;
    config.sizes.segment_bytes = 1 << 20;
    config
}

async fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.expect("a port")
}

fn address(listener: &TcpListener) -> String {
    listener.local_addr().expect("bound").to_string()
}

/// Moves a listener to the runtime in which this is called.
fn rebound(listener: TcpListener) -> TcpListener {
    TcpListener::from_std(listener.into_std().expect("not in use")).expect("a runtime")
}

pub(crate) async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut holds: impl FnMut() -> F) -> T {
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
