//! A request's body under the budget of [`Bodies`], and the service that puts one around each call.
//!
//! ```text
//!   HTTP/2 ──frames──► Meter ──frames──► tonic, one message ──► verb          (unary)
//!                        │  └────────────► Requests, each with its share ──► push, pull
//!                        └ a share of the budget for each message, at its first five bytes
//! ```
//!
//! The answers of other hosts to calls that were passed on go through a [`Meter`] as well.
//!
//! A unary call's share is held until it is answered. Streams get around tonic's own reader: it keeps the buffer of
//! the largest message for as long as the stream is open, which no budget could give back. See `requests.rs`.
//!
//! # Invariants
//! - No byte of a message passes before its share is taken; shares are in the order of the messages.
//! - A message that has begun is whole within `MESSAGE_MAX`, or its call ends: a slow client cannot sit on a share.
//!
//! Sources: gRPC over HTTP/2, "Length-Prefixed-Message".

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::{Sleep, sleep};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::NamedService;
use z4_proto::reason;
use z4_proto::status::Failure;
use z4_types::Kind;

use crate::bodies::{Bodies, Purpose, Share};
use crate::forward::Splice;

/// What the bytes of one message may take to come. The largest does, at 14 Mbit/s.
pub(crate) const MESSAGE_MAX: Duration = Duration::from_secs(10);
/// Flag and length.
pub(crate) const PREFIX_BYTES: usize = 5;
/// Calls that create tasks.
const CREATES: [&str; 3] = ["/z4.v1.Tasks/CreateTask", "/z4.v1.Tasks/BatchCreateTasks", "/z4.v1.Tasks/Push"];
/// Calls whose requests are a stream.
const STREAMS: [&str; 2] = ["/z4.v1.Tasks/Push", "/z4.v1.Tasks/Pull"];

/// The shares of the messages that have begun and were not taken over.
pub(crate) type Shares = Arc<Mutex<VecDeque<Share>>>;

/// Why no more of a body comes.
#[derive(Debug)]
pub(crate) enum Broken {
    /// It is refused: the client should hear why.
    Refused(Failure),
    /// The connection or the client is gone: there is nobody to tell.
    Gone(Status),
}

impl From<Failure> for Broken {
    fn from(failure: Failure) -> Self {
        Self::Refused(failure)
    }
}

/// See the module essay.
pub(crate) struct Meter {
    inner: Body,
    bodies: Bodies,
    purpose: Purpose,
    shares: Shares,
    prefix: [u8; PREFIX_BYTES],
    /// Bytes of `prefix` that have come.
    have: usize,
    /// Bytes of the message that are still to come.
    left: usize,
    /// The end of a message's time; None between messages.
    late: Option<Pin<Box<Sleep>>>,
    /// Told after the bytes in front of it.
    refused: Option<Failure>,
}

impl Meter {
    pub(crate) fn new(inner: Body, bodies: Bodies, purpose: Purpose) -> Self {
        Self {
            inner,
            bodies,
            purpose,
            shares: Shares::default(),
            prefix: [0; PREFIX_BYTES],
            have: 0,
            left: 0,
            late: None,
            refused: None,
        }
    }

    /// Takes over the share of the earliest message.
    pub(crate) fn next_share(&self) -> Option<Share> {
        self.shares.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    /// Waits for a frame. None: that was all.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        if let Some(failure) = self.refused.take() {
            return Poll::Ready(Some(Err(Broken::Refused(failure))));
        }
        let Poll::Ready(frame) = Pin::new(&mut self.inner).poll_frame(cx) else {
            let late = self.late.as_mut().is_some_and(|late| late.as_mut().poll(cx).is_ready());
            return if late { Poll::Ready(Some(Err(Broken::Refused(too_slow())))) } else { Poll::Pending };
        };
        let frame = match frame {
            None => return Poll::Ready(None),
            Some(Err(gone)) => return Poll::Ready(Some(Err(Broken::Gone(gone)))),
            Some(Ok(frame)) => frame,
        };
        let mut data = match frame.into_data() {
            Ok(data) => data,
            Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
        };
        if let Err((good, failure)) = self.admit(&data) {
            data.truncate(good);
            if data.is_empty() {
                return Poll::Ready(Some(Err(Broken::Refused(failure))));
            }
            self.refused = Some(failure);
        }
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    /// Takes a share for each message that begins in `data`; or says how many bytes are in front of the refused one.
    fn admit(&mut self, data: &[u8]) -> Result<(), (usize, Failure)> {
        let mut at = 0;
        let mut began = false;
        while at < data.len() {
            if self.left > 0 {
                let count = self.left.min(data.len() - at);
                (self.left, at) = (self.left - count, at + count);
                continue;
            }
            let count = (PREFIX_BYTES - self.have).min(data.len() - at);
            self.prefix[self.have..self.have + count].copy_from_slice(&data[at..at + count]);
            (self.have, at) = (self.have + count, at + count);
            if self.have == PREFIX_BYTES {
                let [_, length @ ..] = self.prefix;
                let length = u32::from_be_bytes(length) as usize;
                let share =
                    self.bodies.take(length, self.purpose).map_err(|failure| (at - count, failure))?;
                self.shares.lock().unwrap_or_else(PoisonError::into_inner).push_back(share);
                (self.have, self.left, began) = (0, length, true);
            }
        }
        // Most messages come whole: those need no timer.
        if self.left == 0 {
            self.late = None;
        } else if began {
            self.late = Some(Box::pin(sleep(MESSAGE_MAX)));
        }
        Ok(())
    }
}

