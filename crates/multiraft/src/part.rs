//! What drivers of two hosts tell each other: parts, packed into frames (`docs/FORMATS.md`, "Driver frame").
//!
//! # Invariants
//! - Whatever the bytes, reading them returns. A part that cannot be understood ends the frame: what came before it counts.
//!
//! # Not here
//! - Checksums and order within a lane: the transport's. What a consensus message holds: `z4-consensus`.

use bytes::{Buf as _, Bytes};
use z4_consensus::Message;
use z4_types::{Index, ShardId};

const VERSION: u8 = 1;
/// Kind, shard, length.
const HEAD_BYTES: usize = 9;

const MESSAGE: u8 = 1;
const OFFER: u8 = 2;
const WANT: u8 = 3;
const CHUNK: u8 = 4;
const DIGEST: u8 = 5;

/// The frame was not written by a driver of a version this program reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a driver's frame: {0}")]
pub(crate) struct BadFrame(&'static str);

/// One thing said to one replica.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Part {
    /// The engine's.
    Message(Message),
    /// A snapshot can be had: its message, with the mark of the rows in `stream`.
    Offer { stream: u64, message: Message },
    /// The receiver has all chunks below `next` and wants more; `again`: what was sent since is lost.
    Want { to: u64, from: u64, stream: u64, next: u32, again: bool },
    /// One chunk of a snapshot's rows.
    Chunk { to: u64, bytes: Bytes },
    /// The sender's state had this digest at this index.
    Digest { to: u64, index: Index, digest: u64 },
}

impl Part {
    /// Returns whether it takes the urgent lane.
    pub(crate) fn is_urgent(&self) -> bool {
        match self {
            Self::Message(message) => message.is_urgent(),
            Self::Chunk { .. } => false,
            Self::Offer { .. } | Self::Want { .. } | Self::Digest { .. } => true,
        }
    }

    /// Returns the replica it is for.
    pub(crate) fn to(&self) -> u64 {
        match self {
            Self::Message(message) | Self::Offer { message, .. } => message.to(),
            Self::Want { to, .. } | Self::Chunk { to, .. } | Self::Digest { to, .. } => *to,
        }
    }

    /// Adds the part to a frame; an empty one gets its version first.
    pub(crate) fn encode(&self, shard: ShardId, frame: &mut Vec<u8>) {
        if frame.is_empty() {
            frame.push(VERSION);
        }
        let kind = match self {
            Self::Message(_) => MESSAGE,
            Self::Offer { .. } => OFFER,
            Self::Want { .. } => WANT,
            Self::Chunk { .. } => CHUNK,
            Self::Digest { .. } => DIGEST,
        };
        frame.push(kind);
        frame.extend_from_slice(&shard.0.to_le_bytes());
        let length_at = frame.len();
        frame.extend_from_slice(&[0; 4]);
        match self {
            Self::Message(message) => message.encode(frame),
            Self::Offer { stream, message } => {
                frame.extend_from_slice(&stream.to_le_bytes());
                message.encode(frame);
            }
            Self::Want { to, from, stream, next, again } => {
                for number in [to, from, stream] {
                    frame.extend_from_slice(&number.to_le_bytes());
                }
                frame.extend_from_slice(&next.to_le_bytes());
                frame.push(u8::from(*again));
            }
            Self::Chunk { to, bytes } => {
                frame.extend_from_slice(&to.to_le_bytes());
                frame.extend_from_slice(bytes);
            }
            Self::Digest { to, index, digest } => {
                for number in [*to, index.0, *digest] {
                    frame.extend_from_slice(&number.to_le_bytes());
                }
            }
        }
        let length = frame.len() - length_at - 4;
        let length = u32::try_from(length).expect("a part is far below 4 GiB");
        frame[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
    }
}

/// Reads the parts of a frame, in order.
pub(crate) struct Parts {
    rest: Bytes,
}

impl Parts {
    /// # Errors
    /// If the frame is of another version.
    pub(crate) fn new(mut frame: Bytes) -> Result<Self, BadFrame> {
        if frame.try_get_u8() != Ok(VERSION) {
            return Err(BadFrame("unknown version"));
        }
        Ok(Self { rest: frame })
    }

