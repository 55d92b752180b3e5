//! A short list that costs nothing while it has one element.
//!
//! A million groups each have lines and tags, and nearly all have one of each: a `Vec` would be an allocation for it.

use std::ops::{Deref, DerefMut};

/// None, one or many.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) enum Few<T> {
    #[default]
    None,
    One(T),
    /// Invariant: two or more.
    Many(Vec<T>),
}

impl<T> Few<T> {
    /// Inserts before position `at`.
    pub(super) fn insert(&mut self, at: usize, value: T) {
        *self = match std::mem::take(self) {
            Self::None => Self::One(value),
            Self::One(one) if at == 0 => Self::Many(vec![value, one]),
            Self::One(one) => Self::Many(vec![one, value]),
            Self::Many(mut many) => {
                many.insert(at, value);
                Self::Many(many)
            }
        };
    }

    /// Removes the element at `at`.
    pub(super) fn remove(&mut self, at: usize) {
        *self = match std::mem::take(self) {
            Self::None | Self::One(_) => Self::None,
            Self::Many(mut many) => {
                many.remove(at);
                if many.len() == 1 { many.pop().map_or(Self::None, Self::One) } else { Self::Many(many) }
            }
        };
    }

    /// Replaces all elements.
    pub(super) fn replace(&mut self, values: impl Iterator<Item = T>) {
        let mut values = values.peekable();
        *self = Self::None;
        if let Some(first) = values.next() {
            *self = if values.peek().is_none() {
                Self::One(first)
            } else {
                Self::Many(std::iter::once(first).chain(values).collect())
            };
        }
    }
}

impl<T> Deref for Few<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match self {
            Self::None => &[],
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }
}

impl<T> DerefMut for Few<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        match self {
            Self::None => &mut [],
            Self::One(one) => std::slice::from_mut(one),
            Self::Many(many) => many,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Few;

    #[test]
    fn few_are_a_list() {
        let mut few = Few::default();
        let mut list = Vec::new();
        for (at, value) in [(0, 5), (0, 3), (2, 9), (1, 4)] {
            few.insert(at, value);
            list.insert(at, value);
            assert_eq!(*few, *list);
        }
        for at in [3, 0, 1, 0] {
            few.remove(at);
            list.remove(at);
            assert_eq!(*few, *list);
        }
        assert_eq!(few, Few::None);
        for wanted in [vec![], vec![7], vec![7, 8]] {
            few.replace(wanted.iter().copied());
            assert_eq!(*few, *wanted);
        }
    }
}
