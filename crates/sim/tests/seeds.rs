//! A few whole seeds: no promise is broken, and the same seed gives the same digest.

#![cfg(not(any(
    feature = "bug-ok-before-fsync",
    feature = "bug-applied-not-in-checkpoint",
    feature = "bug-torn-tail-accepted",
    feature = "bug-recycle-early",
    feature = "bug-dedup-lost-at-restart",
    feature = "bug-group-limits-forgotten",
    feature = "bug-serial-group-overlaps",
    feature = "bug-fire-takes-any-slot",
    feature = "bug-blocked-task-runs",
    feature = "bug-vote-forgotten",
    feature = "bug-stale-read",
    feature = "bug-snapshot-keeps-old-rows",
    feature = "bug-snapshot-without-hard-state",
    feature = "bug-snapshot-record-before-rows",
    feature = "bug-commit-old-term",
    feature = "bug-lease-granted-twice"
)))]

use z4_sim::{cluster, world};

#[test]
fn seeds_keep_every_promise_and_replay_to_the_same_digest() {
    for seed in 1..=4 {
        let first = world::run(seed, false);
        assert_eq!(first.violation, None, "seed {seed}");
        assert!(first.boots > 1 && first.tasks > 0, "seed {seed} shows something");
        assert_eq!(world::run(seed, false).digest, first.digest, "seed {seed} replays");
    }
}

#[test]
fn clusters_keep_every_promise_and_replay_to_the_same_digest() {
    for seed in 1..=3 {
        let first = cluster::run(seed, false);
        assert_eq!(first.violation, None, "seed {seed}");
        assert!(first.facts > 0 && first.boots >= first.hosts, "seed {seed} shows something");
        assert_eq!(cluster::run(seed, false).digest, first.digest, "seed {seed} replays");
    }
}
