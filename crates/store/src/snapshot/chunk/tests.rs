//! The bytes of a chunk, and that no changed bit passes.

use super::*;
use crate::snapshot::stream::Stream;

fn first() -> First {
    let meta =
        Meta { applied: Index(0x0102), term: Term(3), digest: 0xA1B2_C3D4_E5F6_0718, conf: vec![7, 8] };
    First { meta, bytes_about: 9 }
}

fn one() -> Vec<u8> {
    let first = first();
    let stream = stream_of(ShardId(5), &first.meta);
    let mut builder = Builder::new(ShardId(5), stream, Progress::default(), Some(&first));
    assert!(builder.push(b"a", b"one"));
    assert!(builder.push(b"b", b""));
    builder.finish(true).0
}

#[test]
fn a_chunk_has_its_golden_bytes_and_reads_back() {
    let bytes = one();
    #[rustfmt::skip]
    let golden = [
        123, 0, 0, 0,
        85, 128, 187, 126,
        1, 3, 0, 0,
        5, 0, 0, 0,
        212, 137, 66, 13, 0, 175, 96, 218,
        0, 0, 0, 0,
        2, 0, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0,
        2, 1, 0, 0, 0, 0, 0, 0,
        3, 0, 0, 0, 0, 0, 0, 0,
        0x18, 0x07, 0xF6, 0xE5, 0xD4, 0xC3, 0xB2, 0xA1,
        2, 0, 0, 0, 7, 8,
        9, 0, 0, 0, 0, 0, 0, 0,
        1, 0, 0, 0, 3, 0, 0, 0, b'a', b'o', b'n', b'e',
        1, 0, 0, 0, 0, 0, 0, 0, b'b',
        2, 0, 0, 0, 0, 0, 0, 0,
        206, 5, 173, 42, 137, 185, 45, 140,
    ];
    assert_eq!(bytes, golden);
    let chunk = Chunk::decode(&bytes).unwrap();
    assert_eq!(chunk.first, Some(first()));
    assert_eq!(chunk.rows().collect::<Vec<_>>(), [(&b"a"[..], &b"one"[..]), (b"b", b"")]);
    assert_eq!(chunk.totals, Some((2, chunk.after().hash)));
    assert_eq!(ChunkHead::peek(&bytes), Some(chunk.head));
    assert!(Stream::new(ShardId(5), chunk.head.stream).with(&chunk).unwrap().complete);
}

#[test]
fn every_changed_bit_and_every_cut_is_refused() {
    let good = one();
    for at in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[at / 8] ^= 1 << (at % 8);
        assert!(matches!(Chunk::decode(&bad), Err(Refusal::Damaged(_))), "bit {at}");
    }
    for length in 0..good.len() {
        assert!(matches!(Chunk::decode(&good[..length]), Err(Refusal::Damaged(_))), "cut at {length}");
    }
    let longer = [&good[..], &[0]].concat();
    assert!(Chunk::decode(&longer).is_err());
}

/// Returns `bytes` after `change`, with a good checksum.
fn changed(change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = one();
    change(&mut bytes);
    let length = bytes.len() as u32;
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    let crc = checksum(&bytes);
    bytes[4..8].copy_from_slice(&crc.to_le_bytes());
    bytes
}

#[test]
fn a_newer_version_is_told_apart_from_damage() {
    assert_eq!(Chunk::decode(&changed(|bytes| bytes[8] = 2)).unwrap_err(), Refusal::Newer(2));
    assert!(matches!(Chunk::decode(&changed(|bytes| bytes[8] = 0)).unwrap_err(), Refusal::Damaged(_)));
}

#[test]
fn whatever_a_sender_writes_with_a_good_checksum_does_not_panic_and_never_passes_as_another_stream() {
    let good = one();
    let stream = Stream::new(ShardId(5), ChunkHead::peek(&good).unwrap().stream);
    for at in 8..good.len() {
        for value in [0, 1, 2, 0x7F, 0xFF, good[at] ^ 1] {
            let bytes = changed(|bytes| bytes[at] = value);
            let Ok(chunk) = Chunk::decode(&bytes) else { continue };
            // Two fillers and the estimate are all that may differ.
            let free = (10..12).contains(&at) || (78..86).contains(&at);
            assert!(stream.with(&chunk).is_err() || bytes[at] == good[at] || free, "byte {at} = {value}");
        }
    }
    for length in 8..good.len() {
        let bytes = changed(|bytes| bytes.truncate(length));
        assert!(Chunk::decode(&bytes).map_or(true, |chunk| stream.with(&chunk).is_err()), "cut at {length}");
    }
}
