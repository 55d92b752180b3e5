//! A delay that spreads schedules of equal times: drawn once a slot, from nothing but the slot and a name.

use xxhash_rust::xxh3::xxh3_64_with_seed;
use z4_types::{Duration, Millis};

/// Returns a delay from zero to `max`, both included, for the slot of the schedule called `name`.
///
/// It is a hash, not chance: every leader, every replay and every version answers the same for the same name, slot and
/// maximum. Different names spread evenly over the same slot, and one name over its slots. A delay longer than the
/// time between two slots moves tasks past the next slot, so callers keep `max` below it.
#[must_use]
pub fn jitter(name: &str, slot: Millis, max: Duration) -> Duration {
    let hash = xxh3_64_with_seed(name.as_bytes(), slot.0);
    // The high half of a product: even over 0..=max, where a remainder would favour small delays.
    let scaled = (u128::from(hash) * (u128::from(max.0) + 1)) >> 64;
    Duration(u64::try_from(scaled).expect("the high half of a product with at most 2^64"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delay_is_within_its_maximum_even_and_the_same_for_ever() {
        let max = Duration(9);
        let mut seen = [0_u32; 10];
        for slot in 0..10_000 {
            let delay = jitter("nightly", Millis(slot * 60_000), max);
            seen[usize::try_from(delay.0).expect("small")] += 1;
        }
        assert!(seen.iter().all(|count| (850..1_150).contains(count)), "{seen:?}");
        assert_eq!(jitter("nightly", Millis(0), Duration(0)), Duration(0));
        assert!(jitter("a", Millis(u64::MAX), Duration(u64::MAX)) <= Duration(u64::MAX));
        // These values must never change: a slot's delay is worked out again by the next leader.
        let minute = Duration::from_secs(60);
        let slot = Millis(1_774_746_000_000);
        assert_eq!(jitter("nightly", slot, minute), Duration(NIGHTLY));
        assert_eq!(jitter("hourly", slot, minute), Duration(HOURLY));
    }

    // Worked out with python-xxhash.
    const NIGHTLY: u64 = 18_069;
    const HOURLY: u64 = 27_749;
}
