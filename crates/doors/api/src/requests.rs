//! The messages of one stream, each with its share of the door's memory.
//!
//! Each message gets a buffer of its own size, which lives as long as what was decoded from it: an idle stream holds
//! nothing, whatever it sent before. Small messages are not copied: they share the frame they came in.
//!
//! # Invariants
//! - A client hears why its message is not taken; only a client that is gone hears nothing.

use std::marker::PhantomData;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes, BytesMut};
use prost::Message;
use tonic::{Request, Streaming};
use z4_proto::reason;
use z4_proto::status::Failure;
use z4_types::Kind;

use crate::bodies::Share;
use crate::meter::{Broken, Handed, Meter, PREFIX_BYTES};
use crate::status;

/// A message and its share, None at the end of the stream, or why no more comes.
pub(crate) type Next<T> = Result<Option<(T, Option<Share>)>, Broken>;

/// See the module essay.
pub(crate) struct Requests<T> {
    meter: Meter,
    /// Came in the last frame and was not looked at.
    rest: Bytes,
    prefix: BytesMut,
    /// The message that is being read: its length, and what has come unless nothing had to be copied.
    message: Option<(usize, BytesMut)>,
    of: PhantomData<fn() -> T>,
}

impl<T: Message + Default> Requests<T> {
    /// Returns the messages of a streaming call.
    ///
    /// # Errors
    /// `Internal` if the call did not come through `Metered`: a defect.
    pub(crate) fn of(request: &Request<Streaming<T>>) -> Result<Self, Failure> {
        let meter = request.extensions().get::<Handed>().and_then(Handed::take);
        meter.map(Self::new).ok_or_else(|| status::defect("a stream has no body"))
    }

    fn new(meter: Meter) -> Self {
        Self { meter, rest: Bytes::new(), prefix: BytesMut::new(), message: None, of: PhantomData }
    }

    /// Waits for a message; None: the client has closed its side. Keep the share until nothing is left of the
    /// message. Cancel safe.
    ///
    /// # Errors
    /// Why no more comes.
    pub(crate) async fn next(&mut self) -> Next<T> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Next<T>> {
        loop {
            if let Some(message) = self.cut().map_err(Broken::Refused)? {
                let share = self.meter.next_share();
                let message = T::decode(message).map_err(|error| {
                    Broken::Refused(status::protocol(&format!("a message cannot be decoded: {error}")))
                })?;
                return Poll::Ready(Ok(Some((message, share))));
            }
            match ready!(self.meter.poll_next(cx)).transpose()? {
                Some(frame) => self.rest = frame.into_data().unwrap_or_default(),
                None if self.message.is_none() && self.prefix.is_empty() => return Poll::Ready(Ok(None)),
                None => {
                    let what = "the stream ended within a message";
                    return Poll::Ready(Err(Broken::Refused(status::protocol(what))));
                }
            }
        }
    }

    /// Takes a whole message from what has come; None: more must come, and nothing is left in `rest`.
    fn cut(&mut self) -> Result<Option<Bytes>, Failure> {
        if self.message.is_none() {
            let count = (PREFIX_BYTES - self.prefix.len()).min(self.rest.len());
            self.prefix.extend_from_slice(&self.rest.split_to(count));
            if self.prefix.len() < PREFIX_BYTES {
                return Ok(None);
            }
            if self.prefix.get_u8() != 0 {
                let what = "a message is compressed; send messages as they are";
                return Err(Failure::new(Kind::Unsupported, reason::UNSUPPORTED, what));
            }
            self.message = Some((self.prefix.get_u32() as usize, BytesMut::new()));
        }
        let Some((length, came)) = &mut self.message else { return Ok(None) };
        if came.is_empty() && self.rest.len() >= *length {
            let whole = self.rest.split_to(*length);
            self.message = None;
            return Ok(Some(whole));
        }
        let more = self.rest.split_to((*length - came.len()).min(self.rest.len()));
        if came.is_empty() {
            *came = BytesMut::with_capacity(*length);
        }
        came.extend_from_slice(&more);
        if came.len() < *length {
            return Ok(None);
        }
        let whole = std::mem::take(came).freeze();
        self.message = None;
        Ok(Some(whole))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::pin::Pin;

    use http_body::Frame;
    use tonic::Status;
    use tonic::body::Body;
    use z4_proto::v1::PushRequest;

    use super::*;
    use crate::bodies::{BODIES_BYTES_MAX, Bodies, Purpose};

    /// A body of these frames.
    struct Frames(VecDeque<Result<Bytes, Status>>);

    impl http_body::Body for Frames {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            Poll::Ready(self.0.pop_front().map(|frame| frame.map(Frame::data)))
        }
    }

