//! Frames out of a socket: many small ones with one system call, large ones straight into their own memory.
//!
//! Every body gets an allocation of exactly its size, so a frame that the handler keeps holds no other's bytes. What came
//! in the shared buffer is copied; the rest of a large body is read into place.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::{error::Elapsed, timeout};

use crate::error::Error;
use crate::frame::{BadFrame, HEAD_BYTES, Head};
use crate::status::Contact;

/// Bytes asked of the socket at once.
const READ_BYTES: usize = 128 << 10;
/// A body that lacks more than this is read into place.
const DIRECT_BYTES_MIN: usize = 32 << 10;

/// Reads frames of one connection.
pub(crate) struct FrameReader<'a> {
    socket: &'a mut (dyn AsyncRead + Send + Unpin),
    buffer: BytesMut,
    /// Longest time without a byte.
    silence: Duration,
    contact: Option<Arc<Contact>>,
}

impl<'a> FrameReader<'a> {
    /// Returns a reader that gives up after `silence` without a byte and notes in `contact` when it hears something.
    pub(crate) fn new(
        socket: &'a mut (dyn AsyncRead + Send + Unpin),
        silence: Duration,
        contact: Option<Arc<Contact>>,
    ) -> Self {
        Self { socket, buffer: BytesMut::new(), silence, contact }
    }

    /// Reads into the shared buffer; zero bytes are the end.
    async fn fill(&mut self) -> Result<usize, Error> {
        self.buffer.reserve(READ_BYTES);
        let read = timeout(self.silence, self.socket.read_buf(&mut self.buffer)).await;
        self.heard(read)
    }

    /// Reads at most `lacking` bytes behind `body`.
    async fn fill_in_place(&mut self, body: &mut BytesMut, lacking: usize) -> Result<usize, Error> {
        let mut rest = body.limit(lacking);
        let read = timeout(self.silence, self.socket.read_buf(&mut rest)).await;
        self.heard(read)
    }

    fn heard(&self, read: Result<io::Result<usize>, Elapsed>) -> Result<usize, Error> {
        let silence_ms = u64::try_from(self.silence.as_millis()).unwrap_or(u64::MAX);
        let count = read.map_err(|_| Error::Silent(silence_ms))??;
        if let Some(contact) = &self.contact {
            contact.touch();
        }
        Ok(count)
    }

    /// Returns the next head, announcing a body of at most `len_max` bytes.
    ///
    /// # Errors
    /// [`Error::Closed`] at an end between frames; silence, a failed socket or a bad head otherwise.
    pub(crate) async fn head(&mut self, len_max: usize) -> Result<Head, Error> {
        while self.buffer.len() < HEAD_BYTES {
            if self.fill().await? == 0 {
                return Err(if self.buffer.is_empty() { Error::Closed } else { BadFrame::Half.into() });
            }
        }
        let bytes = self.buffer.first_chunk().expect("a whole head was read");
        let head = Head::read(bytes, len_max)?;
        self.buffer.advance(HEAD_BYTES);
        Ok(head)
    }

    /// Returns the checked body of `head`.
    ///
    /// # Errors
    /// Silence, a failed socket, an early end, or a body that does not check.
    pub(crate) async fn body(&mut self, head: &Head) -> Result<Bytes, Error> {
        let mut body = BytesMut::with_capacity(head.len);
        loop {
            let here = self.buffer.len().min(head.len - body.len());
            body.extend_from_slice(&self.buffer[..here]);
            self.buffer.advance(here);
            let lacking = head.len - body.len();
            if lacking == 0 {
                break;
            }
            let count = if lacking >= DIRECT_BYTES_MIN {
                self.fill_in_place(&mut body, lacking).await?
            } else {
                self.fill().await?
            };
            if count == 0 {
                return Err(BadFrame::Half.into());
            }
        }
        head.check(&body)?;
        Ok(body.freeze())
    }
}
