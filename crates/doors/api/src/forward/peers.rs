//! Kept channels to the doors of other hosts.
//!
//! A channel is made when it is first needed, connects by itself and connects again when it breaks. Each carries a
//! limited number of calls; further ones get another channel, up to a limit. Streams have channels of their own, because
//! a consumer that does not read must not hold up calls.
//!
//! # Invariants
//! - A peer's channels lead to one address: another address under its name drops them. Calls under way finish.
//! - Never more than `CALLS_MAX` calls to one host, and `STREAMS_MAX` streams to all together.
//!
//! # Caveats
//! - The address is that of the registry. A host that is reached at another one under the same name, behind a proxy of
//!   the clients, is asked directly.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::transport::{Channel, Endpoint, Error};
use z4_proto::reason;
use z4_proto::status::Failure;
use z4_types::{HostId, Kind};

use crate::bodies::{Bodies, Purpose};
use crate::meter::Meter;

/// Calls of one channel: half of what a door takes on a connection.
const CALLS_PER_CHANNEL: usize = 512;
/// Calls under way to one host. Past it: refused with a delay.
const CALLS_MAX: usize = 4 * CALLS_PER_CHANNEL;
/// Streams of one channel.
const STREAMS_PER_CHANNEL: usize = 64;
/// Streams passed on at a time, to all hosts together. Past it their clients are sent to the leader.
const STREAMS_MAX: usize = 512;
/// What may be on the way to us for one stream that is not read; times `STREAMS_MAX` it is in the sum of `bodies.rs`.
const STREAM_WINDOW_BYTES: u32 = 16 << 10;
/// And for one call, and all calls of a channel: their answers are read as soon as they come, or refused.
const CALL_WINDOW_BYTES: u32 = 64 << 10;
const CALLS_WINDOW_BYTES: u32 = 256 << 10;
/// A host on the same network answers sooner, or not at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// A host that lost its power says no goodbye: noticed after twice this time.
const KEEP_ALIVE: Duration = Duration::from_secs(1);
/// When a refused caller may come back.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// See the module essay.
pub(crate) struct Peers {
    known: Mutex<BTreeMap<HostId, Peer>>,
    streams: Arc<Semaphore>,
}

struct Peer {
    service: String,
    calls: Lanes,
    streams: Lanes,
}

/// Channels of one kind.
struct Lanes {
    endpoint: Endpoint,
    per_channel: usize,
    channels_max: usize,
    open: Vec<(Channel, Arc<Semaphore>)>,
}

/// A channel and a place on it, held as long as the call takes.
pub(crate) struct Kept {
    pub(crate) channel: Channel,
    _places: (OwnedSemaphorePermit, Option<OwnedSemaphorePermit>),
}

impl Peers {
    pub(crate) fn new() -> Self {
        Self { known: Mutex::default(), streams: Arc::new(Semaphore::new(STREAMS_MAX)) }
    }

    /// Takes a place for a unary call to `host`, whose door is at `service`.
    ///
    /// # Errors
    /// `Overloaded` if there are too many, `Unavailable` if the address is none.
    pub(crate) fn call(&self, host: &HostId, service: &str) -> Result<Kept, Failure> {
        let (channel, place) = self.take(host, service, |peer| &mut peer.calls)?.ok_or_else(|| {
            let what = format!("{CALLS_MAX} calls are passed on to host {host}, the limit; back off");
            Failure::new(Kind::Overloaded, reason::OVERLOADED, what).with_retry_after(RETRY_AFTER)
        })?;
        Ok(Kept { channel, _places: (place, None) })
    }

    /// Takes a place for a stream to `host`, whose door is at `service`.
    ///
    /// # Errors
    /// `Unavailable` with the leader if there are too many, or if the address is none.
    pub(crate) fn stream(&self, host: &HostId, service: &str) -> Result<Kept, Failure> {
        let full = || {
            let what = format!(
                "this host passes on {STREAMS_MAX} streams, the limit; open this one at the leader, host {host} at \
                 {service}"
            );
            Failure::new(Kind::Unavailable, reason::NOT_LEADER, what)
                .with_leader(host.0.clone(), service)
                .with_retry_after(RETRY_AFTER)
        };
        let ours = Arc::clone(&self.streams).try_acquire_owned().map_err(|_| full())?;
        let (channel, place) = self.take(host, service, |peer| &mut peer.streams)?.ok_or_else(full)?;
        Ok(Kept { channel, _places: (place, Some(ours)) })
    }

    /// Drops the channels to hosts that `still` no longer knows at their address, and those that carry nothing beside
    /// the first.
    pub(crate) fn keep(&self, still: impl Fn(&HostId, &str) -> bool) {
        let mut known = self.lock();
        known.retain(|host, peer| still(host, &peer.service));
        for peer in known.values_mut() {
            peer.calls.shrink();
            peer.streams.shrink();
        }
    }

    fn take(
        &self,
        host: &HostId,
        service: &str,
        lanes: impl Fn(&mut Peer) -> &mut Lanes,
    ) -> Result<Option<(Channel, OwnedSemaphorePermit)>, Failure> {
        let mut known = self.lock();
        if let Some(peer) = known.get_mut(host).filter(|peer| peer.service == service) {
            return Ok(lanes(peer).take());
        }
        let mut peer = Peer::new(host, service)?;
        let taken = lanes(&mut peer).take();
        known.insert(host.clone(), peer);
        Ok(taken)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<HostId, Peer>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns how many hosts there are channels to.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }
}