    fn requests(bodies: &Bodies, frames: Vec<Result<Bytes, Status>>) -> Requests<PushRequest> {
        let body = Body::new(Frames(frames.into()));
        Requests::new(Meter::new(body, bodies.clone(), Purpose::Create))
    }

    fn framed(message: &[u8]) -> Vec<u8> {
        let length = u32::try_from(message.len()).expect("small");
        [&[0][..], &length.to_be_bytes(), message].concat()
    }

    fn refused(result: Next<PushRequest>) -> Failure {
        match result {
            Err(Broken::Refused(failure)) => failure,
            other => panic!("expected a refusal, got {other:?}"),
        }
    }

    #[tokio::test]
    async fn messages_come_out_however_they_were_cut_into_frames_and_give_their_share_back() {
        let batches: Vec<PushRequest> = (0..4)
            .map(|seq| PushRequest { seq, queue: "q".repeat(30 * seq as usize), ..Default::default() })
            .collect();
        let bytes: Vec<u8> = batches.iter().flat_map(|batch| framed(&batch.encode_to_vec())).collect();
        for size in 1..=bytes.len() {
            let bodies = Bodies::new();
            let frames = bytes.chunks(size).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
            let mut requests = requests(&bodies, frames);
            let mut out = Vec::new();
            while let Some((message, share)) = requests.next().await.expect("well formed") {
                assert_eq!(share.expect("has one").num_permits(), message.encoded_len());
                out.push(message);
            }
            assert_eq!(out, batches);
            assert_eq!(bodies.used(), 0, "an idle stream holds nothing");
        }
    }

    #[tokio::test]
    async fn who_sends_nonsense_hears_it_and_who_is_gone_does_not() {
        let bodies = Bodies::new();
        let one = |bytes: Vec<u8>| vec![Ok(Bytes::from(bytes))];
        let nonsense = refused(requests(&bodies, one(framed(&[0xff; 9]))).next().await);
        assert_eq!((nonsense.kind, &*nonsense.reason), (Kind::Invalid, reason::STREAM_PROTOCOL));
        let half = refused(requests(&bodies, one(framed(b"half")[..7].to_vec())).next().await);
        assert_eq!(half.reason, reason::STREAM_PROTOCOL);
        let compressed = refused(requests(&bodies, one(vec![1, 0, 0, 0, 0])).next().await);
        assert_eq!(compressed.kind, Kind::Unsupported);
        let gone = requests(&bodies, vec![Err(Status::unknown("reset"))]).next().await;
        assert!(matches!(gone, Err(Broken::Gone(_))), "{gone:?}");
        assert_eq!(bodies.used(), 0);
    }

    #[tokio::test]
    async fn what_stands_before_a_refused_message_is_read_and_the_refused_one_holds_nothing() {
        let bodies = Bodies::new();
        let held: Vec<Share> = std::iter::from_fn(|| bodies.take(1 << 20, Purpose::Create).ok()).collect();
        let full = bodies.used();
        assert!(full < BODIES_BYTES_MAX, "the rest is reserved");
        let empty = framed(&[]);
        let large = framed(&PushRequest { seq: 1, ..Default::default() }.encode_to_vec());
        let mut requests = requests(&bodies, vec![Ok(Bytes::from([empty, large].concat()))]);
        assert!(requests.next().await.expect("needs no memory").is_some());
        let failure = refused(requests.next().await);
        assert_eq!((failure.kind, &*failure.reason), (Kind::Overloaded, reason::OVERLOADED));
        assert!(failure.retry_after.is_some());
        assert_eq!(bodies.used(), full);
        drop(held);
        assert_eq!(bodies.used(), 0);
    }
}
