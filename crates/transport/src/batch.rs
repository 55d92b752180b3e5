//! Frames on their way into a socket: many small ones in one buffer, large ones as they are.
//!
//! One system call writes a whole batch. A small body is copied behind its head, since a slice of its own in a vectored
//! write costs more than the copy; a large one is not copied at all.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes, BytesMut};

use crate::frame::{self, Kind};

/// Bodies below this are copied. 16 KiB take about a microsecond, a slice in a vectored write about as much less.
const COPY_BYTES_MAX: usize = 16 << 10;
/// Room kept for copies.
const SCRATCH_BYTES: usize = 256 << 10;

/// Frames as the chunks of one vectored write. Empty again when all is written.
#[derive(Default)]
pub(crate) struct Batch {
    chunks: VecDeque<Bytes>,
    /// Copies that are not yet a chunk.
    scratch: BytesMut,
    /// Bytes in `chunks`.
    remaining: usize,
}

impl Batch {
    /// Adds a frame. Call [`Batch::seal`] before writing.
    pub(crate) fn push(&mut self, kind: Kind, body: Bytes) {
        let head = frame::head(kind, &body);
        if self.scratch.capacity() - self.scratch.len() < head.len() + COPY_BYTES_MAX {
            self.seal();
            self.scratch.reserve(SCRATCH_BYTES);
        }
        self.scratch.extend_from_slice(&head);
        if body.len() < COPY_BYTES_MAX {
            self.scratch.extend_from_slice(&body);
        } else {
            self.seal();
            self.remaining += body.len();
            self.chunks.push_back(body);
        }
    }

    /// Makes what was pushed visible to the writer.
    pub(crate) fn seal(&mut self) {
        if !self.scratch.is_empty() {
            self.remaining += self.scratch.len();
            self.chunks.push_back(self.scratch.split().freeze());
        }
    }
}

impl Buf for Batch {
    fn remaining(&self) -> usize {
        self.remaining
    }

    fn chunk(&self) -> &[u8] {
        self.chunks.front().map_or(&[], |chunk| &chunk[..])
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut filled = 0;
        for (slice, chunk) in slices.iter_mut().zip(&self.chunks) {
            *slice = IoSlice::new(chunk);
            filled += 1;
        }
        filled
    }

    fn advance(&mut self, mut count: usize) {
        assert!(count <= self.remaining, "a writer writes at most what there is");
        self.remaining -= count;
        while count > 0 {
            let front = self.chunks.front_mut().expect("`remaining` counts the chunks");
            if count < front.len() {
                front.advance(count);
                return;
            }
            count -= front.len();
            self.chunks.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn however_the_socket_takes_it_the_bytes_are_those_of_the_frames(
            lens in proptest::collection::vec(0..3 * COPY_BYTES_MAX, 0..20), steps in proptest::collection::vec(1..50_000usize, 1..50),
        ) {
            let bodies: Vec<Bytes> = lens.iter().map(|len| Bytes::from(vec![*len as u8; *len])).collect();
            let expected: Vec<u8> =
                bodies.iter().flat_map(|body| [&frame::head(Kind::Data, body)[..], body].concat()).collect();
            let mut batch = Batch::default();
            bodies.into_iter().for_each(|body| batch.push(Kind::Data, body));
            batch.seal();
            prop_assert_eq!(batch.remaining(), expected.len());
            let mut written = Vec::new();
            let mut steps = steps.into_iter().cycle();
            while batch.has_remaining() {
                let mut slices = [IoSlice::new(&[]); 4];
                let filled = batch.chunks_vectored(&mut slices);
                let offered: Vec<u8> = slices[..filled].iter().flat_map(|slice| slice.to_vec()).collect();
                prop_assert!(offered.starts_with(batch.chunk()));
                let step = steps.next().unwrap_or(1).min(offered.len());
                written.extend_from_slice(&offered[..step]);
                batch.advance(step);
            }
            prop_assert_eq!(written, expected);
        }
    }
}
