//! Reading layers and base as one: the newest word on a key wins.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::btree_map::Range;

use crate::base::Cursor;
use crate::delta::{Key, Layer, Slot};
use crate::{Error, Visit};

/// Rows stepped over before a cursor seeks anew: a step costs about a tenth of a seek.
const STEPS_MAX: usize = 10;
/// Hidden rows at the head of a scan that are worth remembering.
const HIDDEN_MIN: usize = 4;

/// What lies under the layers, with the reader's short cuts.
pub(crate) trait Below {
    /// Returns whether the base is known, without asking it, not to hold `key`.
    fn absent(&self, key: &[u8]) -> bool;
    /// Reads one row of the base.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error>;
    /// Returns a cursor at the first base row not before `from`; `None` if there is none before `to` (`None`: the end).
    fn cursor(&self, from: &[u8], to: Option<&[u8]>) -> Result<Option<Cursor>, Error>;
    /// Returns a cursor behind `key`, after the last one failed with `error`; or the error, if there is no way on.
    fn resume(&self, error: Error, key: &[u8]) -> Result<Cursor, Error>;
    /// Takes note that no row is visible in `from..to`.
    fn dead(&self, from: &[u8], to: Option<&[u8]>);
}

/// Reads one row. `layers` are newest first.
pub(crate) fn get<'l>(
    layers: impl Iterator<Item = &'l Layer>,
    below: &impl Below,
    key: &[u8],
) -> Result<Option<Cow<'l, [u8]>>, Error> {
    if let Some(slot) = find(layers, key) {
        return Ok(slot.value().map(Cow::Borrowed));
    }
    if below.absent(key) {
        return Ok(None);
    }
    Ok(below.get(key)?.map(Cow::Owned))
}

pub(crate) fn find<'l>(mut layers: impl Iterator<Item = &'l Layer>, key: &[u8]) -> Option<&'l Slot> {
    layers.find_map(|layer| layer.get(key))
}

/// Reads many sorted keys in one pass.
pub(crate) fn get_many<'l, L: Iterator<Item = &'l Layer>>(
    layers: impl Fn() -> L,
    below: &impl Below,
    keys: &[&[u8]],
    found: &mut dyn FnMut(usize, &[u8]),
) -> Result<(), Error> {
    let Some(last) = keys.last() else { return Ok(()) };
    // The least key after the last one.
    let end = [last, &[0][..]].concat();
    let mut walk: Option<Walk> = None;
    for (at, key) in keys.iter().enumerate() {
        debug_assert!(at == 0 || keys[at - 1] <= *key, "get_many takes sorted keys");
        if let Some(slot) = find(layers(), key) {
            if let Some(value) = slot.value() {
                found(at, value);
            }
            continue;
        }
        if below.absent(key) {
            continue;
        }
        let near = match &mut walk {
            Some(walk) => walk.step_to(below, key)?,
            None => false,
        };
        if !near {
            walk = Some(Walk { cursor: below.cursor(key, Some(&end))? });
        }
        let cursor = walk.as_ref().and_then(|walk| walk.cursor.as_ref());
        if let Some(cursor) = cursor.filter(|cursor| cursor.key() == Some(*key)) {
            found(at, cursor.value());
        }
    }
    Ok(())
}

/// Visits the visible rows with `from <= key < to` in order; to the end without `to`. `layers` are newest first.
pub(crate) fn scan<'l>(
    layers: impl Iterator<Item = &'l Layer>,
    below: &impl Below,
    from: &[u8],
    to: Option<&[u8]>,
    visit: &mut Visit<'_>,
) -> Result<(), Error> {
    if to.is_some_and(|to| from >= to) {
        return Ok(());
    }
    let mut sources: Vec<Source<'l>> = layers.map(|layer| Source::new(layer.range(from, to))).collect();
    sources.retain(|source| source.head.is_some());
    let mut base = Walk { cursor: below.cursor(from, to)? };
    let (mut hidden, mut visited) = (0, false);
    loop {
        let layered = sources.iter().filter_map(|source| source.head.map(|(key, _)| key.as_slice())).min();
        let in_base = base.key().filter(|key| to.is_none_or(|to| *key < to));
        let order = match (layered, in_base) {
            (None, None) => break,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(layered), Some(in_base)) => layered.cmp(in_base),
        };
        if order == Ordering::Greater {
            let (key, value) = base.row().expect("the base has the least key");
            if !std::mem::replace(&mut visited, true) && hidden >= HIDDEN_MIN {
                below.dead(from, Some(key));
            }
            if !visit(key, value) {
                return Ok(());
            }
            base.advance(below)?;
            continue;
        }
        if order == Ordering::Equal {
            base.advance(below)?;
        }
        let key = layered.expect("a layer has the least key");
        let mut word: Option<&Slot> = None;
        for source in &mut sources {
            if let Some(slot) = source.take(key) {
                word = word.or(Some(slot));
            }
        }
        match word.expect("some layer had the key").value() {
            None => hidden += 1,
            Some(value) => {
                if !std::mem::replace(&mut visited, true) && hidden >= HIDDEN_MIN {
                    below.dead(from, Some(key));
                }
                if !visit(key, value) {
                    return Ok(());
                }
            }
        }
    }
    if !visited && hidden >= HIDDEN_MIN {
        below.dead(from, to);
    }
    Ok(())
}

struct Source<'l> {
    rows: Range<'l, Key, Slot>,
    head: Option<(&'l Key, &'l Slot)>,
}

impl<'l> Source<'l> {
    fn new(mut rows: Range<'l, Key, Slot>) -> Self {
        let head = rows.next();
        Self { rows, head }
    }

    /// Returns the word on `key`, if the source stands on it, and moves on.
    fn take(&mut self, key: &[u8]) -> Option<&'l Slot> {
        let (_, slot) = self.head.filter(|(at, _)| at.as_slice() == key)?;
        self.head = self.rows.next();
        Some(slot)
    }
}

/// A cursor that survives the base being opened again; `None` at the end.
struct Walk {
    cursor: Option<Cursor>,
}

impl Walk {
    fn key(&self) -> Option<&[u8]> {
        self.cursor.as_ref().and_then(Cursor::key)
    }

    fn row(&self) -> Option<(&[u8], &[u8])> {
        self.cursor.as_ref().and_then(|cursor| Some((cursor.key()?, cursor.value())))
    }

    fn advance(&mut self, below: &impl Below) -> Result<(), Error> {
        let Some(cursor) = &mut self.cursor else { return Ok(()) };
        if let Err(error) = cursor.advance() {
            let resumed = below.resume(error, cursor.key().expect("a cursor at its end does not fail"))?;
            self.cursor = Some(resumed);
        }
        Ok(())
    }

    /// Moves to the first row not before `key`; false if that is too far for steps.
    fn step_to(&mut self, below: &impl Below, key: &[u8]) -> Result<bool, Error> {
        for _ in 0..STEPS_MAX {
            if self.key().is_none_or(|at| at >= key) {
                return Ok(true);
            }
            self.advance(below)?;
        }
        Ok(self.key().is_none_or(|at| at >= key))
    }
}
