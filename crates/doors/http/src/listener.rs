//! At most so many connections, and none that only sits there.
//!
//! One past the limit is accepted and closed at once: left in the kernel's queue it would look like a host that hangs,
//! and a probe that waits reports nothing. One that asks nothing, asks slowly, or does not read its answer is closed, so
//! that idle connections cannot keep the probes out.
//!
//! # Not here
//! - The api door's connections: those live as long as HTTP/2's pings are answered, and are waited for by tonic. The
//!   delegation below is all the two have in common, and no door depends on another.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep};

/// A few scrapers, probes and browsers.
pub(crate) const CONNECTIONS_MAX: usize = 128;
/// A request has come so long after its connection was opened or answered last, or the connection is closed. Longer than
/// an answer takes to be made; a scraper that comes less often connects again.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) struct Limited {
    inner: TcpListener,
    places: Arc<Semaphore>,
    patience: Duration,
    refused: u64,
}

/// One connection; its place is free again when it is dropped.
pub(crate) struct Connection {
    stream: TcpStream,
    patience: Duration,
    /// When it is closed, unless something is written before. Reading does not count: a client could trickle.
    end: Pin<Box<Sleep>>,
    _place: OwnedSemaphorePermit,
}

impl Limited {
    pub(crate) fn new(inner: TcpListener, connections: usize, patience: Duration) -> Self {
        Self { inner, places: Arc::new(Semaphore::new(connections)), patience, refused: 0 }
    }
}

impl Listener for Limited {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        loop {
            let (stream, peer) = Listener::accept(&mut self.inner).await;
            if let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
                let end = Box::pin(sleep(self.patience));
                return (Connection { stream, patience: self.patience, end, _place: place }, peer);
            }
            self.refused += 1;
            if self.refused.is_power_of_two() {
                tracing::warn!(%peer, refused = self.refused, "too many HTTP connections: refused");
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }
}

impl Connection {
    /// Returns what `poll` is, but for one that waits in vain.
    fn in_time<T>(&mut self, cx: &mut Context<'_>, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if poll.is_pending() && self.end.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        poll
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.in_time(cx, poll)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write(cx, buf);
        if poll.is_ready() {
            let end = Instant::now() + self.patience;
            self.end.as_mut().reset(end);
        }
        self.in_time(cx, poll)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::time::timeout;

    use super::*;

    /// Far beyond the patience of the test's server; nobody waits so long.
    const HANGS: Duration = Duration::from_secs(30);

    /// Returns what comes until the server closes; a reset is a close.
    async fn rest(mut stream: TcpStream) -> String {
        let mut all = Vec::new();
        drop(timeout(HANGS, stream.read_to_end(&mut all)).await.expect("the server closes it"));
        String::from_utf8(all).expect("text")
    }

    #[tokio::test]
    async fn idle_and_slow_connections_do_not_keep_a_probe_out() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let router = Router::new().route("/healthz", get(async || "ok\n"));
        let limited = Limited::new(listener, 2, Duration::from_millis(300));
        let served = tokio::spawn(async move { axum::serve(limited, router).await });

        let idle = TcpStream::connect(address).await.expect("connects");
        let mut slow = TcpStream::connect(address).await.expect("connects");
        slow.write_all(b"GET /healthz HTTP/1.1\r\nhos").await.expect("writes");
        let surplus = TcpStream::connect(address).await.expect("connects");
        assert_eq!(rest(surplus).await, "", "one too many is closed, not left waiting");
        assert_eq!((rest(idle).await, rest(slow).await), (String::new(), String::new()));

        let mut probe = TcpStream::connect(address).await.expect("connects");
        probe.write_all(b"GET /healthz HTTP/1.1\r\nhost: z4\r\n\r\n").await.expect("writes");
        let answer = rest(probe).await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("ok\n"), "{answer}");
        served.abort();
    }
}
