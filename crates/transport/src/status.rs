//! What a transport knows about its connections, for metrics and diagnosis.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use z4_env::Clock;
use z4_types::HostId;

use crate::hello::Lane;

/// Frames and the bytes of their bodies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// Frames.
    pub frames: u64,
    /// Bytes of their bodies.
    pub bytes: u64,
}

/// Everything at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// By host: those we send to and those that send to us.
    pub peers: BTreeMap<HostId, PeerStatus>,
    /// What came to the peer port.
    pub listening: ListeningStatus,
}

/// One other host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeerStatus {
    /// host:port at which we dial it; empty if it is not one of the hosts we send to.
    pub address: String,
    /// The lanes we dialled.
    pub urgent: OutgoingStatus,
    /// See `urgent`.
    pub bulk: OutgoingStatus,
    /// The lanes it dialled.
    pub from_urgent: IncomingStatus,
    /// See `from_urgent`.
    pub from_bulk: IncomingStatus,
    /// Milliseconds since anything was heard of it, on any lane; none if nothing ever was.
    pub last_contact_ms: Option<u64>,
}

/// A lane towards another host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OutgoingStatus {
    /// Whether frames can leave now.
    pub connected: bool,
    /// How often a connection was made.
    pub connects: u64,
    /// Attempts and connections that failed.
    pub failures: u64,
    /// Written to the socket.
    pub sent: Count,
    /// Never written: the lane was full, the frame too large or too old, or its connection broke.
    pub dropped: Count,
    /// Waiting now.
    pub waiting: Count,
    /// Why the last attempt failed or the last connection ended; kept when a new one is made.
    pub last_error: Option<String>,
}

/// A lane from another host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IncomingStatus {
    /// Whether the other host holds a connection now.
    pub connected: bool,
    /// Handed to the handler.
    pub received: Count,
    /// Connections closed because what arrived was damaged or against the protocol.
    pub broken: u64,
    /// Bytes that the handler holds.
    pub held_bytes: u64,
}

/// What came to the peer port.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ListeningStatus {
    /// Lanes that were opened.
    pub lanes: u64,
    /// Questions that were answered.
    pub asks: u64,
    /// Hosts that were refused, see the log.
    pub refused: u64,
    /// Speakers of another protocol: a gRPC or HTTP client on the wrong port, a scanner.
    pub foreign: u64,
    /// Handshakes and frames that were damaged, cut, too long or against the protocol.
    pub broken: u64,
    /// Connections that said nothing, or not enough, in time.
    pub silent: u64,
    /// Connections closed at once because too many others were in their handshake.
    pub crowded: u64,
    /// Connections the operating system failed to hand over.
    pub failed: u64,
}

impl Count {
    /// Adds so many.
    pub(crate) fn add(&mut self, frames: u64, bytes: usize) {
        self.frames += frames;
        self.bytes += bytes as u64;
    }
}

impl PeerStatus {
    /// Returns the lane we dialled.
    #[must_use]
    pub fn outgoing(&self, lane: Lane) -> &OutgoingStatus {
        match lane {
            Lane::Urgent => &self.urgent,
            Lane::Bulk => &self.bulk,
        }
    }

    /// Returns the lane the other host dialled.
    #[must_use]
    pub fn incoming(&self, lane: Lane) -> &IncomingStatus {
        match lane {
            Lane::Urgent => &self.from_urgent,
            Lane::Bulk => &self.from_bulk,
        }
    }
}

/// When something was last heard.
pub(crate) struct Contact {
    clock: Arc<dyn Clock>,
    /// Nanoseconds of the clock; zero is never.
    last_ns: AtomicU64,
}

impl Contact {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, last_ns: AtomicU64::new(0) }
    }

    /// Something was heard now.
    pub(crate) fn touch(&self) {
        self.last_ns.store(self.clock.monotonic_ns().max(1), Ordering::Relaxed);
    }

    /// Returns how long ago, milliseconds.
    pub(crate) fn age_ms(&self) -> Option<u64> {
        let last = self.last_ns.load(Ordering::Relaxed);
        (last > 0).then(|| self.clock.monotonic_ns().saturating_sub(last) / 1_000_000)
    }
}

/// The state of a lane we dial, beside its queue.
#[derive(Default)]
pub(crate) struct Link(Mutex<LinkState>);

#[derive(Default, Clone)]
pub(crate) struct LinkState {
    pub connected: bool,
    pub connects: u64,
    pub failures: u64,
    pub last_error: Option<String>,
}

impl Link {
    fn change<T>(&self, change: impl FnOnce(&mut LinkState) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn up(&self) {
        self.change(|state| (state.connected, state.connects) = (true, state.connects + 1));
    }

    pub(crate) fn down(&self) {
        self.change(|state| state.connected = false);
    }

    /// Notes a failure and returns true if it is not the one of last time, so that each is logged once.
    pub(crate) fn failed(&self, error: String) -> bool {
        self.change(|state| {
            state.connected = false;
            state.failures += 1;
            let news = state.last_error.as_ref() != Some(&error);
            state.last_error = Some(error);
            news
        })
    }

    pub(crate) fn state(&self) -> LinkState {
        self.change(|state| state.clone())
    }
}

/// The live form of [`ListeningStatus`].
#[derive(Default)]
pub(crate) struct Listening {
    pub lanes: AtomicU64,
    pub asks: AtomicU64,
    pub refused: AtomicU64,
    pub foreign: AtomicU64,
    pub broken: AtomicU64,
    pub silent: AtomicU64,
    pub crowded: AtomicU64,
    pub failed: AtomicU64,
}

impl Listening {
    pub(crate) fn status(&self) -> ListeningStatus {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ListeningStatus {
            lanes: read(&self.lanes),
            asks: read(&self.asks),
            refused: read(&self.refused),
            foreign: read(&self.foreign),
            broken: read(&self.broken),
            silent: read(&self.silent),
            crowded: read(&self.crowded),
            failed: read(&self.failed),
        }
    }
}

/// Counts one more.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
