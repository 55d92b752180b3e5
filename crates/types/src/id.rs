//! Identifiers: of tasks, leases, shards, hosts, clusters and requests.
//!
//! A task id is 128 bits, most significant first: 48 bits of shard time in milliseconds at creation, 24 bits of
//! shard, 56 bits of a counter that the shard never resets. So ids sort by creation within a shard (nearly so
//! across shards), and name their shard without a look-up. Printed as 26 characters of Crockford base 32 in lower
//! case, which sort like the number. Source of the text form: ULID.

use std::fmt;
use std::str::FromStr;

use crate::Millis;

const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const TEXT_LEN: usize = 26;
const SHARD_BITS: u32 = 24;
const COUNTER_BITS: u32 = 56;

/// The id of a task. See the module essay for its layout.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId(pub u128);

/// Identifies one lease. Grows with every delivery of a shard, so a later lease always has a larger token.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

/// One Raft group and its data. Shard 0 is the registry. Invariant: fits 24 bits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(pub u32);

/// A random number drawn when the cluster was formed; data of another cluster is refused by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(pub u128);

/// The operator's stable name of a host (`Z4_PEER_ID`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostId(pub String);

/// The client's name for one create, already reduced to 128 bits; equal ids within the window make one task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u128);

/// Why a text is not a task id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseIdError {
    /// Not 26 characters.
    #[error("a task id has {TEXT_LEN} characters, this one has {0}")]
    Length(usize),
    /// A character outside the alphabet.
    #[error("a task id holds digits and letters without i, l, o and u; found {0:?} at position {1}")]
    Character(char, usize),
    /// More than 128 bits.
    #[error("a task id starts with a digit from 0 to 7")]
    Overflow,
}

impl TaskId {
    /// Returns the id of the `counter`-th task of `shard`, created at `now`.
    ///
    /// # Panics
    /// If `shard` does not fit 24 bits, `counter` 56 bits, or `now` 48 bits: a shard cannot reach either.
    #[must_use]
    pub fn new(now: Millis, shard: ShardId, counter: u64) -> Self {
        assert!(now.0 < 1 << 48, "shard time fits 48 bits until the year 10889");
        assert!(shard.0 < 1 << SHARD_BITS, "the registry numbers shards below 2^24");
        assert!(counter < 1 << COUNTER_BITS, "2^56 tasks of one shard");
        Self(
            (u128::from(now.0) << (SHARD_BITS + COUNTER_BITS))
                | (u128::from(shard.0) << COUNTER_BITS)
                | u128::from(counter),
        )
    }

    /// Returns the shard time at which the task was created.
    #[must_use]
    pub fn created_at(self) -> Millis {
        Millis((self.0 >> (SHARD_BITS + COUNTER_BITS)) as u64)
    }

    /// Returns the shard that holds the task.
    #[must_use]
    pub fn shard(self) -> ShardId {
        ShardId(((self.0 >> COUNTER_BITS) as u32) & ((1 << SHARD_BITS) - 1))
    }

    /// Returns the task's number within its shard.
    #[must_use]
    pub fn counter(self) -> u64 {
        (self.0 as u64) & ((1 << COUNTER_BITS) - 1)
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0u8; TEXT_LEN];
        let mut rest = self.0;
        for slot in text.iter_mut().rev() {
            *slot = ALPHABET[(rest & 31) as usize];
            rest >>= 5;
        }
        f.write_str(std::str::from_utf8(&text).expect("the alphabet is ASCII"))
    }
}

impl FromStr for TaskId {
    type Err = ParseIdError;

    /// Reads either case.
    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        if text.len() != TEXT_LEN {
            return Err(ParseIdError::Length(text.chars().count()));
        }
        let mut value: u128 = 0;
        for (at, byte) in text.bytes().enumerate() {
            let digit = DIGITS[byte as usize];
            if digit == NO_DIGIT {
                let found = text.get(at..).and_then(|t| t.chars().next()).unwrap_or('\u{fffd}');
                return Err(ParseIdError::Character(found, at));
            }
            if at == 0 && digit > 7 {
                return Err(ParseIdError::Overflow);
            }
            value = (value << 5) | u128::from(digit);
        }
        Ok(Self(value))
    }
}

const NO_DIGIT: u8 = 255;

/// The value of each byte as a digit, or `NO_DIGIT`.
static DIGITS: [u8; 256] = {
    let mut table = [NO_DIGIT; 256];
    let mut value = 0;
    while value < 32 {
        let letter = ALPHABET[value];
        table[letter as usize] = value as u8;
        table[letter.to_ascii_uppercase() as usize] = value as u8;
        value += 1;
    }
    table
};

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Display for HostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_id_names_time_shard_and_counter_and_survives_text() {
        let id = TaskId::new(Millis(1_700_000_000_123), ShardId(77), 123_456_789);
        assert_eq!(
            (id.created_at(), id.shard(), id.counter()),
            (Millis(1_700_000_000_123), ShardId(77), 123_456_789)
        );
        let text = id.to_string();
        assert_eq!(text.len(), 26);
        assert_eq!(text.parse(), Ok(id));
        assert_eq!(text.to_uppercase().parse(), Ok(id));
        assert_eq!(TaskId(u128::MAX).to_string().parse(), Ok(TaskId(u128::MAX)));
    }

    #[test]
    fn task_ids_sort_by_creation_as_number_and_as_text() {
        let (a, b) = (TaskId::new(Millis(1), ShardId(9), 5), TaskId::new(Millis(2), ShardId(1), 6));
        assert!(a < b && a.to_string() < b.to_string());
    }

    #[test]
    fn a_malformed_task_id_is_refused_with_the_reason() {
        assert_eq!("abc".parse::<TaskId>(), Err(ParseIdError::Length(3)));
        assert_eq!("0".repeat(25).append("u").parse::<TaskId>(), Err(ParseIdError::Character('u', 25)));
        assert_eq!("8".repeat(26).parse::<TaskId>(), Err(ParseIdError::Overflow));
        assert!("ééééééééééééé".parse::<TaskId>().is_err());
    }

    trait Append {
        fn append(self, tail: &str) -> String;
    }
    impl Append for String {
        fn append(mut self, tail: &str) -> String {
            self.push_str(tail);
            self
        }
    }
}