    fn next_part(&mut self) -> Result<(ShardId, Part), BadFrame> {
        if self.rest.len() < HEAD_BYTES {
            return Err(BadFrame("cut in a part's head"));
        }
        let (kind, shard) = (self.rest.get_u8(), ShardId(self.rest.get_u32_le()));
        let length = self.rest.get_u32_le() as usize;
        if length > self.rest.len() {
            return Err(BadFrame("cut in a part"));
        }
        let mut bytes = self.rest.split_to(length);
        let part = read(kind, &mut bytes).ok_or(BadFrame("a part that is none"))?;
        if bytes.is_empty() { Ok((shard, part)) } else { Err(BadFrame("a part that is too long")) }
    }
}

fn read(kind: u8, bytes: &mut Bytes) -> Option<Part> {
    match kind {
        MESSAGE => Some(Part::Message(Message::decode(bytes).ok()?)),
        OFFER => {
            let stream = bytes.try_get_u64_le().ok()?;
            let message = Message::decode(bytes).ok()?;
            message.snapshot().is_some().then_some(Part::Offer { stream, message })
        }
        WANT => {
            let mut number = || bytes.try_get_u64_le().ok();
            let (to, from, stream) = (number()?, number()?, number()?);
            let next = bytes.try_get_u32_le().ok()?;
            let again = bytes.try_get_u8().ok()?;
            (again <= 1).then_some(Part::Want { to, from, stream, next, again: again == 1 })
        }
        CHUNK => {
            let to = bytes.try_get_u64_le().ok()?;
            Some(Part::Chunk { to, bytes: bytes.split_off(0) })
        }
        DIGEST => {
            let mut number = || bytes.try_get_u64_le().ok();
            Some(Part::Digest { to: number()?, index: Index(number()?), digest: number()? })
        }
        _ => None,
    }
}

impl Iterator for Parts {
    type Item = Result<(ShardId, Part), BadFrame>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let part = self.next_part();
        if part.is_err() {
            self.rest.clear();
        }
        Some(part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts() -> Vec<(ShardId, Part)> {
        vec![
            (ShardId(1), Part::Want { to: 1, from: 2, stream: 3, next: 4, again: true }),
            (ShardId(2), Part::Chunk { to: 7, bytes: Bytes::from_static(b"rows") }),
            (ShardId(0), Part::Digest { to: 9, index: Index(256), digest: u64::MAX }),
        ]
    }

    fn frame() -> Vec<u8> {
        let mut frame = Vec::new();
        parts().iter().for_each(|(shard, part)| part.encode(*shard, &mut frame));
        frame
    }

    #[test]
    fn parts_survive_a_frame_and_have_their_golden_bytes() {
        let frame = frame();
        #[rustfmt::skip]
        let want = [
            1,
            3, 1, 0, 0, 0, 29, 0, 0, 0,
            1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 1,
            4, 2, 0, 0, 0, 12, 0, 0, 0,
            7, 0, 0, 0, 0, 0, 0, 0, b'r', b'o', b'w', b's',
        ];
        assert_eq!(frame[..want.len()], want);
        let read: Result<Vec<_>, _> = Parts::new(frame.into()).expect("our version").collect();
        assert_eq!(read, Ok(parts()));
    }

    #[test]
    fn a_damaged_frame_gives_what_came_before_the_damage_and_then_ends() {
        let frame = frame();
        assert!(Parts::new(Bytes::new()).is_err() && Parts::new(Bytes::from_static(&[2])).is_err());
        for cut in 1..frame.len() {
            let read: Vec<_> =
                Parts::new(Bytes::copy_from_slice(&frame[..cut])).expect("our version").collect();
            let good = read.iter().filter(|part| part.is_ok()).count();
            assert!(good < 3 && read.len() <= good + 1, "cut at {cut}: {read:?}");
        }
        for at in 1..frame.len() {
            let mut bytes = frame.clone();
            bytes[at] ^= 0x80;
            // Whatever it makes of them, it ends.
            assert!(Parts::new(bytes.into()).expect("our version").count() <= 3);
        }
    }
}
