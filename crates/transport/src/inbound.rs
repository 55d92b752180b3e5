//! Incoming lanes: who holds one, how much the handler holds of each, and the task that reads one.
//!
//! A host holds at most one connection a lane. When it dials anew (after a break that only it has noticed) the new
//! connection replaces the old one, and reads nothing before the old one has stopped: frames keep their order.
//!
//! The room of a lane belongs to host and lane, not to the connection, so that reconnecting gives no more of it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::AsyncWrite;
use tokio::sync::{Semaphore, watch};
use tokio::time::{interval, timeout};
use z4_types::HostId;

use crate::config::Config;
use crate::error::Error;
use crate::frame::{BadFrame, Kind};
use crate::greet;
use crate::handler::{Arrival, Room};
use crate::hello::{Identity, Lane, Purpose, Reason, Refusal};
use crate::reader::FrameReader;
use crate::status::{Contact, Count, IncomingStatus, count};
use crate::stream::Stream;
use crate::transport::Shared;

/// What a frame costs of a lane's room besides its body, bytes: so that empty frames are bounded too.
pub(crate) const FRAME_COST: usize = 128;
/// Lanes from other hosts; past it new ones are refused. Admission bounds them first.
const SLOTS_MAX: usize = 2_048;
/// How long a goodbye may take.
const BYE: Duration = Duration::from_millis(100);
/// Bytes after which a reader lets other tasks of its thread run.
const BURST_BYTES: usize = 1 << 20;

/// All incoming lanes.
#[derive(Default)]
pub(crate) struct Inbound {
    slots: Mutex<Slots>,
}

#[derive(Default)]
struct Slots {
    closed: bool,
    by_lane: BTreeMap<(HostId, Lane), Arc<Slot>>,
    /// Grows with every connection.
    number: u64,
}

/// One lane of one host, whichever connection carries it.
struct Slot {
    host: HostId,
    lane: Lane,
    room_bytes: usize,
    room: Arc<Semaphore>,
    /// Held by the connection that reads.
    turn: tokio::sync::Mutex<()>,
    current: Mutex<Option<Current>>,
    frames: AtomicU64,
    bytes: AtomicU64,
    broken: AtomicU64,
    contact: Arc<Contact>,
}

/// The newest connection of a slot.
struct Current {
    number: u64,
    identity: Identity,
    /// Told why the connection shall end.
    end: watch::Sender<Option<Refusal>>,
}

/// A connection's place in its slot.
struct Entered {
    number: u64,
    slot: Arc<Slot>,
    end: watch::Receiver<Option<Refusal>>,
}

impl Inbound {
    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, config: &Config, identity: Identity, lane: Lane) -> Result<Entered, Refusal> {
        let mut slots = self.slots();
        if slots.closed {
            return Err(Refusal::new(Reason::Closing, "this host is stopping"));
        }
        let key = (identity.host.clone(), lane);
        if slots.by_lane.len() >= SLOTS_MAX && !slots.by_lane.contains_key(&key) {
            return Err(Refusal::new(Reason::Busy, format!("{SLOTS_MAX} lanes are open")));
        }
        slots.number += 1;
        let number = slots.number;
        let slot =
            slots.by_lane.entry(key).or_insert_with(|| Arc::new(Slot::new(config, &identity.host, lane)));
        let (sender, end) = watch::channel(None);
        let before = slot.current().replace(Current { number, identity, end: sender });
        if let Some(before) = before {
            before.end.send_replace(Some(Refusal::new(
                Reason::Replaced,
                "the same host has opened this lane anew",
            )));
        }
        Ok(Entered { number, slot: Arc::clone(slot), end })
    }

    /// Ends every lane whose host `decide` refuses.
    pub(crate) fn dismiss(&self, decide: impl Fn(&Identity, Lane) -> Option<Refusal>) {
        // Decided outside the lock of the table: the handler may take its own locks.
        let slots: Vec<_> = self.slots().by_lane.values().cloned().collect();
        for slot in slots {
            let Some(identity) = slot.current().as_ref().map(|current| current.identity.clone()) else {
                continue;
            };
            if let Some(refusal) = decide(&identity, slot.lane)
                && let Some(current) = slot.current().as_ref()
            {
                current.end.send_replace(Some(refusal));
            }
        }
    }

    /// Forgets the hosts that `gone` names, except for lanes that they hold.
    pub(crate) fn forget(&self, gone: impl Fn(&HostId) -> bool) {
        self.slots().by_lane.retain(|(host, _), slot| !gone(host) || slot.current().is_some());
    }

    /// Ends all lanes and takes no more.
    pub(crate) fn close(&self) {
        self.slots().closed = true;
        self.dismiss(|_, _| Some(Refusal::new(Reason::Closing, "this host is stopping")));
    }

    /// Returns the state of every lane, and how long ago it was heard of.
    pub(crate) fn status(&self) -> Vec<(HostId, Lane, IncomingStatus, Option<u64>)> {
        let slots = self.slots();
        let all = slots.by_lane.values();
        all.map(|slot| (slot.host.clone(), slot.lane, slot.status(), slot.contact.age_ms())).collect()
    }
}