impl Peer {
    fn new(host: &HostId, service: &str) -> Result<Self, Failure> {
        let endpoint = Endpoint::from_shared(format!("http://{service}")).map_err(|error| {
            let what = format!(
                "host {host} has announced the service address {service:?}, which is none: {error}; correct its \
                 configuration"
            );
            Failure::new(Kind::Unavailable, reason::NO_LEADER, what)
        })?;
        let endpoint = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .keep_alive_while_idle(true);
        let lanes = |per_channel: usize, max: usize, window: u32, all: u32| Lanes {
            endpoint: endpoint.clone().initial_stream_window_size(window).initial_connection_window_size(all),
            per_channel,
            channels_max: max / per_channel,
            open: Vec::new(),
        };
        // As much for all streams of a channel as for each, so that none waits for another.
        let all_streams = STREAM_WINDOW_BYTES * STREAMS_PER_CHANNEL as u32;
        Ok(Self {
            service: service.to_owned(),
            calls: lanes(CALLS_PER_CHANNEL, CALLS_MAX, CALL_WINDOW_BYTES, CALLS_WINDOW_BYTES),
            streams: lanes(STREAMS_PER_CHANNEL, STREAMS_MAX, STREAM_WINDOW_BYTES, all_streams),
        })
    }
}

impl Lanes {
    /// Takes a place on the first channel that has one; None: all are full.
    fn take(&mut self) -> Option<(Channel, OwnedSemaphorePermit)> {
        let free = |(channel, places): &(Channel, Arc<Semaphore>)| {
            Some((channel.clone(), Arc::clone(places).try_acquire_owned().ok()?))
        };
        if let Some(taken) = self.open.iter().find_map(free) {
            return Some(taken);
        }
        if self.open.len() >= self.channels_max {
            return None;
        }
        self.open.push((self.endpoint.connect_lazy(), Arc::new(Semaphore::new(self.per_channel))));
        self.open.last().and_then(free)
    }

    /// Drops channels at the end that carry nothing, all but the first.
    fn shrink(&mut self) {
        while self.open.len() > 1
            && self.open.last().is_some_and(|(_, places)| places.available_permits() == self.per_channel)
        {
            self.open.pop();
        }
    }
}

impl Kept {
    /// Returns the channel with the answers under the budget.
    pub(crate) fn answers(self, bodies: &Bodies) -> Answers {
        Answers { kept: Arc::new(self), bodies: bodies.clone() }
    }
}

/// A channel whose answers are under the door's budget from their first bytes, as requests are.
#[derive(Clone)]
pub(crate) struct Answers {
    kept: Arc<Kept>,
    bodies: Bodies,
}

impl Service<http::Request<Body>> for Answers {
    type Response = http::Response<Body>;
    type Error = Error;
    type Future = BoxFuture<Self::Response, Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        // Asked of the clone that is used.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let mut channel = self.kept.channel.clone();
        let bodies = self.bodies.clone();
        Box::pin(async move {
            std::future::poll_fn(|cx| channel.poll_ready(cx)).await?;
            let response = channel.call(request).await?;
            Ok(response.map(|body| Body::new(Meter::new(body, bodies, Purpose::Other))))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str) -> HostId {
        HostId(name.into())
    }

    #[tokio::test]
    async fn channels_are_few_are_shared_and_go_with_their_address() {
        let peers = Peers::new();
        let mut held = Vec::new();
        while let Ok(kept) = peers.call(&host("b"), "b:1") {
            held.push(kept);
        }
        assert_eq!(held.len(), CALLS_MAX);
        let refused = peers.call(&host("b"), "b:1").err().expect("the limit");
        assert_eq!((refused.kind, refused.retry_after), (Kind::Overloaded, Some(RETRY_AFTER)));
        assert!(peers.call(&host("c"), "c:1").is_ok(), "another host has its own");
        assert!(peers.call(&host("b"), "b:2").is_ok(), "and so has another address");
        drop(held);
        assert!(peers.call(&host("bad"), "no address").is_err());
        assert_eq!(peers.len(), 2);
        peers.keep(|name, service| *name == host("b") && service == "b:2");
        assert_eq!(peers.len(), 1);
        peers.keep(|_, _| false);
        assert_eq!(peers.len(), 0);
    }

    #[tokio::test]
    async fn streams_past_the_limit_are_sent_to_the_leader() {
        let peers = Peers::new();
        let held: Vec<_> = std::iter::from_fn(|| peers.stream(&host("b"), "b:1").ok()).collect();
        assert_eq!(held.len(), STREAMS_MAX);
        let refused = peers.stream(&host("c"), "c:1").err().expect("the limit is that of all hosts");
        let leader = refused.leader.expect("names the leader");
        assert_eq!((&*refused.reason, &*leader.address), (reason::NOT_LEADER, "c:1"));
        drop(held);
        assert!(peers.stream(&host("c"), "c:1").is_ok());
    }
}
