//! The working set of `z4-store` as the rows `z4-tasks` asks for.

use std::borrow::Cow;

use z4_store::{GroupStore, View};
use z4_tasks::{Fault, Read, Store};

/// A group's rows, to read and change.
pub struct Rows<'a>(pub &'a mut GroupStore);

/// A group's rows, to read.
pub struct RowsRef<'a>(pub &'a GroupStore);

/// A group's rows at one point, to read from any thread.
pub struct ViewRows<'a>(pub &'a View);

/// A storage error is never an answer of the state machine; its kind tells a reader whether to try again.
fn fault(error: z4_store::Error) -> Fault {
    Fault { kind: error.kind(), what: error.to_string() }
}

macro_rules! read {
    ($name:ident) => {
        impl Read for $name<'_> {
            fn get(&self, key: &[u8]) -> Result<Option<Cow<'_, [u8]>>, Fault> {
                self.0.get(key).map_err(fault)
            }

            fn scan(
                &self,
                from: &[u8],
                to: &[u8],
                visit: &mut (dyn FnMut(&[u8], &[u8]) -> bool + '_),
            ) -> Result<(), Fault> {
                self.0.scan(from, to, visit).map_err(fault)
            }

            fn get_many(&self, keys: &[&[u8]], found: &mut dyn FnMut(usize, &[u8])) -> Result<(), Fault> {
                self.0.get_many(keys, found).map_err(fault)
            }
        }
    };
}

read!(Rows);
read!(RowsRef);
read!(ViewRows);

impl Store for Rows<'_> {
    fn insert(&mut self, key: &[u8], value: &[u8]) {
        self.0.insert(key, value);
    }

    fn put(&mut self, key: &[u8], value: &[u8]) {
        self.0.put(key, value);
    }

    fn delete(&mut self, key: &[u8]) {
        self.0.delete(key);
    }
}
