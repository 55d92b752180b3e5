//! What a layer says about a key: a value, known to be new or not, or that the row is gone.

/// Longest value kept inline: a slot is 24 bytes either way.
const INLINE_MAX: usize = 22;

/// A layer's word on one key. Fresh means: exists in no lower layer and not in the base.
#[derive(Debug, Clone)]
pub(crate) enum Slot {
    FreshInline(u8, [u8; INLINE_MAX]),
    FreshHeap(Box<[u8]>),
    Inline(u8, [u8; INLINE_MAX]),
    Heap(Box<[u8]>),
    Tombstone,
}

impl Slot {
    #[inline]
    pub(crate) fn new(value: &[u8], fresh: bool) -> Self {
        if value.len() <= INLINE_MAX {
            let mut bytes = [0; INLINE_MAX];
            bytes[..value.len()].copy_from_slice(value);
            let len = value.len() as u8;
            if fresh { Self::FreshInline(len, bytes) } else { Self::Inline(len, bytes) }
        } else if fresh {
            Self::FreshHeap(value.into())
        } else {
            Self::Heap(value.into())
        }
    }

    /// Returns the value, or `None` for a row that is gone.
    #[inline]
    pub(crate) fn value(&self) -> Option<&[u8]> {
        match self {
            Self::FreshInline(len, bytes) | Self::Inline(len, bytes) => Some(&bytes[..usize::from(*len)]),
            Self::FreshHeap(bytes) | Self::Heap(bytes) => Some(bytes),
            Self::Tombstone => None,
        }
    }

    #[inline]
    pub(crate) fn is_fresh(&self) -> bool {
        matches!(self, Self::FreshInline(..) | Self::FreshHeap(_))
    }

    /// Returns the same word with another claim of freshness.
    pub(crate) fn with_fresh(self, fresh: bool) -> Self {
        match (self, fresh) {
            (Self::FreshInline(len, bytes), false) => Self::Inline(len, bytes),
            (Self::FreshHeap(bytes), false) => Self::Heap(bytes),
            (Self::Inline(len, bytes), true) => Self::FreshInline(len, bytes),
            (Self::Heap(bytes), true) => Self::FreshHeap(bytes),
            (same, _) => same,
        }
    }

    /// Returns the bytes held outside of the node.
    #[inline]
    pub(crate) fn heap_bytes(&self) -> usize {
        match self {
            Self::FreshHeap(bytes) | Self::Heap(bytes) => bytes.len(),
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_keeps_its_value_and_stays_small() {
        assert_eq!(size_of::<Slot>(), 24);
        for len in [0, 1, INLINE_MAX, INLINE_MAX + 1, 300] {
            let value = vec![7; len];
            for fresh in [false, true] {
                let slot = Slot::new(&value, fresh);
                assert_eq!(slot.value(), Some(&value[..]));
                assert_eq!(slot.is_fresh(), fresh);
                let turned = slot.with_fresh(!fresh);
                assert_eq!((turned.value(), turned.is_fresh()), (Some(&value[..]), !fresh));
            }
        }
        assert_eq!(Slot::Tombstone.value(), None);
    }
}
