//! The addresses of the cluster, and which of them to ask.
//!
//! A call goes to the leader of what it is about, if that is known: replies that were forwarded name it, and so do
//! refusals. Everything else goes to one address until it fails, so that one connection carries it; then to the next
//! in turn. Any host serves any call, so a wrong guess costs a detour and no failure.
//!
//! Addresses are those the caller gave, and those the cluster's hosts announce. The latter need not be reachable from
//! here (other networks have other names for the same hosts): one that fails is left alone for a while.
//!
//! # Invariants
//! - `current < list.len()`, and the list is never empty: given addresses stay.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};
use z4_proto::reason;
use z4_types::{Kind, ShardId};

use crate::Error;

/// Port of an address that names none.
const DEFAULT_PORT: u16 = 6355;
/// Most addresses remembered; those learned past it are ignored.
const ADDRESSES_MAX: usize = 64;
/// Most leaders remembered. Past it all are forgotten, and learned again where they are needed.
const LEADERS_MAX: usize = 4_096;
/// A learned address that failed is not asked for so long.
const LEFT_ALONE: Duration = Duration::from_secs(30);
/// The cluster is asked for its hosts this often,
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// and after a failure sooner, but never more often than this.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// A host that does not answer a connection in this time is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A connection silent so long is probed, and one that does not answer the probe as long again is dropped: a host
/// that lost its power sends no goodbye.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// Flow-control windows: several full frames, so that a stream never waits for a window update in between.
const STREAM_WINDOW_BYTES: u32 = 8 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 32 << 20;

#[derive(Debug)]
pub(crate) struct Endpoints {
    state: Mutex<State>,
}

/// What a call is about, so that it can go to who leads it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum About<'a> {
    /// Nothing that is led: any host will do.
    Nothing,
    /// A queue.
    Queue(&'a str),
    /// What a shard holds.
    Shard(ShardId),
}

#[derive(Debug)]
struct State {
    list: Vec<Address>,
    current: usize,
    /// Who leads a queue's shard, by address.
    queues: HashMap<Box<str>, String>,
    shards: HashMap<ShardId, String>,
    /// When to ask the cluster for its hosts.
    look_at: Instant,
}

#[derive(Debug)]
struct Address {
    text: String,
    endpoint: Endpoint,
    /// Made on first use, because making one needs a runtime. It reconnects by itself.
    channel: Option<Channel>,
    /// By the caller. Others come and go.
    given: bool,
    /// It failed, and is left alone until then.
    alone_until: Option<Instant>,
}

impl Address {
    fn parse(text: &str) -> Result<Self, Error> {
        let bad = |why: String| {
            Error::new(
                Kind::Invalid,
                reason::FIELD_INVALID,
                format!("address {text:?}: {why}; give host:port"),
            )
        };
        let bare = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
        if bare.is_empty() || bare.contains(['/', ' ', '@']) {
            return Err(bad("not of the form host:port".to_owned()));
        }
        let parse = |address: &str| {
            Endpoint::from_shared(format!("http://{address}")).map_err(|e| bad(e.to_string()))
        };
        let mut endpoint = parse(bare)?;
        if endpoint.uri().port_u16().is_none() {
            // "host:" and "host:99999" parse as a host without a port; "[::1]" rightly has none.
            if bare.rsplit(']').next().is_some_and(|tail| tail.contains(':')) {
                return Err(bad("the port is not a number from 1 to 65535".to_owned()));
            }
            endpoint = parse(&format!("{bare}:{DEFAULT_PORT}"))?;
        }
        let text = endpoint.uri().authority().map(ToString::to_string).unwrap_or_default();
        let endpoint = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
        Ok(Self { text, endpoint, channel: None, given: true, alone_until: None })
    }
}

impl State {
    fn find(&self, text: &str) -> Option<usize> {
        self.list.iter().position(|known| known.text == text)
    }

    /// Returns whether an address may be asked.
    fn usable(&self, at: usize, now: Instant) -> bool {
        self.list[at].alone_until.is_none_or(|until| until <= now)
    }

    /// Returns the leader of what a call is about, if it is known and may be asked.
    fn leader(&self, about: About<'_>, now: Instant) -> Option<usize> {
        let text = match about {
            About::Nothing => None,
            About::Queue(queue) => self.queues.get(queue),
            About::Shard(shard) => self.shards.get(&shard),
        };
        self.find(text?).filter(|at| self.usable(*at, now))
    }

