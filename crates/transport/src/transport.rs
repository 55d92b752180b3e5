//! The running transport: its peers, its port for drivers, its end.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use z4_env::{Frame, Net};
use z4_types::HostId;

use crate::ask::{self, Answer, Asks};
use crate::config::Config;
use crate::dial::{self, Control, Outgoing};
use crate::error::Error;
use crate::handler::Handler;
use crate::hello::{Lane, Purpose, Reason, Refusal};
use crate::inbound::Inbound;
use crate::listen;
use crate::queue::Queue;
use crate::status::{Contact, Link, Listening, OutgoingStatus, PeerStatus, Status};

/// Held by every task, so that a shutdown can wait for the last one.
pub(crate) type Alive = mpsc::Sender<Infallible>;

/// What all tasks share.
pub(crate) struct Shared {
    pub config: Config,
    pub handler: Arc<dyn Handler>,
    pub inbound: Inbound,
    pub listening: Listening,
    pub asks: Asks,
}

/// One host we send to.
struct Peer {
    urgent: Arc<Outgoing>,
    bulk: Arc<Outgoing>,
    control: watch::Sender<Control>,
}

#[derive(Default)]
struct Peers(RwLock<BTreeMap<HostId, Peer>>);

/// Frames between this host and others. Dropping it ends all connections at once; [`Transport::shutdown`] says goodbye.
pub struct Transport {
    shared: Arc<Shared>,
    peers: Arc<Peers>,
    stop: watch::Sender<bool>,
    runtime: Handle,
    /// None once stopping.
    alive: Mutex<Option<Alive>>,
    ended: mpsc::Receiver<Infallible>,
}

/// A driver's plug: sends frames from any thread and never blocks. Clones are the same plug.
#[derive(Clone)]
pub struct Port(Arc<Peers>);

impl Transport {
    /// Starts to listen. No lane exists before [`Transport::set_peers`].
    ///
    /// # Errors
    /// [`Error::Invalid`] if the configuration cannot work.
    ///
    /// # Panics
    /// Outside of a tokio runtime with sockets and timers: the tasks run there.
    pub fn start(config: Config, listener: TcpListener, handler: Arc<dyn Handler>) -> Result<Self, Error> {
        config.check()?;
        let (alive, ended) = mpsc::channel(1);
        let stop = watch::Sender::new(false);
        let shared = Arc::new(Shared {
            config,
            handler,
            inbound: Inbound::default(),
            listening: Listening::default(),
            asks: Asks::default(),
        });
        let runtime = Handle::current();
        runtime.spawn(listen::run(Arc::clone(&shared), listener, stop.subscribe(), alive.clone()));
        let peers = Arc::default();
        Ok(Self { shared, peers, stop, runtime, alive: Mutex::new(Some(alive)), ended })
    }

    /// Replaces the set of hosts to send to: id and host:port. New ones are dialled, changed addresses redialled, the
    /// lanes of those no longer named are closed in both directions; ourselves we are never dialled. Every host that
    /// holds a lane to us is admitted anew. May be called from any thread.
    pub fn set_peers(&self, addresses: &BTreeMap<HostId, String>) {
        let own = &self.shared.config.identity.host;
        let wanted = || addresses.iter().filter(|(host, _)| *host != own);
        let removed: Vec<HostId> = {
            let mut peers = self.peers.0.write().unwrap_or_else(PoisonError::into_inner);
            let removed: Vec<HostId> =
                peers.keys().filter(|host| !addresses.contains_key(*host)).cloned().collect();
            removed.iter().filter_map(|host| peers.remove(host)).for_each(|peer| peer.close());
            let alive = self.alive.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(alive) = &*alive else { return };
            for (host, address) in wanted() {
                match peers.get(host) {
                    Some(peer) => peer.set_address(address),
                    None => drop(peers.insert(host.clone(), self.dial(host, address, alive))),
                }
            }
            removed
        };
        self.shared.inbound.dismiss(|identity, lane| {
            if removed.contains(&identity.host) {
                let text = format!("host {} is no longer one of the hosts of this cluster", identity.host);
                return Some(Refusal::new(Reason::Removed, text));
            }
            self.shared.handler.admit(identity, Purpose::Lane(lane)).err()
        });
        self.shared.inbound.forget(|host| !addresses.contains_key(host));
    }

