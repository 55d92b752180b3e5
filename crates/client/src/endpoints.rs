//! The addresses of the cluster, and the one in use.
//!
//! All calls of a client go to one address until it fails, so that one connection carries them; then to the next in
//! turn. A reply that was forwarded names a better one, which is then preferred.
//!
//! # Invariants
//! - `current < list.len()`, and the list is never empty.

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tonic::transport::{Channel, Endpoint};
use z4_proto::reason;
use z4_types::Kind;

use crate::Error;

/// Port of an address that names none.
const DEFAULT_PORT: u16 = 6355;
/// Most addresses remembered; those learned from replies past it are ignored.
const ADDRESSES_MAX: usize = 64;
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

#[derive(Debug)]
struct State {
    list: Vec<Address>,
    current: usize,
}

#[derive(Debug)]
struct Address {
    text: String,
    endpoint: Endpoint,
    /// Made on first use, because making one needs a runtime. It reconnects by itself.
    channel: Option<Channel>,
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
        Ok(Self { text, endpoint, channel: None })
    }
}

impl Endpoints {
    pub(crate) fn new(addresses: &[String]) -> Result<Self, Error> {
        let list = addresses.iter().map(|text| Address::parse(text)).collect::<Result<Vec<_>, _>>()?;
        if list.is_empty() {
            let what = "no address was given; give at least one host:port";
            return Err(Error::new(Kind::Invalid, reason::FIELD_MISSING, what));
        }
        Ok(Self { state: Mutex::new(State { list, current: 0 }) })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Returns how many addresses there are.
    pub(crate) fn len(&self) -> usize {
        self.lock().list.len()
    }

    /// Returns the address in use and its channel.
    pub(crate) fn current(&self) -> (String, Channel) {
        let mut state = self.lock();
        let current = state.current;
        let address = &mut state.list[current];
        let channel = address.channel.get_or_insert_with(|| address.endpoint.connect_lazy()).clone();
        (address.text.clone(), channel)
    }

    /// Moves on from `address`, unless somebody did already.
    pub(crate) fn failed(&self, address: &str) {
        let mut state = self.lock();
        if state.list[state.current].text == address {
            state.current = (state.current + 1) % state.list.len();
        }
    }

    /// A reply came from elsewhere: go there directly next time. Empty means it did not.
    pub(crate) fn prefer(&self, address: &str) {
        if address.is_empty() {
            return;
        }
        let mut state = self.lock();
        if let Some(at) = state.list.iter().position(|known| known.text == address) {
            state.current = at;
        } else if state.list.len() < ADDRESSES_MAX
            && let Ok(new) = Address::parse(address)
        {
            state.list.push(new);
            state.current = state.list.len() - 1;
        }
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

    #[tokio::test]
    async fn a_failed_address_gives_way_once_and_a_forwarded_one_is_preferred() {
        let endpoints = Endpoints::new(&["a:1".to_owned(), "b:2".to_owned()]).expect("two addresses");
        assert_eq!(endpoints.current().0, "a:1");
        endpoints.failed("a:1");
        endpoints.failed("a:1");
        assert_eq!(endpoints.current().0, "b:2", "two calls that failed on the same host move on once");
        endpoints.prefer("c:3");
        assert_eq!((endpoints.current().0.as_str(), endpoints.len()), ("c:3", 3));
        endpoints.prefer("a:1");
        assert_eq!((endpoints.current().0.as_str(), endpoints.len()), ("a:1", 3));
    }
}
