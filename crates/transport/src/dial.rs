//! One outgoing lane: a task that keeps a connection and empties the lane's queue into it.
//!
//! ```text
//!         ┌──────────── pause (50 ms … 2 s) <───────────┐
//!         v                                             │ failed, refused, silent, closed
//!   resolve, connect, handshake ──> write what waits, ping when idle; hear beats
//! ```
//! A lane carries frames one way. The other direction of its connection carries only the acceptor's beats, one a second
//! however busy it is; so a dialer whose writes are held up by back-pressure can tell a slow host from a lost one.
//! The name is resolved anew for every attempt: containers come back under new addresses.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, lookup_host};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use z4_env::SeededRng;
use z4_types::HostId;

use crate::backoff::Backoff;
use crate::batch::Batch;
use crate::config::Config;
use crate::error::Error;
use crate::frame::{BadFrame, Kind};
use crate::greet;
use crate::hello::{Identity, Lane, Purpose, Reason, Refusal};
use crate::queue::Queue;
use crate::reader::FrameReader;
use crate::status::{Contact, Link};
use crate::stream::Stream;
use crate::transport::{Alive, Shared};

/// How long a failed write waits for the other side's last words.
const LAST_WORDS: Duration = Duration::from_millis(100);
/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 8;

/// What a lane is told from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Control {
    /// Where the host is.
    pub address: String,
    /// Send what waits, say goodbye, end.
    pub closing: bool,
}

/// One lane towards one host.
pub(crate) struct Outgoing {
    pub host: HostId,
    pub lane: Lane,
    pub queue: Queue,
    pub link: Link,
    /// Shared by both lanes.
    pub contact: Arc<Contact>,
}

/// Runs the lane until it is told to close or nobody is left to tell it.
pub(crate) async fn run(
    shared: Arc<Shared>,
    outgoing: Arc<Outgoing>,
    mut control: watch::Receiver<Control>,
    _alive: Alive,
) {
    let timing = shared.config.timing;
    let mut backoff = Backoff::new(timing.backoff_min, timing.backoff_max, jitter(&shared.config, &outgoing));
    loop {
        let Control { address, closing } = control.borrow_and_update().clone();
        if closing {
            return;
        }
        let opened = tokio::select! {
            biased;
            told = control.changed() => match told {
                Ok(()) => continue,
                Err(_) => return,
            },
            opened = open(&shared, &outgoing, &address) => opened,
        };
        let error = match opened {
            Ok((stream, who)) => {
                outgoing.link.up();
                tracing::info!(peer = %outgoing.host, lane = %outgoing.lane, %address, instance = who.instance, "connected");
                let since = shared.config.clock.monotonic_ns();
                let ended = tokio::select! {
                    ended = talk(&shared.config, &outgoing, stream) => ended,
                    () = elsewhere(control.clone(), &address, timing.grace) => Err(Error::Moved),
                };
                outgoing.link.down();
                let lived = Duration::from_nanos(shared.config.clock.monotonic_ns().saturating_sub(since));
                if lived >= timing.backoff_max {
                    backoff.reset();
                }
                match ended {
                    Ok(()) => return,
                    Err(error) => error,
                }
            }
            Err(error) => error,
        };
        failed(&shared, &outgoing, &address, &error);
        tokio::select! {
            () = sleep(backoff.next()) => {}
            told = control.changed() => match told {
                Ok(()) => backoff.reset(),
                Err(_) => return,
            },
        }
    }
}

/// Every lane of every host draws its own pauses, whatever the order in which lanes were made.
fn jitter(config: &Config, outgoing: &Outgoing) -> SeededRng {
    let host = u64::from(crc32c::crc32c(outgoing.host.0.as_bytes()));
    SeededRng::new(config.seed).fork(host << 1 | u64::from(outgoing.lane == Lane::Bulk))
}

fn failed(shared: &Shared, outgoing: &Outgoing, address: &str, error: &Error) {
    outgoing.queue.age();
    let news = outgoing.link.failed(error.to_string());
    if news && !matches!(error, Error::Moved) {
        tracing::warn!(peer = %outgoing.host, lane = %outgoing.lane, %address, "not connected: {error}");
    }
    if let Error::Refused(refusal) | Error::Ended(refusal) = error {
        shared.handler.refused(&outgoing.host, refusal);
    }
}

/// Ends when the host is reached elsewhere, or when a closing lane has used up its time.
async fn elsewhere(mut control: watch::Receiver<Control>, address: &str, grace: Duration) {
    let told = control.wait_for(|control| control.closing || control.address != address).await;
    // Nobody left to tell it is a closing, too.
    let closing = told.map_or(true, |now| now.closing);
    if closing {
        sleep(grace).await;
    }
}