fn too_slow() -> Failure {
    let what =
        format!("the message did not come within {MESSAGE_MAX:?} of its first bytes; nothing was done");
    Failure::new(Kind::OutcomeUnknown, reason::DEADLINE_EXCEEDED, what)
}

impl http_body::Body for Meter {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Poll::Ready(ready!(self.poll_next(cx)).map(|frame| {
            frame.map_err(|broken| match broken {
                Broken::Refused(failure) => failure.into(),
                Broken::Gone(status) => status,
            })
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.refused.is_none() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// A stream's body on its way to the verb that reads it, past tonic.
#[derive(Clone)]
pub(crate) struct Handed(Arc<Mutex<Option<Meter>>>);

impl Handed {
    fn new(meter: Meter) -> Self {
        Self(Arc::new(Mutex::new(Some(meter))))
    }

    /// Takes the body; there is one.
    pub(crate) fn take(&self) -> Option<Meter> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// A service whose calls are counted and whose requests are under the budget.
#[derive(Clone)]
pub(crate) struct Metered<S> {
    inner: S,
    bodies: Bodies,
}

impl<S> Metered<S> {
    pub(crate) fn new(inner: S, bodies: &Bodies) -> Self {
        Self { inner, bodies: bodies.clone() }
    }
}

impl<S: NamedService> NamedService for Metered<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<http::Request<Body>> for Metered<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let call = match self.bodies.call() {
            Ok(call) => call,
            Err(failure) => {
                return Box::pin(std::future::ready(Ok(Status::from(failure).into_http())));
            }
        };
        let (mut parts, body) = request.into_parts();
        let path = parts.uri.path();
        let purpose = if CREATES.contains(&path) { Purpose::Create } else { Purpose::Other };
        let meter = Meter::new(body, self.bodies.clone(), purpose);
        let shares = Arc::clone(&meter.shares);
        let mut splice = None;
        let body = if STREAMS.contains(&path) {
            let (slot, theirs) = Splice::new();
            splice = Some(theirs);
            parts.extensions.insert(Handed::new(meter));
            parts.extensions.insert(slot);
            Body::empty()
        } else {
            Body::new(meter)
        };
        let answer = self.inner.call(http::Request::from_parts(parts, body));
        Box::pin(async move {
            let response = answer.await;
            // What a unary call asked for is done, and a stream has its shares itself.
            drop(shares);
            response.map(|response| {
                response.map(|body| Body::new(Answer { body, splice, theirs: None, _call: call }))
            })
        })
    }
}

/// An answer; when it has gone out the call's place is free.
struct Answer {
    body: Body,
    /// Brings the answer of another host, if the call is passed on.
    splice: Option<oneshot::Receiver<Body>>,
    /// It came: it is sent, and `body` is only kept.
    theirs: Option<Body>,
    _call: OwnedSemaphorePermit,
}

impl Answer {
    /// Returns what is to be sent.
    fn current(&mut self, cx: &mut Context<'_>) -> &mut Body {
        if let Some(splice) = &mut self.splice
            && let Poll::Ready(came) = Pin::new(splice).poll(cx)
        {
            self.splice = None;
            self.theirs = came.ok();
        }
        self.theirs.as_mut().unwrap_or(&mut self.body)
    }
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(self.current(cx)).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.theirs.as_ref().unwrap_or(&self.body).is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.theirs.as_ref().unwrap_or(&self.body).size_hint()
    }
}
