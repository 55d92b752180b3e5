//! Key ranges known to be empty, so that a scan which starts at the head of a queue does not wade through what was
//! taken from there before.
//!
//! Two uses. Of the merged rows: everything from the queue's start to its first live row is tombstones; this stays true
//! until somebody writes a row in there, whatever layers and checkpoints do. Of one base snapshot: no row at all in the
//! range, so redb need not be asked; true as long as the snapshot lives.

use std::collections::BTreeMap;
use std::ops::Bound::{Included, Unbounded};

use crate::delta::Key;

/// Gaps remembered. Past it all are forgotten: they are a short cut, not a truth anyone needs.
const GAPS_MAX: usize = 256;

/// Disjoint empty ranges: start (included) to end (excluded, `None` for no end).
#[derive(Default)]
pub(crate) struct Gaps(BTreeMap<Key, Option<Key>>);

impl Gaps {
    /// Returns the end of the gap around `key`, if there is one.
    pub(crate) fn end(&self, key: &[u8]) -> Option<Option<&[u8]>> {
        let (_, end) = self.around(key)?;
        Some(end.map(Key::as_slice))
    }

    fn around(&self, key: &[u8]) -> Option<(&Key, Option<&Key>)> {
        if self.0.is_empty() {
            return None;
        }
        let (start, end) = self.0.range::<[u8], _>((Unbounded, Included(key))).next_back()?;
        end.as_ref().is_none_or(|end| key < end.as_slice()).then_some((start, end.as_ref()))
    }

    /// Remembers that nothing lies in `from..to`.
    pub(crate) fn add(&mut self, from: &[u8], to: Option<&[u8]>) {
        if to.is_some_and(|to| to <= from) {
            return;
        }
        let mut end = to.map(Key::new);
        // A gap that reaches `from` grows; gaps that begin inside the new one are swallowed.
        let touching = self.0.range::<[u8], _>((Unbounded, Included(from))).next_back();
        let start = match touching {
            Some((start, old)) if old.as_ref().is_none_or(|old| old.as_slice() >= from) => start.clone(),
            _ => Key::new(from),
        };
        while let Some((at, old)) = self.0.range::<[u8], _>((Included(start.as_slice()), Unbounded)).next() {
            if end.as_ref().is_some_and(|end| at > end) {
                break;
            }
            let (at, old) = (at.clone(), old.clone());
            end = match (end, old) {
                (Some(one), Some(other)) => Some(one.max(other)),
                _ => None,
            };
            self.0.remove(&at);
        }
        if self.0.len() >= GAPS_MAX {
            self.0.clear();
        }
        self.0.insert(start, end);
    }

    /// A row appears at `key`: the gap around it now ends there.
    #[inline]
    pub(crate) fn cut(&mut self, key: &[u8]) {
        let Some((start, _)) = self.around(key) else { return };
        let start = start.clone();
        if start.as_slice() == key {
            self.0.remove(&start);
        } else {
            self.0.insert(start, Some(Key::new(key)));
        }
    }
}

#[cfg(test)]
mod tests {
    use z4_env::{Rng, SeededRng};

    use super::*;

    #[test]
    fn gaps_equal_a_naive_set_of_empty_keys() {
        let mut rng = SeededRng::new(7);
        for _ in 0..200 {
            let mut gaps = Gaps::default();
            let mut empty = [false; 256];
            for _ in 0..100 {
                let (a, b) = (rng.below(256) as u8, rng.below(256) as u8);
                match rng.below(4) {
                    0 => {
                        gaps.cut(&[a]);
                        // A gap only keeps what lies before the row.
                        let mut at = usize::from(a);
                        while at < 256 && empty[at] {
                            empty[at] = false;
                            at += 1;
                        }
                    }
                    1 if rng.below(8) == 0 => {
                        gaps.add(&[a], None);
                        empty[usize::from(a)..].fill(true);
                    }
                    _ if a < b => {
                        gaps.add(&[a], Some(&[b]));
                        empty[usize::from(a)..usize::from(b)].fill(true);
                    }
                    _ => {}
                }
                for key in 0..=255u8 {
                    let expected = empty[usize::from(key)]
                        .then(|| (usize::from(key)..256).find(|at| !empty[*at]).map(|at| vec![at as u8]));
                    let found = gaps.end(&[key]).map(|end| end.map(<[u8]>::to_vec));
                    // A gap that ends at the last key and one without end look the same to the naive set.
                    assert_eq!(found.is_some(), expected.is_some(), "key {key}");
                    if let (Some(Some(found)), Some(Some(expected))) = (&found, &expected) {
                        assert_eq!(found, expected);
                    }
                }
            }
        }
    }
}
