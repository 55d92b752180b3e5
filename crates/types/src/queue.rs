//! Queue names: what is accepted, and why a name is refused.

use std::fmt;
use std::sync::Arc;

use crate::limits::QUEUE_NAME_BYTES_MAX;

/// A valid queue name: 1 to 255 bytes of UTF-8 without control characters; `/` separates levels.
///
/// Invariant: `validate` accepts the inner string.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueName(Arc<str>);

/// Why a string is not a queue name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidQueueName {
    /// The name is empty.
    #[error("queue name is empty; give 1 to {QUEUE_NAME_BYTES_MAX} bytes, for example \"acme/emails\"")]
    Empty,
    /// The name is too long.
    #[error("queue name has {0} bytes; the limit is {QUEUE_NAME_BYTES_MAX}")]
    TooLong(usize),
    /// The name holds a control character.
    #[error("queue name has the control character U+{0:04X} at byte {1}; use printable characters only")]
    Control(u32, usize),
}

impl QueueName {
    /// Returns `name` as a queue name.
    ///
    /// # Errors
    /// `Invalid` if the name is empty, longer than 255 bytes, or holds a control character.
    pub fn new(name: &str) -> Result<Self, InvalidQueueName> {
        Self::validate(name)?;
        Ok(Self(name.into()))
    }

    /// Checks a name without keeping it.
    ///
    /// # Errors
    /// As [`QueueName::new`].
    pub fn validate(name: &str) -> Result<(), InvalidQueueName> {
        if name.is_empty() {
            return Err(InvalidQueueName::Empty);
        }
        if name.len() > QUEUE_NAME_BYTES_MAX {
            return Err(InvalidQueueName::TooLong(name.len()));
        }
        match name.char_indices().find(|(_, c)| c.is_control()) {
            Some((at, c)) => Err(InvalidQueueName::Control(c as u32, at)),
            None => Ok(()),
        }
    }

    /// Returns the name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for QueueName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_accepted_or_refused_with_the_reason() {
        assert!(QueueName::new("acme/emails").is_ok());
        assert!(QueueName::new("größe ✓").is_ok());
        assert_eq!(QueueName::new(""), Err(InvalidQueueName::Empty));
        assert_eq!(QueueName::new(&"x".repeat(256)), Err(InvalidQueueName::TooLong(256)));
        assert_eq!(QueueName::new("a\tb"), Err(InvalidQueueName::Control(9, 1)));
        assert_eq!(QueueName::new("a\u{85}"), Err(InvalidQueueName::Control(0x85, 1)));
    }
}
