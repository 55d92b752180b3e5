//! Counters of the log and the order of tasks.

use std::fmt;

macro_rules! counter {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl $name {
            /// Returns the one after this.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

counter! {
    /// Position of an entry in a shard's log; the first entry is 1, 0 is "before the log".
    Index
}
counter! {
    /// Raft term; 0 is "before the first election".
    Term
}

/// Order between due tasks of one queue: lower goes first. Default 128.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Priority(pub u8);

impl Default for Priority {
    /// The middle, so that both more and less urgent work can be named later.
    fn default() -> Self {
        Self(128)
    }
}
