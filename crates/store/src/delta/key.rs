//! A key that lives inside its tree node when it is short, as almost all are: no allocation, no second cache miss.

use std::borrow::Borrow;
use std::cmp::Ordering;

/// Longest key kept inline: together with the length and the variant it makes 48 bytes.
const INLINE_MAX: usize = 46;

/// An owned key, ordered by its bytes.
#[derive(Clone)]
pub(crate) enum Key {
    Inline { len: u8, bytes: [u8; INLINE_MAX] },
    Heap(Box<[u8]>),
}

impl Key {
    #[inline]
    pub(crate) fn new(key: &[u8]) -> Self {
        if key.len() <= INLINE_MAX {
            let mut bytes = [0; INLINE_MAX];
            bytes[..key.len()].copy_from_slice(key);
            Self::Inline { len: key.len() as u8, bytes }
        } else {
            Self::Heap(key.into())
        }
    }

    #[inline]
    pub(crate) fn as_slice(&self) -> &[u8] {
        match self {
            Self::Inline { len, bytes } => &bytes[..usize::from(*len)],
            Self::Heap(bytes) => bytes,
        }
    }

    /// Returns the bytes held outside of the node.
    pub(crate) fn heap_bytes(len: usize) -> usize {
        if len <= INLINE_MAX { 0 } else { len }
    }
}

impl Borrow<[u8]> for Key {
    #[inline]
    fn borrow(&self) -> &[u8] {
        self.as_slice()
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl Eq for Key {}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Key {
    #[inline]
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_slice().cmp(other.as_slice())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_sort_by_their_bytes_wherever_they_live() {
        assert_eq!(size_of::<Key>(), 48);
        let long = [5; INLINE_MAX + 1];
        let mut keys = [&long[..], &long[..INLINE_MAX], b"", b"a", &[5, 6], &[255]];
        let mut owned: Vec<Key> = keys.iter().map(|key| Key::new(key)).collect();
        keys.sort_unstable();
        owned.sort_unstable();
        assert!(owned.iter().map(Key::as_slice).eq(keys));
    }
}
