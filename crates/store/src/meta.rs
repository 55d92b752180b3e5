//! What the base knows of a group besides its rows. Bytes: `docs/FORMATS.md`, "Base", "Tables".

use z4_types::{Index, Term};

/// The newest version of a meta record.
pub(crate) const RECORD_VERSION: u8 = 1;

/// How far a group's rows have come.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Meta {
    /// Index of the last entry the rows contain; 0 for none.
    pub applied: Index,
    /// Term of that entry.
    pub term: Term,
    /// Rolling digest of all mutations up to it: equal histories have equal digests.
    pub digest: u64,
    /// The group's membership in the consensus engine's encoding; opaque here.
    pub conf: Vec<u8>,
}

/// Rows of one group in the base, for estimates.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
}

/// Why a record cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Undecodable {
    Newer(u8),
    Malformed,
}

pub(crate) fn encode_meta(meta: &Meta, size: Size) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(45 + meta.conf.len());
    bytes.push(RECORD_VERSION);
    for field in [meta.applied.0, meta.term.0, meta.digest, size.rows, size.bytes] {
        bytes.extend_from_slice(&field.to_le_bytes());
    }
    put_bytes(&mut bytes, &meta.conf);
    bytes
}

pub(crate) fn decode_meta(bytes: &[u8]) -> Result<(Meta, Size), Undecodable> {
    let mut rest = body(bytes)?;
    let mut field = || -> Result<u64, Undecodable> {
        let (head, tail) = rest.split_first_chunk::<8>().ok_or(Undecodable::Malformed)?;
        rest = tail;
        Ok(u64::from_le_bytes(*head))
    };
    let (applied, term, digest, rows, bytes) = (field()?, field()?, field()?, field()?, field()?);
    let conf = take_bytes(rest)?.to_vec();
    Ok((Meta { applied: Index(applied), term: Term(term), digest, conf }, Size { rows, bytes }))
}

fn body(bytes: &[u8]) -> Result<&[u8], Undecodable> {
    match bytes.split_first() {
        Some((&RECORD_VERSION, rest)) => Ok(rest),
        Some((&version, _)) if version > RECORD_VERSION => Err(Undecodable::Newer(version)),
        _ => Err(Undecodable::Malformed),
    }
}

fn put_bytes(to: &mut Vec<u8>, bytes: &[u8]) {
    let len = u32::try_from(bytes.len()).expect("a membership is far below 4 GiB");
    to.extend_from_slice(&len.to_le_bytes());
    to.extend_from_slice(bytes);
}

/// Reads the last field of a record: nothing may follow it.
fn take_bytes(rest: &[u8]) -> Result<&[u8], Undecodable> {
    let (len, bytes) = rest.split_first_chunk::<4>().ok_or(Undecodable::Malformed)?;
    if u32::from_le_bytes(*len) as usize == bytes.len() { Ok(bytes) } else { Err(Undecodable::Malformed) }
}

/// The state digest of a group. See FORMATS.md for the exact fold.
pub(crate) mod digest {
    use xxhash_rust::xxh3::xxh3_64;

    pub(crate) const INSERT: u64 = 1;
    pub(crate) const PUT: u64 = 2;
    pub(crate) const DELETE: u64 = 3;

    #[inline]
    pub(crate) fn fold(digest: u64, with: u64) -> u64 {
        (digest ^ with).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29)
    }

    #[inline]
    pub(crate) fn mutation(digest: u64, kind: u64, key: &[u8], value: Option<&[u8]>) -> u64 {
        let digest = fold(fold(digest, kind | (key.len() as u64) << 8), xxh3_64(key));
        value.map_or(digest, |value| fold(digest, xxh3_64(value)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_meta_record_has_its_golden_bytes_and_reads_back() {
        let meta =
            Meta { applied: Index(0x0102), term: Term(3), digest: 0xA1B2_C3D4_E5F6_0718, conf: vec![7, 8] };
        let size = Size { rows: 5, bytes: 600 };
        let bytes = encode_meta(&meta, size);
        #[rustfmt::skip]
        let golden = [
            1,
            2, 1, 0, 0, 0, 0, 0, 0,
            3, 0, 0, 0, 0, 0, 0, 0,
            0x18, 0x07, 0xF6, 0xE5, 0xD4, 0xC3, 0xB2, 0xA1,
            5, 0, 0, 0, 0, 0, 0, 0,
            88, 2, 0, 0, 0, 0, 0, 0,
            2, 0, 0, 0, 7, 8,
        ];
        assert_eq!(bytes, golden);
        assert_eq!(decode_meta(&bytes), Ok((meta, size)));
    }

    #[test]
    fn a_newer_or_malformed_record_is_told_apart() {
        assert_eq!(decode_meta(&[2, 0]), Err(Undecodable::Newer(2)));
        assert_eq!(decode_meta(&[1, 0]), Err(Undecodable::Malformed));
        assert_eq!(decode_meta(&[]), Err(Undecodable::Malformed));
        let mut long = encode_meta(&Meta::default(), Size::default());
        long.push(0);
        assert_eq!(decode_meta(&long), Err(Undecodable::Malformed));
    }

    #[test]
    fn the_digest_has_its_golden_value_and_tells_order_and_kind() {
        let one = digest::mutation(0, digest::INSERT, b"a", Some(b"1"));
        let two = digest::mutation(one, digest::DELETE, b"a", None);
        assert_ne!(one, digest::mutation(0, digest::PUT, b"a", Some(b"1")));
        assert_ne!(
            two,
            digest::mutation(
                digest::mutation(0, digest::DELETE, b"a", None),
                digest::INSERT,
                b"a",
                Some(b"1")
            )
        );
        assert_eq!(digest::fold(two, 1), 204_947_836_165_703_719);
    }
}
