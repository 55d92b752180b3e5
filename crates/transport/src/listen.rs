//! The peer port: accepts, greets, and passes lanes and questions on. Strangers get little time and no memory.
//!
//! Before the handshake is done a connection may cost a task, a few kilobytes and [`crate::Timing::handshake`]; only
//! [`HANDSHAKES_MAX`] are in that state at once, and those that come meanwhile are closed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};

use crate::ask;
use crate::error::Error;
use crate::foreign::Foreign;
use crate::greet;
use crate::hello::{BadHello, Hello, Purpose};
use crate::inbound;
use crate::status::count;
use crate::stream::Stream;
use crate::transport::{Alive, Shared};

/// Connections in their handshake. Past it new ones are closed.
const HANDSHAKES_MAX: usize = 256;
/// Pause after the operating system failed to hand over a connection, most likely for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Shortest time between two log lines about strangers: a scanner must not fill a disk.
const LOG_GAP_NS: u64 = 1_000_000_000;

/// Accepts until told to stop.
pub(crate) async fn run(
    shared: Arc<Shared>,
    listener: TcpListener,
    mut stop: watch::Receiver<bool>,
    alive: Alive,
) {
    let places = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    let logged = Arc::new(AtomicU64::new(0));
    loop {
        let accepted = tokio::select! {
            biased;
            () = stopped(&mut stop) => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((socket, from)) => {
                let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                    count(&shared.listening.crowded);
                    continue;
                };
                let (shared, mut stop) = (Arc::clone(&shared), stop.clone());
                let (alive, logged) = (alive.clone(), Arc::clone(&logged));
                tokio::spawn(async move {
                    let _alive = alive;
                    let greeted = tokio::select! {
                        biased;
                        () = stopped(&mut stop) => return,
                        greeted = greet(&shared, socket) => greeted,
                    };
                    drop(place);
                    match greeted {
                        Ok((stream, hello)) => serve(&shared, stream, hello, stop).await,
                        Err(error) => complain(&shared, from, &error, &logged),
                    }
                });
            }
            Err(error) => {
                count(&shared.listening.failed);
                tracing::warn!("no connection could be accepted on the peer port: {error}");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Waits until the transport stops, or is gone.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that the sender is gone, and the transport with it.
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn greet(shared: &Shared, socket: TcpStream) -> Result<(Stream, Hello), Error> {
    let patience = shared.config.timing.handshake;
    let greeting = async {
        let mut stream = shared.config.wire.accepted(socket).await?;
        let hello = greet::accept(&mut stream, &shared.config, &shared.handler).await?;
        Ok((stream, hello))
    };
    let late = || Error::Silent(u64::try_from(patience.as_millis()).unwrap_or(u64::MAX));
    timeout(patience, greeting).await.unwrap_or_else(|_| Err(late()))
}

async fn serve(shared: &Shared, stream: Stream, hello: Hello, mut stop: watch::Receiver<bool>) {
    match hello.purpose {
        // Told to end by its slot, also when the transport stops: it has a goodbye to say.
        Purpose::Lane(lane) => inbound::serve(shared, stream, hello.identity, lane).await,
        Purpose::Ask => tokio::select! {
            biased;
            () = stopped(&mut stop) => {}
            () = ask::serve(shared, stream, hello.identity) => {}
        },
    }
}

/// Counts and logs a handshake that failed.
fn complain(shared: &Shared, from: SocketAddr, error: &Error, logged: &AtomicU64) {
    let listening = &shared.listening;
    match error {
        Error::Rejected(_) => count(&listening.refused),
        Error::Handshake(BadHello::Foreign(_)) => count(&listening.foreign),
        Error::Handshake(_) | Error::Frame(_) => count(&listening.broken),
        Error::Silent(_) => count(&listening.silent),
        // A probe that connects and leaves, as load balancers do.
        _ => return count(&listening.failed),
    }
    let now = shared.config.clock.monotonic_ns().max(1);
    let last = logged.load(Ordering::Relaxed);
    if last != 0 && now.saturating_sub(last) < LOG_GAP_NS {
        return;
    }
    logged.store(now, Ordering::Relaxed);
    match error {
        Error::Rejected(refusal) => tracing::warn!(%from, "refused: {refusal}"),
        Error::Handshake(BadHello::Foreign(Foreign::Http1 | Foreign::Http2)) => tracing::warn!(
            %from,
            "closed: a gRPC or HTTP client dialled the peer port; clients use the gRPC port (6355 by default)"
        ),
        _ => tracing::warn!(%from, "closed: no handshake of a z4 host: {error}"),
    }
}