    fn dial(&self, host: &HostId, address: &str, alive: &Alive) -> Peer {
        let sizes = &self.shared.config.sizes;
        let contact = Arc::new(Contact::new(Arc::clone(&self.shared.config.clock)));
        let control = watch::Sender::new(Control { address: address.to_owned(), closing: false });
        let lane = |lane| {
            let outgoing = Arc::new(Outgoing {
                host: host.clone(),
                lane,
                queue: Queue::new(sizes.queue_frames, sizes.queue_bytes(lane), sizes.frame_bytes(lane)),
                link: Link::default(),
                contact: Arc::clone(&contact),
            });
            let (shared, task) = (Arc::clone(&self.shared), Arc::clone(&outgoing));
            self.runtime.spawn(dial::run(shared, task, control.subscribe(), alive.clone()));
            outgoing
        };
        Peer { urgent: lane(Lane::Urgent), bulk: lane(Lane::Bulk), control }
    }

    /// Hands `frame` to the lane towards `to` and returns at once; false if it was dropped: the lane is full, the
    /// frame too large for it, or there is no such host.
    pub fn send(&self, to: &HostId, frame: Frame) -> bool {
        self.peers.send(to, frame)
    }

    /// Returns a plug for a driver.
    #[must_use]
    pub fn port(&self) -> Port {
        Port(Arc::clone(&self.peers))
    }

    /// Asks the host at `address`, see [`ask()`].
    ///
    /// # Errors
    /// As [`ask()`].
    pub async fn ask(
        &self,
        address: &str,
        expects: Option<&HostId>,
        question: Bytes,
        deadline: Duration,
    ) -> Result<Answer, Error> {
        ask::ask(&self.shared.config, address, expects, question, deadline).await
    }

    /// Returns what is known of all connections at this moment.
    #[must_use]
    pub fn status(&self) -> Status {
        let mut status = Status { listening: self.shared.listening.status(), ..Status::default() };
        for (host, peer) in &*self.peers.0.read().unwrap_or_else(PoisonError::into_inner) {
            let of = status.peers.entry(host.clone()).or_default();
            of.address = peer.control.borrow().address.clone();
            (of.urgent, of.bulk) = (peer.urgent.status(), peer.bulk.status());
            of.last_contact_ms = peer.urgent.contact.age_ms();
        }
        for (host, lane, incoming, contact) in self.shared.inbound.status() {
            let of: &mut PeerStatus = status.peers.entry(host).or_default();
            match lane {
                Lane::Urgent => of.from_urgent = incoming,
                Lane::Bulk => of.from_bulk = incoming,
            }
            of.last_contact_ms = of.last_contact_ms.into_iter().chain(contact).min();
        }
        status
    }

    /// Stops listening, sends what waits as far as [`crate::Timing::grace`] allows, says goodbye on every connection
    /// and returns when the last one has ended.
    pub async fn shutdown(mut self) {
        self.stop();
        // Nothing is ever sent on this channel: it ends when the last task has dropped its end.
        let _: Option<Infallible> = self.ended.recv().await;
    }

    fn stop(&self) {
        self.alive.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.stop.send_replace(true);
        self.shared.inbound.close();
        let peers = std::mem::take(&mut *self.peers.0.write().unwrap_or_else(PoisonError::into_inner));
        peers.into_values().for_each(|peer| peer.close());
    }
}

impl Drop for Transport {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Peer {
    fn set_address(&self, address: &str) {
        self.control.send_if_modified(|control| {
            let moved = control.address != address;
            if moved {
                address.clone_into(&mut control.address);
            }
            moved
        });
    }

    fn close(&self) {
        self.urgent.queue.close();
        self.bulk.queue.close();
        self.control.send_modify(|control| control.closing = true);
    }
}

impl Outgoing {
    fn status(&self) -> OutgoingStatus {
        let (seen, link) = (self.queue.seen(), self.link.state());
        OutgoingStatus {
            connected: link.connected,
            connects: link.connects,
            failures: link.failures,
            sent: seen.sent,
            dropped: seen.dropped,
            waiting: seen.waiting,
            last_error: link.last_error,
        }
    }
}

impl Peers {
    fn send(&self, to: &HostId, frame: Frame) -> bool {
        let peers = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let Some(peer) = peers.get(to) else { return false };
        let lane = if frame.urgent { &peer.urgent } else { &peer.bulk };
        lane.queue.push(Bytes::from(frame.body))
    }
}

impl Net for Port {
    fn send(&mut self, to: &HostId, frame: Frame) -> bool {
        self.0.send(to, frame)
    }
}
