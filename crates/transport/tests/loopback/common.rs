//! Hosts for the tests: a transport, a handler that records, and ways to wait for a condition.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::{interval, timeout};
use z4_env::Frame;
use z4_transport::{
    Arrival, Boxed, Config, Handler, Identity, PeerStatus, Purpose, Refusal, Sizes, Timing, Transport,
};
use z4_types::{ClusterId, HostId};

/// No condition takes longer, however busy the machine is.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A handler that hands everything to the test.
pub(crate) struct Recorder {
    arrivals: mpsc::UnboundedSender<(HostId, Arrival)>,
    /// Whom to refuse.
    pub refuse: Mutex<BTreeMap<HostId, Refusal>>,
    /// Who refused us.
    pub refused: Mutex<Vec<(HostId, Refusal)>>,
}

impl Handler for Recorder {
    fn admit(&self, peer: &Identity, _purpose: Purpose) -> Result<(), Refusal> {
        self.refuse.lock().expect("no test panics with it").get(&peer.host).cloned().map_or(Ok(()), Err)
    }

    fn frame(&self, _from: &HostId, arrival: Arrival) {
        // Nobody listens any more at the end of a test.
        let _ = self.arrivals.send((_from.clone(), arrival));
    }

    /// Returns the question with the asker's name in front; "never" gets no answer, "long" a long one.
    fn answer(&self, from: Identity, question: Bytes) -> Boxed<'static, Bytes> {
        Box::pin(async move {
            match &question[..] {
                b"never" => std::future::pending().await,
                b"long" => Bytes::from(vec![7; 3 << 20]),
                _ => Bytes::from([from.host.0.as_bytes(), b": ", &question].concat()),
            }
        })
    }

    fn refused(&self, by: &HostId, refusal: &Refusal) {
        self.refused.lock().expect("no test panics with it").push((by.clone(), refusal.clone()));
    }
}

/// One host.
pub(crate) struct Node {
    pub transport: Transport,
    pub address: String,
    pub recorder: Arc<Recorder>,
    pub arrivals: mpsc::UnboundedReceiver<(HostId, Arrival)>,
}

pub(crate) fn host(name: &str) -> HostId {
    HostId(name.to_owned())
}

/// Defaults, with the patience of a test: quick to try again, slow to give up.
pub(crate) fn config(name: &str) -> Config {
    let identity = Identity {
        cluster: ClusterId(1),
        cluster_name: "test".into(),
        host: host(name),
        instance: 1,
        address: "127.0.0.1:0".into(),
    };
    let timing = Timing {
        handshake: Duration::from_secs(10),
        beat: Duration::from_millis(100),
        silence: Duration::from_secs(20),
        backoff_min: Duration::from_millis(2),
        backoff_max: Duration::from_millis(20),
        ..Timing::default()
    };
    let sizes = Sizes { bulk_room_bytes: 64 << 20, ..Sizes::default() };
    Config { timing, sizes, ..Config::new(identity, 1) }
}

pub(crate) async fn start_at(config: Config, address: &str) -> Node {
    let listener = TcpListener::bind(address).await.expect("a port on loopback");
    let address = listener.local_addr().expect("a bound listener").to_string();
    let (sender, arrivals) = mpsc::unbounded_channel();
    let recorder =
        Arc::new(Recorder { arrivals: sender, refuse: Mutex::default(), refused: Mutex::default() });
    let transport = Transport::start(config, listener, recorder.clone()).expect("a good configuration");
    Node { transport, address, recorder, arrivals }
}

pub(crate) async fn start(name: &str) -> Node {
    start_at(config(name), "127.0.0.1:0").await
}

impl Node {
    /// Makes `peers` the hosts it sends to.
    pub(crate) fn dial(&self, peers: &[(&str, &str)]) {
        let peers = peers.iter().map(|(name, address)| (host(name), (*address).to_owned())).collect();
        self.transport.set_peers(&peers);
    }

    /// Sends, waiting for room.
    pub(crate) async fn send(&self, to: &str, urgent: bool, body: &[u8]) {
        let to = host(to);
        until("the lane has room", || self.transport.send(&to, Frame { urgent, body: body.to_vec() })).await;
    }

    /// Returns the next arrival.
    pub(crate) async fn next(&mut self) -> (HostId, Arrival) {
        timeout(PATIENCE, self.arrivals.recv()).await.expect("a frame arrives").expect("the transport lives")
    }

    /// Returns the next body.
    pub(crate) async fn body(&mut self) -> Vec<u8> {
        self.next().await.1.body.to_vec()
    }

    pub(crate) fn status_of(&self, name: &str) -> PeerStatus {
        self.transport.status().peers.remove(&host(name)).unwrap_or_default()
    }

    /// Waits until both lanes towards `name` are connected.
    pub(crate) async fn connected(&self, name: &str) {
        until("both lanes are connected", || {
            let status = self.status_of(name);
            status.urgent.connected && status.bulk.connected
        })
        .await;
    }

    /// Waits until the urgent lane towards `name` has failed with an error that contains `text`.
    pub(crate) async fn fails(&self, name: &str, text: &str) {
        until(text, || self.status_of(name).urgent.last_error.is_some_and(|error| error.contains(text)))
            .await;
    }
}

/// Waits until `condition` holds.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let mut ticks = interval(Duration::from_millis(1));
    let held = timeout(PATIENCE, async {
        while !condition() {
            ticks.tick().await;
        }
    });
    held.await.unwrap_or_else(|_| panic!("not in time: {what}"));
}
