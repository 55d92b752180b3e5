//! The frames of the hot path as bytes: written once and sent often, read without building a message.
//!
//! The load generator shares the machine with the server it measures, so it must be lean. A frame's tasks are encoded
//! once and only its head (sequence number, request id, one stamped task) is written anew; answers are walked field
//! by field, and an acknowledgement is the leased task's own id and token copied over: they have the same field
//! numbers in `LeasedTask` and `Settlement`. What is rare, such as a failure, is decoded by the generated code.
//!
//! # Invariants
//! - Every frame decodes to the message that the generated code would have sent; the tests compare them.
//!
//! Sources: the protobuf encoding guide, `crates/proto/proto/z4/v1/tasks.proto` for the field numbers.

use std::marker::PhantomData;

use bytes::{Buf as _, BufMut as _, Bytes};
use prost::Message as _;
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use z4_proto::v1;

/// Bytes of a task id's text.
pub(crate) const ID_BYTES: usize = 26;

/// An encoded message in two parts: what is new, and what is shared with other frames.
#[derive(Debug, Clone, Default)]
pub(crate) struct Frame {
    /// Written for this frame.
    pub(crate) head: Vec<u8>,
    /// Written once.
    pub(crate) body: Bytes,
}

/// A message that is read in place.
pub(crate) trait Reply: Send + Sized + 'static {
    /// Returns what `bytes` say.
    ///
    /// # Errors
    /// `INTERNAL` if they are no protobuf message.
    fn read(bytes: Bytes) -> Result<Self, Status>;
}

/// The codec of frames out and replies in.
#[derive(Debug)]
pub(crate) struct Raw<R>(PhantomData<fn() -> R>);

impl<R> Default for Raw<R> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<R: Reply> Codec for Raw<R> {
    type Encode = Frame;
    type Decode = R;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self::default()
    }

    fn decoder(&mut self) -> Self {
        Self::default()
    }
}

impl<R> Encoder for Raw<R> {
    type Item = Frame;
    type Error = Status;

    fn encode(&mut self, frame: Frame, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.reserve(frame.head.len() + frame.body.len());
        buffer.put_slice(&frame.head);
        buffer.put_slice(&frame.body);
        Ok(())
    }
}

impl<R: Reply> Decoder for Raw<R> {
    type Item = R;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<R>, Status> {
        let length = buffer.remaining();
        R::read(buffer.copy_to_bytes(length)).map(Some)
    }
}