async fn open(shared: &Shared, outgoing: &Outgoing, address: &str) -> Result<(Stream, Identity), Error> {
    let own = &shared.config.own();
    let purpose = Purpose::Lane(outgoing.lane);
    let vet =
        |peer: &Identity| greet::same_cluster(own, peer).and_then(|()| shared.handler.admit(peer, purpose));
    let opened = connect(&shared.config, address, Some(&outgoing.host), purpose, vet).await?;
    outgoing.contact.touch();
    Ok(opened)
}

/// Resolves, connects and greets.
///
/// # Errors
/// Whatever stands in the way.
pub(crate) async fn connect(
    config: &Config,
    address: &str,
    expects: Option<&HostId>,
    purpose: Purpose,
    vet: impl FnOnce(&Identity) -> Result<(), Refusal>,
) -> Result<(Stream, Identity), Error> {
    let timing = &config.timing;
    let socket = reach(address, timing.connect).await?;
    let greeting = async {
        let mut stream = config.wire.dialled(socket, address).await?;
        let who = greet::dial(&mut stream, config, expects, purpose, vet).await?;
        Ok((stream, who))
    };
    match timeout(timing.handshake, greeting).await {
        Ok(greeted) => greeted,
        Err(_) => Err(Error::Silent(u64::try_from(timing.handshake.as_millis()).unwrap_or(u64::MAX))),
    }
}

async fn reach(address: &str, patience: Duration) -> Result<TcpStream, Error> {
    let unresolved = |source| Error::Unresolved { address: address.to_owned(), source };
    let late = || std::io::Error::from(std::io::ErrorKind::TimedOut);
    let found =
        timeout(patience, lookup_host(address)).await.unwrap_or_else(|_| Err(late())).map_err(unresolved)?;
    let addresses: Vec<SocketAddr> = found.take(ADDRESSES_MAX).collect();
    let mut last = std::io::Error::from(std::io::ErrorKind::NotFound);
    for target in &addresses {
        // Each gets its share, so that one that swallows packets leaves time for the next.
        let share = patience / addresses.len() as u32;
        match timeout(share, TcpStream::connect(target)).await.unwrap_or_else(|_| Err(late())) {
            Ok(socket) => return Ok(socket),
            Err(source) => last = source,
        }
    }
    Err(Error::Unreachable { address: address.to_owned(), source: last })
}

/// Sends until the lane closes (`Ok`) or the connection ends.
async fn talk(config: &Config, outgoing: &Outgoing, mut stream: Stream) -> Result<(), Error> {
    let mut frames =
        FrameReader::new(&mut *stream.reader, config.timing.silence, Some(Arc::clone(&outgoing.contact)));
    let ended = tokio::select! {
        written = write(&mut *stream.writer, &outgoing.queue, config.timing.beat) => written,
        heard = hear(&mut frames) => return Err(heard),
    };
    match ended {
        // The reason for a closed connection may have arrived just before.
        Err(broken) => Err(timeout(LAST_WORDS, hear(&mut frames)).await.ok().filter(tells).unwrap_or(broken)),
        Ok(()) => Ok(()),
    }
}

fn tells(error: &Error) -> bool {
    matches!(error, Error::Ended(_))
}

async fn write(
    mut writer: &mut (dyn AsyncWrite + Send + Unpin),
    queue: &Queue,
    beat: Duration,
) -> Result<(), Error> {
    let mut batch = Batch::default();
    loop {
        // Looked at before the queue is emptied, so that nothing pushed before the closing is left behind.
        let closed = queue.is_closed();
        let taken = queue.take(&mut batch);
        if taken.frames == 0 {
            if closed {
                let why = Refusal::new(Reason::Closing, "the other host has closed this lane");
                greet::bye(writer, &why).await;
                return Ok(());
            }
            if timeout(beat, queue.wait()).await.is_ok() {
                continue;
            }
            batch.push(Kind::Ping, Bytes::new());
        }
        batch.seal();
        let counted = Taken { queue, frames: taken, written: false };
        AsyncWriteExt::write_all_buf(&mut writer, &mut batch).await?;
        counted.written();
        // A socket that takes everything at once must not keep this thread from other lanes.
        tokio::task::yield_now().await;
    }
}

/// Frames in a write. Counted as lost if the write fails or is given up.
struct Taken<'a> {
    queue: &'a Queue,
    frames: crate::status::Count,
    written: bool,
}

impl Taken<'_> {
    fn written(mut self) {
        self.written = true;
        self.queue.written(self.frames);
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if !self.written {
            self.queue.lost(self.frames);
        }
    }
}

/// Hears beats until something else comes, or nothing.
async fn hear(frames: &mut FrameReader<'_>) -> Error {
    loop {
        let frame = async {
            let head = frames.head(0).await?;
            Ok((head.kind, frames.body(&head).await?))
        };
        match frame.await {
            Ok((Kind::Beat, _)) => {}
            Ok((Kind::Bye, body)) => return Error::Ended(Refusal::decode(&body)),
            Ok((Kind::Data | Kind::Ping, _)) => return BadFrame::Unexpected.into(),
            Err(error) => return error,
        }
    }
}
