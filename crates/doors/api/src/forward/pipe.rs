//! A pull stream passed on to the leader's door, and the leader's answer spliced into ours.
//!
//! ```text
//!   client ──requests──► Requests ──each with its share──► Frames ──► leader's door
//!      ▲                                                                   │
//!      └── body of our answer ◄── Splice ◄── frames, as they come ─────────┘
//! ```
//!
//! Tasks on their way to a consumer are not decoded here: a decoded message would have to be kept until the consumer's
//! socket takes it, and nothing would bound what many slow consumers hold. Frames stay in HTTP/2's windows. The leader
//! sees the metadata `z4-forwarded-by` and names itself in `opened`.
//!
//! When the shard gets another leader the stream ends with NOT_LEADER, and the client opens another; which is passed on
//! to the new one. When this host stops, the leader is told that the client has no more to say: it answers what it has
//! got and ends the stream in good order.
//!
//! # Invariants
//! - Until the leader has answered nothing but the opening was sent, so another host may be tried.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{BufMut as _, Bytes, BytesMut};
use http_body::Frame;
use prost::Message;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout_at;
use tonic::body::Body;
use tonic::codegen::Service as _;
use tonic::codegen::http::header::{CONTENT_TYPE, HeaderValue, TE};
use tonic::codegen::http::{HeaderMap, Request, Uri};
use tonic::{Code, Status};
use z4_proto::reason;
use z4_proto::status::Failure;
use z4_proto::v1;
use z4_types::{HostId, Kind};

use super::named;
use super::peers::Kept;
use crate::bodies::Share;
use crate::call::{Call, FORWARDED_BY};
use crate::meter::{Broken, PREFIX_BYTES};
use crate::requests::Requests;
use crate::status;

/// Where the stream goes at the other host.
const PULL: &str = "/z4.v1.Tasks/Pull";
/// Requests on their way that HTTP/2 has not taken.
const FRAMES_MAX: usize = 4;

/// Where a verb may put the answer of another host, to be sent instead of its own.
#[derive(Clone)]
pub(crate) struct Splice(Arc<Mutex<Option<oneshot::Sender<Body>>>>);

impl Splice {
    /// Returns the two ends.
    pub(crate) fn new() -> (Self, oneshot::Receiver<Body>) {
        let (sender, receiver) = oneshot::channel();
        (Self(Arc::new(Mutex::new(Some(sender)))), receiver)
    }

    /// Sends `body` from now on. False if the client is gone, or if that was done before.
    fn set(&self, body: Body) -> bool {
        let sender = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        sender.is_some_and(|sender| sender.send(body).is_ok())
    }
}

/// Passes a stream on to the leader's door until one of the three ends it. `gone` waits until our answer is over.
///
/// # Errors
/// Why the other host could not be asked, or why the client's requests cannot be read.
pub(crate) async fn pipe(
    call: Call<'_>,
    (host, service): (&HostId, &str),
    first: &v1::PullRequest,
    requests: &mut Requests<v1::PullRequest>,
    splice: &Splice,
    gone: impl Future<Output = ()>,
) -> Result<(), Piped> {
    let kept = call.door.peers().stream(host, service).map_err(Piped::Refused)?;
    let (frames, body) = mpsc::channel(FRAMES_MAX);
    // There is room, and the other end is here.
    drop(frames.try_send((frame(first), None)));
    let answered = timeout_at(call.deadline.at(), open(call, &kept, Frames(body))).await;
    let answer = match answered {
        Ok(Ok(answer)) => answer,
        Ok(Err(status)) => return Err(Piped::Refused(named(Failure::from_status(&status), host, service))),
        Err(_) => return Err(Piped::Refused(status::read_expired())),
    };
    let what = format!("the stream from the leader, host {host} at {service}, broke; open it again");
    let broken = Failure::new(Kind::Unavailable, reason::NO_LEADER, what);
    if !splice.set(Body::new(Theirs { body: answer, broken: Some(broken), ended: false })) {
        return Ok(());
    }
    tokio::select! {
        () = gone => Ok(()),
        // The leader hears that nothing more comes.
        () = call.door.stopping() => Ok(()),
        read = pump(requests, &frames) => read.map_err(Piped::Broken),
    }
}

/// Why a stream was not passed on.
pub(crate) enum Piped {
    /// The other host was not reached, or said no. Nothing was done.
    Refused(Failure),
    /// The client's side broke while the stream was passed on.
    Broken(Broken),
}

/// Calls the other door.
async fn open(call: Call<'_>, kept: &Kept, body: Frames) -> Result<Body, Status> {
    let mut request = Request::new(Body::new(body));
    *request.method_mut() = tonic::codegen::http::Method::POST;
    *request.uri_mut() = Uri::from_static(PULL);
    let headers = request.headers_mut();
    headers.insert(TE, HeaderValue::from_static("trailers"));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    let name = HeaderValue::from_str(&call.handle().identity().host.0);
    headers.insert(FORWARDED_BY, name.unwrap_or(HeaderValue::from_static("?")));
    let mut channel = kept.channel.clone();
    let from_error = |error: tonic::transport::Error| Status::from_error(Box::new(error));
    poll_fn(|cx| channel.poll_ready(cx)).await.map_err(from_error)?;
    let answer = channel.call(request).await.map_err(from_error)?;
    match Status::from_header_map(answer.headers()) {
        Some(status) if status.code() != Code::Ok => Err(status),
        _ if answer.status().is_success() => Ok(answer.into_body()),
        _ => Err(Status::unavailable(format!("answered with HTTP status {}", answer.status()))),
    }
}

/// Passes requests on until the client closes its side.
async fn pump(
    requests: &mut Requests<v1::PullRequest>,
    frames: &mpsc::Sender<(Bytes, Option<Share>)>,
) -> Result<(), Broken> {
    while let Some((request, share)) = requests.next().await? {
        if frames.send((frame(&request), share)).await.is_err() {
            // The leader has ended the stream; our client hears it from the answer.
            return Ok(());
        }
    }
    Ok(())
}

/// Returns a message as gRPC frames it.
fn frame(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut bytes = BytesMut::with_capacity(PREFIX_BYTES + length);
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(length).expect("it came as a message of less than 16 MiB"));
    message.encode(&mut bytes).expect("there is room for it");
    bytes.freeze()
}

/// The body of our request: frames, each with the share of the message it holds.
struct Frames(mpsc::Receiver<(Bytes, Option<Share>)>);

impl http_body::Body for Frames {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        // With HTTP/2 the share ends: its windows are counted elsewhere.
        Poll::Ready(ready!(self.0.poll_recv(cx)).map(|(bytes, _share)| Ok(Frame::data(bytes))))
    }
}

/// The leader's answer; if it breaks, the client is told so in gRPC's words.
struct Theirs {
    body: Body,
    broken: Option<Failure>,
    ended: bool,
}

impl http_body::Body for Theirs {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(frame)) = frame {
            self.ended = frame.is_trailers();
            return Poll::Ready(Some(Ok(frame)));
        }
        self.ended = true;
        let Some(failure) = self.broken.take() else { return Poll::Ready(None) };
        let failure = failure.with_retry_after(status::ELECTION_WAIT);
        let mut trailers = HeaderMap::new();
        Poll::Ready(Some(Status::from(failure).add_header(&mut trailers).map(|()| Frame::trailers(trailers))))
    }
}