impl Slot {
    fn new(config: &Config, host: &HostId, lane: Lane) -> Self {
        let room_bytes = config.sizes.room_bytes(lane);
        Self {
            host: host.clone(),
            lane,
            room_bytes,
            room: Arc::new(Semaphore::new(room_bytes)),
            turn: tokio::sync::Mutex::new(()),
            current: Mutex::new(None),
            frames: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            broken: AtomicU64::new(0),
            contact: Arc::new(Contact::new(Arc::clone(&config.clock))),
        }
    }

    fn current(&self) -> MutexGuard<'_, Option<Current>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn status(&self) -> IncomingStatus {
        IncomingStatus {
            connected: self.current().is_some(),
            received: Count {
                frames: self.frames.load(Ordering::Relaxed),
                bytes: self.bytes.load(Ordering::Relaxed),
            },
            broken: self.broken.load(Ordering::Relaxed),
            held_bytes: (self.room_bytes - self.room.available_permits()) as u64,
        }
    }

    /// Waits until the handler may hold one more frame of `len` bytes.
    async fn room(&self, len: usize) -> Room {
        let cost = u32::try_from(len + FRAME_COST).expect("the configuration bounds frames");
        let room = Arc::clone(&self.room);
        let permit = match Arc::clone(&room).try_acquire_many_owned(cost) {
            Ok(permit) => permit,
            Err(_) => room.acquire_many_owned(cost).await.expect("nobody closes a lane's room"),
        };
        Room::new(permit)
    }
}

impl Drop for Entered {
    /// Also after a panic of the handler: the slot must not show a connection that is gone.
    fn drop(&mut self) {
        let mut current = self.slot.current();
        if current.as_ref().is_some_and(|current| current.number == self.number) {
            *current = None;
        }
    }
}

/// Reads one incoming lane until either side ends it.
pub(crate) async fn serve(shared: &Shared, mut stream: Stream, identity: Identity, lane: Lane) {
    let host = identity.host.clone();
    let mut entered = match shared.inbound.enter(&shared.config, identity.clone(), lane) {
        Ok(entered) => entered,
        Err(refusal) => return say_bye(&mut *stream.writer, &refusal).await,
    };
    count(&shared.listening.lanes);
    // Asked again: whoever was removed since the handshake was not yet in the table when that was made known.
    let ended = match shared.handler.admit(&identity, Purpose::Lane(lane)) {
        Ok(()) => read(shared, &mut stream, &mut entered).await,
        Err(refusal) => Error::Rejected(refusal),
    };
    match &ended {
        Error::Ended(refusal) => {
            tracing::info!(peer = %host, %lane, "lane ended by the other side: {refusal}")
        }
        Error::Closed | Error::Socket(_) => tracing::info!(peer = %host, %lane, "lane ended: {ended}"),
        Error::Rejected(refusal) => {
            tracing::info!(peer = %host, %lane, "lane ended: {refusal}");
            say_bye(&mut *stream.writer, refusal).await;
        }
        _ => {
            tracing::warn!(peer = %host, %lane, "lane closed: {ended}");
            if matches!(ended, Error::Frame(_)) {
                count(&entered.slot.broken);
                count(&shared.listening.broken);
            }
            say_bye(&mut *stream.writer, &Refusal::new(Reason::Broken, ended.to_string())).await;
        }
    }
    drop(entered);
    if shared.handler.admit(&identity, Purpose::Lane(lane)).is_err() {
        shared.inbound.forget(|gone| *gone == host);
    }
}