fn malformed() -> Status {
    Status::internal("the server sent bytes that are no protobuf message")
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn varint_field(out: &mut Vec<u8>, number: u8, value: u64) {
    out.push(number << 3);
    varint(out, value);
}

fn bytes_field(out: &mut Vec<u8>, number: u8, value: &[u8]) {
    out.push(number << 3 | 2);
    varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

/// The value of one field.
#[derive(Debug, Clone, Copy)]
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// Walks the fields of a message.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn number(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn field(&mut self) -> Option<(u64, Value<'a>)> {
        let tag = self.number()?;
        let value = match tag & 7 {
            0 => Value::Number(self.number()?),
            1 => Value::Bytes(self.take(8)?),
            2 => {
                let length = usize::try_from(self.number()?).ok()?;
                Value::Bytes(self.take(length)?)
            }
            5 => Value::Bytes(self.take(4)?),
            _ => return None,
        };
        Some((tag >> 3, value))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Value<'a>), Status>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field().ok_or_else(malformed);
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

/// Appends one task of a push frame: its payload, and when it is due (milliseconds since 1970), or now.
pub(crate) fn put_task(out: &mut Vec<u8>, scratch: &mut Vec<u8>, payload: &[u8], deliver_at_ms: Option<u64>) {
    scratch.clear();
    bytes_field(scratch, 1, payload);
    if let Some(ms) = deliver_at_ms {
        let mut time = Vec::with_capacity(16);
        varint_field(&mut time, 1, ms / 1_000);
        varint_field(&mut time, 2, ms % 1_000 * 1_000_000);
        bytes_field(scratch, 3, &time);
    }
    bytes_field(out, 3, scratch);
}

/// Appends one task of a group that is due at once.
pub(crate) fn put_grouped(out: &mut Vec<u8>, scratch: &mut Vec<u8>, payload: &[u8], group: &str) {
    scratch.clear();
    bytes_field(scratch, 1, payload);
    bytes_field(scratch, 12, group.as_bytes());
    bytes_field(out, 3, scratch);
}

/// Returns the part of a push frame that many frames share: the queue, and tasks as [`put_task`] wrote them.
pub(crate) fn push_body(queue: &str, tasks: &[u8]) -> Bytes {
    let mut body = Vec::with_capacity(queue.len() + tasks.len() + 4);
    bytes_field(&mut body, 2, queue.as_bytes());
    body.extend_from_slice(tasks);
    body.into()
}

/// Returns a push frame; `tasks` are further tasks as [`put_task`] wrote them, before those of `body`.
pub(crate) fn push_frame(seq: u64, request_id: &str, tasks: &[u8], body: &Bytes) -> Frame {
    let mut head = Vec::with_capacity(48 + tasks.len());
    varint_field(&mut head, 1, seq);
    bytes_field(&mut head, 4, request_id.as_bytes());
    head.extend_from_slice(tasks);
    Frame { head, body: body.clone() }
}

/// Returns a message of the generated code as a frame.
pub(crate) fn message(message: &impl prost::Message) -> Frame {
    Frame { head: message.encode_to_vec(), body: Bytes::new() }
}

/// The answer to a push frame.
#[derive(Debug)]
pub(crate) struct PushAnswer {
    /// Of the request.
    pub(crate) seq: u64,
    /// Tasks that were created.
    pub(crate) created: u32,
    /// The id of one of them, by no pattern a server could profit from.
    pub(crate) sample: Option<[u8; ID_BYTES]>,
    /// Tasks that were refused.
    pub(crate) refused: Vec<v1::Failure>,
    /// Set if the whole batch was refused.
    pub(crate) failure: Option<v1::Failure>,
}

impl Reply for PushAnswer {
    fn read(bytes: Bytes) -> Result<Self, Status> {
        let mut answer = Self { seq: 0, created: 0, sample: None, refused: Vec::new(), failure: None };
        let mut rare = false;
        for field in Fields(&bytes) {
            match field? {
                (1, Value::Number(seq)) => answer.seq = seq,
                (2, Value::Bytes(id)) if !id.is_empty() => {
                    // The seq comes first on the wire; if not, the first id is as good.
                    let wanted = answer.seq.wrapping_mul(7_919) % 1_000;
                    if answer.created == 0 || u64::from(answer.created) == wanted {
                        answer.sample = id.try_into().ok();
                    }
                    answer.created += 1;
                }
                (3 | 4, _) => rare = true,
                _ => {}
            }
        }
        if rare {
            let reply = v1::PushReply::decode(bytes).map_err(|_| malformed())?;
            answer.refused = reply.errors.into_iter().map(|e| e.failure.unwrap_or_default()).collect();
            answer.failure = reply.failure;
        }
        Ok(answer)
    }
}

/// What a server says on a pull stream.
#[derive(Debug)]
pub(crate) enum PullAnswer {
    /// The stream is served.
    Opened,
    /// Leased tasks.
    Tasks(Leases),
    /// Answer to one settle frame: how many of its words were refused, or why all of them.
    Settled {
        /// Of the request.
        seq: u64,
        /// Words that were refused.
        errors: Vec<v1::ItemError>,
        /// Set if the whole frame was.
        failure: Option<v1::Failure>,
    },
    /// The server is going away.
    Draining,
}

impl Reply for PullAnswer {
    fn read(bytes: Bytes) -> Result<Self, Status> {
        let Some(field) = Fields(&bytes).next() else { return Err(malformed()) };
        match field? {
            (2, Value::Bytes(tasks)) => Ok(Self::Tasks(Leases(bytes.slice_ref(tasks)))),
            (3, Value::Bytes(settled)) => {
                let settled = v1::pull_reply::Settled::decode(settled).map_err(|_| malformed())?;
                Ok(Self::Settled { seq: settled.seq, errors: settled.errors, failure: settled.failure })
            }
            (4, _) => Ok(Self::Draining),
            _ => Ok(Self::Opened),
        }
    }
}

/// A batch of deliveries, still encoded.
#[derive(Debug, Clone)]
pub(crate) struct Leases(Bytes);

/// One delivery.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Leased<'a> {
    /// The task's id, as text.
    pub(crate) id: &'a [u8],
    /// The lease.
    pub(crate) token: u64,
    /// As created.
    pub(crate) payload: &'a [u8],
    /// When it was due, nanoseconds since 1970.
    pub(crate) due_ns: u64,
    /// Deliveries so far, this one included.
    pub(crate) deliveries: u64,
}

impl Leases {
    /// Returns the deliveries, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Result<Leased<'_>, Status>> {
        Fields(&self.0).map(|field| match field? {
            (1, Value::Bytes(task)) => leased(task),
            _ => Err(malformed()),
        })
    }

    /// Returns the frame that acknowledges them all, how many they are, and the bytes of their payloads.
    ///
    /// # Errors
    /// `INTERNAL` if the batch is no protobuf message.
    pub(crate) fn acks(&self, seq: u64) -> Result<(Frame, u32, u64), Status> {
        let (mut count, mut bytes) = (0, 0);
        let mut words = Vec::with_capacity(64 + self.0.len() / 4);
        varint_field(&mut words, 1, seq);
        let mut word = Vec::with_capacity(48);
        for task in self.iter() {
            let task = task?;
            word.clear();
            bytes_field(&mut word, 1, task.id);
            varint_field(&mut word, 2, task.token);
            bytes_field(&mut word, 3, &[]);
            bytes_field(&mut words, 2, &word);
            count += 1;
            bytes += task.payload.len() as u64;
        }
        let mut head = Vec::with_capacity(8);
        head.push(3 << 3 | 2);
        varint(&mut head, words.len() as u64);
        Ok((Frame { head, body: words.into() }, count, bytes))
    }
}

