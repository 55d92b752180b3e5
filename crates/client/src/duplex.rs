//! A bidirectional stream as one value: send without waiting, receive in a `select!`.
//!
//! The call that opens a gRPC stream returns only when the server sends headers, which it may put off until the first
//! request. So opening is a state of receiving: requests can be queued from the start.
//!
//! # Invariants
//! - `recv` is cancel safe: a dropped `recv` loses nothing.

use std::future::Future;
use std::pin::Pin;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status, Streaming};

type Opening<Rep> = Pin<Box<dyn Future<Output = Result<Response<Streaming<Rep>>, Status>> + Send>>;

pub(crate) struct Duplex<Req, Rep> {
    /// None once we closed our side.
    sender: Option<mpsc::Sender<Req>>,
    inbound: Inbound<Rep>,
}

enum Inbound<Rep> {
    Opening(Opening<Rep>),
    Open(Box<Streaming<Rep>>),
    Ended,
}

/// Why a request was not queued; it comes back.
#[derive(Debug)]
pub(crate) enum NotSent<Req> {
    /// The queue is full: the server does not read.
    Full(Req),
    /// The stream is over.
    Closed(Req),
}

impl<Req: Send + 'static, Rep: 'static> Duplex<Req, Rep> {
    /// Returns a stream whose queue holds `capacity` requests, opened by `open` on the first `recv`.
    pub(crate) fn new<Open>(capacity: usize, open: impl FnOnce(ReceiverStream<Req>) -> Open) -> Self
    where
        Open: Future<Output = Result<Response<Streaming<Rep>>, Status>> + Send + 'static,
    {
        let (sender, receiver) = mpsc::channel(capacity);
        Self {
            sender: Some(sender),
            inbound: Inbound::Opening(Box::pin(open(ReceiverStream::new(receiver)))),
        }
    }

    /// Queues a request.
    pub(crate) fn try_send(&self, request: Req) -> Result<(), NotSent<Req>> {
        let Some(sender) = &self.sender else { return Err(NotSent::Closed(request)) };
        sender.try_send(request).map_err(|error| match error {
            mpsc::error::TrySendError::Full(request) => NotSent::Full(request),
            mpsc::error::TrySendError::Closed(request) => NotSent::Closed(request),
        })
    }

    /// Returns a handle that waits for room in the queue.
    pub(crate) fn sender(&self) -> Option<mpsc::Sender<Req>> {
        self.sender.clone()
    }

    /// Closes our side; the server then ends its own.
    pub(crate) fn close(&mut self) {
        self.sender = None;
    }

    /// Waits for the next reply; None when the server has ended the stream.
    pub(crate) async fn recv(&mut self) -> Result<Option<Rep>, Status> {
        loop {
            let received = match &mut self.inbound {
                Inbound::Opening(opening) => match opening.as_mut().await {
                    Ok(response) => {
                        self.inbound = Inbound::Open(Box::new(response.into_inner()));
                        continue;
                    }
                    Err(status) => Err(status),
                },
                Inbound::Open(stream) => stream.message().await,
                Inbound::Ended => return Ok(None),
            };
            if !matches!(received, Ok(Some(_))) {
                self.inbound = Inbound::Ended;
            }
            return received;
        }
    }
}