async fn read(shared: &Shared, stream: &mut Stream, entered: &mut Entered) -> Error {
    let slot = Arc::clone(&entered.slot);
    // The connection before this one was told to stop; it gives up its turn once its last frame is handed over.
    let _turn = tokio::select! {
        biased;
        refusal = told(&mut entered.end) => return Error::Rejected(refusal),
        turn = slot.turn.lock() => turn,
    };
    let timing = &shared.config.timing;
    let mut frames = FrameReader::new(&mut *stream.reader, timing.silence, Some(Arc::clone(&slot.contact)));
    tokio::select! {
        biased;
        refusal = told(&mut entered.end) => Error::Rejected(refusal),
        error = beats(&mut *stream.writer, timing.beat) => error,
        error = receive(shared, &slot, &mut frames) => error,
    }
}

async fn told(end: &mut watch::Receiver<Option<Refusal>>) -> Refusal {
    let told = end.wait_for(Option::is_some).await.ok().and_then(|refusal| refusal.clone());
    told.unwrap_or_else(|| Refusal::new(Reason::Closing, "this lane is no longer kept"))
}

async fn beats(writer: &mut (dyn AsyncWrite + Send + Unpin), every: Duration) -> Error {
    let mut ticks = interval(every);
    loop {
        ticks.tick().await;
        if let Err(error) = greet::write_frame(writer, Kind::Beat, Bytes::new()).await {
            return error.into();
        }
    }
}

async fn receive(shared: &Shared, slot: &Slot, frames: &mut FrameReader<'_>) -> Error {
    let len_max = shared.config.sizes.frame_bytes(slot.lane);
    let mut burst = 0;
    loop {
        match one(shared, slot, frames, len_max).await {
            Ok(len) => burst += len,
            Err(error) => return error,
        }
        if burst >= BURST_BYTES {
            burst = 0;
            tokio::task::yield_now().await;
        }
    }
}

/// Reads one frame, hands it over if it is one for the handler, and returns its length.
async fn one(
    shared: &Shared,
    slot: &Slot,
    frames: &mut FrameReader<'_>,
    len_max: usize,
) -> Result<usize, Error> {
    let head = frames.head(len_max).await?;
    match head.kind {
        Kind::Data => {
            // Room first, memory second.
            let room = slot.room(head.len).await;
            let body = frames.body(&head).await?;
            slot.frames.fetch_add(1, Ordering::Relaxed);
            slot.bytes.fetch_add(head.len as u64, Ordering::Relaxed);
            shared.handler.frame(&slot.host, Arrival { lane: slot.lane, body, room });
        }
        Kind::Ping => drop(frames.body(&head).await?),
        Kind::Bye => return Err(Error::Ended(Refusal::decode(&frames.body(&head).await?))),
        Kind::Beat => return Err(BadFrame::Unexpected.into()),
    }
    Ok(head.len)
}

/// Says why, if the other side listens.
pub(crate) async fn say_bye(writer: &mut (dyn AsyncWrite + Send + Unpin), refusal: &Refusal) {
    // Late or not, the connection is dropped next.
    let _ = timeout(BYE, greet::bye(writer, refusal)).await;
}
