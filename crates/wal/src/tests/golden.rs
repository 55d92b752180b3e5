//! The bytes on disk do not drift: whoever changes one of these changes the format and its version.

use std::path::Path;

use bytes::Bytes;
use z4_types::{EntryKind, Index, ShardId};

use super::*;
use crate::body;

// Computed from FORMATS.md by another program.
const HEADER: [&str; 4] = ["5a3457414c0d0a00", "0100000000000000", "0100000000000000", "0100000000000000"];
const RECORD: &[&str] = &[
    "800000003b72e162", // length, checksum
    "0100000000000000", // batch
    "05000000010f0000", // group, kind, flags
    "0300000000000000", // hard state: term
    "0200000000000000", // vote
    "0600000000000000", // commit
    "0700000000000000", // truncate
    "020000003f000000", // body: count, bytes
    "0700000000000000", // entry: index
    "0300000000000000", // term
    "0500000000000000", // length, kind
    "3da0335b68656c6c", // checksum, "hell"
    "6f08000000000000", // "o", the second entry
    "0003000000000000",
    "0002000000010000",
    "008faee468636300", // "cc", padding
];
const FORGET: [&str; 3] = ["1800000017c90be4", "0200000000000000", "0500000002000000"];
const SEAL: [&str; 3] = ["1800000024133cf3", "0200000000000000", "0000000003010000"];

fn hex(bytes: &[u8]) -> Vec<String> {
    bytes.chunks(8).map(|c| c.iter().map(|b| format!("{b:02x}")).collect()).collect()
}

#[test]
fn a_segment_header_and_a_record_have_the_bytes_formats_md_draws() {
    let disk = TestDisk::default();
    let (mut wal, _) = open(&disk, 1 << 16).expect("a new log");
    let mut membership = entry(8, 3, b"cc");
    membership.kind = EntryKind::Membership;
    let record = Record {
        group: ShardId(5),
        hard_state: Some(state(3, 2, 6)),
        truncate: Some(Index(7)),
        entries: vec![entry(7, 3, b"hello"), membership],
    };
    wal.release(ShardId(5), Index(6));
    commit(&mut wal, &Batch { records: vec![record] });
    wal.forget(ShardId(5));
    wal.seal().expect("the disk is healthy");
    let bytes = disk.bytes(Path::new("/data/wal/0000000000000001.wal"));
    assert_eq!(hex(&bytes[..32]), HEADER);
    assert!(bytes[32..4092].iter().all(|b| *b == 0), "the rest of the header is reserved");
    assert_eq!(hex(&bytes[4092..4096]), ["5497c2fc"]);
    assert_eq!(hex(&bytes[4096..]), [RECORD, &FORGET[..], &SEAL[..]].concat());
}

#[test]
fn a_body_survives_the_wire_and_checks_its_group() {
    let entries = vec![entry(1, 1, b""), entry(2, 1, b"x"), entry(3, 2, &[7; 300])];
    let mut bytes = Vec::new();
    body::encode(ShardId(4), &entries, &mut bytes);
    assert_eq!(bytes.len(), body::encoded_len(&entries));
    let whole = bytes.len();
    bytes.extend_from_slice(b"what follows");
    let bytes = Bytes::from(bytes);
    assert_eq!(body::decode(ShardId(4), &bytes), Ok((entries, whole)));
    assert!(body::decode(ShardId(5), &bytes).is_err(), "an entry of another group");
    for cut in 0..whole {
        assert!(body::decode(ShardId(4), &bytes.slice(..cut)).is_err(), "cut at {cut}");
    }
    for at in 0..whole {
        let mut flipped = bytes.to_vec();
        flipped[at] ^= 1;
        assert!(body::decode(ShardId(4), &Bytes::from(flipped)).is_err(), "flipped at {at}");
    }
}