fn leased(task: &[u8]) -> Result<Leased<'_>, Status> {
    let mut leased = Leased::default();
    for field in Fields(task) {
        match field? {
            (1, Value::Bytes(id)) => leased.id = id,
            (2, Value::Number(token)) => leased.token = token,
            (3, Value::Bytes(payload)) => leased.payload = payload,
            (6, Value::Bytes(time)) => {
                for part in Fields(time) {
                    match part? {
                        (1, Value::Number(seconds)) => leased.due_ns += seconds * 1_000_000_000,
                        (2, Value::Number(nanos)) => leased.due_ns += nanos,
                        _ => {}
                    }
                }
            }
            (9, Value::Number(deliveries)) => leased.deliveries = deliveries,
            _ => {}
        }
    }
    Ok(leased)
}

#[cfg(test)]
mod tests {
    use super::*;
    use v1::pull_reply::Message as Pulled;

    fn bytes(frame: &Frame) -> Vec<u8> {
        [frame.head.as_slice(), &frame.body].concat()
    }

    #[test]
    fn a_push_frame_is_what_the_generated_code_reads() {
        let (mut first, mut rest, mut scratch) = (Vec::new(), Vec::new(), Vec::new());
        put_task(&mut first, &mut scratch, b"stamped", Some(1_700_000_000_123));
        put_task(&mut rest, &mut scratch, &[7; 200], None);
        put_task(&mut rest, &mut scratch, b"", Some(2_000));
        put_grouped(&mut rest, &mut scratch, b"grouped", "tenant-1");
        let frame = push_frame(300, "r1", &first, &push_body("a/b", &rest));
        let request = v1::PushRequest::decode(bytes(&frame).as_slice()).expect("a message");
        let task = |payload: &'static [u8], at: Option<(i64, i32)>| v1::NewTask {
            payload: Bytes::from_static(payload),
            schedule: at.map(|(seconds, nanos)| {
                v1::new_task::Schedule::DeliverAt(z4_proto::Timestamp { seconds, nanos })
            }),
            ..v1::NewTask::default()
        };
        let tasks = vec![
            task(b"stamped", Some((1_700_000_000, 123_000_000))),
            task(&[7; 200], None),
            task(b"", Some((2, 0))),
            v1::NewTask { group: "tenant-1".into(), ..task(b"grouped", None) },
        ];
        assert_eq!(
            request,
            v1::PushRequest { seq: 300, queue: "a/b".into(), tasks, request_id: "r1".into() }
        );
    }

    #[test]
    fn a_push_reply_is_counted_and_its_failures_are_kept() {
        let id = "0".repeat(ID_BYTES);
        let mut reply = v1::PushReply { seq: 9, ids: vec![id.clone(); 1_000], ..v1::PushReply::default() };
        let answer = PushAnswer::read(reply.encode_to_vec().into()).expect("a message");
        assert_eq!((answer.seq, answer.created, answer.refused.len()), (9, 1_000, 0));
        assert_eq!(answer.sample.map(|id| id.to_vec()), Some(id.into_bytes()));
        reply.ids[3].clear();
        reply
            .errors
            .push(v1::ItemError { index: 3, failure: Some(v1::Failure { code: 8, ..Default::default() }) });
        let answer = PushAnswer::read(reply.encode_to_vec().into()).expect("a message");
        assert_eq!((answer.created, answer.refused[0].code), (999, 8));
    }

    #[test]
    fn leases_are_read_in_place_and_acknowledged_by_id_and_token() {
        let task = |n: u64| v1::LeasedTask {
            id: format!("{n:026}"),
            token: n << 40,
            payload: vec![n as u8; 20].into(),
            deliver_at: Some(z4_proto::Timestamp { seconds: 5, nanos: 6 }),
            deliveries: 2,
            ..v1::LeasedTask::default()
        };
        let tasks = v1::pull_reply::Tasks { tasks: vec![task(1), task(2)] };
        let reply = v1::PullReply { message: Some(Pulled::Tasks(tasks)) };
        let PullAnswer::Tasks(leases) = PullAnswer::read(reply.encode_to_vec().into()).expect("a message")
        else {
            panic!("tasks");
        };
        let second = leases.iter().nth(1).expect("two").expect("a message");
        assert_eq!(
            (second.token, second.payload, second.due_ns),
            (2 << 40, [2u8; 20].as_slice(), 5_000_000_006)
        );
        let (frame, count, size) = leases.acks(77).expect("a message");
        assert_eq!((count, size), (2, 40));
        let request = v1::PullRequest::decode(bytes(&frame).as_slice()).expect("a message");
        let ack = |n: u64| v1::Settlement {
            id: format!("{n:026}"),
            token: n << 40,
            verdict: Some(v1::settlement::Verdict::Ack(v1::Ack::default())),
        };
        let settle = v1::pull_request::Settle { seq: 77, settlements: vec![ack(1), ack(2)] };
        assert_eq!(request.message, Some(v1::pull_request::Message::Settle(settle)));
    }

    #[test]
    fn no_bytes_make_the_reader_panic() {
        for length in 0..40 {
            for byte in [0u8, 0x0a, 0x12, 0x1a, 0x80, 0xff] {
                let junk = Bytes::from(vec![byte; length]);
                drop(PushAnswer::read(junk.clone()));
                if let Ok(PullAnswer::Tasks(leases)) = PullAnswer::read(junk) {
                    drop(leases.acks(1));
                }
            }
        }
    }
}
