//! Chance: request ids and jitter, from the keys the standard library draws from the operating system.
//!
//! SipHash under a random key is a pseudo-random function, so hashing a counter gives numbers nobody else draws.
//! Not for secrets.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

static KEY: OnceLock<RandomState> = OnceLock::new();
static COUNTER: AtomicU64 = AtomicU64::new(0);

fn draw() -> (u64, u64) {
    let key = KEY.get_or_init(RandomState::new);
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    (key.hash_one((number, 0u8)), key.hash_one((number, 1u8)))
}

/// Returns a fresh 128-bit request id as 32 hexadecimal digits.
#[must_use]
pub fn request_id() -> String {
    let (high, low) = draw();
    format!("{high:016x}{low:016x}")
}

/// Returns a number below `bound`, or 0 if that is 0.
pub(crate) fn below(bound: u64) -> u64 {
    ((u128::from(draw().0) * u128::from(bound)) >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_ids_are_32_hex_digits_and_differ() {
        let ids: std::collections::BTreeSet<String> = (0..1_000).map(|_| request_id()).collect();
        assert_eq!(ids.len(), 1_000);
        assert!(ids.iter().all(|id| id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit())));
    }
}
