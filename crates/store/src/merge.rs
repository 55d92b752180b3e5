//! Reading and writing down several layers as one.

use std::collections::btree_map;
use std::iter::Peekable;

use crate::delta::{Key, LayerRef, Slot};

/// Walks what a set of frozen layers, oldest first, amounts to for the layers below: each key once, ascending, only
/// words that change something.
pub(crate) fn amounts(layers: &[LayerRef]) -> impl Iterator<Item = (&[u8], Amount<'_>)> {
    let sources =
        layers.iter().map(|at| Source { rows: at.layer.rows().peekable(), doubtful: at.doubtful }).collect();
    Amounts { sources }
}

struct Amounts<'l> {
    /// Oldest first.
    sources: Vec<Source<'l>>,
}

struct Source<'l> {
    rows: Peekable<btree_map::Iter<'l, Key, Slot>>,
    doubtful: bool,
}

/// What the base has to do about a key.
pub(crate) enum Amount<'l> {
    /// Add a row the base does not have.
    Insert(&'l [u8]),
    /// Add or replace.
    Put(&'l [u8]),
    /// Remove, if it is there.
    Remove,
}

impl<'l> Iterator for Amounts<'l> {
    type Item = (&'l [u8], Amount<'l>);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let key =
                self.sources.iter_mut().filter_map(|source| source.rows.peek().map(|(key, _)| *key)).min()?;
            let mut sum: Option<(&'l Slot, bool)> = None;
            for source in &mut self.sources {
                let Some((_, slot)) = source.rows.next_if(|(at, _)| *at == key) else { continue };
                sum = match sum {
                    None => Some((slot, slot.is_fresh() && !source.doubtful)),
                    // As `delta::combine`, without taking the values.
                    Some((_, true)) if slot.value().is_none() => None,
                    Some((_, fresh)) => Some((slot, fresh)),
                };
            }
            let Some((slot, fresh)) = sum else { continue };
            let amount = match slot.value() {
                Some(value) if fresh => Amount::Insert(value),
                Some(value) => Amount::Put(value),
                None => Amount::Remove,
            };
            return Some((key.as_slice(), amount));
        }
    }
}