    /// Adds a learned address, if it is one and there is room; returns where it is.
    fn add(&mut self, text: &str) -> Option<usize> {
        if let Some(at) = self.find(text) {
            return Some(at);
        }
        if self.list.len() >= ADDRESSES_MAX {
            return None;
        }
        let learned = Address::parse(text).ok()?;
        // As it is written now: with a port, for one.
        if let Some(at) = self.find(&learned.text) {
            return Some(at);
        }
        self.list.push(Address { given: false, ..learned });
        Some(self.list.len() - 1)
    }
}

impl Endpoints {
    pub(crate) fn new(addresses: &[String]) -> Result<Self, Error> {
        let list = addresses.iter().map(|text| Address::parse(text)).collect::<Result<Vec<_>, _>>()?;
        if list.is_empty() {
            let what = "no address was given; give at least one host:port";
            return Err(Error::new(Kind::Invalid, reason::FIELD_MISSING, what));
        }
        let (queues, shards, look_at) = (HashMap::new(), HashMap::new(), Instant::now());
        Ok(Self { state: Mutex::new(State { list, current: 0, queues, shards, look_at }) })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Returns how many addresses there are.
    pub(crate) fn len(&self) -> usize {
        self.lock().list.len()
    }

    /// Returns how long a server asks to be left alone after `error`. A word about itself, such as that it is stopping,
    /// means nothing where there is another to ask.
    pub(crate) fn asked_to_wait(&self, error: &Error) -> Option<Duration> {
        let of_itself = error.blames_host() && error.kind() == Kind::Unavailable;
        error.retry_after().filter(|_| !of_itself || self.len() == 1)
    }

    /// Returns where to send a call, and a channel to there.
    pub(crate) fn to(&self, about: About<'_>) -> (String, Channel) {
        let mut state = self.lock();
        let at = state.leader(about, Instant::now()).unwrap_or(state.current);
        let address = &mut state.list[at];
        let channel = address.channel.get_or_insert_with(|| address.endpoint.connect_lazy()).clone();
        (address.text.clone(), channel)
    }

    /// Moves on from `address`, unless somebody did already.
    pub(crate) fn failed(&self, address: &str) {
        let mut state = self.lock();
        let now = Instant::now();
        state.queues.retain(|_, leader| leader != address);
        state.shards.retain(|_, leader| leader != address);
        state.look_at = state.look_at.min(now + LOOK_AGAIN);
        if let Some(at) = state.find(address).filter(|at| !state.list[*at].given) {
            state.list[at].alone_until = Some(now + LEFT_ALONE);
        }
        if state.list[state.current].text == address {
            let count = state.list.len();
            let others = (1..count).map(|step| (state.current + step) % count);
            if let Some(next) = others.into_iter().find(|at| state.usable(*at, now)) {
                state.current = next;
            }
        }
    }

    /// Somebody said that `address` leads what a call is about; empty means that nobody is named. Returns whether calls
    /// about it go there from now on, and went elsewhere before.
    pub(crate) fn leads(&self, about: About<'_>, address: &str) -> bool {
        if address.is_empty() {
            return false;
        }
        let mut state = self.lock();
        let now = Instant::now();
        let Some(at) = state.add(address).filter(|at| state.usable(*at, now)) else { return false };
        if state.leader(about, now) == Some(at) {
            return false;
        }
        if state.queues.len() + state.shards.len() >= LEADERS_MAX {
            state.queues.clear();
            state.shards.clear();
        }
        let text = state.list[at].text.clone();
        match about {
            About::Nothing => return false,
            About::Queue(queue) => drop(state.queues.insert(queue.into(), text)),
            About::Shard(shard) => drop(state.shards.insert(shard, text)),
        }
        true
    }

    /// Who was believed to lead this does not: ask anybody.
    pub(crate) fn forget(&self, about: About<'_>) {
        let mut state = self.lock();
        match about {
            About::Nothing => {}
            About::Queue(queue) => drop(state.queues.remove(queue)),
            About::Shard(shard) => drop(state.shards.remove(&shard)),
        }
    }

    /// Returns whether it is time to ask the cluster for its hosts; then somebody else need not for a while.
    pub(crate) fn look_around(&self) -> bool {
        let mut state = self.lock();
        let now = Instant::now();
        let due = state.look_at <= now;
        if due {
            state.look_at = now + LOOK_EVERY;
        }
        due
    }

    /// Takes the addresses of the cluster's hosts in place of those learned before.
    pub(crate) fn learn<'a>(&self, addresses: impl Iterator<Item = &'a str>) {
        let mut state = self.lock();
        let kept: Vec<usize> = addresses.filter_map(|address| state.add(address)).collect();
        let kept: Vec<String> = kept.into_iter().map(|at| state.list[at].text.clone()).collect();
        let current = state.list[state.current].text.clone();
        // The one in use stays: it answers.
        state.list.retain(|each| each.given || each.text == current || kept.contains(&each.text));
        state.current = state.find(&current).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_completed_or_refused() {
        let text = |address: &str| Address::parse(address).map(|a| a.text).map_err(|e| e.kind());
        assert_eq!(text("localhost"), Ok("localhost:6355".to_owned()));
        assert_eq!(text("http://10.0.0.1:7/"), Ok("10.0.0.1:7".to_owned()));
        assert_eq!(text("[::1]"), Ok("[::1]:6355".to_owned()));
        assert_eq!(text("[::1]:80"), Ok("[::1]:80".to_owned()));
        for bad in ["", "a b", "host:", "host:99999", "host:x", "ftp://x", "host:1/path", "::1:x"] {
            assert_eq!(text(bad), Err(Kind::Invalid), "{bad:?}");
        }
    }

    fn endpoints(addresses: &[&str]) -> Endpoints {
        Endpoints::new(&addresses.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>())
            .expect("addresses")
    }

    #[tokio::test]
    async fn a_failed_address_gives_way_once() {
        let endpoints = endpoints(&["a:1", "b:2"]);
        let current = || endpoints.to(About::Nothing).0;
        assert_eq!(current(), "a:1");
        endpoints.failed("a:1");
        endpoints.failed("a:1");
        assert_eq!(current(), "b:2", "two calls that failed on the same host move on once");
        endpoints.failed("b:2");
        assert_eq!(current(), "a:1", "given addresses are tried for ever");
    }

    #[tokio::test]
    async fn each_queue_and_shard_goes_to_its_leader_until_that_fails() {
        let endpoints = endpoints(&["a:1", "b:2"]);
        let to = |about| endpoints.to(about).0;
        let (mail, shard) = (About::Queue("mail"), About::Shard(ShardId(3)));
        assert!(endpoints.leads(mail, "c:3") && endpoints.leads(shard, "b:2"));
        assert!(!endpoints.leads(mail, "c:3"), "known already");
        assert!(!endpoints.leads(mail, ""), "nobody was named");
        assert_eq!([to(mail), to(shard), to(About::Queue("sms"))], ["c:3", "b:2", "a:1"]);
        endpoints.failed("c:3");
        assert_eq!([to(mail), to(shard)], ["a:1", "b:2"]);
        assert!(!endpoints.leads(mail, "c:3"), "it was learned and cannot be reached from here: left alone");
        endpoints.forget(shard);
        assert_eq!(to(shard), "a:1");
    }

    #[tokio::test(start_paused = true)]
    async fn hosts_are_learned_take_over_and_go_when_the_cluster_says_so() {
        let endpoints = endpoints(&["a:1"]);
        let current = || endpoints.to(About::Nothing).0;
        assert!(endpoints.look_around());
        assert!(!endpoints.look_around(), "once");
        endpoints.learn(["a:1", "b:2", "c:3", "not an address", ""].into_iter());
        assert_eq!(endpoints.len(), 3);
        endpoints.failed("a:1");
        assert_eq!(current(), "b:2");
        tokio::time::advance(LOOK_AGAIN).await;
        assert!(endpoints.look_around(), "a failure may mean that hosts have changed");
        endpoints.learn(["c:3"].into_iter());
        assert_eq!((current().as_str(), endpoints.len()), ("b:2", 3), "the one in use stays");
        endpoints.failed("b:2");
        assert_eq!(current(), "c:3");
        endpoints.learn(["c:3"].into_iter());
        assert_eq!(endpoints.len(), 2, "the given one and the member");
        endpoints.failed("c:3");
        assert_eq!(current(), "a:1", "what was given is always tried");
    }
}
