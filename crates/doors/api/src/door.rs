//! What every call of this door shares.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;
use z4_host::{Error, Handle, Route};
use z4_proto::status::Failure;
use z4_types::{Millis, ShardId};

use crate::bodies::Bodies;
use crate::forward::Peers;
use crate::status;

/// Says where a shard is led.
pub(crate) type Routes = Box<dyn Fn(&Handle, ShardId) -> Route + Send + Sync>;

/// Cheap to clone.
#[derive(Clone)]
pub(crate) struct Door {
    shared: Arc<Shared>,
}

struct Shared {
    handle: Handle,
    /// The host's own knowledge; tests of forwarding have theirs.
    routes: Routes,
    peers: Peers,
    bodies: Bodies,
    stopping: watch::Receiver<bool>,
    started: Instant,
    next_consumer: AtomicU64,
}

impl Door {
    pub(crate) fn new(
        handle: Handle,
        routes: Routes,
        stopping: watch::Receiver<bool>,
        bodies: Bodies,
    ) -> Self {
        let (peers, started, next_consumer) = (Peers::new(), Instant::now(), AtomicU64::new(1));
        Self { shared: Arc::new(Shared { handle, routes, peers, bodies, stopping, started, next_consumer }) }
    }

    pub(crate) fn handle(&self) -> &Handle {
        &self.shared.handle
    }

    /// Returns where `shard` is led, as far as this host knows.
    pub(crate) fn route(&self, shard: ShardId) -> Route {
        (self.shared.routes)(self.handle(), shard)
    }

    /// Returns whether this host belongs to a cluster.
    pub(crate) fn is_joined(&self) -> bool {
        !self.handle().registry().shards.is_empty()
    }

    /// Returns the channels to the doors of other hosts.
    pub(crate) fn peers(&self) -> &Peers {
        &self.shared.peers
    }

    /// Returns the service address of this door, as the registry has it; empty if it does not know.
    pub(crate) fn service(&self) -> String {
        let handle = self.handle();
        handle.registry().host(&handle.identity().host).map(|host| host.service.clone()).unwrap_or_default()
    }

    /// Drops what is kept of hosts that the registry no longer names.
    pub(crate) fn forget_gone(&self) {
        let registry = self.handle().registry();
        self.peers().keep(|host, service| {
            registry.host(host).is_some_and(|host| host.is_member() && host.service == service)
        });
    }

    /// Returns the failure that `error` is to a caller; for want of leadership it names the leader.
    pub(crate) fn failure(&self, error: &Error) -> Failure {
        match error {
            Error::NotLeader(shard) => status::not_leader(*shard, &self.route(*shard)),
            error => status::failure(error),
        }
    }

    /// Returns what requests hold before they are understood, and how many calls are under way.
    pub(crate) fn bodies(&self) -> &Bodies {
        &self.shared.bodies
    }

    /// Returns whether streams are to end and long polls to return.
    pub(crate) fn is_stopping(&self) -> bool {
        *self.shared.stopping.borrow() || self.handle().is_stopping()
    }

    /// Waits until the server is told to stop.
    pub(crate) async fn stopping(&self) {
        let mut stopping = self.shared.stopping.clone();
        // Who holds the other end decides; if it is gone nobody will say stop.
        if stopping.wait_for(|stop| *stop).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Returns how long the door has been open.
    pub(crate) fn uptime(&self) -> Duration {
        self.shared.started.elapsed()
    }

    /// Returns the wall clock.
    pub(crate) fn wall(&self) -> Millis {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    /// Returns the name of a consumer: its own, or one that says where it is connected.
    pub(crate) fn consumer_name(&self, given: String) -> String {
        if !given.is_empty() {
            return given;
        }
        let number = self.shared.next_consumer.fetch_add(1, Relaxed);
        format!("{}#{number}", self.handle().identity().host)
    }
}
