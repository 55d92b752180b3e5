//! The head of every frame on a lane: how long, what kind, and two checksums.
//!
//! The head has a checksum of its own, so that a length that was damaged is noticed at once: without it a reader
//! would wait for millions of bytes that never come. The other one covers the first 8 bytes and the body.
//! Layout: `docs/FORMATS.md`, "Peer protocol". Pure: no socket is touched here.

/// Bytes of a head.
pub(crate) const HEAD_BYTES: usize = 12;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Bytes for the handler. The only kind whose length is not fixed by the protocol.
    Data,
    /// Sent by the dialer of a lane that has nothing to send, so that silence means a lost peer.
    Ping,
    /// Sent by the acceptor of a lane once a second, however busy the lane is. Same purpose, other direction.
    Beat,
    /// The last frame of a connection: why it ends.
    Bye,
}

/// Why bytes are not a frame. After any of these nothing more of the connection can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadFrame {
    /// The checksum of the head does not match.
    #[error("the head of a frame does not match its checksum")]
    Head,
    /// A kind this version does not know.
    #[error("a frame has the unknown kind {0}")]
    Kind(u8),
    /// Flags this version does not know.
    #[error("a frame has the unknown flags {0:#04x}")]
    Flags(u8),
    /// Longer than this lane allows.
    #[error("a frame of {len} bytes, where {max} are allowed")]
    TooLong {
        /// Bytes of the body.
        len: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// The checksum of the body does not match.
    #[error("the body of a frame does not match its checksum")]
    Body,
    /// A kind that this side does not send in this place.
    #[error("a frame came where none of its kind is expected")]
    Unexpected,
    /// The connection ended inside a frame.
    #[error("the connection ended in the middle of a frame")]
    Half,
}

/// A checked head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    /// What the frame is.
    pub kind: Kind,
    /// Bytes of the body.
    pub len: usize,
    /// Checksum of the first 8 bytes of the head, where the body's begins.
    seed: u32,
    crc: u32,
}

impl Kind {
    fn code(self) -> u8 {
        match self {
            Self::Data => 1,
            Self::Ping => 2,
            Self::Beat => 3,
            Self::Bye => 4,
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        [Self::Data, Self::Ping, Self::Beat, Self::Bye].into_iter().find(|kind| kind.code() == code)
    }
}

/// Returns the head of a frame of `kind` around `body`.
///
/// # Panics
/// If `body` does not fit a u32: lanes refuse longer ones first.
pub(crate) fn head(kind: Kind, body: &[u8]) -> [u8; HEAD_BYTES] {
    let mut head = [0; HEAD_BYTES];
    let len = u32::try_from(body.len()).expect("lanes refuse frames longer than FRAME_BYTES_MAX");
    head[0..4].copy_from_slice(&len.to_le_bytes());
    head[4] = kind.code();
    let check = check_of(&head);
    head[6..8].copy_from_slice(&check.to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&head[..8]), body);
    head[8..12].copy_from_slice(&crc.to_le_bytes());
    head
}

fn check_of(head: &[u8; HEAD_BYTES]) -> u16 {
    // The lower half of a CRC-32C: a burst of up to 16 damaged bits changes it for certain.
    crc32c::crc32c(&head[..6]) as u16
}

impl Head {
    /// Returns what `bytes` announce, if the body is at most `len_max` bytes.
    ///
    /// # Errors
    /// If the head is damaged, unknown or too long.
    pub(crate) fn read(bytes: &[u8; HEAD_BYTES], len_max: usize) -> Result<Self, BadFrame> {
        if check_of(bytes) != u16::from_le_bytes([bytes[6], bytes[7]]) {
            return Err(BadFrame::Head);
        }
        let kind = Kind::from_code(bytes[4]).ok_or(BadFrame::Kind(bytes[4]))?;
        if bytes[5] != 0 {
            return Err(BadFrame::Flags(bytes[5]));
        }
        let len = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize;
        let max = match kind {
            Kind::Data => len_max,
            Kind::Ping | Kind::Beat => 0,
            Kind::Bye => crate::hello::REFUSAL_BYTES_MAX,
        };
        if len > max {
            return Err(BadFrame::TooLong { len, max });
        }
        let crc = u32::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]);
        Ok(Self { kind, len, seed: crc32c::crc32c(&bytes[..8]), crc })
    }

    /// Checks the body.
    ///
    /// # Errors
    /// [`BadFrame::Body`].
    pub(crate) fn check(&self, body: &[u8]) -> Result<(), BadFrame> {
        assert_eq!(body.len(), self.len, "the reader cuts a body at its announced length");
        if crc32c::crc32c_append(self.seed, body) == self.crc { Ok(()) } else { Err(BadFrame::Body) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(bytes: &[u8], len_max: usize) -> Result<(Kind, &[u8]), BadFrame> {
        let head = Head::read(bytes[..HEAD_BYTES].try_into().expect("a whole head"), len_max)?;
        let body = bytes[HEAD_BYTES..].get(..head.len).ok_or(BadFrame::Half)?;
        head.check(body)?;
        Ok((head.kind, body))
    }

    fn frame(kind: Kind, body: &[u8]) -> Vec<u8> {
        [&head(kind, body)[..], body].concat()
    }

    #[test]
    fn the_bytes_are_those_of_the_format() {
        let bytes = frame(Kind::Data, b"hello");
        assert_eq!(bytes[..6], [5, 0, 0, 0, 1, 0]);
        assert_eq!(bytes[6..12], [147, 184, 84, 111, 58, 140]);
        assert_eq!(bytes.len(), HEAD_BYTES + 5);
    }

    #[test]
    fn kinds_flags_and_lengths_outside_the_protocol_are_refused() {
        let mut bytes = head(Kind::Data, b"");
        let resealed = |bytes: &mut [u8; HEAD_BYTES]| {
            let check = check_of(bytes);
            bytes[6..8].copy_from_slice(&check.to_le_bytes());
            Head::read(bytes, 10)
        };
        bytes[4] = 9;
        assert_eq!(resealed(&mut bytes), Err(BadFrame::Kind(9)));
        (bytes[4], bytes[5]) = (1, 0x80);
        assert_eq!(resealed(&mut bytes), Err(BadFrame::Flags(0x80)));
        (bytes[5], bytes[0]) = (0, 11);
        assert_eq!(resealed(&mut bytes), Err(BadFrame::TooLong { len: 11, max: 10 }));
        (bytes[4], bytes[0]) = (2, 1);
        assert_eq!(resealed(&mut bytes), Err(BadFrame::TooLong { len: 1, max: 0 }));
    }

    proptest! {
        #[test]
        fn what_was_framed_is_read_back(body in proptest::collection::vec(any::<u8>(), 0..300)) {
            let bytes = frame(Kind::Data, &body);
            prop_assert_eq!(read(&bytes, 300), Ok((Kind::Data, &body[..])));
        }

        #[test]
        fn one_flipped_bit_anywhere_is_noticed(
            body in proptest::collection::vec(any::<u8>(), 0..100), at in any::<proptest::sample::Index>(), bit in 0u8..8,
        ) {
            let mut bytes = frame(Kind::Data, &body);
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert!(read(&bytes, 100).is_err());
        }

        #[test]
        fn random_bytes_are_an_error_or_a_frame_but_never_a_panic(bytes in proptest::array::uniform12(any::<u8>())) {
            let _ = Head::read(&bytes, 1 << 20);
        }
    }
}
