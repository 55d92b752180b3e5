//! A few whole seeds: no promise is broken, and the same seed gives the same digest.

#![cfg(not(any(
    feature = "bug-ok-before-fsync",
    feature = "bug-applied-not-in-checkpoint",
    feature = "bug-torn-tail-accepted",
    feature = "bug-recycle-early",
    feature = "bug-dedup-lost-at-restart"
)))]

use z4_sim::world;

#[test]
fn seeds_keep_every_promise_and_replay_to_the_same_digest() {
    for seed in 1..=4 {
        let first = world::run(seed, false);
        assert_eq!(first.violation, None, "seed {seed}");
        assert!(first.boots > 1 && first.tasks > 0, "seed {seed} shows something");
        assert_eq!(world::run(seed, false).digest, first.digest, "seed {seed} replays");
    }
}
