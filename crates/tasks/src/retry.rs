//! How long a failed task waits: exponential, capped, with jitter from a hash.
//!
//! Every replica must compute the same wait, so chance comes from a hash of the task and the failure, and the
//! arithmetic is in integers. The jitter only shortens: the cap stays the longest wait, and tasks that failed together
//! still spread out.

use z4_types::{Duration, TaskId};

use crate::command::Retry;

/// Returns the wait after the `failures`-th failure of a task (1 is the first).
pub(crate) fn wait(retry: &Retry, failures: u32, id: TaskId) -> Duration {
    let full = full_wait(retry, failures);
    // u128: a wait of any size times a hundred fits.
    let spread = u128::from(full) * u128::from(retry.jitter_percent.min(100)) / 100;
    let off = u128::from(hash(id, failures)) % (spread + 1);
    Duration(full - u64::try_from(off).expect("at most the wait itself"))
}

/// Returns `initial * multiplier^(failures - 1)`, at most the cap.
fn full_wait(retry: &Retry, failures: u32) -> u64 {
    let cap = u128::from(retry.cap.0);
    let factor = u128::from(retry.multiplier_percent.max(100));
    let mut wait = u128::from(retry.initial.0).min(cap);
    for _ in 1..failures {
        let longer = (wait * factor / 100).min(cap);
        if longer == wait {
            // At the cap, or too small to grow: further failures change nothing, and the loop stays short.
            break;
        }
        wait = longer;
    }
    u64::try_from(wait).expect("at most the cap")
}

/// Mixes task and failure into 64 even bits: splitmix64's finalizer, twice.
fn hash(id: TaskId, failures: u32) -> u64 {
    mix(mix(id.0 as u64 ^ (id.0 >> 64) as u64).wrapping_add(u64::from(failures)))
}

fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(initial: u64, cap: u64, multiplier_percent: u32) -> Retry {
        Retry { initial: Duration(initial), cap: Duration(cap), multiplier_percent, jitter_percent: 0 }
    }

    #[test]
    fn waits_double_up_to_the_cap() {
        let retry = plain(1_000, 10_000, 200);
        let waits: Vec<u64> = (1..=6).map(|failures| wait(&retry, failures, TaskId(1)).0).collect();
        assert_eq!(waits, [1_000, 2_000, 4_000, 8_000, 10_000, 10_000]);
    }

    #[test]
    fn extreme_policies_neither_overflow_nor_loop_long() {
        let wild =
            |initial, cap, percent, failures| wait(&plain(initial, cap, percent), failures, TaskId(7)).0;
        assert_eq!(wild(u64::MAX, u64::MAX, u32::MAX, u32::MAX), u64::MAX);
        assert_eq!(wild(1, u64::MAX, 101, u32::MAX), 1, "one millisecond times 1.01 stays one");
        assert_eq!(wild(1_000, u64::MAX, 101, u32::MAX), u64::MAX);
        assert_eq!(wild(0, 0, 0, u32::MAX), 0);
        assert_eq!(wild(50, 20, 100, 1), 20, "an initial wait over the cap is cut");
    }

    #[test]
    fn jitter_only_shortens_stays_in_bounds_and_spreads() {
        let retry = Retry { jitter_percent: 20, ..plain(1_000, 60_000, 200) };
        let waits: Vec<u64> = (0..1_000).map(|id| wait(&retry, 1, TaskId(id)).0).collect();
        assert!(waits.iter().all(|wait| (800..=1_000).contains(wait)));
        let mut distinct = waits.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert!(distinct.len() > 150, "1000 tasks over 201 values: {}", distinct.len());
        assert_eq!(waits[3], wait(&retry, 1, TaskId(3)).0, "and the same task waits the same everywhere");
    }
}
