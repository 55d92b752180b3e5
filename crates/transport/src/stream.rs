//! The byte stream under a connection: one trait, so that TLS can take the place of plain TCP.
//!
//! A [`Wire`] turns a connected socket into two halves. Resolving names, dialling and accepting stay outside of it: they
//! are the same for every wire.
//!
//! # Caveats
//! - Plain TCP is the only wire there is: whoever reaches the peer port and knows the cluster id is believed.

use std::future::Future;
use std::io;
use std::pin::Pin;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// A future behind a pointer, so that traits with async verbs can be used as values.
pub type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Two halves of a connection. Dropping both closes it.
pub struct Stream {
    /// What the other side says.
    pub reader: Box<dyn AsyncRead + Send + Unpin>,
    /// What we say. Vectored writes are used if it offers them.
    pub writer: Box<dyn AsyncWrite + Send + Unpin>,
}

/// Turns sockets into streams.
pub trait Wire: Send + Sync + 'static {
    /// Wraps a socket that this host dialled under the name `address` (host:port).
    fn dialled<'a>(&'a self, socket: TcpStream, address: &'a str) -> Boxed<'a, io::Result<Stream>>;

    /// Wraps a socket that was accepted.
    fn accepted(&self, socket: TcpStream) -> Boxed<'_, io::Result<Stream>>;
}

/// Plain TCP, with delays by Nagle's algorithm off: frames are batched before they are written.
#[derive(Debug, Clone, Copy, Default)]
pub struct PlainTcp;

fn plain(socket: TcpStream) -> io::Result<Stream> {
    socket.set_nodelay(true)?;
    let (reader, writer) = socket.into_split();
    Ok(Stream { reader: Box::new(reader), writer: Box::new(writer) })
}

impl Wire for PlainTcp {
    fn dialled<'a>(&'a self, socket: TcpStream, _address: &'a str) -> Boxed<'a, io::Result<Stream>> {
        Box::pin(async move { plain(socket) })
    }

    fn accepted(&self, socket: TcpStream) -> Boxed<'_, io::Result<Stream>> {
        Box::pin(async move { plain(socket) })
    }
}
