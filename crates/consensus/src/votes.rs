//! When to campaign: a timeout drawn anew for each election, from a seed.
//!
//! The engine draws from a generator of its own, which no seed reaches. So its draw is overwritten before every tick, the
//! only moment it is looked at. Two replicas that split a vote draw different timeouts for the next term almost surely.

/// Ticks without a leader before an election; a tick is the driver's (100 ms on real hosts).
pub(crate) const ELECTION_TICKS: usize = 10;
/// Timeouts are drawn from so many ticks on from there. Few, because nobody writes meanwhile; enough that hosts, whose
/// ticks fall at different moments, seldom start together.
const SPREAD_TICKS: u64 = 6;

/// Returns the election timeout in ticks for this replica, term and attempt.
pub(crate) fn election_timeout(seed: u64, replica: u64, term: u64, attempt: u64) -> usize {
    let mut hash = seed;
    for part in [replica, term, attempt] {
        hash = mix(hash ^ mix(part));
    }
    let draw = usize::try_from(hash % SPREAD_TICKS).expect("below a usize");
    ELECTION_TICKS + draw
}

/// The finalizer of splitmix64.
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_stay_in_range_and_differ_between_replicas_for_some_term_soon() {
        for seed in 0..50 {
            let draws =
                |replica| (1..20).map(|term| election_timeout(seed, replica, term, 0)).collect::<Vec<_>>();
            let (one, two) = (draws(1), draws(2));
            assert!(one.iter().all(|t| (ELECTION_TICKS..2 * ELECTION_TICKS).contains(t)));
            let apart = one.iter().zip(&two).position(|(a, b)| a != b);
            assert!(apart.is_some_and(|terms| terms < 5), "seed {seed}: {one:?} {two:?}");
        }
    }
}
